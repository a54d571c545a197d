"""Asking whether the maps of a trained run are true.

    python -m cxrlib sanity RUN --cohort COHORT

COHORT is a phantom cohort with masks; the run's own store is used unless another is named. Written into RUN/sanity/SPLIT:
sanity.txt, sanity.csv and sanity.json. Nothing is written before everything is computed.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from cxrlib import checkpoints
from cxrlib.data.store import ImageStore
from cxrlib.errors import CxrError
from cxrlib.evaluation import SYNTHETIC
from cxrlib.io import atomic_write, write_json
from cxrlib.localization.cli import fitting_methods
from cxrlib.localization.maps import map_method
from cxrlib.localization.readers import our_name
from cxrlib.localization.runs import load_run
from cxrlib.recipes import Recipe
from cxrlib.sanity.counterfactual import draw_twins
from cxrlib.sanity.deletion import BASELINES
from cxrlib.sanity.pairs import lesion_pairs
from cxrlib.sanity.table import (
    Material,
    as_text,
    masks_of_store,
    sanity_table,
    segmenter_row,
    twins_size,
)
from cxrlib.sanity.unet import fit_unet, unet_maps
from cxrlib.training.runs import data_of, git_commit, read_run, versions

TWINS = ("Mass", "Effusion", "Cardiomegaly", "Consolidation")
"""Findings that are taken away: one small, one at the edge, one that is anatomy, one that is diffuse."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `sanity` to the command line."""
    parser = subparsers.add_parser(
        "sanity",
        help="ask whether the maps of a run are true",
        description="Every map method in one table: weights destroyed, another patient's map, deletion and insertion, the lesion "
        "taken away, Dice against exact masks. Phantoms only, since their masks and twins are exact.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder made by train, or the name of a checkpoint that ships with the course")
    parser.add_argument("--cohort", metavar="FOLDER", required=True, help="the phantom cohort, with its masks")
    parser.add_argument("--data", metavar="STORE", help="default: the store that the run was trained on")
    parser.add_argument("--split", default="test", choices=("test", "train_val"), help="default: test")
    parser.add_argument("--method", nargs="+", metavar="METHOD", help="default: all that fit the run")
    parser.add_argument("--per-finding", type=int, default=12, help="films per finding; default: 12")
    parser.add_argument("--twins", type=int, default=12, help="patients drawn with and without each of four findings; default: 12")
    parser.add_argument("--baseline", choices=BASELINES, default="blur", help="what deletion replaces pixels by; default: blur")
    parser.add_argument("--steps", type=int, default=12, help="points on the deletion and insertion curves; default: 12")
    parser.add_argument("--unet-steps", type=int, default=0, metavar="N", help="train a U-Net on the masks of train_val for N steps and add its row; default: 0, none")
    parser.add_argument("--against", action="append", default=[], metavar="NAME=RUN", help="how alike its maps are to those of another run, such as one of another seed or one taught nonsense")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap samples of patients; default: 1000")
    parser.add_argument("--seed", type=int, default=0, help="of films, shuffling and U-Net; default: 0")
    parser.add_argument("--out", metavar="FOLDER", help="default: RUN/sanity/SPLIT")


def run(args: argparse.Namespace) -> int:
    """Tests, writes and prints."""
    if min(args.per_finding, args.twins, args.steps) < 2 or args.resamples < 2:
        raise CxrError("--per-finding, --twins, --steps and --resamples must be at least 2")
    model, recipe, findings, data, out = _opened(args)
    findings = tuple(our_name(name) for name in findings)
    store = ImageStore.open(data)
    size = twins_size(store, recipe)
    methods = args.method or fitting_methods(model)
    for method in methods:
        map_method(method)
    pairs = lesion_pairs(store, args.cohort, rows=store.where(split=args.split), per_finding=args.per_finding, findings=findings, seed=args.seed)
    twins = {name: draw_twins(name, seeds=range(10_000 + args.seed, 10_000 + args.seed + args.twins), size=size) for name in TWINS if name in findings}
    material = Material(store, pairs, twins, args.baseline, args.steps, args.resamples)
    others = _others(args.against, findings, recipe)
    with tqdm(total=len(methods), desc="sanity", unit="method") as bar:
        table = sanity_table(model, recipe, findings, material, methods=methods, others=others, seed=args.seed, done=lambda _: bar.update())
    if args.unet_steps:
        rows = np.asarray(store.where(split="train_val"))
        rows = rows[~np.isin(store.patients[rows], np.asarray(pairs.patient_M))]  # nobody it is scored on
        if not len(rows):
            raise CxrError("every patient of train_val is scored, so none is left to train a U-Net on: use --split test")
        net = fit_unet(store.images_NYX, masks_of_store(store, args.cohort, findings), rows, findings=len(findings), steps=args.unet_steps, seed=args.seed)
        table = pd.concat([table, segmenter_row(lambda films: unet_maps(net, films), findings, material)], ignore_index=True)
    header = [
        SYNTHETIC,
        f"recipe {recipe.name} ({recipe.model}), seed {recipe.seed}; {len(pairs)} films with a finding of {len(set(pairs.patient_M))} patients ({args.split})",
        f"at most {args.per_finding} films for each finding; {args.twins} twins each of {', '.join(twins)}; baseline {args.baseline}",
    ]
    about = {"title": header[1], "notes": [SYNTHETIC], "recipe": recipe.to_json(), "data": data_of(store), "split": args.split, "seed": args.seed, "pairs": len(pairs), "patients": len(set(pairs.patient_M)), "twins": args.twins, "baseline": args.baseline, "steps": args.steps, "unet_steps": args.unet_steps, "versions": versions(), "commit": git_commit()}
    write(table, out, header=header, about=about)
    print(as_text(table, header), end="")
    print(f"written to {out}")
    return 0


def _opened(args: argparse.Namespace):
    """Model, recipe, findings, store and folder to write: of a run, or of a checkpoint that ships with the course."""
    if args.run in checkpoints.names() and not Path(args.run).exists():
        if not (args.data and args.out):
            raise CxrError(f"{args.run} is a checkpoint: say which images with --data STORE, and where to write with --out FOLDER")
        return *checkpoints.load(args.run), args.data, Path(args.out)
    made = read_run(args.run)
    return *load_run(args.run), args.data or made["store"], Path(args.out or Path(args.run) / "sanity" / args.split)


def _others(against: list[str], findings: tuple[str, ...], recipe: Recipe) -> dict:
    """The runs of --against."""
    others = {}
    for text in against:
        name, _, folder = text.partition("=")
        if not (name and folder):
            raise CxrError(f"--against {text}: give a name and a run, such as seed=RUN")
        net, other, known = load_run(folder)
        differs = [name for name in ("image_size", "mean", "std") if getattr(other, name) != getattr(recipe, name)]
        if differs:
            raise CxrError(f"{folder} has another {differs[0]} than the run: it cannot look at the same images")
        if tuple(our_name(other) for other in known) != findings:
            raise CxrError(f"{folder} was trained on other findings: maps can only be compared finding by finding")
        others[name] = net
    return others


def write(table: pd.DataFrame, out: Path, *, header: list[str], about: dict) -> None:
    """Writes the table as text, CSV and JSON."""
    with atomic_write(out / "sanity.txt") as file:
        file.write(as_text(table, header))
    with atomic_write(out / "sanity.csv") as file:
        table.to_csv(file, index=False, lineterminator="\n", float_format="%.6f")
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    write_json(out / "sanity.json", about | {"rows": rows})
