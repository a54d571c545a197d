"""Checkpoints: one safetensors file that holds every tensor of a run, with the rest as JSON in its header.

One file and one rename: after a kill or on a full disk there is a whole checkpoint or the one before it, never a part.
Nothing is pickled.
"""

import json
import os
from pathlib import Path

import torch
from lightning_fabric.utilities import rank_zero_only
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cxrlib.errors import CxrError
from cxrlib.io import atomic_write
from cxrlib.models.weights import load_strict

LAST, PREVIOUS, BEST = "last.safetensors", "previous.safetensors", "best.safetensors"


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors: AdamW's step, mean and variance of each parameter, by position."""
    return {
        f"{position}.{key}": value
        for position, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` took. The parameter groups stay as they were built."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        position, key = name.split(".", 1)
        state.setdefault(int(position), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict) -> None:
    """Writes a safetensors file atomically, with `header` as JSON beside the tensors."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    payload = save(plain, metadata={"cxrlib": json.dumps(header, allow_nan=False)})
    with atomic_write(path, "wb") as file:
        file.write(payload)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Reads what `write_tensors` wrote: (tensors, header).

    Raises:
        CxrError: The file is missing, damaged or not a checkpoint.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["cxrlib"])
            return {name: file.get_tensor(name) for name in file.keys()}, header
    except FileNotFoundError:
        raise CxrError(f"{path} does not exist: check the run folder, or train first") from None
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise CxrError(f"{path} is damaged or no checkpoint of cxrlib ({error}): restore it, or train again") from None


def save_checkpoint(run: Path, *, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, progress: dict) -> None:
    """Writes the whole state of a run to `last.safetensors`; the one before becomes `previous.safetensors`.

    The random state is not in it because there is none: a step's randomness is made from (seed, step), see `training`.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in ema.state_dict().items()}
    tensors |= {f"optimizer.{name}": value for name, value in optimizer_tensors(optimizer).items()}
    write_tensors(run / "next.safetensors", tensors, progress)
    if (run / LAST).exists():
        os.replace(run / LAST, run / PREVIOUS)
    os.replace(run / "next.safetensors", run / LAST)


def load_checkpoint(run: Path, *, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> dict | None:
    """Puts a run back where its newest whole checkpoint left it; says so if that is not the newest one.

    Returns:
        The progress that was saved, or None if the run has no checkpoint yet.

    Raises:
        CxrError: There are checkpoints, but none can be read.
    """
    found = [run / name for name in (LAST, PREVIOUS) if (run / name).exists()]
    fault: CxrError | None = None
    for path in found:
        try:
            tensors, progress = read_tensors(path)
        except CxrError as error:
            fault = error
            continue
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}}
        for name, value in tensors.items():
            part, rest = name.split(".", 1)
            parts[part][rest] = value
        load_strict(model, parts["model"], source=str(path))
        load_strict(ema, parts["ema"], source=str(path))
        load_optimizer_tensors(optimizer, parts["optimizer"])
        if fault is not None:
            _set_aside(run, progress)
        return progress
    if fault is not None:
        raise fault
    return None


@rank_zero_only
def _set_aside(run: Path, progress: dict) -> None:
    """Moves a damaged checkpoint out of the way, or the next save would put it in the place of the whole one before."""
    (run / LAST).replace(run / "damaged.safetensors")
    print(
        f"{run / LAST} is damaged (now damaged.safetensors): going back to {PREVIOUS}, after step {progress['step']}", flush=True
    )


def sweep(run: Path) -> None:
    """Removes the unfinished files that a kill left in a run folder."""
    for path in run.glob(".*.part"):
        path.unlink(missing_ok=True)
    (run / "next.safetensors").unlink(missing_ok=True)
