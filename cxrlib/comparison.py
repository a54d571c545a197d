"""Comparing models fairly: one store, one recipe (but for a rate where a comparison says so), several seeds, differences with
intervals.

    python -m cxrlib compare lt_vit_rivals --data STORE --out FOLDER

Trains every row of a named comparison (see `comparisons.py`) with every seed, scores each on the test patients, and writes
FOLDER/<name>/: table.txt and comparison.json. The same command goes on where it was stopped; rows that two comparisons share
are trained once.

Two kinds of chance make two models differ: which patients were scored, and which random numbers the training drew. The
intervals here are of the first kind, of the mean over the seeds: the same resampled patients for every row and seed. Of the
second kind every seed's own value is printed.

Letters of shapes: N images, C findings, S seeds, R resamples.
"""

import argparse
import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cxrlib.comparisons import COMPARISONS, Comparison, Row
from cxrlib.errors import CxrError
from cxrlib.io import atomic_write, read_json, write_json
from cxrlib.metrics import auroc, bootstrap_by_patient, macro_interval
from cxrlib.recipes import Recipe

SEEDS = (0, 1, 2)
RESAMPLES = 1000


class Scored(NamedTuple):
    """One row's test scores over all seeds."""

    macro_S: np.ndarray
    """Macro AUROC of each seed."""
    auroc_SC: np.ndarray
    """AUROC of each seed and finding."""
    samples_R: np.ndarray
    """Macro AUROC of each resample of patients, averaged over the seeds."""


def score_row(predictions: list[Path], *, labels: int | None = None, resamples: int = RESAMPLES) -> Scored:
    """Scores one row from its predictions, one predictions.npz per seed; over its first `labels` findings if told.

    Every row is resampled with the same random numbers, so that the r-th resample holds the same patients in all of them.
    """
    macros, aurocs, samples = [], [], []
    for path in predictions:
        with np.load(path, allow_pickle=False) as file:
            columns = (file["logits_NC"][:, :labels], file["labels_NC"][:, :labels])
            each = bootstrap_by_patient(*columns, file["patients"], metric=auroc, resamples=resamples, seed=0)
        overall = macro_interval(each)
        macros.append(float(overall.value))
        aurocs.append(each.value)
        samples.append(overall.samples_RC[:, 0])
    return Scored(np.array(macros), np.stack(aurocs), np.mean(samples, axis=0))


def interval(samples_R: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of the resamples."""
    low, high = np.percentile(samples_R, [2.5, 97.5])
    return float(low), float(high)


def folder_of(out: Path, name: str, seed: int) -> Path:
    """Where what has this name and seed lies in a comparison's folder: a row's run, a pre-training, a teacher's logits."""
    return out / "runs" / f"{name}-seed{seed}"


def run_folder(out: Path, row: Row, seed: int) -> Path:
    """Where a row's run with a seed lies."""
    return folder_of(out, row.name, seed)


def train_row(
    row: Row, seed: int, *, data: Path, out: Path, device: str, priors: str = "", teacher: str = ""
) -> Path:
    """Trains and scores one row with one seed, pre-training its start first if it names one. Finished steps are not repeated.

    Args:
        row: What to train.
        seed: With which random numbers.
        data: The store.
        out: The comparison's folder.
        device: "cpu", "cuda" or "auto".
        priors: Regions for CLARiTy's rows.
        teacher: A finished run whose word CLARiTy's rows get, if they weigh it.

    Returns:
        predictions.npz of the test patients.
    """
    from cxrlib import evaluation, comparison_maps
    from cxrlib.training import train

    recipe = dataclasses.replace(row.recipe, seed=seed)
    if row.start:
        recipe = dataclasses.replace(recipe, weights=str(started(row.start, seed, data=data, out=out, device=device)))
    if recipe.model == "clarity":
        recipe = dataclasses.replace(recipe, priors=priors)
        if recipe.losses.get("teacher", 1):
            recipe = dataclasses.replace(recipe, teacher=str(taught(teacher, recipe, data=data, out=out, device=device)))
    run = run_folder(out, row, seed)
    result = train(recipe, data, run, device=device)
    if "stopped" in result:
        raise KeyboardInterrupt
    predictions = run / "evaluation" / "test" / "predictions.npz"
    if not (predictions.parent / "auroc.json").exists():  # the file that is written last
        scored = evaluation.evaluate(run, split="test", data=data, device=device, resamples=RESAMPLES)
        evaluation.write(
            scored, predictions.parent, run=evaluation.read_run(run), split="test", minutes=round(result["seconds"] / 60, 2)
        )
    if row.maps:
        comparison_maps.localize_row(row, run, comparison_maps.test_truth(data), data=data, device=device)
    return predictions


def taught(teacher: str, recipe: Recipe, *, data: Path, out: Path, device: str) -> Path:
    """The logits that a teacher says of a recipe's views; rows of the same seed, epochs and augmentation share them.

    Raises:
        CxrError: No teacher was named.
    """
    from cxrlib.data.store import ImageStore
    from cxrlib.distillation import load_teacher, make_logits
    from cxrlib.training.setup import chosen_labels, find_device, split_rows

    if not teacher:
        raise CxrError("these rows learn from a teacher: train one on the same store (train cpu) and give --teacher RUN")
    store, device = ImageStore.open(data), find_device(device)
    rows, _ = split_rows(store, chosen_labels(store, recipe)[1], recipe)
    folder = folder_of(out, f"logits-{recipe.epochs}-epochs", recipe.seed)
    make_logits(
        store, folder, load_teacher(teacher, device=device), rows=rows, seed=recipe.seed, epochs=recipe.epochs,
        ranges=recipe.ranges, device=device, progress=True,
    )  # fmt: skip
    return folder


def started(start: str, seed: int, *, data: Path, out: Path, device: str) -> Path:
    """The weights that a start names, of the same seed: a finished row's, or those of an encoder that is pre-trained on train_val's
    images, unless that is done already.

    Raises:
        CxrError: That row was not trained in this folder, or not on these images.
    """
    from cxrlib.data.store import ImageStore
    from cxrlib.pretraining import pretrain
    from cxrlib.pretraining.recipes import get
    from cxrlib.training.checkpoint import BEST

    method, _, name = start.partition(":")
    if method == "run":
        run = folder_of(out, name, seed)
        if not (run / "result.json").exists():
            raise CxrError(f"{run} is not finished: run the comparison that trains {name} with the same --out first")
        trained_on, store = read_json(run / "run.json")["data"], ImageStore.open(data)
        if (trained_on["source"], trained_on["images"], tuple(trained_on["findings"])) != (store.source, store.n, store.findings):
            raise CxrError(f"{run} was trained on other images than {data} holds: prepare both stores from one cohort")
        return run / BEST
    folder = folder_of(out, f"{method}-{name}", seed)
    result = pretrain(dataclasses.replace(get(method, name), seed=seed), data, folder, device=device)
    if "stopped" in result:
        raise KeyboardInterrupt
    return folder / "encoder.safetensors"


def gather(comparison: Comparison, out: Path, seeds: tuple[int, ...], *, data: Path | None = None) -> dict:
    """Reads the predictions of every row and seed and puts the table together.

    Args:
        comparison: What was compared.
        out: Its folder.
        seeds: All of them.
        data: The store, which holds the true boxes. Needed where rows have maps.

    Raises:
        CxrError: A row was not scored yet, or two rows were scored on different images.
    """
    from cxrlib import comparison_maps

    scored, first = {}, None
    for row in comparison.rows:
        paths = [run_folder(out, row, seed) / "evaluation" / "test" / "predictions.npz" for seed in seeds]
        for path in paths:
            if not path.exists():
                raise CxrError(f"{path.parents[2]} was not scored yet: give the same compare command again to go on")
            with np.load(path, allow_pickle=False) as file:
                same = [file[key] for key in ("images", "findings", "labels_NC")]
            first = first or same
            if not all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(first, same)):
                raise CxrError(f"{path} holds other images, findings or labels than the first row: compare rows on one store")
        scored[row.name] = score_row(paths)
    made = read_json(run_folder(out, comparison.rows[0], seeds[0]) / "evaluation" / "test" / "auroc.json")
    commits = sorted({str(read_json(run_folder(out, row, seed) / "run.json")["commit"]) for row in comparison.rows for seed in seeds})
    findings = [str(name) for name in first[1]]
    rows = []
    for row in comparison.rows:
        own, reference = scored[row.name], scored[comparison.reference]
        low, high = interval(own.samples_R)
        difference_R = own.samples_R - reference.samples_R
        parameters, macs = cost(row, len(findings))
        done = [read_json(run_folder(out, row, seed) / "result.json") for seed in seeds]
        rows.append(
            {
                "row": row.name,
                "words": row.words,
                "start": row.start,
                "recipe": row.recipe.to_json(),
                "parameters": parameters,
                "macs": macs,
                "macro_by_seed": own.macro_S.tolist(),
                "macro": float(own.macro_S.mean()),
                "low": low,
                "high": high,
                "difference": float((own.macro_S - reference.macro_S).mean()),
                "difference_by_seed": (own.macro_S - reference.macro_S).tolist(),
                "difference_low": interval(difference_R)[0],
                "difference_high": interval(difference_R)[1],
                "auroc_by_finding": [None if np.isnan(v) else float(v) for v in own.auroc_SC.mean(axis=0)],
                "best_epochs": [int(one["best_epoch"]) for one in done],
                "processor_minutes": [round(one["cpu_seconds"] / 60, 1) for one in done],
            }
        )
    return {
        "title": comparison.title,
        "name": comparison.name,
        "question": comparison.question,
        "reference": comparison.reference,
        "notes": [*(made["notes"][:1] if made["data"]["source"] == "phantom" else []), *comparison.notes],
        "commands": list(comparison.commands),
        "date": datetime.now(UTC).date().isoformat(),
        "seeds": list(seeds),
        "data": made["data"],
        "images": made["images"],
        "patients": made["patients"],
        "commits": commits,
        "versions": made["versions"],
        "findings": findings,
        "rows": rows,
        "localization": comparison_maps.gather_maps(comparison, lambda row, seed: run_folder(out, row, seed), seeds, data=data),
    }


def cost(row: Row, findings: int) -> tuple[int, int]:
    """Parameters, and multiply-accumulates of one image's forward pass."""
    from cxrlib.models.cost import macs, parameters

    model = row.recipe.build(findings)
    return parameters(model), macs(model)


def as_text(result: dict) -> str:
    """The comparison as a table for a terminal."""
    from cxrlib.comparison_maps import maps_text

    width = max(len(row["words"]) for row in result["rows"])
    seeds = len(result["seeds"])
    lines = [
        result["title"], *result["notes"],
        f"test split: {result['images']:,} images of {result['patients']:,} patients; data {result['data']['sha256'][:16]}; "
        f"{seeds} seeds; {result['date']}",
        "", *(f"    {command}" for command in result["commands"]), "",
        f"{'':<{width}}  {'params':>9} {'MMACs':>7}  {'macro AUROC':>11}  {'95 % interval':<14}  {'each seed':<{6 * seeds}} "
        "difference and its interval",
    ]  # fmt: skip
    for row in result["rows"]:
        each = " ".join(f"{value:.3f}" for value in row["macro_by_seed"])
        difference = "reference"
        if row["row"] != result["reference"]:
            difference = f"{row['difference']:+.3f} ({row['difference_low']:+.3f} to {row['difference_high']:+.3f})"
        lines.append(
            f"{row['words']:<{width}}  {row['parameters']:>9,} {row['macs'] / 1e6:>7.1f}  {row['macro']:>11.3f}  "
            f"{row['low']:.3f} to {row['high']:.3f}  {each:<{6 * seeds}} {difference}"
        )
    over = "of the mean over the seeds" if seeds > 1 else "of one seed"
    lines.append(f"intervals: {over}, 1,000 bootstrap samples of patients, the same for every row")
    return "\n".join(lines) + "\n" + (maps_text(result["localization"]) if result.get("localization") else "")


def write(result: dict, folder: Path) -> None:
    """Writes table.txt and comparison.json."""
    write_json(folder / "comparison.json", result)
    with atomic_write(folder / "table.txt") as file:
        file.write(as_text(result))


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `compare` to the command line."""
    parser = subparsers.add_parser(
        "compare",
        help="train and score every row of a comparison",
        description="Train every row of a comparison with several seeds and put their test scores side by side.",
        epilog="comparisons:\n" + "\n".join(f"  {name:<18}{make().question}" for name, make in COMPARISONS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="COMPARISON", choices=list(COMPARISONS), help="one of: " + ", ".join(COMPARISONS))
    parser.add_argument("--data", required=True, metavar="STORE", help="a store made by prepare")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="runs and tables; new, or one to go on with")
    parser.add_argument("--seeds", default="0,1,2", help="with commas between; default: 0,1,2")
    parser.add_argument("--rows", help="only these rows, with commas between; no table is written unless all are there")
    parser.add_argument("--priors", default="", metavar="PRIORS", help="regions made by priors make, for CLARiTy's rows")
    parser.add_argument("--teacher", default="", metavar="RUN", help="a run on the same store, for the rows that learn from a teacher")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA where there is one")


def run(args: argparse.Namespace) -> int:
    """Trains, scores, writes and prints."""
    comparison = COMPARISONS[args.name]()
    try:
        seeds = tuple(int(seed) for seed in args.seeds.split(","))
    except ValueError:
        raise CxrError(f"--seeds {args.seeds}: write whole numbers with commas between, for example 0,1,2") from None
    names = [row.name for row in comparison.rows]
    chosen = args.rows.split(",") if args.rows else names
    wrong = [name for name in chosen if name not in names]
    if wrong:
        raise CxrError(f"{args.name} has no row {wrong[0]!r}: its rows are {', '.join(names)}")
    out = Path(args.out)
    for seed in seeds:  # seed by seed, so that a comparison that is stopped early is whole for the seeds it has
        for row in comparison.rows:
            if row.name in chosen:
                print(f"== {row.words}, seed {seed}", flush=True)
                train_row(
                    row, seed, data=Path(args.data), out=out, device=args.device, priors=args.priors, teacher=args.teacher
                )
    if len(chosen) == len(names):
        result = gather(comparison, out, seeds, data=Path(args.data))
        write(result, out / comparison.name)
        print(as_text(result), end="")
        print(f"written to {out / comparison.name}")
    return 0
