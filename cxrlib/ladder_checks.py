"""Two questions that the runs of CLARiTy's ladder can answer and its table does not (chapter 19).

    python -m cxrlib.ladder_checks data/results/clarity_checks FOLDER --data STORE --priors PRIORS

FOLDER is what `compare clarity_ladder` wrote. First: without the two losses that know anatomy, what changes for which finding,
and does it go with how well the finding's region holds its boxes? Second: tokens pushed to right angles (OCT) or away from one
another (CCT): what becomes of findings that keep company? A loss that forbids two tokens to be alike may hurt most there.

Letters of shapes: C findings, G groups of boxes (findings), Q measures, R resamples.
"""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

import cxrlib  # noqa: F401  (before timm: see cxrlib._compat)
from cxrlib import comparison_maps
from cxrlib.comparison import RESAMPLES, SEEDS, interval
from cxrlib.data.store import ImageStore
from cxrlib.errors import CxrError
from cxrlib.io import atomic_write, read_json, write_json
from cxrlib.localization.matching import mean_of
from cxrlib.localization.scores import score
from cxrlib.metrics import auroc, bootstrap_by_patient
from cxrlib.priors import PriorStore
from cxrlib.priors.check import check_priors
from cxrlib.sanity import agreement
from cxrlib.token_company import CCT, company, number, run_of, told
from cxrlib.token_company import MEASURES as PAIR_MEASURES

WHOLE, NO_PRIORS = "clarity", "clarity_no_priors"
MAPS = ("fused", "class_attention", "heatmap")
MEASURES = ("mean iou", "iou>0.3", "pointing")


# Without the losses that know anatomy


def without_regions(out: Path, store: ImageStore, priors: PriorStore, seeds: tuple[int, ...], *, resamples: int = RESAMPLES) -> dict:
    """What the whole model has over the one without proximity and confinement, finding by finding.

    Returns:
        "findings": a line each. Boxed ones have "inside" (share of a box in its region), "region" (share of the film that the
        region takes up) and "fills" (share of the region that a box takes up, as a ratio of means), and scores of each kind of
        map. "ranks": the rank correlation over the boxed findings between each of those three and the gain in mean IoU of the
        fused map.
    """
    truth = comparison_maps.test_truth(store.folder)
    cover = {line.finding: line for line in check_priors(priors, store)}
    scored = {name: [_aurocs(run_of(out, name, seed), resamples) for seed in seeds] for name in (WHOLE, NO_PRIORS)}
    findings = scored[WHOLE][0].findings
    gain_RC = _mean_samples(scored[WHOLE]) - _mean_samples(scored[NO_PRIORS])
    lines = {
        finding: {"finding": finding, "auroc": told(*([one.value_C[c] for one in scored[name]] for name in (WHOLE, NO_PRIORS)), gain_RC[:, c])}
        for c, finding in enumerate(findings)
    }
    ranks = {}
    for method in MAPS:
        each = {
            name: [comparison_maps.read_maps_of(comparison_maps.maps_file(run_of(out, name, seed), method), truth) for seed in seeds]
            for name in (WHOLE, NO_PRIORS)
        }
        whole, without = (score(mean_of(each[name]), resamples=resamples) for name in (WHOLE, NO_PRIORS))
        singles = {name: [score(one, resamples=0) for one in each[name]] for name in each}
        share_of = each[WHOLE][0].rows.groupby("finding")["share"].mean()
        gains_RGQ = whole.samples_RGQ - without.samples_RGQ
        for g, finding in enumerate(whole.groups[:-1]):
            if finding not in cover or not whole.boxes_G[g]:
                continue
            line, region = lines[finding], cover[finding]
            line |= {"boxes": int(whole.boxes_G[g]), "inside": round(region.inside, 4), "region": round(region.region, 4)}
            line["fills"] = round(region.inside * float(share_of[finding]) / region.region, 4)
            line.setdefault("maps", {})[method] = {
                measure: told(
                    *([one.at(finding, measure)[0] for one in singles[name]] for name in (WHOLE, NO_PRIORS)),
                    gains_RGQ[:, g, whole.measures.index(measure)],
                )
                for measure in MEASURES
            }
        if method == "fused":
            boxed = [line for line in lines.values() if "maps" in line]
            at = [whole.groups.index(line["finding"]) for line in boxed]
            gain_RF = gains_RGQ[:, at, whole.measures.index("mean iou")]
            for key in ("inside", "region", "fills"):
                known = [line[key] for line in boxed]
                value = rank_correlation(known, [line["maps"]["fused"]["mean iou"]["difference"] for line in boxed])
                sample_R = np.array([rank_correlation(known, gain_F) for gain_F in gain_RF if not np.isnan(gain_F).any()])
                low, high = interval(sample_R) if len(sample_R) else (np.nan, np.nan)
                ranks[key] = {"value": number(value), "low": number(low), "high": number(high), "findings": len(boxed)}
    return {"first": WHOLE, "second": NO_PRIORS, "findings": list(lines.values()), "ranks": ranks}


def rank_correlation(a: list[float], b: list[float]) -> float:
    """Spearman's: 1 where both put the findings in the same order, -1 in the opposite one. NaN for fewer than three or all equal."""
    return agreement.rank_correlation(np.asarray(a), np.asarray(b)) if len(a) >= 3 else float("nan")


class Aurocs(NamedTuple):
    """AUROC by finding of one run."""

    findings: list[str]
    value_C: np.ndarray
    samples_RC: np.ndarray


def _aurocs(run: Path, resamples: int) -> Aurocs:
    with np.load(run / "evaluation" / "test" / "predictions.npz", allow_pickle=False) as file:
        each = bootstrap_by_patient(file["logits_NC"], file["labels_NC"], file["patients"], metric=auroc, resamples=resamples)
        return Aurocs([str(name) for name in file["findings"]], each.value, each.samples_RC)


def _mean_samples(each: list[Aurocs]) -> np.ndarray:
    return np.mean([one.samples_RC for one in each], axis=0)


# The command


def gather(out: Path, *, data: Path, priors: Path, seeds: tuple[int, ...] = SEEDS, resamples: int = RESAMPLES) -> dict:
    """Both answers, with their provenance.

    Raises:
        CxrError: A run is missing, or the priors belong to another store.
    """
    store = ImageStore.open(data)
    made = read_json(run_of(out, WHOLE, seeds[0]) / "evaluation" / "test" / "auroc.json")
    runs = [run_of(out, name, seed) for name in (WHOLE, NO_PRIORS, CCT) for seed in seeds]
    return {
        "title": "Two closer looks at the ladder of CLARiTy, on phantoms",
        "name": "clarity_checks",
        "question": "For which findings do the losses that know anatomy matter, and which token loss serves findings that keep company?",
        "notes": made["notes"][:1] if made["data"]["source"] == "phantom" else [],
        "commands": [
            "python -m cxrlib compare clarity_ladder --data STORE --priors PRIORS --teacher TEACHER --out FOLDER",
            "python -m cxrlib.ladder_checks OUT FOLDER --data STORE --priors PRIORS",
        ],
        "date": datetime.now(UTC).date().isoformat(),
        "seeds": list(seeds),
        "data": made["data"],
        "images": made["images"],
        "patients": made["patients"],
        "commits": sorted({str(read_json(run / "run.json")["commit"]) for run in runs}),
        "without_regions": without_regions(out, store, PriorStore.open(priors, store), seeds, resamples=resamples),
        "company": company(out, store, seeds, resamples=resamples),
    }


def as_text(result: dict) -> str:
    """Both tables for a terminal."""

    def cell(one: dict) -> str:
        if one["difference"] is None or one["low"] is None:
            return "undefined"
        return f"{one['first']:.3f} {one['second']:.3f} {one['difference']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})"

    regions, pairs = result["without_regions"], result["company"]
    lines = [
        result["title"], *result["notes"],
        f"{result['images']:,} test images of {result['patients']:,} patients; seeds {', '.join(map(str, result['seeds']))}; {result['date']}",
        "", *(f"    {command}" for command in result["commands"]), "",
        "with the losses that know anatomy, without them, and the difference with its interval over patients",
        f"{'finding':<20}{'inside':>7}{'region':>7}{'fills':>7}  {'AUROC':<34} mean IoU of the fused map",
    ]  # fmt: skip
    for line in regions["findings"]:
        cover = "".join(f"{line[key]:>7.2f}" for key in ("inside", "region", "fills")) if "maps" in line else f"{'no box':>21}"
        lines.append(f"{line['finding']:<20}{cover}  {cell(line['auroc']):<34} {cell(line['maps']['fused']['mean iou']) if 'maps' in line else ''}")
    for key, rank in regions["ranks"].items():
        if rank["value"] is not None and rank["low"] is not None:
            lines.append(f"rank correlation of {key} with the gain in mean IoU: {rank['value']:+.2f} ({rank['low']:+.2f} to {rank['high']:+.2f})")
    lines += ["", f"OCT, CCT and the difference; test images with both findings; company: at least {pairs['lift']} times as often as chance"]
    for group, scores in pairs["groups"].items():
        for key in PAIR_MEASURES:
            if key in scores:
                lines.append(f"{group:<8} ({scores['pairs']} pairs) {key:<16} {cell(scores[key])}")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Writes OUT/checks.json and OUT/table.txt."""
    parser = argparse.ArgumentParser(prog="python -m cxrlib.ladder_checks", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what compare clarity_ladder wrote")
    parser.add_argument("--data", required=True, type=Path, metavar="STORE", help="the store of those runs")
    parser.add_argument("--priors", required=True, type=Path, metavar="PRIORS", help="the regions of those runs")
    parser.add_argument("--seeds", default="0,1,2", help="with commas between; default: 0,1,2")
    args = parser.parse_args(arguments)
    try:
        if not all(part.strip().isdigit() for part in args.seeds.split(",")):
            raise CxrError(f"--seeds {args.seeds}: write whole numbers with commas between, for example 0,1,2")
        seeds = tuple(int(seed) for seed in args.seeds.split(","))
        result = gather(args.folder, data=args.data, priors=args.priors, seeds=seeds)
    except CxrError as error:
        print(f"cxrlib: {error}", file=sys.stderr)
        return 2
    write_json(args.out / "checks.json", result)
    with atomic_write(args.out / "table.txt") as file:
        file.write(as_text(result))
    print(as_text(result), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
