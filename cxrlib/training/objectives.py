"""What each kind of model is trained to make small.

An objective is a function of the model and one part of a batch. It returns a scalar that is already divided by the counts of
the whole batch (`Part.known` and so on), so that the parts of a batch, and the processes, add up (in expectation, where an
objective draws something). Whatever is random in it is drawn from torch's own generator, which the loop seeds anew before every
step: so a resumed run repeats it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from cxrlib.data.store import ImageStore
from cxrlib.errors import CxrError
from cxrlib.losses import masked_bce
from cxrlib.models.c_tran import c_tran_loss
from cxrlib.models.query2label import query2label_loss
from cxrlib.recipes import Recipe


class Part(NamedTuple):
    """What an objective is told of one part of a batch, beside images and labels. B is the images of the part."""

    rows_B: np.ndarray
    """Their rows in the image store."""
    matrix_B23: Tensor
    """What moved each image: see `cxrlib.data.augment.augment`."""
    done: float
    """Epochs trained so far, with their fraction."""
    known: float
    """Known labels in the whole global batch."""
    present: float
    """Of these, the labels that are 1."""
    images: float
    """Images in the whole global batch."""


Objective = Callable[[nn.Module, Tensor, Tensor, Part], Tensor]
"""(model, img_BIYX, labels_BC, part) -> scalar."""


def classification(model: nn.Module, img_BIYX: Tensor, labels_BC: Tensor, part: Part) -> Tensor:
    """Binary cross-entropy of the logits over the known labels."""
    return masked_bce(model(img_BIYX).logits_BC, labels_BC, count=part.known)


def c_tran(model: nn.Module, img_BIYX: Tensor, labels_BC: Tensor, part: Part) -> Tensor:
    """See `cxrlib.models.c_tran.c_tran_loss`."""
    return c_tran_loss(model, img_BIYX, labels_BC, part.known)


def query2label(model: nn.Module, img_BIYX: Tensor, labels_BC: Tensor, part: Part) -> Tensor:
    """See `cxrlib.models.query2label.query2label_loss`."""
    return query2label_loss(model, img_BIYX, labels_BC, part.known)


OBJECTIVES: dict[str, Objective] = {
    "vit": classification,
    "lt_vit": classification,
    "timm": classification,
    "c_tran": c_tran,
    "query2label": query2label,
}
"""Kind of model -> its objective. CLARiTy's is made for each run: it reads regions and a teacher's logits."""


def make_objective(
    recipe: Recipe, store: ImageStore, findings: tuple[str, ...], train_rows: np.ndarray, *, grid: tuple[int, int] | None
) -> Objective:
    """The objective of a recipe's kind of model.

    Args:
        recipe: What is trained.
        store: The images, which regions and logits must belong to.
        findings: Along C.
        train_rows: The rows that are trained on.
        grid: Rows and columns of patches; None for a model without patches.

    Raises:
        CxrError: The recipe asks for losses, regions or a teacher that do not fit.
    """
    if recipe.model == "clarity":
        from cxrlib.training.clarity import clarity_objective  # its teachers are runs, which this package reads

        return clarity_objective(recipe, store, findings, train_rows, grid=grid)
    for name in ("losses", "priors", "teacher"):
        if getattr(recipe, name):
            raise CxrError(f"{name} is an option of the model clarity, and this recipe trains {recipe.model}: leave --{name.replace('losses', 'loss')} out")
    return OBJECTIVES[recipe.model]
