"""Being told to stop: finish the step, save, say how to go on.

SIGTERM is what schedulers send, SIGINT is Ctrl-C, and SIGUSR1 is what Slurm sends when asked for a warning before the time is
up (`sbatch --signal=USR1@60`). One process that hears it is enough.
"""

import signal

import torch
from lightning_fabric import Fabric


NUMBERS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]


class Signals:
    """Notes `NUMBERS` instead of dying of them, so that the step in hand is finished and saved."""

    def __init__(self) -> None:
        self.number = 0

    def __enter__(self) -> "Signals":
        self.old = {}
        for number in NUMBERS:
            try:
                self.old[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: whoever runs us handles signals
                pass
        return self

    def _note(self, number: int, frame: object) -> None:
        self.number = number
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C stops at once

    def __exit__(self, *error: object) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)

    def caught(self, fabric: Fabric) -> bool:
        """Whether any process was told to stop, read at once. All must agree, or the others would wait for ever for one that stops."""
        if fabric.world_size > 1:
            noted = torch.tensor(float(self.number), device=fabric.device)
            self.number = int(fabric.all_reduce(noted, reduce_op="max"))
        return self.number != 0
