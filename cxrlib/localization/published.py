"""What others report on NIH's boxes, with where the number was read and whether it can be compared."""

import functools
from importlib import resources

import pandas as pd

COMPARABLE = {
    "yes": "same boxes, nothing tuned on them",
    "nearly": "thresholds from one half of the boxed images, scored on the other",
    "partly": "other boxes per map or fixed thresholds",
    "unknown": "its protocol is not known to us",
    "no": "boxes seen in training, thresholds tuned on the scored boxes, or another test set",
}
"""What the column `comparable` means."""


@functools.cache
def published() -> pd.DataFrame:
    """One row per published number.

    Columns: method, source, trust (how we know the number), comparable (a key of `COMPARABLE`), protocol, finding (or
    "macro"), measure (as in `matching.measure_names`), value.
    """
    text = resources.files("cxrlib.localization").joinpath("published.csv")
    with text.open(encoding="utf-8") as file:
        return pd.read_csv(file)


def published_rows(measures: tuple[str, ...], *, finding: str = "macro") -> pd.DataFrame:
    """One row per method, with its values under the given measures (NaN where it has none); methods without any are left out."""
    table = published()
    mine = table[table["finding"].eq(finding) & table["measure"].isin(measures)]
    keys = ["method", "source", "trust", "comparable", "protocol"]
    order = list(dict.fromkeys(mine["method"]))
    wide = mine.pivot(index=keys, columns="measure", values="value").reindex(columns=list(measures)).reset_index()
    wide.columns.name = None
    return wide.set_index("method").loc[order].reset_index()
