"""Planted shortcuts: a cue that goes with a finding but is no sign of it, as strongly as one asks."""

import dataclasses

import numpy as np
import pandas as pd

from cxrlib.errors import CxrError
from cxrlib.findings import canonical

KINDS = ("drain", "marker")


@dataclasses.dataclass(frozen=True)
class Shortcut:
    """A cue.

    Fields:
        kind: "drain" (a chest drain is drawn or not) or "marker" (the side marker is an R where the cue is
            present, else an L).
        finding: The finding it goes with.
        strength: Chance that the cue tells the truth: 0.5 says nothing, 1 gives the finding away.
        test_strength: The same on the test list.
    """

    kind: str
    finding: str
    strength: float
    test_strength: float


def parse_shortcut(text: str | None) -> Shortcut | None:
    """Reads "KIND:FINDING:STRENGTH[:TEST_STRENGTH]", for example "drain:Pneumothorax:0.9:0.5"; None stays
    None.

    Raises:
        CxrError: The text is malformed.
    """
    if text is None:
        return None
    parts = text.split(":")
    try:
        kind, finding, strength = parts[0], canonical(parts[1]), float(parts[2])
        test = float(parts[3]) if len(parts) > 3 else strength
    except (IndexError, ValueError):
        raise CxrError(
            f"shortcut {text!r} is not KIND:FINDING:STRENGTH[:TEST_STRENGTH], "
            "for example drain:Pneumothorax:0.9"
        ) from None
    if kind not in KINDS or len(parts) > 4:
        raise CxrError(f"shortcut kind {kind!r} is none of {', '.join(KINDS)}")
    if not (0 <= strength <= 1 and 0 <= test <= 1):
        raise CxrError(f"shortcut strengths {strength} and {test} must lie between 0 and 1")
    return Shortcut(kind, finding, strength, test)


def plant(table: pd.DataFrame, cue: Shortcut | None, seed: int) -> pd.DataFrame:
    """Adds the columns `drain` (True, False or None = by nature) and `marker` ("L", "R" or "auto") to a
    cohort's table."""
    table = table.copy()
    table["drain"] = pd.Series([None] * len(table), dtype=object)
    table["marker"] = "auto"
    if cue is None:
        return table
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    has = table["truth"].map(lambda s: cue.finding in s.split("|")).to_numpy()
    strength = np.where(table["split"] == "test", cue.test_strength, cue.strength)
    present = np.where(rng.random(len(table)) < strength, has, ~has)
    if cue.kind == "drain":
        table["drain"] = pd.Series([bool(p) for p in present], dtype=object)
    else:
        table["marker"] = np.where(present, "R", "L")
    return table
