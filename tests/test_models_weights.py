"""Starting a model from a donor: what is used, what stays, what is refused. The files are of the real shapes, written here."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import cxrlib  # noqa: F401  (before timm: see cxrlib._compat)
import timm
from cxrlib.errors import CxrError
from cxrlib.models import build_model
from cxrlib.models.weights import fit_positions, load_encoder, load_safetensors, start_from

SIZES = {"image_size": 32, "patch_size": 8, "in_channels": 1, "width": 24, "depth": 3, "heads": 3}
KINDS = ["vit", "lt_vit", "c_tran", "query2label"]


def model(kind: str = "vit", seed: int = 0, num_classes: int = 4, **changes) -> nn.Module:
    torch.manual_seed(seed)
    made = build_model(kind, {}, num_classes=num_classes, **(SIZES | {"stem": "patch"} | changes))
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made


def assert_equal(state: dict, expected: dict, names) -> None:
    for name in names:
        assert torch.equal(state[name], expected[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_vit_s_weights_start_any_model_but_for_its_own_parts(kind):
    """A ViT with a head of as many classes: even then its head is not the other model's, except a plain ViT's."""
    donor, started = model(seed=1), model(kind, seed=2)
    before = {name: value.clone() for name, value in started.state_dict().items()}
    fresh = load_encoder(started, donor.state_dict(), source="donor")
    own = set() if kind == "vit" else started.own_parts()
    assert fresh == own
    assert_equal(started.state_dict(), donor.state_dict(), [name for name in before if name not in own])
    assert_equal(started.state_dict(), before, own)


def test_a_bare_encoder_and_a_head_of_other_classes_leave_the_head_to_be_started():
    for donor in (model(num_classes=0, seed=1), model(num_classes=7, seed=1)):
        started = model(seed=2)
        head = started.head.weight.clone()
        assert load_encoder(started, donor.state_dict(), source="donor") == {"head.weight", "head.bias"}
        assert torch.equal(started.head.weight, head) and torch.equal(started.norm.weight, donor.norm.weight)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_the_same_kind_is_loaded_whole(kind):
    donor, started = model(kind, seed=1), model(kind, seed=2)
    assert load_encoder(started, donor.state_dict(), source="donor") == set()
    assert_equal(started.state_dict(), donor.state_dict(), donor.state_dict())


def test_a_bare_encoder_takes_a_classifier_s_weights_without_its_head():
    donor, encoder = model(seed=1), model(num_classes=0, seed=2)
    assert load_encoder(encoder, donor.state_dict(), source="donor") == set()
    assert_equal(encoder.state_dict(), donor.state_dict(), encoder.state_dict())


def test_a_file_that_is_scored_must_be_of_the_same_kind(tmp_path):
    """load_safetensors is for a run's own weights: a plain ViT's file is no LT-ViT with random tokens."""
    save_file(model().state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(CxrError, match="label_tokens is missing"):
        load_safetensors(model("lt_vit"), tmp_path / "vit.safetensors")


def test_positions_are_resampled_to_the_model_s_image_size():
    donor, started = model(seed=1), model("lt_vit", seed=2, image_size=(48, 40))
    load_encoder(started, donor.state_dict(), source="donor")
    assert torch.equal(started.pos_embed, fit_positions(donor.state_dict(), (6, 5))["pos_embed"])


def test_every_tensor_of_the_donor_must_be_used_and_every_one_of_the_encoder_be_there():
    state = model(num_classes=0, seed=1).state_dict()
    wrong = {
        "reg_token is unknown": state | {"reg_token": torch.zeros(1, 4, 24)},
        "blocks.3.norm1.weight is unknown": state | {"blocks.3.norm1.weight": torch.zeros(24)},
        "norm.weight is missing": {name: value for name, value in state.items() if name != "norm.weight"},
        "cls_token is missing": {name: value for name, value in state.items() if name != "cls_token"},
        r"patch_embed.proj.weight is \(24, 3, 8, 8\)": state | {"patch_embed.proj.weight": torch.zeros(24, 3, 8, 8)},
    }
    for kind in KINDS:
        for message, faulty in wrong.items():
            with pytest.raises(CxrError, match=message):
                load_encoder(model(kind), faulty, source="donor")
    # Another kind's own parts are no encoder's, and label tokens for other findings are no label tokens of these.
    with pytest.raises(CxrError, match="label_tokens is unknown"):
        load_encoder(model(), model("lt_vit").state_dict(), source="donor")
    with pytest.raises(CxrError, match="does not fit"):
        load_encoder(model("lt_vit", num_classes=5), model("lt_vit").state_dict(), source="donor")


def test_nothing_is_loaded_when_something_does_not_fit():
    started = model("lt_vit", seed=2)
    before = {name: value.clone() for name, value in started.state_dict().items()}
    with pytest.raises(CxrError):
        load_encoder(started, model(depth=4).state_dict(), source="donor")
    assert_equal(started.state_dict(), before, before)


def test_label_tokens_may_start_as_the_donor_s_class_token_with_its_position():
    donor, started = model(num_classes=0, seed=1), model("lt_vit", seed=2, num_classes=500)
    torch.manual_seed(3)
    fresh = load_encoder(started, donor.state_dict(), source="donor", tokens_from_cls=True)
    assert "label_tokens" in fresh
    apart_CD = started.label_tokens[0] - (donor.cls_token + donor.pos_embed[:, :1])[0]
    assert abs(float(apart_CD.mean())) < 1e-3 and 0.019 < float(apart_CD.std()) < 0.021
    assert not torch.equal(started.label_tokens[0, 0], started.label_tokens[0, 1])
    with pytest.raises(CxrError, match="no label tokens"):
        load_encoder(model(), donor.state_dict(), source="donor", tokens_from_cls=True)
    with pytest.raises(CxrError, match="no label tokens"):  # they came with the donor
        load_encoder(started, model("lt_vit", num_classes=500).state_dict(), source="donor", tokens_from_cls=True)


def test_a_file_of_an_mae_starts_a_model_and_its_decoder_stays_unused(tmp_path):
    """As the authors' names have it: a decoder and a mask token beside timm's encoder."""
    donor = model(num_classes=0, seed=1)
    decoder = {
        "mask_token": torch.zeros(1, 1, 16), "decoder_embed.weight": torch.zeros(16, 24), "decoder_pos_embed": torch.zeros(1, 17, 16),
        "decoder_blocks.0.norm1.weight": torch.zeros(16), "decoder_norm.weight": torch.zeros(16), "decoder_pred.bias": torch.zeros(64),
    }  # fmt: skip
    save_file(donor.state_dict() | decoder, tmp_path / "mae.safetensors")
    started = model("lt_vit", seed=2)
    assert start_from(started, str(tmp_path / "mae.safetensors")) == started.own_parts()
    assert torch.equal(started.blocks[2].mlp.fc2.weight, donor.blocks[2].mlp.fc2.weight)


@pytest.mark.parametrize("name", ["vit_small_patch16_224.dino", "vit_base_patch16_224.mae", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"])
def test_timm_s_dino_mae_and_imagenet_start_a_model_by_name(tmp_path, monkeypatch, name):
    """timm reads a file of the real names and widths, but two layers, in place of the hub's; the last has a head."""
    create = timm.create_model
    classes = 1000 if "in1k" in name else 0
    donor = create(name, num_classes=classes, depth=2)
    for parameter in donor.parameters():
        nn.init.normal_(parameter, std=0.1)
    save_file(donor.state_dict(), tmp_path / "model.safetensors")
    overlay = {"file": str(tmp_path / "model.safetensors"), "num_classes": classes}
    monkeypatch.setattr(timm, "create_model", lambda name, **k: create(name, pretrained_cfg_overlay=overlay, depth=2, **k))
    width = donor.embed_dim
    started = build_model(
        "lt_vit", {}, image_size=64, patch_size=16, in_channels=1, num_classes=5, width=width, depth=2, heads=width // 64, stem="patch"
    )
    assert start_from(started, name) == started.own_parts()
    assert torch.equal(started.blocks[1].attn.qkv.weight, donor.blocks[1].attn.qkv.weight)
    assert torch.equal(started.pos_embed, fit_positions(donor.state_dict(), (4, 4))["pos_embed"])
    # Three colours to one grey: the sum over them, as timm does.
    torch.testing.assert_close(started.patch_embed.proj.weight, donor.patch_embed.proj.weight.sum(dim=1, keepdim=True))


def test_unusable_weights_are_one_line(tmp_path):
    with open(tmp_path / "checkpoint.pth", "wb") as file:
        pickle.dump({"model": {}}, file)
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    wrong = {
        "pickled weights can run code": str(tmp_path / "checkpoint.pth"),
        "does not exist": str(tmp_path / "none.safetensors"),
        "is damaged": str(tmp_path / "cut.safetensors"),
        "timm could not load": "vit_gigantic_patch1_7",
    }
    for message, weights in wrong.items():
        with pytest.raises(CxrError, match=message) as told:
            start_from(model(), weights)
        assert "\n" not in str(told.value)
    with pytest.raises(CxrError, match="convolutional stem"):
        start_from(model(width=32, heads=4, stem="conv"), "vit_small_patch16_224.dino")
