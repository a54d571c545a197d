"""Pre-training, read from top to bottom: pretrain -> setup -> fit -> step.

    python -m cxrlib pretrain gmml cpu --data STORE --out RUN

It goes on after a kill as training does, to the same bits on a CPU: the order of the images comes from (seed, epoch), and
everything else that is random from (seed, step). It sees all images of the train_val list, those of the patients whom a
later training keeps for validation too: no label is read. The test list is never opened.

    run.json             recipe, data and its SHA-256, versions, commit: written before the first step
    log.jsonl            one JSON object per line: {"event": "step" | "epoch", ...}
    last.safetensors, previous.safetensors    the state to go on from
    encoder.safetensors  the encoder after the newest epoch: `train --weights RUN/encoder.safetensors` starts from it
    result.json          written when the run is finished
"""

import contextlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from cxrlib.data.ahead import read_ahead
from cxrlib.data.augment import to_float
from cxrlib.data.feed import epoch_order
from cxrlib.io import read_json
from cxrlib.pretraining.clock import Clock, cosine
from cxrlib.pretraining.fields import PretrainRecipe
from cxrlib.pretraining.setup import Run, setup
from cxrlib.training.checkpoint import write_tensors
from cxrlib.training.company import company
from cxrlib.training.keeper import Keeper
from cxrlib.training.loop import seed_step
from cxrlib.training.optim import set_lr, warmup_cosine
from cxrlib.training.signals import Signals

ENCODER = "encoder.safetensors"


def pretrain(
    recipe: PretrainRecipe,
    data: str | Path,
    out: str | Path,
    *,
    device: str = "auto",
    devices: int = 1,
    compile: bool = False,
    recompute: bool = False,
    checkpoint_minutes: float = 2.0,
    checkpoint_steps: int = 0,
    tensorboard: bool = False,
) -> dict:
    """Pre-trains an encoder on a store, or goes on with the run in `out`, or says that it is finished.

    Args:
        recipe: What to do; its class says by which method.
        data: A store made by `prepare`.
        out: The run folder.
        device: "cpu", "cuda", or "auto": CUDA where there is one.
        devices: Processes on this machine, one device each.
        compile, recompute: See `cxrlib.training.train`.
        checkpoint_minutes: The state is saved this often, and after every epoch.
        checkpoint_steps: Also save after every so many steps. 0: do not.
        tensorboard: Also write TensorBoard's event files, into `out`/tensorboard.

    Returns:
        The contents of result.json. A run that was stopped by a signal returns {"stopped": the signal's number}.

    Raises:
        CxrError: The data do not fit the recipe or were lost, the folder holds another run, the disk is full, the loss is no
            longer a number, or another process is gone.
    """
    with company(Path(out)):
        run = setup(
            recipe, data, out, device=device, devices=devices, compile=compile, recompute=recompute, tensorboard=tensorboard
        )
        if not (run.folder / "result.json").exists():
            return fit(run, checkpoint_minutes=checkpoint_minutes, checkpoint_steps=checkpoint_steps)
    done = read_json(run.folder / "result.json")
    if run.fabric.global_rank == 0:
        print(f"{out} is finished ({done['epochs']} epochs): nothing to do; start from {run.folder / ENCODER}")
    return done


class Films(NamedTuple):
    """One process's part of one global batch."""

    img_BYX: torch.Tensor
    """uint8, as stored."""
    rows: np.ndarray
    """Of the store, of the whole global batch."""


def films(run: Run) -> Iterator[Films]:
    """What is left of this epoch, batch by batch."""
    recipe, progress, fabric = run.recipe, run.progress, run.fabric
    order = epoch_order(len(run.rows), seed=recipe.seed, epoch=progress.epoch)
    for number in range(progress.step - progress.epoch * run.epoch_steps, run.epoch_steps):
        rows = run.rows[order[number * recipe.batch : (number + 1) * recipe.batch]]
        yield Films(torch.from_numpy(run.store.pixels[rows[fabric.global_rank :: fabric.world_size]]), rows)


def fit(run: Run, *, checkpoint_minutes: float, checkpoint_steps: int) -> dict:
    """Epochs of steps; the encoder is written after each."""
    recipe, fabric, progress, main = run.recipe, run.fabric, run.progress, run.fabric.global_rank == 0
    steps = recipe.epochs * run.epoch_steps
    keeper = Keeper(run, run.follower, steps=steps, minutes=checkpoint_minutes, every=checkpoint_steps)
    signals, meter, bar = Signals(), run.meter, keeper.begin()
    with contextlib.ExitStack() as open_files, bar, signals:
        while progress.epoch < recipe.epochs:
            ahead = read_ahead(films(run), pin=fabric.device.type == "cuda")
            open_files.enter_context(contextlib.closing(ahead))  # the reader ends with the training, however that ends
            for batch in meter.watch(ahead, images=min(recipe.batch, len(run.rows))):
                loss, norm, extras = step(run, batch.img_BYX, steps)
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    raise keeper.failure(loss, norm, step=progress.step + 1, rows=batch.rows, what="pre-training")
                progress.step += 1
                progress.loss_sum += loss
                if main and progress.step % 50 == 0:
                    lr = run.optimizer.param_groups[0]["lr"]
                    noted = {name: float(value) for name, value in extras.items()}
                    run.log.write(event="step", step=progress.step, loss=loss, lr=lr, grad_norm=norm, **noted, **meter.read()._asdict())
                bar.update()
                bar.set_description(f"epoch {progress.epoch + 1}/{recipe.epochs}", refresh=False)
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                if signals.caught(fabric):
                    return keeper.stop(signals.number, bar)
                if keeper.due():
                    keeper.save_between()
            end_epoch(run, keeper.seconds())
            keeper.save()
    result = {"epochs": progress.epoch, "steps": progress.step, "images": len(run.rows), "loss": progress.epoch_loss}
    then = f"; start from it with: python -m cxrlib train RECIPE --weights {run.folder / ENCODER} ..."
    return keeper.finish(result, then=then)


def step(run: Run, img_BYX: torch.Tensor, steps: int) -> tuple[float, float, dict[str, torch.Tensor]]:
    """One step down the gradient of this method's loss on these images.

    Returns:
        (loss, norm of its gradient before clipping, what else the method notes).
    """
    recipe, fabric = run.recipe, run.fabric
    clock = Clock(run.progress.step, steps, run.epoch_steps)
    warmup = round(recipe.warmup_epochs * run.epoch_steps)
    set_lr(run.optimizer, warmup_cosine(clock.step, steps=steps, warmup=warmup, peak=recipe.lr, floor=recipe.min_lr))
    set_weight_decay(run.optimizer, cosine(clock, recipe.weight_decay, recipe.weight_decay_end))
    seed_step(recipe.seed, clock.step, fabric.global_rank)
    run.model.train()
    img_BYX = img_BYX.to(fabric.device, non_blocking=True)
    loss, extras = run.method.loss(fabric, run.model, run.follower, to_float(img_BYX), clock)
    fabric.backward(loss)  # with several processes DDP averages their gradients
    run.method.before_step(run.model, clock)
    norm = fabric.clip_gradients(run.model, run.optimizer, max_norm=recipe.clip, error_if_nonfinite=False)
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.method.after_step(run.model, run.follower, clock)
    return float(fabric.all_reduce(loss.detach(), reduce_op="mean")), float(norm), extras


def set_weight_decay(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Sets the weight decay of a step, for the groups that have one."""
    for group in optimizer.param_groups:
        group["weight_decay"] = value * group["decay_scale"]


def end_epoch(run: Run, seconds: float) -> None:
    """Writes the encoder and the epoch's line."""
    progress = run.progress
    progress.epoch += 1
    progress.epoch_loss, progress.loss_sum = progress.loss_sum / run.epoch_steps, 0.0
    if run.fabric.global_rank == 0:
        encoder = run.method.encoder(run.model.module, run.follower)
        header = {"epoch": progress.epoch, "recipe": run.recipe.to_json(), "data_sha256": run.store.sha256}
        write_tensors(run.folder / ENCODER, encoder.state_dict(), header)
        run.log.write(
            event="epoch", epoch=progress.epoch, step=progress.step, loss=progress.epoch_loss, seconds=round(seconds, 1)
        )
        tqdm.write(
            f"epoch {progress.epoch}/{run.recipe.epochs}  loss {progress.epoch_loss:.4f}  {seconds / 60:.1f} min",
            file=sys.stdout,
        )
        sys.stdout.flush()
