"""Training, read from top to bottom: train -> setup -> fit -> train_step, validate.

    python -m cxrlib train cpu --data STORE --out RUN

The same command again goes on with a run that was killed, and ends with the same bits on a CPU. Nothing random is carried
from step to step: the order of the images and their augmentation come from (seed, epoch), and what is random inside the
model from (seed, step).
"""

import dataclasses
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from tqdm import tqdm

from cxrlib.data.augment import augment, normalise, to_float
from cxrlib.data.feed import Batch, training_batches
from cxrlib.errors import CxrError
from cxrlib.io import read_json, write_json
from cxrlib.metrics import auroc, macro
from cxrlib.predict import predict
from cxrlib.recipes import Recipe
from cxrlib.training.checkpoint import BEST, save_checkpoint, write_tensors
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
    checkpoint_minutes: float = 2.0,
    checkpoint_steps: int = 0,
) -> dict:
    """Trains a recipe on a store, or goes on with the run in `out`, or says that it is finished.

    Args:
        recipe: What to do.
        data: A store made by `prepare`.
        out: The run folder.
        device: "cpu", "cuda", or "auto": CUDA where there is one.
        devices: Processes on this machine, one device each.
        checkpoint_minutes: The state is saved this often, and after every epoch.
        checkpoint_steps: Also save after every so many steps. 0: do not.

    Returns:
        The contents of result.json. A run that was stopped by a signal returns {"stopped": the signal's number}.

    Raises:
        CxrError: The data do not fit the recipe, the folder holds another run, or the loss is no longer a number.
    """
    result = Path(out) / "result.json"
    run = setup(recipe, data, out, device=device, devices=devices)
    if result.exists():
        done = read_json(result)
        if run.fabric.global_rank == 0:
            print(
                f"{out} is finished (validation macro AUROC {done['best_macro_auroc']:.3f} after epoch {done['best_epoch']}): "
                f"nothing to do; score it with: python -m cxrlib evaluate {out} --split test"
            )
        return done
    return fit(run, checkpoint_minutes=checkpoint_minutes, checkpoint_steps=checkpoint_steps)


def fit(run: Run, *, checkpoint_minutes: float, checkpoint_steps: int) -> dict:
    """Epochs of steps; after each, a validation; the best weights are kept; early stopping ends it."""
    recipe, fabric, progress, main = run.recipe, run.fabric, run.progress, run.fabric.global_rank == 0
    steps, warmup = recipe.epochs * run.epoch_steps, round(recipe.warmup_epochs * run.epoch_steps)
    signals = Signals()
    before, started = progress.seconds, time.monotonic()
    cpu_before, cpu_started = progress.cpu_seconds, time.process_time()

    def save() -> None:
        progress.seconds = round(before + time.monotonic() - started, 3)
        progress.cpu_seconds = round(cpu_before + time.process_time() - cpu_started, 3)
        if main:
            save_checkpoint(
                run.folder, model=run.model.module, ema=run.ema.module, optimizer=run.optimizer.optimizer,
                progress=dataclasses.asdict(progress),
            )  # fmt: skip

    if main and progress.step:
        print(f"going on with {run.folder} after step {progress.step} of {steps}", flush=True)
    bar = tqdm(total=steps, initial=progress.step, unit="step", disable=None if main else True, dynamic_ncols=True)
    saved_at = time.monotonic()
    with bar, signals:
        while progress.epoch < recipe.epochs and not early(progress, recipe):
            batches = training_batches(
                run.store.images_NYX, run.labels_NC, run.train_rows, batch=recipe.batch, seed=recipe.seed,
                epoch=progress.epoch, start=progress.step - progress.epoch * run.epoch_steps,
                rank=fabric.global_rank, world=fabric.world_size,
            )  # fmt: skip
            for batch in batches:
                lr = warmup_cosine(progress.step, steps=steps, warmup=warmup, peak=recipe.lr, floor=recipe.min_lr)
                set_lr(run.optimizer, lr)
                seed_step(recipe.seed, progress.step, fabric.global_rank)
                done = progress.step / run.epoch_steps
                loss, norm = train_step(fabric, run.model, run.optimizer, run.objective, batch, recipe, done=done)
                run.ema.update(run.model.module, step=progress.step + 1)
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    raise CxrError(
                        f"the loss is {loss:.3g} and the gradient's norm {norm:.3g} at step {progress.step + 1}, so training "
                        f"cannot go on: the last good state stays in {run.folder}; lower the learning rate, or look at the data"
                    )
                progress.step += 1
                progress.loss_sum += loss
                if main and progress.step % 50 == 0:
                    run.log.write(event="step", step=progress.step, loss=loss, lr=lr, grad_norm=norm)
                bar.update()
                show(bar, progress, recipe, run.epoch_steps, loss)
                if signals.caught(fabric):
                    save()
                    bar.close()
                    if main:
                        print(f"stopped after step {progress.step} of {steps}: the same command goes on from here", flush=True)
                    return {"stopped": signals.number}
                due = checkpoint_steps and progress.step % checkpoint_steps == 0
                if due or time.monotonic() - saved_at > 60 * checkpoint_minutes:
                    save()
                    saved_at = time.monotonic()
            end_epoch(run, before + time.monotonic() - started)
            save()
    result = {
        "best_macro_auroc": progress.best,
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "steps": progress.step,
        "stopped_early": progress.epoch < recipe.epochs,
        "seconds": progress.seconds,
        "cpu_seconds": progress.cpu_seconds,
        "device": torch.cuda.get_device_name() if fabric.device.type == "cuda" else "cpu",
        "processes": fabric.world_size,
        "threads": torch.get_num_threads(),
    }
    if main:
        write_json(run.folder / "result.json", result)
        print(
            f"finished in {progress.seconds / 60:.1f} min: validation macro AUROC {progress.best:.3f} after epoch "
            f"{progress.best_epoch}; score it with: python -m cxrlib evaluate {run.folder} --split test",
            flush=True,
        )
    return result


def train_step(
    fabric: Fabric,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    batch: Batch,
    recipe: Recipe,
    *,
    done: float = 0.0,
) -> tuple[float, float]:
    """One step down the gradient of the global batch's loss.

    The batch may be computed in parts and on several devices: each part's loss is divided by the counts of the whole
    global batch, so that all parts add up to the same gradient as one large batch.

    Args:
        objective: From `make_objective`.
        done: Epochs trained before this step, with their fraction.

    Returns:
        (loss of the global batch, norm of its gradient before clipping).
    """
    total = torch.zeros((), device=fabric.device)
    parts = range(0, len(batch.img_BYX), recipe.micro_batch)
    for start in parts:
        part = slice(start, start + recipe.micro_batch)
        img_BYX, labels_BC, draws_BK = (field[part].to(fabric.device) for field in batch[:3])
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
    return float(fabric.all_reduce(total, reduce_op="sum")), float(norm)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Makes what is random inside the model (drop path) a function of (seed, step, process)."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1))


def validate(run: Run) -> tuple[float, int]:
    """Macro AUROC of the averaged weights on the held-out patients, and how many findings it could be taken over."""
    rank, world = run.fabric.global_rank, run.fabric.world_size
    share = -(-len(run.held_rows) // world)  # every process scores as many; the few at the end are scored twice
    rows = np.resize(run.held_rows, share * world)
    with run.fabric.autocast():
        mine = predict(run.ema.module, run.store.images_NYX, rows[rank::world], recipe=run.recipe, device=run.fabric.device)
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
