"""`python -m cxrlib train RECIPE --data STORE --out RUN`."""

import argparse
import dataclasses
import inspect
import json

from cxrlib import recipes
from cxrlib.errors import CxrError
from cxrlib.findings import FINDING_GROUPS, parse_findings


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `train` to the command line. The help of a recipe's field is the string under it in `Recipe`."""
    text = recipes.field_help()
    listed = "\n".join(f"  {name:<15}{inspect.getdoc(make).splitlines()[0]}" for name, make in recipes.RECIPES.items())
    parser = subparsers.add_parser(
        "train",
        help="train a recipe on a store",
        description="Train a recipe on a store. The same command again goes on with a run that was stopped or killed.",
        epilog=f"recipes:\n{listed}\n\ncxrlib/recipes.py says what each costs and is expected to score.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="one of: " + ", ".join(recipes.RECIPES))
    parser.add_argument("--data", required=True, metavar="STORE", help="a store made by prepare")
    parser.add_argument("--out", required=True, metavar="RUN", help="the run folder: new, or one to go on with")
    parser.add_argument("--epochs", type=int, help=text["epochs"])
    parser.add_argument("--batch", type=int, help=text["batch"])
    parser.add_argument("--micro-batch", type=int, help=text["micro_batch"])
    parser.add_argument("--lr", type=float, help=text["lr"])
    parser.add_argument("--seed", type=int, help=text["seed"])
    parser.add_argument("--weights", help=text["weights"])
    parser.add_argument("--model", help=text["model"])
    parser.add_argument(
        "--option", action="append", type=option, metavar="NAME=VALUE", help="an argument of that model; may be repeated"
    )
    parser.add_argument("--priors", metavar="PRIORS", help=text["priors"])
    parser.add_argument("--teacher", metavar="LOGITS", help=text["teacher"])
    parser.add_argument(
        "--loss", action="append", type=option, metavar="NAME=WEIGHT", help="the weight of one of that model's losses; may be repeated"
    )
    parser.add_argument(
        "--findings", type=parse_findings, metavar="A,B,...",
        help=f"the findings to learn: names with commas between, or one of {', '.join(FINDING_GROUPS)}",
    )  # fmt: skip
    parser.add_argument(
        "--rehearsal", action="store_true", help="the same recipe with a tiny model for two short epochs: does everything fit together?"
    )
    add_run_options(parser)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options of any run that may be long, `pretrain`'s too: where it computes, and how often it is saved."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA where there is one")
    parser.add_argument("--devices", type=int, default=1, help="processes on this machine, one device each")
    parser.add_argument("--compile", action="store_true", help="let torch write the kernels of the layers: slow to start, faster steps")
    parser.add_argument(
        "--recompute", action="store_true", help="keep no layer's inner values: far less memory, about a third more time (activation checkpointing)"
    )
    parser.add_argument(
        "--checkpoint-minutes", type=float, default=2.0, help="how often the state is saved, besides after every epoch"
    )
    parser.add_argument("--checkpoint-steps", type=int, default=0, help="also save after every so many steps")
    parser.add_argument("--tensorboard", action="store_true", help="also write TensorBoard's event files, into RUN/tensorboard")


def run_options(args: argparse.Namespace) -> dict:
    """What `add_run_options` read, as arguments of `train` and `pretrain`.

    Raises:
        CxrError: Fewer than one device is asked for.
    """
    if args.devices < 1:
        raise CxrError(f"--devices {args.devices}: ask for at least one")
    names = ("device", "devices", "compile", "recompute", "checkpoint_minutes", "checkpoint_steps", "tensorboard")
    return {name: getattr(args, name) for name in names}


def option(text: str) -> tuple[str, int | float | bool | str]:
    """NAME=VALUE, with the value as a number or a truth where it looks like one."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE: write for example n2=2")
    try:
        return name, json.loads(value.lower() if value.lower() in ("true", "false") else value)
    except ValueError:
        return name, value


def run(args: argparse.Namespace) -> int:
    """Trains; 0 when finished, 128 + signal when stopped by one."""
    recipe = recipes.get(args.recipe)
    names = ("epochs", "batch", "micro_batch", "lr", "seed", "weights", "model", "findings", "priors", "teacher")
    changes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    # Options and losses belong to a model: another model begins without the recipe's own.
    same = args.model in (None, recipe.model)
    changes["options"] = (recipe.options if same else {}) | dict(args.option or ())
    changes["losses"] = (recipe.losses if same else {}) | dict(args.loss or ())
    recipe = dataclasses.replace(recipe, **changes)
    if args.rehearsal:
        recipe = recipes.rehearsal(recipe)
    options = run_options(args)
    from cxrlib.training import train

    result = train(recipe, args.data, args.out, **options)
    return 128 + result["stopped"] if "stopped" in result else 0
