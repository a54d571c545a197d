"""Reading ahead: the next batches are read while the device computes this one."""

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

import torch

T = TypeVar("T", bound=tuple)

DEPTH = 3
"""Batches that wait, ready. More would only fill memory: a reader that is slower on average is slower with any queue."""


def read_ahead(batches: Iterator[T], *, pin: bool = False) -> Iterator[T]:
    """The same batches in the same order, read by a thread of their own.

    One thread is enough: reading is copying bytes out of the store's file, and numpy lets other threads run meanwhile.

    Args:
        batches: Named tuples, some of whose fields are tensors.
        pin: Copy tensors to page-locked memory, from which a GPU fetches them while it computes.

    Raises:
        Exception: Whatever the reading raised, at the batch where it did.
    """
    ready: queue.Queue = queue.Queue(DEPTH)
    closed = threading.Event()

    def put(item: object) -> bool:
        while not closed.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for batch in batches:
                if pin:
                    batch = type(batch)(*(part.pin_memory() if isinstance(part, torch.Tensor) else part for part in batch))
                if not put(batch):
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001  (raised again below, in the thread that wants the batch)
            put(error)

    reader = threading.Thread(target=read, name="read-ahead", daemon=True)
    reader.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:  # also when the training stops in the middle of an epoch
        closed.set()
        reader.join()
