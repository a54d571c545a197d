"""Training on several processes, when one of them is gone."""

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from lightning_fabric import Fabric

from cxrlib.errors import CxrError

PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others before it gives them up (our decision). The slowest thing that one of them does alone
must fit in: saving, or reading from a busy disk. torch's own default is half an hour of an idle machine."""

SIGNS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting", "timed out", "Connection refused")
"""What gloo's errors say when a process has died (its connections close at once) or hangs. They have no class of their own."""


T = TypeVar("T")


def main_first(fabric: Fabric, work: Callable[[], T]) -> T | None:
    """Lets the main process do what only one may do, while the others wait; if it fails, all end with the same line.

    Returns:
        What `work` returned, for the main process; None for the others.

    Raises:
        CxrError: The main process could not do it. (That process raises what it met.)
    """
    done, fault = None, None
    if fabric.global_rank == 0:
        try:
            done = work()
        except (CxrError, OSError) as error:
            fault = error
    said = fabric.broadcast(str(fault) if fault else "") if fabric.world_size > 1 else ""
    if fault:
        raise fault
    if said:
        raise CxrError(said)
    return done


@contextlib.contextmanager
def company(folder: Path) -> Iterator[None]:
    """One line in place of a traceback where another process of a training is gone.

    That is tested with gloo, on CPUs. With NCCL, on GPUs, torch's own watchdog may end the process after `PATIENCE` before an error
    reaches us, and then in its own words (not measured).

    Raises:
        CxrError: Another process died, or did not answer for `PATIENCE`. Without it no step can be computed.
    """
    try:
        yield
    except RuntimeError as error:
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not together or not (isinstance(error, torch.distributed.DistError) or any(sign in str(error) for sign in SIGNS)):
            raise
        raise CxrError(
            f"another process of this training died or does not answer (process {torch.distributed.get_rank()} of "
            f"{torch.distributed.get_world_size()} noticed): the last saved state stays in {folder}; the same command goes on "
            "from there, with as many processes or with another number"
        ) from error
