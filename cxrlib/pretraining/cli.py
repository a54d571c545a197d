"""`python -m cxrlib pretrain METHOD [RECIPE] --data STORE --out RUN`."""

import argparse
import inspect

from cxrlib.pretraining import recipes
from cxrlib.pretraining.fields import PretrainRecipe, field_help
from cxrlib.training.cli import add_run_options, run_options

NAMED = ("epochs", "batch", "lr", "seed", "weights")
"""Fields with an option of their own, as `train` has them."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `pretrain` to the command line. The help of a recipe's field is the string under it in its class."""
    lines = ["recipes:"]
    for method, makes in recipes.RECIPES.items():
        lines += [f"  {method} {name:<11}{inspect.getdoc(make).splitlines()[0]}" for name, make in makes.items()]
    for method, makes in recipes.RECIPES.items():
        lines += ["", f"fields of a {method} recipe (--set NAME=VALUE; several numbers: NAME=A,B):"]
        helps = field_help(type(makes["mu"]()))
        lines += [f"  {name:<20}{' '.join(text.split())}" for name, text in helps.items() if name != "name"]
    parser = subparsers.add_parser(
        "pretrain",
        help="train an encoder on images alone, without labels",
        description="Pre-train an encoder by GMML or DINO on the train_val images of a store; no label is read. The same "
        "command again goes on with a run that was stopped or killed. Training starts from RUN/encoder.safetensors.",
        epilog="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("method", metavar="METHOD", help="one of: " + ", ".join(recipes.RECIPES))
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", default="cpu", help="see below; cpu if none is named")
    parser.add_argument("--data", required=True, metavar="STORE", help="a store made by prepare")
    parser.add_argument("--out", required=True, metavar="RUN", help="the run folder: new, or one to go on with")
    for name in NAMED:
        parser.add_argument(f"--{name}", help=field_help(PretrainRecipe)[name])
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any other field; may be repeated")
    add_run_options(parser)


def run(args: argparse.Namespace) -> int:
    """Pre-trains; 0 when finished, 128 + signal when stopped by one."""
    named = {name: getattr(args, name) for name in NAMED}
    settings = [f"{name}={value}" for name, value in named.items() if value is not None]
    recipe = recipes.changed(recipes.get(args.method, args.recipe), settings + args.set)
    options = run_options(args)
    from cxrlib.pretraining import pretrain

    result = pretrain(
        recipe,
        args.data,
        args.out,
        **options,
    )
    return 128 + result["stopped"] if "stopped" in result else 0
