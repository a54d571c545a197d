"""Nothing that tells of a finding should be left outside its foreground.

Letters of shapes: G positive (image, finding) pairs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def background_suppression(background_logits_G: Tensor, full_logits_G: Tensor, *, count: float | None = None) -> Tensor:
    """BAS: what the background still says of a present finding, as a share of what the whole image says.

        loss = mean over present pairs of  softplus(l_b) / sg[softplus(l_tot)]     where l_b <= l_tot, else 0

    Three tricks make the ratio teach the mask and nothing else:

    * The background's layers are held constant (`SegmentCAM.background`): otherwise the layers could learn to say little of a
      blanked image, and the mask would stay as it is.
    * The denominator's gradient is stopped (sg): otherwise the ratio would fall by raising the whole image's logit without end.
    * A gate: where the background says more than the whole, the pair adds nothing. Early in training the logits are noise, and
      dividing by noise would move the mask by it. Equality passes (BAS's code stops it): a mask of zeros and ones can be empty,
      both logits are then the same, and this term is all that could open it again.

    Args:
        background_logits_G: l_b of each present pair, from a background pass.
        full_logits_G: l_tot of the same pairs: the logits without a mask.
        count: Pairs to divide by. None: those of this batch.

    Returns:
        A scalar, float32, from 0 to 1. It nears 0 as the background falls silent; 0 if no finding is present.

    Source: CLARiTy (arXiv 2512.16700), section 3.5, "softplus ratio"; BAS (arXiv 2112.00580), eq. 4 and its code, from which the
    gate and the stopped gradient are taken, but for equality. BAS has ReLU where this has softplus.
    """
    background_G, full_G = background_logits_G.float(), full_logits_G.float().detach()
    ratio_G = F.softplus(background_G) / (F.softplus(full_G) + 1e-8)
    # Two passes over the same numbers may round apart, hence the slack.
    ratio_G = torch.where(background_G <= full_G + 1e-3, ratio_G, 0.0)
    return ratio_G.sum() / (max(len(ratio_G), 1) if count is None else count)
