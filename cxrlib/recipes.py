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
from cxrlib.findings import CHEXPERT_11, CHEXPERT_13
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

    epoch_steps: int = 0
    """At most so many steps in an epoch. 0: as many as there are whole batches."""
    validation: float = 0.1
    """Share of the train_val images, by whole patients, that choose the best epoch."""
    patience: int = 10
    """Stop after so many epochs without a better validation macro AUROC."""

    ranges: Ranges = Ranges(rotation=7, scale=0.1, shift=0.05, brightness=0.1, contrast=0.2)
    """How far the augmentation may go."""

    def __post_init__(self) -> None:
        if self.batch < 1 or self.epochs < 1:
            raise CxrError(f"batch ({self.batch}) and epochs ({self.epochs}) must be at least 1: correct --batch or --epochs")
        if self.micro_batch < 1:
            raise CxrError(f"micro_batch ({self.micro_batch}) must be at least 1: correct --micro-batch")
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


def clarity_cpu_192() -> Recipe:
    """`clarity_cpu` goes on at 192 px, on a grid of 24 x 24 patches: what `clarity_small_512` is to `clarity_small_224`.

    The teacher is left behind: it saw 96 px, and has nothing to say of what only 192 px show. Of the mask losses only the two that
    know anatomy stay. Tried for 350 steps from one run, on its validation patients (1,336 boxes), fused maps at IoU > .5: all four
    0.111, no area 0.116, neither area nor background 0.132.

    Command: python -m cxrlib train clarity_cpu_192 --data STORE_192 --priors PRIORS_192 --weights RUN_96/best.safetensors --out RUN
    Cost: an image costs four times that of `clarity_cpu`: 6.5 minutes an epoch of 11,000 images on one thread.
    Expected: finer maps than at 96 px, and nodules that span more than one patch.
    Measured: see data/results/full_cpu_192.
    """
    return dataclasses.replace(
        clarity_cpu(), name="clarity_cpu_192", image_size=192, epochs=4, lr=2e-4, warmup_epochs=0.1,
        losses=clarity_cpu().losses | {"wait_epochs": 0.0, "ramp_epochs": 0.0, "teacher": 0.0, "area": 0.0, "background": 0.0},
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
    Cost: not measured. By count: 86,524 x 0.9 images x 75 epochs x 27.6 G operations = 1.6e17.
    Expected: macro AUROC of about 0.80 on NIH's test list, as that recipe reports from DeiT's ImageNet weights (0.796).
    Measured: not yet.
    """
    return Recipe(
        name="vit_small_224", weights="vit_small_patch16_224.dino", **IMAGENET, drop_path=0.2,
        epochs=75, batch=1024, micro_batch=128, lr=1e-3, min_lr=1e-5, warmup_epochs=5, layer_decay=0.55, ema=0.9998,
    )  # fmt: skip


def lt_vit_small_224() -> Recipe:
    """LT-ViT as published (N2 = 4 layers with label tokens, one-way) on NIH, after GMML on the same images.

    The paper's fine-tuning is not public: this is `vit_small_224`'s, as is the double norm and the spread of 0.2 of the code that is
    probably the authors'.

    Command: python -m cxrlib pretrain gmml small_224 --data STORE --out GMML --device cuda --devices 8
             python -m cxrlib train lt_vit_small_224 --data STORE --weights GMML/encoder.safetensors --out RUN --device cuda --devices 8
    Cost: not measured. By count: 2.35 % more than `vit_small_224`; GMML's 1,000 epochs of two views take 29 times as many passes.
    Expected: the paper's 0.8198 is second-hand and needs those 1,000 epochs; 0.80 from the same start with a plain ViT-S.
    Measured: not yet.
    """
    return dataclasses.replace(vit_small_224(), name="lt_vit_small_224", model="lt_vit", options={"n2": 4}, weights="")


CLARITY_LOSSES = {"area": 0.02, "background": 0.1, "proximity": 0.02, "confinement": 0.3}
"""Weights under which SegmentCAM's mask stays alive on phantoms; the paper's are in no source at hand. See chapter 19."""


def clarity_small_224() -> Recipe:
    """CLARiTy-S-16-224 on NIH, from DINO's ImageNet weights, with regions and a teacher's stored logits.

    What the paper does not say is ours: fine-tuning as `vit_small_224`; no mask losses for 5 epochs, which then grow over 5; weights of the
    losses and the mean over the foreground as on phantoms, where the plain sum of the facts lets the mask go out (chapter 19).

    Command: python -m cxrlib priors make STORE PRIORS --source pspnet --device cuda
             python -m cxrlib teach TEACHER --data STORE --images STORE_512 --recipe clarity_small_224 --out LOGITS --device cuda
             python -m cxrlib train clarity_small_224 --data STORE --priors PRIORS --teacher LOGITS --out RUN --device cuda --devices 8
    Cost: not measured. By count: 1.30 times `vit_small_224`, and the background pass. The logits take 164 MB, and to make them costs the
             teacher 9e17 operations, four times the student's training.
    Expected: macro AUROC of 0.799 or more on NIH's test list (the paper's figure, give or take 0.004 by seed).
    Measured: not yet.
    """
    return dataclasses.replace(
        vit_small_224(), name="clarity_small_224", model="clarity", options={"mean_over": "foreground"}, losses=CLARITY_LOSSES,
    )  # fmt: skip


def clarity_small_512() -> Recipe:
    """CLARiTy-S-16-512: the run at 224 px goes on at 512, its positions resampled, for 20 epochs at a fifth of the rate.

    Command: python -m cxrlib priors make STORE_512 PRIORS_512 --source pspnet --size 128 --device cuda
             python -m cxrlib teach TEACHER --data STORE_512 --recipe clarity_small_512 --out LOGITS_512 --device cuda
             python -m cxrlib train clarity_small_512 --data STORE_512 --priors PRIORS_512 --teacher LOGITS_512 \\
                 --weights RUN_224/best.safetensors --out RUN --device cuda --devices 8
    Cost: not measured. By count: an image costs 6.3 times that of 224 px.
    Expected: macro AUROC 0.818; IoU accuracy on NIH's boxes .81 .69 .59 .47 .32 at .1 to .5 (the paper's figures).
    Measured: not yet.
    """
    return dataclasses.replace(
        clarity_small_224(), name="clarity_small_512", image_size=512, weights="", epochs=20, micro_batch=32, lr=2e-4, min_lr=2e-6,
        warmup_epochs=1, losses=CLARITY_LOSSES | {"wait_epochs": 0.0, "ramp_epochs": 0.0},
    )  # fmt: skip


def convnextv2_base_512() -> Recipe:
    """The teacher: ConvNeXtV2-B at 512 px on NIH, from FCMAE and ImageNet-22k weights (CC-BY-NC 4.0: no commercial use).

    AdamW, layer decay, drop path and few epochs after the model's own fine-tuning recipe (arXiv 2301.00808, appendix A); rate and batch
    are our decision.

    Command: python -m cxrlib prepare DATA STORE_512 --size 512
             python -m cxrlib train convnextv2_base_512 --data STORE_512 --out TEACHER --device cuda --devices 8
             python -m cxrlib teach TEACHER --data STORE --images STORE_512 --recipe clarity_small_224 --out LOGITS --device cuda
    Cost: not measured. By count: 80 G multiply-accumulates an image, 17 times ViT-S/16 at 224 px.
    Expected: macro AUROC 0.825, give or take 0.003 (the row that is probably the paper's teacher).
    Measured: not yet.
    """
    return Recipe(
        name="convnextv2_base_512", model="timm", options={"name": "convnextv2_base"}, image_size=512,
        weights="convnextv2_base.fcmae_ft_in22k_in1k", **IMAGENET, drop_path=0.2,
        epochs=20, batch=256, micro_batch=16, lr=2.5e-4, min_lr=1e-6, warmup_epochs=2, layer_decay=0.8, ema=0.9998,
    )  # fmt: skip


def on_chexpert(recipe: Recipe, findings: tuple[str, ...]) -> Recipe:
    """A recipe for NIH, for CheXpert: as many steps, hence fewer epochs of its 191,027 frontal images, and its own findings."""
    epochs = max(round(recipe.epochs * 86_524 / 191_027), 1)
    wait = {name: value / 2 for name, value in recipe.losses.items() if name in ("wait_epochs", "ramp_epochs")}
    return dataclasses.replace(
        recipe, name=f"{recipe.name}_chexpert", findings=findings, epochs=epochs, warmup_epochs=recipe.warmup_epochs / 2,
        losses=recipe.losses | wait, validation=0.05,
    )  # fmt: skip


def vit_small_224_chexpert() -> Recipe:
    """`vit_small_224` on CheXpert's frontal images: 13 observations, all but No Finding.

    Command: python -m cxrlib prepare CHEXPERT STORE --size 224 --uncertain mixed --views frontal
             python -m cxrlib train vit_small_224_chexpert --data STORE --out RUN --device cuda --devices 8
    Cost: not measured; as many steps as on NIH.
    Expected: no figure is published for this start; a ViT-S from MAE on chest films reaches 0.892 over the competition's five.
    Measured: not yet.
    """
    return on_chexpert(vit_small_224(), CHEXPERT_13)


def lt_vit_small_224_chexpert() -> Recipe:
    """LT-ViT on CheXpert, from GMML's encoder of the same images or of NIH's; 13 labels, or 5 with --findings chexpert5.

    Command: python -m cxrlib pretrain gmml small_224 --data STORE --out GMML --device cuda --devices 8
             python -m cxrlib train lt_vit_small_224_chexpert --data STORE --weights GMML/encoder.safetensors --out RUN --device cuda --devices 8
    Cost: not measured; as many steps as on NIH.
    Expected: 0.8890 with 5 labels (second-hand). The paper's 0.7734 with 13 is no target: its undefined Fracture may count as 0 in it.
    Measured: not yet.
    """
    return on_chexpert(lt_vit_small_224(), CHEXPERT_13)


def clarity_small_224_chexpert() -> Recipe:
    """CLARiTy at 224 px on CheXpert: the 11 observations that have a place in the chest (not Fracture, not Support Devices).

    Command: python -m cxrlib priors make STORE PRIORS --source pspnet --findings chexpert11 --device cuda
             python -m cxrlib teach TEACHER --data STORE --images STORE_512 --recipe clarity_small_224_chexpert --out LOGITS --device cuda
             python -m cxrlib train clarity_small_224_chexpert --data STORE --priors PRIORS --teacher LOGITS --out RUN --device cuda --devices 8
    Cost: not measured; as many steps as on NIH.
    Expected: no figure is published.
    Measured: not yet.
    """
    recipe = clarity_small_224()
    return on_chexpert(dataclasses.replace(recipe, losses=recipe.losses | {"wait_epochs": 5.0, "ramp_epochs": 5.0}), CHEXPERT_11)


def clarity_small_512_chexpert() -> Recipe:
    """CLARiTy at 512 px on CheXpert, from its run at 224.

    Command: python -m cxrlib train clarity_small_512_chexpert --data STORE_512 --priors PRIORS_512 --teacher LOGITS_512 \\
                 --weights RUN_224/best.safetensors --out RUN --device cuda --devices 8
             (regions and logits as for `clarity_small_512`, from the CheXpert stores)
    Cost: not measured; as many steps as on NIH.
    Expected: no figure is published.
    Measured: not yet.
    """
    return on_chexpert(clarity_small_512(), CHEXPERT_11)


def convnextv2_base_512_chexpert() -> Recipe:
    """The teacher on CheXpert: ConvNeXtV2-B at 512 px, 11 observations (weights under CC-BY-NC 4.0).

    Command: python -m cxrlib prepare CHEXPERT STORE_512 --size 512 --uncertain mixed --views frontal
             python -m cxrlib train convnextv2_base_512_chexpert --data STORE_512 --out TEACHER --device cuda --devices 8
    Cost: not measured; as many steps as on NIH.
    Expected: no figure is published for this very model.
    Measured: not yet.
    """
    return on_chexpert(convnextv2_base_512(), CHEXPERT_11)


FULL_SIZE = (
    vit_small_224, lt_vit_small_224, clarity_small_224, clarity_small_512, convnextv2_base_512, vit_small_224_chexpert,
    lt_vit_small_224_chexpert, clarity_small_224_chexpert, clarity_small_512_chexpert, convnextv2_base_512_chexpert,
)  # fmt: skip
"""The recipes that want GPUs and the whole data set."""


def rehearsal(recipe: Recipe) -> Recipe:
    """The same recipe with a small model, for two epochs of 40 steps: do data, regions, teacher and devices fit together?

    Meant for the minutes before a night of training: same store, same losses, same parts of the batch, same command with
    `--rehearsal`. Validation sees all its images. Scores mean nothing. It starts from random weights, since no pretrained ones have
    this size.
    """
    small = {"width": 48, "depth": min(recipe.depth, 3), "heads": 3, "epochs": 2, "batch": 16, "micro_batch": 8, "warmup_epochs": 0.5, "epoch_steps": 40}
    options = dict(recipe.options)
    if recipe.model == "timm":
        options["name"] = f"{options['name'].split('_')[0]}_atto" if "convnext" in options["name"] else options["name"]
    if "n2" in options:
        options["n2"] = 1
    losses = recipe.losses | ({"wait_epochs": 0.5, "ramp_epochs": 0.5} if recipe.model == "clarity" else {})
    return dataclasses.replace(recipe, name=f"{recipe.name}_rehearsal", **small, options=options, losses=losses, weights="", ema=0.9)


RECIPES: dict[str, Callable[[], Recipe]] = {
    make.__name__: make for make in (mu, cpu, lt_cpu, clarity_cpu, clarity_cpu_192, nih_mini, clarity_nih_mini, *FULL_SIZE)
}


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
