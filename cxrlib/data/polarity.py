"""Whether a radiograph is inverted (placeholder of the first draft: never says so; the detector follows)."""

import numpy as np


def looks_inverted(image_YX: np.ndarray) -> bool:
    """Not written yet."""
    raise NotImplementedError
