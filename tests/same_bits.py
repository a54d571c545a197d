"""Whether two runs hold the same tensors, to the last bit."""

from pathlib import Path

import torch

from cxrlib.training.checkpoint import read_tensors


def assert_same_tensors(a: Path, b: Path, *, kept: str = "best.safetensors") -> None:
    """Weights, averaged weights and optimizer state of two run folders, and the weights that are kept of them."""
    for name in ("last.safetensors", kept):
        left, right = read_tensors(a / name)[0], read_tensors(b / name)[0]
        assert set(left) == set(right) and len(left) > 10
        for key in left:
            assert torch.equal(left[key], right[key]), f"{name}: {key}"
