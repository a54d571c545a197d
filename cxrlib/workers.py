"""Sharing tasks among processes, without hanging when one of them is killed.

`multiprocessing.Pool` waits for ever for the task of a worker that was killed, and a `ProcessPoolExecutor` that
loses a worker while tasks are being handed in can hang too (seen with Python 3.11). Here each worker has a pipe
of its own: when a process at one end dies, the other end is told.
"""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from cxrlib.errors import CxrError


def in_order(function: Callable, tasks: Sequence[Any], *, workers: int) -> Iterator[Any]:
    """`function` of each task, in the order of the tasks; with one worker, in this process.

    Args:
        function: It must be importable by name, and its tasks and results picklable.
        tasks: What to call it with, one by one.
        workers: Processes. They are spawned, not forked: this process may run threads (torch, a notebook),
            and a forked child can inherit a lock that nobody frees.

    Raises:
        CxrError: A worker was killed.
        Exception: What `function` raised.
    """
    if workers == 1:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")
    processes, pipes = [], []
    try:
        for _ in range(min(workers, len(tasks))):
            ours, theirs = context.Pipe()
            processes.append(context.Process(target=_serve, args=(function, theirs), daemon=True))
            processes[-1].start()
            theirs.close()  # the worker's copy is then the only one, and ends with it
            pipes.append(ours)
        yield from _share(tasks, pipes)
    except (EOFError, ConnectionError):
        raise CxrError(
            "a worker process was killed (out of memory?): run the same command again with fewer workers"
        ) from None
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
        for pipe in pipes:
            pipe.close()


def _share(tasks: Sequence[Any], pipes: list[Connection]) -> Iterator[Any]:
    """Hands a task to whoever is free, and yields the results in order."""
    results: dict[int, Any] = {}
    handed = 0
    for pipe in pipes:
        pipe.send((handed, tasks[handed]))
        handed += 1
    for index in range(len(tasks)):
        while index not in results:
            for pipe in wait(pipes):
                done, result, error = pipe.recv()
                if error is not None:
                    raise error
                results[done] = result
                if handed < len(tasks):
                    pipe.send((handed, tasks[handed]))
                    handed += 1
        yield results.pop(index)


def _serve(function: Callable, pipe: Connection) -> None:
    # Ctrl-C reaches every process of the terminal; the parent alone answers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone, so nobody wants the rest
        while True:
            index, task = pipe.recv()
            try:
                answer = (index, function(task), None)
            except Exception as error:
                answer = (index, None, error)
            pipe.send(answer)
