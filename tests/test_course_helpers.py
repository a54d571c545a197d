"""The helpers that a notebook calls: feedback, hints, predictions, facts, report, cohorts."""

import json

import numpy as np
import pytest
import torch

from cxrlib import course
from cxrlib.course import cohorts, registry, session
from cxrlib.course.compare import compare
from cxrlib.course.exercise import Exercise, Question, grade, right, wrong
from cxrlib.errors import CxrError


def _double(answer):
    return compare(answer([1, 2, 5]), [2, 4, 10], what="each number doubled", causes={"it was squared": [1, 4, 25]})


EXERCISE = Exercise(
    id="ch04.double",
    title="Double",
    prompt="Double each number.",
    answer="double",
    check=_double,
    hints=("Look at one number.", "Multiply.", "By two."),
    stub="def double(x):\n    raise NotImplementedError",
    solution="def double(x):\n    return [2 * v for v in x]",
    alternatives=("import numpy as np\ndef double(x):\n    return np.add(x, x)",),
    mutants={"it was squared": "def double(x):\n    return [v * v for v in x]"},
)
CHOICE = Question(id="ch04.which", prompt="Which is larger?", choices={"a": "the first", "b": "the second"}, why="It is longer.")
NUMBER = Question(id="ch04.many", prompt="How many?", unit="patches")


@pytest.fixture(autouse=True)
def chapter_four(monkeypatch, capsys):
    monkeypatch.setattr(registry, "exercises_of", lambda chapter: (EXERCISE,) if chapter == 4 else ())
    monkeypatch.setattr(registry, "questions_of", lambda chapter: (CHOICE, NUMBER) if chapter == 4 else ())
    monkeypatch.setattr(session, "exercises_of", registry.exercises_of)
    monkeypatch.setattr(session, "questions_of", registry.questions_of)
    course.start(4)
    assert capsys.readouterr().out == "Chapter 4: Attention by hand. Ready.\n"


def test_a_wrong_answer_gets_three_parts(capsys):
    assert not course.check("ch04.double", lambda x: [v * v for v in x])
    out = capsys.readouterr().out
    assert "expected: each number doubled" in out
    assert "got:      [ 1,  4, 25]" in out
    assert "likeliest cause: it was squared" in out


def test_a_right_answer(capsys):
    assert course.check("ch04.double", lambda x: torch.tensor(x) * 2)
    assert capsys.readouterr().out == "Double: Right.\n"


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (None, "not been filled in"),
        (lambda x: None, "`return` is missing"),
        (lambda x: "two", "not an array of numbers"),
        (lambda x: [2, 4], "shape is (2,)"),
        (lambda x: [[2, 4, 10]], "an axis is missing, extra or merged"),
        (lambda x: [2, 4, float("nan")], "NaN"),
        (lambda x: [0, 0, 0], "number by number"),
        (lambda x: 1 / 0, "your code raised this"),
        (lambda: 0, "your code raised this"),
    ],
)
def test_causes(answer, cause):
    verdict = grade(EXERCISE, answer)
    assert not verdict.passed
    assert cause in verdict.cause


def test_swapped_axes_are_named():
    verdict = compare(np.zeros((3, 2)), np.zeros((2, 3)), what="a table")
    assert "two axes are swapped" in verdict.cause


def test_a_checker_whose_mistake_gives_the_right_value_is_itself_wrong():
    with pytest.raises(AssertionError, match="gives the right value"):
        compare([1.0], [2.0], what="x", causes={"m": [2.0]})
    with pytest.raises(ValueError, match="needs expected"):
        wrong(expected="", got="x", cause="y")


@pytest.mark.parametrize("field", ["hints", "alternatives", "mutants", "level", "id"])
def test_an_exercise_must_be_whole(field):
    import dataclasses

    empty = {"hints": ("one",), "alternatives": (), "mutants": {}, "level": "hard", "id": "double"}[field]
    with pytest.raises(ValueError, match="double"):
        dataclasses.replace(EXERCISE, **{field: empty})


def test_hints_come_in_order(capsys):
    course.hint("ch04.double", 2)
    assert "read hint 1 first" in capsys.readouterr().out
    for n in (1, 2, 3):
        course.hint("ch04.double", n)
    assert "hint 3 of 3: By two." in capsys.readouterr().out
    with pytest.raises(CxrError, match="hints 1, 2 and 3"):
        course.hint("ch04.double", 4)


def test_no_reveal_without_a_prediction(capsys):
    course.reveal("ch04.which", "a")
    out = capsys.readouterr().out
    assert "First say what you expect" in out
    assert "longer" not in out


def test_prediction_of_a_choice(capsys):
    course.predict("ch04.which", "B")
    course.reveal("ch04.which", "a")
    out = capsys.readouterr().out
    assert "Prediction noted: (b) the second." in out
    assert "It is: (a) the first." in out
    assert "Not as predicted" in out and "It is longer." in out
    with pytest.raises(CxrError, match="give one of a, b"):
        course.predict("ch04.which", "c")


@pytest.mark.parametrize(
    ("guess", "words"),
    [(24, "Close."), (30, "Close."), (48, "Too high by a factor of 2.0."), (6, "Too low by a factor of 4.0."), (-1, "Off by 25.")],
)
def test_prediction_of_a_number(capsys, guess, words):
    course.predict("ch04.many", guess)
    course.reveal("ch04.many", np.int64(24))
    assert capsys.readouterr().out.splitlines()[-1] == words
    with pytest.raises(CxrError, match="not a number"):
        course.predict("ch04.many", "many")


def test_unknown_ids_name_the_nearest():
    with pytest.raises(CxrError, match="did you mean 'ch04.double'"):
        course.check("ch04.duoble", None)
    with pytest.raises(CxrError, match="not an id"):
        course.check("double", None)
    with pytest.raises(CxrError, match="no exercises"):
        course.check("ch05.double", None)
    with pytest.raises(CxrError, match="no chapter 77"):
        course.start(77)


def test_facts(capsys):
    assert course.fact("auroc_blind", np.float32(0.5)) == 0.5
    assert course.fact("count", torch.tensor(112120), ",d") == 112120
    course.fact("finding", "Hernia", "")
    course.fact("share", 0.814, ".0%")
    assert capsys.readouterr().out == "auroc_blind = 0.50\ncount = 112,120\nfinding = Hernia\nshare = 81%\n"
    for name, value, fmt in (("Big", 1, ""), ("two words", 1, ""), ("x", "two words", "")):
        with pytest.raises(ValueError, match="a fact needs"):
            course.fact(name, value, fmt)


def test_values_echo_nothing():
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shown = []
    shell.display_formatter.format, keep = (lambda obj, **k: shown.append(obj) or keep(obj, **k)), shell.display_formatter.format
    try:
        for value in (course.fact("x", 0.5), course.check("ch04.double", None), course.report()):
            data, _ = keep(value)
            assert data == {}
    finally:
        shell.display_formatter.format = keep


def test_report(capsys, tmp_path):
    course.hint("ch04.double", 1)
    course.check("ch04.double", None)
    course.check("ch04.double", lambda x: [2 * v for v in x])
    course.predict("ch04.which", "a")
    course.reveal("ch04.which", "a")
    capsys.readouterr()
    data = course.report("Ada", save=tmp_path / "report.json")
    out = capsys.readouterr().out
    assert "Report on chapter 4: Attention by hand (Ada)" in out
    assert "Exercises solved: 1 of 1" in out
    assert "solved       attempts 2, hints 1" in out
    assert "as predicted" in out and "no prediction" in out
    assert str(tmp_path) not in out
    assert course.load_report(tmp_path / "report.json") == data
    again = course.report("Ada")
    assert json.dumps(again) == json.dumps(data)
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(CxrError, match="not a report"):
        course.load_report(tmp_path / "other.json")
    with pytest.raises(CxrError, match="not a report"):
        course.load_report(tmp_path / "missing.json")


def test_a_solved_exercise_stays_solved(capsys):
    course.check("ch04.double", lambda x: [2 * v for v in x])
    course.check("ch04.double", None)
    assert course.report()["exercises"][0]["state"] == "solved"


def test_printed_lines_fit_the_page(capsys):
    question = Question(id="ch04.which", prompt="", choices={"a": "word " * 30, "b": "x"}, why="why " * 60)
    session._session.predictions["ch04.which"] = "a"
    session.question, keep = (lambda _: question), session.question
    try:
        course.reveal("ch04.which", "a")
    finally:
        session.question = keep
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


# --- cohorts --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_cohort(monkeypatch, tmp_path):
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cohorts, "COHORTS", {"toy": {"n": 6, "size": 40, "seed": 5, "prevalence": "enriched"}})
    monkeypatch.setattr(cohorts, "_open", {})
    return tmp_path / "cache"


def test_a_cohort_is_made_once_silently(small_cohort, capsys, monkeypatch):
    store = course.cohort("toy")
    assert (store.n, store.size) == (6, 40)
    assert capsys.readouterr() == ("", "")
    folder = cohorts.cohort_folder("toy")
    assert (folder / "train_val_list.txt").exists()
    monkeypatch.setattr(cohorts, "_make", lambda *_: pytest.fail("it was made a second time"))
    assert course.cohort("toy").sha256 == store.sha256
    assert cohorts.cohort_folder("toy") == folder


def test_a_damaged_cohort_is_remade(small_cohort):
    sha256 = course.cohort("toy").sha256
    victim = next(cohorts.cohort_folder("toy").glob("images*/*.png"))
    good = victim.read_bytes()
    victim.write_bytes(good[:-20])
    cohorts.cohort_folder("toy")
    assert next(p for p in cohorts.cohort_folder("toy").rglob(victim.name)).read_bytes() == good
    assert course.cohort("toy").sha256 == sha256
    (cohorts.cohort_folder("toy").parent / "store" / "index.csv").unlink()
    cohorts.cohort_folder("toy")
    assert (cohorts.cohort_folder("toy").parent / "store" / "index.csv").exists()


def test_a_stale_cohort_is_replaced(small_cohort, monkeypatch):
    old = cohorts.cohort_folder("toy").parent
    monkeypatch.setattr(cohorts, "_key", lambda parameters: "changed")
    new = cohorts.cohort_folder("toy").parent
    assert new.name == "toy-changed" and new.exists()
    assert not old.exists()


def test_a_failure_leaves_nothing_behind(small_cohort, monkeypatch):
    import cxrlib.phantom

    def fail(*_, **__):
        raise CxrError("no space left")

    monkeypatch.setattr(cxrlib.phantom, "write_cohort", fail)
    with pytest.raises(CxrError, match="no space"):
        course.cohort("toy")
    assert [p.name for p in (small_cohort / "cohorts").iterdir() if p.is_dir()] == []


def test_an_unknown_cohort():
    with pytest.raises(CxrError, match="tiny, course"):
        course.cohort("huge")


def test_two_processes_do_not_race(small_cohort):
    import subprocess
    import sys

    code = (
        "from cxrlib.course import cohorts, cohort\n"
        "cohorts.COHORTS = {'toy': {'n': 6, 'size': 40, 'seed': 5, 'prevalence': 'enriched'}}\n"
        "print(cohort('toy').sha256)"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outs = [process.communicate(timeout=120)[0].strip() for process in both]
    assert outs[0] == outs[1] and len(outs[0]) == 64


def test_verdict_words():
    assert str(right("Good.")) == "Right. Good."
