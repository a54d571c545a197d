"""What a training step reports of its speed: images per second, share of the time spent waiting for data, and MFU."""

import math
import time
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import torch

T = TypeVar("T")

PEAK_TFLOPS = {
    "H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "A100": 312, "A800": 312, "A30": 165, "A40": 150,
    "A10": 125, "L40S": 362, "L40": 181, "L4": 121, "RTX A6000": 155, "RTX 6000 Ada": 364, "RTX 4090": 165, "RTX 3090": 71,
}  # fmt: skip
"""Part of a GPU's name -> 10^12 dense bfloat16 operations per second, as its maker's data sheet says (without sparsity)."""


def peak_flops(device: torch.device | str) -> float:
    """The most operations per second that the device is sold for; NaN for a CPU and for a GPU that is not in the table.

    The first part of a name that fits counts, so longer names stand before shorter ones.
    """
    if torch.device(device).type != "cuda":
        return math.nan
    name = torch.cuda.get_device_name(device)
    if "A10G" in name or "MIG" in name:  # another chip than the A10; a slice of a GPU
        return math.nan
    return next((peak * 1e12 for part, peak in PEAK_TFLOPS.items() if part in name), math.nan)


class Speed(NamedTuple):
    """Readings since the last ones."""

    images_per_s: float
    """Images of the global batch, over all devices. Validation and saving are not counted."""
    data_wait: float
    """Share of the time, 0 to 1, in which the main process stood waiting for its next batch."""
    mfu: float
    """Model FLOP utilisation, 0 to 1: the multiplications that the model needs, over those that the devices are sold for."""


class Meter:
    """Counts images and seconds of training steps.

    Args:
        macs: Multiply-accumulates of the forward passes that a step makes for one image: in training one pass
            (`cxrlib.models.cost.macs`; CLARiTy's pass over the background is not counted), in pre-training one per view.
        peak: Operations per second of all devices together; NaN where it is not known, and then so is the MFU.

    Source: MFU as in PaLM (arXiv 2204.02311, appendix B): a training step counts as three forward passes, and what is computed
    twice to save memory counts once.
    """

    def __init__(self, *, macs: float, peak: float) -> None:
        self.flops_per_image = 6 * macs  # 2 operations each; forward once, backward twice
        self.peak = peak
        self._images = self._waited = self._seconds = 0.0
        self._all = (0.0, 0.0, 0.0)

    def watch(self, batches: Iterator[T], *, images: int) -> Iterator[T]:
        """The same batches; the time between two of them is a step of `images` images, and what `batches` takes is waiting."""
        last = time.monotonic()
        for batch in batches:
            ready = time.monotonic()
            yield batch
            now = time.monotonic()
            self._images, self._waited, self._seconds = self._images + images, self._waited + ready - last, self._seconds + now - last
            last = now

    def leave_out(self, seconds: float) -> None:
        """Takes time that was no training out of the step in which it fell: a checkpoint's, for example."""
        self._seconds -= seconds

    def read(self) -> Speed:
        """The readings since the last call."""
        images, waited, seconds = self._images, self._waited, self._seconds
        self._all = (self._all[0] + images, self._all[1] + waited, self._all[2] + seconds)
        self._images = self._waited = self._seconds = 0.0
        return self._speed(images, waited, seconds)

    def total(self) -> Speed:
        """The readings of all steps of this process."""
        self.read()
        return self._speed(*self._all)

    def _speed(self, images: float, waited: float, seconds: float) -> Speed:
        if seconds <= 0:
            return Speed(math.nan, math.nan, math.nan)
        rate = images / seconds
        return Speed(rate, waited / seconds, rate * self.flops_per_image / self.peak)
