"""The run folder: what made a run, whether it may be continued, and its log.

    run.json      recipe, seed, data and its SHA-256, versions, commit, machine: written before the first step
    log.jsonl     one JSON object per line: {"event": "start" | "step" | "epoch" | "stop", "time": ..., ...}
    validation.csv    the images that choose the best epoch
    best.safetensors, last.safetensors, previous.safetensors    see checkpoint.py
    result.json   written when the run is finished
    .lock         held by the process that trains, and free as soon as it is gone
"""

import importlib.metadata
import json
import platform
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cxrlib
from cxrlib.data.store import ImageStore
from cxrlib.errors import CxrError
from cxrlib.io import atomic_write, read_json, sha256_of, write_json
from cxrlib.recipes import Recipe
from cxrlib.training.lock import hold
from cxrlib.training.machine import machine


def versions() -> dict[str, str]:
    """The versions that a result may depend on."""
    packages = ("torch", "timm", "lightning-fabric", "numpy", "safetensors")
    return {"python": platform.python_version(), "cxrlib": cxrlib.__version__} | {
        name: importlib.metadata.version(name) for name in packages
    }


def git_commit() -> str | None:
    """The commit of the source, with "+changes" if files differ from it; None outside a git checkout."""
    folder = Path(__file__).parents[1]  # cxrlib

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=20).stdout

    try:
        return git("rev-parse", "HEAD").strip() + ("+changes" if git("status", "--porcelain", "--", ".").strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None


def data_of(store: ImageStore) -> dict[str, Any]:
    """What tells one store from another, in a run's and an evaluation's JSON."""
    return {
        "sha256": store.sha256,
        "source": store.source,
        "images": int(store.n),
        "size": int(store.size),
        "findings": list(store.findings),
    }


def start_or_resume(folder: Path, recipe: Recipe, store: ImageStore) -> None:
    """Writes run.json, or checks that the run in the folder is the same one.

    Raises:
        CxrError: The folder holds another run, or something else, or another process is at work in it.
    """
    weights = Path(recipe.weights)
    identity = {
        "recipe": recipe.to_json(),
        "data": data_of(store),
        "weights_sha256": sha256_of(weights) if recipe.weights and weights.is_file() else None,
        # A folder may hold other regions, or another teacher's words, than it did: what they say of themselves is kept.
        "priors_sha256": _sha_of(recipe, "priors", "priors.json"),
        "teacher_sha256": _sha_of(recipe, "teacher", "logits.json"),
    }
    if (folder / "run.json").exists():
        _same_or_raise(folder, _filled(read_json(folder / "run.json")), identity)
        hold(folder)  # let go at once: `Log` takes it for as long as the run lasts
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CxrError(f"{folder} is not empty and holds no run: choose another --out")
    made = {
        "format": 1,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "store": str(Path(store.folder).resolve()),
        "versions": versions(),
        "commit": git_commit(),
        "machine": machine(),
    }
    write_json(folder / "run.json", identity | made)


def _sha_of(recipe, field: str, name: str) -> str | None:
    """The hash that a folder named in the recipe says of itself; None where the recipe (or its kind) has none."""
    folder = getattr(recipe, field, "")  # a pre-training has neither regions nor a teacher
    return read_json(Path(folder) / name)["sha256"] if folder else None


def _filled(stored: dict) -> dict:
    """A stored run with the fields that recipes got later at their defaults, so that an older run can go on."""
    try:
        return stored | {"recipe": Recipe.from_json(stored["recipe"]).to_json()}
    except (CxrError, KeyError):  # another kind of run: the comparison says so
        return stored


def _same_or_raise(folder: Path, stored: dict, wanted: dict) -> None:
    """Names the first setting in which two runs differ."""
    for part in ("recipe", "data"):
        if part not in stored:
            raise CxrError(f"{folder}/run.json is not a run of this version of cxrlib: choose another --out")
        for key, value in wanted[part].items():
            if stored[part].get(key) != value:
                raise CxrError(
                    f"{folder} holds a run with {part} {key} = {stored[part].get(key)}, now it is {value}: "
                    "repeat the first command to go on with it, or choose another --out"
                )
    if stored["weights_sha256"] != wanted["weights_sha256"]:
        raise CxrError(f"{folder} was started from other weights than this file now holds: choose another --out")
    for part in ("priors", "teacher"):
        key = f"{part}_sha256"
        if stored.get(key) is not None and stored[key] != wanted[key]:  # runs of an older version have not noted it
            raise CxrError(f"{folder} was started with other --{part} than {wanted['recipe'].get(part)} now holds: choose another --out")


def read_run(folder: str | Path) -> dict:
    """run.json of a run folder, with the recipe rebuilt under "recipe".

    Raises:
        CxrError: The folder is no run.
    """
    folder = Path(folder)
    if not (folder / "run.json").exists():
        raise CxrError(f"{folder} is no run folder (it has no run.json): name the --out of a training")
    stored = read_json(folder / "run.json")
    if "method" in stored["recipe"]:
        raise CxrError(f"{folder} is a pre-training, which scores nothing: train with --weights {folder}/encoder.safetensors")
    return stored | {"recipe": Recipe.from_json(stored["recipe"])}


class Log:
    """log.jsonl: each line is on disk as soon as it is written."""

    def __init__(self, path: Path, *, keep: dict | None = None, tensorboard: Path | None = None):
        """Opens the log.

        Args:
            path: The file.
            keep: The progress a run resumes from. Steps and epochs that were logged after it are dropped: they come again.
            tensorboard: Also write event files into this folder.

        Raises:
            CxrError: Another process is at work in the folder, or TensorBoard is not installed.
        """
        self.path, self._lock = path, hold(path.parent)
        kept = []
        if path.exists():
            lines = [_parse(line) for line in path.read_text(encoding="utf-8").splitlines()]
            kept = [line for line in lines if line is not None and _stays(line, keep)]
            with atomic_write(path) as file:
                file.writelines(json.dumps(line) + "\n" for line in kept)
        self.events = None
        if tensorboard is not None:
            from cxrlib.tracking.events import EventFile  # TensorBoard is an extra

            self.events = EventFile(tensorboard, kept)

    def write(self, **fields: Any) -> None:
        """Appends one line, with the time. NaN becomes null."""
        plain = {key: None if isinstance(value, float) and value != value else value for key, value in fields.items()}
        plain["time"] = round(time.time(), 3)
        with open(self.path, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(plain, allow_nan=False) + "\n")
        if self.events is not None:
            self.events.add(plain)

    def start(self, step: int) -> None:
        """Notes that a process begins or goes on after `step`, on which machine, and with which source."""
        self.write(event="start", step=step, commit=git_commit(), **machine())


def _parse(line: str) -> dict | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:  # a kill in the middle of a line
        return None


def _stays(line: dict, progress: dict | None) -> bool:
    """Whether a line is still true of a run that goes on after `progress` (None: from the beginning)."""
    if line.get("event") in ("start", "stop", "failed"):
        return True  # who worked on the run, and when, and what it died of, stays true
    if progress is None:
        return False
    if line.get("event") == "epoch":
        return line["epoch"] <= progress["epoch"]  # epochs are counted from 1 in the log
    return line.get("step", 0) <= progress["step"]
