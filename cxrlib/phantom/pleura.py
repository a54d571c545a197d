"""Findings of the pleura and of the diaphragm: effusion, pneumothorax, pleural thickening, hernia."""

import numpy as np

from cxrlib.phantom.grid import half_chord, ramp
from cxrlib.phantom.place import fill, lung_of, pick_side
from cxrlib.phantom.scene import Scene


def effusion(scene: Scene, rng: np.random.Generator, severity: float, known: dict) -> None:
    """Fluid that fills the costophrenic angle and climbs the side wall in a meniscus."""
    sides = [pick_side(rng)]
    if rng.random() < 0.3:
        sides.append(-sides[0])
    s = scene.shape
    u, y = np.abs(scene.x_YX), scene.y_Y1
    a = scene.meta["half_width_Y1"]
    for i, side in enumerate(sides):
        deep = (0.8 + 6.5 * severity**1.4) * (1.0 if i == 0 else 0.6)
        level = s.dome_y[0 if side < 0 else 1] + 2.2 - deep
        top = level - np.float32(2.8 + 2.4 * severity) * (u / a) ** 4 + np.float32(1.2) * (1 - u / a)
        fluid = ramp(y - top, -0.5, 0.9) * lung_of(scene, side)
        fill(scene, fluid * np.float32(0.93))
        scene.add_lesion("Effusion", fluid > 0.4)


def pneumothorax(scene: Scene, rng: np.random.Generator, severity: float, known: dict) -> None:
    """Air between wall and lung: a thin bright line, and beyond it no markings."""
    side = known.get("side") or pick_side(rng)
    s = scene.shape
    u, y = np.abs(scene.x_YX), scene.y_Y1
    a = scene.meta["half_width_Y1"]
    gap = 0.9 + 3.0 * severity
    reach = s.apex_y + 5.5 + 11.0 * severity**2
    wall = a - np.float32(gap) * (0.35 + 0.65 * ramp(y, reach, s.apex_y)) * ramp(y, reach + 1.5, reach - 5.0)
    cap = s.apex_y + np.float32(0.9 + 2.6 * severity) + np.float32(0.10) * (u - 4.5) ** 2
    inside = np.minimum(wall - u, (y - cap) * 0.8)
    lung = lung_of(scene, side)
    out = (inside < 0) & lung & (y < reach + 1.5) & (a - wall > 0.12)
    air = out.astype(np.float32)
    scene.lung_density = scene.lung_density * (1 - air)
    scene.vessels = scene.vessels * (1 - air)
    line = np.exp(-((inside / 0.11) ** 2)) * lung * ((a - wall) > 0.25)
    scene.matter += np.float32(1.7) * line
    # The lung that is left holds the same tissue in less room.
    rest = lung & ~out
    scene.lung_density = scene.lung_density + np.float32(0.05 + 0.12 * severity) * scene.lung_density * rest
    scene.add_lesion("Pneumothorax", out)
    scene.meta["pneumothorax_side"] = side


def pleural_thickening(scene: Scene, rng: np.random.Generator, severity: float, known: dict) -> None:
    """A rind of soft tissue along the side wall, or a cap over the apex."""
    side = pick_side(rng)
    s = scene.shape
    u, y = np.abs(scene.x_YX), scene.y_Y1
    a = scene.meta["half_width_Y1"]
    lung = scene.meta["field"] & ((scene.x_YX > 0) == (side > 0))
    thick = np.float32(0.7 + 0.8 * severity)
    if rng.random() < 0.35:
        edge = y - s.apex_y - (u - 5.0) ** 2 * np.where(u > 5.0, np.float32(0.10), np.float32(0.34))
        thick = thick * 1.3
        along = ramp(u, 1.5, 3.0)
    else:
        middle, half = float(rng.uniform(-5, 2)), float(rng.uniform(3.5, 6.5))
        edge = a - u
        along = ramp(np.abs(y - np.float32(middle)), half, half * 0.6)
        thick = thick * along
    rind = (
        ramp(
            edge - thick * (1 + 0.25 * np.sin(y * float(rng.uniform(0.6, 1.3)) + float(rng.uniform(0, 6)))),
            0.35,
            -0.25,
        )
        * along
        * lung
    )
    scene.matter += np.float32(1.5 + 1.7 * severity) * rind
    fill(scene, rind * np.float32(0.45))
    scene.add_lesion("Pleural_Thickening", rind > 0.3)


def hernia(scene: Scene, rng: np.random.Generator, severity: float, known: dict) -> None:
    """Stomach above the diaphragm: a round shadow behind the heart with air over a flat fluid level."""
    s = scene.shape
    rx, ry = 2.7 + 2.0 * severity, 2.3 + 1.7 * severity
    cx = float(rng.uniform(-0.3, 2.6))
    cy = min(s.dome_y) + 1.4 - ry
    x, y = scene.x_YX, scene.y_Y1
    d2 = ((x - np.float32(cx)) / rx) ** 2 + ((y - np.float32(cy)) / ry) ** 2
    scene.matter += np.float32(1.1) * half_chord(d2)
    fill(scene, np.where(d2 < 1, np.float32(0.8), np.float32(0)))
    inner = d2 * np.float32(1.28)
    level = cy + ry * float(rng.uniform(-0.15, 0.35))
    scene.matter -= np.float32(4.0 + 3 * severity) * half_chord(inner) * ramp(y, level + 0.12, level - 0.12)
    scene.add_lesion("Hernia", d2 < 1)
