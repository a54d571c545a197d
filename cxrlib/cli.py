"""The command line: `python -m cxrlib COMMAND ...`. Each command lives in its own module; this one only finds it.

Bad input ends with one line on stderr and exit status 2. Ctrl-C ends with one line and 130.
"""

import argparse
import importlib
import sys

from cxrlib import __version__
from cxrlib.errors import CxrError
from cxrlib.io import FULL

COMMANDS: dict[str, tuple[str, str]] = {
    "phantom": ("cxrlib.phantom.cli", "draw a cohort of synthetic radiographs, as a folder laid out like NIH's"),
    "download": ("cxrlib.data.download", "fetch NIH ChestX-ray14: goes on with broken transfers, checks, unpacks"),
    "doctor": ("cxrlib.data.doctor", "say what is missing, broken or surprising in a folder of radiographs"),
    "prepare": ("cxrlib.data.prepare", "decode a folder once into a store that trains at memory speed"),
    "priors": ("cxrlib.priors.cli", "each finding's anatomical region, for every image of a store"),
    "composites": ("cxrlib.composites", "write a store with the same images and more labels, made from its findings"),
    "train": ("cxrlib.training.cli", "train a recipe on a store; the same command goes on with a stopped run"),
    "pretrain": ("cxrlib.pretraining.cli", "train an encoder on images alone (GMML, DINO), for train to start from"),
    "teach": ("cxrlib.distillation.cli", "store what a trained teacher says of every view that a student will see"),
    "evaluate": ("cxrlib.evaluation", "score a run: AUROC per finding with intervals, as text, CSV and a picture"),
    "runs": ("cxrlib.tracking.cli", "list runs, compare their settings, scores and curves"),
    "compare": ("cxrlib.comparison", "train and score every row of a named comparison, with several seeds"),
    "localize": ("cxrlib.localization.cli", "score where a model looks: maps or boxes against true boxes, with intervals"),
    "sanity": ("cxrlib.sanity.cli", "ask whether the maps of a run are true: every method and every test in one table"),
    "publish": ("cxrlib.publishing.hub", "write a trained model as a hub-style folder, with a model card made from the run"),
    "export": ("cxrlib.publishing.export", "write a trained model as an ONNX file, checked against torch"),
    "bench": ("cxrlib.bench", "measure this machine: store, phantom, and our training step beside timm's"),
}
"""Command: (the module with its `add_parser` and `run`, one line of help). A module is imported only when it is asked for."""


def overview() -> str:
    """The commands, one line each."""
    return "commands:\n" + "\n".join(f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items())


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit status.

    A command's module has `add_parser(subparsers)`, which adds its own parser, and `run(args)`, which returns an exit status
    or None for 0.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m cxrlib",
        description="Vision transformers for chest X-rays.",
        usage="%(prog)s COMMAND ... (--help after a command explains it)",
        epilog=overview(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cxrlib {__version__}")
    if not arguments or arguments[0].startswith("-"):
        parser.parse_args(arguments)  # --help and --version end here
        parser.print_help()
        return 2
    name = arguments[0]
    try:
        if name not in COMMANDS:
            raise CxrError(f"there is no command {name!r}: choose one of {', '.join(COMMANDS)}")
        command = importlib.import_module(COMMANDS[name][0])
        command.add_parser(parser.add_subparsers(dest="command", required=True, prog="python -m cxrlib"))
        return command.run(parser.parse_args(arguments)) or 0
    except CxrError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("stopped by Ctrl-C", 130)
    except BrokenPipeError:  # `... | head` closed the pipe
        sys.stderr.close()
        return 141
    except OSError as error:
        if error.errno in FULL:
            return _fail("no space left on the disk: free some and give the same command again; what was finished is kept", 2)
        if isinstance(error, PermissionError | NotADirectoryError | IsADirectoryError):
            return _fail(f"{error.strerror}: {error.filename}: check the path and its rights", 2)
        raise


def _fail(message: str, status: int) -> int:
    print(f"cxrlib: {' '.join(message.split())}", file=sys.stderr)
    return status
