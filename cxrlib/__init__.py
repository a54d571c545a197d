"""Vision transformers for chest X-rays: the library behind the course.

Import it before timm, torchvision or torchxrayvision: the first line below lets them load beside a CPU-only torch.
"""

from cxrlib._compat import declare_missing_torchvision_operators

declare_missing_torchvision_operators()

__version__ = "0.1.0"
