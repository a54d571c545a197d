"""Which images come when: a batch is a function of (seed, epoch, position), never of what was drawn before.

That is what lets a killed run go on exactly where it was, on any number of devices.

Letters of shapes: N images of the store, B batch, G whole global batch, K draws per image, C findings, Y X pixels.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cxrlib.data.augment import DRAWS


class Batch(NamedTuple):
    """This process's share of one global batch."""

    img_BYX: Tensor
    """Grey bytes, uint8."""
    labels_BC: Tensor
    """0, 1 or NaN (unknown), float32."""
    draws_BK: Tensor
    """The uniform numbers that fix each image's augmentation."""
    rows_B: Tensor
    """Which rows of the store these are, int64."""
    known: float
    """Known labels in the whole global batch: what the loss divides by, the same on every device."""
    present: float
    """Of these, the labels that are 1."""
    images: float
    """Images in the whole global batch."""


def epoch_order(n: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch shows n images: a fresh shuffle for each (seed, epoch)."""
    return np.random.default_rng([seed, epoch, 0]).permutation(n)


def epoch_draws(n: int, *, seed: int, epoch: int) -> np.ndarray:
    """draws_NK, uniform in [0, 1): row i belongs to image i, wherever in the epoch it comes."""
    return np.random.default_rng([seed, epoch, 1]).random((n, DRAWS), dtype=np.float32)


def steps_per_epoch(n: int, batch: int) -> int:
    """Whole batches in an epoch. The images left over sit out; the next epoch's shuffle leaves out others."""
    return max(n // batch, 1)


def training_batches(
    images_NYX: np.ndarray,
    labels_NC: np.ndarray,
    rows: np.ndarray,
    *,
    batch: int,
    seed: int,
    epoch: int,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """The batches of one epoch from number `start` on, as one of `world` processes sees them.

    Args:
        images_NYX: The store's bytes.
        labels_NC: The store's labels.
        rows: The images to train on, as row numbers of the store.
        batch: Size of the global batch. Fewer images than that make one batch of them all.
        seed: Of the run.
        epoch: From 0.
        start: First batch to give out: where a resumed run goes on.
        rank: This process, from 0.
        world: Number of processes. Process r takes images r, r + world, ... of each global batch.
    """
    order = epoch_order(len(rows), seed=seed, epoch=epoch)
    draws_NK = epoch_draws(len(rows), seed=seed, epoch=epoch)
    for number in range(start, steps_per_epoch(len(rows), batch)):
        whole = order[number * batch : (number + 1) * batch]
        labels_GC = labels_NC[rows[whole]]
        mine = whole[rank::world]
        yield Batch(
            torch.from_numpy(np.ascontiguousarray(images_NYX[rows[mine]])),
            torch.from_numpy(np.ascontiguousarray(labels_NC[rows[mine]])),
            torch.from_numpy(draws_NK[mine]),
            torch.from_numpy(rows[mine].astype(np.int64)),
            known=max(float((~np.isnan(labels_GC)).sum()), 1.0),
            present=max(float((labels_GC == 1).sum()), 1.0),
            images=float(len(whole)),
        )
