"""What an exercise and a question are, and what a checker answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cxrlib.errors import CxrError


@dataclass(frozen=True)
class Verdict:
    """What a checker found.

    Attributes:
        passed: Whether the answer is right.
        expected: What was expected, in words.
        got: What came, in words.
        cause: The likeliest cause of the difference. Empty if passed.
        note: With a right answer: what it is good for, or what to look at next.
    """

    passed: bool
    expected: str = ""
    got: str = ""
    cause: str = ""
    note: str = ""

    def __str__(self) -> str:
        if self.passed:
            return "Right." + (f" {self.note}" if self.note else "")
        return f"Not yet.\n  expected: {self.expected}\n  got:      {self.got}\n  likeliest cause: {self.cause}"


def right(note: str = "") -> Verdict:
    """The verdict on a right answer."""
    return Verdict(passed=True, note=note)


def wrong(*, expected: str, got: str, cause: str) -> Verdict:
    """The verdict on a wrong answer. All three parts must say something."""
    if not (expected.strip() and got.strip() and cause.strip()):
        raise ValueError("a verdict on a wrong answer needs expected, got and cause")
    return Verdict(passed=False, expected=expected, got=got, cause=cause)


@dataclass(frozen=True)
class Exercise:
    """One exercise of a chapter.

    Attributes:
        id: "chNN.slug", for example "ch02.auroc".
        title: A few words.
        prompt: What to do, in one or two sentences.
        answer: The variable (function, class or value) that the learner's cell defines and hands to `check`.
        check: Takes the answer, returns a `Verdict`. It may raise: `grade` turns that into a verdict.
        hints: Three, each saying more than the one before; none gives the whole solution away.
        stub: The code the learner starts from. It must not pass.
        solution: Code that passes.
        alternatives: At least one more piece of code, in another style, that passes too.
        mutants: Code with a common mistake, by a phrase that the verdict's `cause` must contain for it.
        setup: Code run before each of the pieces above in the tests (imports that the chapter has made by then).
        level: "warm-up", "core" or "stretch".
        minutes: What it takes most people.
    """

    id: str
    title: str
    prompt: str
    answer: str
    check: Callable[[Any], Verdict]
    hints: tuple[str, str, str]
    stub: str
    solution: str
    alternatives: tuple[str, ...]
    mutants: Mapping[str, str]
    setup: str = ""
    level: str = "core"
    minutes: int = 10

    def __post_init__(self) -> None:
        problems = [
            (len(self.hints) != 3, "needs exactly three hints"),
            (not self.alternatives, "needs at least one alternative solution"),
            (not self.mutants, "needs at least one mutant"),
            (self.level not in ("warm-up", "core", "stretch"), "level is warm-up, core or stretch"),
            ("." not in self.id, 'has an id like "ch02.auroc"'),
        ]
        for broken, text in problems:
            if broken:
                raise ValueError(f"exercise {self.id}: {text}")


@dataclass(frozen=True)
class Question:
    """A prediction to make before looking.

    Attributes:
        id: "chNN.slug".
        prompt: The question.
        choices: For a choice: text by letter. Empty for a number.
        unit: For a number: what is counted, for example "patches".
        why: One or two sentences shown after the reveal, true whatever was predicted.
        close: For a number: the relative error that still counts as close.
    """

    id: str
    prompt: str
    choices: Mapping[str, str] = field(default_factory=dict)
    unit: str = ""
    why: str = ""
    close: float = 0.25


def grade(exercise: Exercise, answer: Any) -> Verdict:
    """Checks an answer; whatever goes wrong inside becomes a verdict in words, never a traceback.

    Args:
        exercise: The exercise.
        answer: What the learner's cell defined.

    Returns:
        The verdict.
    """
    if answer is None or answer is Ellipsis:
        return wrong(
            expected=f"`{exercise.answer}` to hold your answer",
            got=f"`{exercise.answer}` is still {answer!r}",
            cause="the cell above has not been filled in, or not been run since",
        )
    try:
        return exercise.check(answer)
    except NotImplementedError:
        return wrong(
            expected=f"`{exercise.answer}` to return a result",
            got="NotImplementedError, which the empty exercise raises",
            cause="the body is still to be written: replace the `raise` line",
        )
    except CxrError as error:
        return wrong(expected=f"`{exercise.answer}` to run", got=str(error), cause="the message above says it")
    except Exception as error:  # whatever a learner's code may raise is theirs to read, as a sentence
        first = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        return wrong(
            expected=f"`{exercise.answer}` to run on the checker's input without an error",
            got=f"{type(error).__name__}: {first[:200]}",
            cause="your code raised this itself; call it on a small input of your own to see the line",
        )
