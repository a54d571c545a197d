"""The scene: one body on one film, as thicknesses in cm, which findings then change before it is
projected."""

import dataclasses
import math

import numpy as np

from cxrlib.phantom.build import Build, Pose
from cxrlib.phantom.grid import FIELD_CM, Grid


@dataclasses.dataclass
class Shape:
    """Plan of the chest's inside: where its surfaces lie. Findings that displace organs change it before
    anything is drawn.

    Pairs are (patient's right, patient's left). Lengths in cm in the body's own frame (x right of the
    image, y down).
    """

    apex_y: float
    dome_y: list[float]
    dome_curve: list[float]
    half_width: float
    depth: float
    heart_width: float
    heart_shift: float
    density: float
    """What of a healthy lung is matter: 0.26 at a full breath, less in emphysema."""
    vessels: float
    """Width of the vessels, 1 = healthy."""
    upper_vessels: float
    hila: float


@dataclasses.dataclass
class Scene:
    """Thickness fields, float32 [Y, X], in cm along the beam.

    Fields:
        x_YX, y_Y1: Each pixel in the body's frame, cm; x is 0 on the midline.
        body: Chord through the body, all of it soft tissue at first.
        air: Chord of lung (air and the tissue that holds it).
        lung_density: Fraction of `air` that is matter.
        vessels: Blood in the lungs' vessels.
        matter: Soft tissue added (positive) or removed: lesions, gas, breasts, fluids.
        bone: Mineral.
        metal: Devices and markers.
        anatomy: Masks by PSPNet's names.
        lesions: Finding -> list of masks, one per lesion.
    """

    grid: Grid
    build: Build
    pose: Pose
    shape: Shape
    x_YX: np.ndarray
    y_Y1: np.ndarray
    body: np.ndarray = None
    air: np.ndarray = None
    lung_density: np.ndarray = None
    vessels: np.ndarray = None
    matter: np.ndarray = None
    bone: np.ndarray = None
    metal: np.ndarray = None
    anatomy: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    lesions: dict[str, list[np.ndarray]] = dataclasses.field(default_factory=dict)
    meta: dict = dataclasses.field(default_factory=dict)

    def to_film(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Body frame -> film, cm: the inverse of x_YX and y_Y1."""
        p = self.pose
        film_y = y * p.scale + p.shift_y
        return x * p.scale + p.shift_x + p.tilt * film_y + bend(self.build, film_y), film_y

    def window(self, x0: float, x1: float, y0: float, y1: float) -> tuple[slice, slice]:
        """Rows and columns that hold a box given in the body's frame, with a margin for the midline's
        bend."""
        n, pitch = self.grid.size, self.grid.pitch
        xs, ys = self.to_film(np.array([x0, x0, x1, x1]), np.array([y0, y1, y0, y1]))
        pad = 0.4

        def at(value: float) -> int:
            return int(min(max((value + FIELD_CM / 2) / pitch, 0), n))

        return (
            slice(at(ys.min() - pad), min(n, at(ys.max() + pad) + 1)),
            slice(at(xs.min() - pad), min(n, at(xs.max() + pad) + 1)),
        )

    def add_lesion(self, finding: str, mask_YX: np.ndarray) -> None:
        """Notes one lesion's exact extent; an empty one is not a lesion."""
        if mask_YX.any():
            self.lesions.setdefault(finding, []).append(mask_YX)


def bend(build: Build, film_y):
    """How far the spine's bend moves the midline at a height, cm."""
    return build.spine_bend * np.sin(film_y * (math.pi / 22.0))


def plan(build: Build, pose: Pose) -> Shape:
    """The healthy chest of a body in a pose."""
    ap = pose.view == "AP"
    apex = -14.9
    dome = apex + build.length * (0.62 + 0.38 * pose.breath)
    gap = 1.1 + 0.25 * build.spine_bend
    return Shape(
        apex_y=apex,
        dome_y=[dome - 0.5 * gap, dome + 0.5 * gap],
        dome_curve=[0.085, 0.085],
        half_width=build.half_width * (0.93 + 0.07 * pose.breath),
        depth=build.depth * (0.9 + 0.1 * pose.breath),
        heart_width=min(build.ctr * (1.05 if ap else 1.0) + 0.05 * (0.97 - pose.breath), 0.462)
        * 2
        * build.half_width
        * (0.93 + 0.07 * pose.breath),
        heart_shift=pose.turn * 0.7,
        density=0.25 + 0.10 * (1.0 - pose.breath),
        vessels=1.0 if not ap else 1.1,
        upper_vessels=0.72 if not ap else 0.95,
        hila=1.0,
    )


def open_scene(g: Grid, build: Build, pose: Pose, shape: Shape) -> Scene:
    """An empty scene with its frame laid out."""
    x = (
        g.x_1X
        - np.float32(pose.shift_x)
        - (np.float32(pose.tilt) * g.y_Y1 + bend(build, g.y_Y1).astype(np.float32))
    )
    x = (x / np.float32(pose.scale)).astype(np.float32)
    y = ((g.y_Y1 - np.float32(pose.shift_y)) / np.float32(pose.scale)).astype(np.float32)
    scene = Scene(g, build, pose, shape, x, y)
    n = g.size
    scene.matter = np.zeros((n, n), np.float32)
    scene.bone = np.zeros((n, n), np.float32)
    scene.metal = np.zeros((n, n), np.float32)
    return scene
