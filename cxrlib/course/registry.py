"""Finds exercises and questions by id. Each chapter's own live in `cxrlib/course/exercises/chNN.py`."""

import difflib
import importlib
import importlib.util

from cxrlib.course.exercise import Exercise, Question
from cxrlib.errors import CxrError

TITLES: dict[int, str] = {
    1: "Chest radiographs as tensors, and the phantom",
    2: "Labels, leakage and honest baselines",
    3: "Patches and positions",
    4: "Attention by hand",
    5: "The encoder, equal to timm's",
    6: "Training a multi-label classifier",
    7: "Label tokens and one-way attention",
    8: "Where labels enter, and do they talk?",
    9: "Self-supervision: GMML and DINO",
    10: "One token per finding: attention maps",
    11: "Orthogonal tokens and attention pooling",
    12: "Anatomy as a prior",
    13: "SegmentCAM: foreground and background",
    14: "The four mask losses",
    15: "Distillation",
    16: "Full training: one flag, from two cores to many GPUs",
    17: "From maps to boxes: scoring localization",
    18: "Are the maps true?",
    19: "The ablation ladder",
    20: "Model card and capstone",
}
"""Chapter titles; `course.start` prints them, and a test compares them with each chapter's own heading."""


def chapter_title(chapter: int) -> str:
    """The title of a chapter.

    Raises:
        CxrError: There is no such chapter.
    """
    if chapter not in TITLES:
        raise CxrError(f"there is no chapter {chapter!r}: the chapters are {', '.join(map(str, TITLES))}")
    return TITLES[chapter]


def _module(chapter: int):
    name = f"cxrlib.course.exercises.ch{chapter:02d}"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def exercises_of(chapter: int) -> tuple[Exercise, ...]:
    """The exercises of a chapter, in the order of the text (its module's `EXERCISES`)."""
    module = _module(chapter)
    return tuple(module.EXERCISES) if module else ()


def questions_of(chapter: int) -> tuple[Question, ...]:
    """The questions of a chapter, in the order of the text (its module's `QUESTIONS`)."""
    module = _module(chapter)
    return tuple(module.QUESTIONS) if module else ()


def all_exercises() -> tuple[Exercise, ...]:
    """Every exercise of the book."""
    return tuple(item for chapter in TITLES for item in exercises_of(chapter))


def exercise(exercise_id: str) -> Exercise:
    """The exercise of that id.

    Raises:
        CxrError: There is none; the message names the nearest.
    """
    return _find(exercise_id, exercises_of(_chapter_of(exercise_id)), "exercise")


def question(question_id: str) -> Question:
    """The question of that id.

    Raises:
        CxrError: There is none; the message names the nearest.
    """
    return _find(question_id, questions_of(_chapter_of(question_id)), "question")


def _chapter_of(item_id: str) -> int:
    head = str(item_id).partition(".")[0]
    if not (head.startswith("ch") and head[2:].isdigit()):
        raise CxrError(f'{item_id!r} is not an id: it should look like "ch02.auroc"')
    return int(head[2:])


def _find(item_id, items, kind):
    for item in items:
        if item.id == item_id:
            return item
    ids = [item.id for item in items]
    near = difflib.get_close_matches(item_id, ids, n=1, cutoff=0.0)
    advice = f"did you mean {near[0]!r}?" if near else f"that chapter has no {kind}s"
    raise CxrError(f"no {kind} has the id {item_id!r}: {advice}")
