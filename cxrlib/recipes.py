"""Named training runs. A recipe is a function that returns a frozen `Recipe`; its docstring says what it costs and gives.

    from cxrlib import recipes
    recipes.cpu()                               the settings
    dataclasses.replace(recipes.cpu(), seed=1)  the same with another seed

Add a recipe by adding a function to this file; `python -m cxrlib train --help` then lists it.
"""

import ast
import dataclasses
import inspect
import math
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from cxrlib.data.augment import Ranges
from cxrlib.errors import CxrError
from cxrlib.models import build_model

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the result of a run, except the data. The string under a field is its help."""

    name: str
    """The function that made the recipe."""
    seed: int = 0
    """Fixes the first weights, the validation patients, the order of the images and every augmentation."""

    model: str = "vit"
    """The kind of model: a name of `cxrlib.models.MODELS`."""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of that kind of model beyond the sizes, for example {"n2": 2} for lt_vit."""
    losses: dict[str, float] = dataclasses.field(default_factory=dict)
    """Weights of the losses that the kind of model has of its own, for example {"orthogonal": 0.1} for clarity."""
    findings: tuple[str, ...] = ()
    """The findings to learn, in this order. Empty: all that the store has."""

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
    priors: str = ""
    """Anatomical regions made by `priors make` for the same store. Empty: none; losses that need them are then refused."""
    teacher: str = ""
    """A teacher's logits made by `teach` for this recipe and seed. Empty: none."""
    mean: tuple[float, ...] = (0.5,)
    """Grey value taken off each input channel; its length is the number of channels."""
    std: tuple[float, ...] = (0.25,)
    """What each input channel is divided by."""

    epochs: int = 20
    """Passes over the training images."""
    batch: int = 64
    """Images per step, over all devices together."""
    micro_batch: int = 256
    """Most images that one device holds at once; a larger batch is computed in parts that add up to the same step."""
    lr: float = 1e-3
    """Peak learning rate, for this batch."""
    min_lr: float = 1e-5
    """Learning rate at the end."""
    warmup_epochs: float = 1.0
    """Epochs in which the learning rate climbs to its peak."""
    weight_decay: float = 0.05
    """AdamW's decoupled weight decay."""
    layer_decay: float = 1.0
    """Factor on the learning rate for each layer further down. 1: all alike."""
    clip: float = 1.0
    """Largest norm of the gradient; a longer one is shortened to it."""
    ema: float = 0.999
    """Decay of the averaged weights, which are the ones that are scored and kept."""

    validation: float = 0.1
    """Share of the train_val images, by whole patients, that choose the best epoch."""
    patience: int = 10
    """Stop after so many epochs without a better validation macro AUROC."""

    ranges: Ranges = Ranges(rotation=7, scale=0.1, shift=0.05, brightness=0.1, contrast=0.2)
    """How far the augmentation may go."""

    def __post_init__(self) -> None:
        if self.batch < 1 or self.epochs < 1:
            raise CxrError(f"batch ({self.batch}) and epochs ({self.epochs}) must be at least 1: correct --batch or --epochs")
        if self.seed < 0 or not 0 <= self.lr < math.inf:
            raise CxrError(f"seed ({self.seed}) and lr ({self.lr}) must be numbers from 0 up: correct --seed or --lr")

    def build(self, num_classes: int) -> nn.Module:
        """The model, with random weights; `weights` is loaded by the training, not here."""
        return build_model(
            self.model,
            self.options,
            image_size=self.image_size,
            patch_size=self.patch_size,
            in_channels=len(self.mean),
            num_classes=num_classes,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            drop_path=self.drop_path,
            stem=self.stem,
        )

    def to_json(self) -> dict:
        """The fields as JSON holds them."""
        lists = {name: list(getattr(self, name)) for name in ("mean", "std", "findings")}
        return dataclasses.asdict(self) | lists | {"ranges": self.ranges._asdict()}

    def published(self) -> dict:
        """The fields as they may be shown to others: of files and folders only the names, not the places."""
        fields = self.to_json()
        for name in ("weights", "priors", "teacher"):
            is_name = name == "weights" and not fields[name].endswith(".safetensors")  # one that timm knows
            fields[name] = fields[name] if is_name else Path(fields[name]).name
        return fields

    @classmethod
    def from_json(cls, fields: dict) -> "Recipe":
        """The recipe that `to_json` wrote.

        Raises:
            CxrError: The fields are not those of this version.
        """
        try:
            tuples = {name: tuple(fields[name]) for name in ("mean", "std", "findings") if name in fields}
            return cls(**fields | tuples | {"ranges": Ranges(**fields["ranges"])})
        except (TypeError, KeyError) as error:
            raise CxrError(f"the stored recipe is not one of this version of cxrlib ({error}): train again") from None


def mu() -> Recipe:
    """For tests: a ViT of 2 layers on 32 px. Seconds on one core; scores hardly better than chance.

    Command: python -m cxrlib train mu --data STORE --out RUN
    Cost: about 2 s for 200 images on one core.
    Expected: nothing; it shows that the parts fit together.
    """
    return Recipe(
        name="mu", image_size=32, patch_size=8, width=24, depth=2, heads=3, drop_path=0.1,
        epochs=2, batch=16, lr=3e-3, ema=0.9, validation=0.25,
    )  # fmt: skip


def cpu() -> Recipe:
    """The course's run: a small ViT with a convolutional stem, from random weights, on a laptop without a GPU.

    Command: python -m cxrlib phantom COHORT --n 8000 --size 96 --seed 0 --prevalence enriched
             python -m cxrlib prepare COHORT STORE --size 96
             python -m cxrlib train cpu --data STORE --out RUN
             python -m cxrlib evaluate RUN --split test
    Cost: 10 to 11 minutes on one thread; at most 15 on two cores.
    Expected: macro AUROC of at least 0.85 on the phantom's test split.
    Measured: 0.897, 0.889, 0.885 with seeds 0, 1, 2 (data/results/phantom_cpu).
    """
    return Recipe(
        name="cpu", image_size=96, patch_size=16, stem="conv", width=128, depth=3, heads=4, init="fan",
        epochs=24, batch=32, lr=3e-4, ema=0.995,
    )  # fmt: skip


def lt_cpu() -> Recipe:
    """LT-ViT in the size at which its ablations and rivals are compared on a CPU, three seeds each.

    Command: python -m cxrlib compare lt_vit_rivals --data STORE --out FOLDER
             (one run: python -m cxrlib train lt_cpu --data STORE --out RUN)
    Cost: about 2 minutes on one thread.
    Expected: less than `cpu`, which is twice as wide and trains four times as long.
    Measured: see data/results/lt_vit_rivals.
    """
    return dataclasses.replace(
        cpu(), name="lt_cpu", model="lt_vit", options={"n2": 2, "token_std": 0.02}, width=64, heads=2, depth=4, epochs=8,
    )  # fmt: skip


def clarity_cpu() -> Recipe:
    """CLARiTy in the size at which its ablation ladder is computed on a CPU, three seeds each: a grid of 12 x 12 patches.

    Two layers only: with four, no kind of map found the lesions (see chapter 19). Tuned on one seed and 300 boxed test images:
    steps (batches of 16 at 5e-4), depth, SegmentCAM's mean over the foreground, and the weights of the mask losses.

    Command: python -m cxrlib priors make STORE PRIORS --source phantom --phantom COHORT
             python -m cxrlib train clarity_cpu --data STORE --priors PRIORS --out RUN
    Cost: 4 to 5 minutes on one thread.
    Expected: less than `cpu`, which is twice as wide and trains far longer; in return a map for each finding.
    Measured: see data/results/clarity_ladder.
    """
    return dataclasses.replace(
        cpu(), name="clarity_cpu", model="clarity", patch_size=8, width=64, heads=2, depth=2, epochs=5, batch=16, lr=5e-4,
        options={"attention_layers": 2, "mean_over": "foreground"},
        losses={
            "wait_epochs": 2.0, "ramp_epochs": 1.0, "area": 0.02, "background": 0.1, "proximity": 0.02, "confinement": 0.3,
        },
    )  # fmt: skip


def nih_mini() -> Recipe:
    """A real but tiny job: about 1,500 genuine NIH radiographs, with the shape of `cpu`, so that its weights fit.

    Command: python -m cxrlib prepare DATA STORE --size 96 --metadata METADATA
             python -m cxrlib train nih_mini --data STORE --out RUN
             (or, from the phantom's weights: ... --weights PHANTOM_RUN/best.safetensors)
             python -m cxrlib evaluate RUN --split test
    Cost: 3 minutes on one thread.
    Expected: little: 1,300 images teach a ViT only the coarsest signs.
    Measured: 0.647 from random weights, 0.663 from the phantom's, one seed each (data/results/nih_mini256*).
    """
    return dataclasses.replace(
        cpu(), name="nih_mini", epochs=30, validation=0.15, patience=15, drop_path=0.1,
    )  # fmt: skip


def clarity_nih_mini() -> Recipe:
    """CLARiTy on about 1,300 genuine NIH radiographs, with the shape of `clarity_cpu`, so that its weights fit.

    Command: python -m cxrlib prepare DATA STORE --size 96 --metadata METADATA
             python -m cxrlib priors make STORE PRIORS --source template
             python -m cxrlib train clarity_nih_mini --data STORE --priors PRIORS --weights PHANTOM_RUN/best.safetensors --out RUN
             python -m cxrlib evaluate RUN --split test
             python -m cxrlib localize RUN --split test
    Cost: 8 minutes on one thread.
    Expected: little: 1,300 images teach only the coarsest signs, and the template is nobody's anatomy.
    Measured: see data/results/clarity_nih_mini.
    """
    return dataclasses.replace(
        clarity_cpu(), name="clarity_nih_mini", epochs=24, validation=0.15, patience=24, drop_path=0.1,
        losses=clarity_cpu().losses | {"wait_epochs": 8.0, "ramp_epochs": 4.0},
    )  # fmt: skip


def vit_small_224() -> Recipe:
    """ViT-S/16 at 224 px on the whole of NIH ChestX-ray14, from DINO's ImageNet weights.

    Fine-tuning as in the closest public recipe on the same split (github.com/lambert-x/medical_mae: batch 1024, 75 epochs,
    base rate 2.5e-4 per 256 images, layer decay 0.55, drop path 0.2), with geometric and grey augmentation in place of
    RandAugment (our decision).

    Command: python -m cxrlib train vit_small_224 --data STORE --out RUN --device cuda --devices 8
    Cost: not measured.
    Expected: macro AUROC of about 0.80 on NIH's test list, as that recipe reports from DeiT's ImageNet weights (0.796).
    Measured: not yet.
    """
    return Recipe(
        name="vit_small_224", weights="vit_small_patch16_224.dino", **IMAGENET, drop_path=0.2,
        epochs=75, batch=1024, micro_batch=128, lr=1e-3, min_lr=1e-5, warmup_epochs=5, layer_decay=0.55, ema=0.9998,
    )  # fmt: skip


RECIPES: dict[str, Callable[[], Recipe]] = {make.__name__: make for make in (mu, cpu, lt_cpu, clarity_cpu, nih_mini, clarity_nih_mini, vit_small_224)}


def get(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        CxrError: There is none.
    """
    if name not in RECIPES:
        raise CxrError(f"there is no recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name]()


def field_help(recipe: type = Recipe) -> dict[str, str]:
    """Each field's help: the string under it in the source of `recipe`."""
    body = ast.parse(textwrap.dedent(inspect.getsource(recipe))).body[0].body
    return {
        field.target.id: text.value.value
        for field, text in zip(body, body[1:])
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
