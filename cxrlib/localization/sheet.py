"""A contact sheet: films with the true box, the predicted box, their IoU, and the map that the box came from."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from cxrlib.data.frames import to_store
from cxrlib.data.store import ImageStore
from cxrlib.localization.boxes import Frame, unit, upsample
from cxrlib.localization.matching import XYXY, overlaps
from cxrlib.localization.stream import ImageMaps

EACH = 3
MOST = 24


def chosen_pairs(truth: pd.DataFrame, *, each: int = EACH, most: int = MOST) -> pd.DataFrame:
    """Rows of the truth to be drawn: `each` per finding, spread evenly over its boxes from small to large. Not by score."""
    parts = []
    for _, rows in truth.groupby("finding", sort=False):
        area = (rows["x1"] - rows["x0"]) * (rows["y1"] - rows["y0"]) / (rows["width"] * rows["height"])
        ordered = rows.iloc[np.argsort(area.to_numpy(), kind="stable")].drop_duplicates(["image", "finding"])
        places = np.unique(np.linspace(0, len(ordered) - 1, 2 * each + 1)[1::2].astype(int))
        parts.append(ordered.iloc[places])
    return pd.concat(parts).head(most) if parts else truth.head(0)


def keeping(maps: Iterable[ImageMaps], pairs: pd.DataFrame, kept: dict[tuple[str, str], np.ndarray]) -> Iterator[ImageMaps]:
    """Hands maps on, and puts those of some pairs aside for the sheet: as few as are drawn."""
    wanted = {image: set(rows["finding"]) for image, rows in pairs.groupby("image")}
    for item in maps:
        for finding in wanted.get(item.image, set()) & set(item.findings):
            kept[item.image, finding] = np.array(item.map_Cyx[item.findings.index(finding)])
        yield item


def draw(
    store: ImageStore, pairs: pd.DataFrame, truth: pd.DataFrame, predicted: pd.DataFrame, kept: dict[tuple[str, str], np.ndarray], *, title: str
) -> bytes:
    """The sheet as PNG bytes.

    Args:
        store: The pixels.
        pairs: What to draw, from `chosen_pairs`.
        truth: All true boxes.
        predicted: All predicted boxes.
        kept: Maps by (image, finding); a pair without one is drawn without.
        title: Above everything.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from cxrlib import viz

    columns = 6
    rows = -(-len(pairs) // columns)
    fig = Figure(figsize=(columns * 1.75, rows * 1.95 + 0.8), layout="constrained")
    axes = fig.subplots(rows, columns, squeeze=False).ravel()
    row_of = dict(zip(store.table["image"], range(store.n)))
    for ax in axes:
        ax.set_axis_off()
    for ax, pair in zip(axes, pairs.itertuples()):
        viz.radiograph(ax, store.image(row_of[pair.image]))
        frame = Frame(int(pair.width), int(pair.height))
        if (pair.image, pair.finding) in kept:
            _heat(ax, kept[pair.image, pair.finding], frame, store.size)
        mine = [boxes[boxes["image"].eq(pair.image) & boxes["finding"].eq(pair.finding)][XYXY].to_numpy(float) for boxes in (truth, predicted)]
        iou = [overlaps(np.repeat(box[None], len(mine[0]), 0), mine[0])[0].max() for box in mine[1] if not np.isnan(box).any()]
        for boxes, color, dashed in zip(mine, ("orange", "sky"), (False, True)):
            drawn = boxes[~np.isnan(boxes).any(axis=1)]
            if len(drawn):
                viz.boxes(ax, to_store(drawn, width=frame.width, height=frame.height, size=store.size), color=color, dashed=dashed)
        ax.set_title(f"{pair.finding.replace('_', ' ')}\n" + (f"IoU {max(iou):.2f}" if iou else "no box"), fontsize=8)
    handles = [
        Line2D([], [], color=viz.PALETTE["orange"], label="true box"),
        Line2D([], [], color=viz.PALETTE["sky"], linestyle="--", label="predicted box"),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    fig.suptitle(title, fontsize=10, x=0.01, ha="left")
    return viz.png_of(fig)


def _heat(ax, map_yx: np.ndarray, frame: Frame, size: int) -> None:
    """The upsampled map over the image's part of the square; nothing for a constant one."""
    heat_YX = unit(upsample(map_yx, frame, size=size))
    if heat_YX is None:
        return
    x0, y0, x1, y1 = to_store(np.array([0, 0, frame.width, frame.height]), width=frame.width, height=frame.height, size=size)
    extent = (x0 - 0.5, x1 - 0.5, y1 - 0.5, y0 - 0.5)
    # As opaque as it is hot: where the map is cold, the film stays a film.
    ax.imshow(heat_YX, cmap="inferno", alpha=0.6 * heat_YX, vmin=0, vmax=1, extent=extent, interpolation="nearest")
