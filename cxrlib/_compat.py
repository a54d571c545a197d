"""Lets a CUDA-linked torchvision be imported beside a CPU-only torch.

The registry's Linux wheel of torchvision is a CUDA build. Beside a CPU build of torch its `_C.so` cannot be loaded, the
operators it would register do not exist, and `import torchvision` fails with "operator torchvision::nms does not exist".
timm and torchxrayvision import torchvision, so they fail too. None of the three needs those operators here: declaring
their schemas is enough. On a sound install this module does nothing.
"""

import importlib.metadata

import torch

_library = None  # keeps the declarations alive as long as the process


def declare_missing_torchvision_operators() -> bool:
    """Declares torchvision's `nms` and `qnms` where torch is a CPU build and torchvision is not.

    Returns:
        True if the operators were declared, False if nothing had to be done.
    """
    global _library
    if _library is not None or torch.version.cuda is not None or getattr(torch.version, "hip", None):
        return False
    try:
        version = importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        return False
    if version.endswith("+cpu") or hasattr(torch.ops.torchvision, "nms"):
        return False
    if _extension_loads():
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library = library
    return True


def _extension_loads() -> bool:
    """Whether torchvision's compiled extension can be loaded beside this torch (macOS and sound Linux installs)."""
    import ctypes
    from importlib.util import find_spec
    from pathlib import Path

    spec = find_spec("torchvision")  # finds the package without importing it
    if spec is None or spec.origin is None:
        return True
    for extension in Path(spec.origin).parent.glob("_C*"):
        if extension.suffix not in {".so", ".pyd", ".dylib"}:
            continue
        try:
            ctypes.CDLL(str(extension))
        except OSError:
            return False
    return True
