"""What stands before the first step of a pre-training: data, encoder, optimizer, and where an earlier run stopped."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from timm.optim import param_groups_weight_decay
from torch import nn

from cxrlib.data.feed import steps_per_epoch
from cxrlib.data.store import ImageStore
from cxrlib.errors import CxrError
from cxrlib.models.weights import start_from
from cxrlib.pretraining.fields import PretrainRecipe
from cxrlib.pretraining.methods import METHODS, Method
from cxrlib.training.checkpoint import load_checkpoint, sweep
from cxrlib.training.company import main_first
from cxrlib.training.compiled import compile_layers
from cxrlib.training.meter import Meter, peak_flops
from cxrlib.training.recompute import recompute_layers
from cxrlib.training.runs import Log, start_or_resume
from cxrlib.training.setup import make_fabric, open_store
from cxrlib.training.start import start_weights


@dataclasses.dataclass
class Progress:
    """How far a run is: all that a checkpoint needs beside the tensors."""

    step: int = 0
    """Optimizer steps done."""
    epoch: int = 0
    """Epochs done."""
    loss_sum: float = 0.0
    """Sum of this epoch's losses so far."""
    epoch_loss: float | None = None
    """Mean loss of the newest whole epoch."""
    seconds: float = 0.0
    """Time spent, over all resumptions."""
    cpu_seconds: float = 0.0
    """Processor time of the main process, all its threads together."""


@dataclasses.dataclass
class Run:
    """What `setup` made and `fit` works with."""

    recipe: PretrainRecipe
    method: Method
    store: ImageStore
    rows: np.ndarray
    folder: Path
    fabric: Fabric
    model: nn.Module
    follower: nn.Module
    optimizer: torch.optim.Optimizer
    progress: Progress
    log: Log
    meter: Meter

    @property
    def epoch_steps(self) -> int:
        return steps_per_epoch(len(self.rows), self.recipe.batch)


def setup(
    recipe: PretrainRecipe, data: str | Path, out: str | Path, *, device: str, devices: int, compile: bool = False, recompute: bool = False,
    tensorboard: bool = False,
) -> Run:  # fmt: skip
    """Opens the data, builds the model, puts back the last checkpoint if there is one."""
    store, folder = open_store(data, recipe), Path(out)
    rows = np.asarray(store.where(split="train_val"))
    if len(rows) < 2:
        raise CxrError(f"{data} has {len(rows)} images of the train_val list, which pre-training learns from: prepare more")
    fabric = make_fabric(device, devices, batch=recipe.batch)
    torch.manual_seed(recipe.seed)
    encoder = recipe.build()
    start_weights(encoder, recipe.init)
    if recipe.weights:
        start_from(encoder, recipe.weights)
    method = METHODS[recipe.method](recipe)
    model, follower = method.build(encoder)

    def begin() -> None:
        start_or_resume(folder, recipe, store)
        sweep(folder)

    main_first(fabric, begin)
    no_decay = {f"encoder.{name}" for name in encoder.no_weight_decay()}
    groups = param_groups_weight_decay(model, weight_decay=1.0, no_weight_decay_list=no_decay)
    for group in groups:
        group["decay_scale"] = group["weight_decay"]  # 0 for biases, norms, positions and class token, 1 for the rest
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), fused=True)
    follower = follower.to(fabric.device)
    meter = Meter(macs=method.macs(model), peak=peak_flops(fabric.device) * fabric.world_size)
    if recompute:
        recompute_layers(model)
    if compile:
        compile_layers(model)
    model, optimizer = fabric.setup(model, optimizer)
    saved = load_checkpoint(folder, model=model.module, ema=follower, optimizer=optimizer.optimizer)
    progress = Progress(**saved) if saved else Progress()
    board = folder / "tensorboard" if tensorboard else None
    log = main_first(fabric, lambda: Log(folder / "log.jsonl", keep=saved, tensorboard=board))
    return Run(recipe, method, store, rows, folder, fabric, model, follower, optimizer, progress, log, meter)
