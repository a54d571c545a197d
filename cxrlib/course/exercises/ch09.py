"""Chapter 9's exercises and questions."""

import numpy as np
import torch

from cxrlib.course.compare import compare
from cxrlib.course.exercise import Exercise, Question, Verdict, right, wrong

_CLEAN_YX = np.array([[1.0, 4.0, 2.0, 7.0], [3.0, 5.0, 9.0, 6.0], [2.0, 8.0, 4.0, 1.0]])
_PAINTED_YX = np.array([[1.5, 6.0, 2.5, 7.5], [3.5, 4.0, 6.0, 6.5], [2.5, 8.5, 4.5, 1.5]])
_MASK_YX = np.zeros((3, 4), bool)
_MASK_YX[:2, 1:3] = True


def _check_painted_loss(painted_loss) -> Verdict:
    painted, clean, mask = (torch.from_numpy(array) for array in (_PAINTED_YX, _CLEAN_YX, _MASK_YX))
    error_YX = np.abs(_PAINTED_YX - _CLEAN_YX)
    return compare(
        painted_loss(painted, clean, mask),
        error_YX[_MASK_YX].mean(),
        what="the loss of a film of 3 by 4 pixels, four of them covered",
        causes={
            "the mean was taken over the whole film: what is in plain sight counts too": error_YX.mean(),
            "the errors of the covered pixels were divided by all pixels": error_YX[_MASK_YX].sum() / error_YX.size,
            "the errors were added up, not averaged": error_YX[_MASK_YX].sum(),
            "the mask is the wrong way round: these are the pixels that were left clean": error_YX[~_MASK_YX].mean(),
            "the errors were squared: L1 takes their absolute value": (error_YX[_MASK_YX] ** 2).mean(),
            "errors of both signs cancel: take the absolute value first": (_PAINTED_YX - _CLEAN_YX)[_MASK_YX].mean(),
        },
        note="Painting back what was never covered would earn nothing.",
    )


_SHAPE = (6, 9)
# y0, x0, y1, x1. The second and third overlap what is there: pixels covered 12, 17, 18, 22; areas added up 12, 21, 27, 31.
_BOXES = [(0, 1, 3, 5), (1, 3, 4, 6), (2, 2, 4, 5), (4, 0, 6, 2), (0, 6, 5, 9), (2, 2, 6, 9)]
_SHARE = 0.38  # of 54 pixels: 21


def _cover(boxes, share, shape, *, edge=0, swap=False, areas=False, whole=False, early=False) -> np.ndarray:
    mask_YX, laid = np.zeros(shape, bool), 0
    for y0, x0, y1, x1 in boxes:
        if swap:
            y0, x0, y1, x1 = x0, y0, x1, y1
        covered = laid if areas else mask_YX.sum()
        if not whole and covered >= share * mask_YX.size:
            break
        after = mask_YX.copy()
        after[y0 : y1 + edge, x0 : x1 + edge] = True
        if early and after.sum() >= share * mask_YX.size:
            break
        laid, mask_YX = laid + (y1 - y0) * (x1 - x0), after
    return mask_YX


def _check_cover(cover) -> Verdict:
    causes = {
        "areas were added up, so overlaps counted twice: count the covered pixels": {"areas": True},
        "all rectangles were laid: stop when enough is covered": {"whole": True},
        "it stops before the rectangle that reaches the share: the share is the least to cover": {"early": True},
        "rows and columns are swapped: a box is y0, x0, y1, x1": {"swap": True},
        "the edges were included: y1 and x1 lie just outside (half-open)": {"edge": 1},
    }
    for boxes, share in ((_BOXES, _SHARE), (_BOXES[:2] + _BOXES[4:], 0.5)):
        expected_YX = _cover(boxes, share, _SHAPE)
        wrongs = {cause: _cover(boxes, share, _SHAPE, **how) for cause, how in causes.items()}
        verdict = compare(
            cover(list(boxes), share, _SHAPE),
            expected_YX,
            what=f"a mask of 6 by 9 pixels of which at least {share:.0%} are covered ({expected_YX.sum()} are)",
            causes={cause: mask_YX for cause, mask_YX in wrongs.items() if not np.array_equal(mask_YX, expected_YX)},
        )
        if not verdict.passed:
            return verdict
    return right("That is the loop of the published code. The library lays all rectangles at once and gets the same mask.")


def _softmax(x_BK: np.ndarray) -> np.ndarray:
    e_BK = np.exp(x_BK - x_BK.max(axis=-1, keepdims=True))
    return e_BK / e_BK.sum(axis=-1, keepdims=True)


_STUDENT_BK = np.array([[0.5, -0.2, 0.1], [-0.4, 0.3, 0.2]])
_TEACHER_BK = np.array([[0.30, 0.12, 0.22], [0.26, 0.17, 0.15]])
_CENTRE_K = np.array([0.21, 0.13, 0.17])
_TEMPS = {"student_temp": 0.5, "teacher_temp": 0.1}


def _check_agree(agree) -> Verdict:
    s, t, c, ts, tt = _STUDENT_BK, _TEACHER_BK, _CENTRE_K, _TEMPS["student_temp"], _TEMPS["teacher_temp"]

    def cross(answer_BK, said_BK) -> float:
        return float(-(answer_BK * np.log(said_BK)).sum(axis=-1).mean())

    teacher_BK = torch.tensor(_TEACHER_BK, requires_grad=True)
    student_BK = torch.tensor(_STUDENT_BK, requires_grad=True)
    loss = agree(student_BK, teacher_BK, torch.tensor(_CENTRE_K), *_TEMPS.values())
    verdict = compare(
        loss,
        cross(_softmax((t - c) / tt), _softmax(s / ts)),
        what="the loss of two films with three answers, student_temp 0.5 and teacher_temp 0.1",
        causes={
            "the teacher was not centred": cross(_softmax(t / tt), _softmax(s / ts)),
            "the student was centred too: only the teacher is": cross(_softmax((t - c) / tt), _softmax((s - c) / ts)),
            "the temperatures are swapped: the teacher has the smaller one, and is sharper": cross(
                _softmax((t - c) / ts), _softmax(s / tt)
            ),
            "the roles are swapped: the teacher's answer weighs the student's logarithm": cross(
                _softmax(s / ts), _softmax((t - c) / tt)
            ),
            "the sign: a cross-entropy is never negative": -cross(_softmax((t - c) / tt), _softmax(s / ts)),
            "the films were added up, not averaged": 2 * cross(_softmax((t - c) / tt), _softmax(s / ts)),
            "the mean was taken over answers too: add over answers, average over films": (
                cross(_softmax((t - c) / tt), _softmax(s / ts)) / 3
            ),
            "logits are divided by the temperature, not multiplied": cross(_softmax((t - c) * tt), _softmax(s * ts)),
        },
        note="No gradient reaches the teacher.",
    )
    if not verdict.passed:
        return verdict
    if not (hasattr(loss, "requires_grad") and loss.requires_grad):
        return wrong(
            expected="a loss that can be differentiated",
            got="a number without a gradient",
            cause="stay in torch: no .item(), .numpy() or no_grad() around the student",
        )
    student_grad, teacher_grad = torch.autograd.grad(loss, (student_BK, teacher_BK), allow_unused=True)
    if teacher_grad is not None and teacher_grad.any():
        return wrong(
            expected="no gradient for the teacher",
            got="the loss pulls on the teacher's logits",
            cause="the teacher is not detached: it would learn to please the student",
        )
    if student_grad is None:
        return wrong(
            expected="a gradient for the student", got="none", cause="the student was detached: then nobody learns"
        )
    return verdict


def _answers() -> dict[str, np.ndarray]:
    """Batches of answers over K = 6, by the word that fits. The healthy one is sharp film by film, and flat on average."""
    rng = np.random.default_rng(0)
    one = np.full((8, 6), 0.002)
    one[:, 4] = 0.99
    flat = _softmax(0.05 * rng.standard_normal((8, 6)))
    sharp = np.full((12, 6), 0.004)
    sharp[np.arange(12), np.arange(12) % 6] = 0.98
    return {"one answer": one, "uniform": flat, "none": sharp}


def _check_collapse(collapse) -> Verdict:
    said = {word: str(collapse(torch.from_numpy(answer_NK))) for word, answer_NK in _answers().items()}
    wanted = {word: word for word in said}
    if said == wanted:
        return right("One number is not enough: a healthy batch is sharp film by film, and varied over films.")
    causes = {
        "only the mean answer was looked at: a healthy batch has a flat mean answer too": {
            "one answer": "one answer", "uniform": "uniform", "none": "uniform",
        },
        "only the single answers were looked at: a healthy batch is sharp film by film too": {
            "one answer": "one answer", "uniform": "uniform", "none": "one answer",
        },
        "the two kinds of collapse are swapped: entropy near 0 means one answer": {
            "one answer": "uniform", "uniform": "one answer", "none": "none",
        },
        "the entropy is at most log K, with K answers: the limit for uniform is set too high": {
            "one answer": "one answer", "uniform": "none", "none": "none",
        },
    }  # fmt: skip
    cause = next((text for text, words in causes.items() if words == said), "")
    missed = next(word for word in wanted if said[word] != word)
    return wrong(
        expected=f'"{missed}" for a batch of that kind',
        got=f'"{said[missed]}"',
        cause=cause or 'return one of the words "none", "one answer", "uniform"; compare both entropies with log K',
    )


_MODEL = {"patch_embed.w": (8, 1, 4, 4), "blocks.0.w": (8, 8), "blocks.1.w": (8, 8), "label_tokens": (1, 3, 8), "head.w": (3, 8)}
_OWN = {"label_tokens", "head.w"}
_DONOR = {"patch_embed.w": (8, 1, 4, 4), "blocks.0.w": (8, 8), "blocks.1.w": (8, 8), "head.w": (1000, 8)}


def _check_plan(plan) -> Verdict:
    answer = plan(dict(_MODEL), dict(_DONOR), set(_OWN))
    try:
        load, keep = (sorted(part) for part in answer)
    except (TypeError, ValueError):
        return wrong(
            expected="two collections of names: those to load, those that keep their start",
            got=f"{type(answer).__name__}",
            cause="return a pair: (names to load, names that keep their start)",
        )
    wanted = (["blocks.0.w", "blocks.1.w", "patch_embed.w"], ["head.w", "label_tokens"])
    if (load, keep) != wanted:
        if "head.w" in load:
            cause = "the donor's head was taken: it answers other questions, 1,000 kinds of photographs"
        elif "label_tokens" not in keep:
            cause = "the model's own parts must be told: they keep their random start"
        else:
            cause = "load every name of the model that is not its own; keep the own ones"
        return wrong(expected=f"load {wanted[0]}, keep {wanted[1]}", got=f"load {load}, keep {keep}", cause=cause)
    without = {name: shape for name, shape in _DONOR.items() if name != "blocks.1.w"}
    bad = {
        "a layer that the donor lacks": (without, "a missing layer passed: it would stay random in silence, as with strict=False"),
        "a shape that differs": (
            _DONOR | {"blocks.1.w": (8, 16)}, "a wrong shape passed: compare the shapes, not the names alone",
        ),
        "a layer that the model lacks": (
            _DONOR | {"blocks.2.w": (8, 8)}, "a layer of the donor was dropped in silence: only its head may stay unused",
        ),
    }  # fmt: skip
    for what, (donor, cause) in bad.items():
        try:
            plan(dict(_MODEL), dict(donor), set(_OWN))
        except ValueError:
            continue
        return wrong(expected=f"a ValueError for {what}", got="an answer", cause=cause)
    return right("Loud where it must be, and silent about nothing.")


EXERCISES = (
    Exercise(
        id="ch09.painted_loss",
        title="Only what was covered",
        prompt="Write `painted_loss(painted_YX, clean_YX, mask_YX)`: equation G for one grey film.",
        answer="painted_loss",
        check=_check_painted_loss,
        hints=(
            "Which pixels may take part at all?",
            "A tensor indexed by a mask keeps the entries where the mask is True.",
            "The absolute difference, indexed by the mask, then its mean.",
        ),
        stub="def painted_loss(painted_YX, clean_YX, mask_YX):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def painted_loss(painted_YX, clean_YX, mask_YX):\n    return (painted_YX - clean_YX).abs()[mask_YX].mean()\n"
        ),
        alternatives=(
            "def painted_loss(painted_YX, clean_YX, mask_YX):\n"
            "    error_YX = (painted_YX - clean_YX).abs()\n"
            "    return (error_YX * mask_YX).sum() / mask_YX.sum()\n",
            "def painted_loss(painted_YX, clean_YX, mask_YX):\n"
            "    pairs = zip(painted_YX.flatten().tolist(), clean_YX.flatten().tolist(), mask_YX.flatten().tolist())\n"
            "    errors = [abs(p - c) for p, c, m in pairs if m]\n"
            "    return sum(errors) / len(errors)\n",
        ),
        mutants={
            "whole film": "def painted_loss(p, c, m):\n    return (p - c).abs().mean()\n",
            "divided by all pixels": "def painted_loss(p, c, m):\n    return ((p - c).abs() * m).mean()\n",
            "added up": "def painted_loss(p, c, m):\n    return ((p - c).abs() * m).sum()\n",
            "wrong way round": "def painted_loss(p, c, m):\n    return (p - c).abs()[~m].mean()\n",
            "squared": "def painted_loss(p, c, m):\n    return ((p - c) ** 2)[m].mean()\n",
            "cancel": "def painted_loss(p, c, m):\n    return (p - c)[m].mean()\n",
        },
        setup="import torch",
        level="warm-up",
        minutes=4,
    ),
    Exercise(
        id="ch09.cover",
        title="Lay rectangles until enough",
        prompt=(
            "Write `cover(boxes, share, shape)`: lay the rectangles (y0, x0, y1, x1; half-open) one after the other until at "
            "least `share` of the pixels is covered. Return the mask."
        ),
        answer="cover",
        check=_check_cover,
        hints=(
            "What do two rectangles cover that overlap?",
            "Start with an empty mask; before each rectangle ask whether the mask covers enough already.",
            "mask[y0:y1, x0:x1] = True lays one; mask.mean() is the share.",
        ),
        stub="def cover(boxes, share, shape):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def cover(boxes, share, shape):\n"
            "    mask_YX = np.zeros(shape, bool)\n"
            "    for y0, x0, y1, x1 in boxes:\n"
            "        if mask_YX.mean() >= share:\n"
            "            break\n"
            "        mask_YX[y0:y1, x0:x1] = True\n"
            "    return mask_YX\n"
        ),
        alternatives=(
            "def cover(boxes, share, shape):\n"
            "    mask_YX, boxes = torch.zeros(shape, dtype=torch.bool), list(boxes)\n"
            "    while boxes and mask_YX.sum() < share * mask_YX.numel():\n"
            "        y0, x0, y1, x1 = boxes.pop(0)\n"
            "        mask_YX[y0:y1, x0:x1] = True\n"
            "    return mask_YX\n",
        ),
        mutants={
            "areas were added up": (
                "def cover(boxes, share, shape):\n"
                "    mask, laid = np.zeros(shape, bool), 0\n"
                "    for y0, x0, y1, x1 in boxes:\n"
                "        if laid >= share * mask.size:\n            break\n"
                "        mask[y0:y1, x0:x1] = True\n"
                "        laid += (y1 - y0) * (x1 - x0)\n"
                "    return mask\n"
            ),
            "all rectangles": (
                "def cover(boxes, share, shape):\n"
                "    mask = np.zeros(shape, bool)\n"
                "    for y0, x0, y1, x1 in boxes:\n        mask[y0:y1, x0:x1] = True\n"
                "    return mask\n"
            ),
            "stops before": (
                "def cover(boxes, share, shape):\n"
                "    mask = np.zeros(shape, bool)\n"
                "    for y0, x0, y1, x1 in boxes:\n"
                "        after = mask.copy()\n"
                "        after[y0:y1, x0:x1] = True\n"
                "        if after.mean() >= share:\n            break\n"
                "        mask = after\n"
                "    return mask\n"
            ),
            "swapped": (
                "def cover(boxes, share, shape):\n"
                "    mask = np.zeros(shape, bool)\n"
                "    for x0, y0, x1, y1 in boxes:\n"
                "        if mask.mean() >= share:\n            break\n"
                "        mask[y0:y1, x0:x1] = True\n"
                "    return mask\n"
            ),
            "half-open": (
                "def cover(boxes, share, shape):\n"
                "    mask = np.zeros(shape, bool)\n"
                "    for y0, x0, y1, x1 in boxes:\n"
                "        if mask.mean() >= share:\n            break\n"
                "        mask[y0 : y1 + 1, x0 : x1 + 1] = True\n"
                "    return mask\n"
            ),
        },
        setup="import numpy as np, torch",
        minutes=10,
    ),
    Exercise(
        id="ch09.agree",
        title="Agree with the teacher",
        prompt=(
            "Write `agree(student_BK, teacher_BK, centre_K, student_temp, teacher_temp)`: equation 3 for one pair of views, "
            "averaged over the films. No gradient may reach the teacher."
        ),
        answer="agree",
        check=_check_agree,
        hints=(
            "Which of the two is centred, and which is sharper?",
            "The teacher's answer is softmax((t - c) / teacher_temp), detached. The student's is a log_softmax.",
            "Multiply the two, add over the answers, average over the films, and mind the sign.",
        ),
        stub=(
            "def agree(student_BK, teacher_BK, centre_K, student_temp, teacher_temp):\n"
            "    raise NotImplementedError  # your lines here\n"
        ),
        solution=(
            "def agree(student_BK, teacher_BK, centre_K, student_temp, teacher_temp):\n"
            "    answer_BK = ((teacher_BK - centre_K) / teacher_temp).softmax(-1).detach()\n"
            "    log_BK = (student_BK / student_temp).log_softmax(-1)\n"
            "    return -(answer_BK * log_BK).sum(-1).mean()\n"
        ),
        alternatives=(
            "def agree(student_BK, teacher_BK, centre_K, student_temp, teacher_temp):\n"
            "    with torch.no_grad():\n"
            "        answer_BK = torch.softmax((teacher_BK - centre_K) / teacher_temp, 1)\n"
            "    return F.cross_entropy(student_BK / student_temp, answer_BK)\n",
        ),
        mutants={
            "not centred": (
                "def agree(s, t, c, ts, tt):\n"
                "    return -((t / tt).softmax(-1).detach() * (s / ts).log_softmax(-1)).sum(-1).mean()\n"
            ),
            "student was centred": (
                "def agree(s, t, c, ts, tt):\n"
                "    return -(((t - c) / tt).softmax(-1).detach() * ((s - c) / ts).log_softmax(-1)).sum(-1).mean()\n"
            ),
            "temperatures are swapped": (
                "def agree(s, t, c, ts, tt):\n"
                "    return -(((t - c) / ts).softmax(-1).detach() * (s / tt).log_softmax(-1)).sum(-1).mean()\n"
            ),
            "roles are swapped": (
                "def agree(s, t, c, ts, tt):\n"
                "    return -((s / ts).softmax(-1) * ((t.detach() - c) / tt).log_softmax(-1)).sum(-1).mean()\n"
            ),
            "never negative": (
                "def agree(s, t, c, ts, tt):\n"
                "    return (((t - c) / tt).softmax(-1).detach() * (s / ts).log_softmax(-1)).sum(-1).mean()\n"
            ),
            "over answers": (
                "def agree(s, t, c, ts, tt):\n"
                "    return -(((t - c) / tt).softmax(-1).detach() * (s / ts).log_softmax(-1)).mean()\n"
            ),
            "not detached": (
                "def agree(s, t, c, ts, tt):\n"
                "    return -(((t - c) / tt).softmax(-1) * (s / ts).log_softmax(-1)).sum(-1).mean()\n"
            ),
        },
        setup="import torch\nimport torch.nn.functional as F",
        minutes=12,
    ),
    Exercise(
        id="ch09.collapse",
        title="Name the collapse",
        prompt=(
            "Write `collapse(answer_NK)`: each row holds one film's shares of K answers. Return \"one answer\" if every film gets "
            'the same single answer, "uniform" if every film gets all answers alike, else "none".'
        ),
        answer="collapse",
        check=_check_collapse,
        hints=(
            "Take two entropies: that of each film's answer, and that of the mean answer. What is each in a healthy batch?",
            "`entropies(answer_NK)` gives both. Compare them with log K.",
            "Both below a tenth of log K: one answer. The first above nine tenths: uniform. Otherwise none.",
        ),
        stub="def collapse(answer_NK):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def collapse(answer_NK):\n"
            "    each, mean = entropies(answer_NK)\n"
            "    most = math.log(answer_NK.shape[1])\n"
            "    if mean < 0.1 * most:\n"
            '        return "one answer"\n'
            '    return "uniform" if each > 0.9 * most else "none"\n'
        ),
        alternatives=(
            "def collapse(answer_NK):\n"
            "    p = np.asarray(answer_NK)\n"
            "    if p.max(axis=1).mean() < 2 / p.shape[1]:\n"
            '        return "uniform"\n'
            '    return "one answer" if p.mean(axis=0).max() > 0.9 else "none"\n',
        ),
        mutants={
            "only the mean answer": (
                "def collapse(p):\n    mean, most = entropies(p)[1], math.log(p.shape[1])\n"
                '    return "one answer" if mean < 0.1 * most else "uniform" if mean > 0.9 * most else "none"\n'
            ),
            "only the single answers": (
                "def collapse(p):\n    each, most = entropies(p)[0], math.log(p.shape[1])\n"
                '    return "one answer" if each < 0.1 * most else "uniform" if each > 0.9 * most else "none"\n'
            ),
            "kinds of collapse are swapped": (
                "def collapse(p):\n    each, mean = entropies(p)\n    most = math.log(p.shape[1])\n"
                '    return "uniform" if mean < 0.1 * most else "one answer" if each > 0.9 * most else "none"\n'
            ),
            "set too high": (
                "def collapse(p):\n    each, mean = entropies(p)\n    most = p.shape[1]\n"
                '    return "one answer" if mean < 0.05 * most else "uniform" if each > 0.9 * most else "none"\n'
            ),
        },
        setup="import math\nimport numpy as np, torch\nfrom cxrlib.pretraining.dino import entropies",
        minutes=8,
    ),
    Exercise(
        id="ch09.plan",
        title="What may be loaded",
        prompt=(
            "Write `plan(model, donor, own)`: two dictionaries from names to shapes, and the names that are the model's own. Return "
            "(names to load, names that keep their start). The donor's names that begin with `head.` stay unused. Raise a "
            "ValueError if anything else is missing, left over, or of another shape."
        ),
        answer="plan",
        check=_check_plan,
        hints=(
            "Take away what may differ on either side. What is left must be equal, name by name and shape by shape.",
            "The model without its own parts, the donor without its head: two dictionaries.",
            "If the two dictionaries differ, raise. Otherwise return the names of one, and `own`.",
        ),
        stub="def plan(model, donor, own):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def plan(model, donor, own):\n"
            "    wanted = {name: shape for name, shape in model.items() if name not in own}\n"
            '    given = {name: shape for name, shape in donor.items() if not name.startswith("head.")}\n'
            "    if wanted != given:\n"
            '        raise ValueError("these weights are of another model")\n'
            "    return set(wanted), set(own)\n"
        ),
        alternatives=(
            "def plan(model, donor, own):\n"
            "    load = []\n"
            "    for name in model:\n"
            "        if name in own:\n            continue\n"
            "        if name not in donor or donor[name] != model[name]:\n            raise ValueError(name)\n"
            "        load.append(name)\n"
            "    for name in donor:\n"
            '        if name not in load and not name.startswith("head."):\n            raise ValueError(name)\n'
            "    return load, sorted(own)\n",
        ),
        mutants={
            "missing layer passed": (
                "def plan(model, donor, own):\n"
                "    load = [n for n in model if n in donor and n not in own]\n"
                "    return load, sorted(own)\n"
            ),
            "donor's head was taken": (
                "def plan(model, donor, own):\n    load = [n for n in model if n in donor]\n"
                "    return load, [n for n in model if n not in donor]\n"
            ),
            "wrong shape passed": (
                "def plan(model, donor, own):\n"
                "    load = {n for n in model if n not in own}\n"
                '    if load != {n for n in donor if not n.startswith("head.")}:\n        raise ValueError\n'
                "    return load, own\n"
            ),
            "dropped in silence": (
                "def plan(model, donor, own):\n"
                "    load = {n for n in model if n not in own}\n"
                "    if any(donor.get(n) != model[n] for n in load):\n        raise ValueError\n"
                "    return load, own\n"
            ),
            "own parts must be told": (
                "def plan(model, donor, own):\n    return [n for n in model if n not in own], []\n"
            ),
        },
        level="stretch",
        minutes=12,
    ),
)

QUESTIONS = (
    Question(
        id="ch09.rectangles",
        prompt="How many random rectangles does it take, on average, to cover three quarters of a film?",
        unit="rectangles",
        why="Laid at random they overlap more and more, and many are small: the last tenth costs most.",
    ),
    Question(
        id="ch09.median",
        prompt="A hidden pixel is black (0) in three of five films and white (1) in two. What does L1 make the network paint?",
        choices={"a": "0: black", "b": "0.4: dark grey, the mean", "c": "0.5: the middle", "d": "a random one of the two"},
        why="Each step up from 0 gains with two films and loses with three. L1 is least at the median.",
    ),
    Question(
        id="ch09.centring",
        prompt="Sharpening stays, centring is switched off. What happens?",
        choices={
            "a": "every film gets the same single answer",
            "b": "every film gets all answers alike",
            "c": "nothing: the teacher is slow enough",
        },
        why="A single answer for all is perfect agreement, and sharpening rewards it. The centre takes the favourite's lead away.",
    ),
    Question(
        id="ch09.few",
        prompt="200 labelled films, one seed, test patients. Where does the interval of the difference, GMML start minus random, lie?",
        choices={"a": "wholly above 0", "b": "across 0", "c": "wholly below 0"},
        why="Whatever it is here, it is one seed of a very short pre-training. The stored tables have three.",
    ),
)
