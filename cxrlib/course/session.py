"""What one learner has done in one notebook: attempts, hints, predictions, and the report made from them."""

import json
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxrlib.course.exercise import Exercise, Question, grade
from cxrlib.course.registry import chapter_title, exercise, exercises_of, question, questions_of
from cxrlib.course.silent import silent
from cxrlib.errors import CxrError
from cxrlib.io import write_json


@dataclass
class Session:
    """The state of one notebook. It lives in the kernel's memory: restarting the kernel starts it afresh."""

    chapter: int = 0
    attempts: dict[str, int] = field(default_factory=dict)
    solved: dict[str, bool] = field(default_factory=dict)
    last: dict[str, str] = field(default_factory=dict)
    hints: dict[str, int] = field(default_factory=dict)
    predictions: dict[str, Any] = field(default_factory=dict)
    outcomes: dict[str, Any] = field(default_factory=dict)


_session = Session()


def start(chapter: int) -> None:
    """Begins a chapter: an empty record and one figure style.

    Args:
        chapter: Its number, 1, 2, ...
    """
    global _session
    from cxrlib import viz

    title = chapter_title(chapter)
    _session = Session(chapter=chapter)
    viz.use_style()
    print(f"Chapter {chapter}: {title}{'' if title.endswith('?') else '.'} Ready.")


def check(exercise_id: str, answer: Any) -> bool:
    """Checks an answer and prints the verdict: expected, got, likeliest cause.

    Args:
        exercise_id: For example "ch02.auroc".
        answer: The function, class or value you wrote.

    Returns:
        Whether it is right. A cell that ends with this call shows only the verdict.
    """
    item = exercise(exercise_id)
    verdict = grade(item, answer)
    _session.attempts[exercise_id] = _session.attempts.get(exercise_id, 0) + 1
    _session.solved[exercise_id] = _session.solved.get(exercise_id, False) or verdict.passed
    _session.last[exercise_id] = "right" if verdict.passed else verdict.cause
    _say_wrapped(f"{item.title}: {verdict}")
    return silent(verdict.passed)


def _say_wrapped(text: str) -> None:
    """Prints text in lines of at most 80 characters, which fit the book's page; indented lines stay indented."""
    for line in text.splitlines():
        indent = " " * (len(line) - len(line.lstrip()))
        print(textwrap.fill(line, 80, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False))


def hint(exercise_id: str, n: int = 1) -> None:
    """Prints hint 1, 2 or 3 of an exercise. Each is given only after the one before it.

    Args:
        exercise_id: For example "ch02.auroc".
        n: 1 (where to look), 2 (what to do), 3 (almost the line itself).
    """
    item = exercise(exercise_id)
    if n not in (1, 2, 3):
        raise CxrError(f"there are hints 1, 2 and 3, no hint {n!r}: ask for one of them")
    seen = _session.hints.get(exercise_id, 0)
    if n > seen + 1:
        _say_wrapped(f"{item.title}: read hint {seen + 1} first; each hint says more than the one before.")
        return
    _session.hints[exercise_id] = max(seen, n)
    _say_wrapped(f"{item.title}, hint {n} of 3: {item.hints[n - 1]}")


def predict(question_id: str, answer: Any) -> None:
    """Records what you expect, before you look.

    Args:
        question_id: For example "ch03.order".
        answer: A letter of the choices, or a number.
    """
    item = question(question_id)
    _session.predictions[question_id] = _normal(item, answer)
    _say_wrapped(f"Prediction noted: {_say(item, _session.predictions[question_id])}.")


def reveal(question_id: str, outcome: Any) -> None:
    """Sets your prediction beside what was computed. Without a prediction it asks for one.

    Args:
        question_id: For example "ch03.order".
        outcome: The letter or the number that the chapter has just computed.
    """
    item = question(question_id)
    if question_id not in _session.predictions:
        print(f"First say what you expect: course.predict({question_id!r}, ...). A guess is enough; then look.")
        return
    expected, outcome = _session.predictions[question_id], _normal(item, outcome)
    _session.outcomes[question_id] = outcome
    _say_wrapped(f"You predicted: {_say(item, expected)}. It is: {_say(item, outcome)}.")
    _say_wrapped(_distance(item, expected, outcome) + (f" {item.why}" if item.why else ""))


def _normal(item: Question, answer: Any) -> Any:
    """A letter or a float from whatever was typed, or a CxrError that says what is allowed."""
    if item.choices:
        letter = str(answer).strip().lower()
        if letter not in item.choices:
            raise CxrError(f"{answer!r} is not a choice of {item.id}: give one of {', '.join(item.choices)}")
        return letter
    try:
        return float(answer)
    except (TypeError, ValueError):
        raise CxrError(f"{answer!r} is not a number: {item.id} asks for one ({item.unit or 'no unit'})") from None


def _say(item: Question, value: Any) -> str:
    if item.choices:
        return f"({value}) {item.choices[value]}"
    return f"{value:.4g}" + (f" {item.unit}" if item.unit else "")


def _agrees(item: Question, expected: Any, outcome: Any) -> bool:
    if item.choices:
        return expected == outcome
    return abs(expected - outcome) <= item.close * abs(outcome)


def _distance(item: Question, expected: Any, outcome: Any) -> str:
    if _agrees(item, expected, outcome):
        return "As predicted." if item.choices else "Close."
    if item.choices:
        return "Not as predicted: worth a second look at why."
    if expected * outcome > 0:
        ratio = max(abs(expected), abs(outcome)) / min(abs(expected), abs(outcome))
        return f"Too {'high' if expected > outcome else 'low'} by a factor of {ratio:.1f}."
    return f"Off by {abs(expected - outcome):.4g}."


def report(name: str = "", *, save: str | Path | None = None) -> dict:
    """Prints what you have done in this chapter, for you and, if you like, for a teacher.

    The text holds no time and no machine name, so two people with the same work hand in the same report.

    Args:
        name: Yours, as you want it to appear.
        save: A file to write the same as JSON, for example "report_02.json". Nothing is written without it.

    Returns:
        The report as a dict of plain values. A cell shows only the printed text.
    """
    chapter = _session.chapter
    rows = [_exercise_row(item) for item in exercises_of(chapter)]
    guesses = [_question_row(item) for item in questions_of(chapter)]
    data = dict(
        name=name,
        chapter=chapter,
        title=chapter_title(chapter),
        solved=sum(row["state"] == "solved" for row in rows),
        exercises=rows,
        predictions=guesses,
    )
    print(f"Report on chapter {chapter}: {data['title']}" + (f" ({name})" if name else ""))
    print(f"Exercises solved: {data['solved']} of {len(rows)}")
    for row in rows:
        print(f"  {row['id']:<24} {row['state']:<12} attempts {row['attempts']}, hints {row['hints']}")
    for row in guesses:
        print(f"  {row['id']:<24} {row['state']}")
    if save is not None:
        write_json(save, data)
        print(f"Written to {Path(save).name}")
    return silent(data)


def _exercise_row(item: Exercise) -> dict:
    tries = _session.attempts.get(item.id, 0)
    state = "solved" if _session.solved.get(item.id) else ("tried" if tries else "not tried")
    return {
        "id": item.id,
        "title": item.title,
        "level": item.level,
        "state": state,
        "attempts": tries,
        "hints": _session.hints.get(item.id, 0),
        "last_verdict": _session.last.get(item.id, ""),
    }


def _question_row(item: Question) -> dict:
    guess, outcome = _session.predictions.get(item.id), _session.outcomes.get(item.id)
    if guess is None:
        state = "no prediction"
    elif outcome is None:
        state = "predicted, not revealed"
    else:
        state = "as predicted" if _agrees(item, guess, outcome) else "not as predicted"
    return {"id": item.id, "state": state, "predicted": guess, "outcome": outcome}


def load_report(path: str | Path) -> dict:
    """Reads a report that a learner handed in.

    Raises:
        CxrError: The file is not such a report.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        assert {"name", "chapter", "solved", "exercises", "predictions"} <= set(data)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, AssertionError, TypeError):
        raise CxrError(f"{path} is not a report of this course: ask for the file that course.report(save=...) wrote")
    return data
