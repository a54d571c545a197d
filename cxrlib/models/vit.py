"""The Vision Transformer (Dosovitskiy et al. 2020, arXiv 2010.11929), with timm's parameter names.

Built line by line in chapters 3 to 5. `state_dict` keys equal those of timm's `VisionTransformer`, so any timm weight
loads with no key map. LT-ViT and CLARiTy extend the same pieces.

Letters of shapes: B batch, I input channels, Y X pixels, P patches, N tokens (P + 1), D width, H heads, d head width,
R kept rows of attention, L layers, C findings.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from cxrlib.errors import CxrError
from cxrlib.models.stem import ConvStem


class ViTOutput(NamedTuple):
    """What one forward pass returns. Its arity never changes; what was not asked for is None."""

    logits_BC: Tensor
    """One logit per finding, before the sigmoid."""
    tokens_BND: Tensor
    """All tokens after the last LayerNorm: the class token first, then the patches in row order."""
    attention_LBHRN: Tensor | None = None
    """The first R rows of each layer's attention, if rows were asked for. Row 0 is the class token's."""


class PatchEmbed(nn.Module):
    """Cuts an image into squares and maps each to a vector (Dosovitskiy et al. 2020, eq. 1, the part x_p E).

    A convolution whose stride is its kernel size is the same as cutting, flattening and one linear map.
    """

    def __init__(self, *, patch_size: int = 16, in_channels: int = 3, width: int = 384):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, img_BIYX: Tensor) -> Tensor:
        map_BDyx = self.proj(img_BIYX)
        return map_BDyx.flatten(2).transpose(1, 2)  # [B, P, D], patches in row order


def attention_rows(q_BHNd: Tensor, k_BHNd: Tensor, rows: int) -> Tensor:
    """The first `rows` rows of softmax(q k^T / sqrt(d)) (Vaswani et al. 2017, eq. 1): [B, H, R, N].

    A row says where one token looks. Reading R rows costs R/N of the whole map.
    """
    logits_BHRN = q_BHNd[:, :, :rows] @ k_BHNd.transpose(-2, -1) * q_BHNd.shape[-1] ** -0.5
    return logits_BHRN.softmax(dim=-1)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, eq. 1 and section 3.2.2).

    The output comes from torch's fused kernel, which never stores the N x N map. Rows that somebody wants to look at are
    computed beside it.
    """

    def __init__(self, *, width: int = 384, heads: int = 6):
        super().__init__()
        if width % heads:
            raise CxrError(f"width {width} cannot be split into {heads} heads: choose a multiple of the heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BND: Tensor, rows: int = 0) -> tuple[Tensor, Tensor | None]:
        B, N, D = x_BND.shape
        qkv_3BHNd = self.qkv(x_BND).reshape(B, N, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        q_BHNd, k_BHNd, v_BHNd = qkv_3BHNd.unbind(0)
        mixed_BHNd = F.scaled_dot_product_attention(q_BHNd, k_BHNd, v_BHNd)
        out_BND = self.proj(mixed_BHNd.transpose(1, 2).reshape(B, N, D))
        return out_BND, attention_rows(q_BHNd, k_BHNd, rows) if rows else None


class Mlp(nn.Module):
    """Two linear maps with a GELU between: each token thinks alone (Dosovitskiy et al. 2020, eq. 3)."""

    def __init__(self, *, width: int = 384, hidden: int = 1536):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x_BND)))


class Block(nn.Module):
    """One encoder layer: normalise, attend, add; normalise, think, add (Dosovitskiy et al. 2020, eq. 2 and 3)."""

    def __init__(self, *, width: int = 384, heads: int = 6, mlp_ratio: float = 4.0, drop_path: float = 0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width=width, heads=heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width=width, hidden=int(width * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BND: Tensor, rows: int = 0) -> tuple[Tensor, Tensor | None]:
        mixed_BND, map_BHRN = self.attn(self.norm1(x_BND), rows)
        x_BND = x_BND + self.drop_path(mixed_BND)
        x_BND = x_BND + self.drop_path(self.mlp(self.norm2(x_BND)))
        return x_BND, map_BHRN


class VisionTransformer(nn.Module):
    """Patches, a class token, positions, L encoder layers and a linear head (Dosovitskiy et al. 2020, eq. 1 to 4).

    Args:
        image_size: Side of the square input, in pixels; or (height, width).
        patch_size: Side of a patch, in pixels. It must divide the image size.
        in_channels: 3 for weights learnt on colour photographs (repeat the grey image), 1 for grey.
        num_classes: Findings to score. 0 leaves the head out: the logits are then the class token itself.
        width: D, the length of a token.
        depth: L, the number of encoder layers.
        heads: Attention heads per layer.
        mlp_ratio: Hidden width of the MLP over D.
        drop_path: Chance that the last layer is skipped for an image while training; grows linearly with depth.
        stem: "patch" for one convolution, or "conv" for a stack of small ones (Xiao et al. 2021, arXiv 2106.14881),
            which learns faster from few images. Only "patch" has timm's keys.

    Raises:
        CxrError: The sizes do not fit together.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        num_classes: int = 14,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        stem: str = "patch",
    ):
        super().__init__()
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if any(side % patch_size for side in self.image_size):
            raise CxrError(f"patches of {patch_size} px do not tile an image of {self.image_size}: choose a divisor")
        self.patch_size = patch_size
        self.grid = (self.image_size[0] // patch_size, self.image_size[1] // patch_size)  # (rows, columns) of patches
        stems = {"patch": PatchEmbed, "conv": ConvStem}
        if stem not in stems:
            raise CxrError(f"there is no stem {stem!r}: choose one of {', '.join(stems)}")
        self.patch_embed = stems[stem](patch_size=patch_size, in_channels=in_channels, width=width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], width))
        self.blocks = nn.ModuleList(
            Block(width=width, heads=heads, mlp_ratio=mlp_ratio, drop_path=drop_path * layer / max(depth - 1, 1))
            for layer in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes) if num_classes else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """timm's start: truncated normals of 0.02 for linear maps and positions, zeros for biases and for the head."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        if isinstance(self.head, nn.Linear):
            nn.init.zeros_(self.head.weight)

    def embed(self, img_BIYX: Tensor) -> Tensor:
        """Image to tokens: patches, the class token in front, positions added (eq. 1)."""
        if img_BIYX.ndim != 4 or tuple(img_BIYX.shape[-2:]) != self.image_size:
            raise CxrError(
                f"this model reads images [B, I, {self.image_size[0]}, {self.image_size[1]}], not {list(img_BIYX.shape)}: "
                "resize the images, or build the model with their image_size"
            )
        x_BPD = self.patch_embed(img_BIYX)
        cls_B1D = self.cls_token.expand(len(x_BPD), -1, -1)
        return torch.cat([cls_B1D, x_BPD], dim=1) + self.pos_embed

    def forward(self, img_BIYX: Tensor, rows: int = 0) -> ViTOutput:
        x_BND = self.embed(img_BIYX)
        maps = []
        for block in self.blocks:
            x_BND, map_BHRN = block(x_BND, rows)
            maps.append(map_BHRN)
        x_BND = self.norm(x_BND)
        return ViTOutput(self.head(x_BND[:, 0]), x_BND, torch.stack(maps) if rows else None)

    # The two methods by which timm's layer decay and weight decay ask a model about its parameters.

    def no_weight_decay(self) -> set[str]:
        """Names that weight decay must leave alone: the positions and the class token."""
        return {"pos_embed", "cls_token"}

    def group_matcher(self, coarse: bool = False) -> dict:
        """Which parameters belong to the stem and which to which layer, as timm's layer decay reads it."""
        return {
            "stem": r"^cls_token|^pos_embed|^patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }
