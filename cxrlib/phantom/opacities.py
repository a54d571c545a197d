"""Opacities inside the lungs: nodule, mass, infiltration, pneumonia, consolidation, atelectasis, edema,
fibrosis.

The three that radiologists confuse differ here by a sign each. Infiltration: a thin, ragged haze through
which vessels show.
Pneumonia: a denser, patchy segment with dark air-filled bronchi in it. Consolidation: dense and even,
    vessels lost, one straight
edge along a fissure.
"""

import numpy as np

from cxrlib.phantom.grid import cloud, half_chord, ramp
from cxrlib.phantom.place import fill, lung_of, pick_side, spot
from cxrlib.phantom.scene import Scene
from cxrlib.phantom.vessels import draw_tubes, grow, hilum


def _polar(scene: Scene, x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
    return scene.x_YX - np.float32(x), scene.y_Y1 - np.float32(y)


def _ball(
    scene: Scene, rng: np.random.Generator, finding: str, radius: float, *, ragged: float, dense: float
) -> None:
    """A lump of soft tissue with a slightly lobed outline; its air makes room."""
    side = pick_side(rng)
    x, y = spot(scene, rng, side, height=(0.12, 0.92), outward=(0.15, 0.85))
    dx, dy = _polar(scene, x, y)
    lobes = rng.normal(0, ragged, 4)
    phase = rng.uniform(0, 2 * np.pi, 4)
    angle = np.arctan2(dy, dx)
    outline = 1 + sum(
        lobes[k] / (1 + 0.4 * k) * np.cos((k + 2) * angle + np.float32(phase[k])) for k in range(4)
    )
    squash = float(rng.uniform(0.85, 1.18))
    d2 = ((dx * squash) ** 2 + (dy / squash) ** 2) / (np.float32(radius) * outline.astype(np.float32)) ** 2
    depth = np.minimum(2 * np.float32(radius) * half_chord(d2), scene.air) * lung_of(scene, side)
    scene.matter += np.float32(dense) * (1 - scene.lung_density) * depth
    scene.add_lesion(finding, (d2 < 1) & lung_of(scene, side))


def nodule(scene: Scene, rng: np.random.Generator, severity: float, known: dict) -> None:
    """One to three round spots of at most 3 cm; some hold calcium."""
    for _ in range(1 + int(rng.random() < 0.25) + int(rng.random() < 0.12)):
        _ball(scene, rng, "Nodule", 0.85 + 0.62 * severity, ragged=0.02, dense=float(rng.uniform(1.3, 2.1)))


def mass(scene: Scene, rng: np.random.Generator, severity: float, known: dict) -> None:
    """A lump of more than 3 cm, lobed or ragged."""
    _ball(scene, rng, "Mass", 1.75 + 2.0 * severity**1.5, ragged=0.07, dense=1.15)


def infiltration(scene: Scene, rng: np.random.Generator, severity: float, known: dict) -> None:
    """A thin, ragged haze without borders, in one lung or both."""
    sides = [pick_side(rng)]
    if rng.random() < 0.4:
        sides.append(-sides[0])
    texture = cloud(rng, scene.grid.size, 1.6) * 0.5 + cloud(rng, scene.grid.size, 3.5) * 0.6
    for side in sides:
        x, y = spot(scene, rng, side, height=(0.3, 0.95), outward=(0.15, 0.7))
        dx, dy = _polar(scene, x, y)
        rx, ry = float(rng.uniform(3.8, 5.6)), float(rng.uniform(4.2, 6.6))
        zone = ramp((dx / rx) ** 2 + (dy / ry) ** 2, 1.25, 0.0) * lung_of(scene, side)
        haze = zone * np.clip(0.62 + 0.5 * texture, 0.0, 1.3) * np.float32(0.30 + 0.24 * severity)
        fill(scene, haze)
        scene.add_lesion("Infiltration", zone > 0.3)


def pneumonia(scene: Scene, rng: np.random.Generator, severity: float, known: dict) -> None:
    """A patchy dense segment, fading at its edge, with dark bronchi branching through it."""
    side = pick_side(rng)
    x, y = spot(scene, rng, side, height=(0.25, 0.92), outward=(0.25, 0.65))
    dx, dy = _polar(scene, x, y)
    rx, ry = float(rng.uniform(3.6, 5.1)), float(rng.uniform(4.1, 6.1))
    edge = (dx / rx) ** 2 + (dy / ry) ** 2 + 0.22 * cloud(rng, scene.grid.size, 2.4)
    zone = ramp(edge, 1.15, 0.35) * lung_of(scene, side)
    dense = (
        zone
        * np.float32(0.46 + 0.22 * severity)
        * np.clip(1 + 0.10 * cloud(rng, scene.grid.size, 1.2), 0.7, 1.2)
    )
    fill(scene, dense)
    # Air bronchograms: tubes that keep their air while the tissue round them fills.
    hx, hy = hilum(scene, side)
    toward = float(np.arctan2(y - hy, x - hx))
    start = np.array([[x - 0.75 * rx * np.cos(toward), y - 0.75 * rx * np.sin(toward)]])
    roots = np.array([[*start[0], toward + d, 2.6, 0.27] for d in (-0.5, 0.0, 0.5)])
    gas = draw_tubes(scene, grow(rng, roots, generations=3, step=min(0.25, 1.5 * scene.grid.pitch)))
    scene.matter -= np.float32(2.2) * gas * zone
    scene.add_lesion("Pneumonia", zone > 0.25)


def consolidation(scene: Scene, rng: np.random.Generator, severity: float, known: dict) -> None:
    """An even, dense block: air replaced, vessels lost, one straight edge at a fissure."""
    side = pick_side(rng)
    lower = rng.random() < 0.65
    x, y = spot(scene, rng, side, height=(0.62, 0.88) if lower else (0.2, 0.4), outward=(0.25, 0.6))
    dx, dy = _polar(scene, x, y)
    rx, ry = float(rng.uniform(3.4, 5.2)), float(rng.uniform(3.0, 4.6))
    zone = ramp((dx / rx) ** 2 + (dy / ry) ** 2 + 0.10 * cloud(rng, scene.grid.size, 2.0), 1.3, 0.5)
    tilt = np.float32(rng.normal(0.0, 0.12))
    fissure = (dy + tilt * dx) * (1 if lower else -1) + np.float32(0.45 * ry)
    zone = zone * ramp(fissure, -0.12, 0.12) * lung_of(scene, side)
    fill(scene, np.minimum(zone * np.float32(0.68 + 0.24 * severity), 0.95))
    scene.add_lesion("Consolidation", zone > 0.3)


def atelectasis(scene: Scene, rng: np.random.Generator, severity: float, known: dict) -> None:
    """Collapsed lung: thin plates above the dome, or a wedge from the hilum; the dome has risen (see
    `displace`)."""
    side = known["side"]
    s = scene.shape
    lung = lung_of(scene, side)
    dome = s.dome_y[0 if side < 0 else 1]
    if rng.random() < 0.55:
        mask = np.zeros(lung.shape, bool)
        cx = side * float(rng.uniform(6.0, 8.5))
        cy = dome - float(rng.uniform(1.4, 3.2))
        for k in range(1 + int(rng.random() < 0.6)):
            tilt = float(rng.normal(0.0, 0.18))
            dx, dy = _polar(scene, cx + rng.normal(0, 0.4), cy - 1.5 * k)
            off = dy - np.float32(tilt) * dx - np.float32(rng.normal(0.0, 0.025)) * dx * dx
            half = np.float32(0.34 + 0.26 * severity)
            long = np.float32(rng.uniform(3.2, 4.8))
            plate = ramp((off / half) ** 2, 1.8, 0.0) * ramp(np.abs(dx + 0.3 * off), long, long * 0.35) * lung
            scene.matter += (
                np.float32(2.2 + 1.7 * severity) * plate * np.clip(scene.air * np.float32(1 / 6.0), 0, 1)
            )
            mask |= plate > 0.25
        scene.add_lesion("Atelectasis", mask)
    else:
        # A wedge: apex at the hilum, base at the wall or the dome, edges drawn in.
        hx, hy = hilum(scene, side)
        dx, dy = _polar(scene, hx, hy)
        way = float(rng.choice([-0.75, 0.55, 0.95]))
        c, si = np.float32(np.cos(way)), np.float32(np.sin(way))
        along = c * dx * side + si * dy
        across = c * dy - si * dx * side
        half = 0.35 + along * np.float32(0.22 + 0.12 * severity) * (0.75 + 0.03 * along)
        reach = 6.0 + 2.0 * severity
        # One border is a fissure and crisp, the other fades.
        wedge = ramp(across - half, 1.1, -0.5) * ramp(-across - half, 0.25, -0.25) * ramp(along, -0.5, 1.5)
        wedge = wedge * ramp(along, reach, reach - 2.5) * lung
        uneven = np.clip(1 + 0.14 * cloud(rng, scene.grid.size, 1.6), 0.6, 1.3)
        fill(scene, np.minimum(wedge * uneven * np.float32(0.42 + 0.30 * severity), 0.95))
        scene.add_lesion("Atelectasis", wedge > 0.3)


def edema(scene: Scene, rng: np.random.Generator, severity: float, known: dict) -> None:
    """Haze in both lungs around the hila, like a bat's wings, and short lines at the sides of the bases
    (Kerley B)."""
    n = scene.grid.size
    texture = np.clip(0.85 + 0.25 * cloud(rng, n, 1.4) + 0.2 * cloud(rng, n, 4.0), 0.3, 1.6)
    lines = []
    for side in (-1, 1):
        hx, hy = hilum(scene, side)
        dx, dy = _polar(scene, hx + side * 1.8, hy + 1.0)
        zone = ramp((dx / 6.2) ** 2 + (dy / 8.2) ** 2, 1.25, 0.0) * lung_of(scene, side)
        fill(scene, np.minimum(zone * texture * np.float32(0.30 + 0.32 * severity), 0.85))
        scene.add_lesion("Edema", zone > 0.25)
        dome = scene.shape.dome_y[0 if side < 0 else 1]
        for k in range(9):
            y = dome - 0.3 - 0.62 * k
            t = np.linspace(0, 1.6, 16)
            lines.append(
                np.stack(
                    [
                        side * (scene.shape.half_width - 0.5 - t),
                        y + 0.1 * t,
                        np.full(16, 0.11),
                        np.full(16, 0.1),
                    ],
                    -1,
                )
            )
    lung = scene.anatomy["Left Lung"] | scene.anatomy["Right Lung"]
    scene.matter += np.float32(5.0 * (0.5 + 0.5 * severity)) * draw_tubes(scene, np.concatenate(lines)) * lung


def fibrosis(scene: Scene, rng: np.random.Generator, severity: float, known: dict) -> None:
    """A net of coarse lines at the bases and the edges of both lungs (reticular pattern, honeycombs)."""
    s = scene.shape
    a = scene.meta["half_width_Y1"]
    u = np.abs(scene.x_YX)
    for side in (-1, 1):
        dome = s.dome_y[0 if side < 0 else 1]
        edge = np.maximum(ramp(a - u, 4.5, 0.5), ramp(scene.y_Y1, dome - 6.0, dome + 1.0) * 0.9)
        zone = edge * ramp(scene.y_Y1, dome - 15.0, dome - 4.0) * lung_of(scene, side)
        scene.add_lesion("Fibrosis", zone > 0.35)
        scene.meta.setdefault("net", []).append(zone)
    zone = sum(scene.meta.pop("net"))
    # Lines: the zero crossings of a smooth random field make closed cells.
    n = scene.grid.size
    f1, f2 = cloud(rng, n, 1.25), cloud(rng, n, 0.85)
    net = np.exp(-((f1 / 0.28) ** 2)) + 0.8 * np.exp(-((f2 / 0.28) ** 2))
    scene.matter += (
        np.float32(1.4 + 1.5 * severity) * net * zone * np.clip(scene.air * np.float32(1 / 6.0), 0, 1)
    )
    fill(scene, zone * np.float32(0.06 + 0.08 * severity))
