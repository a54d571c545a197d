"""Where the models of a comparison look: each row's maps scored against the true boxes, beside its AUROC.

For every row, seed and kind of map: one box per map, its threshold fitted on one half of the test patients and scored on the
other (see `cxrlib.localization.protocol`). What each true box was worth is kept in the run folder and averaged over the seeds;
the intervals are over patients, of that mean.

Letters of shapes: M true boxes, Q measures, S seeds.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from cxrlib.comparisons import Comparison, Row
from cxrlib.errors import CxrError
from cxrlib.io import atomic_write
from cxrlib.localization import blind
from cxrlib.localization.matching import Matched, match, mean_of
from cxrlib.localization.protocol import cross_fit, sweep_of
from cxrlib.localization.runs import load_run, maps_of_model
from cxrlib.localization.scores import paired_difference, score
from cxrlib.localization.stream import candidates
from cxrlib.localization.truth import Truth, open_data, truth_of

MEASURES = tuple(f"iou>0.{t}" for t in range(1, 8)) + ("mean iou", "mean accuracy", "pointing")
"""What is kept of each row."""


def test_truth(data: Path) -> Truth:
    """The true boxes of a store's test patients."""
    return truth_of(open_data(data), split="test")


def localize_row(row: Row, run: Path, truth: Truth, *, data: Path, device: str) -> None:
    """Scores the maps of one run, each kind once. Kinds that were scored before are left as they are."""
    from cxrlib.data.store import ImageStore
    from cxrlib.training.setup import find_device

    wanted = [method for method in row.maps if not maps_file(run, method).exists()]
    if not wanted:
        return
    device, store = find_device(device), ImageStore.open(data)
    model, recipe, findings = load_run(run, device=device)
    images = list(dict.fromkeys(truth.boxes["image"]))
    boxed = truth.boxes.groupby("image")["finding"].agg(frozenset).to_dict()
    for method in wanted:
        maps = maps_of_model(
            model, store, images, method=method, findings=findings, mean=recipe.mean, std=recipe.std, device=device, wanted=boxed
        )
        fitted = cross_fit(sweep_of(candidates(truth.boxes, maps, square=store.size), truth.boxes))
        _write(maps_file(run, method), fitted.matched)


def gather_maps(comparison: Comparison, folder: Callable[[Row, int], Path], seeds: tuple[int, ...], *, data: Path) -> dict | None:
    """The localization table of a comparison, or None where no row has maps.

    Args:
        comparison: Its rows.
        folder: The run folder of a row and a seed.
        seeds: All of them.
        data: The store.

    Raises:
        CxrError: A run's maps were not scored yet, or on other boxes.
    """
    if not any(row.maps for row in comparison.rows):
        return None
    truth = test_truth(data)
    lines, tables = [], {}
    for row in comparison.rows:
        for method in row.maps:
            each = [read_maps_of(maps_file(folder(row, seed), method), truth) for seed in seeds]
            tables[row.name, method] = mean_of(each)
            lines.append((row.name, method, f"{row.words}: {method.replace('_', ' ')}", tables[row.name, method], each))
    boxes = truth.boxes
    left_out = match(boxes, blind.blind_boxes_left_out(boxes))
    lines.append(("", "blind", "Blind box, fitted on all other patients", left_out, []))
    lines += [("", method, f"No model: {method} map", table, []) for method, table in _without_model(truth, data).items()]
    size = comparison.rows[0].recipe.image_size // comparison.rows[0].recipe.patch_size
    lines.append(
        ("", "ceiling", f"Ceiling: the best box of whole cells, {size} x {size} grid", match(boxes, blind.grid_table(boxes, grid=size)), [])
    )
    reference = tables[comparison.reference_maps]
    result = []
    for name, method, words, table, each in lines:
        scores = score(table)
        line = {"row": name, "method": method, "words": words, "scores": {}, "macro_by_seed": {}}
        for group in scores.groups:
            cells = {measure: scores.at(group, measure) for measure in MEASURES}
            line["scores"][group] = {key: [None if np.isnan(v) else round(v, 4) for v in cell] for key, cell in cells.items()}
        singles = [score(one, resamples=0) for one in each]
        for measure in ("iou>0.3", "iou>0.5", "mean iou", "mean accuracy"):
            line["macro_by_seed"][measure] = [round(one.at("macro", measure)[0], 4) for one in singles]
            if table is not reference:
                difference = paired_difference(table, reference, measure)
                line.setdefault("difference", {})[measure] = [round(float(v), 4) for v in (difference.value, difference.low, difference.high)]
        result.append(line)
    return {
        "boxes": int(len(boxes)),
        "images": int(boxes["image"].nunique()),
        "patients": int(boxes["patient"].nunique()),
        "findings": {str(k): int(v) for k, v in boxes["finding"].value_counts().sort_index().items()},
        "measures": list(MEASURES),
        "reference": list(comparison.reference_maps),
        "rows": result,
    }


def _without_model(truth: Truth, data: Path) -> dict[str, Matched]:
    """What maps are worth that no model made: chance, the image's centre, the lungs, edges."""
    from cxrlib.data.store import ImageStore

    store, images = ImageStore.open(data), list(dict.fromkeys(truth.boxes["image"]))
    known = tuple(dict.fromkeys(truth.boxes["finding"]))
    tables = {}
    for method in ("random", "centre", "lungs", "edges"):
        maps = maps_of_model(None, store, images, method=method, findings=known)
        tables[method] = cross_fit(sweep_of(candidates(truth.boxes, maps, square=store.size), truth.boxes)).matched
    return tables


def maps_text(result: dict) -> str:
    """The localization table for a terminal."""
    shown = ("iou>0.1", "iou>0.3", "iou>0.5", "mean iou", "mean accuracy", "pointing")
    width = max(len(row["words"]) for row in result["rows"])
    lines = [
        "",
        f"where they look: {result['boxes']:,} true boxes of {result['images']:,} test images; thresholds from the other half of the patients",
        f"{'macro over findings':<{width}}" + "".join(f"{name:>15}" for name in shown) + "   IoU > .5: each seed, difference and its interval",
    ]
    for row in result["rows"]:
        cells = row["scores"]["macro"]
        line = f"{row['words']:<{width}}" + "".join(f"{'–' if cells[n][0] is None else format(cells[n][0], '.3f'):>15}" for n in shown)
        each = " ".join(f"{value:.3f}" for value in row["macro_by_seed"]["iou>0.5"])
        difference = row.get("difference", {}).get("iou>0.5")
        told = "{:+.3f} ({:+.3f} to {:+.3f})".format(*difference) if difference else "reference"
        lines.append(f"{line}   {each:<18} {told}")
    return "\n".join(lines) + "\n"


def maps_file(run: Path, method: str) -> Path:
    """Where it is kept what each true box is worth to one kind of map of a run."""
    return run / "localization" / "comparison" / f"{method}.npz"


def _write(path: Path, matched: Matched) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "wb") as file:
        np.savez_compressed(
            file, values_MQ=matched.values_MQ, measures=np.array(matched.measures), image=matched.rows["image"].to_numpy(str),
            finding=matched.rows["finding"].to_numpy(str),
        )  # fmt: skip


def read_maps_of(path: Path, truth: Truth) -> Matched:
    """What `localize_row` kept, with the rows of the true boxes.

    Raises:
        CxrError: It is not there, or of other boxes.
    """
    if not path.exists():
        raise CxrError(f"{path.parents[2]} has no scored maps yet: give the same compare command again to go on")
    empty = match(truth.boxes, truth.boxes[["image", "finding", "x0", "y0", "x1", "y1"]])  # for its rows
    with np.load(path, allow_pickle=False) as file:
        same = all(np.array_equal(file[name], empty.rows[name].to_numpy(str)) for name in ("image", "finding"))
        if not same:
            raise CxrError(f"{path} was scored on other boxes than the store's: remove it, and give the command again")
        return Matched(empty.rows, file["values_MQ"], tuple(str(name) for name in file["measures"]))
