"""From thickness to grey: Beer-Lambert attenuation, scatter, quantum noise, detector blur and the display window."""

import dataclasses

import numpy as np

from cxrlib.phantom.grid import blur, cloud, stretch
from cxrlib.phantom.scene import Scene

MU_SOFT = 0.185
"""Linear attenuation of soft tissue, 1/cm, at a chest tube's effective energy of about 70 keV (our decision: rounded)."""
MU_BONE = 0.50
"""Of bone."""
MU_METAL = 6.0
"""Of devices and markers."""


@dataclasses.dataclass
class Exposure:
    """How the film is exposed and shown.

    Fields:
        photons: Quanta per cm2 of bare detector, which sets the noise.
        scatter: Scattered over primary light at the detector, averaged over the film.
        blur_cm: Sigma of the detector's and the focus's blur.
        low, high: Optical depths shown as black and as white.
        gamma: Bend of the display curve.
    """

    photons: float
    scatter: float
    blur_cm: float
    low: float
    high: float
    gamma: float


def draw_exposure(rng: np.random.Generator, *, view: str) -> Exposure:
    """Draws an exposure; AP films are flatter and noisier, for want of a grid and of power."""
    ap = view == "AP"
    return Exposure(
        photons=float(np.exp(rng.normal(11.6 if not ap else 11.0, 0.4))),
        scatter=float(rng.uniform(0.010, 0.022)) * (1.5 if ap else 1.0),
        blur_cm=float(rng.uniform(0.03, 0.07)),
        low=float(rng.normal(0.35, 0.2)),
        high=float(rng.normal(3.75, 0.22)),
        gamma=float(np.exp(rng.normal(0.0, 0.16))),
    )


def optical_depth(scene: Scene) -> np.ndarray:
    """The sum of mu times thickness, float32 [Y, X]. Never negative."""
    lost = scene.air * (1.0 - scene.lung_density)
    soft = scene.body - lost + 0.8 * scene.vessels + scene.matter
    soft = np.maximum(soft, 0.02 * scene.body)
    return np.float32(MU_SOFT) * soft + np.float32(MU_BONE - MU_SOFT) * scene.bone + np.float32(MU_METAL) * scene.metal


def project(depth_YX: np.ndarray, exposure: Exposure, rng: np.random.Generator, *, pitch: float) -> np.ndarray:
    """Optical depth -> grey picture, uint8 [Y, X], dense matter bright.

    Args:
        depth_YX: Optical depth.
        exposure: The film's exposure.
        rng: For the noise.
        pitch: Centimetres per pixel.

    Returns:
        uint8 [Y, X].
    """
    n = depth_YX.shape[0]
    primary = blur(np.exp(-depth_YX), exposure.blur_cm / pitch)
    # Scatter is far blurrier than any organ: a coarse copy is enough.
    step = max(n // 16, 1)
    coarse = primary[: n // step * step, : n // step * step].reshape(n // step, step, n // step, step).mean((1, 3))
    coarse = blur(np.pad(np.minimum(coarse, 0.35), 1, mode="edge"), 2.0)
    light = primary + np.float32(exposure.scatter) + np.float32(0.09) * stretch(coarse, n)
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    quanta = np.float32(exposure.photons * pitch**2)
    light = np.maximum(light + noise * np.sqrt(light / quanta), 1e-4)
    shown = (-np.log(light) - np.float32(exposure.low)) * np.float32(1.0 / (exposure.high - exposure.low))
    shown = np.clip(shown, 0.0, 1.25)
    # The display's curve: bends off towards white as film and screens do.
    shown = shown ** np.float32(exposure.gamma)
    grey = 232.0 * (1.0 - np.exp(-1.9 * shown**1.15)) * np.float32(1 / (1 - np.exp(-1.9)))
    return np.clip(grey + 0.5, 0, 255).astype(np.uint8)


def tissue_texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Unevenness of muscle and fat, a few per cent, float32 [Y, X]."""
    return np.float32(0.018) * cloud(rng, size, 3.2) + np.float32(0.010) * cloud(rng, size, 1.0)
