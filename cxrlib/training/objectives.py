"""What each kind of model is trained to make small.

An objective is a function of the model and one part of a batch. It returns a scalar that is already divided by the known
labels of the whole batch (`Batch.known`), so that the parts of a batch, and the processes, add up. Whatever is random in it is
drawn from torch's own generator, which the loop seeds anew before every step: so a resumed run repeats it.
"""

from collections.abc import Callable

from torch import Tensor, nn

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


def objective_of(model: str) -> Callable[[nn.Module, Tensor, Tensor, float], Tensor]:
    """The objective of a kind of model (a key of `cxrlib.models.MODELS`)."""
    return OBJECTIVES.get(model, classification)
