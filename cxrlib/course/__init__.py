"""What a chapter's notebook calls: checkers, hints, predictions, facts, shared cohorts, stored results, and a report.

    from cxrlib import course
    course.start(2)

Nothing here needs the network, and nothing here is needed by the rest of the library.
"""

from cxrlib.course.cohorts import cohort
from cxrlib.course.exercise import Exercise, Question, Verdict, grade, right, wrong
from cxrlib.course.facts import fact
from cxrlib.course.results import stored
from cxrlib.course.session import check, hint, load_report, predict, report, reveal, start

__all__ = [
    "Exercise",
    "Question",
    "Verdict",
    "check",
    "cohort",
    "fact",
    "grade",
    "hint",
    "load_report",
    "predict",
    "report",
    "reveal",
    "right",
    "start",
    "stored",
    "wrong",
]
