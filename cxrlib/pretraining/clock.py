"""Where a run stands, and what depends on it along half a cosine."""

import math
from typing import NamedTuple


class Clock(NamedTuple):
    """Where in the run a step is."""

    step: int
    """From 0."""
    steps: int
    """Steps of the whole run."""
    epoch_steps: int
    """Steps of an epoch."""


def cosine(clock: Clock, first: float, last: float) -> float:
    """From `first` at step 0 along half a cosine to `last` at the end: slow, faster, slow.

        last - (last - first) (1 + cos(pi step / steps)) / 2

    GMML and DINO let the weight decay grow so, DINO the teacher's momentum too (arXiv 2104.14294, section 3.1).
    """
    return last - (last - first) * 0.5 * (1 + math.cos(math.pi * clock.step / clock.steps))
