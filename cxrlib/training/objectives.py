"""What each kind of model is trained to make small.

An objective is a function of the model and one part of a batch. It returns a scalar that is already divided by the known
labels of the whole batch (`Batch.known`), so that the parts of a batch, and the processes, add up (in expectation, where an
objective draws something). Whatever is random in it is
drawn from torch's own generator, which the loop seeds anew before every step: so a resumed run repeats it.
"""

from collections.abc import Callable

from torch import Tensor, nn

from cxrlib.errors import CxrError
from cxrlib.losses import masked_bce
from cxrlib.models.c_tran import c_tran_loss
from cxrlib.models.query2label import query2label_loss


def classification(model: nn.Module, img_BIYX: Tensor, labels_BC: Tensor, known: float) -> Tensor:
    """Binary cross-entropy of the logits over the known labels."""
    return masked_bce(model(img_BIYX).logits_BC, labels_BC, count=known)


OBJECTIVES: dict[str, Callable[[nn.Module, Tensor, Tensor, float], Tensor]] = {
    "c_tran": c_tran_loss,
    "query2label": query2label_loss,
}
"""Kind of model -> its objective, where it is not plain classification."""


PLAIN = frozenset({"vit", "lt_vit", "timm"})
"""Kinds of model that are trained by plain classification."""


def objective_of(model: str) -> Callable[[nn.Module, Tensor, Tensor, float], Tensor]:
    """The objective of a kind of model (a key of `cxrlib.models.MODELS`).

    Raises:
        CxrError: The model has losses of its own that `train` does not compute yet.
    """
    if model in PLAIN:
        return classification
    if model not in OBJECTIVES:
        raise CxrError(
            f"{model} has losses of its own (cxrlib.losses), which train does not compute yet: choose another --model, or call "
            "them in a loop of your own"
        )
    return OBJECTIVES[model]
