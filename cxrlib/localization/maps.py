"""Where maps come from: one registry, one signature.

    method(model, img_BIYX, *, findings, names) -> map_BCyx

`MAP_METHODS` has the maps that look at no model (below) and those of `attribution.py`. A map that knows nothing about
findings is the same for all of them. The maps without a model say what a method must beat: they know where chests lie in
films, and nothing else.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxrlib.errors import CxrError
from cxrlib.localization.stream import ImageMaps

GRID = 14
"""Cells along each side of a map that no model gives a size to: that of a ViT with patches of 16 at 224 px."""


class MapMethod(NamedTuple):
    """A way to make maps."""

    make: Callable[..., Tensor]
    text: str
    """One line for the help."""
    needs_model: bool = True
    by_gradient: bool = False
    """Whether `make` takes `wanted_BC`, and then makes those maps only."""


def centre(model: nn.Module | None, img_BIYX: Tensor, *, findings: int, names: Sequence[str] = ()) -> Tensor:
    """A round bump in the middle of the image, the same for every image and finding."""
    height, width = grid_of(model)
    y, x = (torch.linspace(-1 + 1 / n, 1 - 1 / n, n) for n in (height, width))
    bump_yx = torch.exp(-(y[:, None] ** 2 + x[None] ** 2) / (2 * 0.5**2))
    return _for_all(bump_yx[None].expand(len(img_BIYX), -1, -1), findings)


def random(model: nn.Module | None, img_BIYX: Tensor, *, findings: int, names: Sequence[str] = ()) -> Tensor:
    """Noise, each cell of its own; the same for the same image name, whatever the order or the batch."""
    height, width = grid_of(model)
    names = names or [str(index) for index in range(len(img_BIYX))]
    maps = [np.random.default_rng(zlib.crc32(name.encode())).random((findings, height, width), np.float32) for name in names]
    return torch.from_numpy(np.stack(maps))


def lungs(model: nn.Module | None, img_BIYX: Tensor, *, findings: int, names: Sequence[str] = ()) -> Tensor:
    """1 on the lungs of a template, 0 elsewhere: anatomy without an image."""
    from cxrlib.priors.template import template

    size = img_BIYX.shape[-1]
    structures = template(size)
    mask_YX = torch.from_numpy(structures["Left Lung"] | structures["Right Lung"]).float()
    return _for_all(_to_grid(mask_YX.expand(len(img_BIYX), size, size), grid_of(model)), findings)


def edges(model: nn.Module | None, img_BIYX: Tensor, *, findings: int, names: Sequence[str] = ()) -> Tensor:
    """How steep grey values are (Sobel), averaged over each cell: what an edge detector would call salient."""
    grey_BYX = img_BIYX.float().mean(dim=1)
    along_x = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=img_BIYX.device)
    padded = F.pad(grey_BYX[:, None], (1, 1, 1, 1), mode="replicate")
    slope_B2YX = F.conv2d(padded, torch.stack([along_x, along_x.T])[:, None])
    return _for_all(_to_grid(torch.hypot(slope_B2YX[:, 0], slope_B2YX[:, 1]), grid_of(model)), findings)


MAP_METHODS: dict[str, MapMethod] = {
    "centre": MapMethod(centre, "a bump in the middle of the image", False),
    "random": MapMethod(random, "noise", False),
    "lungs": MapMethod(lungs, "the lungs of a template", False),
    "edges": MapMethod(edges, "steepness of grey values", False),
}
"""Name -> method. `cxrlib.localization.attribution` adds those that look into a model."""


def map_method(name: str) -> MapMethod:
    """The method of that name.

    Raises:
        CxrError: There is none.
    """
    from cxrlib.localization import attribution  # noqa: F401  (registers its methods)

    if name not in MAP_METHODS:
        raise CxrError(f"there is no map method {name!r}: choose one of {', '.join(MAP_METHODS)}")
    return MAP_METHODS[name]


def random_maps(truth: pd.DataFrame, *, grid: int = GRID) -> Iterator[ImageMaps]:
    """Random maps for every image with a true box, for the row that every table has; no image is needed."""
    findings = tuple(dict.fromkeys(truth["finding"]))
    for name in dict.fromkeys(truth["image"]):
        noise = np.random.default_rng(zlib.crc32(name.encode())).random((len(findings), grid, grid), np.float32)
        yield ImageMaps(name, findings, noise)


def grid_of(model: nn.Module | None) -> tuple[int, int]:
    """Rows and columns of a map: the model's patches, or `GRID` without a model."""
    return tuple(getattr(model, "grid", (GRID, GRID)))


def _to_grid(map_BYX: Tensor, grid: tuple[int, int]) -> Tensor:
    return F.adaptive_avg_pool2d(map_BYX[:, None], grid)[:, 0]


def _for_all(map_Byx: Tensor, findings: int) -> Tensor:
    """The same map for every finding."""
    return map_Byx[:, None].expand(-1, findings, -1, -1)
