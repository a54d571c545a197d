"""Loading weights: strict, from safetensors or from timm, with positions resampled to another image size."""

from pathlib import Path

from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from cxrlib.errors import CxrError


def fit_positions(state: dict[str, Tensor], grid: tuple[int, int]) -> dict[str, Tensor]:
    """Resamples `pos_embed` of a square grid to another grid, bicubically and antialiased, as timm does.

    Args:
        state: A ViT's state dict with one prefix token (the class token). It is not changed.
        grid: Rows and columns of patches of the model to be loaded.

    Returns:
        The state dict, with `pos_embed` [1, 1 + rows * columns, D].
    """
    positions = state["pos_embed"]
    if positions.shape[1] == 1 + grid[0] * grid[1]:
        return state
    return state | {"pos_embed": resample_abs_pos_embed(positions, new_size=list(grid), num_prefix_tokens=1)}


def load_strict(model: nn.Module, state: dict[str, Tensor], *, source: str) -> None:
    """Loads a state dict whose names and shapes must all match.

    Raises:
        CxrError: Names are missing or left over, or a shape differs. The message names the first few.
    """
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    other = {name: tuple(tensor.shape) for name, tensor in state.items()}
    faults = [f"{name} is missing" for name in own if name not in other]
    faults += [f"{name} is unknown to the model" for name in other if name not in own]
    faults += [f"{name} is {other[name]}, the model has {own[name]}" for name in own if other.get(name, own[name]) != own[name]]
    if faults:
        raise CxrError(
            f"{source} does not fit this model in {len(faults)} place(s): {'; '.join(faults[:3])}: "
            "build the model with the settings that the weights were trained with"
        )
    model.load_state_dict(state, strict=True)


def fit_to(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fits a state dict to the model's image size and tokens, and a plain ViT's to a model with parts of its own.

    A model whose tokens differ from a ViT's says how they begin (`adopt`), and which parts a ViT does not have (`own_parts`).
    If the state has none of those, it is a plain ViT's: its head is left out, and the model's own parts stay as they are.
    Whatever else is missing or left over is for `load_strict` to refuse.
    """
    if "pos_embed" in state:
        if hasattr(model, "adopt"):
            state = model.adopt(state)
        elif hasattr(model, "grid"):
            state = fit_positions(state, model.grid)
    own = model.own_parts() if hasattr(model, "own_parts") else set()
    new = own - {"head.weight", "head.bias"}  # a ViT has these two as well
    if new and new.isdisjoint(state):
        start = model.state_dict()
        state = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
        state |= {name: start[name] for name in own}
    return state


def load_safetensors(model: nn.Module, path: str | Path) -> None:
    """Loads a .safetensors file, strictly, resampling the positions if the image size differs.

    Safetensors hold numbers only: unlike a pickle, such a file cannot run code when it is read.

    Raises:
        CxrError: The file is missing, damaged, not safetensors, or of another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise CxrError(f"{path} is no .safetensors file: pickled weights can run code, so convert them where you trust them")
    if not path.exists():
        raise CxrError(f"{path} does not exist: check the name, or train the model first")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise CxrError(f"{path} is damaged ({error}): copy or download it again") from None
    load_strict(model, fit_to(model, state), source=str(path))


def load_timm(model: nn.Module, name: str) -> None:
    """Loads one of timm's pretrained ViTs, for example "vit_small_patch16_224.dino", into `model`.

    timm downloads the weights (or finds them in the hub's cache), resamples the positions and adapts the first
    convolution to the channels. The head starts anew unless timm's has as many classes.

    Raises:
        CxrError: timm does not know the name, the weights cannot be had, or they do not fit.
    """
    import timm

    options = {"img_size": model.image_size, "in_chans": model.patch_embed.proj.in_channels}
    classes = model.head.out_features if isinstance(model.head, nn.Linear) else 0
    try:
        donor = timm.create_model(name, pretrained=True, num_classes=classes, **options)
    except Exception as error:  # timm, the hub and the network each raise their own kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CxrError(
            f"timm could not load {name!r} ({reason}): check the name with timm.list_pretrained(), and the network; "
            "offline, put the file into the hub's cache and set HF_HUB_OFFLINE=1"
        ) from error
    load_strict(model, fit_to(model, donor.state_dict()), source=f"timm's {name}")
