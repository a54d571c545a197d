"""One phantom radiograph from one seed."""

from typing import NamedTuple

import numpy as np

from cxrlib.errors import CxrError
from cxrlib.findings import NIH_FINDINGS, canonical
from cxrlib.phantom import devices, lesions, organs, skeleton, vessels
from cxrlib.phantom.build import draw_build, draw_pose
from cxrlib.phantom.grid import grid
from cxrlib.phantom.projection import draw_exposure, lung_texture, optical_depth, project, tissue_texture
from cxrlib.phantom.scene import Scene, open_scene, plan

STRUCTURES = (
    "Left Clavicle",
    "Right Clavicle",
    "Left Scapula",
    "Right Scapula",
    "Left Lung",
    "Right Lung",
    "Left Hilus Pulmonis",
    "Right Hilus Pulmonis",
    "Heart",
    "Aorta",
    "Facies Diaphragmatica",
    "Mediastinum",
    "Weasand",
    "Spine",
)
"""The anatomy masks' names, in the order of TorchXRayVision's PSPNet. Left is the patient's left: the right
of the image."""


class Phantom(NamedTuple):
    """A synthetic radiograph with everything that is known about it.

    Fields:
        image_YX: uint8, dense matter bright.
        lesion_masks: Finding -> bool [Y, X], the union of its lesions.
        anatomy: Structure (see `STRUCTURES`) -> bool [Y, X].
        boxes: Finding -> one (x0, y0, x1, y1) per lesion, float, half-open, pixels of this image: each
            mask's exact extent.
        meta: What was drawn: view, sex, age, severity per finding, cardiothoracic ratio, devices.
    """

    image_YX: np.ndarray
    lesion_masks: dict[str, np.ndarray]
    anatomy: dict[str, np.ndarray]
    boxes: dict[str, list[tuple[float, float, float, float]]]
    meta: dict


def mask_box(mask_YX: np.ndarray) -> tuple[float, float, float, float]:
    """The half-open extent (x0, y0, x1, y1) of a mask that is not empty."""
    rows = np.flatnonzero(mask_YX.any(1))
    columns = np.flatnonzero(mask_YX.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def cardiothoracic_ratio(anatomy: dict[str, np.ndarray]) -> float:
    """Width of the heart over the largest inner width of the thorax, both measured on the masks."""
    heart = mask_box(anatomy["Heart"])
    lungs = mask_box(anatomy["Left Lung"] | anatomy["Right Lung"])
    return (heart[2] - heart[0]) / (lungs[2] - lungs[0])


def _check(findings, view: str, sex: str, age: float, size: int) -> tuple[str, ...]:
    names = {canonical(f) for f in findings}
    if view not in ("PA", "AP"):
        raise CxrError(f"view {view!r} is neither 'PA' nor 'AP': the phantom draws frontal films only")
    if sex not in ("M", "F"):
        raise CxrError(f"sex {sex!r} is neither 'M' nor 'F'")
    if not 0 <= age <= 120:
        raise CxrError(f"age {age} is not between 0 and 120 years")
    if not 32 <= size <= 2048:
        raise CxrError(f"size {size} is not between 32 and 2048 pixels")
    return tuple(f for f in NIH_FINDINGS if f in names)


def build_scene(
    seed,
    *,
    size: int = 224,
    findings=(),
    view: str = "PA",
    sex: str = "M",
    age: float = 50.0,
    body_seed=None,
    severity: dict[str, float] | None = None,
    drain: bool | None = None,
    marker: str | None = "auto",
) -> Scene:
    """Lays out and fills a scene. The same arguments as `draw`; `Scene` holds the thicknesses before
    projection."""
    names = _check(findings, view, sex, age, size)
    root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    rng = {
        name: np.random.default_rng(np.random.SeedSequence(root.entropy, spawn_key=(*root.spawn_key, i)))
        for i, name in enumerate(
            ("body", "pose", "gas", "vessels", "texture", "devices", "severity", "exposure", "noise")
        )
    }
    body_rng = rng["body"] if body_seed is None else np.random.default_rng(body_seed)
    build, pose = draw_build(body_rng, sex=sex, age=age), draw_pose(rng["pose"], view=view)
    vessel_rng = np.random.default_rng(body_rng.integers(2**63))  # a patient keeps the same vessels
    shape = plan(build, pose)

    chance = rng["severity"].beta(1.6, 1.6, len(NIH_FINDINGS))
    strength = {f: float(chance[NIH_FINDINGS.index(f)]) for f in names} | {
        canonical(f): float(v) for f, v in (severity or {}).items() if canonical(f) in names
    }
    streams = lesions.streams(root, names)
    known = lesions.displace(shape, streams, strength)

    scene = open_scene(grid(size), build, pose, shape)
    organs.body(scene)
    scene.body *= 1 + tissue_texture(rng["texture"], size)
    organs.lungs(scene)
    organs.heart_and_vessels(scene)
    organs.airway(scene)
    organs.breasts(scene)
    organs.gut_gas(scene, rng["gas"])
    skeleton.ribs(scene)
    skeleton.clavicles(scene)
    skeleton.scapulae(scene)
    skeleton.spine(scene)
    vessels.lung_markings(scene, vessel_rng)
    scene.lung_density *= 1 + lung_texture(rng["texture"], size)
    lesions.add(scene, streams, strength, known)

    d = rng["devices"]
    ap = view == "AP"
    placed = []
    letter = "L" if d.random() < 0.8 else "R"
    if marker == "auto":
        marker = letter if d.random() < 0.75 else None
    marker_rng, drain_rng = np.random.default_rng(d.integers(2**63)), np.random.default_rng(d.integers(2**63))
    if marker is not None:
        devices.marker(scene, marker_rng, letter=marker)
        placed.append(f"marker {marker}")
    if d.random() < (0.5 if ap else 0.02):
        devices.leads(scene, d)
        placed.append("leads")
    if d.random() < (0.45 if ap else 0.04):
        devices.tubes(scene, d)
        placed.append("tubes")
    if d.random() < 0.05 * (age > 55):
        devices.pacemaker(scene, d)
        placed.append("pacemaker")
    natural = 0.25 if "Pneumothorax" in names else 0.01
    if drain if drain is not None else d.random() < natural:
        devices.drain(scene, drain_rng, side=scene.meta.get("pneumothorax_side"))
        placed.append("drain")
    scene.meta |= {"severity": strength, "devices": placed, "rng": rng}
    return scene


def draw(
    seed,
    *,
    size: int = 224,
    findings=(),
    view: str = "PA",
    sex: str = "M",
    age: float = 50.0,
    body_seed=None,
    severity: dict[str, float] | None = None,
    drain: bool | None = None,
    marker: str | None = "auto",
) -> Phantom:
    """Draws one phantom radiograph. It teaches the method and says nothing about patients.

    The same seed draws the same body, noise and lesions at any size; adding a finding leaves all else where
    it was, except what the finding itself displaces.

    Args:
        seed: An integer or a `numpy.random.SeedSequence`.
        size: Pixels per side.
        findings: Any of the 14 NIH findings.
        view: "PA" or "AP".
        sex: "M" or "F".
        age: Years.
        body_seed: Seed of the patient's body when it must not change with `seed` (visits). None: from `seed`.
        severity: Finding -> 0 (subtle) to 1 (plain); what is left out is drawn at random.
        drain: True or False puts or leaves out a chest drain; None leaves it to chance.
        marker: "L", "R", None (no side marker) or "auto" (by chance).

    Returns:
        A `Phantom`.

    Raises:
        CxrError: A name or a number is out of range.
    """
    scene = build_scene(
        seed, size=size, findings=findings, view=view, sex=sex, age=age, body_seed=body_seed,
        severity=severity, drain=drain, marker=marker,
    )  # fmt: skip
    rng = scene.meta.pop("rng")
    healthy = plan(scene.build, scene.pose)
    exposure = draw_exposure(rng["exposure"], view=view, build=scene.build, shape=healthy)
    image = project(optical_depth(scene), exposure, rng["noise"], pitch=scene.grid.pitch * 1.0)
    image = devices.collimate(scene, rng["exposure"], image)
    anatomy = {name: scene.anatomy[name] for name in STRUCTURES}
    masks = {f: np.logical_or.reduce(parts) for f, parts in scene.lesions.items()}
    boxes = {f: [mask_box(m) for m in parts] for f, parts in scene.lesions.items()}
    meta = {
        "view": view, "sex": sex, "age": age, "severity": scene.meta["severity"],
        "devices": scene.meta["devices"],
        "cardiothoracic_ratio": cardiothoracic_ratio(anatomy),
    }  # fmt: skip
    return Phantom(image, masks, anatomy, boxes, meta)
