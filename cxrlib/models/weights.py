"""Loading weights: strict, from safetensors or from timm, with positions resampled to another image size."""

from pathlib import Path

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from cxrlib.errors import CxrError
from cxrlib.models.stem import ConvStem


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


def fit_tokens(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fits a state dict's positions, and class tokens where a model has several (`adopt`), to the model's image size."""
    if "pos_embed" not in state:
        return state
    if hasattr(model, "adopt"):
        return model.adopt(state)
    return fit_positions(state, model.grid) if hasattr(model, "grid") else state


def load_safetensors(model: nn.Module, path: str | Path) -> None:
    """Loads a .safetensors file, strictly, resampling the positions if the image size differs.

    Raises:
        CxrError: The file is missing, damaged, not safetensors, or of another model.
    """
    load_strict(model, fit_tokens(model, read_safetensors(path)), source=str(path))


def load_timm(model: nn.Module, name: str) -> None:
    """Loads one of timm's pretrained ViTs, for example "vit_small_patch16_224.dino", into `model`.

    timm downloads the weights (or finds them in the hub's cache), resamples the positions and adapts the first
    convolution to the channels. The head starts anew unless timm's has as many classes.

    Raises:
        CxrError: timm does not know the name, the weights cannot be had, or they do not fit.
    """
    classes = model.head.out_features if isinstance(model.head, nn.Linear) else 0
    load_encoder(model, timm_state(model, name, classes), source=f"timm's {name}")


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file.

    Safetensors hold numbers only: unlike a pickle, such a file cannot run code when it is read.

    Raises:
        CxrError: The file is missing, damaged, or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise CxrError(f"{path} is no .safetensors file: pickled weights can run code, so convert them where you trust them")
    if not path.exists():
        raise CxrError(f"{path} does not exist: check the name, or train the model first")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CxrError(f"{path} is damaged ({error}): copy or download it again") from None


def timm_state(model: nn.Module, name: str, classes: int = 0) -> dict[str, Tensor]:
    """The state dict of one of timm's pretrained ViTs, at the image size and with the channels of `model`.

    Args:
        classes: Of the donor's head; 0 leaves it out.

    Raises:
        CxrError: timm does not know the name, the weights cannot be had, or the model's stem is not timm's.
    """
    import timm

    if isinstance(model.patch_embed, ConvStem):
        raise CxrError(f"timm's {name} has no convolutional stem, and this model has one: build it with the stem patch")
    options = {"img_size": model.image_size, "in_chans": model.patch_embed.proj.in_channels}
    try:
        donor = timm.create_model(name, pretrained=True, num_classes=classes, **options)
    except Exception as error:  # timm, the hub and the network each raise their own kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CxrError(
            f"timm could not load {name!r} ({reason}): check the name with timm.list_pretrained(), and the network; "
            "offline, put the file into the hub's cache and set HF_HUB_OFFLINE=1"
        ) from error
    return donor.state_dict()


HEAD = frozenset({"head.weight", "head.bias"})
DONOR_PARTS = ("head.", "head_dist.", "decoder.", "decoder_", "mask_token")
"""Beginnings of the names of a donor's own parts: its head, MAE's decoder, GMML's. They may stay unused; nothing else may."""


def load_encoder(model: nn.Module, state: dict[str, Tensor], *, source: str, tokens_from_cls: bool = False) -> set[str]:
    """Starts a model from the weights of a donor that may be of another kind: a bare encoder, or a ViT with another head.

    If the state has all the parts that are the model's own (`own_parts`; a plain ViT's are its head) in the same shapes, it
    is of the same kind, and everything is loaded. If it has none, the rest is loaded, every tensor of it, and the model's own
    parts stay as they are. What lies between is refused.

    Args:
        model: A plain ViT, or a model with `own_parts()`.
        state: The donor's tensors, with timm's names. Positions are resampled to the model's image size.
        source: What the messages call the donor.
        tokens_from_cls: Start the model's label tokens (own parts named "..._tokens") as copies of the donor's class token
            with its position, which is what the donor's first layer reads, plus normal noise of 0.02: equal tokens would
            have nothing to tell them apart but their heads (our decision, after MCTformer, arXiv 2203.02891).

    Returns:
        The names that the donor did not have and that keep their start. "head.weight" among them: start the head yourself.

    Raises:
        CxrError: Something does not fit, or `tokens_from_cls` was asked for and there are no label tokens to start.
    """
    start = model.state_dict()
    own = set(model.own_parts()) if hasattr(model, "own_parts") else HEAD & set(start)
    same_kind = bool(own) and all(name in state and state[name].shape == start[name].shape for name in own)
    fresh: set[str] = set()
    if not same_kind and (own - HEAD).isdisjoint(state):
        fresh = own
        state = {name: tensor for name, tensor in state.items() if not name.startswith(DONOR_PARTS)}
    state = fit_tokens(model, state)
    load_strict(model, state | {name: start[name] for name in fresh}, source=source)
    if tokens_from_cls:
        tokens = {name: value for name, value in model.named_parameters() if name in fresh and name.endswith("_tokens")}
        if not tokens:
            raise CxrError(f"no label tokens of this model were left for {source} to start: take the option away")
        cls_11D = state["cls_token"] + state["pos_embed"][:, :1]
        for value in tokens.values():
            value.data.copy_(cls_11D + 0.02 * torch.randn(value.shape))
    return fresh


def start_from(model: nn.Module, weights: str, *, tokens_from_cls: bool = False) -> set[str]:
    """Starts a model from a .safetensors file, or from the weights of a name that timm knows. See `load_encoder`.

    timm has ViTs of every training: "vit_small_patch16_224.dino", "vit_base_patch16_224.mae" (ImageNet, without labels),
    "vit_small_patch16_224.augreg_in21k_ft_in1k" (with). Of a file of another trainer, the names must be timm's.

    Returns:
        The names that keep their random start.

    Raises:
        CxrError: The file or the name is unusable, or does not fit.
    """
    if weights.endswith((".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pkl", ".tar")) or Path(weights).is_file():
        return load_encoder(model, read_safetensors(weights), source=weights, tokens_from_cls=tokens_from_cls)
    if hasattr(model, "load_pretrained"):  # one of timm's own models
        return model.load_pretrained(weights)
    return load_encoder(model, timm_state(model, weights), source=f"timm's {weights}", tokens_from_cls=tokens_from_cls)
