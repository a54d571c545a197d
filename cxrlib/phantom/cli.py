"""`python -m cxrlib phantom OUT`: writes a phantom cohort, or a contact sheet."""

import argparse

from cxrlib.errors import CxrError
from cxrlib.phantom.cohort import SENTENCE, write_cohort


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the `phantom` command to the main parser."""
    parser = subparsers.add_parser(
        "phantom",
        help="write a cohort of synthetic radiographs",
        description=f"Writes synthetic radiographs. {SENTENCE}",
    )
    parser.add_argument("out", nargs="?", metavar="OUT", help="folder to make")
    parser.add_argument("--n", type=int, default=2000, help="images (default %(default)s)")
    parser.add_argument("--size", type=int, default=224, help="pixels per side (default %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed gives the same bytes (default %(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="processes; changes no byte (default %(default)s)"
    )
    parser.add_argument(
        "--prevalence", choices=("nih", "enriched"), default="nih", help="how frequent findings are"
    )
    parser.add_argument("--label-noise", type=float, default=0.0, help="chance that a positive label is lost")
    parser.add_argument(
        "--shortcut", metavar="KIND:FINDING:STRENGTH[:TEST]", help="for example drain:Pneumothorax:0.9:0.5"
    )
    parser.add_argument(
        "--contact-sheet", metavar="FILE", help="instead of a cohort, write one picture of every finding"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Runs the command. Returns the exit code."""
    if args.contact_sheet:
        from cxrlib.phantom.sheet import write_contact_sheet

        print(f"wrote {write_contact_sheet(args.contact_sheet, seed=args.seed)}")
        return 0
    if args.out is None:
        raise CxrError("name the folder to write: python -m cxrlib phantom OUT")
    out = write_cohort(
        args.out, n=args.n, size=args.size, seed=args.seed, workers=args.workers, prevalence=args.prevalence,
        label_noise=args.label_noise, shortcut=args.shortcut,
    )  # fmt: skip
    print(f"{out}: {args.n} images at {args.size} px. {SENTENCE}")
    return 0
