"""Distillation: a teacher's logits, stored for the very views that the student makes, and refused for any other."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from tiny_store import tiny_store, tiny_studies

import cxrlib  # noqa: F401  (before timm: see cxrlib._compat)
import timm
from cxrlib import recipes
from cxrlib.blocks import write_blocks
from cxrlib.cli import main
from cxrlib.data import ImageStore, prepare
from cxrlib.data.augment import augment, normalise, to_float
from cxrlib.data.feed import epoch_draws, training_batches
from cxrlib.distillation import LogitStore, Teacher, load_teacher, make_logits
from cxrlib.errors import CxrError
from cxrlib.models import TimmClassifier, build_model
from cxrlib.models.timm_classifier import licence_of
from cxrlib.models.weights import start_from
from cxrlib.training import train
from cxrlib.training.start import start_head_at_prevalence

RECIPE = dataclasses.replace(recipes.mu(), epochs=2)
VIEWS = {"seed": RECIPE.seed, "epochs": 2, "ranges": RECIPE.ranges}


def quick_teacher(store: ImageStore, recipe=RECIPE, seed: int = 0) -> Teacher:
    """An untrained model with a head that says something."""
    torch.manual_seed(seed)
    model = recipe.build(len(store.findings)).eval()
    torch.nn.init.normal_(model.head.weight)
    return Teacher(model, recipe, store.findings, "0" * 64, "vit")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_store(tmp_path_factory.mktemp("data"), n=60)


@pytest.fixture(scope="module")
def rows(store):
    return np.asarray(store.where(split="train_val"))[3:]


@pytest.fixture(scope="module")
def made(store, rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("logits")
    make_logits(store, folder, quick_teacher(store), rows=rows, **VIEWS)
    return folder


def test_the_stored_logits_are_what_the_teacher_says_of_the_students_views(store, rows, made):
    """Batches as training makes them: the same augmented images, shown to the teacher now, give what was stored."""
    logits, teacher = LogitStore.open(made, store, rows, **VIEWS), quick_teacher(store)
    said = []
    for epoch in range(2):
        batches = training_batches(store.images_NYX, store.labels_NC, rows, batch=8, seed=RECIPE.seed, epoch=epoch)
        order = np.random.default_rng([RECIPE.seed, epoch, 0]).permutation(len(rows))
        for number, batch in enumerate(batches):
            img_BIYX, _ = augment(to_float(batch.img_BYX), batch.draws_BK, RECIPE.ranges)
            now_BC = teacher.logits(img_BIYX)
            stored_BC = logits.logits(epoch, rows[order[number * 8 : number * 8 + 8]])
            torch.testing.assert_close(stored_BC, now_BC, atol=2e-3, rtol=2e-3)  # 16 bits
            said.append(now_BC)
    assert torch.cat(said).std(0).min() > 0.05  # the views do differ
    assert not torch.equal(logits.logits(0, rows), logits.logits(1, rows))
    assert (made / "logits.f16").stat().st_size == 2 * 2 * len(rows) * 3


def test_columns_by_name(store, rows, made):
    logits = LogitStore.open(made, store, rows, **VIEWS)
    every = logits.logits(1, rows[:4])
    assert torch.equal(logits.logits(1, rows[:4], ("Hernia", "Mass")), every[:, [2, 0]])
    with pytest.raises(CxrError, match="knows nothing of Edema"):
        logits.logits(0, rows[:2], ("Edema",))
    with pytest.raises(CxrError, match="training rows alone"):
        logits.logits(0, np.asarray(store.where(split="test"))[:2])
    with pytest.raises(CxrError, match="training rows alone"):
        logits.logits(0, np.array([10_000]))


@pytest.mark.parametrize(
    "change, says",
    [
        ({"seed": 1}, "another seed"),
        ({"epochs": 3}, "cover 2 epochs, this run has 3"),
        ({"ranges": RECIPE.ranges._replace(rotation=8)}, "another augmentation"),
        ({"rows": "fewer"}, "other training rows"),
        ({"store": "other"}, "other images"),
    ],
)
def test_mismatched_logits_are_refused(store, rows, made, tmp_path, change, says):
    given = {"store": store, "rows": rows} | VIEWS | change
    if given["rows"] is not rows:
        given["rows"] = rows[1:]
    if given["store"] is not store:
        given["store"] = tiny_store(tmp_path, n=60, seed=1)
    with pytest.raises(CxrError, match=says):
        LogitStore.open(made, given.pop("store"), given.pop("rows"), **given)


def test_other_random_draws_are_refused(store, rows, made, monkeypatch):
    import cxrlib.distillation.logits as module

    monkeypatch.setattr(module, "epoch_draws", lambda n, seed, epoch: 1 - epoch_draws(n, seed=seed, epoch=epoch))
    with pytest.raises(CxrError, match="other random draws"):
        LogitStore.open(made, store, rows, **VIEWS)


def test_fewer_epochs_are_welcome(store, rows, made):
    assert LogitStore.open(made, store, rows, **(VIEWS | {"epochs": 1})).logits(0, rows[:2]).shape == (2, 3)


def test_corrupt_logits_are_refused(store, rows, tmp_path):
    make_logits(store, tmp_path, quick_teacher(store), rows=rows, **VIEWS)
    bits, text = (tmp_path / "logits.f16").read_bytes(), (tmp_path / "logits.json").read_text()
    (tmp_path / "logits.f16").write_bytes(bytes([bits[0] ^ 4]) + bits[1:])
    with pytest.raises(CxrError, match="block 0 of logits.f16 was changed"):
        LogitStore.open(tmp_path, store, rows, **VIEWS)
    (tmp_path / "logits.f16").write_bytes(bits[:-2])
    with pytest.raises(CxrError, match="bytes instead of"):
        LogitStore.open(tmp_path, store, rows, **VIEWS)
    (tmp_path / "logits.f16").unlink()
    with pytest.raises(CxrError, match="logits.f16 is missing"):
        LogitStore.open(tmp_path, store, rows, **VIEWS)
    (tmp_path / "logits.f16").write_bytes(bits)
    meta = json.loads(text)
    meta["findings"] = meta["findings"][::-1]
    (tmp_path / "logits.json").write_text(json.dumps(meta))
    with pytest.raises(CxrError, match="logits.json was changed"):
        LogitStore.open(tmp_path, store, rows, **VIEWS)
    (tmp_path / "logits.json").unlink()
    with pytest.raises(CxrError, match="no finished logits"):
        LogitStore.open(tmp_path, store, rows, **VIEWS)


def test_logits_are_made_once_and_after_a_kill_go_on(store, rows, tmp_path, monkeypatch):
    import cxrlib.distillation.logits as module

    monkeypatch.setattr(module, "BLOCK", 16)
    teacher, shown = quick_teacher(store), []

    class Counting(torch.nn.Module):
        def forward(self, img_BIYX):
            if len(shown) == 4 and stop:
                raise KeyboardInterrupt
            shown.append(len(img_BIYX))
            return teacher.model(img_BIYX)

    counting, stop = teacher._replace(model=Counting()), False
    whole = make_logits(store, tmp_path / "whole", counting, rows=rows, **VIEWS)
    blocks = len(shown)
    assert blocks == 2 * -(-len(rows) // 16)
    assert make_logits(store, tmp_path / "whole", counting, rows=rows, **VIEWS) == whole and len(shown) == blocks
    shown.clear()
    stop = True
    with pytest.raises(KeyboardInterrupt):
        make_logits(store, tmp_path / "cut", counting, rows=rows, **VIEWS)
    with pytest.raises(CxrError, match="no finished logits"):
        LogitStore.open(tmp_path / "cut", store, rows, **VIEWS)
    with pytest.raises(CxrError, match="other settings"):
        make_logits(store, tmp_path / "cut", counting._replace(sha256="1" * 64), rows=rows, **VIEWS)
    shown.clear()
    stop = False
    assert make_logits(store, tmp_path / "cut", counting, rows=rows, **VIEWS) == whole and len(shown) == blocks - 4
    assert (tmp_path / "cut" / "logits.f16").read_bytes() == (tmp_path / "whole" / "logits.f16").read_bytes()
    with pytest.raises(CxrError, match="another teacher or of other views"):
        make_logits(store, tmp_path / "whole", counting._replace(sha256="1" * 64), rows=rows, **VIEWS)


def test_two_processes_never_write_one_file(tmp_path):
    def inner(number):
        with pytest.raises(CxrError, match="another process"):
            write_blocks(tmp_path / "file", job="a", count=1, make=lambda number: (b"x", {}))
        return b"yz", {"note": 7}

    assert write_blocks(tmp_path / "file", job="a", count=1, make=inner)[0]["note"] == 7
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_teacher_may_read_larger_images(store, rows, tmp_path):
    """The same views at another size: matrices and grey changes do not depend on it, so the logits nearly agree."""
    studies = tiny_studies(tmp_path / "raw", n=60)
    large = prepare(studies, tmp_path / "large", size=64)
    big = dataclasses.replace(RECIPE, image_size=64)

    class Brightness(torch.nn.Module):
        """Mean grey of the left and of the right half, and of the whole: what a view's geometry changes."""

        def forward(self, img_BIYX):
            width = img_BIYX.shape[-1] // 2
            halves = [img_BIYX[..., :width], img_BIYX[..., width:], img_BIYX]
            from cxrlib.models.timm_classifier import TimmOutput

            return TimmOutput(torch.stack([half.mean((1, 2, 3)) * 10 for half in halves], 1))

    small_teacher = Teacher(Brightness(), RECIPE, store.findings, "0" * 64, "brightness")
    make_logits(store, tmp_path / "small", small_teacher, rows=rows, **VIEWS)
    make_logits(store, tmp_path / "big", small_teacher._replace(recipe=big), rows=rows, images=large, **VIEWS)
    a, b = (LogitStore.open(tmp_path / name, store, rows, **VIEWS).logits(1, rows) for name in ("small", "big"))
    assert (a - b).abs().max() < 0.25 < a.std(0).min()
    with pytest.raises(CxrError, match="--size 64"):
        make_logits(store, tmp_path / "no", small_teacher._replace(recipe=big), rows=rows, **VIEWS)
    other = prepare(studies.subset(np.arange(50)), tmp_path / "other", size=64)
    with pytest.raises(CxrError, match="other images"):
        make_logits(store, tmp_path / "no", small_teacher._replace(recipe=big), rows=rows, images=other, **VIEWS)


@pytest.mark.parametrize("wrong", ["nan", "inf", "-inf"])
def test_a_broken_teacher_is_refused(store, rows, tmp_path, wrong):
    teacher = quick_teacher(store)
    with torch.no_grad():
        teacher.model.head.bias[1] = float(wrong)
    with pytest.raises(CxrError, match="no numbers"):
        make_logits(store, tmp_path, teacher, rows=rows, **VIEWS)
    assert not (tmp_path / "logits.json").exists()


# Teachers of timm


def test_a_run_is_a_teacher(store, rows, tmp_path, capsys):
    """One of timm's convolutional networks trained like any model, then asked by the command line."""
    recipe = dataclasses.replace(
        recipes.mu(), epochs=1, model="timm", options={"name": "test_convnext"}, mean=(0.5,) * 3, std=(0.25,) * 3, drop_path=0.0
    )
    assert "best_macro_auroc" in train(recipe, store.folder, tmp_path / "run", device="cpu")
    teacher = load_teacher(tmp_path / "run")
    assert teacher.name == "test_convnext" and teacher.findings == store.findings and not teacher.model.training
    assert main(["teach", str(tmp_path / "run"), "--data", str(store.folder), "--recipe", "mu", "--out", str(tmp_path / "logits")]) == 0
    shown = capsys.readouterr().out
    assert "logits of test_convnext for" in shown and "in 2 epochs" in shown
    from cxrlib.training.setup import split_rows

    training, _ = split_rows(store, store.labels_NC, recipes.mu())
    logits = LogitStore.open(tmp_path / "logits", store, training, seed=0, epochs=2, ranges=recipes.mu().ranges)
    draws_BK = torch.from_numpy(epoch_draws(len(training), seed=0, epoch=1)[:5])
    img_BIYX, _ = augment(to_float(torch.from_numpy(np.array(store.images_NYX[training[:5]]))), draws_BK, recipes.mu().ranges)
    with torch.no_grad():
        said_BC = teacher.model.net(normalise(img_BIYX, mean=(0.5,) * 3, std=(0.25,) * 3))
    torch.testing.assert_close(logits.logits(1, training[:5]), said_BC, atol=2e-3, rtol=2e-3)
    with pytest.raises(CxrError, match="no run folder"):
        load_teacher(tmp_path)
    # A student's card asks the logits whose work is in them; random weights trained on this data: the data's providers alone.
    assert logits.meta["origins"] == [["data", "nih", "NIH: unrestricted, with attribution", ""]]


def test_timms_weights_come_with_their_licence(tmp_path, monkeypatch, capsys):
    """timm reads a file of the right shape that this test writes, in place of the hub's."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    donor = timm.create_model("test_convnext", num_classes=0)
    save_file(donor.state_dict(), tmp_path / "model.safetensors")
    create = timm.create_model
    overlay = {"file": str(tmp_path / "model.safetensors"), "num_classes": 0}

    def from_file(name, pretrained=False, **options):
        return create(name, pretrained=pretrained, **options, **({"pretrained_cfg_overlay": overlay} if pretrained else {}))

    monkeypatch.setattr(timm, "create_model", from_file)
    model = build_model("timm", {"name": "test_convnext"}, num_classes=5, in_channels=3, width=24, patch_size=8)
    head = model.head.weight.clone()
    assert start_from(model, "test_convnext.r160_in1k") == {"head.weight"}
    assert torch.equal(model.net.stem[0].weight, donor.stem[0].weight) and torch.equal(model.head.weight, head)
    assert "the licence apache-2.0" in capsys.readouterr().out
    start_head_at_prevalence(model, np.array([[1.0, 0, 0, 0, 1], [0, 0, 0, 0, 1]]))
    assert model.eval()(torch.randn(2, 3, 64, 64)).logits_BC[:, 0].tolist() == pytest.approx([0.0, 0.0])
    with pytest.raises(CxrError, match="another model than test_convnext"):
        start_from(model, "resnet18.a1_in1k")


def test_convnext_v2s_licence_is_shown_as_non_commercial():
    line = licence_of("convnextv2_base.fcmae_ft_in22k_in1k")
    assert "cc-by-nc-4.0" in line and "not for commercial use" in line
    assert "commercial" not in licence_of("convnext_base.fb_in22k")
    with torch.device("meta"):
        teacher = TimmClassifier(num_classes=14)
    assert teacher.name == "convnextv2_base" and teacher.head.out_features == 14


def test_layer_decay_reads_timms_patterns():
    from timm.optim import param_groups_layer_decay

    model = TimmClassifier(name="test_convnext", num_classes=3)
    groups = param_groups_layer_decay(model, weight_decay=0.1, layer_decay=0.5, no_weight_decay_list=model.no_weight_decay())
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert len(scale) == len(list(model.parameters()))
    assert scale[id(model.net.stem[0].weight)] < scale[id(model.net.stages[-1].blocks[-1].conv_dw.weight)] < scale[id(model.head.weight)] == 1
    with pytest.raises(CxrError, match="timm has no model"):
        TimmClassifier(name="convnext_enormous")
