"""`python -m cxrlib priors make | check`."""

import argparse

from cxrlib.data.store import ImageStore
from cxrlib.errors import CxrError
from cxrlib.findings import parse_findings
from cxrlib.io import sha256_of
from cxrlib.priors.check import as_table, check_priors, check_template
from cxrlib.priors.sources import find_pspnet, phantom_source, pspnet_source, template_source
from cxrlib.priors.store import PriorStore, make_priors
from cxrlib.training.setup import find_device

NAMELESS = "a template that looks at no image: its regions are nobody's anatomy"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command and its two parts."""
    parser = subparsers.add_parser("priors", help="each finding's anatomical region, for every image of a store")
    parts = parser.add_subparsers(dest="part", required=True)
    make = parts.add_parser("make", help="compute the regions once, into a folder that training reads")
    make.add_argument("store", help="an image store made by prepare")
    make.add_argument("out", help="the folder to write")
    make.add_argument("--source", choices=("pspnet", "phantom", "template"), required=True, help="where the anatomy comes from")
    make.add_argument("--phantom", metavar="FOLDER", help="the phantom cohort that the store was prepared from")
    make.add_argument("--weights", metavar="FILE", help="PSPNet's weights; otherwise where TorchXRayVision keeps them")
    make.add_argument("--findings", type=parse_findings, metavar="A,B,...", help="only these, for example chexpert11; otherwise all of the store's")
    make.add_argument("--size", type=int, default=64, help="side of the regions in pixels (default 64)")
    make.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where PSPNet runs; auto: CUDA where there is one")
    check = parts.add_parser("check", help="how much of each box of a finding lies inside its region")
    check.add_argument("priors", nargs="?", help="a folder made by priors make; without it, the template against all of NIH's boxes")
    check.add_argument("store", nargs="?", help="the image store that the priors belong to")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Makes or checks priors."""
    return _make(args) if args.part == "make" else _check(args)


def _make(args: argparse.Namespace) -> int:
    store = ImageStore.open(args.store)
    details = {}
    if args.source == "phantom":
        if args.phantom is None:
            raise CxrError("--source phantom needs --phantom FOLDER: the cohort that the store was prepared from")
        structures_of = phantom_source(store, args.size, args.phantom)
    elif args.source == "pspnet":
        weights = find_pspnet(args.weights)
        details = {"weights_sha256": sha256_of(weights)}
        print(f"PSPNet's weights: {weights}, SHA-256 {details['weights_sha256']}")
        structures_of = pspnet_source(store, args.size, weights, find_device(args.device))
    else:
        print(f"note: {NAMELESS}")
        structures_of = template_source(store, args.size)
    priors = make_priors(
        store, args.out, source=args.source, structures_of=structures_of, findings=args.findings, size=args.size, details=details,
        progress=True,
    )
    print(f"{args.out}: regions of {len(priors.findings)} findings for {store.n} images, source {priors.source}")
    if priors.replaced:
        print(f"note: {priors.replaced} empty regions were replaced by the template's")
    return 0


def _check(args: argparse.Namespace) -> int:
    if args.priors is None:
        print(f"NIH's boxes against {NAMELESS}")
        results = check_template()
    else:
        if args.store is None:
            raise CxrError("priors check PRIORS needs the image store as well: its boxes are what is checked")
        store = ImageStore.open(args.store)
        results = check_priors(PriorStore.open(args.priors, store), store)
    if not results:
        raise CxrError("the store has no boxes: check priors of images that have some")
    table = as_table(results).rename(
        columns={"inside": "share of a box inside", "whole": "boxes 95 % inside", "region": "share of image"}
    )
    print(table.to_string(index=False, float_format=lambda value: f"{value:.2f}"))
    return 0
