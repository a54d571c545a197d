"""`python -m cxrlib runs FOLDER...`: list runs, compare them, show them in TensorBoard."""

import argparse
import json
from pathlib import Path

from cxrlib.errors import CxrError
from cxrlib.io import atomic_write
from cxrlib.tracking.compare import as_text, draw
from cxrlib.tracking.events import EventFile
from cxrlib.tracking.folders import TrackedRun, find_runs
from cxrlib.tracking.table import COLUMNS, as_table, row_of, sort_runs


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `runs` to the command line."""
    parser = subparsers.add_parser(
        "runs",
        help="list and compare runs",
        description="List all trainings and pre-trainings in and below some folders, one line each.",
        epilog="state: finished; running (a process holds the folder); stopped (told to, and saved); died (by a kill or an "
        "error); unfinished (the file system knows no locks, so nobody can tell whether it runs); damaged. The same "
        "command goes on with a stopped run and with one that died. validation: the best macro AUROC. A plus after a commit: "
        "files differed from it.",
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="a run folder, or a folder above some")
    parser.add_argument("--sort", default="name", metavar="COLUMN", help=f"one of: {', '.join(COLUMNS)}; default: name")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--compare", action="store_true", help="print the settings that differ, and the scores, side by side")
    parser.add_argument("--picture", metavar="FILE.png", help="draw validation AUROC and loss over epochs")
    parser.add_argument("--tensorboard", metavar="OUT", help="write each run's curves as TensorBoard event files: OUT/NAME")


def run(args: argparse.Namespace) -> int:
    """Prints the table, or what was asked for instead."""
    if args.json and args.compare:
        raise CxrError("--json and --compare are two things: choose one")
    runs = sort_runs(find_runs(args.folders), args.sort)
    if args.compare:
        print(as_text(runs), end="")
    elif args.json:
        print(json.dumps([row_of(one) for one in runs], indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print(as_table(runs), end="")
    if args.picture:
        write_picture(runs, Path(args.picture))
    if args.tensorboard:
        write_tensorboard(runs, Path(args.tensorboard))
    return 0


def write_picture(runs: list[TrackedRun], path: Path) -> None:
    """Draws the curves of some runs into a PNG file.

    Raises:
        CxrError: The file would not be a PNG, or there is no curve.
    """
    from cxrlib.viz import png_of

    if path.suffix.lower() != ".png":
        raise CxrError(f"{path} is no PNG file: give --picture a name that ends with .png")
    picture = png_of(draw(runs))
    with atomic_write(path, "wb") as file:
        file.write(picture)


def write_tensorboard(runs: list[TrackedRun], out: Path) -> None:
    """Writes the logs of some runs as event files, a folder per run; damaged runs are left out.

    Raises:
        CxrError: TensorBoard is not installed.
    """
    for one in runs:
        if one.state != "damaged":
            EventFile(out / one.name.strip("/"), one.lines).close()
