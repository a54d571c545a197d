"""From thickness to grey: Beer-Lambert attenuation, scatter, quantum noise, detector blur and the display
window."""

import dataclasses

import numpy as np

from cxrlib.phantom.build import Build
from cxrlib.phantom.grid import blur, stretch
from cxrlib.phantom.scene import Scene, Shape

MU_SOFT = 0.185
"""Linear attenuation of soft tissue, 1/cm, at a chest tube's effective energy of about 70 keV (our
decision: rounded)."""
MU_BONE = 0.50
"""Of bone."""
MU_METAL = 6.0
"""Of devices and markers."""


@dataclasses.dataclass
class Exposure:
    """How the film is exposed and shown.

    Fields:
        photons: Quanta per cm2 of bare detector, which sets the noise.
        scatter: Scattered over primary light at the detector, far from edges.
        blur_cm: Sigma of the detector's and the focus's blur.
        dark, bright: Optical depths of a healthy lung and of the mediastinum, which the display's window is
            set by.
        grey_dark, grey_bright: The greys they are shown as.
        edges: Strength of the processing that lifts fine detail, as digital systems do.
        fog: Grey of bare air.
    """

    photons: float
    scatter: float
    blur_cm: float
    dark: float
    bright: float
    grey_dark: float
    grey_bright: float
    edges: float
    fog: float


def draw_exposure(rng: np.random.Generator, *, view: str, build: Build, shape: Shape) -> Exposure:
    """Draws an exposure for a healthy body of this build; AP films are flatter and noisier, for want of a
    grid and of power."""
    ap = view == "AP"
    thick = 2 * (shape.depth + 1.9 + 0.55 * build.wall)
    return Exposure(
        photons=float(np.exp(rng.normal(15.6 if not ap else 14.9, 0.5))),
        scatter=float(rng.uniform(0.7, 1.2)) * (1.5 if ap else 1.0),
        blur_cm=float(rng.uniform(0.03, 0.07)),
        dark=MU_SOFT * (thick - 2 * 0.80 * shape.depth * (1 - shape.density)),
        bright=MU_SOFT * thick,
        grey_dark=float(np.clip(rng.normal(96 if not ap else 112, 15 if not ap else 20), 55, 150)),
        grey_bright=float(np.clip(rng.normal(198, 9), 172, 215)),
        edges=float(rng.uniform(0.25, 0.8)),
        fog=float(abs(rng.normal(0, 14))),
    )


def optical_depth(scene: Scene) -> np.ndarray:
    """The sum of mu times thickness, float32 [Y, X]. Never negative."""
    lost = scene.air * (1.0 - scene.lung_density)
    soft = scene.body - lost + 1.15 * scene.vessels + scene.matter
    soft = np.maximum(soft, 0.02 * scene.body)
    return (
        np.float32(MU_SOFT) * soft
        + np.float32(MU_BONE - MU_SOFT) * scene.bone
        + np.float32(MU_METAL) * scene.metal
    )


def project(
    depth_YX: np.ndarray, exposure: Exposure, rng: np.random.Generator, *, pitch: float
) -> np.ndarray:
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
    scattered = _coarse(np.minimum(primary, np.float32(np.exp(-exposure.dark) * 1.5)), 2.0)
    light = stretch(scattered, n)
    light *= np.float32(0.12 * exposure.scatter)
    light += primary
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    noise *= np.sqrt(light * np.float32(1.0 / (exposure.photons * pitch**2)))
    light += noise
    depth = -np.log(np.maximum(light, 1e-4, out=light), out=light)
    # Detail is lifted against a blurred copy, within limits, so that skin does not glow.
    detail = np.float32(exposure.edges) * (depth - stretch(_coarse(depth, 0.8), n))
    np.minimum(np.maximum(detail, -0.45, out=detail), 0.45, out=detail)
    depth += detail
    low, high = (_seen(t, exposure) for t in (exposure.dark, exposure.bright))
    slope = (exposure.grey_bright - exposure.grey_dark) / (high - low)
    steps = depth * np.float32(4 * slope)
    steps += np.float32(4 * (exposure.grey_dark - low * slope) + 800.5)
    steps = np.minimum(np.maximum(steps, 0, out=steps), 2399, out=steps).astype(np.int32)
    return _display(exposure)[steps]


def _display(exposure: Exposure) -> np.ndarray:
    """The display's toe and shoulder as a table, uint8 [2400], for greys from -200 to 400 in quarters: they
    bend off towards black and white instead of being cut."""
    grey = np.arange(2400) / 4 - 200
    knee, top, toe = exposure.grey_bright - 10, 236.0, 40.0
    bent = np.where(
        grey > knee, knee + (top - knee) * (1 - np.exp(-np.maximum(grey - knee, 0) / (top - knee))), grey
    )
    bent = np.where(bent < toe, toe * np.exp((np.minimum(bent, toe) - toe) / toe), bent)
    return np.clip(np.maximum(bent, exposure.fog) + 0.5, 0, 255).astype(np.uint8)


def _coarse(image_YX: np.ndarray, sigma: float) -> np.ndarray:
    """A 16 x 16 likeness of a picture, blurred by `sigma` of its pixels, with the margin that `stretch`
    wants."""
    n = image_YX.shape[0]
    edges = np.linspace(0, n, 17).astype(np.int64)[:-1]
    width = np.diff(np.append(edges, n)).astype(np.float32)
    sums = np.add.reduceat(np.add.reduceat(image_YX, edges, 0), edges, 1) / (width[:, None] * width)
    return blur(np.pad(sums, 1, mode="edge"), sigma)


def _seen(depth: float, exposure: Exposure) -> float:
    """The optical depth that is measured where the true one is `depth`, scatter included."""
    return float(-np.log(np.exp(-depth) + 0.12 * exposure.scatter * 0.6 * np.exp(-exposure.dark)))


def tissue_texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Unevenness of muscle and fat, a few per cent, float32 [Y, X]: coarse blobs that carry finer ones."""
    fine = rng.standard_normal((40, 40), dtype=np.float32)
    coarse = stretch(rng.standard_normal((14, 14), dtype=np.float32), 40)
    return stretch(np.float32(0.018) * fine + np.float32(0.036) * coarse, size)


def lung_texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Unevenness of the lungs' tissue, down to the smallest vessels: about 10 per cent, float32 [Y, X]."""
    fine = rng.standard_normal((90, 90), dtype=np.float32)
    coarse = stretch(rng.standard_normal((18, 18), dtype=np.float32), 90)
    return stretch(np.float32(0.12) * fine + np.float32(0.06) * coarse, size)
