"""One table of studies: what every reader returns and every later step takes."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.errors import CxrError

TABLE_COLUMNS = ("image", "path", "patient", "follow_up", "age", "sex", "view", "split", "width", "height")
BOX_COLUMNS = ("image", "finding", "x0", "y0", "x1", "y1")
SPLITS = ("train_val", "test", "")


@dataclasses.dataclass(frozen=True)
class Studies:
    """A data set's table, one row per image, with its boxes and where both came from.

    Columns of `table`, in this order: `image` (unique name), `path` (relative to `root`; "" where the file is
    absent), `patient` (str), `follow_up` (int), `age` (years, NaN where impossible or unknown), `sex` ("M",
    "F" or NaN), `view` ("PA", "AP", "LL", "RL", "lateral", ... or ""), `split` ("train_val", "test" or ""),
    `width` and `height` (the
    pixel frame that boxes are given in: 1024 x 1024 for NIH even where the files are smaller copies; 0 where
    it is the file's own size), then one float column per finding with 1, 0 or NaN.

    Columns of `boxes`: `image`, `finding`, `x0`, `y0`, `x1`, `y1`: float, half-open, in the `width` x
    `height` frame.
    """

    table: pd.DataFrame
    boxes: pd.DataFrame
    findings: tuple[str, ...]
    source: str
    generation: str
    root: Path
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        missing = [name for name in (*TABLE_COLUMNS, *self.findings) if name not in self.table]
        if missing:
            raise CxrError(
                f"the table of studies lacks the columns {missing}: build it with a reader of cxrlib.data"
            )
        if self.table["image"].duplicated().any():
            name = self.table["image"][self.table["image"].duplicated()].iloc[0]
            raise CxrError(f"the table of studies names {name} twice: remove one of the rows")

    def __len__(self) -> int:
        return len(self.table)

    def labels_NC(self) -> np.ndarray:
        """The labels as float32 [N, C] with 1, 0 and NaN, C in the order of `findings`."""
        return self.table[list(self.findings)].to_numpy(np.float32)

    def where(self, *, split: str | None = None) -> np.ndarray:
        """Row numbers of the images in `split` ("train_val" or "test"), or of all images for None."""
        return rows_in_split(self.table, split)

    def subset(self, indices: np.ndarray) -> "Studies":
        """The studies at these row numbers, in that order, with the boxes that belong to them."""
        table = self.table.iloc[np.asarray(indices)].reset_index(drop=True)
        boxes = self.boxes[self.boxes["image"].isin(set(table["image"]))].reset_index(drop=True)
        return dataclasses.replace(self, table=table, boxes=boxes)


def rows_in_split(table: pd.DataFrame, split: str | None) -> np.ndarray:
    """Row numbers of `table` whose split is `split`; all rows for None.

    Raises:
        CxrError: There is no such split, or it holds no image.
    """
    if split is None:
        return np.arange(len(table))
    if split not in SPLITS:
        raise CxrError(f"no split is called {split!r}: use one of {SPLITS}")
    rows = np.flatnonzero(table["split"].to_numpy() == split)
    if split and not len(rows):
        raise CxrError(f"no image is in the split {split!r}: give the reader the official split files")
    return rows


def empty_boxes() -> pd.DataFrame:
    """A table of boxes without a row, with the right column types."""
    columns = {name: pd.Series(dtype=object if name in BOX_COLUMNS[:2] else float) for name in BOX_COLUMNS}
    return pd.DataFrame(columns)
