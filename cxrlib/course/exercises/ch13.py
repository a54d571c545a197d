"""Chapter 13's exercises and questions."""

import numpy as np

from cxrlib.course.compare import as_array, compare
from cxrlib.course.exercise import Exercise, Question, Verdict, wrong


def _check_foreground(foreground_logit) -> Verdict:
    import torch

    K_yx = np.array([[1.0, -2.0, 4.0], [0.5, 3.0, -1.0]])
    H_yx = np.array([[0.7, 0.2, 0.6], [0.1, 0.9, 0.4]])
    t, b = 0.6, -1.5
    S_yx = (H_yx >= t).astype(float)
    return compare(
        foreground_logit(torch.tensor(K_yx), torch.tensor(H_yx), t, b),
        (K_yx * S_yx).mean() + b,
        what="the foreground logit of 2 by 3 patches, one of which lies exactly on the threshold",
        causes={
            "a patch that reaches the threshold belongs to the foreground: >=, not >": (K_yx * (H_yx > t)).mean() + b,
            "the mean ran over the foreground: here it runs over all patches, as in BAS": (K_yx * S_yx).sum() / S_yx.sum() + b,
            "the sum was not divided by the number of patches": (K_yx * S_yx).sum() + b,
            "the heatmap itself was the mask: cut it at the threshold first": (K_yx * H_yx).mean() + b,
            "this is the rest of the image: the foreground is where the heatmap is high": (K_yx * (1 - S_yx)).mean() + b,
            "the bias is missing": (K_yx * S_yx).mean(),
            "the bias was masked too: it stands outside": ((K_yx + b) * S_yx).mean(),
            "nothing was masked: this is the logit of all patches": K_yx.mean() + b,
        },
        note="An empty foreground would score b, whatever the film.",
    )


def _check_clipped(clipped_step) -> Verdict:
    import torch

    values = torch.tensor([[0.05, 0.35, 0.5], [0.62, 0.81, 0.44]], dtype=torch.float64)
    slopes = torch.tensor([[2.0, -3.0, 5.0], [7.0, 11.0, -13.0]], dtype=torch.float64)
    threshold, reach = 0.5, 0.2
    heatmap = values.clone().requires_grad_()
    mask = clipped_step(heatmap, threshold, reach)
    if mask is None or as_array(mask) is None or as_array(mask).shape != (2, 3):
        return compare(mask, (values >= threshold).double(), what="a mask of 2 by 3 zeros and ones")
    if not getattr(mask, "requires_grad", False):
        return wrong(
            expected="a mask through which a gradient passes",
            got="a mask that no gradient can pass",
            cause="a bare comparison has no slope: add something that is zero in value and not in slope",
        )
    (mask * slopes).sum().backward()
    got = np.concatenate([as_array(mask).ravel(), np.zeros(6) if heatmap.grad is None else as_array(heatmap.grad).ravel()])
    H, G = values.numpy(), slopes.numpy()
    step, near = (H >= threshold).astype(float), np.abs(H - threshold) <= reach

    def both(mask_yx=step, gate_yx=near):
        return np.concatenate([mask_yx.ravel(), (G * gate_yx).ravel()])

    return compare(
        got,
        both(),
        what="six values of the mask, then the six gradients that the heatmap receives",
        causes={
            "the gradient passes everywhere: it should stop where the heatmap lies farther than `reach` from the threshold": both(
                gate_yx=np.ones_like(H)
            ),
            "the gradient passes only where the mask is open: a shut patch near the threshold must be able to open": both(
                gate_yx=step * near
            ),
            "near and far are exchanged": both(gate_yx=1 - near),
            "the mask is not 0 and 1: its value should be the step's": both(mask_yx=H),
            "open and shut are exchanged": both(mask_yx=1 - step),
            "the value is the step's only near the threshold: far away it must be 0 or 1 as well": both(mask_yx=step * near),
        },
        note="Patches that are sure of themselves are left alone. Whether that helps is a question for an experiment.",
    )


def _heads():
    """A small feature head, a small classification head, tokens and a mask, all fixed and asymmetric."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(13)
    feature = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()).double()
    classify = nn.Sequential(nn.Conv2d(4, 1, 1)).double()
    with torch.no_grad():
        for parameter in (*feature.parameters(), *classify.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.6)
    x_Dyx = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    mask_yx = torch.zeros(4, 5, dtype=torch.float64)
    mask_yx[1:3, 2:4] = 1
    return feature, classify, x_Dyx, mask_yx


def _check_background(background_logit) -> Verdict:
    import torch

    feature, classify, x_Dyx, mask_yx = _heads()
    bias = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
    x_Dyx, mask_yx = x_Dyx.requires_grad_(), mask_yx.requires_grad_()

    def run(x):
        return float(classify(feature(x[None])).mean())

    with torch.no_grad():
        b = float(bias)
        expected = run(x_Dyx * (1 - mask_yx)) + b
        causes = {
            "the background was blanked and the foreground kept: multiply by 1 - mask": run(x_Dyx * mask_yx) + b,
            "nothing was blanked: this is the logit of the whole image": run(x_Dyx) + b,
            "the mask came after the layers: they had already carried the foreground into its surroundings": float(
                (classify(feature(x_Dyx[None]))[0, 0] * (1 - mask_yx)).mean()
            )
            + b,
            "the mask came after the feature head: it had already carried the foreground into its surroundings": float(
                classify(feature(x_Dyx[None]) * (1 - mask_yx)).mean()
            )
            + b,
            "the bias is missing": expected - b,
            "the values were added up: take their mean over the patches": float(
                classify(feature((x_Dyx * (1 - mask_yx))[None])).sum()
            )
            + b,
        }
    got = background_logit(x_Dyx, mask_yx, feature, classify, bias)
    verdict = compare(got, expected, what="the background logit of 4 by 5 patches", causes=causes, otherwise="blank first, then run the layers, then the mean, then the bias")
    if not verdict.passed:
        return verdict
    if not getattr(got, "requires_grad", False):
        return wrong(
            expected="a logit whose gradient reaches the mask",
            got="the right value, and no gradient at all",
            cause="no_grad shuts the way to the mask as well: detach the weights and the tokens, not the calculation",
        )
    got.backward()
    reached = {
        "the patch tokens": x_Dyx.grad,
        "the feature head's weights": feature[0].weight.grad,
        "the classification head's weights": classify[0].weight.grad,
        "the bias": bias.grad,
    }
    wrongly = [name for name, grad in reached.items() if grad is not None and grad.abs().sum() > 0]
    if mask_yx.grad is None or mask_yx.grad.abs().sum() == 0:
        return wrong(expected="a gradient in the mask", got="none", cause="the mask was detached: it is the one thing to be taught here")
    if wrongly:
        return wrong(
            expected="a gradient in the mask alone",
            got="the right value, and a gradient in " + ", ".join(wrongly),
            cause=f"hold {wrongly[0]} constant: otherwise silence can be learnt there, and the mask stays as it is",
        )
    return compare(got, expected, what="the background logit", note="Right in value, and only the mask can learn from it.")


def _count(plan, width, findings, *, bias=1, kernel=2, carry=True, last=True):
    total, channels = 0, width
    for i, (size, share) in enumerate(plan):
        out = findings if share == "C" else round(width * share)
        total += size**kernel * channels * out + (bias * out if last or i + 1 < len(plan) else 0)
        channels = out if carry else width
    return total


def _check_parameters(head_parameters) -> Verdict:
    from cxrlib.models.segment_cam import LAYOUTS

    cases = (
        (LAYOUTS["bas"].feature, 384, 14),
        (LAYOUTS["bottleneck"].classify, 20, 3),
        (((3, 1), (1, 1 / 2), (3, "C")), 24, 5),
    )

    def row(**change):
        return np.array([_count(*case, **change) for case in cases], dtype=float)

    return compare(
        [head_parameters(*case) for case in cases],
        row(),
        what="parameters of three heads",
        causes={
            "the biases are missing: each convolution has one per output channel": row(bias=0),
            "a kernel of size k has k times k places": row(kernel=1),
            "each convolution reads what the one before wrote: its input is not always D wide": row(carry=False),
            "the last convolution has a bias too: SegmentCAM keeps it outside the mask, and it still counts": row(last=False),
        },
        rtol=0,
        atol=0.5,
        note="Add the three heads of a layout, and you have the number that was fitted to the published 24.7 %.",
    )


_FOREGROUND = (
    "def foreground_logit(K_yx, H_yx, threshold, bias):\n"
    "    S_yx = (H_yx >= threshold).to(K_yx.dtype)\n"
    "    return (K_yx * S_yx).mean() + bias\n"
)

_CLIPPED = (
    "def clipped_step(heatmap, threshold, reach):\n"
    "    step = (heatmap >= threshold).to(heatmap.dtype)\n"
    "    near = ((heatmap - threshold).abs() <= reach).to(heatmap.dtype)\n"
    "    return step + near * (heatmap - heatmap.detach())\n"
)

_BACKGROUND = (
    "def background_logit(x_Dyx, mask_yx, feature, classify, bias):\n"
    "    blanked = (x_Dyx.detach() * (1 - mask_yx))[None]\n"
    "    evidence = frozen(classify, frozen(feature, blanked))\n"
    "    return evidence.mean() + bias.detach()\n"
)

_PARAMETERS = (
    "def head_parameters(plan, width, findings):\n"
    "    total, channels = 0, width\n"
    "    for kernel, share in plan:\n"
    '        out = findings if share == "C" else round(width * share)\n'
    "        total += kernel * kernel * channels * out + out\n"
    "        channels = out\n"
    "    return total\n"
)

_SETUP = "import torch\nfrom torch import nn\nfrom torch.func import functional_call\nfrom cxrlib.models.segment_cam import frozen\n"

EXERCISES = (
    Exercise(
        id="ch13.foreground",
        title="What the foreground says",
        prompt="Write `foreground_logit(K_yx, H_yx, threshold, bias)`: eq. 11 and 12 for one finding of one film.",
        answer="foreground_logit",
        check=_check_foreground,
        hints=(
            "First the mask, from the heatmap. Then the logit, from the evidence.",
            "The mask is 1 where the heatmap reaches the threshold. Multiply the evidence by it.",
            "The mean runs over all patches, shut ones too. The bias comes last.",
        ),
        stub="def foreground_logit(K_yx, H_yx, threshold, bias):\n    raise NotImplementedError  # your lines here\n",
        solution=_FOREGROUND,
        alternatives=(
            "def foreground_logit(K_yx, H_yx, threshold, bias):\n"
            "    open_yx = H_yx >= threshold\n"
            "    return float(K_yx[open_yx].sum()) / K_yx.numel() + bias\n",
        ),
        mutants={
            ">=, not >": _FOREGROUND.replace(">=", ">"),
            "ran over the foreground": _FOREGROUND.replace(".mean()", ".sum() / S_yx.sum()"),
            "not divided": _FOREGROUND.replace(".mean()", ".sum()"),
            "heatmap itself": _FOREGROUND.replace("K_yx * S_yx", "K_yx * H_yx"),
            "rest of the image": _FOREGROUND.replace("K_yx * S_yx", "K_yx * (1 - S_yx)"),
            "bias is missing": _FOREGROUND.replace(" + bias", ""),
            "masked too": _FOREGROUND.replace("(K_yx * S_yx).mean() + bias", "((K_yx + bias) * S_yx).mean()"),
        },
        setup=_SETUP,
        level="warm-up",
        minutes=4,
    ),
    Exercise(
        id="ch13.clipped",
        title="A gradient for those in doubt",
        prompt=(
            "Write `clipped_step(heatmap, threshold, reach)`: the mask of 0 and 1, through which the gradient passes "
            "unchanged where the heatmap lies within `reach` of the threshold, and not at all elsewhere."
        ),
        answer="clipped_step",
        check=_check_clipped,
        hints=(
            "Take `straight_through` apart: one part gives the value, the other is zero in value and gives the slope.",
            "The slope's part may be multiplied by a gate of zeros and ones. Value: still zero.",
            "The gate is |H - t| <= reach, without a gradient of its own.",
        ),
        stub="def clipped_step(heatmap, threshold, reach):\n    raise NotImplementedError  # your lines here\n",
        solution=_CLIPPED,
        alternatives=(
            "def clipped_step(heatmap, threshold, reach):\n"
            "    class Step(torch.autograd.Function):\n"
            "        @staticmethod\n"
            "        def forward(ctx, H):\n"
            "            ctx.save_for_backward(H)\n"
            "            return (H >= threshold).to(H.dtype)\n"
            "\n"
            "        @staticmethod\n"
            "        def backward(ctx, grad):\n"
            "            return grad * ((ctx.saved_tensors[0] - threshold).abs() <= reach)\n"
            "\n"
            "    return Step.apply(heatmap)\n",
            "def clipped_step(heatmap, threshold, reach):\n"
            "    inner = heatmap.clamp(threshold - reach, threshold + reach)\n"
            "    return (heatmap >= threshold).to(heatmap.dtype) + inner - inner.detach()\n",
        ),
        mutants={
            "passes everywhere": _CLIPPED.replace("near * ", ""),
            "only where the mask is open": _CLIPPED.replace("step + near", "step + step * near"),
            "exchanged": _CLIPPED.replace("<= reach", "> reach"),
            "not 0 and 1": "def clipped_step(heatmap, threshold, reach):\n"
            "    near = ((heatmap - threshold).abs() <= reach).to(heatmap.dtype)\n"
            "    return near * heatmap + ((1 - near) * heatmap).detach()\n",
            "open and shut": _CLIPPED.replace(">= threshold", "< threshold"),
            "no slope": _CLIPPED.replace(" + near * (heatmap - heatmap.detach())", ""),
        },
        setup=_SETUP,
        level="core",
        minutes=10,
    ),
    Exercise(
        id="ch13.background",
        title="What is left to say",
        prompt=(
            "Write `background_logit(x_Dyx, mask_yx, feature, classify, bias)`: eq. 13 for one film and one finding (classify gives one "
            "channel). The value must be right, and its gradient must reach the mask and nothing else. `frozen` may be used."
        ),
        answer="background_logit",
        check=_check_background,
        hints=(
            "Order: blank the tokens, run both heads, take the mean, add the bias.",
            "Three things must be held constant: the tokens, the weights of both heads, and the bias.",
            "`frozen(layers, x)` runs layers with constant weights. x[None] makes a batch of one.",
        ),
        stub="def background_logit(x_Dyx, mask_yx, feature, classify, bias):\n    raise NotImplementedError  # your lines here\n",
        solution=_BACKGROUND,
        alternatives=(
            "def background_logit(x_Dyx, mask_yx, feature, classify, bias):\n"
            "    from copy import deepcopy\n"
            "\n"
            "    layers = nn.Sequential(deepcopy(feature), deepcopy(classify)).requires_grad_(False)\n"
            "    return layers((x_Dyx.detach() * (1 - mask_yx)).unsqueeze(0)).mean() + bias.item()\n",
            "def background_logit(x_Dyx, mask_yx, feature, classify, bias):\n"
            "    out = x_Dyx.detach() * (1 - mask_yx)\n"
            "    for head in (feature, classify):\n"
            "        constants = {name: weight.detach() for name, weight in head.named_parameters()}\n"
            "        out = functional_call(head, constants, (out[None],))[0]\n"
            "    return out.sum() / mask_yx.numel() + bias.detach()\n",
        ),
        mutants={
            "foreground kept": _BACKGROUND.replace("(1 - mask_yx)", "mask_yx"),
            "nothing was blanked": _BACKGROUND.replace(" * (1 - mask_yx)", ""),
            "after the layers": _BACKGROUND.replace(" * (1 - mask_yx)", "").replace("evidence.mean()", "(evidence * (1 - mask_yx)).mean()"),
            "after the feature head": _BACKGROUND.replace(" * (1 - mask_yx)", "").replace(
                "frozen(feature, blanked)", "frozen(feature, blanked) * (1 - mask_yx)"
            ),
            "bias is missing": _BACKGROUND.replace(" + bias.detach()", ""),
            "hold the patch tokens": _BACKGROUND.replace("x_Dyx.detach()", "x_Dyx"),
            "hold the feature head's weights": _BACKGROUND.replace("frozen(feature, blanked)", "feature(blanked)"),
            "hold the classification head's weights": _BACKGROUND.replace("frozen(classify, frozen(feature, blanked))", "classify(frozen(feature, blanked))"),
            "hold the bias": _BACKGROUND.replace("bias.detach()", "bias"),
            "no_grad": "def background_logit(x_Dyx, mask_yx, feature, classify, bias):\n"
            "    with torch.no_grad():\n"
            "        return classify(feature((x_Dyx * (1 - mask_yx))[None])).mean() + bias\n",
        },
        setup=_SETUP,
        level="core",
        minutes=15,
    ),
    Exercise(
        id="ch13.parameters",
        title="Weighing a head",
        prompt=(
            "Write `head_parameters(plan, width, findings)`: the parameters of one head, from its plan in `LAYOUTS`' notation: pairs "
            '(kernel size, share of D or "C"). Every convolution has a bias.'
        ),
        answer="head_parameters",
        check=_check_parameters,
        hints=(
            "Walk along the plan and remember how many channels the last convolution wrote.",
            "A k by k convolution from I to O channels: k k I O weights and O biases.",
            'O is the number of findings for "C", and round(width * share) otherwise. The first I is the width.',
        ),
        stub="def head_parameters(plan, width, findings):\n    raise NotImplementedError  # a whole number\n",
        solution=_PARAMETERS,
        alternatives=(
            "def head_parameters(plan, width, findings):\n"
            "    layers, channels = [], width\n"
            "    for kernel, share in plan:\n"
            '        out = findings if share == "C" else round(width * share)\n'
            "        layers.append(nn.Conv2d(channels, out, kernel))\n"
            "        channels = out\n"
            "    return sum(p.numel() for p in nn.Sequential(*layers).parameters())\n",
        ),
        mutants={
            "biases are missing": _PARAMETERS.replace("* out + out", "* out"),
            "k times k": _PARAMETERS.replace("kernel * kernel", "kernel"),
            "the one before wrote": _PARAMETERS.replace("        channels = out\n", ""),
            "has a bias too": _PARAMETERS.replace("    return total", "    return total - channels"),
        },
        setup=_SETUP,
        level="stretch",
        minutes=10,
    ),
)

QUESTIONS = (
    Question(
        id="ch13.swap",
        prompt="Head and mean change places: the mean of what the head says at each patch, or what the head says of the mean token. For which heads is it the same?",
        choices={"a": "for every head", "b": "for a linear one", "c": "for none"},
        why="A mean is a sum and a factor: it passes through a linear map, and through no ReLU.",
    ),
    Question(
        id="ch13.reach",
        prompt="Four 3 by 3 convolutions in a row. How many patches can change what is said at one patch in the middle of a 14 by 14 grid?",
        unit="patches",
        why="Each convolution reaches one patch further on every side: four of them see 9 by 9.",
        close=0.05,
    ),
    Question(
        id="ch13.flip",
        prompt="The film has the finding. One step of gradient descent on the foreground's cross-entropy, through the straight-through mask. Which patches change sides?",
        choices={
            "a": "only open ones can shut: a shut patch adds nothing to the logit, so it gets no gradient",
            "b": "two shut ones open, and one open one shuts",
            "c": "all patches move towards open",
        },
        why="The gradient in H is the evidence K over the number of patches, times how wrong the logit is. It does not ask whether the patch is open.",
    ),
    Question(
        id="ch13.reached",
        prompt="Which parts receive a gradient from the background logit?",
        choices={"a": "all three heads", "b": "the heatmap head, and the tokens through it", "c": "none: everything in it is frozen"},
        why="Weights, bias and blanked tokens are constants. The only way left leads through the mask.",
    ),
    Question(
        id="ch13.iou",
        prompt="Trained with labels alone. Which foreground fits the toy lesions better: SegmentCAM's mask, or the plain CAM cut at half its maximum?",
        choices={"a": "SegmentCAM's mask, clearly", "b": "about the same", "c": "the plain CAM, clearly"},
        why="No loss so far asks the mask to be small, or to leave nothing telling outside. An open mask classifies just as well.",
    ),
    Question(
        id="ch13.mean",
        prompt="Two scores of one finding. Can their mean rank worse than the better of the two?",
        choices={"a": "no: a mean of two opinions is at least as good as either", "b": "yes"},
        why="Averaging takes off the noise that they do not share. A much weaker partner brings more noise than it takes off.",
    ),
)
