"""Training, read from top to bottom: train -> setup -> fit -> train_step, validate.

    python -m cxrlib train cpu --data STORE --out RUN

The same command again goes on with a run that was killed, and ends with the same bits on a CPU. Nothing random is carried
from step to step: the order of the images and their augmentation come from (seed, epoch), and what is random inside the
model from (seed, step).
"""

import contextlib
import itertools
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from tqdm import tqdm

from cxrlib.data.ahead import read_ahead
from cxrlib.data.augment import augment, normalise, to_float
from cxrlib.data.feed import Batch, epoch_order, training_batches
from cxrlib.io import read_json
from cxrlib.metrics import auroc, macro
from cxrlib.predict import predict
from cxrlib.recipes import Recipe
from cxrlib.training.checkpoint import BEST, write_tensors
from cxrlib.training.company import company
from cxrlib.training.keeper import Keeper
from cxrlib.training.objectives import Objective, Part
from cxrlib.training.optim import set_lr, warmup_cosine
from cxrlib.training.setup import Progress, Run, setup
from cxrlib.training.signals import Signals


def train(
    recipe: Recipe,
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
    """Trains a recipe on a store, or goes on with the run in `out`, or says that it is finished.

    Args:
        recipe: What to do.
        data: A store made by `prepare`.
        out: The run folder.
        device: "cpu", "cuda", or "auto": CUDA where there is one.
        devices: Processes on this machine, one device each.
        compile: Let torch write the model's kernels; the first steps then take minutes. The result differs by rounding.
        recompute: Forget each layer's inner values and compute them again for the gradient: less memory, a third more time.
        checkpoint_minutes: The state is saved this often, and after every epoch.
        checkpoint_steps: Also save after every so many steps. 0: do not.
        tensorboard: Also write TensorBoard's event files, into `out`/tensorboard.

    Returns:
        The contents of result.json. A run that was stopped by a signal returns {"stopped": the signal's number}.

    Raises:
        CxrError: The data do not fit the recipe or were lost, the folder holds another run, the disk is full, the loss is no
            longer a number, or another process is gone.
    """
    result = Path(out) / "result.json"
    with company(Path(out)):
        run = setup(
            recipe, data, out, device=device, devices=devices, compile=compile, recompute=recompute, tensorboard=tensorboard
        )
        if not result.exists():
            return fit(run, checkpoint_minutes=checkpoint_minutes, checkpoint_steps=checkpoint_steps)
    done = read_json(result)
    if run.fabric.global_rank == 0:
        print(
            f"{out} is finished (validation macro AUROC {done['best_macro_auroc']:.3f} after epoch {done['best_epoch']}): "
            f"nothing to do; score it with: python -m cxrlib evaluate {out} --split test"
        )
    return done


class Told(NamedTuple):
    """What a step leaves to be read once the device has done it."""

    step: int
    """Its number, from 1."""
    lr: float
    shared_3: Tensor
    """Summed over the processes: the loss; the numbers of the signals that they were sent; how many were sent one."""
    norm: Tensor
    """Of the gradient, before clipping."""
    epoch: int
    """From 0."""
    place: int
    """The batch's number in its epoch, from 0."""


def fit(run: Run, *, checkpoint_minutes: float, checkpoint_steps: int) -> dict:
    """Epochs of steps; after each, a validation; the best weights are kept; early stopping ends it."""
    recipe, fabric, progress, main = run.recipe, run.fabric, run.progress, run.fabric.global_rank == 0
    steps, warmup = recipe.epochs * run.epoch_steps, round(recipe.warmup_epochs * run.epoch_steps)
    keeper = Keeper(run, run.ema.module, steps=steps, minutes=checkpoint_minutes, every=checkpoint_steps)
    signals, meter, told, heard = Signals(), run.meter, None, False

    def settle() -> None:
        """Reads the newest step that was not read yet, and whether some process was told to stop."""
        nonlocal told, heard
        if told is None:
            return
        read, told = told, None
        (loss, number, sent), norm = read.shared_3.tolist(), float(read.norm)
        signals.number = signals.number or (round(number / sent) if sent else 0)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            order = epoch_order(len(run.train_rows), seed=recipe.seed, epoch=read.epoch)
            rows = run.train_rows[order[read.place * recipe.batch :][: recipe.batch]]
            raise keeper.failure(loss, norm, step=read.step, rows=rows, what="training")
        progress.loss_sum += loss
        if main and read.step % 50 == 0:
            run.log.write(event="step", step=read.step, loss=loss, lr=read.lr, grad_norm=norm, **meter.read()._asdict())
        show(bar, progress, recipe, run.epoch_steps, loss)
        heard = heard or sent > 0

    bar = keeper.begin()
    with contextlib.ExitStack() as open_files, bar, signals:
        while progress.epoch < recipe.epochs and not early(progress, recipe):
            batches = training_batches(
                run.store.pixels, run.labels_NC, run.train_rows, batch=recipe.batch, seed=recipe.seed,
                epoch=progress.epoch, start=progress.step - progress.epoch * run.epoch_steps,
                rank=fabric.global_rank, world=fabric.world_size,
            )  # fmt: skip
            batches = itertools.islice(batches, max(run.epoch_steps - (progress.step - progress.epoch * run.epoch_steps), 0))
            ahead = read_ahead(batches, pin=fabric.device.type == "cuda")
            open_files.enter_context(contextlib.closing(ahead))  # the reader ends with the training, however that ends
            for batch in meter.watch(ahead, images=min(recipe.batch, len(run.train_rows))):
                lr = warmup_cosine(progress.step, steps=steps, warmup=warmup, peak=recipe.lr, floor=recipe.min_lr)
                set_lr(run.optimizer, lr)
                seed_step(recipe.seed, progress.step, fabric.global_rank)
                done = progress.step / run.epoch_steps
                loss, norm = train_step(fabric, run.model, run.optimizer, run.objective, batch, recipe, done=done)
                run.ema.update(run.model.module, step=progress.step + 1)
                progress.step += 1
                bar.update()
                # The step before is read only now: a GPU has done it by now, and goes on with this one while we read.
                settle()
                stop = heard  # by what all processes have told up to the step before: all of them stop after the same step
                place = progress.step - 1 - progress.epoch * run.epoch_steps
                told = Told(progress.step, lr, share(fabric, loss, signals.number), norm, progress.epoch, place)
                if stop or keeper.due():
                    settle()
                    if stop:
                        return keeper.stop(signals.number, bar)
                    keeper.save_between()
            settle()
            if heard:
                return keeper.stop(signals.number, bar)
            end_epoch(run, keeper.seconds())
            keeper.save()
    result = {
        "best_macro_auroc": progress.best,
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "steps": progress.step,
        "stopped_early": progress.epoch < recipe.epochs,
    }
    then = (
        f": validation macro AUROC {progress.best:.3f} after epoch {progress.best_epoch}; "
        f"score it with: python -m cxrlib evaluate {run.folder} --split test"
    )
    return keeper.finish(result, then=then)


def train_step(
    fabric: Fabric,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    batch: Batch,
    recipe: Recipe,
    *,
    done: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """One step down the gradient of the global batch's loss.

    The batch may be computed in parts and on several devices: each part's loss is divided by the counts of the whole
    global batch, so that all parts add up to the same gradient as one large batch.

    Args:
        objective: From `make_objective`.
        done: Epochs trained before this step, with their fraction.

    Returns:
        (this process's share of the global batch's loss, norm of its gradient before clipping), on the device: reading them waits.
    """
    total = torch.zeros((), device=fabric.device)
    parts = range(0, len(batch.img_BYX), recipe.micro_batch)
    for start in parts:
        part = slice(start, start + recipe.micro_batch)
        img_BYX, labels_BC, draws_BK = (field[part].to(fabric.device, non_blocking=True) for field in batch[:3])
        img_BIYX, matrix_B23 = augment(to_float(img_BYX), draws_BK, recipe.ranges)
        told = Part(batch.rows_B[part].numpy(), matrix_B23, done, batch.known, batch.present, batch.images)
        # Gradients meet once per step, with the last part; DDP averages them, so each process multiplies by their number.
        with fabric.no_backward_sync(model, enabled=start != parts[-1]):
            loss = objective(model, normalise(img_BIYX, mean=recipe.mean, std=recipe.std), labels_BC, told)
            fabric.backward(loss * fabric.world_size)
        total += loss.detach()
    norm = fabric.clip_gradients(model, optimizer, max_norm=recipe.clip, error_if_nonfinite=False)
    optimizer.step()
    optimizer.zero_grad()
    return total, norm


def share(fabric: Fabric, loss: Tensor, number: int) -> Tensor:
    """What all processes must know of a step, in one sum that nobody waits for: see `Told.shared_3`.

    torch's own all_reduce: Fabric's puts a barrier before it, at which the host would wait for the device.
    """
    sent = torch.full((2,), float(number), device=loss.device)  # filled on the device; a copy from the host would wait as well
    shared_3 = torch.cat([loss.reshape(1), sent[:1], (sent[1:] > 0).float()])
    if fabric.world_size > 1:
        torch.distributed.all_reduce(shared_3)
    return shared_3


def seed_step(seed: int, step: int, rank: int) -> None:
    """Makes what is random inside the model (drop path) a function of (seed, step, process)."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1))


def validate(run: Run) -> tuple[float, int]:
    """Macro AUROC of the averaged weights on the held-out patients, and how many findings it could be taken over."""
    rank, world = run.fabric.global_rank, run.fabric.world_size
    share = -(-len(run.held_rows) // world)  # every process scores as many; the few at the end are scored twice
    rows = np.resize(run.held_rows, share * world)
    with run.fabric.autocast():
        mine = predict(
            run.ema.module, run.store.pixels, rows[rank::world], recipe=run.recipe, device=run.fabric.device, batch=run.recipe.micro_batch
        )
    logits_NC = mine
    if world > 1:
        gathered_WSC = run.fabric.all_gather(torch.from_numpy(mine).to(run.fabric.device))
        logits_NC = gathered_WSC.transpose(0, 1).reshape(share * world, -1).cpu().numpy()[: len(run.held_rows)]
    return macro(auroc(logits_NC, run.labels_NC[run.held_rows]))


def end_epoch(run: Run, seconds: float) -> None:
    """Validates, keeps the weights if they are the best so far, and writes the epoch's line."""
    progress, main = run.progress, run.fabric.global_rank == 0
    score, defined = validate(run)
    progress.epoch += 1
    better = progress.best is None or score > progress.best
    if better:
        progress.best, progress.best_epoch = score, progress.epoch
        if main:
            write_tensors(run.folder / BEST, run.ema.module.state_dict(), {"epoch": progress.epoch, "val_macro_auroc": score})
    loss = progress.loss_sum / run.epoch_steps
    progress.loss_sum = 0.0
    if main:
        run.log.write(
            event="epoch", epoch=progress.epoch, step=progress.step, loss=loss, val_macro_auroc=score,
            val_findings=defined, best=better, seconds=round(seconds, 1),
        )  # fmt: skip
        tqdm.write(
            f"epoch {progress.epoch}/{run.recipe.epochs}  loss {loss:.4f}  validation macro AUROC {score:.4f} "
            f"over {defined} findings{'  best' if better else ''}  {seconds / 60:.1f} min",
            file=sys.stdout,
        )
        sys.stdout.flush()


def early(progress: Progress, recipe: Recipe) -> bool:
    """Whether `patience` epochs went by without a better validation."""
    return progress.epoch - progress.best_epoch >= recipe.patience and progress.best is not None


def show(bar: tqdm, progress: Progress, recipe: Recipe, epoch_steps: int, loss: float) -> None:
    """The loss, and the time left in this epoch; the bar itself shows the time left in all."""
    rate = bar.format_dict["rate"]
    left = (progress.epoch + 1) * epoch_steps - progress.step
    clock = tqdm.format_interval(left / rate) if rate else "?"
    bar.set_description(f"epoch {progress.epoch + 1}/{recipe.epochs} ({clock} left in it)", refresh=False)
    bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
