"""Scoring a run: AUROC per finding and macro, with intervals from a bootstrap over patients.

    python -m cxrlib evaluate RUN --split test

Everything goes into RUN/evaluation/<split>/: auroc.txt, auroc.csv, auroc.json, auroc.png, predictions.csv, predictions.npz.
Scores of another store than the run's go into RUN/evaluation/<split>-<its name>-<its hash>/.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cxrlib.data.store import ImageStore
from cxrlib.errors import CxrError
from cxrlib.io import atomic_write, read_json, write_json
from cxrlib.metrics import bootstrap_by_patient, macro_interval
from cxrlib.models.weights import load_safetensors
from cxrlib.predict import predict
from cxrlib.training.checkpoint import BEST
from cxrlib.training.runs import data_of, read_run, versions
from cxrlib.training.setup import chosen_labels, find_device

SYNTHETIC = "synthetic images: these numbers say nothing about patients"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The scores of one run on one split."""

    table: pd.DataFrame
    """One row per finding: finding, positives, negatives, unknown, auroc, low, high, reason (why it is undefined, or "")."""
    macro: tuple[float, float, float]
    """Macro AUROC with the ends of its 95 % interval."""
    defined: int
    """Findings that the macro is taken over."""
    header: tuple[str, ...]
    """What was scored, in words."""
    images: tuple[str, ...]
    """Name of each image."""
    patients: tuple[str, ...]
    """Patient of each image."""
    logits_NC: np.ndarray
    """The model's logits, row by row with `images`."""
    labels_NC: np.ndarray
    """The labels: 0, 1 or NaN."""
    data: dict
    """The store that was scored: see `cxrlib.training.runs.data_of`."""


def evaluate(
    run: str | Path,
    *,
    split: str = "test",
    data: str | Path | None = None,
    device: str = "auto",
    resamples: int = 1000,
) -> Evaluation:
    """Scores the best weights of a run on a split of a store.

    Args:
        run: A run folder.
        split: "test", "train_val", or "validation": the patients that chose the best epoch.
        data: A store. None: the one the run was trained on.
        device: "cpu", "cuda", or "auto".
        resamples: Bootstrap samples of patients.

    Raises:
        CxrError: The run has no weights yet, the store does not fit it, or the device is not there.
    """
    run, where = Path(run), find_device(device)
    made = read_run(run)
    recipe = made["recipe"]
    store = ImageStore.open(data or made["store"])
    if store.size != recipe.image_size:
        raise CxrError(f"the store holds images of {store.size} px, the run reads {recipe.image_size} px: prepare with that --size")
    findings, labels_NC = chosen_labels(store, recipe)
    if list(findings) != (list(recipe.findings) or made["data"]["findings"]):
        raise CxrError("the store's findings are not those the run was trained on: evaluate on a store with the same findings")
    rows = split_rows(run, store, split)
    if not (run / BEST).exists():
        raise CxrError(f"{run} has no {BEST} yet: let the training finish at least one epoch")
    model = recipe.build(len(findings))
    load_safetensors(model, run / BEST)
    logits_NC = predict(model.to(where), store.pixels, rows, recipe=recipe, device=where, batch=recipe.micro_batch)
    table = store.table.iloc[rows]
    scored = score(logits_NC, labels_NC[rows], table["patient"].to_numpy(), findings, resamples=resamples)
    best_epoch = int(read_json(run / "result.json")["best_epoch"]) if (run / "result.json").exists() else None
    header = [SYNTHETIC] if store.source == "phantom" else []
    header += [
        f"AUROC on the {split} split: {len(rows):,} images of {table['patient'].nunique():,} patients ({store.source})",
        f"recipe {recipe.name}, seed {recipe.seed}, "
        + (f"weights of epoch {best_epoch}" if best_epoch else "training not finished: best weights so far"),
        f"intervals: 95 %, percentiles of {resamples:,} bootstrap samples of patients",
    ]
    if store.sha256 != made["data"]["sha256"]:
        header.append("the images are not from the store that the run was trained on")
    return Evaluation(
        table=scored[0],
        macro=scored[1],
        defined=int(scored[0]["auroc"].notna().sum()),
        header=tuple(header),
        images=tuple(table["image"]),
        patients=tuple(table["patient"]),
        logits_NC=logits_NC,
        labels_NC=labels_NC[rows],
        data=data_of(store),
    )


def split_rows(run: Path, store: ImageStore, split: str) -> np.ndarray:
    """Rows of a split of the store; "validation" is read from the run's own list."""
    if split != "validation":
        return np.asarray(store.where(split=split))
    held = set(pd.read_csv(run / "validation.csv", dtype=str)["image"])
    rows = np.flatnonzero(store.table["image"].isin(held))
    if len(rows) != len(held):
        raise CxrError(f"the store lacks {len(held) - len(rows)} of the run's validation images: use the store it was trained on")
    return rows


def score(
    logits_NC: np.ndarray, labels_NC: np.ndarray, patients_N: np.ndarray, findings: tuple[str, ...], *, resamples: int
) -> tuple[pd.DataFrame, tuple[float, float, float]]:
    """The table of `Evaluation`, and the macro AUROC with its interval."""
    each = bootstrap_by_patient(logits_NC, labels_NC, patients_N, resamples=resamples)
    overall = macro_interval(each)
    positives_C, negatives_C = (labels_NC == 1).sum(axis=0), (labels_NC == 0).sum(axis=0)
    table = pd.DataFrame(
        {
            "finding": list(findings),
            "positives": positives_C,
            "negatives": negatives_C,
            "unknown": np.isnan(labels_NC).sum(axis=0),
            "auroc": each.value,
            "low": each.low,
            "high": each.high,
            "reason": [why_undefined(p, n) for p, n in zip(positives_C, negatives_C)],
        }
    )
    return table, (float(overall.value), float(overall.low), float(overall.high))


def why_undefined(positives: int, negatives: int) -> str:
    """Why a finding has no AUROC; empty if it has one."""
    if positives and negatives:
        return ""
    if not positives and not negatives:
        return "no image with a known label"
    return "no image without it" if positives else "no image with it"


def as_text(scored: Evaluation) -> str:
    """The table as text, for a terminal and for auroc.txt."""
    lines = [*scored.header, "", f"{'finding':<20}{'n':>7}  {'AUROC':>6}  95 % interval"]
    for row in scored.table.itertuples():
        if np.isnan(row.auroc):
            lines.append(f"{row.finding:<20}{row.positives:>7,}  {'–':>6}  undefined: {row.reason}")
        else:
            lines.append(f"{row.finding:<20}{row.positives:>7,}  {row.auroc:>6.3f}  {row.low:.3f} to {row.high:.3f}")
    value, low, high = scored.macro
    over = f"macro over {scored.defined} of {len(scored.table)}"
    lines.append(f"{over:<27}  {value:>6.3f}  {low:.3f} to {high:.3f}" if scored.defined else f"{over:<27}  {'–':>6}")
    return "\n".join([*lines, "n: images with the finding"]) + "\n"


def draw(scored: Evaluation):
    """The table as a picture: a point and its interval per finding, the macro below, chance as a line."""
    from matplotlib.figure import Figure

    from cxrlib.viz import PALETTE

    names = [f"{row.finding.replace('_', ' ')}  (n = {row.positives:,})" for row in scored.table.itertuples()]
    names.append(f"Macro over {scored.defined} of {len(scored.table)}")
    values = np.array([*scored.table["auroc"], scored.macro[0]])
    lows, highs = np.array([*scored.table["low"], scored.macro[1]]), np.array([*scored.table["high"], scored.macro[2]])
    places = np.arange(len(names))[::-1]
    colours = [PALETTE["blue"]] * (len(names) - 1) + [PALETTE["red"]]
    fig = Figure(figsize=(7.5, 0.32 * len(names) + 1.4), layout="constrained")
    ax = fig.subplots()
    for place, value, low, high, colour, reason in zip(places, values, lows, highs, colours, [*scored.table["reason"], ""]):
        if np.isnan(value):
            ax.text(0.51, place, f"undefined: {reason}", va="center", fontsize=9, color=PALETTE["grey"])
            continue
        ax.plot([low, high], [place, place], color=colour, lw=2)
        ax.plot(value, place, "D" if place == 0 else "o", color=colour, ms=6)
        ax.annotate(f"{value:.2f}", (value, place), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=8)
    ax.axvline(0.5, color=PALETTE["grey"], lw=1, ls="--")
    ax.set(yticks=places, yticklabels=names, xlabel="AUROC (points) and 95 % interval (lines); dashed: chance")
    ax.set_xlim(min(0.45, np.nanmin(lows, initial=0.45) - 0.02), 1.02)
    ax.set_ylim(-0.7, len(names) - 0.3)
    ax.set_title("\n".join(scored.header[:2]), fontsize=10, loc="left")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return fig


def write(scored: Evaluation, out: Path, *, run: dict, split: str, minutes: float | None) -> None:
    """Writes an evaluation in every form. NaN is an empty cell in CSV and null in JSON."""
    from cxrlib.viz import png_of

    with atomic_write(out / "auroc.txt") as file:
        file.write(as_text(scored))
    with atomic_write(out / "auroc.csv") as file:
        scored.table.to_csv(file, index=False, lineterminator="\n", float_format="%.6f")
    with atomic_write(out / "auroc.png", "wb") as file:
        file.write(png_of(draw(scored)))
    findings = list(scored.table["finding"])
    probability_NC = torch.from_numpy(scored.logits_NC).sigmoid().numpy()
    frame = pd.DataFrame({"image": scored.images, "patient": scored.patients})
    frame = pd.concat(
        [frame, pd.DataFrame(probability_NC, columns=findings), pd.DataFrame(scored.labels_NC, columns=[f"label {f}" for f in findings])],
        axis=1,
    )
    with atomic_write(out / "predictions.csv") as file:
        frame.to_csv(file, index=False, lineterminator="\n", float_format="%.6g")
    with atomic_write(out / "predictions.npz", "wb") as file:
        np.savez_compressed(
            file, logits_NC=scored.logits_NC, labels_NC=scored.labels_NC, findings=np.array(findings),
            images=np.array(scored.images), patients=np.array(scored.patients),
        )  # fmt: skip
    rows = scored.table.astype(object).where(scored.table.notna(), None).to_dict("records")
    macro_value, low, high = (None if np.isnan(number) else number for number in scored.macro)
    write_json(
        out / "auroc.json",
        {
            "split": split,
            "images": len(scored.images),
            "patients": len(set(scored.patients)),
            "notes": list(scored.header),
            "recipe": run["recipe"].to_json(),
            "data": scored.data,
            "trained_on": run["data"],
            "commit": run["commit"],
            "versions": versions(),
            "training_minutes": minutes,
            "findings": rows,
            "macro": {"auroc": macro_value, "low": low, "high": high, "defined": scored.defined},
        },
    )


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `evaluate` to the command line."""
    parser = subparsers.add_parser(
        "evaluate",
        help="score a run",
        description="AUROC per finding and macro, with 95 % intervals from a bootstrap over patients. "
        "The results go into RUN/evaluation/SPLIT/, those on another store beside it.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder made by train")
    parser.add_argument("--split", default="test", choices=("test", "validation", "train_val"), help="default: test")
    parser.add_argument("--data", metavar="STORE", help="another store than the one the run was trained on")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA where there is one")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap samples of patients; default: 1000")


def run(args: argparse.Namespace) -> int:
    """Scores, writes and prints."""
    if args.resamples < 2:
        raise CxrError(f"--resamples {args.resamples}: an interval needs at least 2, better 1000")
    scored = evaluate(args.run, split=args.split, data=args.data, device=args.device, resamples=args.resamples)
    folder, made = Path(args.run), read_run(args.run)
    result = read_json(folder / "result.json") if (folder / "result.json").exists() else None
    name = args.split
    if scored.data["sha256"] != made["data"]["sha256"]:
        name += f"-{Path(args.data or made['store']).resolve().name}-{scored.data['sha256'][:8]}"
    out = folder / "evaluation" / name
    minutes = round(result["seconds"] / 60, 2) if result else None
    write(scored, out, run=made, split=args.split, minutes=minutes)
    print(as_text(scored), end="")
    print(f"written to {out}")
    return 0
