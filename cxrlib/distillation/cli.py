"""`python -m cxrlib teach TEACHER --data STORE --recipe RECIPE --out LOGITS`."""

import argparse
import dataclasses

from cxrlib import recipes
from cxrlib.data.store import ImageStore
from cxrlib.distillation.logits import make_logits
from cxrlib.distillation.teacher import load_teacher
from cxrlib.findings import parse_findings
from cxrlib.training.setup import chosen_labels, find_device, split_rows


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser("teach", help="store what a trained teacher says of every view that a student will see")
    parser.add_argument("teacher", help="the folder of a finished run")
    parser.add_argument("--data", required=True, help="the store that the student will train on")
    parser.add_argument("--images", help="the same images at the teacher's size, if it reads another size")
    parser.add_argument("--recipe", required=True, help=f"the student's recipe: {', '.join(recipes.RECIPES)}")
    parser.add_argument("--out", required=True, help="the folder to write")
    parser.add_argument("--epochs", type=int, help="of the student, if not the recipe's")
    parser.add_argument("--seed", type=int, help="of the student, if not the recipe's")
    parser.add_argument("--findings", type=parse_findings, metavar="A,B,...", help="of the student, if not all")
    parser.add_argument("--batch", type=int, default=64, help="views that the teacher sees at once")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA where there is one")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Stores a teacher's logits."""
    changes = {name: getattr(args, name) for name in ("epochs", "seed", "findings") if getattr(args, name) is not None}
    recipe = dataclasses.replace(recipes.get(args.recipe), **changes)
    store, device = ImageStore.open(args.data), find_device(args.device)
    # The same rows as the training takes: they depend on the labels only in that a validation without any is refused.
    _, labels_NC = chosen_labels(store, recipe)
    rows, _ = split_rows(store, labels_NC, recipe)
    teacher = load_teacher(args.teacher, device=device)
    meta = make_logits(
        store, args.out, teacher, rows=rows, seed=recipe.seed, epochs=recipe.epochs, ranges=recipe.ranges,
        images=ImageStore.open(args.images) if args.images else None, batch=args.batch, device=device, progress=True,
    )  # fmt: skip
    views = meta["views"]
    print(
        f"{args.out}: logits of {teacher.name} for {views['n']} images in {views['epochs']} epochs, "
        f"{sum(block['bytes'] for block in meta['blocks']) / 1e6:.1f} MB"
    )
    return 0
