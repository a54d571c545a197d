"""Where in a lung something lies, and how air there becomes fluid or cells."""

import numpy as np

from cxrlib.phantom.organs import lung_half_width
from cxrlib.phantom.scene import Scene


def spot(
    scene: Scene, rng: np.random.Generator, side: int, *, height=(0.15, 0.9), outward=(0.2, 0.85)
) -> tuple[float, float]:
    """A random place in a lung.

    Args:
        scene: The scene.
        rng: Random source.
        side: -1 for the patient's right (left of the image), 1 for the left.
        height: Range from 0 (apex) to 1 (top of the dome).
        outward: Range from 0 (midline edge of the lung) to 1 (ribs).

    Returns:
        x, y in the body's frame, cm.
    """
    s = scene.shape
    dome = s.dome_y[0 if side < 0 else 1]
    y = s.apex_y + float(rng.uniform(*height)) * (dome - s.apex_y)
    a = float(lung_half_width(scene, np.float32(y)))
    inner = 2.6
    t = (y - s.apex_y) / (dome - s.apex_y)
    if side > 0:  # beside the heart, not behind it
        inner += max(0.0, t - 0.45) * 2 * max(0.0, scene.meta["heart_box"][1] - 3.5) * 0.8
    return side * (inner + float(rng.uniform(*outward)) * (a - inner)), y


def lung_of(scene: Scene, side: int) -> np.ndarray:
    """The mask of one lung."""
    return scene.anatomy["Right Lung" if side < 0 else "Left Lung"]


def fill(scene: Scene, fraction_YX: np.ndarray) -> None:
    """Replaces a fraction of the lung's air by water along each beam; vessels there lose their outline
    (silhouette sign).

    Args:
        scene: Changed in place.
        fraction_YX: 0 to 1, of the air that is left.
    """
    gas = 1.0 - scene.lung_density
    scene.lung_density = 1.0 - gas * (1.0 - fraction_YX)
    scene.vessels = scene.vessels * (1.0 - fraction_YX)


def pick_side(rng: np.random.Generator) -> int:
    """-1 (patient's right) a little oftener than 1, as the right lung is the larger."""
    return -1 if rng.random() < 0.54 else 1
