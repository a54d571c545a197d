"""Chapter 6's exercises and questions."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from cxrlib.course.compare import compare
from cxrlib.course.exercise import Exercise, Question, Verdict, right, wrong

_LOGITS, _LABELS = [1.5, -0.7, 0.2], [1, 0, 1]


def _check_film_loss(film_loss) -> Verdict:
    z, y = torch.tensor(_LOGITS, dtype=torch.float64), torch.tensor(_LABELS, dtype=torch.float64)
    each = F.binary_cross_entropy_with_logits(z, y, reduction="none").numpy()
    p = z.sigmoid().numpy()
    labels = y.numpy()
    return compare(
        film_loss(list(_LOGITS), list(_LABELS)),
        each.mean(),
        what="the loss of a film with logits 1.5, -0.7, 0.2 and labels 1, 0, 1",
        causes={
            "the questions were added up, not averaged": each.sum(),
            "the sign: a surprise is never negative": -each.mean(),
            "the absent findings add nothing here: the half with 1 - y is missing": np.mean(-labels * np.log(p)),
            "a softmax makes the findings compete: use a sigmoid for each": np.mean(
                -labels * np.log(z.softmax(0).numpy()) - (1 - labels) * np.log(1 - z.softmax(0).numpy())
            ),
        },
        note="A network that knows nothing would have 0.69.",
    )


def _known_inputs() -> tuple[torch.Tensor, torch.Tensor]:
    logits_BC = torch.tensor([[0.4, -1.2, 2.0], [-0.3, 0.8, -2.2]], requires_grad=True)
    labels_BC = torch.tensor([[1.0, float("nan"), 0.0], [float("nan"), 1.0, float("nan")]])
    return logits_BC, labels_BC


def _check_loss_of_known(loss_of_known) -> Verdict:
    logits_BC, labels_BC = _known_inputs()
    known_BC = ~labels_BC.isnan()
    with torch.no_grad():
        zero_BC = torch.nan_to_num(labels_BC)
        each_BC = F.binary_cross_entropy_with_logits(logits_BC, zero_BC, reduction="none")
        expected = each_BC[known_BC].mean()
        causes = {
            "unknown labels were taken as absent: every empty cell taught a no": each_BC.mean(),
            "the sum of the known was divided by all cells, so films with few labels count less": (
                (each_BC * known_BC).sum() / known_BC.numel()
            ),
            "the known were added up, not averaged": each_BC[known_BC].sum(),
            "a film with any unknown label was left out whole: with this batch that leaves none": torch.tensor(0.0),
        }
    loss = loss_of_known(logits_BC, labels_BC)
    verdict = compare(loss, expected, what="the mean loss of the three known labels of six", causes=causes)
    if not verdict.passed:
        return verdict
    if not (hasattr(loss, "requires_grad") and loss.requires_grad):
        return wrong(
            expected="a loss that can be differentiated",
            got="a number without a gradient",
            cause="stay in torch: no .item(), .numpy() or no_grad() on the way",
        )
    (gradient_BC,) = torch.autograd.grad(loss, logits_BC)
    if gradient_BC.isnan().any():
        return wrong(
            expected="a gradient of 0 for the unknown labels",
            got="a gradient with NaN in it",
            cause="the NaN went through the arithmetic: NaN times zero is NaN, so take it out before",
        )
    if gradient_BC[~known_BC].any():
        return wrong(
            expected="a gradient of 0 for the unknown labels",
            got="the unknown labels pull on the weights",
            cause="something is computed from the logits of unknown labels",
        )
    return right("The gradient of an unknown label is exactly zero.")


_SETTINGS = {"steps": 20, "warmup": 4, "peak": 0.6, "floor": 0.1}


def _schedule(step: int, steps: int, warmup: int, peak: float, floor: float) -> float:
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def _check_schedule(rate) -> Verdict:
    def over(function) -> np.ndarray:
        return np.array([float(function(step, *_SETTINGS.values())) for step in range(_SETTINGS["steps"])])

    def no_warmup(step, steps, warmup, peak, floor):
        return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * step / steps))

    def whole_cosine(step, steps, warmup, peak, floor):
        if step < warmup:
            return peak * (step + 1) / (warmup + 1)
        return floor + (peak - floor) * 0.5 * (1 + math.cos(2 * math.pi * (step - warmup) / (steps - warmup)))

    def no_floor(step, steps, warmup, peak, floor):
        return _schedule(step, steps, warmup, peak, 0.0)

    def zero_start(step, steps, warmup, peak, floor):
        return peak * step / warmup if step < warmup else _schedule(step, steps, warmup, peak, floor)

    def late(step, steps, warmup, peak, floor):
        if step < warmup:
            return peak * (step + 1) / (warmup + 1)
        return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * step / steps))

    return compare(
        over(rate),
        over(_schedule),
        what="the rate at each of 20 steps, with 4 of warm-up, a peak of 0.6 and a floor of 0.1",
        causes={
            "there is no warm-up": over(no_warmup),
            "the cosine ran through a whole period and came up again: it needs pi, not 2 pi": over(whole_cosine),
            "the floor is missing: the rate ends at 0": over(no_floor),
            "the first step has a rate of 0 and moves nothing: count t + 1 of w + 1": over(zero_start),
            "the cosine is counted from step 0: it must start at its top when the warm-up ends": over(late),
        },
        note="It is the one function of training that everybody writes and half get wrong by one.",
    )


_HISTORY = [0.61, 0.66, 0.65, 0.70, 0.70, 0.69, 0.68, 0.74, 0.73]


def _check_stop(stop_epoch) -> Verdict:
    verdict = compare(
        np.array(stop_epoch(list(_HISTORY), 3), dtype=float),
        np.array([7.0, 4.0]),
        what="(last epoch, epoch kept) of a history of nine with a patience of 3",
        causes={
            "epochs are counted from 0 here: count from 1": np.array([6.0, 3.0]),
            "a score that only equals the best was taken as a new best": np.array([9.0, 8.0]),
            "the patience was not used: training went on to the end": np.array([9.0, 4.0]),
            "the weights of the last epoch were kept, not those of the best": np.array([7.0, 7.0]),
            "it stops at the first epoch that is worse: the patience is not counted": np.array([3.0, 2.0]),
        },
    )
    if not verdict.passed:
        return verdict
    return compare(
        np.array(stop_epoch([0.5, 0.6, 0.55], 3), dtype=float),
        np.array([3.0, 2.0]),
        what="(last epoch, epoch kept) of a history of three, too short for a patience of 3",
        note="The score of the best epoch is a little lucky. That is why the test patients are others.",
    )


EXERCISES = (
    Exercise(
        id="ch06.film_loss",
        title="One film, three questions",
        prompt="Write `film_loss(logits, labels)`: the mean of equation 1 over the findings of one film.",
        answer="film_loss",
        check=_check_film_loss,
        hints=(
            "How likely does each logit make its own finding, whatever the others say?",
            "p = 1 / (1 + exp(-z)); the surprise is -log p where the label is 1.",
            "Where the label is 0 it is -log(1 - p). Then take the mean.",
        ),
        stub="def film_loss(logits, labels):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def film_loss(logits, labels):\n"
            "    p = 1 / (1 + np.exp(-np.asarray(logits, float)))\n"
            "    y = np.asarray(labels, float)\n"
            "    return float(np.mean(-y * np.log(p) - (1 - y) * np.log(1 - p)))\n"
        ),
        alternatives=(
            "def film_loss(logits, labels):\n"
            "    return F.binary_cross_entropy_with_logits(torch.tensor(logits), torch.tensor(labels).float())\n",
            "def film_loss(logits, labels):\n"
            "    each = [np.log1p(np.exp(-z if y else z)) for z, y in zip(logits, labels)]\n"
            "    return sum(each) / len(each)\n",
        ),
        mutants={
            "not averaged": (
                "def film_loss(logits, labels):\n"
                "    return sum(np.log1p(np.exp(-z if y else z)) for z, y in zip(logits, labels))\n"
            ),
            "never negative": (
                "def film_loss(logits, labels):\n"
                "    return -np.mean([np.log1p(np.exp(-z if y else z)) for z, y in zip(logits, labels)])\n"
            ),
            "1 - y is missing": (
                "def film_loss(logits, labels):\n"
                "    p = 1 / (1 + np.exp(-np.asarray(logits, float)))\n"
                "    return np.mean(-np.asarray(labels) * np.log(p))\n"
            ),
            "compete": (
                "def film_loss(logits, labels):\n"
                "    p, y = torch.tensor(logits).softmax(0).numpy(), np.asarray(labels)\n"
                "    return np.mean(-y * np.log(p) - (1 - y) * np.log(1 - p))\n"
            ),
        },
        setup="import numpy as np, torch\nimport torch.nn.functional as F",
        level="warm-up",
        minutes=4,
    ),
    Exercise(
        id="ch06.loss_of_known",
        title="Leave out what nobody said",
        prompt="Write `loss_of_known(logits_BC, labels_BC)`: the mean over the known labels, with NaN for unknown.",
        answer="loss_of_known",
        check=_check_loss_of_known,
        hints=(
            "Which entries may take part at all? Find them first.",
            "`~labels_BC.isnan()` is a mask; a tensor indexed by a mask keeps only those entries.",
            "Index logits and labels by the same mask, then call the ordinary loss.",
        ),
        stub="def loss_of_known(logits_BC, labels_BC):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def loss_of_known(logits_BC, labels_BC):\n"
            "    known_BC = ~labels_BC.isnan()\n"
            "    return F.binary_cross_entropy_with_logits(logits_BC[known_BC], labels_BC[known_BC])\n"
        ),
        alternatives=(
            "def loss_of_known(logits_BC, labels_BC):\n"
            "    known_BC = ~torch.isnan(labels_BC)\n"
            "    target_BC = torch.where(known_BC, labels_BC, torch.zeros_like(labels_BC))\n"
            "    loss_BC = F.softplus(logits_BC) - target_BC * logits_BC\n"
            "    return (loss_BC * known_BC).sum() / known_BC.sum()\n",
        ),
        mutants={
            "taken as absent": (
                "def loss_of_known(logits_BC, labels_BC):\n"
                "    return F.binary_cross_entropy_with_logits(logits_BC, torch.nan_to_num(labels_BC))\n"
            ),
            "divided by all cells": (
                "def loss_of_known(logits_BC, labels_BC):\n"
                "    known_BC = ~labels_BC.isnan()\n"
                "    loss_BC = F.binary_cross_entropy_with_logits(logits_BC, torch.nan_to_num(labels_BC), reduction='none')\n"
                "    return (loss_BC * known_BC).mean()\n"
            ),
            "added up": (
                "def loss_of_known(logits_BC, labels_BC):\n"
                "    known_BC = ~labels_BC.isnan()\n"
                "    return F.binary_cross_entropy_with_logits(logits_BC[known_BC], labels_BC[known_BC], reduction='sum')\n"
            ),
            "NaN times zero": (
                "def loss_of_known(logits_BC, labels_BC):\n"
                "    loss_BC = F.binary_cross_entropy_with_logits(logits_BC, labels_BC, reduction='none')\n"
                "    return torch.nanmean(loss_BC) + 0 * loss_BC[~loss_BC.isnan()].sum() + 0 * torch.nansum(loss_BC * 1)\n"
            ),
            "stay in torch": (
                "def loss_of_known(logits_BC, labels_BC):\n"
                "    known_BC = ~labels_BC.isnan()\n"
                "    return F.binary_cross_entropy_with_logits(logits_BC[known_BC], labels_BC[known_BC]).item()\n"
            ),
        },
        setup="import torch\nimport torch.nn.functional as F",
        minutes=10,
    ),
    Exercise(
        id="ch06.schedule",
        title="A schedule",
        prompt="Write `rate(step, steps, warmup, peak, floor)`: equation 2.",
        answer="rate",
        check=_check_schedule,
        hints=(
            "Two cases: before the end of the warm-up, and after.",
            "In the second, count how much of the way from warmup to steps is done: a number from 0 to 1.",
            "0.5 * (1 + cos(pi * done)) falls from 1 to 0; stretch it to run from peak to floor.",
        ),
        stub="def rate(step, steps, warmup, peak, floor):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def rate(step, steps, warmup, peak, floor):\n"
            "    if step < warmup:\n"
            "        return peak * (step + 1) / (warmup + 1)\n"
            "    done = (step - warmup) / (steps - warmup)\n"
            "    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * done))\n"
        ),
        alternatives=(
            "def rate(step, steps, warmup, peak, floor):\n"
            "    up = np.linspace(0, peak, warmup + 2)[1:-1]\n"
            "    down = floor + (peak - floor) * np.cos(np.arange(steps - warmup) / (steps - warmup) * np.pi / 2) ** 2\n"
            "    return np.concatenate([up, down])[step]\n",
        ),
        mutants={
            "no warm-up": (
                "def rate(step, steps, warmup, peak, floor):\n"
                "    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * step / steps))\n"
            ),
            "not 2 pi": (
                "def rate(step, steps, warmup, peak, floor):\n"
                "    if step < warmup:\n        return peak * (step + 1) / (warmup + 1)\n"
                "    done = (step - warmup) / (steps - warmup)\n"
                "    return floor + (peak - floor) * 0.5 * (1 + math.cos(2 * math.pi * done))\n"
            ),
            "floor is missing": (
                "def rate(step, steps, warmup, peak, floor):\n"
                "    if step < warmup:\n        return peak * (step + 1) / (warmup + 1)\n"
                "    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))\n"
            ),
            "a rate of 0": (
                "def rate(step, steps, warmup, peak, floor):\n"
                "    if step < warmup:\n        return peak * step / warmup\n"
                "    done = (step - warmup) / (steps - warmup)\n"
                "    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * done))\n"
            ),
            "counted from step 0": (
                "def rate(step, steps, warmup, peak, floor):\n"
                "    if step < warmup:\n        return peak * (step + 1) / (warmup + 1)\n"
                "    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * step / steps))\n"
            ),
        },
        setup="import math\nimport numpy as np",
        minutes=10,
    ),
    Exercise(
        id="ch06.stop",
        title="When to stop",
        prompt="Write `stop_epoch(history, patience)`: (last epoch, epoch whose weights are kept), counted from 1.",
        answer="stop_epoch",
        check=_check_stop,
        hints=(
            "Walk through the epochs and remember the best score and when it was.",
            "Only a strictly higher score is a new best.",
            "Stop when the present epoch is `patience` after the best one.",
        ),
        stub="def stop_epoch(history, patience):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def stop_epoch(history, patience):\n"
            "    best, best_epoch = -math.inf, 0\n"
            "    for epoch, score in enumerate(history, start=1):\n"
            "        if score > best:\n"
            "            best, best_epoch = score, epoch\n"
            "        elif epoch - best_epoch >= patience:\n"
            "            return epoch, best_epoch\n"
            "    return len(history), best_epoch\n"
        ),
        alternatives=(
            "def stop_epoch(history, patience):\n"
            "    for epoch in range(1, len(history) + 1):\n"
            "        best = int(np.argmax(history[:epoch])) + 1\n"
            "        if epoch - best == patience:\n"
            "            return epoch, best\n"
            "    return len(history), int(np.argmax(history)) + 1\n",
        ),
        mutants={
            "count from 1": (
                "def stop_epoch(history, patience):\n"
                "    best = 0\n"
                "    for epoch, score in enumerate(history):\n"
                "        if score > history[best]:\n            best = epoch\n"
                "        elif epoch - best >= patience:\n            return epoch, best\n"
                "    return len(history) - 1, best\n"
            ),
            "only equals the best": (
                "def stop_epoch(history, patience):\n"
                "    best, kept = -math.inf, 0\n"
                "    for epoch, score in enumerate(history, start=1):\n"
                "        if score >= best:\n            best, kept = score, epoch\n"
                "        elif epoch - kept >= patience:\n            return epoch, kept\n"
                "    return len(history), kept\n"
            ),
            "those of the best": (
                "def stop_epoch(history, patience):\n"
                "    best, kept = -math.inf, 0\n"
                "    for epoch, score in enumerate(history, start=1):\n"
                "        if score > best:\n            best, kept = score, epoch\n"
                "        elif epoch - kept >= patience:\n            return epoch, epoch\n"
                "    return len(history), len(history)\n"
            ),
            "patience is not counted": (
                "def stop_epoch(history, patience):\n"
                "    for epoch in range(1, len(history)):\n"
                "        if history[epoch] <= history[epoch - 1]:\n            return epoch + 1, epoch\n"
                "    return len(history), len(history)\n"
            ),
        },
        setup="import math\nimport numpy as np",
        level="stretch",
        minutes=12,
    ),
)

QUESTIONS = (
    Question(
        id="ch06.ln2",
        prompt="A network that knows nothing says 0.5 to everything. What is its loss per question?",
        unit="nats",
        why="The surprise at one of two equally likely answers is the logarithm of two.",
        close=0.05,
    ),
    Question(
        id="ch06.beats",
        prompt="Where does the ViT's test macro AUROC end, against that of the thumbnails?",
        choices={"a": "below the thumbnails", "b": "up to five hundredths above", "c": "more than that above"},
        why="Little data and few minutes: the transformer must first learn what a picture is.",
    ),
    Question(
        id="ch06.rate",
        prompt="Two starts and three learning rates for two epochs: which reaches the highest AUROC?",
        choices={"a": "fan at 0.0003", "b": "timm at 0.0003", "c": "fan at 0.01", "d": "fan at 0.00001"},
        why="Too slow has hardly left the start, too fast is thrown about, and a whispering start wastes both.",
    ),
)
