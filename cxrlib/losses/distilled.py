"""Learning from labels and from a teacher at once.

Letters of shapes: B batch, C findings.
"""

from torch import Tensor

from cxrlib.losses import masked_bce


def distilled_bce(
    logits_BC: Tensor, labels_BC: Tensor, teacher_BC: Tensor, *, share: float = 0.5, count: float | None = None
) -> Tensor:
    """Cross-entropy with the labels, and with what a teacher thinks, in a fixed proportion.

        loss = (1 - kappa) BCE(logit, y) + kappa BCE(logit, sigmoid(z_teacher)), over the known labels

    Args:
        logits_BC: The student's logits.
        labels_BC: 0, 1 or NaN (unknown: left out, of the teacher's part as well, so that both parts count the same pairs).
        teacher_BC: The teacher's logits for the very same view.
        share: kappa, the teacher's part, from 0 to 1.
        count: Known labels to divide by; see `masked_bce`.

    Returns:
        A scalar, float32.

    Source: CLARiTy (arXiv 2512.16700), section 4; TinyViT (arXiv 2207.10666), eq. 2, which uses the teacher alone. The
    proportion is our decision.
    """
    # One cross-entropy with the mixed target is the same as the mix of two: it is linear in the target.
    target_BC = (1 - share) * labels_BC + share * teacher_BC.float().sigmoid()
    return masked_bce(logits_BC, target_BC, count=count)
