"""Scoring where a model looks.

    python -m cxrlib localize RUN --method rollout grad_cam --data STORE
    python -m cxrlib localize --boxes predictions.csv --data FOLDER --out RESULTS
    python -m cxrlib localize --maps MAPS --data FOLDER --out RESULTS

Written: localization.txt, .csv and .json, boxes.csv (the predicted ones), worth.csv (each true box), thresholds.json,
published.csv and overlays.png. Nothing is written before everything is computed.
"""

import argparse
import dataclasses
from pathlib import Path

from cxrlib.data.store import ImageStore
from cxrlib.errors import CxrError
from cxrlib.localization import sheet
from cxrlib.localization.maps import MAP_METHODS, map_method
from cxrlib.localization.mask_protocol import phantom_masks
from cxrlib.localization.pixels import pixels_of
from cxrlib.localization.predictions import read_predictions
from cxrlib.localization.protocol import OBJECTIVES, SEEDS, first_boxes, sweep_of
from cxrlib.localization.readers import our_name, read_annotations
from cxrlib.localization.report import Report, Row, as_text, findings_of, fixed_row, map_rows, mask_scores, report_of, write
from cxrlib.localization.runs import load_run, maps_of_model
from cxrlib.localization.stream import ImageMaps, candidates, read_maps
from cxrlib.localization.truth import Truth, open_data, truth_of
from cxrlib.phantom.belongs import check_belongs
from cxrlib.training.runs import data_of, git_commit, read_run, versions
from cxrlib.training.setup import find_device


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `localize` to the command line."""
    from cxrlib.localization import attribution  # noqa: F401  (registers its methods)

    methods = "; ".join(f"{name}: {method.text}" for name, method in MAP_METHODS.items())
    parser = subparsers.add_parser(
        "localize",
        help="score where a model looks",
        description="From maps to boxes to a table: IoU accuracy with intervals, beside a blind box, a random map, the ceiling of a "
        "grid, and what others published. Maps need thresholds: they are fitted on one half of the patients and scored on the other.",
        epilog=f"methods: {methods}",
    )
    parser.add_argument("run", metavar="RUN", nargs="?", help="a run folder made by train")
    parser.add_argument("--method", nargs="+", metavar="METHOD", help="how maps are made (below); several give one table. Default: all that fit")
    parser.add_argument("--boxes", metavar="CSV", help="instead of a run: boxes that somebody predicted")
    parser.add_argument("--maps", metavar="FOLDER", help="instead of a run: maps that somebody saved, one .npz per image")
    parser.add_argument("--data", metavar="STORE|FOLDER|FILE", help="where the true boxes are: a store, a data set's folder, or a file of ChestX-Det, CheXlocalize, VinDr, RSNA or COCO; default: the store that the run was trained on")
    parser.add_argument("--metadata", metavar="DIR", help="another folder with NIH's tables")
    parser.add_argument("--split", default="test", choices=("test", "train_val", "all"), help="default: test")
    parser.add_argument("--truth", metavar="CSV", help="other true boxes, in NIH's format, such as a phantom cohort's boxes_all.csv")
    parser.add_argument("--masks", metavar="COHORT|FILE", help="drawn masks, which add Dice and Hausdorff distance: the phantom cohort that the data were prepared from (default: --data, if it is one), or a file of ChestX-Det or CheXlocalize")
    parser.add_argument("--findings", nargs="+", metavar="FINDING", help="score these only")
    parser.add_argument("--frame", type=int, metavar="SIDE", help="--boxes are in a square of so many pixels, not in those of the original image")
    parser.add_argument("--two-level", action="store_true", help="no tuning: the two fixed levels and up to three boxes of Wang et al. 2017")
    parser.add_argument("--objective", default=OBJECTIVES[0], choices=OBJECTIVES, help=f"what a threshold maximises; default: {OBJECTIVES[0]}")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"draws of halves; default: {SEEDS}")
    parser.add_argument("--size", type=int, default=1024, help="longer side to which maps are upsampled, at most the original's; default: 1024")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap samples of patients; default: 1000")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA where there is one")
    parser.add_argument("--out", metavar="FOLDER", help="default for a run: RUN/localization/SPLIT")


def run(args: argparse.Namespace) -> int:
    """Scores, writes and prints."""
    _check(args)
    data = args.data or read_run(args.run)["store"]
    findings = tuple(dict.fromkeys(our_name(name) for name in args.findings)) if args.findings else None
    mask_of = None
    if Path(data).is_file():  # another set's boxes, without its images
        studies, truth = None, read_annotations(data).truth(findings=findings)
    else:
        studies = open_data(data, metadata=args.metadata)
        truth = truth_of(studies, split=None if args.split == "all" else args.split, findings=findings, boxes=args.truth)
    if args.masks and Path(args.masks).is_file():
        mask_of = read_annotations(args.masks).mask
    elif args.masks or (Path(data) / "phantom.json").is_file():
        mask_of = phantom_masks(args.masks or data)
        if (Path(data) / "store.json").is_file():
            check_belongs(args.masks or data, ImageStore.open(data))
        elif args.masks and Path(args.masks).resolve() != Path(data).resolve():
            raise CxrError(f"{data} is no store, so --masks {args.masks} cannot be checked to be of the same images: leave --masks out, or give a store")
    pairs = sheet.chosen_pairs(truth.boxes)
    kept: dict = {}
    about = {"split": args.split, "command": "localize", "versions": versions(), "commit": git_commit()}
    if args.boxes:
        predicted, header = read_predictions(args.boxes, truth, frame=args.frame)
        rows = [fixed_row(Path(args.boxes).stem, "boxes as given", truth.boxes, predicted, findings or findings_of(truth), args.resamples, mask_of)]
        thresholds: tuple = ()
        name = f"boxes of {Path(args.boxes).name}"
    else:
        rows, thresholds, predicted, header, name, more = _score_maps(args, studies, truth, pairs, kept, findings, mask_of)
        about |= more
    report = report_of(
        rows, truth, header=header, predicted=predicted, thresholds=thresholds, findings=findings, seeds=args.seeds,
        resamples=args.resamples, size=args.size, mask_of=mask_of,
    )  # fmt: skip
    out = Path(args.out or Path(args.run) / "localization" / args.split)
    write(report, out, about=about, picture=_picture(studies, truth, pairs, report, kept, name))
    print(as_text(report), end="")
    print(f"written to {out}")
    return 0


def _check(args: argparse.Namespace) -> None:
    if sum(bool(source) for source in (args.run, args.boxes, args.maps)) != 1:
        raise CxrError("give one of RUN, --boxes CSV and --maps FOLDER")
    if not args.run and not (args.data and args.out):
        raise CxrError("without a run, --data (where the true boxes are) and --out (where to write) are needed")
    if args.method and not args.run:
        raise CxrError("--method says how maps are made of a run: leave it out with --boxes or --maps")
    if args.frame is not None and not args.boxes:
        raise CxrError("--frame belongs to --boxes: maps always cover the whole image")
    if args.run and args.data and Path(args.data).is_file():
        raise CxrError(f"{args.data} has boxes but no images, and a run needs images: give a store or a data set's folder")
    if args.resamples < 2 or args.seeds < 1 or args.size < 8:
        raise CxrError("--resamples must be at least 2 (better 1000), --seeds at least 1, --size at least 8")


def _score_maps(args, studies, truth: Truth, pairs, kept: dict, findings, mask_of):
    """Rows, thresholds, boxes for the overlays, words, a name and facts for the JSON: from a run or from saved maps."""
    images = list(dict.fromkeys(truth.boxes["image"]))
    options = {"seeds": args.seeds, "objective": args.objective, "resamples": args.resamples}
    levels = {"levels": ()} if args.two_level else {}

    def rows_of(name: str, maps, square: int | None, first: bool) -> tuple[list[Row], tuple, object]:
        """`maps()` gives the maps of all boxed images, whenever it is called."""
        boxes = candidates(truth.boxes, sheet.keeping(maps(), pairs, kept) if first else maps(), square=square, size=args.size, **levels)
        chosen = findings or findings_of(truth)
        if args.two_level:
            boxes = boxes.drop(columns="level")
            how = "two fixed levels, up to three boxes, of which the best counts"
            return [fixed_row(name, how, truth.boxes, boxes, chosen, args.resamples, mask_of)], (), boxes
        sweep = sweep_of(boxes, truth.boxes)
        rows, fitted = map_rows(name, sweep, chosen, **options)
        if mask_of:
            masks = mask_scores(truth.boxes, maps, mask_of, chosen, seeds=args.seeds, resamples=args.resamples, square=square)
            rows[0] = dataclasses.replace(rows[0], masks=masks)
        return rows, fitted.thresholds, first_boxes(sweep, fitted)

    if args.maps:
        name = Path(args.maps).name
        rows, thresholds, predicted = rows_of(name, lambda: read_maps(args.maps, truth), None, True)
        return rows, thresholds, predicted, [f"maps of {name}"], f"maps of {name}", {}
    device = find_device(args.device)
    model, recipe, known = load_run(args.run, device=device)
    known = tuple(our_name(name) for name in known)
    missing = [finding for finding in dict.fromkeys(truth.boxes["finding"]) if finding not in known]
    if missing:
        raise CxrError(f"the run has no output for {', '.join(missing)}, which has true boxes: leave it out of the score with --findings")
    methods = args.method or fitting_methods(model)
    for method in methods:
        map_method(method)  # a wrong name is said before the first image is read
    rows, thresholds, predicted = [], (), None
    wanted = {image: set(mine["finding"]) for image, mine in truth.boxes.groupby("image")}
    with pixels_of(studies, images, size=recipe.image_size) as store:
        if store is None:
            raise CxrError(f"{studies.root} has no image files, and maps need images: give the folder or the store that has them")
        for method in methods:
            maps = maps_of_model(model, store, images, method=method, findings=known, mean=recipe.mean, std=recipe.std, device=device, wanted=wanted)
            # A map has a few hundred cells and only those of true boxes are kept: some megabytes, so that no forward pass is repeated.
            held = [_only(item, wanted[item.image]) for item in maps]
            more, fitted, boxes = rows_of(method, lambda: held, store.size, method == methods[0])
            rows += more
            if method == methods[0]:
                thresholds, predicted = fitted, boxes
        about = {"recipe": recipe.to_json(), "data": data_of(store), "methods": list(methods)}
    header = [f"recipe {recipe.name} ({recipe.model}), seed {recipe.seed}; maps: {', '.join(methods)}"]
    return rows, thresholds, predicted, header, f"{recipe.name}, {methods[0]}", about


def _only(item: ImageMaps, findings: set[str]) -> ImageMaps:
    """An image's maps of these findings alone."""
    places = [place for place, finding in enumerate(item.findings) if finding in findings]
    return item._replace(findings=tuple(item.findings[place] for place in places), map_Cyx=item.map_Cyx[places])


def fitting_methods(model) -> list[str]:
    """The methods that fit a model, its own first; those without a model last."""
    from cxrlib.localization.attribution import fits

    return [name for name, method in MAP_METHODS.items() if method.needs_model and fits(name, model)] + [
        name for name, method in MAP_METHODS.items() if not method.needs_model
    ]


def _picture(studies, truth: Truth, pairs, report: Report, kept: dict, name: str) -> bytes | None:
    """The contact sheet; None if the data has no images."""
    if studies is None:
        return None
    with pixels_of(studies, list(pairs["image"])) as store:
        if store is None:
            return None
        return sheet.draw(store, pairs, truth.boxes, report.predicted, kept, title=f"{name}: {truth.name}")
