"""torch.compile for our models."""

from torch import nn

from cxrlib.models.vit import Block


def compile_layers(model: nn.Module, **options) -> None:
    """Lets torch write the kernels of a model's layers, in place; names and weights stay.

    Our own models are compiled layer by layer: equal layers share one compilation, and what surrounds them (class tokens, label
    layers, SegmentCAM with as many background passes as there are findings in the batch) may change its shape from step to step.
    A model of timm's is compiled as a whole.

    Args:
        model: It computes the same as before, but for rounding.
        **options: Of torch.compile.
    """
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    for module in blocks or [model]:
        module.compile(**options)
