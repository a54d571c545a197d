"""One linear score per label token.

Letters of shapes: B batch, C findings, D width.
"""

import torch
from torch import Tensor, nn


class LabelHeads(nn.Module):
    """A linear map of its own for each finding: logit_c = w_c . t_c + b_c.

    The same as C separate `nn.Linear(D, 1)` (a linear layer per group), kept in one weight so that it is one product.

    Source: Liu et al. (2021, arXiv 2107.10834), "group-wise linear"; LT-ViT's per-label heads have the same count of
    parameters, C (D + 1).
    """

    def __init__(self, *, findings: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(findings, width))
        self.bias = nn.Parameter(torch.zeros(findings))

    def forward(self, tokens_BCD: Tensor) -> Tensor:
        return (tokens_BCD * self.weight).sum(dim=-1) + self.bias
