"""Named pre-training runs, as `cxrlib.recipes` names training runs. `python -m cxrlib pretrain --help` lists them."""

import dataclasses
from collections.abc import Callable
from typing import Any

from cxrlib.errors import CxrError
from cxrlib.pretraining.fields import DinoRecipe, GmmlRecipe, PretrainRecipe
from cxrlib.recipes import IMAGENET


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


def gmml_clarity_cpu() -> GmmlRecipe:
    """`gmml cpu` in the shape of training's `clarity_cpu`: the start of CLARiTy's ladder.

    Command: python -m cxrlib pretrain gmml clarity_cpu --data STORE --out RUN
    Cost: 5 minutes on one thread.
    """
    return dataclasses.replace(gmml_cpu(), name="gmml_clarity_cpu", patch_size=8, width=64, depth=2, heads=2, epochs=8)


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
    "gmml": {"mu": gmml_mu, "cpu": gmml_cpu, "lt_cpu": gmml_lt_cpu, "clarity_cpu": gmml_clarity_cpu, "nih_mini": gmml_nih_mini, "small_224": gmml_small_224},
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
