"""A localization table: the method, the rows that it must beat, and the published ones beside it.

Everything is written at the end and at once, so a run that fails leaves no partial table behind.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxrlib.errors import CxrError
from cxrlib.evaluation import SYNTHETIC
from cxrlib.findings import BOXED_FINDINGS
from cxrlib.io import atomic_write, write_json
from cxrlib.localization import blind
from cxrlib.localization.mask_protocol import cross_fit_masks, masks_of_boxes
from cxrlib.localization.matching import THRESHOLDS, Matched, match
from cxrlib.localization.maps import random_maps
from cxrlib.localization.protocol import SEEDS, CrossFitted, Sweep, blind_cross, cross_fit, oracle, sweep_of
from cxrlib.localization.published import published, published_rows
from cxrlib.localization.scores import Difference, Scores, paired_difference, score, score_by_size
from cxrlib.localization.stream import candidates
from cxrlib.localization.truth import Truth

COLUMNS = (*(f"iou>{t:g}" for t in THRESHOLDS), "mean iou", "mean accuracy", "iobb>0.5", "pointing")
SHOWN = ("iou>0.1", "iou>0.2", "iou>0.3", "iou>0.4", "iou>0.5", "iou>0.6", "iou>0.7", "mean iou", "pointing")
SHOWN_OF_MASKS = ("dice", "hausdorff 95")
GRIDS = (14, 32)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    how: str
    """Where its thresholds come from, in words."""
    matched: Matched
    scores: Scores
    half_sd_Q: np.ndarray | None = None
    """Standard deviation of the macro scores of single halves, where there are halves."""
    difference: Difference | None = None
    """Against the blind box, at IoU > .5."""
    masks: Scores | None = None
    """Against drawn masks, where there are any."""


@dataclasses.dataclass(frozen=True)
class Report:
    """All that is written about one method."""

    rows: tuple[Row, ...]
    """The method or methods first, then the rows to beat and the ceilings."""
    by_size: Scores
    header: tuple[str, ...]
    predicted: pd.DataFrame
    """The first method's boxes: out of sample, of the first seed."""
    thresholds: tuple = ()
    source: str = "nih"


MaskOf = Callable[[str, str], np.ndarray]
"""`(image, finding) -> bool [Y, X]` in original pixels."""


def fixed_row(
    name: str, how: str, truth: pd.DataFrame, predicted: pd.DataFrame, findings: tuple[str, ...], resamples: int, mask_of: MaskOf | None = None
) -> Row:
    """A row whose boxes are given: nothing was tuned on boxes, or not by us. Its masks are the insides of its boxes."""
    matched = match(truth, predicted)
    masks = score(masks_of_boxes(pairs_of(truth), predicted, mask_of), findings=findings, resamples=resamples) if mask_of else None
    return Row(name, how, matched, score(matched, findings=findings, resamples=resamples), masks=masks)


def pairs_of(truth: pd.DataFrame) -> pd.DataFrame:
    """What masks are scored for: every image and finding with a true box, once."""
    return truth[["image", "finding", "patient"]].drop_duplicates(["image", "finding"]).reset_index(drop=True)


def mask_scores(
    truth: pd.DataFrame, maps, mask_of: MaskOf, findings: tuple[str, ...], *, seeds: int, resamples: int, square: int | None = None
) -> Scores:
    """Maps cut to masks, at thresholds that were fitted for Dice on the other half. `maps()` gives the maps, whenever called."""
    fitted = cross_fit_masks(pairs_of(truth), maps, mask_of, square=square, seeds=seeds)
    return score(fitted.matched, findings=findings, resamples=resamples)


def crossed_row(name: str, how: str, fitted: CrossFitted, findings: tuple[str, ...], resamples: int) -> Row:
    """A row whose boxes were scored out of sample, half by half."""
    spread = np.std(fitted.macro_HQ, axis=0, ddof=1)  # NaN where a half has no value
    return Row(name, how, fitted.matched, score(fitted.matched, findings=findings, resamples=resamples), spread)


def map_rows(name: str, sweep: Sweep, findings: tuple[str, ...], *, seeds: int, objective: str, resamples: int) -> tuple[list[Row], CrossFitted]:
    """The row of a method with maps, and its oracle."""
    fitted = cross_fit(sweep, seeds=seeds, objective=objective)
    honest = crossed_row(name, f"thresholds from the other half, {seeds} seeds", fitted, findings, resamples)
    best = oracle(sweep, objective=objective)
    return [honest, Row(f"{name}, oracle", "thresholds fitted on the scored boxes", best, score(best, findings=findings, resamples=resamples))], fitted


def rows_to_beat(
    truth: Truth, findings: tuple[str, ...], *, seeds: int = SEEDS, resamples: int = 1000, size: int = 1024, mask_of: MaskOf | None = None
) -> list[Row]:
    """The blind box twice, the random map, and the ceilings of two grids."""
    boxes = truth.boxes
    rows = []
    left_out = blind.blind_boxes_left_out(boxes)
    rows.append(fixed_row("Blind box", "fitted on all other patients", boxes, left_out, findings, resamples, mask_of))
    if boxes["patient"].nunique() > 1:
        rows.append(crossed_row("Blind box, halves", f"fitted on the other half, {seeds} seeds", blind_cross(boxes, seeds=seeds), findings, resamples))
        sweep = sweep_of(candidates(boxes, random_maps(boxes), size=size), boxes)
        noise = map_rows("Random map", sweep, findings, seeds=seeds, objective="mean accuracy", resamples=resamples)[0][0]
        if mask_of:
            drawn = mask_scores(boxes, lambda: random_maps(boxes), mask_of, findings, seeds=seeds, resamples=resamples)
            noise = dataclasses.replace(noise, masks=drawn)
        rows.append(noise)
    for grid in GRIDS:
        rows.append(fixed_row(f"Ceiling of a {grid} x {grid} grid", "oracle: the best box of whole cells", boxes, blind.grid_table(boxes, grid=grid), findings, resamples, mask_of))
    return rows


def report_of(
    methods: list[Row], truth: Truth, *, header: list[str], predicted: pd.DataFrame, thresholds: tuple = (), findings: tuple[str, ...] | None = None,
    seeds: int = SEEDS, resamples: int = 1000, size: int = 1024, mask_of: MaskOf | None = None,
) -> Report:  # fmt: skip
    """Puts the rows to beat under the methods, and the difference to the blind box beside each.

    Args:
        methods: Rows of the method or methods that are scored.
        truth: What they were scored against.
        header: What was scored, in words.
        predicted: Boxes for the overlays.
        thresholds: What was fitted, to be stored.
        findings: The findings that macro is taken over; None: those of `BOXED_FINDINGS`, or of the truth where it has others.
        seeds: Draws of halves.
        resamples: Bootstrap samples of patients.
        size: Longer side to which maps are upsampled.
        mask_of: Drawn masks, if there are any.
    """
    findings = findings or findings_of(truth)
    others = rows_to_beat(truth, findings, seeds=seeds, resamples=resamples, size=size, mask_of=mask_of)
    blind_row = others[0].matched
    options = {"findings": findings, "resamples": resamples}
    methods = [dataclasses.replace(row, difference=paired_difference(row.matched, blind_row, "iou>0.5", **options)) for row in methods]
    boxes = truth.boxes
    lines = [
        *([SYNTHETIC] if truth.source == "phantom" else []),
        f"{len(boxes):,} true boxes of {boxes['finding'].nunique()} findings on {boxes['image'].nunique():,} images of "
        f"{boxes['patient'].nunique():,} patients: {truth.name}",
        *header,
        f"intervals: 95 %, percentiles of {resamples:,} bootstrap samples of patients" if resamples else "no intervals: no resamples were asked for",
    ]
    return Report((*methods, *others), score_by_size(methods[0].matched, resamples=resamples), tuple(lines), predicted, tuple(thresholds), truth.source)


def findings_of(truth: Truth) -> tuple[str, ...]:
    """The findings that macro is taken over: the 8 boxed ones, or those of the truth where it has others."""
    there = tuple(dict.fromkeys(truth.boxes["finding"]))
    return BOXED_FINDINGS if set(there) <= set(BOXED_FINDINGS) else there


def as_text(report: Report) -> str:
    """The tables for a terminal and for localization.txt."""
    lines = [*report.header, "", "IoU accuracy: share of true boxes whose predicted box has IoU > T; the finding is given; macro over findings"]
    drawn = SHOWN_OF_MASKS if any(row.masks for row in report.rows) else ()
    if drawn:
        lines.append(
            "dice, hd95: against drawn masks, at thresholds that were fitted for Dice on the other half; hd95 is the 95th percentile of the "
            "Hausdorff distance as a share of the image's diagonal (less is better). Boxes count as filled"
        )
    lines.append("")
    width = max(len(row.name) for row in report.rows) + 2
    lines.append(" " * width + "".join(f"{_short(name):>9}" for name in (*SHOWN, *drawn)))
    for row in report.rows:
        of_masks = [row.masks.at("macro", name)[0] if row.masks else np.nan for name in drawn]
        cells = [*(row.scores.at("macro", name)[0] for name in SHOWN), *of_masks]
        lines.append(f"{row.name:<{width}}" + "".join(f"{_cell(value):>9}" for value in cells) + f"  {row.how}")
        if row.half_sd_Q is not None and row is report.rows[0]:
            places = [row.scores.measures.index(name) for name in SHOWN]
            lines.append(f"{'  sd of one half':<{width}}" + "".join(f"{_cell(row.half_sd_Q[place]):>9}" for place in places))
    main = report.rows[0]
    lines += ["", f"{main.name} by finding, 95 % intervals", f"{'':<{width}}{'boxes':>6}" + "".join(f"{_short(name):>22}" for name in ("iou>0.1", "iou>0.3", "iou>0.5", "mean iou"))]
    for group, count in zip(main.scores.groups, main.scores.boxes_G):
        name = f"macro over {main.scores.defined} of {len(main.scores.groups) - 1}" if group == "macro" else group
        cells = [_interval(main.scores.at(group, measure)) for measure in ("iou>0.1", "iou>0.3", "iou>0.5", "mean iou")]
        lines.append(f"{name:<{width}}{count:>6}" + "".join(f"{cell:>22}" for cell in cells))
    lines += ["", f"{main.name} by lesion size (share of the image's area)"]
    for group, count in list(zip(report.by_size.groups, report.by_size.boxes_G))[:-1]:
        cells = [_interval(report.by_size.at(group, measure)) for measure in ("iou>0.1", "iou>0.3", "iou>0.5", "mean iou")]
        lines.append(f"{group:<{width}}{count:>6}" + "".join(f"{cell:>22}" for cell in cells))
    lines.append("")
    for row in report.rows:
        if row.difference:
            lines.append(f"{row.name} minus blind box, macro at IoU > .5: {_signed(row.difference)} (paired)")
    if report.source == "nih":
        lines += ["", "Published on NIH's boxes, macro (comparable: yes, nearly, partly, unknown, no)"]
        rows = published_rows(SHOWN)
        pad = max(width, rows["method"].str.len().max() + 2)
        for _, row in rows.iterrows():
            cells = "".join(f"{_cell(row[name]):>9}" for name in SHOWN)
            lines.append(f"{row['method']:<{pad}}{cells}  {row['comparable']}: {row['protocol']}. {row['source']} ({row['trust']})")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def as_table(report: Report) -> pd.DataFrame:
    """One row per line, group and measure: row, how, group, boxes, measure, value, low, high."""
    parts = []
    for row in report.rows:
        for scores in (row.scores, row.masks) if row.masks else (row.scores,):
            for group, count in zip(scores.groups, scores.boxes_G):
                for measure in scores.measures:
                    parts.append((row.name, row.how, group, int(count), measure, *scores.at(group, measure)))
    by_size = [
        (report.rows[0].name, report.rows[0].how, f"size {group}", int(count), measure, *report.by_size.at(group, measure))
        for group, count in list(zip(report.by_size.groups, report.by_size.boxes_G))[:-1]
        for measure in report.by_size.measures
    ]
    return pd.DataFrame(parts + by_size, columns=["row", "how", "group", "boxes", "measure", "value", "low", "high"])


def write(report: Report, out: Path, *, about: dict[str, Any], picture: bytes | None) -> None:
    """Writes localization.txt, .csv and .json, boxes.csv, worth.csv, published.csv, thresholds.json and overlays.png."""
    if out.exists() and not out.is_dir():
        raise CxrError(f"{out} is a file: give another --out")
    table = as_table(report)
    main = report.rows[0]
    frames = {
        "localization.csv": table,
        "boxes.csv": report.predicted,
        "worth.csv": pd.concat([main.matched.rows, pd.DataFrame(main.matched.values_MQ, columns=main.matched.measures)], axis=1),
    }
    if report.source == "nih":
        frames["published.csv"] = published()
    for name, frame in frames.items():
        with atomic_write(out / name) as file:
            frame.to_csv(file, index=False, lineterminator="\n", float_format="%.6g")
    if report.thresholds:
        write_json(out / "thresholds.json", [dataclasses.asdict(item) for item in report.thresholds])
    if picture is not None:
        with atomic_write(out / "overlays.png", "wb") as file:
            file.write(picture)
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    write_json(out / "localization.json", about | {"notes": list(report.header), "scores": rows})
    with atomic_write(out / "localization.txt") as file:
        file.write(as_text(report))


def _short(measure: str) -> str:
    return measure.replace("iou>0", "T=") if measure.startswith("iou>") else measure.replace("hausdorff ", "hd")


def _cell(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


def _interval(cell: tuple[float, float, float]) -> str:
    value, low, high = cell
    return "–" if np.isnan(value) else f"{value:.3f} ({low:.3f}–{high:.3f})" if not np.isnan(low) else f"{value:.3f}"


def _signed(difference: Difference) -> str:
    return f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"
