"""Whose work is in a run: the weights it began with, its teacher, its data, and what their licences forbid.

A run folder names its parents by their places. Each is followed as far as it can be read. What cannot be is "unknown": a
licence is never guessed.
"""

from pathlib import Path
from typing import NamedTuple

from timm.models import get_pretrained_cfg

from cxrlib.errors import CxrError
from cxrlib.io import read_json, sha256_of

UNKNOWN = "unknown"
OWN = "Apache-2.0"
"""Of what this library makes from nothing but random numbers and its own drawings."""
DATA_LICENCES: dict[str, tuple[str, str]] = {
    "phantom": (OWN, "drawn by this library: nobody's data"),
    "nih": (
        "NIH: unrestricted, with attribution",
        "NIH ChestX-ray14: use is unrestricted; link to its download site, acknowledge the NIH Clinical Center and cite Wang et al. 2017",
    ),
    "chexpert": (
        "CheXpert: non-commercial research",
        "CheXpert: Stanford's Research Use Agreement, non-commercial research alone; read it before you hand anything on",
    ),
}
"""Source of a store: (in short, in words). Read the providers' own terms before you publish."""


class Origin(NamedTuple):
    """Something that a model was made from."""

    part: str
    """"start weights", "data of the start weights", "start weights of the teacher" and so on."""
    name: str
    """timm's name, or the name of a file or of a kind of model. Never a place on a disk."""
    licence: str
    """As its source says; "unknown" where nobody at hand does."""
    hub: str = ""
    """Where the hub has it, if it is one of timm's."""

    @property
    def non_commercial(self) -> bool:
        return "-nc" in self.licence.lower() or "non-commercial" in self.licence.lower()


def origins_of(run: str | Path) -> list[Origin]:
    """What the weights of a training or pre-training were made from, beside its own data.

    Random first weights and no teacher: nothing. Weights of another run: its data, and what it was made from itself.
    A teacher: the same of the teacher, as its logits' folder tells it, or "unknown".

    Raises:
        CxrError: The folder holds no run.
    """
    return _origins(Path(run), seen=frozenset())


def teacher_origins(run: str | Path) -> list[Origin]:
    """What a teacher is, as its logits' folder keeps it: its data, and what `origins_of` says."""
    made = read_json(Path(run) / "run.json")
    return [_data(made), *origins_of(run)]


def _origins(run: Path, seen: frozenset) -> list[Origin]:
    made = read_json(run / "run.json")
    recipe = made["recipe"]
    return _weights(recipe.get("weights", ""), made.get("weights_sha256"), seen | {run.resolve()}) + _teacher(
        recipe.get("teacher", ""), made.get("teacher_sha256")
    )


def _data(made: dict) -> Origin:
    source = made["data"]["source"]
    return Origin("data", source, DATA_LICENCES.get(source, (UNKNOWN,))[0])


def _of(origins: list[Origin], what: str) -> list[Origin]:
    return [origin._replace(part=f"{origin.part} of the {what}") for origin in origins]


def _weights(weights: str, sha256: str | None, seen: frozenset) -> list[Origin]:
    if not weights:
        return []
    if not weights.endswith(".safetensors"):
        cfg = get_pretrained_cfg(weights)
        return [Origin("start weights", weights, (cfg.license if cfg else None) or UNKNOWN, (cfg.hf_hub_id if cfg else None) or "")]
    file = Path(weights)
    try:
        if not file.is_file() or file.parent.resolve() in seen or sha256_of(file) != sha256:
            return [Origin("start weights", file.name, UNKNOWN)]
        return _of([_data(read_json(file.parent / "run.json")), *_origins(file.parent, seen)], "start weights")
    except (CxrError, KeyError):  # a file that no run lies around
        return [Origin("start weights", file.name, UNKNOWN)]


def _teacher(folder: str, sha256: str | None) -> list[Origin]:
    if not folder:
        return []
    try:
        meta = read_json(Path(folder) / "logits.json")
    except CxrError:
        return [Origin("teacher", Path(folder).name, UNKNOWN)]
    name = meta["teacher"]["name"]
    if meta["sha256"] != sha256 or "origins" not in meta:  # by now another teacher's, or written by an older version
        return [Origin("teacher", name, UNKNOWN)]
    return _of([Origin(*origin) for origin in meta["origins"]], f"teacher ({name})")


class Licence(NamedTuple):
    """What a model may be published under."""

    licence: str
    """For the card's front matter: an identifier of the hub, or "other"."""
    name: str
    """Where it is "other"."""
    why: str
    """In words."""


def licence_for(source: str, origins: list[Origin]) -> Licence:
    """The licence of a model made from data of a source and from others' weights: the strictest of them.

    A caution, not a lawyer's word (our decision): weights under a non-commercial licence make what is trained or distilled from
    them non-commercial, and what is unknown stays unknown.
    """
    strict = [origin for origin in origins if origin.non_commercial]
    lost = [origin for origin in origins if origin.licence == UNKNOWN]
    if lost:
        more = f" What is known of {strict[0].name} ({strict[0].licence}) forbids commercial use." if strict else ""
        return Licence("other", UNKNOWN, f"the licence of {lost[0].name} ({lost[0].part}) is not known: find it out before you hand this on.{more}")
    if source == "chexpert" or any("CheXpert" in origin.licence for origin in strict):
        return Licence("other", "non-commercial-research", "CheXpert is in it, whose agreement allows non-commercial research alone")
    if strict:
        return Licence(strict[0].licence, "", f"not for commercial use, to be safe: {strict[0].part} {strict[0].name} is under {strict[0].licence}")
    if source not in DATA_LICENCES:
        return Licence("other", UNKNOWN, f"nothing is known of the terms of data from {source!r}: find them out before you hand this on")
    return Licence("apache-2.0", "", "as the library; the terms of the data and of the start weights stand in the card")


def data_terms(source: str) -> str:
    """What the providers of the data ask, in a line."""
    return DATA_LICENCES.get(source, ("", f"{source}: its terms are unknown"))[1]
