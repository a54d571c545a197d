"""The models. Importing this package registers them with timm."""

from cxrlib.models import hub  # noqa: F401  (registers the models)
from cxrlib.models.vit import VisionTransformer, ViTOutput

__all__ = ["VisionTransformer", "ViTOutput"]
