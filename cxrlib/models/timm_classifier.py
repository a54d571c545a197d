"""Any of timm's models as one of ours: to train a teacher with the same command, data and scores as everything else."""

from typing import NamedTuple

import timm
from timm.models import get_pretrained_cfg, is_model
from torch import Tensor, nn

from cxrlib.errors import CxrError
from cxrlib.models.weights import load_strict


class TimmOutput(NamedTuple):
    """What one forward pass returns."""

    logits_BC: Tensor
    tokens_BND: None = None
    """None: what a timm model has in its place differs from kind to kind."""


class TimmClassifier(nn.Module):
    """One of timm's models with a linear head, scoring findings.

        python -m cxrlib train vit_small_224 --model timm --option name=convnextv2_base \\
            --weights convnextv2_base.fcmae_ft_in22k_in1k --data STORE --out TEACHER

    Args:
        name: timm's name of the architecture, for example "convnextv2_base" or "resnet50".
        num_classes: C, the findings.
        in_channels: 3 for weights learnt on colour photographs, 1 for grey.
        image_size: What it will read. Convolutional networks take any size.
        drop_path: See `VisionTransformer`.
        **sizes: Patch size, width, depth, heads and stem of our own models: timm's name decides them here, so they are left aside.

    Raises:
        CxrError: timm has no such model, or its head is not linear.
    """

    def __init__(
        self, *, name: str = "convnextv2_base", num_classes: int = 14, in_channels: int = 3, image_size: int = 224,
        drop_path: float = 0.0, **sizes,
    ):  # fmt: skip
        super().__init__()
        if not is_model(name):
            raise CxrError(f"timm has no model {name!r}: look for it with timm.list_models()")
        self.name, self.image_size = name, (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        self.net = timm.create_model(name, num_classes=num_classes, in_chans=in_channels, drop_path_rate=drop_path)
        self.in_channels = in_channels
        if not isinstance(self.net.get_classifier(), nn.Linear):
            raise CxrError(f"the head of timm's {name} is not one linear layer: choose another model")

    @property
    def head(self) -> nn.Linear:
        """The last layer, so that it can start at the findings' prevalence."""
        return self.net.get_classifier()

    def forward(self, img_BIYX: Tensor) -> TimmOutput:
        return TimmOutput(self.net(img_BIYX))

    def load_pretrained(self, weights: str) -> set[str]:
        """Loads timm's pretrained weights of that name, all but the head, and says under which licence they are.

        Returns:
            {"head.weight"}: the head is new.

        Raises:
            CxrError: The weights are of another model, cannot be had, or do not fit.
        """
        if weights.split(".")[0] != self.name:
            raise CxrError(f"{weights} are weights of another model than {self.name}: choose weights that begin with {self.name}.")
        try:
            donor = timm.create_model(weights, pretrained=True, num_classes=0, in_chans=self.in_channels)
        except Exception as error:  # timm, the hub and the network each raise their own kinds
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CxrError(
                f"timm could not load {weights!r} ({reason}): check the name with timm.list_pretrained(), and the network; "
                "offline, put the file into the hub's cache and set HF_HUB_OFFLINE=1"
            ) from error
        print(licence_of(weights), flush=True)
        start = self.state_dict()
        state = {f"net.{name}": tensor for name, tensor in donor.state_dict().items()}
        load_strict(self, state | {name: start[name] for name in self.own_parts()}, source=f"timm's {weights}")
        return {"head.weight"}

    def own_parts(self) -> set[str]:
        """Names of the head's parameters: what pretrained weights do not have."""
        head = next(name for name, module in self.named_modules() if module is self.head)
        return {f"{head}.{name}" for name, _ in self.head.named_parameters()}

    def no_weight_decay(self) -> set[str]:
        """As timm's model says."""
        inner = self.net.no_weight_decay() if hasattr(self.net, "no_weight_decay") else ()
        return {f"net.{name}" for name in inner}

    def group_matcher(self, coarse: bool = False) -> dict:
        """As timm's model says, with our prefix."""
        return _prefixed(self.net.group_matcher(coarse=coarse))


def licence_of(weights: str) -> str:
    """One line: the licence of timm's weights of that name, and what it forbids."""
    cfg = get_pretrained_cfg(weights)
    licence = (cfg.license if cfg else None) or "unknown to timm"
    forbids = ": not for commercial use, and neither are models distilled from them, to be safe" if "-nc" in licence else ""
    return f"note: the weights {weights} have the licence {licence}{forbids}"


def _prefixed(matcher):
    """timm's patterns for a model that is called `net`."""
    if isinstance(matcher, str):
        return "|".join(part.replace("^", r"^net\.", 1) for part in matcher.split("|"))
    if isinstance(matcher, dict):
        return {key: _prefixed(value) for key, value in matcher.items()}
    if isinstance(matcher, list):
        return [(_prefixed(pattern), layer) for pattern, layer in matcher]
    return matcher
