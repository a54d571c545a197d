"""Runs side by side: the settings in which they differ, their scores, their curves."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cxrlib.errors import CxrError
from cxrlib.tracking.folders import TrackedRun
from cxrlib.tracking.table import score_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = ("recipe", "data", "weights_sha256", "priors_sha256", "teacher_sha256", "versions", "commit", "machine")
"""What run.json holds that may decide a result. When and where a run was made does not."""


def settings(run: TrackedRun) -> dict[str, Any]:
    """All settings of a run under names with dots: "recipe.lr", "versions.torch"."""

    def flat(name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            return {name: value}
        return {inner: leaf for key, part in value.items() for inner, leaf in flat(f"{name}.{key}", part).items()}

    return {name: leaf for part in PARTS for name, leaf in flat(part, run.made.get(part)).items()}


def differences(runs: Sequence[TrackedRun]) -> dict[str, list[Any]]:
    """Setting -> its value in each run, for every setting that is not the same in all. None: the run does not say."""
    each = [settings(run) for run in runs]
    names = sorted(dict.fromkeys(name for one in each for name in one), key=lambda name: PARTS.index(name.split(".")[0]))
    values = {name: [one.get(name) for one in each] for name in names}
    return {name: row for name, row in values.items() if any(value != row[0] for value in row)}


def scores(runs: Sequence[TrackedRun]) -> dict[str, list[str]]:
    """Score -> what it is in each run, in words; findings only where a run was evaluated."""
    rows = {
        "state": [run.state for run in runs],
        "epochs": [f"{run.epochs}/{run.recipe['epochs']}" for run in runs],
        "best validation macro AUROC": [
            f"{score_words(run.best)} in epoch {run.best_epoch}" if run.best_epoch else "–" for run in runs
        ],
        "test macro AUROC": [score_words(*run.test) for run in runs],
        "minutes": ["–" if run.minutes != run.minutes else f"{run.minutes:.1f}" for run in runs],
    }
    for finding in dict.fromkeys(name for run in runs for name in run.test_findings):
        rows[f"test AUROC {finding}"] = [score_words(run.test_findings.get(finding)) for run in runs]
    return rows


def as_text(runs: Sequence[TrackedRun]) -> str:
    """Both tables as text.

    Raises:
        CxrError: There are fewer than two whole runs.
    """
    whole = [run for run in runs if run.state != "damaged"]
    if len(whole) < 2:
        raise CxrError(f"{len(whole)} of these folders can be compared, and it takes two: name more runs")
    differ = {name: [_short(value) for value in row] for name, row in differences(whole).items()}
    head = [run.name for run in whole]
    lines = _table("settings that differ", head, differ) if differ else ["no setting differs"]
    lines += ["", *_table("scores", head, scores(whole))]
    lines += ["", *(f"left out, damaged: {run.name}: {run.fault}" for run in runs if run.state == "damaged")]
    return "\n".join(lines).rstrip() + "\n"


def _short(value: Any) -> str:
    text = "–" if value is None else str(value)
    return text[:12] if len(text) >= 40 and set(text[:40]) <= set("0123456789abcdef") else text  # a hash


def _table(title: str, head: list[str], rows: dict[str, list[str]]) -> list[str]:
    body = [[title, *head], *([name, *row] for name, row in rows.items())]
    widths = [max(len(cells[i]) for cells in body) for i in range(len(body[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip() for cells in body]


def draw(runs: Sequence[TrackedRun]) -> "Figure":
    """Validation macro AUROC and training loss over epochs, a line per run; a pre-training has a loss only.

    Raises:
        CxrError: No run has finished an epoch.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from cxrlib.viz import CYCLE

    shown = [run for run in runs if run.epochs]
    if not shown:
        raise CxrError("none of these runs has finished an epoch: there is no curve to draw yet")
    panels = [("val_macro_auroc", "Validation macro AUROC"), ("loss", "Training loss, each by its own objective")]
    panels = panels if any(not run.pretraining for run in shown) else panels[1:]
    rows = -(-len(shown) // 3)  # of the legend
    fig = Figure(figsize=(3.9 * len(panels) + 0.2, 3.3 + 0.22 * rows), layout="constrained")
    axes = fig.subplots(1, len(panels), squeeze=False)[0]
    handles = {}
    for number, run in enumerate(shown):
        style = {"color": CYCLE[number % len(CYCLE)], "ls": ("-", "--", ":", "-.")[number // len(CYCLE) % 4]}
        for ax, (field, _) in zip(axes, panels):
            points = [(line["epoch"], line[field]) for line in run.events("epoch") if line.get(field) is not None]
            if points:
                handles[run.name] = ax.plot(*zip(*points), marker="o", ms=3.5, lw=1.6, **style)[0]
    for ax, (_, title) in zip(axes, panels):
        ax.set(xlabel="Epoch")
        ax.set_title(title, fontsize=10, loc="left")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    fig.legend(handles.values(), handles, loc="outside lower center", ncols=min(3, len(shown)), frameon=False, fontsize=9)
    return fig
