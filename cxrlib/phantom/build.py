"""Who is on the film, and how they stand: the numbers that fix a patient's anatomy, and those that change
with each film."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class Build:
    """A patient's body. It stays the same over visits. Lengths in cm.

    Fields:
        sex: "M" or "F".
        weight: About -1 (slim) to 2 (obese): thicker wall, higher domes, wider heart.
        half_width: Inner half-width of the thorax at its widest.
        depth: Half-depth of the lungs.
        length: From the lung apex to the top of the right dome, in a full breath.
        rib_gap: Distance between ribs near the spine.
        rib_drop: How far a rib falls from the spine to the side.
        spine_bend: Sideways bend of the spine (scoliosis).
        aorta: 0 (young) to 1 (unfolded, old).
        bone: Mineral of the bones, 1 = a young adult.
        ctr: Cardiothoracic ratio when healthy, PA.
        breast: Depth of the breasts; 0 in men.
        breast_y, breast_r: Their height on the chest and their radius.
        clavicle_rise: How far the clavicles climb to the shoulders.
        wall: Thickness of muscle and fat over the ribs.
        arms: Slope of the arms, larger = closer to the body.
    """

    sex: str
    weight: float
    half_width: float
    depth: float
    length: float
    rib_gap: float
    rib_drop: float
    spine_bend: float
    aorta: float
    bone: float
    ctr: float
    breast: float
    breast_y: float
    breast_r: float
    clavicle_rise: float
    wall: float
    arms: float


def draw_build(rng: np.random.Generator, *, sex: str, age: float) -> Build:
    """Draws a body for a sex ("M" or "F") and an age in years."""
    grown = float(
        np.clip(age / 16.0, 0.0, 1.0)
    )  # a child is drawn smaller and thinner, which is a rough likeness
    weight = float(np.clip(rng.normal(0.2, 0.75), -1.1, 2.2)) * (0.4 + 0.6 * grown)
    male = sex == "M"
    size = (1.0 if male else 0.93) * (0.80 + 0.20 * grown)
    old = float(np.clip((age - 35) / 45, 0, 1))
    return Build(
        sex=sex,
        weight=weight,
        half_width=(13.6 + rng.normal(0, 0.55)) * size,
        depth=(8.2 + rng.normal(0, 0.5)) * size,
        length=(21.3 + rng.normal(0, 1.1)) * size - 0.7 * max(weight, 0),
        rib_gap=(2.45 + rng.normal(0, 0.10)) * size,
        rib_drop=4.0 + rng.normal(0, 0.8),
        spine_bend=float(rng.normal(0, 0.35) * (1 + old)),
        aorta=float(np.clip(old + rng.normal(0, 0.15), 0, 1.1)),
        bone=1.0 - 0.3 * old + float(rng.normal(0, 0.08)),
        ctr=float(np.clip(0.425 + 0.012 * weight + 0.015 * old + rng.normal(0, 0.02), 0.37, 0.47)),
        breast=0.0 if male or age < 13 else float(np.clip(2.2 + 1.3 * weight + rng.normal(0, 0.8), 0.6, 6.0)),
        breast_y=3.2 + float(rng.normal(0, 1.0)) + 1.2 * old,
        breast_r=6.2 + float(rng.normal(0, 0.5)) + 0.5 * weight,
        clavicle_rise=float(rng.normal(0.6, 0.9)),
        wall=2.0 + 0.75 * max(weight, -0.7) + float(rng.normal(0, 0.2)),
        arms=float(rng.uniform(0.4, 2.2)),
    )


@dataclasses.dataclass
class Pose:
    """One exposure: what changes from film to film. Lengths in cm.

    Fields:
        view: "PA" or "AP".
        scale: Magnification of the whole body on the film.
        shift_x, shift_y: Where the midline and the thorax lie on the film.
        tilt: Lean of the body's axis, cm of x per cm of y.
        turn: Rotation about the body's axis: moves the front (heart, sternal ends) against the back
            (spine), -1 to 1.
        breath: 1 = a full breath; less raises the domes.
        arms_down: 0 = arms turned out from the body, 4 = they lie beside it.
        chin: How far the chin hangs into the film; 0 = not at all.
    """

    view: str
    shift_x: float
    shift_y: float
    tilt: float
    turn: float
    breath: float
    scale: float
    arms_down: float
    chin: float


def draw_pose(rng: np.random.Generator, *, view: str) -> Pose:
    """Draws how one film is taken. AP films are of sicker people: less breath, more turn, a larger shadow."""
    ap = view == "AP"
    return Pose(
        view=view,
        shift_x=float(rng.normal(0, 0.6 if not ap else 1.0)),
        shift_y=float(rng.normal(0, 0.8 if not ap else 1.3)),
        tilt=float(rng.normal(0, 0.012 if not ap else 0.03)),
        turn=float(np.clip(rng.normal(0, 0.25 if not ap else 0.5), -1, 1)),
        breath=float(np.clip(rng.normal(0.97, 0.05) if not ap else rng.normal(0.84, 0.08), 0.65, 1.05)),
        scale=float(rng.normal(0.985, 0.04 if not ap else 0.07)) * (1.0 if not ap else 1.04),
        chin=float(rng.uniform(0.5, 4.0)) * float(rng.random() < (0.3 if ap else 0.02)),
        arms_down=float(rng.uniform(0.0, 0.4) if not ap else rng.uniform(0.5, 4.0)),
    )
