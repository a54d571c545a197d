"""Run folders, read: what made a run, how far it is, and what it scored. Nothing is written, and no weights are opened."""

import dataclasses
import json
import math
import os
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cxrlib.errors import CxrError
from cxrlib.io import read_json
from cxrlib.recipes import Recipe
from cxrlib.training.lock import is_held


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """One run folder. NaN: there is no such number (yet)."""

    name: str
    folder: Path
    made: dict[str, Any]
    """run.json; empty if it cannot be read."""
    lines: tuple[dict, ...]
    """log.jsonl."""
    state: str
    """"finished", "running", "stopped" (told to, and saved), "died", "unfinished" (this file system knows no locks, so
    nobody can tell) or "damaged"."""
    fault: str = ""
    """What is wrong with a damaged folder."""
    best: float = math.nan
    """Best validation macro AUROC."""
    best_epoch: int = 0
    """The epoch that reached it, from 1; 0: none."""
    test: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    """Macro AUROC on the test split with the ends of its interval, if the run was evaluated."""
    test_findings: dict[str, float] = dataclasses.field(default_factory=dict)
    """Finding -> AUROC on the test split."""
    minutes: float = math.nan
    """Time spent, over all resumptions, as far as the folder says."""
    images_per_s: float = math.nan
    """Median of what the steps have noted; before steps noted it, NaN."""

    @property
    def recipe(self) -> dict[str, Any]:
        return self.made.get("recipe", {})

    @property
    def pretraining(self) -> bool:
        return "method" in self.recipe

    @property
    def model(self) -> str:
        """Kind of model, or the method of a pre-training."""
        return self.recipe.get("method") or self.recipe.get("model", "")

    @property
    def epochs(self) -> int:
        """Epochs done."""
        return max((line["epoch"] for line in self.events("epoch")), default=0)

    @property
    def machine(self) -> dict[str, Any]:
        """The machine that the run is, or was last, computed on; empty for runs of older versions."""
        starts = self.events("start")
        return starts[-1] if starts else self.made.get("machine", {})

    def events(self, kind: str) -> list[dict]:
        """The log's lines of a kind: "start", "step", "epoch" or "stop"."""
        return [line for line in self.lines if line.get("event") == kind]


def find_runs(folders: Iterable[str | Path]) -> list[TrackedRun]:
    """All runs in and below some folders, in the order of their paths, each once.

    Raises:
        CxrError: A folder does not exist, or there is no run.
    """
    found: dict[Path, str] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise CxrError(f"{folder} is no folder: name run folders, or folders that hold some")
        for path in _run_folders(folder):
            inner = path.relative_to(folder).as_posix()
            name = (folder.resolve().name if inner == "." else inner) if path.resolve() not in found else ""
            found[path.resolve()] = found.get(path.resolve()) or (str(path) if name in found.values() else name)
    if not found:
        raise CxrError("there is no run in these folders: name the --out of a training or pre-training, or a folder above some")
    return [read_tracked(path, name) for path, name in found.items()]


def _run_folders(folder: Path) -> Iterator[Path]:
    """Folders with a run.json, or with parts of a run that has lost its own."""
    for path, inner, files in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if "run.json" in files or "log.jsonl" in files and {"last.safetensors", "result.json"} & set(files):
            yield Path(path)


def read_tracked(folder: Path, name: str) -> TrackedRun:
    """One run folder. What is damaged is said in `fault`, not raised."""
    try:
        return _read(folder, name)
    except CxrError as error:
        fault = str(error)
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        fault = f"{folder} does not hold what a run writes ({type(error).__name__}: {error})"
    return TrackedRun(name=name, folder=folder, made={}, lines=(), state="damaged", fault=" ".join(fault.split()))


def _read(folder: Path, name: str) -> TrackedRun:
    made = read_json(folder / "run.json")
    lines = read_log(folder / "log.jsonl")
    result = read_json(folder / "result.json") if (folder / "result.json").exists() else None
    if "method" not in made["recipe"]:  # fields that recipes got later, at their defaults
        made = made | {"recipe": Recipe.from_json(made["recipe"]).to_json()}
    made["recipe"]["name"], made["recipe"]["seed"], made["data"]["sha256"], made["data"]["source"]  # what every run has
    best, best_epoch = math.nan, 0
    for line in lines:
        if line.get("event") == "epoch" and line.get("best"):
            best, best_epoch = _number(line["val_macro_auroc"]), line["epoch"]
    test, findings = _tested(folder / "evaluation" / "test" / "auroc.json")
    seconds = [line["seconds"] for line in lines if line.get("event") == "epoch"]
    rates = [line["images_per_s"] for line in lines if line.get("event") == "step" and line.get("images_per_s")]
    return TrackedRun(
        name=name,
        folder=folder,
        made=made,
        lines=tuple(lines),
        state="finished" if result is not None else state_of(folder, lines),
        best=best,
        best_epoch=best_epoch,
        test=test,
        test_findings=findings,
        minutes=(result["seconds"] if result is not None else max(seconds, default=math.nan)) / 60,
        images_per_s=statistics.median(rates) if rates else _number((result or {}).get("images_per_s")),
    )


def read_log(path: Path) -> list[dict]:
    """The lines of a log; one that a kill cut short is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def state_of(folder: Path, lines: list[dict]) -> str:
    """What an unfinished run is doing. A process that trains holds the folder's lock, and a dead one cannot.

    A copy of a folder is not locked: what runs elsewhere looks dead in its copy.
    """
    held = is_held(folder)
    if held is None or held:
        return "unfinished" if held is None else "running"
    last = [line["event"] for line in lines if line.get("event") in ("start", "stop")][-1:]
    return "stopped" if last == ["stop"] else "died"


def _tested(path: Path) -> tuple[tuple[float, float, float], dict[str, float]]:
    if not path.exists():
        return (math.nan,) * 3, {}
    scored = read_json(path)
    macro = tuple(_number(scored["macro"][name]) for name in ("auroc", "low", "high"))
    return macro, {row["finding"]: _number(row["auroc"]) for row in scored["findings"]}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
