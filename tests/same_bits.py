"""Whether two runs hold the same tensors, to the last bit."""

from pathlib import Path

import torch

from cxrlib.training.checkpoint import read_tensors


def assert_same_tensors(a: Path, b: Path) -> None:
    """Weights, averaged weights, optimizer state and best weights of two run folders."""
    for name in ("last.safetensors", "best.safetensors"):
        left, right = read_tensors(a / name)[0], read_tensors(b / name)[0]
        assert set(left) == set(right) and len(left) > 10
        for key in left:
            assert torch.equal(left[key], right[key]), f"{name}: {key}"
