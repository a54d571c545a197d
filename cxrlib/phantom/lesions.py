"""All 14 findings: which function draws each, in which order, and how severe it is."""

import numpy as np

from cxrlib.findings import NIH_FINDINGS
from cxrlib.phantom import opacities, pleura
from cxrlib.phantom.displace import DISPLACE
from cxrlib.phantom.scene import Scene, Shape

ADD = {
    "Emphysema": None,
    "Cardiomegaly": None,
    "Edema": opacities.edema,
    "Fibrosis": opacities.fibrosis,
    "Infiltration": opacities.infiltration,
    "Pneumonia": opacities.pneumonia,
    "Consolidation": opacities.consolidation,
    "Atelectasis": opacities.atelectasis,
    "Mass": opacities.mass,
    "Nodule": opacities.nodule,
    "Effusion": pleura.effusion,
    "Pneumothorax": pleura.pneumothorax,
    "Pleural_Thickening": pleura.pleural_thickening,
    "Hernia": pleura.hernia,
}
"""Finding -> function(scene, rng, severity, known) that adds or removes matter. None: the plan alone shows
it."""


def streams(seed: np.random.SeedSequence | int, findings) -> dict[str, np.random.Generator]:
    """One random source per finding, so that adding one leaves the others as they were."""
    root = seed.entropy if isinstance(seed, np.random.SeedSequence) else seed
    key = seed.spawn_key if isinstance(seed, np.random.SeedSequence) else ()
    return {
        name: np.random.default_rng(
            np.random.SeedSequence(root, spawn_key=(*key, 100 + NIH_FINDINGS.index(name)))
        )
        for name in findings
    }


def displace(
    shape: Shape, rngs: dict[str, np.random.Generator], severity: dict[str, float]
) -> dict[str, dict]:
    """First step: changes the plan. Returns what each finding's second step must know."""
    return {
        f: (DISPLACE[f](shape, rngs[f], severity[f]) if f in DISPLACE else {})
        for f in NIH_FINDINGS
        if f in rngs
    }


def add(
    scene: Scene, rngs: dict[str, np.random.Generator], severity: dict[str, float], known: dict[str, dict]
) -> None:
    """Second step: adds and removes matter, and notes the masks."""
    if "Cardiomegaly" in rngs:
        scene.add_lesion("Cardiomegaly", scene.anatomy["Heart"])
    if "Emphysema" in rngs:
        scene.add_lesion("Emphysema", scene.anatomy["Right Lung"])
        scene.add_lesion("Emphysema", scene.anatomy["Left Lung"])
    for finding, function in ADD.items():
        if finding in rngs and function is not None:
            function(scene, rngs[finding], severity[finding], known[finding])
