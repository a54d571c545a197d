"""What a pre-training run is told: the fields of its recipe. The string under a field is its help."""

import dataclasses
import math
from typing import Any, ClassVar

from cxrlib import recipes
from cxrlib.errors import CxrError
from cxrlib.models.vit import VisionTransformer


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    """What every pre-training has. The encoder's shape must be that of the model which will start from it."""

    method: ClassVar[str]

    name: str
    """The function that made the recipe."""
    seed: int = 0
    """Fixes the first weights, the order of the images and whatever is drawn in a step."""

    image_size: int = 224
    """Side of the image, in pixels. The store must have it."""
    patch_size: int = 16
    """Side of a patch, in pixels."""
    stem: str = "patch"
    """"patch" for one convolution, or "conv" for a stack of small ones, which learns faster from few images."""
    width: int = 384
    """Length of a token."""
    depth: int = 12
    """Encoder layers."""
    heads: int = 6
    """Attention heads per layer."""
    drop_path: float = 0.0
    """Chance that the last layer is skipped for an image while training."""
    init: str = "timm"
    """Random first weights: "timm" as timm draws them, or "fan", which a small ViT learns from much sooner."""
    weights: str = ""
    """Weights to start from: a .safetensors file, or a name that timm knows. Empty: random ones."""
    mean: tuple[float, ...] = (0.5,)
    """Grey value taken off each input channel; its length is the number of channels."""
    std: tuple[float, ...] = (0.25,)
    """What each input channel is divided by."""

    epochs: int = 30
    """Passes over the images."""
    batch: int = 64
    """Images per step, over all devices together."""
    lr: float = 1e-3
    """Peak learning rate, for this batch."""
    min_lr: float = 1e-6
    """Learning rate at the end."""
    warmup_epochs: float = 1.0
    """Epochs in which the learning rate climbs to its peak."""
    weight_decay: float = 0.04
    """AdamW's decoupled weight decay at the start."""
    weight_decay_end: float = 0.4
    """And at the end; it grows along half a cosine."""
    clip: float = 3.0
    """Largest norm of the gradient; a longer one is shortened to it."""

    scale: tuple[float, float] = (0.05, 1.0)
    """Least and largest share of the image's area in a crop."""

    def __post_init__(self) -> None:
        if self.batch < 2 or self.epochs < 1:
            raise CxrError(f"batch ({self.batch}) must be at least 2 and epochs ({self.epochs}) at least 1: correct them")
        if min(self.patch_size, self.width, self.depth, self.heads) < 1 or len(self.mean) != len(self.std):
            raise CxrError("patch_size, width, depth and heads must be at least 1, and mean and std equally long: correct --set")
        if self.seed < 0 or not 0 <= self.lr < math.inf:
            raise CxrError(f"seed ({self.seed}) and lr ({self.lr}) must be numbers from 0 up: correct --seed or --lr")

    def build(self, *, drop_path: float | None = None) -> VisionTransformer:
        """The encoder, with random weights: a `VisionTransformer` without a head."""
        return VisionTransformer(
            image_size=self.image_size, patch_size=self.patch_size, in_channels=len(self.mean), num_classes=0,
            width=self.width, depth=self.depth, heads=self.heads, stem=self.stem,
            drop_path=self.drop_path if drop_path is None else drop_path,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON holds them, and the method."""
        fields = dataclasses.asdict(self)
        return {"method": self.method} | {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GmmlRecipe(PretrainRecipe):
    """GMML: see `cxrlib.pretraining.gmml`."""

    method: ClassVar[str] = "gmml"

    views: int = 1
    """Views of each image in a step. The published code takes two, to match the number of views of other methods."""
    share: tuple[float, float] = (0.5, 0.75)
    """Least and largest share of an image's pixels under noise."""
    alien_chance: float = 0.5
    """Chance that an image gets blocks of another image instead of noise."""
    alien_share: float = 0.3
    """Share of its pixels that they cover."""
    align: int = 1
    """Rectangles lie on a grid of so many pixels: 1, or the patch size."""
    jitter: float = 0.1
    """Largest change of brightness and contrast of a view, as a share of the grey scale."""
    jitter_chance: float = 0.3
    """Chance of such a change."""
    blur_chance: float = 0.1
    """Chance that a view is blurred."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.align < 1 or self.image_size % self.align:
            raise CxrError(f"align {self.align} must divide the image size {self.image_size}: choose 1 or the patch size")
        if self.views < 1 or not 0 <= self.share[0] <= self.share[1] <= 1:
            raise CxrError(f"views ({self.views}) must be at least 1, and share {self.share} two numbers from 0 to 1 that grow")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DinoRecipe(PretrainRecipe):
    """DINO: see `cxrlib.pretraining.dino`. The inherited `scale` is that of the two large crops."""

    method: ClassVar[str] = "dino"

    scale: tuple[float, float] = (0.4, 1.0)
    """Least and largest share of the image's area in a large crop."""
    local_views: int = 8
    """Small views of each image."""
    local_size: int = 96
    """Side of a small view, in pixels; a multiple of the patch size. Its positions are resampled."""
    local_scale: tuple[float, float] = (0.05, 0.4)
    """Least and largest share of the image's area in a small crop."""
    jitter: float = 0.4
    """Largest change of brightness and contrast of a view, as a share of the grey scale."""
    jitter_chance: float = 0.8
    """Chance of such a change."""
    blur_chances: tuple[float, float, float] = (1.0, 0.1, 0.5)
    """Chance of a blur: first large view, second, small ones."""
    prototypes: int = 65536
    """Answers to choose from."""
    hidden: int = 2048
    """Hidden width of the projection head."""
    bottleneck: int = 256
    """Its width before the prototypes."""
    student_temp: float = 0.1
    """Temperature of the student's softmax."""
    teacher_temp_start: float = 0.04
    """Temperature of the teacher's softmax at the start; it grows along a line."""
    teacher_temp: float = 0.04
    """And after the warm-up."""
    teacher_temp_epochs: float = 0.0
    """Epochs of that warm-up."""
    centre_momentum: float = 0.9
    """How much of the centre stays in a step."""
    momentum: float = 0.996
    """How much of the teacher stays in the first step; grows to 1 along half a cosine."""
    frozen_epochs: float = 1.0
    """Epochs in which the prototypes stay as they were drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.local_size % self.patch_size or self.local_views < 0:
            raise CxrError(
                f"small views ({self.local_views}, of {self.local_size} px) must be none or more, and patches of "
                f"{self.patch_size} px must tile them: correct local_views or local_size"
            )


def field_help(recipe: type[PretrainRecipe]) -> dict[str, str]:
    """Each field's help."""
    return recipes.field_help(PretrainRecipe) | recipes.field_help(recipe)
