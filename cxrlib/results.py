"""Gathers evaluated runs, one per seed, into a result that can be shown to others: a table and a JSON file.

    python -m cxrlib.results data/results/phantom_cpu RUN_0 RUN_1 RUN_2 --title "..." --command "python -m cxrlib ..."

What is written holds numbers and their provenance, and no path of the machine that made it.
"""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from cxrlib.errors import CxrError
from cxrlib.io import atomic_write, read_json, write_json
from cxrlib.training.runs import read_run


def gather(runs: list[Path], *, title: str, commands: list[str], split: str = "test") -> dict:
    """One result out of the runs of one recipe on one store with different seeds.

    Args:
        runs: Evaluated run folders.
        title: What the table shows, in one line.
        commands: The commands that lead to it, with generic paths.
        split: Which evaluation to gather.

    Raises:
        CxrError: A run is not finished or not evaluated, has no macro AUROC, or the runs differ in more than the seed.
    """
    parts = []
    for run in runs:
        made = read_run(run)
        done, scored = read_json(run / "result.json"), read_json(run / "evaluation" / split / "auroc.json")
        if scored["macro"]["auroc"] is None:
            raise CxrError(f"{run} has no macro AUROC on the {split} split: evaluate it on a store with positives and negatives")
        recipe = made["recipe"].published()
        parts.append((recipe, made, done, scored))
    first_recipe, first, _, first_scored = parts[0]
    same = [
        # Each seed has logits of its own views: only whether there is a teacher is compared.
        (recipe | {"seed": 0, "teacher": bool(recipe["teacher"])}, made["data"], made["weights_sha256"], scored["data"])
        for recipe, made, _, scored in parts
    ]
    if any(other != same[0] for other in same):
        raise CxrError("these runs differ in more than the seed: gather runs of one recipe on one store, from the same weights")
    seeds = [recipe["seed"] for recipe, *_ in parts]
    if len(set(seeds)) < len(seeds):
        raise CxrError(f"the seeds {seeds} are not all different: name each run once")
    aurocs_SC = np.array([[row["auroc"] for row in scored["findings"]] for *_, scored in parts], dtype=float)
    macros_S = np.array([scored["macro"]["auroc"] for *_, scored in parts], dtype=float)
    return {
        "title": title,
        "notes": first_scored["notes"],
        "commands": commands,
        "date": datetime.now(UTC).date().isoformat(),
        "seeds": seeds,
        "recipe": first_recipe,
        "data": first_scored["data"],
        "trained_on": first["data"],
        "versions": first["versions"],
        "commit": first["commit"],
        "split": split,
        "images": first_scored["images"],
        "patients": first_scored["patients"],
        "runs": [
            {
                "seed": recipe["seed"],
                "minutes": round(done["seconds"] / 60, 1),
                "processor_minutes": round(done["cpu_seconds"] / 60, 1),
                "threads": done["threads"],
                "device": done["device"],
                "epochs": done["epochs"],
                "best_epoch": done["best_epoch"],
                "validation_macro_auroc": done["best_macro_auroc"],
                "findings": scored["findings"],
                "macro": scored["macro"],
            }
            for recipe, _, done, scored in parts
        ],
        "over_seeds": {
            "macro_mean": float(macros_S.mean()),
            "macro_lowest": float(macros_S.min()),
            "macro_highest": float(macros_S.max()),
            "findings_mean": [None if np.isnan(value) else float(value) for value in aurocs_SC.mean(axis=0)],
        },
    }


def as_text(result: dict) -> str:
    """The result as a table: the first seed with its intervals, and the mean over the seeds beside it if there are several."""
    first, several = result["runs"][0], len(result["seeds"]) > 1
    lines = [result["title"], *result["notes"], f"data {result['data']['sha256'][:16]}, {result['date']}", ""]
    lines += [f"    {command}" for command in result["commands"]]
    for run in result["runs"]:
        lines.append(
            f"seed {run['seed']}: macro {run['macro']['auroc']:.3f} ({run['macro']['low']:.3f} to {run['macro']['high']:.3f}), "
            f"{run['minutes']} min on {run['device']} with {run['threads']} threads, of which {run['processor_minutes']} processor "
            f"minutes, best epoch {run['best_epoch']} of {run['epochs']}"
        )
    mean = f"  mean of {len(result['seeds'])} seeds" if several else ""
    lines += ["", f"{'finding':<20}{'n':>6}  {'AUROC':>6}  95 % interval (seed {first['seed']}){mean}"]
    for row, average in zip(first["findings"], result["over_seeds"]["findings_mean"]):
        last = f"{'–' if average is None else format(average, '.3f'):>14}" if several else ""
        if row["auroc"] is None:
            lines.append(f"{row['finding']:<20}{row['positives']:>6,}  {'–':>6}  {'undefined: ' + row['reason']:<22}{last}")
        else:
            lines.append(
                f"{row['finding']:<20}{row['positives']:>6,}  {row['auroc']:>6.3f}  {row['low']:.3f} to {row['high']:.3f}{'':<8}{last}"
            )
    macro = first["macro"]
    last = f"{result['over_seeds']['macro_mean']:>14.3f}" if several else ""
    over = f"macro over {macro['defined']} of {len(first['findings'])}"
    lines.append(f"{over:<26}  {macro['auroc']:>6.3f}  {macro['low']:.3f} to {macro['high']:.3f}{'':<8}{last}")
    return "\n".join([*lines, "n: images with the finding"]) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Writes OUT/table.txt, OUT/result.json and OUT/auroc.png (the first seed's picture)."""
    parser = argparse.ArgumentParser(prog="python -m cxrlib.results", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="evaluated run folders, one per seed")
    parser.add_argument("--title", required=True, help="what the table shows")
    parser.add_argument("--command", action="append", default=[], help="a command that leads to it; give it for each")
    args = parser.parse_args(arguments)
    try:
        result = gather(args.runs, title=args.title, commands=args.command)
    except CxrError as error:
        print(f"cxrlib: {error}", file=sys.stderr)
        return 2
    write_json(args.out / "result.json", result)
    with atomic_write(args.out / "table.txt") as file:
        file.write(as_text(result))
    with atomic_write(args.out / "auroc.png", "wb") as file:
        file.write((args.runs[0] / "evaluation" / "test" / "auroc.png").read_bytes())
    print(as_text(result), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
