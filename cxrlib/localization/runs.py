"""Maps of a trained run, batch by batch."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cxrlib.data.augment import normalise, to_float
from cxrlib.data.store import ImageStore
from cxrlib.errors import CxrError
from cxrlib.localization.maps import grid_of, map_method
from cxrlib.localization.stream import ImageMaps
from cxrlib.models.weights import load_safetensors
from cxrlib.recipes import Recipe
from cxrlib.training.checkpoint import BEST
from cxrlib.training.runs import read_run


def load_run(run: str | Path, *, device: torch.device | str = "cpu") -> tuple[nn.Module, Recipe, tuple[str, ...]]:
    """The best weights of a run: `(model in eval mode, recipe, findings)`.

    Raises:
        CxrError: The folder is no run, or has no weights yet.
    """
    made = read_run(run)
    recipe = made["recipe"]
    findings = tuple(recipe.findings) or tuple(made["data"]["findings"])
    if not (Path(run) / BEST).exists():
        raise CxrError(f"{run} has no {BEST} yet: let the training finish at least one epoch")
    model = recipe.build(len(findings))
    load_safetensors(model, Path(run) / BEST)
    return model.eval().to(device), recipe, findings


def maps_of_model(
    model: nn.Module | None,
    store: ImageStore,
    images: list[str],
    *,
    method: str,
    findings: tuple[str, ...],
    mean: tuple[float, ...] = (0.5,),
    std: tuple[float, ...] = (0.25,),
    device: torch.device | str = "cpu",
    batch: int | None = None,
    wanted: Mapping[str, Collection[str]] | None = None,
) -> Iterator[ImageMaps]:
    """Maps of some images of a store, one batch in memory at a time.

    Args:
        model: In eval mode; None for methods that look at no model.
        store: The images.
        images: Names of the wanted ones.
        method: A key of `maps.MAP_METHODS`.
        findings: What the model's outputs stand for.
        mean: Grey value taken off each input channel, as in training.
        std: What each is divided by.
        device: Where the model is.
        batch: Images at once. None: 16, or fewer where attention maps written out would fill the memory.
        wanted: Image -> the findings whose maps are needed. Methods that need a gradient per finding make no others, and
            leave them NaN. Images come in the order of how many that are, which keeps the number of passes low.

    Raises:
        CxrError: There is no such method, it needs a model, or it does not fit this one.
    """
    chosen = map_method(method)
    if chosen.needs_model and model is None:
        raise CxrError(f"the map method {method} looks into a model: give a run")
    row_of = dict(zip(store.table["image"], range(store.n)))
    lost = [image for image in images if image not in row_of]
    if lost:
        raise CxrError(f"{len(lost)} boxed images are not in the store (such as {lost[0]}): prepare it from the same data")
    height, width = grid_of(model)
    batch = batch or max(1, min(16, 2**21 // (height * width) ** 2))
    if wanted is not None:
        images = sorted(images, key=lambda image: len(wanted[image]))
    for start in range(0, len(images), batch):
        names = images[start : start + batch]
        img_BYX = torch.from_numpy(np.stack([store.image(row_of[name]) for name in names])).to(device)
        img_BIYX = normalise(to_float(img_BYX), mean=mean, std=std)
        options = {}
        if wanted is not None and chosen.by_gradient:
            options["wanted_BC"] = torch.tensor([[finding in wanted[name] for finding in findings] for name in names])
        map_BCyx = chosen.make(model, img_BIYX, findings=len(findings), names=names, **options).detach().float().cpu().numpy()
        for name, map_Cyx in zip(names, map_BCyx):
            yield ImageMaps(name, findings, map_Cyx)
