"""The models. Importing this package registers them with timm."""

import inspect
from typing import Any

from torch import nn

from cxrlib.errors import CxrError
from cxrlib.models import hub, hub_clarity  # noqa: F401  (both register models)
from cxrlib.models.c_tran import CTran, CTranOutput
from cxrlib.models.clarity import Clarity, ClarityMaps, ClarityOutput
from cxrlib.models.lt_vit import LabelTokenViT, LTViTOutput
from cxrlib.models.query2label import Query2Label, Query2LabelOutput
from cxrlib.models.timm_classifier import TimmClassifier, TimmOutput
from cxrlib.models.vit import VisionTransformer, ViTOutput

MODELS: dict[str, type[nn.Module]] = {
    "vit": VisionTransformer,
    "lt_vit": LabelTokenViT,
    "clarity": Clarity,
    "c_tran": CTran,
    "query2label": Query2Label,
    "timm": TimmClassifier,
}
"""What a recipe's `model` may be. All take `VisionTransformer`'s arguments, and a few of their own."""


def build_model(name: str, options: dict[str, Any], **sizes: Any) -> nn.Module:
    """A model with random weights.

    Args:
        name: A key of `MODELS`.
        options: Arguments of this kind of model alone.
        **sizes: Arguments that every kind takes: see `VisionTransformer`.

    Raises:
        CxrError: There is no such kind of model, or it has no such option.
    """
    if name not in MODELS:
        raise CxrError(f"there is no model {name!r}: choose one of {', '.join(MODELS)}")
    own = [option for option in inspect.signature(MODELS[name]).parameters if option not in ("sizes", "num_classes")]
    wrong = [option for option in options if option not in own or option in sizes]
    if wrong:
        known = ", ".join(option for option in own if option not in sizes) or "none"
        raise CxrError(f"the model {name} has no option {wrong[0]!r} (its options: {known}): correct --option")
    try:
        return MODELS[name](**sizes, **options)
    except (TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:
        raise CxrError(f"the model {name} cannot be built with {options} ({error}): correct --option") from error


__all__ = [
    "MODELS",
    "Clarity",
    "ClarityMaps",
    "ClarityOutput",
    "CTran",
    "CTranOutput",
    "LTViTOutput",
    "LabelTokenViT",
    "Query2Label",
    "Query2LabelOutput",
    "TimmClassifier",
    "TimmOutput",
    "ViTOutput",
    "VisionTransformer",
    "build_model",
]
