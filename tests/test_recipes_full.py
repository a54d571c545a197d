"""The full-size recipes: what they promise, and a rehearsal of each on a store of its kind."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_store import tiny_studies

from cxrlib import recipes
from cxrlib.cli import main
from cxrlib.data import ImageStore, Studies, prepare
from cxrlib.distillation.logits import make_logits
from cxrlib.distillation.teacher import load_teacher
from cxrlib.findings import CHEXPERT_11, CHEXPERT_13, CHEXPERT_OBSERVATIONS
from cxrlib.models.cost import cost
from cxrlib.priors import make_priors
from cxrlib.priors.sources import template_source
from cxrlib.recipes import FULL_SIZE, rehearsal
from cxrlib.training import train
from cxrlib.training.setup import chosen_labels, split_rows


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[str, ImageStore]:
    """A store with NIH's 14 findings and one with CheXpert's 14 observations, 64 images of 32 px each."""
    from cxrlib.findings import NIH_FINDINGS

    made = {}
    for source, findings in (("nih", NIH_FINDINGS), ("chexpert", CHEXPERT_OBSERVATIONS)):
        folder = tmp_path_factory.mktemp(source)
        studies = tiny_studies(folder / "raw", n=96)
        rng = np.random.default_rng(1)
        table = studies.table.drop(columns=list(studies.findings))
        table[list(findings)] = (rng.random((len(table), len(findings))) < 0.3).astype(float)
        made[source] = prepare(Studies(table, studies.boxes, tuple(findings), source, "v2020", folder / "raw"), folder / "store", size=32)
    return made


def small_images(recipe: recipes.Recipe) -> recipes.Recipe:
    """A rehearsal on images of 32 px."""
    return dataclasses.replace(rehearsal(recipe), image_size=32, patch_size=8)


@pytest.mark.parametrize("make", FULL_SIZE, ids=lambda make: make.__name__)
def test_every_full_size_recipe_is_rehearsed(make, stores, tmp_path):
    """The same losses, regions, teacher and parts of a batch with a tiny model: it trains to its end and is scored."""
    torch.set_num_threads(1)
    store = stores["chexpert" if make.__name__.endswith("_chexpert") else "nih"]
    recipe = dataclasses.replace(small_images(make()), validation=0.3)
    findings, labels_NC = chosen_labels(store, recipe)
    if recipe.model == "clarity":
        make_priors(store, tmp_path / "priors", source="template", structures_of=template_source(store, 32), findings=findings, size=32)
        teacher = dataclasses.replace(small_images(recipes.convnextv2_base_512()), epochs=1, findings=findings, name="teacher")
        train(teacher, store.folder, tmp_path / "teacher", device="cpu")
        rows, _ = split_rows(store, labels_NC, recipe)
        make_logits(
            store, tmp_path / "logits", load_teacher(tmp_path / "teacher", device="cpu"), rows=rows, seed=0, epochs=2, ranges=recipe.ranges
        )
        recipe = dataclasses.replace(recipe, priors=str(tmp_path / "priors"), teacher=str(tmp_path / "logits"))
    result = train(recipe, store.folder, tmp_path / "run", device="cpu")
    assert result["epochs"] == 2 and np.isfinite(result["best_macro_auroc"])
    assert main(["evaluate", str(tmp_path / "run"), "--split", "test", "--resamples", "20"]) == 0


def test_the_recipes_are_the_papers_sizes():
    """Parameters as counted in the models' own tests; the teacher's as timm's table has it, with a head of 14."""
    expected = {
        "vit_small_224": 21_665_664 + 14 * 385,
        "lt_vit_small_224": 21_665_664 + 10_766,
        "clarity_small_224": 21_675_648 + 5_363_740 + 14 * (384 + 2),  # backbone, SegmentCAM, pooling
        "clarity_small_512": 21_993_600 + 5_363_740 + 14 * (384 + 2),
        "convnextv2_base_512": 87_692_800 + 14 * 1025,
    }
    for make in FULL_SIZE[:5]:
        assert cost(make().build(14)).parameters == expected[make.__name__], make.__name__
    assert [make().image_size for make in FULL_SIZE[:5]] == [224, 224, 224, 512, 512]


def test_every_batch_can_be_shared_by_eight_devices():
    for make in FULL_SIZE:
        recipe = make()
        assert recipe.batch % 8 == 0 and recipe.micro_batch <= recipe.batch // 8


def test_chexpert_takes_as_many_steps_as_nih():
    for nih, chexpert in zip(FULL_SIZE[:5], FULL_SIZE[5:], strict=True):
        a, b = nih(), chexpert()
        assert b.name == f"{a.name}_chexpert"
        assert 0.9 < (b.epochs * 191_027) / (a.epochs * 86_524) < 1.1
        same = {"name", "findings", "epochs", "warmup_epochs", "losses", "validation"}
        assert {k: v for k, v in a.to_json().items() if k not in same} == {k: v for k, v in b.to_json().items() if k not in same}
    assert recipes.vit_small_224_chexpert().findings == CHEXPERT_13 and len(CHEXPERT_13) == 13
    assert recipes.clarity_small_224_chexpert().findings == CHEXPERT_11 and len(CHEXPERT_11) == 11


def test_rehearsal_from_the_command_line(stores, tmp_path, capsys):
    """The whole command, on a store of the recipe's own size."""
    studies = tiny_studies(tmp_path / "raw", n=24)
    for path in (tmp_path / "raw" / "images").iterdir():
        Image.open(path).resize((224, 224)).save(path)
    studies.table[["width", "height"]] = 224
    store = prepare(studies, tmp_path / "store", size=224)
    arguments = ["train", "vit_small_224", "--rehearsal", "--data", str(store.folder), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main(arguments) == 0
    assert "finished" in capsys.readouterr().out
