"""Loading a teacher: the folder of a finished run, of any kind of model."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from cxrlib.data.augment import normalise
from cxrlib.errors import CxrError
from cxrlib.io import sha256_of
from cxrlib.licences import Origin, teacher_origins
from cxrlib.models.timm_classifier import TimmClassifier, licence_of
from cxrlib.models.weights import load_safetensors
from cxrlib.recipes import Recipe
from cxrlib.training.checkpoint import BEST
from cxrlib.training.runs import read_run
from cxrlib.training.setup import find_precision


class Teacher(NamedTuple):
    """A trained model, with what is needed to show it an image."""

    model: nn.Module
    recipe: Recipe
    """How it was trained: its image size, and how grey values become its input."""
    findings: tuple[str, ...]
    sha256: str
    """Of its weights."""
    name: str
    origins: tuple[Origin, ...] | None = None
    """Whose work is in it, for the student's model card. None: not known."""

    @torch.inference_mode()
    def logits(self, img_B1YX: torch.Tensor) -> torch.Tensor:
        """Its logits_BC for grey images from 0 to 1, of its own image size; in bf16 where a GPU computes in it."""
        kind = img_B1YX.device.type
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=find_precision(kind) == "bf16-mixed"):
            return self.model(normalise(img_B1YX, mean=self.recipe.mean, std=self.recipe.std)).logits_BC.float()


def load_teacher(run: str | Path, *, device: str = "cpu") -> Teacher:
    """The best weights of a run, as a teacher. If they began as someone else's, their licence is shown.

    CLARiTy's teacher is a ConvNeXt V2-B (arXiv 2301.00808): a run of the model "timm" with the option name=convnextv2_base.

    Args:
        run: A folder made by `train`.
        device: Where it will run.

    Raises:
        CxrError: The folder is no run, or has no weights yet.
    """
    run = Path(run)
    made = read_run(run)
    recipe = made["recipe"] if isinstance(made["recipe"], Recipe) else Recipe.from_json(made["recipe"])
    if not (run / BEST).is_file():
        raise CxrError(f"{run} has no {BEST} yet: let the teacher finish at least one epoch")
    findings = tuple(recipe.findings) or tuple(made["data"]["findings"])
    model = recipe.build(len(findings))
    load_safetensors(model, run / BEST)
    name = recipe.model
    if isinstance(model, TimmClassifier):
        name = model.name
        if recipe.weights:
            print(licence_of(recipe.weights), flush=True)
    return Teacher(model.to(device).eval(), recipe, findings, sha256_of(run / BEST), name, tuple(teacher_origins(run)))
