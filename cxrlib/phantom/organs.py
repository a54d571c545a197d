"""Soft organs: the body's wall, lungs with their domes, heart, aorta, mediastinum, airway, breasts and the
gas below."""

import numpy as np
from scipy import ndimage

from cxrlib.phantom.grid import half_chord, ramp
from cxrlib.phantom.scene import Scene


def lung_half_width(scene: Scene, y):
    """Inner half-width of the thorax at a height, cm."""
    s = scene.shape
    v = np.clip((y - s.apex_y) / 20.5, 0.0, 1.0)
    return s.half_width * (0.30 + 0.70 * np.sqrt(np.maximum(1 - (1 - v) ** 2.2, 0)))


def body(scene: Scene) -> None:
    """Torso, neck, shoulders and upper arms: the chord through the body."""
    b, s = scene.build, scene.shape
    u, y = np.abs(scene.x_YX), scene.y_Y1
    w = b.wall
    arms = b.arms + scene.pose.arms_down
    # The torso's outline follows the ribs with a wall over them, and widens to the axilla.
    outer = s.half_width + w + np.float32(0.9) * ramp(y, 2.0, -6.0) + np.float32(0.35 * w) * ramp(y, 4, 16)
    front = s.depth + 1.9 + 0.55 * w
    torso = 2 * front * half_chord((u / outer) ** 2 * (0.35 + 0.65 * (u / outer) ** 2))
    torso *= 1 + np.float32(0.10) * ramp(y, 4.0, 13.0)
    torso *= 0.66 + 0.34 * ramp(y, s.apex_y - 3.5, s.apex_y + 9.0)  # thinner towards the neck
    # Trapezius: steep at the neck, flat to the shoulder's tip; below the shoulder the arm leaves the torso
    # at the axilla.
    top = (
        np.float32(s.apex_y - 1.9 + 0.2 * w)
        + np.float32(0.13 + 0.05 * min(arms, 2.5)) * (u - 5.0)
        - 9.0 * np.exp((4.6 + 0.5 * w - u) * np.float32(0.55))
        + np.float32(0.22) * np.maximum(u - 15.0, 0) ** 2
    )
    inside = (y - top) * np.float32(0.9)
    axilla = -5.0 + 0.25 * w + arms * np.maximum(u - outer, 0) * 1.2
    arm = np.minimum(inside, (axilla - y) * np.float32(1.0 / (0.6 + 0.5 * arms)))
    deep = (16.0 + 1.0 * w) * (1 - 0.22 * ramp(u, 13, 19))
    arm = deep * half_chord((1 - np.clip(arm * np.float32(1 / 3.6), 0, 1)) ** 2)
    trunk = torso * half_chord((1 - np.clip(inside * np.float32(1 / 3.2), 0, 1)) ** 2)
    scene.body = np.maximum(trunk, arm).astype(np.float32)
    if scene.pose.chin > 0:  # the head hangs into a film taken in bed
        rows, cols = scene.window(-9.0, 9.0, -25, s.apex_y + 1)
        d2 = ((scene.x_YX[rows, cols] - np.float32(2.5 * scene.pose.turn)) / 6.2) ** 2
        d2 = d2 + ((y[rows] - np.float32(s.apex_y - 9.5 + scene.pose.chin)) / 6.5) ** 2
        scene.body[rows, cols] += np.float32(7.0) * half_chord(d2)


def lungs(scene: Scene) -> None:
    """Lung chords between wall, apex and domes, before heart and mediastinum take their part; and the
    anatomy below."""
    s = scene.shape
    x, y = scene.x_YX, scene.y_Y1
    u, left = np.abs(x), x > 0
    a = lung_half_width(scene, y)
    chord = np.float32(s.depth) * half_chord((u / a) ** 2 * (0.25 + 0.75 * (u / a) ** 2))
    top = y - np.float32(s.apex_y) - (u - 5.0) ** 2 * np.where(u > 5.0, np.float32(0.10), np.float32(0.34))
    chord = np.minimum(chord, np.float32(s.depth * 0.9) * np.sqrt(np.clip(top / 5.0, 0, 1)))
    curve = np.where(left, np.float32(s.dome_curve[1]), np.float32(s.dome_curve[0]))
    dome = np.where(left, np.float32(s.dome_y[1]), np.float32(s.dome_y[0])) + curve * (
        u - 6.2
    ) ** 2 * np.where(u > 6.2, np.float32(0.85), np.float32(0.7))
    below = np.sqrt(np.maximum((y - dome) / np.float32(4.2), 0)) * np.float32(s.depth)
    scene.meta["dome_YX"] = dome
    scene.air = 2 * np.maximum(chord - below, 0)
    scene.meta["half_width_Y1"] = a


def _contour(y_Y1: np.ndarray, points: list[tuple[float, float]], smooth_px: float) -> np.ndarray:
    """A border's distance from the midline at each height, through (y, distance) points, smoothed."""
    ys, xs = zip(*sorted(points), strict=True)
    line = np.interp(y_Y1[:, 0], ys, xs).astype(np.float32)
    return ndimage.gaussian_filter1d(line, smooth_px, mode="nearest")[:, None]


def heart_and_vessels(scene: Scene) -> None:
    """Heart, aorta, mediastinum: they push the lungs aside, so the lungs' chords shrink where these lie."""
    b, s = scene.build, scene.shape
    y = scene.y_Y1
    floor = 0.5 * (s.dome_y[0] + s.dome_y[1])
    right, left = s.heart_width * 0.33 - s.heart_shift, s.heart_width * 0.67 + s.heart_shift
    ay, ar = s.apex_y + 7.2 - 1.0 * b.aorta, 1.6 + 0.7 * b.aorta
    # Beyond these columns lie only lungs.
    _, cols = scene.window(-max(right, 4.5) - 1, max(left, 5.5) + 1.5, -20, 20)
    x, dome = scene.x_YX[:, cols], scene.meta["dome_YX"][:, cols]
    lean = 0.6 * s.heart_shift
    top = ay + 4.4  # where the heart begins below its vessels
    smooth = 0.55 / scene.grid.pitch
    big = max(s.heart_width - 11.5, 0)
    knob = 3.15 + 0.9 * b.aorta + lean
    to_left = _contour(
        y,
        [(-30, 3.4), (s.apex_y - 2, 2.6 + lean), (ay - 2.2, 2.5 + lean), (ay - 0.6, knob), (ay + 0.5, knob)]
        + [
            (ay + 1.9, 2.75 + lean + 0.3 * b.aorta),
            (ay + 3.4, 3.5 + lean),
            (ay + 4.6, 3.75 + lean + 0.05 * big),
        ]
        + [
            (0.5 * (top + floor) + 0.3, 0.60 * left + 1.5),
            (floor - 2.6, 0.97 * left),
            (floor - 1.2, left),
            (floor - 0.1, left),
        ]
        + [(floor + 1.6, 0.93 * left), (floor + 3.0, 0.75 * left), (floor + 4.5, 2.5)],
        smooth,
    )
    to_right = _contour(
        y,
        [
            (-30, 3.4),
            (s.apex_y - 2, 2.7 - lean),
            (s.apex_y + 3, 2.45 - lean),
            (ay + 0.5, 2.55 - lean + 0.35 * b.aorta),
        ]
        + [
            (ay + 3.6, 2.75 - lean + 0.3 * b.aorta),
            (top + 1.4, 0.78 * right),
            (floor - 5.6, 0.96 * right),
            (floor - 4.2, right),
        ]
        + [
            (floor - 2.8, right),
            (floor - 0.8, 0.93 * right),
            (floor + 0.8, 0.75 * right),
            (floor + 3.5, 2.3),
        ],
        smooth,
    )
    to_left *= np.float32(left) / to_left[(y[:, 0] > top) & (y[:, 0] < floor + 1)].max(initial=left)
    m = np.where(x > 0, x / to_left, -x / to_right)
    # The spine and the great vessels fill the whole depth; the heart lies in front, with lung behind it.
    core = ramp(np.abs(x), 3.3, 0.2)
    low = ramp(y, top - 3, top + 2)
    edge = half_chord(m**2)
    front = (9.0 + 3.6 * low) * edge * (low + (1 - low) * edge)
    arch = ((x - np.float32(knob - ar)) / ar) ** 2 + ((y - np.float32(ay)) / (ar * 1.15)) ** 2
    dsc_x = (
        1.5
        + 0.5 * b.aorta * np.sin(np.clip((y - ay) / (floor - ay), 0, 1) * np.pi)
        - 0.4 * ramp(y, ay, floor)
    )
    dsc_r = np.float32(1.25 + 0.35 * b.aorta)
    tube = ((x - dsc_x) / dsc_r) ** 2
    down = ramp(y, ay - 1.0, ay + 0.6) * (y < dome + 3)
    taken = np.maximum(front + 17 * core, front + 2.2 * dsc_r * half_chord(tube) * down)
    taken = np.maximum(taken, 9 * half_chord(arch))
    # Fat pads fill the angles between heart and domes.
    pad = 4.5 * ramp(x, left + 1.2, left - 1.5) * ramp(y, floor - 2.5, floor + 1.5) * (x > 0)
    scene.meta["field"] = scene.air > 0.6
    rest = scene.air[:, cols] - np.maximum(taken, pad * (0.3 + 0.4 * max(b.weight, 0)))
    scene.air[:, cols] = np.maximum(rest, 0)
    scene.matter[:, cols] += np.float32(0.8) * half_chord(arch) + down * np.float32(
        0.6 + 0.5 * b.aorta
    ) * half_chord(tube)
    chest = (y > s.apex_y + 1) & (y < dome + 3.0)
    bottom = floor + 0.9 + 0.10 * big + np.float32(0.16) * x - 0.012 * (x - 2) ** 2
    within = np.abs(m) < 1
    heart = within & (y > top - 0.9 - 0.20 * big - 0.10 * x) & (y < bottom)
    aorta = (arch < 1) | ((tube < 1) & (down > 0.5))
    an = scene.anatomy
    for name, part in (("Heart", heart), ("Aorta", aorta), ("Mediastinum", (within & chest) | aorta | heart)):
        an[name] = np.zeros(scene.air.shape, bool)
        an[name][:, cols] = part
    lung, side = scene.air > 0.8, scene.x_YX < 0
    an["Right Lung"], an["Left Lung"] = lung & side, lung & ~side
    u, a = np.abs(scene.x_YX), scene.meta["half_width_Y1"]
    below = y - scene.meta["dome_YX"]
    an["Facies Diaphragmatica"] = (below > 0) & (below < 2.2) & (u < a) & (u > 1.0)
    scene.meta["heart_box"] = (-right, left, 0.5 * (top + floor))
    scene.lung_density = np.full_like(scene.air, np.float32(s.density))


def airway(scene: Scene) -> None:
    """Trachea and main bronchi: tubes of air through the mediastinum. PSPNet calls the airway "Weasand"."""
    s = scene.shape
    carina = s.apex_y + 9.3
    rows, cols = scene.window(-5.5, 5.5, -25, carina + 5)
    x, y = scene.x_YX[rows, cols], scene.y_Y1[rows]
    axis = -0.25 - 0.15 * ramp(y, -16, carina) + 0.45 * s.heart_shift
    r = np.float32(0.88 if scene.build.sex == "M" else 0.76)
    d2 = ((x - axis) / r) ** 2
    gas = 2.5 * r * half_chord(d2) * ramp(y, carina + 0.3, carina - 0.5)
    for side, slope, length in ((-1, 0.75, 3.0), (1, 1.05, 3.6)):
        along = (x - axis) * side
        wall = (y - carina - slope * 0.75 * along) / 0.62
        gas = np.maximum(
            gas, 1.15 * half_chord(wall**2) * ramp(along, -0.3, 0.2) * ramp(along, length, length * 0.5)
        )
    scene.matter[rows, cols] -= gas
    mask = np.zeros(scene.body.shape, bool)
    mask[rows, cols] = (d2 < 1) & (y < carina)
    scene.anatomy["Weasand"] = mask


def breasts(scene: Scene) -> None:
    """Half-ellipsoids of soft tissue with a crisp lower fold."""
    b = scene.build
    if b.breast <= 0:
        return
    x, y = scene.x_YX, scene.y_Y1
    for side in (-1, 1):
        cx = side * (7.6 + 0.1 * b.breast_r) + 0.3 * scene.pose.turn
        r = np.float32(b.breast_r)
        dy = y - np.float32(b.breast_y + 0.4 * side * scene.build.spine_bend)
        ry = np.where(dy > 0, r * 0.75, r * 1.7)
        d2 = ((x - np.float32(cx)) / r) ** 2 + (dy / ry) ** 2
        inside = np.maximum(1 - d2, 0)
        crisp = ramp(dy, -3.5, 0.5)
        scene.matter += (
            np.float32(b.breast * 0.62)
            * (crisp * np.sqrt(inside) + (1 - crisp) * inside)
            * (scene.body > 0.5)
        )


def gut_gas(scene: Scene, rng: np.random.Generator) -> None:
    """The stomach's bubble below the left dome, with a flat fluid level when upright, and loops of gas
    beside it."""
    s, x, y = scene.shape, scene.x_YX, scene.y_Y1
    if rng.random() < 0.6:
        rx, ry = float(rng.uniform(1.2, 3.6)), float(rng.uniform(0.9, 2.4))
        cx, cy = float(rng.uniform(3.2, 7.5)), s.dome_y[1] + float(rng.uniform(0.5, 1.8)) + ry
        d2 = ((x - np.float32(cx)) / np.float32(rx)) ** 2 + ((y - np.float32(cy)) / np.float32(ry)) ** 2
        level = cy + ry * float(rng.uniform(-0.2, 0.9))
        flat = ramp(y, level + 0.1, level - 0.1) if scene.pose.view == "PA" else 1.0
        scene.matter -= (np.float32(rng.uniform(2.5, 6.0)) * half_chord(d2) * flat).astype(np.float32)
    for _ in range(int(rng.integers(0, 7))):
        cx, r = float(rng.normal(6.0, 3.0)), float(rng.uniform(0.6, 1.6))
        cy = s.dome_y[1] + 3.0 + r + float(rng.uniform(0, 6))
        rows, cols = scene.window(cx - 1.4 * r, cx + 1.4 * r, cy - r, cy + r)
        d2 = ((x[rows, cols] - np.float32(cx)) / (1.35 * r)) ** 2 + ((y[rows] - np.float32(cy)) / r) ** 2
        scene.matter[rows, cols] -= (np.float32(rng.uniform(1.0, 3.0)) * np.maximum(1 - d2, 0)).astype(
            np.float32
        )
