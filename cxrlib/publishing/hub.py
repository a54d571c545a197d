"""A trained model as a folder that the Hugging Face hub, and anybody without the run, can read.

    FOLDER/model.safetensors     the best weights
    FOLDER/config.json           all that is needed to build the model and to show it an image
    FOLDER/README.md             the model card: see card.py
    FOLDER/evaluation/           the tables behind the card, as CSV

    python -m cxrlib publish RUN FOLDER
    model, findings, preprocessing = publishing.load("FOLDER")
"""

import argparse
import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cxrlib.data.augment import normalise, to_float
from cxrlib.errors import CxrError
from cxrlib.io import atomic_write, read_json, sha256_of, write_json
from cxrlib.localization.runs import load_run
from cxrlib.models import build_model
from cxrlib.models.weights import load_strict, read_safetensors
from cxrlib.publishing.card import card
from cxrlib.publishing.facts import Facts, gather
from cxrlib.training.checkpoint import BEST, write_tensors
from cxrlib.training.runs import versions

FORMAT = 1
SIZES = ("image_size", "patch_size", "width", "depth", "heads", "stem")


class Preprocessing(NamedTuple):
    """How a grey image becomes the model's input."""

    image_size: int
    mean: tuple[float, ...]
    """Taken off each channel, of values from 0 to 1. Its length is the number of channels."""
    std: tuple[float, ...]

    def __call__(self, img_BYX: Tensor) -> Tensor:
        """Grey bytes, bright where the film is, to img_BIYX: from 0 to 1, the channel repeated, mean and std.

        Raises:
            CxrError: They are no bytes, or of another size.
        """
        if img_BYX.dtype != torch.uint8 or img_BYX.ndim != 3 or tuple(img_BYX.shape[1:]) != (self.image_size, self.image_size):
            raise CxrError(
                f"this model reads uint8 images [B, {self.image_size}, {self.image_size}], not {img_BYX.dtype} {list(img_BYX.shape)}: "
                f"prepare them with --size {self.image_size}"
            )
        return normalise(to_float(img_BYX), mean=self.mean, std=self.std)


class Published(NamedTuple):
    """What `load` returns."""

    model: nn.Module
    """In eval mode."""
    findings: tuple[str, ...]
    """What its logits stand for, in order."""
    preprocessing: Preprocessing


def load(folder: str | Path) -> Published:
    """A published model: `(model, findings, preprocessing)`. Strict: every tensor must be there and fit, none may be left over.

    Raises:
        CxrError: The folder is no published model, is of another version, or its weights are not those that config.json names.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise CxrError(f"{folder} is no published model (it has no config.json): make one with python -m cxrlib publish RUN {folder}")
    config = read_json(folder / "config.json")
    if config.get("format") != FORMAT or config.get("library") != "cxrlib":
        raise CxrError(f"{folder}/config.json is not of this version of cxrlib (format {FORMAT}): publish the run again")
    weights = folder / "model.safetensors"
    if not weights.is_file() or sha256_of(weights) != config["sha256"]:
        raise CxrError(f"{weights} is missing or was changed: get the published file again")
    try:
        findings = tuple(config["findings"])
        seen = Preprocessing(config["image_size"], tuple(config["mean"]), tuple(config["std"]))
        sizes = {name: config[name] for name in SIZES}
        model = build_model(config["model"], config["options"], num_classes=len(findings), in_channels=len(seen.mean), drop_path=0.0, **sizes)
    except KeyError as error:
        raise CxrError(f"{folder}/config.json lacks {error}: get the published file again") from None
    load_strict(model, read_safetensors(weights), source=str(weights))
    return Published(model.eval(), findings, seen)


def publish(run: str | Path, out: str | Path, *, data: str | Path | None = None, words: str = "", resamples: int = 1000) -> Path:
    """Writes a run as a hub-style folder. All of it appears at once, or nothing.

    Args:
        run: Finished, and evaluated on test.
        out: The folder to make; it must not be there, or be empty.
        data: The store that the run was trained on, if it is no longer where it was.
        words: What a person has to say of intended use and limits, in Markdown. Empty: the card says that nobody said it.
        resamples: Bootstrap samples of patients for the subgroups.

    Returns:
        `out`.

    Raises:
        CxrError: `out` is in use, or see `facts.gather`.
    """
    run, out = Path(run), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CxrError(f"{out} is not empty: name a folder that is not there yet")
    model, _, _ = load_run(run)
    facts = gather(run, data=data, model=model, resamples=resamples)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
    try:
        _write(run, part, model, facts, words)
        os.chmod(part, 0o777 & ~_umask())  # mkdtemp makes private folders
        if out.exists():
            out.rmdir()  # empty: see above
        os.rename(part, out)
    except BaseException:
        with contextlib.suppress(OSError):
            shutil.rmtree(part)
        raise
    return out


def _write(run: Path, part: Path, model: nn.Module, facts: Facts, words: str) -> None:
    recipe = facts.recipe
    write_tensors(part / "model.safetensors", model.state_dict(), {"format": FORMAT, "from": BEST})
    config: dict[str, Any] = {
        "format": FORMAT,
        "library": "cxrlib",
        "model": recipe.model,
        "options": recipe.options,
        **{name: getattr(recipe, name) for name in SIZES},
        "findings": list(facts.findings),
        "mean": list(recipe.mean),
        "std": list(recipe.std),
        "input": "uint8 grey, bright bone; / 255; repeated to as many channels as mean has; - mean; / std",
        "output": "one logit per finding, in the order of findings",
        "sha256": sha256_of(part / "model.safetensors"),
        "trained_on": {name: facts.made["data"][name] for name in ("source", "sha256", "images", "size")},
        "commit": facts.made["commit"],
        "versions": facts.made["versions"],
        "published_with": versions(),
        "recipe": recipe.published(),
    }
    write_json(part / "config.json", config)
    tables = {"subgroups.csv": facts.subgroups, "calibration.csv": facts.calibrated, "localization.csv": facts.localization}
    for name, frame in tables.items():
        if frame is not None:
            with atomic_write(part / "evaluation" / name) as file:
                frame.to_csv(file, index=False, lineterminator="\n", float_format="%.6f")
    with atomic_write(part / "evaluation" / "auroc.csv") as file:
        file.write((run / "evaluation" / "test" / "auroc.csv").read_text(encoding="utf-8"))
    with atomic_write(part / "README.md") as file:
        file.write(card(facts, words=words))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `publish` to the command line."""
    parser = subparsers.add_parser(
        "publish",
        help="a trained model with its model card",
        description="Write a finished, evaluated run as a folder that the Hugging Face hub can read: weights, config.json, the tables, "
        "and a model card made from the run: data, recipe, licences, AUROC by sex, age and view with intervals, calibration, limits.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder made by train, and scored by evaluate --split test")
    parser.add_argument("out", metavar="FOLDER", help="the folder to make")
    parser.add_argument("--data", metavar="STORE", help="the store that the run was trained on, if it was moved")
    parser.add_argument("--words", metavar="FILE", help="Markdown on intended use and limits, written by a person, for the card")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap samples of patients; default: 1000")


def run(args: argparse.Namespace) -> int:
    """Publishes, and says where."""
    if args.resamples < 2:
        raise CxrError(f"--resamples {args.resamples}: an interval needs at least 2, better 1000")
    words = ""
    if args.words:
        file = Path(args.words)
        if not file.is_file():
            raise CxrError(f"{file} does not exist: write the card's words into it, or leave --words out")
        words = file.read_text(encoding="utf-8")
    out = publish(args.run, args.out, data=args.data, words=words, resamples=args.resamples)
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        print(f"{path.stat().st_size:>12,}  {path.relative_to(out)}")
    if not words:
        print("nobody has yet said what the model is for: give --words, or write the card's last part by hand")
    print(f"written to {out}")
    return 0
