"""Real training processes for tests that kill them.

Each is forked from a server that has imported the library once and never computed anything, so that starting one takes a
fraction of a second, and several can take the roles of torchrun's workers.
"""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["cxrlib.cli", "cxrlib.training.cli", "cxrlib.training", "cxrlib.training.clarity"])


def start(function: Callable[..., int], *args, said: Path, env: dict[str, str] | None = None):
    """Runs `function(*args)` in a process of its own; what it returns is the exit status.

    Args:
        function: Of a module's top level.
        *args: Anything that can be pickled.
        said: Where standard output and error go.
        env: Environment variables to set.
    """
    process = CONTEXT.Process(target=_main, args=(function, args, str(said), env or {}))
    process.start()
    return process


def _main(function: Callable[..., int], args: tuple, said: str, env: dict[str, str]) -> None:
    os.environ.update(env)
    handle = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    import torch

    torch.set_num_threads(1)
    sys.exit(function(*args))


def workers(number: int) -> list[dict[str, str]]:
    """The environment that torchrun gives to each of its workers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number),
        "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number)]
