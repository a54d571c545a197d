"""What is on the film besides the patient: side marker, wires, tubes, a chest drain, and the collimator's
edges."""

import numpy as np

from cxrlib.phantom.grid import blur, splat
from cxrlib.phantom.place import pick_side
from cxrlib.phantom.scene import Scene

LETTERS = {
    "L": (((0.0, -1.0), (0.0, 1.0), (1.0, 1.0)),),
    "R": (((0.0, 1.0), (0.0, -1.0), (0.75, -0.9), (0.9, -0.5), (0.75, -0.1), (0.0, 0.0), (1.0, 1.0)),),
}
"""Strokes of the marker letters in a box from -1 to 1."""


def _stroke(scene: Scene, *paths, radius: float, film: bool = False) -> np.ndarray:
    """Thickness of wires of `radius` cm along paths of (x, y) points, cm; in the film's frame or the
    body's."""
    xs, ys, volumes = [], [], []
    for path in paths:
        path = np.asarray(path, float)
        at = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
        n = max(int(at[-1] / (0.6 * scene.grid.pitch)), 2)
        t = np.linspace(0, at[-1], n)
        xs.append(np.interp(t, at, path[:, 0]))
        ys.append(np.interp(t, at, path[:, 1]))
        volumes.append(np.full(n, np.pi * radius**2 * at[-1] / n))
    x, y = np.concatenate(xs), np.concatenate(ys)
    if not film:
        x, y = scene.to_film(x, y)
    return blur(splat(scene.grid, x, y, np.concatenate(volumes)), 0.55 * radius / scene.grid.pitch)


def _curve(points, n: int = 40) -> np.ndarray:
    """A smooth path through points (Catmull-Rom)."""
    p = np.asarray(points, float)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = np.linspace(0, 1, n)[:, None]
    out = []
    for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:], strict=True):
        out.append(
            0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        )
    return np.concatenate(out)


def marker(scene: Scene, rng: np.random.Generator, *, letter: str = "L", x: float | None = None) -> None:
    """A lead letter near an upper corner: "L" on the patient's left (right of the image), "R" on the other
    side."""
    side = 1 if letter == "L" else -1
    cx = side * float(rng.uniform(15.0, 17.8)) if x is None else x
    cy = float(rng.uniform(-18.2, -15.0))
    size = float(rng.uniform(0.65, 0.95))
    lean = float(rng.normal(0, 0.06))
    for path in LETTERS[letter]:
        p = np.asarray(path) * size * np.array([0.75, 1.0])
        p = p @ np.array([[np.cos(lean), np.sin(lean)], [-np.sin(lean), np.cos(lean)]])
        scene.metal += _stroke(scene, p + [cx, cy], radius=0.12, film=True) * 6.0


def drain(scene: Scene, rng: np.random.Generator, *, side: int | None = None) -> None:
    """A chest drain: a tube from the side wall up to the apex, with a bright stripe."""
    side = side or pick_side(rng)
    s = scene.shape
    a = s.half_width
    path = _curve(
        [
            (side * (a + 5), 3.0 + rng.normal(0, 1.0)),
            (side * (a - 0.5), 1.0 + rng.normal(0, 1.0)),
            (side * (a - 4.0), -4.0 + rng.normal(0, 1.0)),
            (side * (a - 7.0 + rng.normal(0, 0.6)), s.apex_y + 3.0 + rng.normal(0, 0.7)),
        ]
    )
    tube = _stroke(scene, path, radius=0.40)
    scene.matter += 0.9 * tube
    scene.metal += 0.35 * _stroke(scene, path + [0.12 * side, 0.0], radius=0.10)


def leads(scene: Scene, rng: np.random.Generator) -> None:
    """Three to five stickers of a heart monitor with their wires, which leave over an edge."""
    rings, wires = [], []
    for _ in range(int(rng.integers(3, 6))):
        x, y = float(rng.uniform(-12, 12)), float(rng.uniform(-10, 13))
        turn = np.linspace(0, 2 * np.pi, 24)
        rings.append(np.stack([x + 0.42 * np.cos(turn), y + 0.42 * np.sin(turn)], -1))
        ex = float(np.sign(x) or 1) * float(rng.uniform(8, 20))
        ey = float(rng.choice([-21.0, 21.0]))
        middle = [((x + ex) / 2 + rng.normal(0, 2.0)), (y + ey) / 2 + rng.normal(0, 2.0)]
        wires.append(_curve([(x, y), middle, (ex, ey)]))
    scene.metal += 0.5 * _stroke(scene, *rings, radius=0.13) + 0.5 * _stroke(scene, *wires, radius=0.07)


def tubes(scene: Scene, rng: np.random.Generator) -> None:
    """Of a breathing tube, a venous line and a feeding tube, those that chance gives."""
    s = scene.shape
    if rng.random() < 0.45:
        end = s.apex_y + 9.3 - float(rng.uniform(2.0, 5.0))
        scene.metal += 0.30 * _stroke(scene, _curve([(-0.3, -22), (-0.2, -16), (-0.3, end)]), radius=0.12)
    if rng.random() < 0.6:
        side = pick_side(rng)
        path = _curve(
            [
                (side * 6.5, s.apex_y - 3),
                (side * 4.4, s.apex_y + 3.2),
                (-1.4, s.apex_y + 6.2),
                (-2.0, s.apex_y + float(rng.uniform(9, 13))),
            ]
        )
        scene.metal += 0.35 * _stroke(scene, path, radius=0.10)
    if rng.random() < 0.35:
        low = 0.5 * sum(s.dome_y)
        path = _curve([(0.5, -22), (0.5, -10), (0.9, low - 2), (2.5, low + 3.0), (6.0, low + 5.0)])
        scene.metal += 0.30 * _stroke(scene, path, radius=0.11)


def pacemaker(scene: Scene, rng: np.random.Generator) -> None:
    """A can below the left clavicle and a lead to the right ventricle."""
    s = scene.shape
    x, y = 9.0 + float(rng.normal(0, 0.7)), s.apex_y + 6.2 + float(rng.normal(0, 0.7))
    d2 = ((scene.x_YX - np.float32(x)) / 2.1) ** 4 + ((scene.y_Y1 - np.float32(y)) / 1.8) ** 4
    scene.metal += np.float32(0.35) * (d2 < 1)
    path = _curve([(x, y - 1.5), (4.5, s.apex_y + 3.0), (-1.5, s.apex_y + 7.5), (-2.4, 0.5), (2.8, 5.2)])
    scene.metal += 0.45 * _stroke(scene, path, radius=0.10)


def collimate(scene: Scene, rng: np.random.Generator, image_YX: np.ndarray) -> np.ndarray:
    """What lies outside the collimator: on about one film in three a dark strip at one or two edges, on a
    few a white one."""
    if rng.random() > 0.35:
        return image_YX
    out = image_YX.copy()
    n = scene.grid.size
    white = rng.random() < 0.15
    shade = np.uint8(rng.integers(225, 250) if white else rng.integers(0, 26))
    for _ in range(int(rng.integers(1, 3))):
        width = max(1, int(n * float(rng.uniform(0.006, 0.045))))
        edge = int(rng.integers(0, 4))
        strip = [np.s_[:width], np.s_[n - width :], np.s_[:, :width], np.s_[:, n - width :]][edge]
        out[strip] = shade if white else np.minimum(out[strip], shade)
    return out
