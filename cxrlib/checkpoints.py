"""Small trained models that ship with the course, so that a chapter may look into one without training it.

    from cxrlib import checkpoints
    model, recipe, findings = checkpoints.load("clarity_phantom")

    python -m cxrlib.checkpoints RUN NAME --command TEXT        make one from a finished, evaluated run

Each is a folder data/checkpoints/NAME: model.safetensors and checkpoint.json, which says what made it: recipe, seed, command, the
hash of the images, test scores, versions. They were trained on synthetic phantoms and know nothing of patients.
"""

import argparse
import shutil
from pathlib import Path

from torch import nn

import cxrlib
from cxrlib.errors import CxrError
from cxrlib.io import read_json, sha256_of, write_json
from cxrlib.recipes import Recipe

LARGEST = 10 * 2**20
"""Most bytes of one checkpoint: they travel with the repository."""


def folder() -> Path:
    """The checkout's data/checkpoints if there is one, else the package's own copies (made by setup.py)."""
    package = Path(cxrlib.__file__).parent
    checkout = package.parent / "data" / "checkpoints"
    return checkout if (package.parent / "pyproject.toml").is_file() and checkout.is_dir() else package / "course" / "checkpoints"


def names() -> list[str]:
    """Those that there are."""
    return sorted(path.parent.name for path in folder().glob("*/checkpoint.json"))


def about(name: str) -> dict:
    """What made a checkpoint, and how it scores: checkpoint.json.

    Raises:
        CxrError: There is none of that name.
    """
    path = folder() / name / "checkpoint.json"
    if not path.is_file():
        raise CxrError(f"there is no checkpoint {name!r}: there are {', '.join(names()) or 'none'}")
    return read_json(path)


def load(name: str) -> tuple[nn.Module, Recipe, tuple[str, ...]]:
    """A checkpoint as `(model in eval mode, recipe, findings)`.

    Raises:
        CxrError: There is none of that name, or its file is not the one that checkpoint.json describes.
    """
    from cxrlib.models.weights import load_safetensors

    made = about(name)
    weights = folder() / name / "model.safetensors"
    if not weights.is_file() or sha256_of(weights) != made["sha256"]:
        raise CxrError(f"{weights} is missing or was changed: get the repository's file again")
    recipe, findings = Recipe.from_json(made["recipe"]), tuple(made["findings"])
    model = recipe.build(len(findings))
    load_safetensors(model, weights)
    return model.eval(), recipe, findings


def export(run: str | Path, name: str, *, command: str, out: Path | None = None) -> Path:
    """Makes a checkpoint of a run's best weights.

    Args:
        run: Trained and evaluated on its test split.
        name: Of the checkpoint.
        command: What trained it, with generic paths.
        out: The folder of checkpoints; None: `folder()`.

    Returns:
        The checkpoint's folder.

    Raises:
        CxrError: The run is unfinished or not evaluated, or its weights are too large.
    """
    from cxrlib.training.checkpoint import BEST
    from cxrlib.training.runs import read_run

    run, target = Path(run), (out or folder()) / name
    made = read_run(run)
    scores = run / "evaluation" / "test" / "auroc.json"
    for path, what in ((run / "result.json", "let its training finish"), (scores, "evaluate it with --split test")):
        if not path.is_file():
            raise CxrError(f"{run} has no {path.name} yet: {what}")
    if (run / BEST).stat().st_size > LARGEST:
        raise CxrError(f"the weights of {run} are larger than {LARGEST / 2**20:.0f} MiB: checkpoints travel with the repository")
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / BEST, target / "model.safetensors")
    recipe, done = made["recipe"], read_json(run / "result.json")
    scored = read_json(scores)
    write_json(
        target / "checkpoint.json",
        {
            "name": name,
            "notes": ["synthetic images: nothing here says anything about patients"] if made["data"]["source"] == "phantom" else [],
            "command": command,
            "recipe": recipe.published(),
            "findings": list(recipe.findings or made["data"]["findings"]),
            "data": made["data"],
            "seed": recipe.seed,
            "sha256": sha256_of(target / "model.safetensors"),
            "commit": made["commit"],
            "versions": made["versions"],
            "epoch": done["best_epoch"],
            "validation_macro_auroc": done["best_macro_auroc"],
            "test_macro_auroc": scored["macro"],
            "test_images": scored["images"],
        },
    )
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a small checkpoint that ships with the course, from a finished, evaluated run.")
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--command", required=True, help="what trained it, with generic paths")
    args = parser.parse_args()
    try:
        print(export(args.run, args.name, command=args.command))
    except CxrError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
