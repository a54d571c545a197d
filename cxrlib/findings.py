"""The names of findings: NIH's 14, the 8 that carry boxes, CheXpert's 14, and how their spellings meet."""

from cxrlib.errors import CxrError

NIH_FINDINGS: tuple[str, ...] = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
"""NIH ChestX-ray14's findings in the order of Wang et al. (2017). Every array's C axis has this order."""

BOXED_FINDINGS: tuple[str, ...] = NIH_FINDINGS[:8]
"""The findings for which NIH published boxes drawn by hand."""

NO_FINDING = "No Finding"
"""NIH's name for an image with none of the 14. It is the absence of labels, not a label of its own."""

CHEXPERT_OBSERVATIONS: tuple[str, ...] = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""CheXpert's observations in the order of its header (Irvin et al. 2019)."""

CHEXPERT_COMPETITION: tuple[str, ...] = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
"""The five that CheXpert's competition scored."""

CHEXPERT_13: tuple[str, ...] = CHEXPERT_OBSERVATIONS[1:]
"""Every observation but "No Finding", which is the absence of the others."""

CHEXPERT_11: tuple[str, ...] = tuple(name for name in CHEXPERT_13 if name not in ("Fracture", "Support Devices"))
"""Those that have a place in the chest: a fracture or a tube may lie anywhere on the film."""

CHEXPERT_TO_NIH: dict[str, str] = {
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
    "Pleural Effusion": "Effusion",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
}
"""The observations that both data sets name. The labelers differ, so equal names are not equal labels."""

_ALIASES = {
    "infiltrate": "Infiltration",  # NIH's own box table
    "pleural thickening": "Pleural_Thickening",
    "pleuralthickening": "Pleural_Thickening",
    "edema": "Edema",
    "oedema": "Edema",
    "pleural effusion": "Effusion",
}


def canonical(name: str) -> str:
    """NIH's spelling of a finding's name, whatever the case, the spaces or the table it came from.

    Args:
        name: For example "Infiltrate", "pleural thickening" or "Mass ".

    Returns:
        One of `NIH_FINDINGS`.

    Raises:
        CxrError: No finding has that name.
    """
    plain = " ".join(name.strip().lower().replace("_", " ").split())
    if plain in _ALIASES:
        return _ALIASES[plain]
    for finding in NIH_FINDINGS:
        if finding.lower().replace("_", " ") == plain:
            return finding
    raise CxrError(f"{name!r} is none of the 14 NIH findings ({', '.join(NIH_FINDINGS)}): correct the spelling")


FINDING_GROUPS: dict[str, tuple[str, ...]] = {
    "nih14": NIH_FINDINGS,
    "boxed8": BOXED_FINDINGS,
    "chexpert5": CHEXPERT_COMPETITION,
    "chexpert11": CHEXPERT_11,
    "chexpert13": CHEXPERT_13,
}
"""Lists of findings that have a name on the command line."""


def parse_findings(text: str) -> tuple[str, ...]:
    """The findings that a word on the command line stands for: a group's name, or names with commas between."""
    return FINDING_GROUPS.get(text) or tuple(name.strip() for name in text.split(",") if name.strip())
