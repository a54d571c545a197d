"""Bones: ribs, clavicles, scapulae, humeri and the spine, as centimetres of mineral along the beam."""

import numpy as np

from cxrlib.phantom.grid import half_chord, ramp
from cxrlib.phantom.organs import lung_half_width
from cxrlib.phantom.scene import Scene


def _cortex(d2: np.ndarray) -> np.ndarray:
    """A hollow bone's profile across, d2 = 1 at its edge: a dense rim about a lighter core; about 1 at
    most."""
    rim = np.float32(2.6) * d2
    rim += np.float32(0.57)
    shell = 1 - d2
    rim *= np.maximum(shell, 0, out=shell)
    return rim


def ribs(scene: Scene) -> None:
    """Ten pairs: each runs down and out from the spine behind, turns at the side, and falls forward to its
    cartilage.

    A rib is a helix round the chest: at the angle theta from the back it lies a * sin(theta) to the side and
    drop * (1 - cos(0.82 theta)) below its start, so each half of it is a band about a line y(u).
    """
    b, s, g = scene.build, scene.shape, scene.grid
    steep = np.float32(0.82)
    k = np.arange(10)
    tall = (0.5 * sum(s.dome_y) - s.apex_y) / 20.5
    y0 = s.apex_y + 0.4 + b.rib_gap * k * (0.90 + 0.018 * k) * tall
    drop = (b.rib_drop + 0.12 * k) * (0.55 + 0.5 * np.minimum(1.0, (k + 1) / 4))
    a = lung_half_width(scene, y0 + 0.65 * drop) + 0.35
    y0, drop, a = (v.astype(np.float32)[:, None] for v in (y0, drop, a))
    # The midline hardly bends within one rib: one row of u stands for all of its rows.
    middle = np.clip(np.searchsorted(scene.y_Y1[:, 0], (y0 + 0.7 * drop)[:, 0]), 0, g.size - 1)
    u = np.abs(scene.x_YX[middle])
    t = np.minimum(u / a, np.float32(0.985))
    behind = np.arcsin(t)
    rise = drop / a * steep / np.sqrt(1 - t * t)
    for front, half, strength in ((False, 0.74, 0.74), (True, 0.82, 0.46)):
        theta = np.float32(np.pi) - behind if front else behind
        line = y0 + drop * (1 - np.cos(steep * theta))
        slope = rise * np.sin(steep * theta)
        scale = (
            1
            / (np.float32(half) + np.float32(0.02) * k[:, None].astype(np.float32))
            / np.sqrt(1 + slope * slope)
        )
        inner = a * (0.55 - 0.02 * k[:, None].astype(np.float32)) if front else np.float32(1.9)
        ends = (
            np.float32(strength * b.bone)
            * np.where(k < 8, 1, 0.5).astype(np.float32)[:, None]
            * (u < a)
            * ramp(u - inner, -0.6, 1.6 if front else 0.4)
        )
        for i in range(7 if front else 10):
            on = np.flatnonzero(ends[i])
            if not len(on):
                continue
            cols = slice(on[0], on[-1] + 1)
            reach = np.searchsorted(scene.y_Y1[:, 0], (line[i, on].min() - 0.9, line[i, on].max() + 1.6))
            rows = slice(*reach)
            across = (scene.y_Y1[rows] - line[i, cols]) * scale[i, cols]
            scene.bone[rows, cols] += _cortex(across * across) * ends[i, cols]


def clavicles(scene: Scene) -> None:
    """Two S-shaped bars from the sternum's top to the shoulders."""
    b, s = scene.build, scene.shape
    ap = scene.pose.view == "AP"
    for side, name in ((-1, "Right Clavicle"), (1, "Left Clavicle")):
        inner = 1.9 + side * 0.8 * scene.pose.turn
        rows, cols = scene.window(
            min(side * inner, side * 15), max(side * inner, side * 15), s.apex_y - 4, s.apex_y + 7
        )
        u = scene.x_YX[rows, cols] * np.float32(side)
        y = scene.y_Y1[rows]
        t = np.clip((u - inner) / np.float32(14.0 - inner), 0, 1)
        rise = b.clavicle_rise + (1.0 if ap else 0.0)
        line = (
            s.apex_y
            + 3.7
            - rise * t * 1.7
            - (0.75 if not ap else 0.4) * np.sin(2 * np.pi * t)
            + side * 0.25 * b.spine_bend
        )
        half = 0.50 + 0.36 * ramp(t, 0.25, 0.0) + 0.15 * ramp(t, 0.7, 1.0)
        d2 = ((y - line) / half) ** 2
        inside = ramp(u, inner - 0.15, inner + 0.25) * ramp(u, 14.3, 13.7)
        scene.bone[rows, cols] += np.float32(1.05 * b.bone) * _cortex(d2) * inside
        mask = np.zeros(scene.body.shape, bool)
        mask[rows, cols] = (d2 < 1) & (u > inner) & (u < 14.0)
        scene.anatomy[name] = mask


def scapulae(scene: Scene) -> None:
    """Thin blades with thick edges: turned out beside the lungs on a PA film, over them on an AP film; and
    the humeral heads."""
    s, b = scene.shape, scene.build
    out = (12.6 if scene.pose.view == "PA" else 10.6) + 0.25 * b.wall
    for side, name in ((-1, "Right Scapula"), (1, "Left Scapula")):
        y_top = s.apex_y + 2.4
        # Corners of the blade: top inner, glenoid, lower tip; the signed distance to each edge decides what
        # is inside.
        corners = np.array(
            [[out - 2.3, y_top], [out + 4.2, y_top + 1.0], [out + 0.6, y_top + 12.3]], np.float32
        )
        rows, cols = scene.window(
            min(side * (out - 4), side * (out + 9.5)),
            max(side * (out - 4), side * (out + 9.5)),
            y_top - 4,
            y_top + 14,
        )
        u, y = scene.x_YX[rows, cols] * np.float32(side), scene.y_Y1[rows]
        e = []
        for i in range(3):
            (x0, y0), (x1, y1) = corners[i], corners[(i + 1) % 3]
            length = np.hypot(x1 - x0, y1 - y0)
            e.append(((x1 - x0) * (y - y0) - (y1 - y0) * (u - x0)) / length)
        inside = np.minimum(np.minimum(e[0], e[1]), e[2])
        blade = 0.22 * ramp(inside, -0.15, 0.25) + 0.45 * half_chord(((e[1] - 0.5) / 0.6) ** 2) * ramp(
            inside, -0.2, 0.3
        )
        blade += 0.30 * half_chord(((e[2] - 0.25) / 0.35) ** 2) * ramp(inside, -0.2, 0.3)
        spine = (
            half_chord(((y - (y_top + 0.9 - 0.33 * (u - out))) / 0.55) ** 2)
            * ramp(u, out - 2, out)
            * ramp(u, out + 6, out + 5)
        )
        head = ((u - (out + 5.9)) / 2.35) ** 2 + ((y - (y_top + 1.2)) / 2.45) ** 2
        shaft = ((u - (out + 6.5) - 0.35 * (y - y_top)) / 1.35) ** 2
        arm = np.maximum(_cortex(head) * 1.0, 1.0 * _cortex(shaft) * ramp(y, y_top + 1.5, y_top + 3.5))
        scene.bone[rows, cols] += np.float32(1.25 * b.bone) * (blade + 0.5 * spine + arm).astype(np.float32)
        mask = np.zeros(scene.body.shape, bool)
        mask[rows, cols] = (inside > 0) | (spine > 0.3)
        scene.anatomy[name] = mask


def spine(scene: Scene) -> None:
    """Vertebrae with disc spaces, pedicles and spinous processes, from neck to loin."""
    b = scene.build
    _, cols = scene.window(-5.0, 5.0, -20, 20)
    x = scene.x_YX[:, cols] + np.float32(0.5 * scene.pose.turn)
    y = scene.y_Y1
    # Bodies grow downwards: the phase is the integral of one over their height.
    rel = (y + 20.0) / 40.0
    phase = (y + 20.0) / 1.95 - 3.6 * rel * rel
    within = phase - np.floor(phase)
    half = (1.35 + 0.95 * rel).astype(np.float32)
    waist = half * (0.90 + 0.10 * np.cos(2 * np.pi * within).astype(np.float32) ** 2)
    column = half_chord((x / waist) ** 2) ** 0.7
    disc = (
        0.62
        + 0.38 * ramp(np.abs(within - 0.5), 0.44, 0.34)
        + 0.22 * np.exp(-(((np.abs(within - 0.5) - 0.36) / 0.05) ** 2))
    )
    bodies = np.float32(0.95 * b.bone) * column * disc.astype(np.float32)
    pedicle = ((np.abs(x) - half * 0.62) / 0.42) ** 2 + ((within - 0.33) / 0.22) ** 2
    process = (x / 0.42) ** 2 + ((within - 0.78) / 0.30) ** 2
    bodies += np.float32(0.45 * b.bone) * (_cortex(pedicle) + _cortex(process))
    wings = (
        half_chord(((within - 0.38) / 0.16) ** 2)
        * ramp(np.abs(x), half + 1.5, half + 0.6)
        * (np.abs(x) > half * 0.8)
    )
    bodies += np.float32(0.30 * b.bone) * wings
    scene.bone[:, cols] += bodies
    mask = np.zeros(scene.body.shape, bool)
    mask[:, cols] = np.abs(x) < waist
    scene.anatomy["Spine"] = mask
