"""Named pre-training runs, as `cxrlib.recipes` names training runs. `python -m cxrlib pretrain --help` lists them."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

from cxrlib import recipes
from cxrlib.errors import CxrError
from cxrlib.models.vit import VisionTransformer
from cxrlib.recipes import IMAGENET


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


def gmml_mu() -> GmmlRecipe:
    """For tests: the shape of training's `mu`. Seconds on one core.

    Command: python -m cxrlib pretrain gmml mu --data STORE --out RUN
    """
    return GmmlRecipe(
        name="gmml_mu", image_size=32, patch_size=8, width=24, depth=2, heads=3, drop_path=0.1,
        epochs=2, batch=16, lr=3e-3, scale=(0.4, 1.0), views=2,
    )  # fmt: skip


def gmml_cpu() -> GmmlRecipe:
    """A small ViT with a convolutional stem at 96 px, on a laptop without a GPU.

    One view per image and larger crops than published: few epochs on small images (our decision).

    Command: python -m cxrlib pretrain gmml cpu --data STORE --out RUN
    """
    return GmmlRecipe(
        name="gmml_cpu", image_size=96, patch_size=16, stem="conv", width=128, depth=4, heads=4, init="fan",
        epochs=30, batch=64, lr=1e-3, scale=(0.3, 1.0),
    )  # fmt: skip


def gmml_lt_cpu() -> GmmlRecipe:
    """`gmml cpu` in the shape of training's `lt_cpu`, and shorter: the start of the comparisons.

    Command: python -m cxrlib pretrain gmml lt_cpu --data STORE --out RUN
    """
    return dataclasses.replace(gmml_cpu(), name="gmml_lt_cpu", width=64, depth=4, heads=2, epochs=12)


def gmml_nih_mini() -> GmmlRecipe:
    """`gmml cpu` in the shape of training's `nih_mini`, for about 1,300 genuine radiographs.

    Command: python -m cxrlib pretrain gmml nih_mini --data STORE --out RUN
    """
    return dataclasses.replace(gmml_cpu(), name="gmml_nih_mini", depth=3, epochs=60)


def gmml_small_224() -> GmmlRecipe:
    """ViT-S/16 at 224 px with the values of the published code (Sara-Ahmed/GMML, main.py).

    lr 5e-4 per 256 images, warm-up of 10 epochs, weight decay 0.04 to 0.4, clip 3, drop path 0.1, two crops of 0.05 to 1 of
    the area. Its default is 800 epochs; the checkpoint behind LT-ViT on NIH is said to have had 1000. 64 images are what one
    of its GPUs takes; how many there were is not stated: with n, use --batch 64n and --lr 1.25e-4 times n.

    Command: python -m cxrlib pretrain gmml small_224 --data STORE --out RUN --device cuda
    Cost: not measured.
    """
    return GmmlRecipe(
        name="gmml_small_224", **IMAGENET, drop_path=0.1, views=2,
        epochs=1000, batch=64, lr=5e-4 * 64 / 256, warmup_epochs=10,
    )  # fmt: skip


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


def dino_mu() -> DinoRecipe:
    """For tests: the shape of training's `mu`. Seconds on one core.

    Command: python -m cxrlib pretrain dino mu --data STORE --out RUN
    """
    return DinoRecipe(
        name="dino_mu", image_size=32, patch_size=8, width=24, depth=2, heads=3, drop_path=0.1, init="fan",
        epochs=2, batch=16, lr=1e-3, local_views=2, local_size=16, local_scale=(0.1, 0.4),
        prototypes=64, hidden=32, bottleneck=16, momentum=0.9,
    )  # fmt: skip


def dino_cpu() -> DinoRecipe:
    """A small ViT with a convolutional stem at 96 px, on a laptop without a GPU; the shape of `gmml cpu`.

    Fewer small views, fewer prototypes, a narrower head and a faster teacher than published: few epochs on few images (our
    decision). An image costs about three and a half times what it costs in supervised training.

    Command: python -m cxrlib pretrain dino cpu --data STORE --out RUN
    """
    return DinoRecipe(
        name="dino_cpu", image_size=96, patch_size=16, stem="conv", width=128, depth=4, heads=4, init="fan",
        epochs=20, batch=64, lr=5e-4, local_views=4, local_size=48, local_scale=(0.1, 0.4),
        prototypes=1024, hidden=512, bottleneck=128, momentum=0.99,
    )  # fmt: skip


def dino_lt_cpu() -> DinoRecipe:
    """`dino cpu` in the shape of training's `lt_cpu`, and shorter: the start of the comparisons.

    Command: python -m cxrlib pretrain dino lt_cpu --data STORE --out RUN
    """
    return dataclasses.replace(dino_cpu(), name="dino_lt_cpu", width=64, depth=4, heads=2, epochs=6, local_views=2)


def dino_small_224() -> DinoRecipe:
    """ViT-S/16 at 224 px with the values of the paper (arXiv 2104.14294, section 3.2) and of its published code.

    lr 5e-4 per 256 images, warm-up of 10 epochs, weight decay 0.04 to 0.4, batch 1024, teacher temperature 0.04 to 0.07 in 30
    epochs, eight small views, 65,536 prototypes. The paper's best ViT-S trains for 800 epochs on ImageNet.

    Command: python -m cxrlib pretrain dino small_224 --data STORE --out RUN --device cuda --devices 8
    Cost: not measured.
    """
    return DinoRecipe(
        name="dino_small_224", **IMAGENET, drop_path=0.1, epochs=100, batch=1024, lr=2e-3, warmup_epochs=10,
        teacher_temp=0.07, teacher_temp_epochs=30,
    )  # fmt: skip


RECIPES: dict[str, dict[str, Callable[[], PretrainRecipe]]] = {
    "gmml": {"mu": gmml_mu, "cpu": gmml_cpu, "lt_cpu": gmml_lt_cpu, "nih_mini": gmml_nih_mini, "small_224": gmml_small_224},
    "dino": {"mu": dino_mu, "cpu": dino_cpu, "lt_cpu": dino_lt_cpu, "small_224": dino_small_224},
}
"""Method -> name on the command line -> recipe."""


def get(method: str, name: str) -> PretrainRecipe:
    """The recipe of that name.

    Raises:
        CxrError: There is no such method, or no such recipe.
    """
    if method not in RECIPES:
        raise CxrError(f"there is no pre-training {method!r}: choose one of {', '.join(RECIPES)}")
    if name not in RECIPES[method]:
        raise CxrError(f"there is no {method} recipe {name!r}: choose one of {', '.join(RECIPES[method])}")
    return RECIPES[method][name]()


def changed(recipe: PretrainRecipe, settings: list[str]) -> PretrainRecipe:
    """The recipe with fields set from words such as "width=128" or "share=0.4,0.6".

    Raises:
        CxrError: A field is unknown, or its value is not of its kind.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        known = [field.name for field in dataclasses.fields(recipe) if field.name != "name"]
        if name not in known:
            raise CxrError(f"{setting}: the recipe has no field {name!r} (it has {', '.join(known)})")
        old = getattr(recipe, name)
        try:
            values[name] = tuple(float(part) for part in text.split(",")) if isinstance(old, tuple) else type(old)(text)
        except ValueError:
            raise CxrError(f"{setting}: {name} is {old!r} now, and {text!r} is not of that kind") from None
        if isinstance(old, tuple) and name not in ("mean", "std") and len(values[name]) != len(old):
            raise CxrError(f"{setting}: {name} takes {len(old)} numbers, separated by commas")
    return dataclasses.replace(recipe, **values)


def field_help(recipe: type[PretrainRecipe]) -> dict[str, str]:
    """Each field's help."""
    return recipes.field_help(PretrainRecipe) | recipes.field_help(recipe)
