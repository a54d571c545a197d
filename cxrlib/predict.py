"""Logits for images of a store."""

import numpy as np
import torch
from torch import nn

from cxrlib.data.augment import normalise, to_float
from cxrlib.recipes import Recipe


@torch.inference_mode()
def predict(
    model: nn.Module,
    images_NYX: np.ndarray,
    rows: np.ndarray,
    *,
    recipe: Recipe,
    device: torch.device | str = "cpu",
    batch: int = 256,
) -> np.ndarray:
    """The model's logits for some images, without augmentation.

    Args:
        model: Its forward pass returns `logits_BC`. It is put into eval mode, and back.
        images_NYX: Grey bytes of the store.
        rows: Which images.
        recipe: How grey values become input.
        device: Where the model is.
        batch: Images at once.

    Returns:
        logits_NC, float32, one row per entry of `rows`.
    """
    was_training = model.training
    model.eval()
    parts = []
    for start in range(0, len(rows), batch):
        img_BYX = torch.from_numpy(np.ascontiguousarray(images_NYX[rows[start : start + batch]])).to(device)
        img_BIYX = normalise(to_float(img_BYX), mean=recipe.mean, std=recipe.std)
        parts.append(model(img_BIYX).logits_BC.float().cpu().numpy())
    model.train(was_training)
    return np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)
