"""A model that learnt a cue: what is its score worth when the cue is gone, and where does its map look?

    python -m cxrlib phantom COHORT --n 3000 --size 96 --seed 5 --prevalence enriched --shortcut drain:Pneumothorax:0.95
    python -m cxrlib prepare COHORT STORE --size 96
    python -m cxrlib train lt_cpu --data STORE --out RUN
    python -m cxrlib.sanity.shortcut RUN --out FOLDER

The run is scored on patients that were drawn four times: with and without the pneumothorax, with and without the drain
(`counterfactual.draw_fours`). Weighting the four kinds of film gives the AUROC in any clinic, from one that drains every
pneumothorax to one that drains only the others, and not a single film changes.

Letters: M patients, K strengths.
"""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cxrlib.errors import CxrError
from cxrlib.io import write_json
from cxrlib.sanity.counterfactual import Effects, Fours, draw_fours, effects, look
from cxrlib.sanity.habit import inside_share
from cxrlib.sanity.label_shift import weighted_auroc

STRENGTHS = (0.95, 0.75, 0.5, 0.25, 0.05)
FINDING = "Pneumothorax"


class Looks(NamedTuple):
    """Where maps look, as lifts: share of the map inside, over the area."""

    lesion: float
    cue: float


def looks(map_Myx: np.ndarray, lesion_MYX: np.ndarray, cue_MYX: np.ndarray) -> Looks:
    """Lift on the lesion and on the cue. Pixels that are both count as lesion.

    Raises:
        CxrError: No film shows one of them.
    """
    cue_MYX = cue_MYX & ~lesion_MYX
    if not (lesion_MYX.any() and cue_MYX.any()):
        raise CxrError("these films show no lesion or no cue: draw them with both")
    return Looks(*(float(inside_share(map_Myx, mask).sum() / mask.mean(axis=(1, 2)).sum()) for mask in (lesion_MYX, cue_MYX)))


def auroc_by_strength(logit_22M: np.ndarray, strengths_K=STRENGTHS) -> np.ndarray:
    """AUROC of the finding where the cue tells the truth with a chance of `strength`: 1 always, 0.5 by the toss of a coin, 0 never.

    A film on which finding and cue agree weighs `strength`, one on which they disagree 1 - strength.

    Args:
        logit_22M: Indexed by finding, cue, patient; see `draw_fours`.
        strengths_K: From 0 to 1.

    Returns:
        float64 [K].
    """
    finding_22M, cue_22M = (np.broadcast_to(np.arange(2).reshape(shape), logit_22M.shape) for shape in ((2, 1, 1), (1, 2, 1)))
    agree_22M = finding_22M == cue_22M
    return np.array([weighted_auroc(logit_22M.ravel(), finding_22M.ravel(), np.where(agree_22M, s, 1 - s).ravel()) for s in strengths_K])


def study(model, recipe, findings: tuple[str, ...], fours: Fours, *, methods: tuple[str, ...], finding: str = FINDING) -> tuple[list[dict], list[dict], Effects]:
    """The tables of a run: AUROC by strength, lifts by method, and the effects of finding and cue."""
    if finding not in findings:
        raise CxrError(f"this run knows nothing of {finding}: train one that learns it")
    place = findings.index(finding)
    logit_22M, effect = effects(model, fours, finding=place, recipe=recipe)
    scores = [{"strength": s, "auroc": float(a)} for s, a in zip(STRENGTHS, auroc_by_strength(logit_22M))]
    both_MYX = fours.film_22MYX[1, 1]
    rows = []
    for method in methods:
        _, map_Myx = look(model, both_MYX, method=method, finding=place, findings=len(findings), recipe=recipe)
        seen = looks(map_Myx, fours.lesion_MYX, fours.cue_MYX)
        rows.append({"method": method, "lesion": seen.lesion, "cue": seen.cue})
    return scores, rows, effect


def main(arguments: list[str] | None = None) -> int:
    """Writes OUT/result.json."""
    from cxrlib.localization.runs import load_run
    from cxrlib.training.runs import git_commit, read_run, versions

    parser = argparse.ArgumentParser(prog="python -m cxrlib.sanity.shortcut", description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN", help="trained on a cohort with --shortcut drain:Pneumothorax:STRENGTH")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where result.json is written")
    parser.add_argument("--patients", type=int, default=150, help="drawn four times each; default: 150")
    parser.add_argument("--method", nargs="+", default=["label_attention", "gradient_attention", "grad_cam", "random"], help="maps")
    parser.add_argument("--title", default="A drain beside the pneumothorax: what a model learnt", help="of the result")
    parser.add_argument("--command", action="append", default=[], help="a command that leads to it; give it for each")
    args = parser.parse_args(arguments)
    try:
        if args.patients < 2:
            raise CxrError("--patients must be at least 2")
        model, recipe, findings = load_run(args.run)
        made = read_run(args.run)
        fours = draw_fours(FINDING, seeds=range(50_000, 50_000 + args.patients), size=recipe.image_size)
        scores, rows, effect = study(model, recipe, findings, fours, methods=tuple(args.method))
    except CxrError as error:
        print(f"cxrlib: {error}", file=sys.stderr)
        return 2
    films = [{"film": f"{f} {FINDING}, {c} drain", "mean logit": float(effect.logit_22[i, j])} for i, f in enumerate(("no", "a")) for j, c in enumerate(("no", "a"))]
    result = {
        "title": args.title,
        "notes": ["synthetic images: these numbers say nothing about patients", f"{args.patients} patients, each drawn with and without the finding, with and without a drain"],
        "commands": args.command,
        "date": datetime.now(UTC).date().isoformat(),
        "seeds": [recipe.seed],
        "recipe": recipe.published(),
        "trained_on": made["data"],
        "versions": versions(),
        "commit": git_commit(),
        "of_finding": effect.of_finding,
        "of_cue": effect.of_cue,
        "tables": [
            {"title": "AUROC by how often the drain tells the truth", "rows": scores},
            {"title": "Mean logit of the four kinds of film", "rows": films},
            {"title": "Where maps look on films with both: lift inside lesion and drain", "rows": rows},
        ],
    }
    write_json(args.out / "result.json", result)
    for table in result["tables"]:
        print(table["title"])
        for row in table["rows"]:
            print("  ", "  ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
