"""Maps to candidate boxes, one image at a time, so that memory does not grow with their number.

What remains of a map are one box per threshold and the place of its maximum. All fitting and scoring needs no more.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cxrlib.data.folders import IMAGE_SUFFIXES
from cxrlib.errors import CxrError
from cxrlib.localization.boxes import LEVELS, Frame, find_boxes, two_level_boxes
from cxrlib.localization.matching import XYXY
from cxrlib.localization.truth import Truth, canonical_findings, check_images


REMEMBERED = 8
"""So many maps are remembered with their boxes."""


class ImageMaps(NamedTuple):
    """The maps of one image."""

    image: str
    findings: tuple[str, ...]
    map_Cyx: np.ndarray
    """One map per finding, over the square that the model saw."""
    frame: Frame | None = None
    """Width and height of the original, if the maps came with it: it is then compared with the data's."""


def candidates(
    truth: pd.DataFrame,
    maps: Iterable[ImageMaps],
    *,
    levels: tuple[float, ...] = LEVELS,
    count: int = 1,
    square: int | None = None,
    size: int = 1024,
) -> pd.DataFrame:
    """The boxes at each threshold for every image and finding that has a true box. Other maps are not looked at.

    Args:
        truth: True boxes: image, finding, width, height.
        maps: The maps, image by image, in any order.
        levels: Thresholds. Empty: the two fixed levels of Wang et al. (2017), and the level is 0.
        count: Boxes per threshold.
        square: Side of the model's square in pixels; see `boxes.upsample`.
        size: Longer side to which maps are upsampled.

    Returns:
        image, finding, level, x0, y0, x1, y1, peak_x, peak_y; at least one row per image, finding and level, its box NaN
        where none was found.

    Raises:
        CxrError: An image or finding with a true box has no map, or a map is broken.
    """
    wanted = {image: rows for image, rows in truth.drop_duplicates(["image", "finding"]).groupby("image", sort=False)}
    pairs, parts, seen = [], [], set()
    done: dict[tuple, np.ndarray] = {}
    for item in maps:
        rows = wanted.get(item.image)
        if rows is None:
            continue
        if item.image in seen:
            raise CxrError(f"there are two sets of maps for {item.image}: remove one")
        seen.add(item.image)
        frame = Frame(int(rows["width"].iloc[0]), int(rows["height"].iloc[0]))
        if item.frame is not None and item.frame != frame:
            raise CxrError(
                f"the maps of {item.image} are for an image of {item.frame.width} x {item.frame.height} pixels (width x height), the "
                f"data says {frame.width} x {frame.height}: one of them is in another frame, or has its sides swapped"
            )
        for finding in rows["finding"]:
            if finding not in item.findings:
                raise CxrError(f"{item.image} has a true box of {finding} but no map of it: add it, or leave it out with --findings")
            try:
                map_yx = np.asarray(item.map_Cyx, np.float32)[item.findings.index(finding)]
                # Many maps are the same for every finding, and some for every image: their boxes are drawn once.
                key = map_yx.shape, map_yx.tobytes(), frame
                if key not in done:
                    if len(done) == REMEMBERED:
                        done.clear()
                    done[key] = _boxes_of(map_yx, frame, levels, count, square, size)
                parts.append(done[key])
                pairs.append((item.image, finding))
            except CxrError as error:
                raise CxrError(f"{finding} on {item.image}: {error}") from None
    missing = [image for image in wanted if image not in seen]
    if missing:
        raise CxrError(f"{len(missing)} of {len(wanted)} images with true boxes have no map (such as {missing[0]}): make maps for all of them")
    lengths = [len(rows) for rows in parts]
    images, findings = (np.repeat(np.array(names, object), lengths) for names in zip(*pairs))
    table = pd.DataFrame(np.concatenate(parts), columns=["level", *XYXY, "peak_x", "peak_y"])
    table.insert(0, "finding", findings)
    table.insert(0, "image", images)
    return table


def _boxes_of(map_yx: np.ndarray, frame: Frame, levels: tuple[float, ...], count: int, square: int | None, size: int) -> np.ndarray:
    """Rows of level, x0, y0, x1, y1, peak_x, peak_y."""
    found = find_boxes(map_yx, frame, levels=levels or (1.0,), count=count, square=square, size=size)
    if levels:
        boxes_TK4, level = found.boxes_TK4, np.repeat(levels, count)
    else:
        boxes_TK4, level = two_level_boxes(map_yx, frame, square=square, size=size)[None], 0.0
    flat = boxes_TK4.reshape(-1, 4)
    rows = np.empty((len(flat), 7))
    rows[:, 0], rows[:, 1:5], rows[:, 5:] = level, flat, found.peak_2
    # Beyond the first box of a level, "none found" needs no row.
    extra = (np.arange(len(flat)) % boxes_TK4.shape[1] > 0) & np.isnan(flat[:, 0])
    return rows[~extra]


def read_maps(folder: str | os.PathLike, truth: Truth) -> Iterator[ImageMaps]:
    """Maps saved by anybody, one `.npz` per image, named after it: `00000003_000.npz` for `00000003_000.png`.

    Arrays: `maps` [C, y, x]; `findings`, C names; optional `frame`: width and height of the original image. (CheXlocalize
    calls that `cxr_dims`, also width x height, which is taken too.) A CheXpert image's name has its slashes replaced by
    underscores.

    Raises:
        CxrError: The folder has no maps, a name is unknown, or an array is missing.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    if not files:
        raise CxrError(f"{folder} holds no .npz of maps: give a folder with one file per image")
    names = {_stem(image): image for image in truth.images}
    check_images(pd.Series([names.get(file.stem, file.name) for file in files]), truth, str(folder))
    return _files(files, names, truth)


def _stem(image: str) -> str:
    """An image's name without the ending of a picture (names of DICOM files have dots of their own) and without slashes."""
    place = Path(image)
    return (place.with_suffix("") if place.suffix.lower() in IMAGE_SUFFIXES else place).as_posix().replace("/", "_")


def _files(files: list[Path], names: dict[str, str], truth: Truth) -> Iterator[ImageMaps]:
    boxed = set(truth.boxes["image"])
    for file in files:
        image = names[file.stem]
        if image not in boxed:
            continue
        try:
            with np.load(file, allow_pickle=False) as bundle:
                arrays = {name: bundle[name] for name in bundle.files}
        except (OSError, ValueError, EOFError) as error:
            raise CxrError(f"{file} cannot be read ({error}): save it again with numpy.savez, without objects") from None
        missing = [name for name in ("maps", "findings") if name not in arrays]
        if missing:
            raise CxrError(f"{file} lacks the array {', '.join(missing)}: it needs maps [C, y, x] and findings [C]")
        findings = tuple(canonical_findings(pd.Series(arrays["findings"].astype(str)), str(file)))
        if arrays["maps"].ndim != 3 or len(arrays["maps"]) != len(findings):
            raise CxrError(f"{file} has {len(findings)} findings for maps of the shape {arrays['maps'].shape}: it must be [C, y, x]")
        if len(set(findings)) < len(findings):
            raise CxrError(f"{file} names a finding twice: keep one map per finding")
        frame = arrays.get("frame", arrays.get("cxr_dims"))
        yield ImageMaps(image, findings, arrays["maps"], None if frame is None else Frame(*(int(side) for side in np.ravel(frame))))
