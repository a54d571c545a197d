"""Every exercise of the book: the stub fails, the solution and other styles pass, each common mistake is named."""

import pytest

from cxrlib.course.exercise import Exercise, Question, grade
from cxrlib.course.registry import TITLES, all_exercises, exercises_of, questions_of

EXERCISES = all_exercises()


def _run(exercise: Exercise, code: str):
    """The verdict on what a piece of code defines, run as in the chapter."""
    namespace: dict = {"__name__": "learner"}
    exec(exercise.setup, namespace)
    exec(code, namespace)
    return grade(exercise, namespace.get(exercise.answer))


def _cases(field: str):
    for exercise in EXERCISES:
        pieces = getattr(exercise, field)
        pieces = pieces.items() if hasattr(pieces, "items") else enumerate(pieces)
        for key, code in pieces:
            yield pytest.param(exercise, key, code, id=f"{exercise.id}-{key}".replace(" ", "_"))


def test_every_chapter_has_exercises():
    assert [chapter for chapter in TITLES if not exercises_of(chapter)] == []


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.id)
def test_stub_fails_and_says_so(exercise):
    verdict = _run(exercise, exercise.stub)
    assert not verdict.passed
    assert verdict.expected and verdict.got and verdict.cause


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.id)
def test_solution_passes(exercise):
    verdict = _run(exercise, exercise.solution)
    assert verdict.passed, str(verdict)


@pytest.mark.parametrize(("exercise", "key", "code"), list(_cases("alternatives")))
def test_another_style_passes(exercise, key, code):
    assert code.strip() != exercise.solution.strip()
    verdict = _run(exercise, code)
    assert verdict.passed, str(verdict)


@pytest.mark.parametrize(("exercise", "key", "code"), list(_cases("mutants")))
def test_a_common_mistake_is_rejected_by_its_name(exercise, key, code):
    verdict = _run(exercise, code)
    assert not verdict.passed, "this mistake passes"
    assert key.lower() in verdict.cause.lower(), f"named as {verdict.cause!r}"


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.id)
def test_mistakes_have_different_names(exercise):
    causes = [_run(exercise, code).cause for code in exercise.mutants.values()]
    assert len(set(causes)) == len(causes)


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.id)
def test_no_hint_gives_the_solution_away(exercise):
    assert len(set(exercise.hints)) == 3
    solution = " ".join(exercise.solution.split())
    assert all(" ".join(hint.split()) != solution and solution not in hint for hint in exercise.hints)


@pytest.mark.parametrize("answer", [None, ..., 3, "text", [], print, lambda *a, **k: None, lambda *a, **k: 0 / 0])
@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.id)
def test_nonsense_gets_a_verdict_never_a_traceback(exercise, answer):
    verdict = grade(exercise, answer)
    assert not verdict.passed
    assert verdict.expected and verdict.got and verdict.cause


def test_ids_are_unique_and_belong_to_their_chapter():
    ids = []
    for chapter in TITLES:
        for item in (*exercises_of(chapter), *questions_of(chapter)):
            assert isinstance(item, Exercise | Question)
            assert item.id.startswith(f"ch{chapter:02d}.")
            ids.append(item.id)
    assert len(set(ids)) == len(ids)
