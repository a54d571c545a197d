"""Puts together what `compare label_counts` gave for stores of 5, 13, 50 and 100 labels: one table.

    python -m cxrlib.composites_study data/results/label_counts FOLDER_5 FOLDER_13 FOLDER_50 FOLDER_100

A macro AUROC over fifty labels is another examination than one over five. So each model is scored twice: over all the labels
of its store, and over those that all stores share, where nothing differs but what else the model had to learn.

Letters of shapes: N images, C labels, S seeds, R resamples.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from cxrlib.comparison import RESAMPLES, Scored, interval, run_folder, score_row
from cxrlib.comparisons import label_counts
from cxrlib.composites import label_only_auroc
from cxrlib.data.store import ImageStore
from cxrlib.errors import CxrError
from cxrlib.io import atomic_write, read_json, write_json

TALKS, SILENT = "lt_vit", "lt_vit_none"


def told(scored: Scored) -> dict:
    """A mean over seeds with its interval, and each seed's value."""
    low, high = interval(scored.samples_R)
    return {"macro": float(scored.macro_S.mean()), "low": low, "high": high, "by_seed": scored.macro_S.tolist()}


def gain(first: Scored, second: Scored) -> dict:
    """The first less the second, on the same resamples of patients."""
    low, high = interval(first.samples_R - second.samples_R)
    by_seed = (first.macro_S - second.macro_S).tolist()
    return {"difference": float(np.mean(by_seed)), "low": low, "high": high, "by_seed": by_seed}


def gather(folders: list[Path], *, resamples: int = RESAMPLES) -> dict:
    """One table out of the folders that `compare label_counts` wrote, one per store.

    Raises:
        CxrError: A folder lacks its table, or the stores are not of the same images with growing lists of labels.
    """
    comparison = label_counts()
    results = [(read_json(folder / "label_counts" / "comparison.json"), folder) for folder in folders]
    results.sort(key=lambda pair: len(pair[0]["findings"]))
    first = results[0][0]
    shared = first["findings"]
    counts = []
    for result, folder in results:
        alike = all(result[key] == first[key] for key in ("seeds", "images", "patients"))
        if not alike or result["findings"][: len(shared)] != shared:
            raise CxrError(f"{folder} has other images, seeds or first labels than the smallest store: make all from one store")
        paths = {
            row.name: [run_folder(folder, row, seed) / "evaluation" / "test" / "predictions.npz" for seed in result["seeds"]]
            for row in comparison.rows
        }
        whole = {name: score_row(files, resamples=resamples) for name, files in paths.items()}
        common = {name: score_row(files, labels=len(shared), resamples=resamples) for name, files in paths.items()}
        store = ImageStore.open(read_json(run_folder(folder, comparison.rows[0], result["seeds"][0]) / "run.json")["store"])
        rows = store.where(split="train_val")
        alone_C = label_only_auroc(store.labels_NC[rows], store.patients[rows])
        counts.append(
            {
                "labels": len(result["findings"]),
                "findings": result["findings"],
                "data": {key: value for key, value in result["data"].items() if key != "findings"},
                "label_only": [None if np.isnan(value) else float(value) for value in alone_C],
                "rows": [
                    {key: row[key] for key in ("row", "words", "parameters", "macs", "processor_minutes", "auroc_by_finding")}
                    | {"all": told(whole[row["row"]]), "shared": told(common[row["row"]])}
                    for row in result["rows"]
                ],
                "talk": {"all": gain(whole[TALKS], whole[SILENT]), "shared": gain(common[TALKS], common[SILENT])},
            }
        )
    keys = ("question", "notes", "seeds", "images", "patients", "commits", "versions", "date")
    return {
        "title": comparison.title,
        "name": comparison.name,
        "commands": list(comparison.commands),
        "shared": shared,
        **{key: first[key] for key in keys},
        "counts": counts,
    }


def as_text(result: dict) -> str:
    """The table for a terminal."""
    seeds, shared = len(result["seeds"]), len(result["shared"])
    lines = [
        result["title"], *result["notes"],
        f"test split: {result['images']:,} images of {result['patients']:,} patients; {seeds} seeds",
        "", *(f"    {command}" for command in result["commands"]), "",
        f"{'labels':>6}  {'model':<28}{'params':>9} {'MMACs':>7} {'minutes':>8}  {'all labels, 95 % interval':<26} the {shared} shared",
    ]  # fmt: skip
    for count in result["counts"]:
        for row in count["rows"]:
            cells = [f"{row[part]['macro']:.3f} ({row[part]['low']:.3f} to {row[part]['high']:.3f})" for part in ("all", "shared")]
            lines.append(
                f"{count['labels']:>6}  {row['words']:<28}{row['parameters']:>9,} {row['macs'] / 1e6:>7.1f} "
                f"{np.mean(row['processor_minutes']):>8.1f}  {cells[0]:<26} {cells[1]}"
            )
        talk = count["talk"]["all"]
        alone = np.nanmean([np.nan if value is None else value for value in count["label_only"]])
        lines.append(
            f"{'':>8}talking is worth {talk['difference']:+.3f} ({talk['low']:+.3f} to {talk['high']:+.3f}); "
            f"a label is told from the others alone with AUROC {alone:.3f}"
        )
    return "\n".join([*lines, "minutes: processor minutes of one training run, mean over the seeds"]) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Writes OUT/comparison.json and OUT/table.txt."""
    parser = argparse.ArgumentParser(prog="python -m cxrlib.composites_study", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="what compare label_counts wrote, one per store")
    args = parser.parse_args(arguments)
    try:
        result = gather(args.folders)
    except CxrError as error:
        print(f"cxrlib: {error}", file=sys.stderr)
        return 2
    write_json(args.out / "comparison.json", result)
    with atomic_write(args.out / "table.txt") as file:
        file.write(as_text(result))
    print(as_text(result), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
