"""Sharing tasks among processes, without hanging when one of them is killed, and without filling the memory.

`multiprocessing.Pool` waits for ever for the task of a worker that was killed, and a `ProcessPoolExecutor` that
loses a worker while tasks are being handed in can hang too (seen with Python 3.11). Here each worker has a pipe
of its own: when a process at one end dies, the other end is told.
"""

import contextlib
import functools
import itertools
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from cxrlib.errors import CxrError

AHEAD = 2  # tasks a worker that are in flight or done and not yet taken: one slow task must not pile up the others' results


def in_order(function: Callable, tasks: Iterable[Any], *, workers: int) -> Iterator[Any]:
    """`function` of each task, in the order of the tasks; with one worker, in this process.

    Tasks are taken from `tasks` as they are needed. At most two a worker are on their way at a time, so memory stays
    flat however many there are, and however slowly the results are taken.

    Args:
        function: It must be importable by name (or a `functools.partial` of such a one), and its tasks and results
            picklable.
        tasks: What to call it with, one by one.
        workers: Processes. They are not forked from this one: it may run threads (torch, a notebook), and a forked
            child can inherit a lock that nobody frees. Where there is a fork server, it imports the function's module
            once for all of them; each for itself would take a few hundred megabytes and seconds.

    Raises:
        CxrError: A worker was killed.
        Exception: What `function` raised.
    """
    if workers == 1:
        yield from map(function, tasks)
        return
    todo = iter(tasks)
    first = list(itertools.islice(todo, workers))  # no more processes than tasks
    context = _context(function)
    processes, pipes = [], []
    try:
        for _ in first:
            ours, theirs = context.Pipe()
            processes.append(context.Process(target=_serve, args=(function, theirs), daemon=True))
            processes[-1].start()
            theirs.close()  # the worker's copy is then the only one, and ends with it
            pipes.append(ours)
        yield from _share(itertools.chain(first, todo), pipes)
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


def _context(function: Callable) -> multiprocessing.context.BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    inner = function.func if isinstance(function, functools.partial) else function
    context.set_forkserver_preload([__name__, inner.__module__])
    return context


def _share(tasks: Iterator[Any], pipes: list[Connection]) -> Iterator[Any]:
    """Hands a task to whoever is free, and yields the results in order."""
    results: dict[int, Any] = {}
    free, busy = list(pipes), []
    handed = given = 0
    more = True
    while True:
        while more and free and handed - given < AHEAD * len(pipes):
            try:
                task = next(tasks)
            except StopIteration:
                more = False
                break
            free[-1].send((handed, task))
            busy.append(free.pop())
            handed += 1
        if given in results:
            yield results.pop(given)
            given += 1
        elif busy:
            for pipe in wait(busy):
                index, result, error = pipe.recv()
                if error is not None:
                    raise error
                results[index] = result
                busy.remove(pipe)
                free.append(pipe)
        else:
            return


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
