"""Destroying what a model has learnt, step by step from the head down: does its map notice?

A map that stays as it was cannot have shown what the model learnt. It shows the image, as an edge detector does.

Source: Adebayo et al. 2018, arXiv 1810.03292, section 3. They draw new initial weights. Here each tensor's own numbers are
shuffled (our decision): our heads begin at zero, and a head of zeros has no gradient to make a map of.
"""

import copy
from collections.abc import Iterator

import torch
from torch import nn

from cxrlib.errors import CxrError

ORDERS = ("cascade", "alone")


def stages(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """A model's parameters by part, the head first and the image's entrance last.

    A part is a child of the model; a list of layers counts layer by layer. Parameters that belong to no part (positions,
    class and label tokens) are put together as "tokens" and come last.

    Returns:
        Name of the part -> full names of its parameters.
    """
    parts: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        first, *rest = name.split(".")
        part = "tokens" if not rest else f"{first}.{rest[0]}" if rest[0].isdigit() else first
        parts.setdefault(part, []).append(name)
    names = [name for name in parts if name != "tokens"][::-1]
    return {name: tuple(parts[name]) for name in [*names, *(["tokens"] if "tokens" in parts else [])]}


@torch.no_grad()
def shuffled(model: nn.Module, names: tuple[str, ...], *, seed: int) -> nn.Module:
    """A copy of a model in which the numbers of some parameters have changed places, each tensor within itself.

    Mean, spread and largest value of each tensor stay; only what was learnt about *where* they belong is gone.

    Raises:
        CxrError: The model has no such parameter.
    """
    out = copy.deepcopy(model)
    parameters = dict(out.named_parameters())
    missing = [name for name in names if name not in parameters]
    if missing:
        raise CxrError(f"the model has no parameter {missing[0]!r}")
    generator = torch.Generator().manual_seed(seed)
    for name in sorted(names):
        flat = parameters[name].view(-1)
        flat.copy_(flat[torch.randperm(flat.numel(), generator=generator).to(flat.device)])
    return out


def randomized(model: nn.Module, *, order: str = "cascade", seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """The model with more and more of it destroyed, or with one part at a time.

    Args:
        model: Trained. It is left as it is.
        order: "cascade": the head; the head and the last layer; ... down to everything. "alone": each part by itself.
        seed: Of the shuffling.

    Yields:
        (the part that was destroyed last, a copy of the model).

    Raises:
        CxrError: There is no such order.
    """
    if order not in ORDERS:
        raise CxrError(f"there is no order {order!r}: choose one of {', '.join(ORDERS)}")
    gone: tuple[str, ...] = ()
    for part, names in stages(model).items():
        gone = (*gone, *names) if order == "cascade" else names
        yield part, shuffled(model, gone, seed=seed)
