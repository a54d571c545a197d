"""What stands before the first step: the data split, the devices, the model, and where an earlier run stopped."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from lightning_fabric.strategies import DDPStrategy
from timm.utils import ModelEmaV3
from torch import nn

from cxrlib.data.feed import steps_per_epoch
from cxrlib.data.splits import split_by_patient
from cxrlib.data.store import ImageStore
from cxrlib.errors import CxrError
from cxrlib.io import atomic_write
from cxrlib.models.cost import macs
from cxrlib.models.weights import start_from
from cxrlib.recipes import Recipe
from cxrlib.training import company
from cxrlib.training.checkpoint import load_checkpoint, sweep
from cxrlib.training.company import main_first
from cxrlib.training.compiled import compile_layers
from cxrlib.training.meter import Meter, peak_flops
from cxrlib.training.objectives import Objective, make_objective
from cxrlib.training.optim import make_ema, make_optimizer
from cxrlib.training.recompute import recompute_layers
from cxrlib.training.runs import Log, start_or_resume
from cxrlib.training.start import start_head_at_prevalence, start_weights


@dataclasses.dataclass
class Progress:
    """How far a run is: all that a checkpoint needs beside the tensors."""

    step: int = 0
    """Optimizer steps done."""
    epoch: int = 0
    """Epochs done, validation included."""
    loss_sum: float = 0.0
    """Sum of this epoch's losses so far."""
    best: float | None = None
    """Best validation macro AUROC."""
    best_epoch: int = 0
    """The epoch that reached it, counted from 1."""
    seconds: float = 0.0
    """Time spent, over all resumptions."""
    cpu_seconds: float = 0.0
    """Processor time of the main process, all its threads together: on a busy machine more telling than `seconds`."""


@dataclasses.dataclass
class Run:
    """What `setup` made and `fit` works with."""

    recipe: Recipe
    store: ImageStore
    labels_NC: np.ndarray
    """The labels of the recipe's findings."""
    folder: Path
    fabric: Fabric
    model: nn.Module
    objective: Objective
    ema: ModelEmaV3
    optimizer: torch.optim.Optimizer
    train_rows: np.ndarray
    held_rows: np.ndarray
    progress: Progress
    log: Log
    meter: Meter

    @property
    def epoch_steps(self) -> int:
        steps = steps_per_epoch(len(self.train_rows), self.recipe.batch)
        return min(steps, self.recipe.epoch_steps or steps)


def setup(
    recipe: Recipe, data: str | Path, out: str | Path, *, device: str, devices: int, compile: bool = False, recompute: bool = False,
    tensorboard: bool = False,
) -> Run:  # fmt: skip
    """Opens the data, builds the model, puts back the last checkpoint if there is one. The arguments are `train`'s."""
    store, folder = open_store(data, recipe), Path(out)
    findings, labels_NC = chosen_labels(store, recipe)
    train_rows, held_rows = split_rows(store, labels_NC, recipe)
    fabric = make_fabric(device, devices, batch=recipe.batch)
    torch.manual_seed(recipe.seed)
    model = recipe.build(len(findings))
    objective = make_objective(recipe, store, findings, train_rows, grid=getattr(model, "grid", None))
    start_weights(model, recipe.init)
    fresh = start_from(model, recipe.weights) if recipe.weights else {"head.weight"}
    if any(name.startswith("head.") for name in fresh):
        start_head_at_prevalence(model, labels_NC[train_rows])
        if hasattr(model, "start_at"):  # CLARiTy has a second head
            model.start_at(model.head.bias.detach().clone())

    def begin() -> None:
        start_or_resume(folder, recipe, store)
        sweep(folder)
        if not (folder / "validation.csv").exists():
            with atomic_write(folder / "validation.csv") as file:
                store.table.iloc[held_rows][["image", "patient"]].to_csv(file, index=False, lineterminator="\n")

    main_first(fabric, begin)
    optimizer = make_optimizer(model, weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay)
    ema = make_ema(model, recipe.ema).to(fabric.device)
    peak = peak_flops(fabric.device) * fabric.world_size
    meter = Meter(macs=macs(model, image_size=recipe.image_size), peak=peak)
    if recompute:
        recompute_layers(model)
    if compile:
        compile_layers(model)
    model, optimizer = fabric.setup(model, optimizer)
    saved = load_checkpoint(folder, model=model.module, ema=ema.module, optimizer=optimizer.optimizer)
    progress = Progress(**saved) if saved else Progress()
    board = folder / "tensorboard" if tensorboard else None
    log = main_first(fabric, lambda: Log(folder / "log.jsonl", keep=saved, tensorboard=board))
    return Run(recipe, store, labels_NC, folder, fabric, model, objective, ema, optimizer, train_rows, held_rows, progress, log, meter)


def open_store(data: str | Path, recipe) -> ImageStore:
    """Opens a store for a recipe, of training or of pre-training: both have `name` and `image_size`.

    Raises:
        CxrError: The store's images are of another size.
    """
    store = ImageStore.open(data)
    if store.size != recipe.image_size:
        raise CxrError(
            f"{data} holds images of {store.size} px, the recipe {recipe.name} reads {recipe.image_size} px: "
            f"prepare the folder again with --size {recipe.image_size}"
        )
    return store


def chosen_labels(store: ImageStore, recipe: Recipe) -> tuple[tuple[str, ...], np.ndarray]:
    """The recipe's findings, or all that the store has, and their labels_NC.

    Raises:
        CxrError: The store does not have one of them.
    """
    findings = recipe.findings or store.findings
    missing = [name for name in findings if name not in store.findings]
    if missing:
        raise CxrError(
            f"the store has no finding {missing[0]!r} (it has {', '.join(store.findings)}): correct --findings, "
            "or prepare the folder that has it"
        )
    return findings, store.labels_NC[:, [store.findings.index(name) for name in findings]]


def split_rows(store: ImageStore, labels_NC: np.ndarray, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to choose the best epoch by: no patient in both, no image of the test list in either."""
    rows = np.asarray(store.where(split="train_val"))
    rest, held = split_by_patient(store.table.iloc[rows].reset_index(drop=True), recipe.validation, recipe.seed)
    train_rows, held_rows = rows[rest], rows[held]
    held_NC = labels_NC[held_rows]
    if not any((held_NC == 0).any(axis=0) & (held_NC == 1).any(axis=0)):
        raise CxrError(
            f"none of the {len(held_rows)} validation images tells one finding from its absence: train on more images, "
            "or give the recipe a larger validation share"
        )
    return train_rows, held_rows


def find_device(device: str) -> str:
    """"cpu" or "cuda" for "cpu", "cuda" or "auto": CUDA where there is one.

    Raises:
        CxrError: CUDA was asked for and is not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise CxrError("no CUDA device is at hand: use --device cpu, or --device auto")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def find_precision(accelerator: str) -> str:
    """Fabric's name of bf16 where a GPU computes in it, else of float32. Older GPUs (Colab's T4) only imitate bf16, slowly."""
    return "bf16-mixed" if accelerator == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def make_fabric(device: str, devices: int, *, batch: int) -> Fabric:
    """Lightning Fabric for one process or many (its own, or torchrun's); bf16 where CUDA computes in it.

    Raises:
        CxrError: There are not so many devices, or they cannot share `batch` images evenly.
    """
    accelerator = find_device(device)
    if accelerator == "cuda" and devices > torch.cuda.device_count():
        raise CxrError(f"{devices} CUDA devices were asked for, {torch.cuda.device_count()} are at hand: lower --devices")
    nodes = 1
    if "LOCAL_WORLD_SIZE" in os.environ:  # started by torchrun, which says how many there are
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    strategy = DDPStrategy(timeout=company.PATIENCE) if devices * nodes > 1 else "auto"
    # Without torchrun we start the processes ourselves, inside a Slurm job too, where Fabric would expect srun to have done it.
    own = [] if "LOCAL_WORLD_SIZE" in os.environ else [LightningEnvironment()]
    fabric = Fabric(
        accelerator=accelerator, devices=devices, num_nodes=nodes, strategy=strategy, precision=find_precision(accelerator), plugins=own
    )
    fabric.launch()
    if batch % fabric.world_size:
        raise CxrError(f"a batch of {batch} cannot be shared by {fabric.world_size} devices: choose a multiple as --batch")
    return fabric
