"""Findings that change the chest's plan before it is drawn: larger hearts, flat domes, lost volume, fuller
vessels."""

import numpy as np

from cxrlib.phantom.place import pick_side
from cxrlib.phantom.scene import Shape


def cardiomegaly(shape: Shape, rng: np.random.Generator, severity: float) -> dict:
    """Makes the heart wider than half of the thorax: cardiothoracic ratio 0.53 to 0.68."""
    ratio = 0.53 + 0.15 * severity
    shape.heart_width = ratio * 2 * shape.half_width
    shape.upper_vessels = max(shape.upper_vessels, 0.85)
    return {}


def emphysema(shape: Shape, rng: np.random.Generator, severity: float) -> dict:
    """Hyperinflation: low flat domes, dark lungs, thin vessels, and a narrow heart unless it is enlarged."""
    down = 1.6 + 2.4 * severity
    shape.dome_y = [y + down for y in shape.dome_y]
    shape.dome_curve = [c * (0.55 - 0.4 * severity) for c in shape.dome_curve]
    shape.half_width *= 1.02 + 0.02 * severity
    shape.depth *= 1.06 + 0.08 * severity
    shape.density *= 0.72 - 0.22 * severity
    shape.vessels *= 0.85 - 0.2 * severity
    if shape.heart_width < shape.half_width:
        shape.heart_width *= 0.88 - 0.10 * severity
    return {}


def edema(shape: Shape, rng: np.random.Generator, severity: float) -> dict:
    """Full vessels, the upper ones as wide as the lower, and thick hila."""
    shape.vessels *= 1.08 + 0.14 * severity
    shape.upper_vessels = 1.0 + 0.35 * severity
    shape.hila = 1.3 + 0.8 * severity
    return {}


def atelectasis(shape: Shape, rng: np.random.Generator, severity: float) -> dict:
    """Lost volume: the dome of that side rises and the heart moves towards it."""
    side = pick_side(rng)
    shape.dome_y[0 if side < 0 else 1] -= 0.7 + 1.6 * severity
    shape.heart_shift += side * 0.5 * severity
    return {"side": side}


def fibrosis(shape: Shape, rng: np.random.Generator, severity: float) -> dict:
    """Stiff, small lungs."""
    shape.dome_y = [y - 0.4 - 1.2 * severity for y in shape.dome_y]
    return {}


DISPLACE = {
    "Cardiomegaly": cardiomegaly,
    "Emphysema": emphysema,
    "Edema": edema,
    "Atelectasis": atelectasis,
    "Fibrosis": fibrosis,
}
"""Finding -> function(shape, rng, severity) -> what its second step needs to know."""
