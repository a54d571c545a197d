"""Hila and the lungs' vessels: trees that branch from each hilum to the edge, as tubes of blood."""

import numpy as np

from cxrlib.phantom.grid import blur, splat
from cxrlib.phantom.scene import Scene


def hilum(scene: Scene, side: int) -> tuple[float, float]:
    """Where a lung's root lies, cm; the left one (side +1) is the higher."""
    s = scene.shape
    middle = s.apex_y + 0.55 * (0.5 * sum(s.dome_y) - s.apex_y)
    return side * (3.5 + 0.1 * (s.heart_width - 11)) + 0.3 * s.heart_shift, middle - (
        0.9 if side > 0 else 0.1
    )


def grow(rng: np.random.Generator, roots: np.ndarray, *, generations: int, step: float) -> np.ndarray:
    """Branches each root again and again.

    Args:
        rng: Random source.
        roots: [R, 5]: x, y, direction (radians), length (cm), radius (cm).
        generations: How often each branch splits in two.
        step: Largest gap between points, cm; it changes no branch.

    Returns:
        [P, 4]: x, y, radius, and the length of tube that the point stands for, all cm.
    """
    out = []
    branches = roots
    for _ in range(generations):
        x, y, angle, length, radius = branches.T
        points = max(4, round(float(length.mean()) / step))
        bow = rng.normal(0, 0.28, len(branches))
        t = (np.arange(points) + 0.5)[:, None] / points
        turn = angle + bow * (t - 0.5)
        px = x + np.cumsum(np.cos(turn), 0) * (length / points)
        py = y + np.cumsum(np.sin(turn), 0) * (length / points)
        pr = radius * (1 - 0.22 * t)
        out.append(np.stack([px, py, pr, np.broadcast_to(length / points, px.shape)], -1).reshape(-1, 4))
        end = angle + bow * 0.5
        spread = np.abs(rng.normal(0.42, 0.14, (2, len(branches)))) * np.array([[1], [-1]])
        branches = np.concatenate(
            [
                np.stack(
                    [
                        px[-1],
                        py[-1],
                        end + spread[i],
                        length * rng.uniform(0.66, 0.95, len(branches)),
                        radius * rng.uniform(0.62, 0.84, len(branches)),
                    ],
                    -1,
                )
                for i in range(2)
            ]
        )
    return np.concatenate(out)


def draw_tubes(scene: Scene, points_P4: np.ndarray, *, classes: int = 3) -> np.ndarray:
    """Thickness of tubes given as points (x, y, radius, length), cm, in the body's frame; blurred to their
    width."""
    x, y = scene.to_film(points_P4[:, 0], points_P4[:, 1])
    radius = points_P4[:, 2]
    volume = np.pi * radius**2 * points_P4[:, 3]
    # Tubes too thin to be blurred form one class, whatever the resolution; the rest are split evenly.
    thin = 0.4 / 0.55 * scene.grid.pitch
    edges = np.geomspace(max(radius.min(), thin), max(radius.max(), thin) + 1e-9, classes)[:-1]
    kind = np.searchsorted(edges, radius)
    total = np.zeros((scene.grid.size,) * 2, np.float32)
    for k in range(classes):
        mine = kind == k
        if mine.any():
            sigma = 0.55 * float(radius[mine].mean()) / scene.grid.pitch
            total += blur(splat(scene.grid, x[mine], y[mine], volume[mine]), sigma)
    return total


def lung_markings(scene: Scene, rng: np.random.Generator) -> None:
    """Fills `scene.vessels` and the hila's masks."""
    s = scene.shape
    roots, trunks = [], []
    for side, name in ((-1, "Right Hilus Pulmonis"), (1, "Left Hilus Pulmonis")):
        hx, hy = hilum(scene, side)
        # Directions fan from the apex (up) over the side to the base, seen for a lung on the right of the
        # image.
        fan = np.linspace(-1.5, 1.45, 11) + rng.normal(0, 0.09, 11)
        width = np.where(fan < -0.3, s.upper_vessels, 1.0) * s.vessels
        start = (
            hx + side * 0.2 * np.cos(fan),
            hy + 0.4 + 2.1 * np.sin(fan),
            np.where(side > 0, fan, np.pi - fan),
        )
        roots.append(np.stack([*start, rng.uniform(2.4, 3.8, 11), rng.uniform(0.36, 0.52, 11) * width], -1))
        down, out = np.pi / 2 - side * 0.55, 0.0 if side > 0 else np.pi
        trunks += [
            [hx - side * 0.6, hy - 0.8, down, 4.6, 0.62 * s.hila],
            [hx - side * 0.8, hy, out, 1.6, 0.7 * s.hila],
        ]
        at = scene.window(hx - 2, hx + 2, hy - 3, hy + 4)
        d2 = ((scene.x_YX[at] - np.float32(hx)) / 1.9) ** 2 + (
            (scene.y_Y1[at[0]] - np.float32(hy + 0.5)) / 3.0
        ) ** 2
        mask = np.zeros(scene.air.shape, bool)
        mask[at] = (d2 < 1) & (scene.air[at] > 0.5)
        scene.anatomy[name] = mask
        scene.matter[at] += np.float32(1.3 * s.hila) * np.maximum(1 - d2, 0) * (scene.air[at] > 0.2)
    step = min(0.25, 1.5 * scene.grid.pitch)
    tree = grow(rng, np.concatenate(roots), generations=5, step=step)
    tubes = draw_tubes(scene, np.concatenate([tree, grow(rng, np.array(trunks), generations=1, step=step)]))
    # Vessels end at the lung's surface, and only what runs through air shows.
    tubes *= np.minimum(scene.air * np.float32(1 / 3.0), 1)
    scene.vessels = tubes
