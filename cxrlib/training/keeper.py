"""What training and pre-training do around their steps: keep the time, save, stop when they are told to, sum up."""

import dataclasses
import math
import time

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from cxrlib.errors import CxrError
from cxrlib.io import write_json
from cxrlib.training.checkpoint import save_checkpoint
from cxrlib.training.meter import Speed


class Keeper:
    """Keeps a run's state on disk: after every epoch, from time to time between, and when the run is told to stop.

    Args:
        run: What `setup` made, of training or of pre-training: both have folder, store, fabric, model, optimizer, progress, log, meter.
        follower: What follows the model and is saved beside it: the averaged weights, or a teacher.
        steps: Optimizer steps of the whole run.
        minutes: The state is saved this often.
        every: It is also saved after every so many steps. 0: it is not.
    """

    def __init__(self, run, follower: nn.Module, *, steps: int, minutes: float, every: int) -> None:
        self.run, self.follower, self.steps, self.minutes, self.every = run, follower, steps, minutes, every
        self.main = run.fabric.global_rank == 0
        self._began = time.monotonic() - run.progress.seconds  # as if it had never been interrupted
        self._cpu_began = time.process_time() - run.progress.cpu_seconds
        self._saved_at = time.monotonic()

    def begin(self) -> tqdm:
        """Says where the run goes on, if it was interrupted; gives its progress bar."""
        step = self.run.progress.step
        if self.main:
            self.run.log.start(step)
        if self.main and step:
            print(f"going on with {self.run.folder} after step {step} of {self.steps}", flush=True)
        return tqdm(total=self.steps, initial=step, unit="step", disable=None if self.main else True, dynamic_ncols=True)

    def seconds(self) -> float:
        """Time spent on the run so far, over all resumptions."""
        return time.monotonic() - self._began

    def save(self) -> None:
        """Writes the state, atomically."""
        run, progress = self.run, self.run.progress
        progress.seconds = round(self.seconds(), 3)
        progress.cpu_seconds = round(time.process_time() - self._cpu_began, 3)
        if self.main:
            save_checkpoint(
                run.folder, model=run.model.module, ema=self.follower, optimizer=run.optimizer.optimizer,
                progress=dataclasses.asdict(progress),
            )  # fmt: skip
        self._saved_at = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to save."""
        after_steps = self.every and self.run.progress.step % self.every == 0
        return bool(after_steps) or time.monotonic() - self._saved_at > 60 * self.minutes

    def save_between(self) -> None:
        """Saves between two steps; the meter does not count it as training."""
        begun = time.monotonic()
        self.save()
        self.run.meter.leave_out(time.monotonic() - begun)

    def stop(self, number: int, bar: tqdm) -> dict:
        """Saves and says how to go on; `number` is that of the signal. This is then the run's result."""
        self.save()
        self.run.fabric.barrier()  # nobody leaves before the state is on disk: launchers kill the rest once one process has ended
        bar.close()
        step = self.run.progress.step
        if self.main:
            self.run.log.write(event="stop", step=step, signal=number)
            print(f"stopped after step {step} of {self.steps}: the same command goes on from here", flush=True)
        return {"stopped": number}

    def failure(self, loss: float, norm: float, *, step: int, rows: np.ndarray, what: str) -> CxrError:
        """Logs that the loss or the gradient's norm of a step is no number; `rows` are its images, of the store. For `raise`."""
        names = list(self.run.store.table["image"].iloc[rows])
        if self.main:
            self.run.log.write(event="failed", step=step, loss=str(loss), grad_norm=str(norm), images=names)
        return CxrError(
            f"the loss is {loss:.3g} and the gradient's norm {norm:.3g} at step {step}, so {what} cannot go on: the last good state "
            f"stays in {self.run.folder}; lower the learning rate, or look at the data (that step's images begin with "
            f"{', '.join(names[:3])}; log.jsonl names them all)"
        )

    def finish(self, result: dict, *, then: str) -> dict:
        """Writes result.json: `result`, and what the run took, and on what. Says what comes `then`."""
        run, progress, speed = self.run, self.run.progress, self.run.meter.total()
        result = result | {
            "seconds": progress.seconds,
            "cpu_seconds": progress.cpu_seconds,
            "device": torch.cuda.get_device_name() if run.fabric.device.type == "cuda" else "cpu",
            "processes": run.fabric.world_size,
            "threads": torch.get_num_threads(),
        } | {name: value if math.isfinite(value) else None for name, value in speed._asdict().items()}
        if self.main:
            write_json(run.folder / "result.json", result)
        run.fabric.barrier()
        if self.main:
            print(f"finished in {progress.seconds / 60:.1f} min{speed_words(speed)}{then}", flush=True)
        return result


def speed_words(speed: Speed) -> str:
    """A speed for people, with a comma before it; nothing where no step was timed."""
    if not math.isfinite(speed.images_per_s):
        return ""
    mfu = "" if math.isnan(speed.mfu) else f", MFU {speed.mfu:.0%}"
    return f", {speed.images_per_s:.0f} images/s, {speed.data_wait:.1%} of the time waiting for data{mfu}"
