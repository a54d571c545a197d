"""Where an image's structures come from: PSPNet, a phantom's own anatomy, or the template.

A source is a function from row numbers of an image store to one {structure: bool [S, S]} for each.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cxrlib.data.store import ImageStore
from cxrlib.errors import CxrError
from cxrlib.io import sha256_of
from cxrlib.phantom import STRUCTURES, read_masks
from cxrlib.phantom.belongs import check_belongs
from cxrlib.priors.template import template

Structures = dict[str, np.ndarray]
Source = Callable[[Sequence[int]], list[Structures]]

PSPNET_FILE = "pspnet_chestxray_best_model_4.pth"
PSPNET_URL = f"https://github.com/mlmed/torchxrayvision/releases/download/v1/{PSPNET_FILE}"


def shrink(mask_YX: np.ndarray, size: int) -> np.ndarray:
    """A mask at another size: a pixel is in where at least half of it is."""
    if mask_YX.shape == (size, size):
        return mask_YX
    grey = Image.fromarray(mask_YX.astype(np.uint8) * 255).resize((size, size), Image.Resampling.BOX)
    return np.asarray(grey) >= 128


def template_source(store: ImageStore, size: int) -> Source:
    """The same structures for every image: see `cxrlib.priors.template`."""
    return lambda rows: [template(size)] * len(rows)


def phantom_source(store: ImageStore, size: int, folder: str | Path) -> Source:
    """A phantom's exact anatomy, from the masks beside its images.

    Args:
        store: Prepared from that cohort.
        size: Side of the masks that are wanted.
        folder: The cohort, as `python -m cxrlib phantom` wrote it.

    Raises:
        CxrError: The folder is no phantom cohort, or not this store's.
    """
    folder = Path(folder)
    check_belongs(folder, store)

    def structures(rows: Sequence[int]) -> list[Structures]:
        found = []
        for image in store.table["image"].iloc[list(rows)]:
            path = folder / "masks" / (Path(image).stem + ".npz")
            if not path.is_file():
                raise CxrError(f"{path} does not exist: name the cohort that the store was prepared from")
            _, anatomy = read_masks(path)
            found.append({name: shrink(mask_YX, size) for name, mask_YX in anatomy.items()})
        return found

    return structures


def find_pspnet(weights: str | Path | None = None) -> Path:
    """Where TorchXRayVision's PSPNet has its weights.

    Args:
        weights: The file. None: where TorchXRayVision looks for it.

    Raises:
        CxrError: It is not there. Nothing is downloaded: 273 MB are fetched by whoever decides to.
    """
    if weights is None:
        from torchxrayvision.utils import get_cache_dir

        weights = Path(get_cache_dir()) / PSPNET_FILE
    weights = Path(weights)
    if not weights.is_file():
        raise CxrError(
            f"PSPNet's weights are not at {weights}: download {PSPNET_URL} (273 MB) to that place, or use the source template"
        )
    if weights.name != PSPNET_FILE:
        raise CxrError(f"{weights} must be called {PSPNET_FILE}: TorchXRayVision finds it by that name alone")
    return weights


def load_pspnet(weights: Path) -> torch.nn.Module:
    """TorchXRayVision's PSPNet (Lian et al. 2021, arXiv 2104.10326), through its own loading code.

    Raises:
        CxrError: The file is damaged or holds another model.
    """
    from torchxrayvision.baseline_models.chestx_det import PSPNet

    try:
        model = PSPNet(cache_dir=str(weights.parent))
    except Exception as error:  # torch, zip and pickle each raise their own kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CxrError(f"{weights} (SHA-256 {sha256_of(weights)}) is not PSPNet's weights ({reason[:120]}): download it again") from None
    if tuple(model.targets) != STRUCTURES:
        raise CxrError("this TorchXRayVision's PSPNet names other structures: install torchxrayvision 1.3 or later")
    return model


def pspnet_source(store: ImageStore, size: int, weights: str | Path | None = None, device: str = "cpu") -> Source:
    """What PSPNet, trained on ChestX-Det, sees in each image.

    It reads 512 x 512 pixels in [-1024, 1024] and gives one logit a pixel and structure; above 0 it is in.

    Raises:
        CxrError: See `find_pspnet` and `load_pspnet`.
    """
    model = load_pspnet(find_pspnet(weights)).to(device)

    def structures(rows: Sequence[int]) -> list[Structures]:
        img_BYX = torch.from_numpy(store.pixels[np.asarray(rows)])
        # A few at a time: at 512 pixels the network holds hundreds of MB for each.
        return [found for part_BYX in img_BYX.split(4) for found in segment(model, part_BYX.to(device), size)]

    return structures


@torch.no_grad()
def segment(model: torch.nn.Module, img_BYX: torch.Tensor, size: int) -> list[Structures]:
    """PSPNet on grey bytes: structure -> bool [size, size], for each image."""
    img_BIYX = img_BYX[:, None].float() / 255
    if img_BIYX.shape[-1] != 512:
        img_BIYX = torch.nn.functional.interpolate(img_BIYX, (512, 512), mode="bilinear", antialias=True)
    logits_BKYX = model(img_BIYX * 2048 - 1024)
    masks_BKYX = (logits_BKYX > 0).cpu().numpy()
    return [dict(zip(STRUCTURES, (shrink(mask_YX, size) for mask_YX in masks_KYX), strict=True)) for masks_KYX in masks_BKYX]
