"""Every chapter keeps every authoring gate, and the book's table of contents is what is on the disk."""

import functools
from pathlib import Path

import pytest
import yaml

from cxrlib.course.gates import GATES, Chapter
from cxrlib.course.registry import TITLES

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "chapters").glob("[0-9][0-9]_*.md"))
NAMES = [
    "01_radiographs_as_tensors",
    "02_labels_leakage_baselines",
    "03_patches_and_positions",
    "04_attention_by_hand",
    "05_the_encoder",
    "06_training_a_classifier",
    "07_label_tokens",
    "08_where_labels_enter",
    "09_self_supervision",
    "10_one_token_per_finding",
    "11_orthogonal_tokens_and_pooling",
    "12_anatomy_as_a_prior",
    "13_segment_cam",
    "14_four_mask_losses",
    "15_distillation",
    "16_full_training",
    "17_from_maps_to_boxes",
    "18_are_the_maps_true",
    "19_the_ablation_ladder",
    "20_model_card_and_capstone",
]


@functools.cache
def _chapter(source: Path) -> Chapter:
    return Chapter(source)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.__name__)
def test_gate(source, gate):
    assert gate(_chapter(source)) == []


def test_the_chapters_are_there():
    assert [path.stem for path in SOURCES] == NAMES
    assert sorted(path.stem for path in (ROOT / "chapters").glob("*.ipynb")) == NAMES
    assert list(TITLES) == [int(name[:2]) for name in NAMES]


def test_the_table_of_contents_lists_each_page_once():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    pages = [f"chapters/{name}.ipynb" for name in NAMES]
    pages += [f"chapters/back/{path.stem}" for path in (ROOT / "chapters" / "back").glob("*.md")]
    assert sorted(files) == sorted(pages)
    # The extension must be given: beside an .md of the same name, Sphinx would warn about two files for one page.
    assert all(name.endswith(".ipynb") for name in files if "/back/" not in name)


def test_chapters_stay_below_a_minute_and_a_half_on_average_and_three_gibibytes():
    budgets = [_chapter(source).notebook.metadata["cxr"]["budget"] for source in SOURCES]
    assert sum(budget["seconds"] for budget in budgets) < 90 * len(budgets)
    assert all(budget["peak_mib"] < 3 * 1024 for budget in budgets)


def test_every_chapter_shows_figures_and_says_that_phantoms_are_phantoms():
    for source in SOURCES:
        chapter = _chapter(source)
        pictures = sum("image/png" in out.get("data", {}) for cell in chapter.code for out in cell.outputs)
        assert pictures >= 5, source.stem
        text = " ".join(" ".join(cell.source for cell in chapter.text).lower().split())
        if any(word in cell.source for cell in chapter.code for word in ("phantom", "course.cohort")):
            assert "says nothing about patients" in text, source.stem
