"""Runs as a table: one line each."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from cxrlib.errors import CxrError
from cxrlib.tracking.folders import TrackedRun


def machine_words(made: dict[str, Any]) -> str:
    """A machine in a few words: "2 x NVIDIA A100" for two processes with a GPU each."""
    if not made:
        return ""
    what = made["gpus"][0] if made.get("gpus") else made.get("cpu") or made.get("system", "")
    return f"{made['processes']} x {what}" if made.get("processes", 1) > 1 else what


COLUMNS: dict[str, Callable[[TrackedRun], Any]] = {
    "name": lambda run: run.name,
    "state": lambda run: run.state,
    "recipe": lambda run: run.recipe.get("name"),
    "model": lambda run: run.model,
    "data": lambda run: run.made["data"]["sha256"][:8] if run.made else None,
    "source": lambda run: run.made["data"]["source"] if run.made else None,
    "seed": lambda run: run.recipe.get("seed"),
    "commit": lambda run: run.made.get("commit"),
    "epochs": lambda run: run.epochs if run.made else None,
    "of": lambda run: run.recipe.get("epochs"),
    "validation": lambda run: run.best,
    "test": lambda run: run.test[0],
    "low": lambda run: run.test[1],
    "high": lambda run: run.test[2],
    "minutes": lambda run: run.minutes,
    "images_per_s": lambda run: run.images_per_s,
    "machine": lambda run: machine_words(run.machine),
    "folder": lambda run: str(run.folder),
    "fault": lambda run: run.fault,
}
"""What is listed of a run; the names are `--sort`'s and the keys of `--json`."""

HIGHEST_FIRST = ("validation", "test", "low", "high", "epochs", "minutes", "images_per_s")


def row_of(run: TrackedRun) -> dict[str, Any]:
    """A run's columns; NaN is None, as in JSON."""
    row = {name: read(run) for name, read in COLUMNS.items()}
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}


def sort_runs(runs: Sequence[TrackedRun], column: str) -> list[TrackedRun]:
    """The runs in the order of a column: scores, times and speeds from the top; what has no value comes last.

    Raises:
        CxrError: There is no such column.
    """
    if column not in COLUMNS:
        raise CxrError(f"there is no column {column!r} to sort by: choose one of {', '.join(COLUMNS)}")
    rows = [(row_of(run)[column], run) for run in runs]
    known = [pair for pair in rows if pair[0] not in (None, "")]
    known.sort(key=lambda pair: pair[0], reverse=column in HIGHEST_FIRST)
    return [run for _, run in known] + [run for value, run in rows if value in (None, "")]


def as_table(runs: Sequence[TrackedRun]) -> str:
    """The listing: a head, and one line for each run. A dash stands for what is not there."""
    head = ("name", "state", "recipe", "model", "data", "seed", "commit", "epochs", "validation", "test", "minutes", "images/s", "machine")
    body = [head, *(_cells(run) for run in runs if run.state != "damaged")]
    widths = [max(len(cells[i]) for cells in body) for i in range(len(head))]
    left = {0, 1, 2, 3, 4, 6, 12}
    lines = [
        "  ".join(cell.ljust(width) if i in left else cell.rjust(width) for i, (cell, width) in enumerate(zip(cells, widths))).rstrip()
        for cells in body
    ]
    lines += [f"{run.name}  damaged: {run.fault}" for run in runs if run.state == "damaged"]
    return "\n".join(lines if len(body) > 1 else lines[1:]) + "\n"


def _cells(run: TrackedRun) -> tuple[str, ...]:
    row = row_of(run)
    commit = row["commit"] or ""
    return (
        row["name"],
        row["state"],
        str(row["recipe"]),
        row["model"],
        f"{row['source']} {row['data']}",
        str(row["seed"]),
        commit[:8] + ("+" if commit.endswith("+changes") else "") or "–",
        f"{row['epochs']}/{row['of']}",
        score_words(row["validation"]),
        score_words(row["test"], row["low"], row["high"]),
        "–" if row["minutes"] is None else f"{row['minutes']:.1f}",
        "–" if row["images_per_s"] is None else f"{row['images_per_s']:.0f}",
        row["machine"] or "–",
    )


def score_words(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A score with its interval, to three digits; a dash if there is none."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} ({low:.3f} to {high:.3f})"
