"""Chapter 15's exercises and questions."""

import numpy as np

from cxrlib.course.compare import as_array, compare
from cxrlib.course.exercise import Exercise, Question, Verdict, wrong


def _check_storage(storage) -> Verdict:
    cases = ((86_524, 75, 14), (600, 8, 5), (1_000, 20, 14))

    def row(formula):
        return np.array([formula(N, E, C) for N, E, C in cases], dtype=float)

    return compare(
        [storage(N, E, C) for N, E, C in cases],
        row(lambda N, E, C: 2 * N * E * C),
        what="bytes for 86,524 images in 75 epochs with 14 findings, and for two smaller jobs",
        causes={
            "32-bit floats were counted: a stored logit has 16 bits": row(lambda N, E, C: 4 * N * E * C),
            "bits were counted: a byte has eight": row(lambda N, E, C: 16 * N * E * C),
            "one byte was counted for a logit: 16 bits are two": row(lambda N, E, C: N * E * C),
            "the epochs are missing: each epoch shows another view, and each view has its own logits": row(lambda N, E, C: 2 * N * C),
            "the findings are missing: each view has one logit for each finding": row(lambda N, E, C: 2 * N * E),
            "seeds were counted: the view follows from (seed, epoch), which the run knows": row(lambda N, E, C: 2 * N * E * C + 4 * N * E),
        },
        rtol=0,
        atol=0.5,
        note="182 MB for NIH: less than one part in twenty of its images at 224 pixels.",
    )


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


def _bce(z, q):
    return np.logaddexp(0, z) - q * z


def _check_soft(soft_bce) -> Verdict:
    import torch

    rng = np.random.default_rng(15)
    z, t = rng.normal(size=(2, 4, 3)) * 1.7
    y = (rng.random((4, 3)) < 0.5).astype(float)
    y[0, 1] = y[3, 2] = np.nan
    known, k = np.isfinite(y), 0.3
    y0 = np.nan_to_num(y)

    def mean(q, z=z, known=known):
        return float(_bce(z, q)[known].mean())

    mixed = (1 - k) * y0 + k * _sigmoid(t)
    got = as_array(soft_bce(torch.tensor(z), torch.tensor(y), torch.tensor(t), k))
    if got is not None and got.ndim == 0 and np.isnan(got):
        return wrong(
            expected="a number",
            got="NaN",
            cause="unknown labels are NaN, and NaN times anything is NaN: leave those pairs out before the mean",
        )
    return compare(
        got,
        mean(mixed),
        what="the loss of 4 films and 3 findings with kappa 0.3, two labels unknown",
        causes={
            "the teacher's logits were used as targets: a target is a probability, so a sigmoid is missing": mean((1 - k) * y0 + k * t),
            "kappa and 1 - kappa are exchanged: kappa is the teacher's part": mean(k * y0 + (1 - k) * _sigmoid(t)),
            "unknown labels were counted as absent": float(_bce(z, mixed).mean()),
            "unknown labels were left out of the labels' part only: then the two parts count different pairs": (1 - k) * mean(y0)
            + k * float(_bce(z, _sigmoid(t)).mean()),
            "this is the sum over the known pairs: take their mean": mean(mixed) * known.sum(),
            "divided by all pairs, not by the known ones": float(_bce(z, mixed)[known].sum() / z.size),
            "the student's logits were mixed, not the targets": mean(y0, z=(1 - k) * z + k * t),
            "only the labels were used": mean(y0),
            "only the teacher was used": mean(_sigmoid(t)),
            "the teacher was rounded to yes and no: its shades are what it knows": mean((1 - k) * y0 + k * (t > 0)),
        },
        note="One cross-entropy with a mixed target is the mix of two: it is linear in the target.",
    )


def _check_best(best_logit) -> Verdict:
    cases = ((1.0, 0.4, 0.5), (0.0, 1.3, 0.25), (1.0, -2.0, 0.9), (0.0, -0.7, 1.0))

    def row(formula):
        return np.array([formula(*case) for case in cases])

    def logit(p):
        return np.log(p / (1 - p))

    def clipped(p):
        return logit(np.clip(p, 1e-6, 1 - 1e-6))

    return compare(
        [best_logit(*case) for case in cases],
        row(lambda y, t, k: logit((1 - k) * y + k * _sigmoid(t))),
        what="the best logits for four triples of label, teacher's logit and kappa",
        causes={
            "this is the best probability: turn it into a logit": row(lambda y, t, k: (1 - k) * y + k * _sigmoid(t)),
            "label and logit were mixed: a label is a probability, a logit is not": row(lambda y, t, k: (1 - k) * y + k * t),
            "kappa and 1 - kappa are exchanged: kappa is the teacher's part": row(
                lambda y, t, k: clipped(k * y + (1 - k) * _sigmoid(t))
            ),
            "the teacher alone was followed": row(lambda y, t, k: t),
            "the logarithm of the probability was taken, without 1 - p": row(lambda y, t, k: np.log((1 - k) * y + k * _sigmoid(t))),
            "the sign is wrong: logit(p) = log(p / (1 - p))": row(lambda y, t, k: -logit((1 - k) * y + k * _sigmoid(t))),
            "only the teacher's part is in the target: add the label's": row(lambda y, t, k: logit(k * _sigmoid(t))),
        },
        rtol=1e-4,
        note="With labels alone the best logit is infinite. A teacher gives the student a place to stop.",
    )


def _check_noise(view_noise) -> Verdict:
    rng = np.random.default_rng(3)
    E, N, C = 5, 7, 3
    logits = rng.normal(size=(1, N, C)) * np.array([1.0, 2.0, 0.5]) + rng.normal(size=(E, N, C)) * 0.6 + np.array([-2.0, 0.0, 1.0])
    within = logits.var(axis=0).mean(axis=0)
    total = logits.reshape(-1, C).var(axis=0)
    between = logits.mean(axis=0).var(axis=0)
    return compare(
        view_noise(logits),
        within / total,
        what="shares for 3 findings, from logits of 5 views of 7 films",
        causes={
            "these are standard deviations: shares add up for variances only": np.sqrt(within / total),
            "this is what differs between films: 1 minus it is what you want": between / total,
            "divided by the variance between films, not by all of it": within / between,
            "this is the variance itself: divide by the variance of everything": within,
            "the axes are exchanged: views are on the first axis, films on the second": logits.var(axis=1).mean(axis=0) / total,
            "all findings were thrown together: one share for each finding": np.float64(within.mean() / logits.var()),
            "the films' own means were not kept apart: take the variance over views for each film first": logits.mean(axis=1).var(axis=0)
            / total,
        },
        note="What is left is what a teacher says of the film, whatever the view.",
    )


def _check_dense(dense) -> Verdict:
    values = np.array([0.50, 0.20, 0.10])
    indices = np.array([7, 0, 4])
    classes = 9
    rest = (1 - values.sum()) / (classes - 3)

    def build(fill, values=values, indices=indices):
        p = np.full(classes, fill)
        p[indices] = values
        return p

    return compare(
        dense(values, indices, classes),
        build(rest),
        what="nine probabilities from the three largest: 0.5 at class 7, 0.2 at class 0, 0.1 at class 4",
        causes={
            "the rest is missing: what the stored values leave over is spread evenly over the other classes": build(0.0),
            "the rest was spread over all classes: only those that were not stored share it": build((1 - values.sum()) / classes),
            "each other class got the whole rest": build(1 - values.sum()),
            "the stored values were scaled to a sum of 1, and nothing was left for the others": build(0.0, values=values / values.sum()),
            "the values were put in order, not at their classes": np.concatenate([values, np.full(classes - 3, rest)]),
            "the rest was added to the stored classes as well": build(rest, values=values + rest),
        },
        note="For a thousand exclusive classes this saves four fifths. For fourteen separate sigmoids there is no sum to rely on.",
    )


_STORAGE = "def storage(images, epochs, findings):\n    return images * epochs * findings * 2\n"

_SOFT = (
    "def soft_bce(logits, labels, teacher, kappa):\n"
    "    known = ~labels.isnan()\n"
    "    target = (1 - kappa) * labels[known] + kappa * teacher[known].sigmoid()\n"
    "    return F.binary_cross_entropy_with_logits(logits[known], target)\n"
)

_BEST = (
    "def best_logit(label, teacher_logit, kappa):\n"
    "    p = (1 - kappa) * label + kappa / (1 + np.exp(-teacher_logit))\n"
    "    return np.log(p / (1 - p))\n"
)

_NOISE = (
    "def view_noise(logits_ENC):\n"
    "    within = logits_ENC.var(axis=0).mean(axis=0)\n"
    "    return within / logits_ENC.var(axis=(0, 1))\n"
)

_DENSE = (
    "def dense(values, indices, classes):\n"
    "    rest = (1 - np.sum(values)) / (classes - len(values))\n"
    "    probabilities = np.full(classes, rest)\n"
    "    probabilities[indices] = values\n"
    "    return probabilities\n"
)

_SETUP = "import numpy as np\nimport torch\nimport torch.nn.functional as F\n"

EXERCISES = (
    Exercise(
        id="ch15.storage",
        title="How many bytes",
        prompt="Write `storage(images, epochs, findings)`: the bytes of all logits that a teacher must leave, in 16-bit floats.",
        answer="storage",
        check=_check_storage,
        hints=(
            "How many views will the student see in all?",
            "Each view has one logit for each finding.",
            "Sixteen bits are two bytes.",
        ),
        stub="def storage(images, epochs, findings):\n    raise NotImplementedError  # a whole number of bytes\n",
        solution=_STORAGE,
        alternatives=(
            "def storage(images, epochs, findings):\n    return np.empty((epochs, images, findings), np.float16).nbytes\n",
        ),
        mutants={
            "32-bit": _STORAGE.replace("* 2", "* 4"),
            "bits were counted": _STORAGE.replace("* 2", "* 16"),
            "one byte": _STORAGE.replace(" * 2", ""),
            "epochs are missing": _STORAGE.replace(" * epochs", ""),
            "findings are missing": _STORAGE.replace(" * findings", ""),
            "seeds were counted": _STORAGE.replace("* 2", "* 2 + 4 * images * epochs"),
        },
        setup=_SETUP,
        level="warm-up",
        minutes=3,
    ),
    Exercise(
        id="ch15.soft",
        title="The loss, with unknown labels",
        prompt=(
            "Write `soft_bce(logits, labels, teacher, kappa)`: eq. 1 for tensors [B, C], the mean over the known labels. Unknown "
            "labels are NaN; `teacher` holds logits."
        ),
        answer="soft_bce",
        check=_check_soft,
        hints=(
            "Mix the targets, not the losses: (1 - kappa) y + kappa p.",
            "p is the sigmoid of the teacher's logit. NaN labels must leave before anything is averaged.",
            "Index all three tensors with ~labels.isnan(), then F.binary_cross_entropy_with_logits.",
        ),
        stub="def soft_bce(logits, labels, teacher, kappa):\n    raise NotImplementedError  # one number\n",
        solution=_SOFT,
        alternatives=(
            "def soft_bce(logits, labels, teacher, kappa):\n"
            "    from cxrlib.losses.distilled import distilled_bce\n"
            "    return distilled_bce(logits, labels, teacher, share=kappa)\n",
            "def soft_bce(logits, labels, teacher, kappa):\n"
            "    weight = (~labels.isnan()).double()\n"
            "    y = labels.nan_to_num()\n"
            "    hard = F.binary_cross_entropy_with_logits(logits, y, weight, reduction='sum')\n"
            "    soft = F.binary_cross_entropy_with_logits(logits, teacher.sigmoid(), weight, reduction='sum')\n"
            "    return ((1 - kappa) * hard + kappa * soft) / weight.sum()\n",
        ),
        mutants={
            "a sigmoid is missing": _SOFT.replace("teacher[known].sigmoid()", "teacher[known]"),
            "are exchanged": _SOFT.replace("(1 - kappa) * labels[known] + kappa *", "kappa * labels[known] + (1 - kappa) *"),
            "counted as absent": _SOFT.replace("known = ~labels.isnan()", "labels = labels.nan_to_num()\n    known = labels > -1"),
            "labels' part only": (
                "def soft_bce(logits, labels, teacher, kappa):\n"
                "    known = ~labels.isnan()\n"
                "    hard = F.binary_cross_entropy_with_logits(logits[known], labels[known])\n"
                "    return (1 - kappa) * hard + kappa * F.binary_cross_entropy_with_logits(logits, teacher.sigmoid())\n"
            ),
            "NaN times anything": _SOFT.replace("known = ~labels.isnan()", "known = labels.isnan() | True"),
            "take their mean": _SOFT.replace(", target)", ", target, reduction='sum')"),
            "by all pairs": _SOFT.replace("target)", "target, reduction='sum') / labels.numel()"),
            "student's logits were mixed": _SOFT.replace(" + kappa * teacher[known].sigmoid()", " + kappa * labels[known]").replace(
                "(logits[known], target)", "((1 - kappa) * logits[known] + kappa * teacher[known], target)"
            ),
            "only the labels": _SOFT.replace("teacher[known].sigmoid()", "labels[known]"),
            "only the teacher was used": _SOFT.replace("(1 - kappa) * labels[known] + kappa * ", ""),
            "rounded to yes and no": _SOFT.replace("teacher[known].sigmoid()", "(teacher[known] > 0).double()"),
        },
        setup=_SETUP,
        level="core",
        minutes=12,
    ),
    Exercise(
        id="ch15.best",
        title="Where the loss is smallest",
        prompt=(
            "Write `best_logit(label, teacher_logit, kappa)`: the student's logit at which eq. 1 is smallest, for one film and one "
            "finding."
        ),
        answer="best_logit",
        check=_check_best,
        hints=(
            "The slope of a cross-entropy is the student's probability minus the target.",
            "So the best probability is the mixed target.",
            "From a probability to a logit: log(p / (1 - p)).",
        ),
        stub="def best_logit(label, teacher_logit, kappa):\n    raise NotImplementedError  # a number\n",
        solution=_BEST,
        alternatives=(
            "def best_logit(label, teacher_logit, kappa):\n"
            "    from scipy.special import expit, logit\n"
            "    return logit((1 - kappa) * label + kappa * expit(teacher_logit))\n",
            "def best_logit(label, teacher_logit, kappa):\n"
            "    low, high = -30.0, 30.0\n"
            "    target = (1 - kappa) * label + kappa / (1 + np.exp(-teacher_logit))\n"
            "    for _ in range(200):\n"
            "        middle = (low + high) / 2\n"
            "        low, high = (middle, high) if 1 / (1 + np.exp(-middle)) < target else (low, middle)\n"
            "    return low\n",
        ),
        mutants={
            "turn it into a logit": _BEST.replace("np.log(p / (1 - p))", "p"),
            "a logit is not": (
                "def best_logit(label, teacher_logit, kappa):\n    return (1 - kappa) * label + kappa * teacher_logit\n"
            ),
            "are exchanged": _BEST.replace("(1 - kappa) * label + kappa /", "kappa * label + (1 - kappa) /").replace(
                "np.log(p / (1 - p))", "np.log(np.clip(p, 1e-6, 1 - 1e-6) / (1 - np.clip(p, 1e-6, 1 - 1e-6)))"
            ),
            "teacher alone": "def best_logit(label, teacher_logit, kappa):\n    return teacher_logit\n",
            "without 1 - p": _BEST.replace("p / (1 - p)", "p"),
            "sign is wrong": _BEST.replace("np.log(p / (1 - p))", "np.log((1 - p) / p)"),
            "add the label's": _BEST.replace("(1 - kappa) * label + ", ""),
        },
        setup=_SETUP,
        level="core",
        minutes=8,
    ),
    Exercise(
        id="ch15.noise",
        title="How much is the view",
        prompt=(
            "Write `view_noise(logits_ENC)` in NumPy: for each finding, which share of the variance of the teacher's logits comes "
            "from the view. E views of N films."
        ),
        answer="view_noise",
        check=_check_noise,
        hints=(
            "For one film, the variance over its views is what the view does. Then take the mean over films.",
            "Divide by the variance of all logits of that finding, over views and films together.",
            "logits_ENC.var(axis=0) is [N, C]; logits_ENC.var(axis=(0, 1)) is [C].",
        ),
        stub="def view_noise(logits_ENC):\n    raise NotImplementedError  # one share for each finding\n",
        solution=_NOISE,
        alternatives=(
            "def view_noise(logits_ENC):\n"
            "    between = logits_ENC.mean(axis=0).var(axis=0)\n"
            "    return 1 - between / logits_ENC.reshape(-1, logits_ENC.shape[-1]).var(axis=0)\n",
        ),
        mutants={
            "standard deviations": _NOISE.replace("return within / logits_ENC.var(axis=(0, 1))", "return np.sqrt(within / logits_ENC.var(axis=(0, 1)))"),
            "differs between films": _NOISE.replace("logits_ENC.var(axis=0).mean(axis=0)", "logits_ENC.mean(axis=0).var(axis=0)"),
            "variance between films": _NOISE.replace("logits_ENC.var(axis=(0, 1))", "logits_ENC.mean(axis=0).var(axis=0)"),
            "the variance itself": _NOISE.replace(" / logits_ENC.var(axis=(0, 1))", ""),
            "axes are exchanged": _NOISE.replace("logits_ENC.var(axis=0).mean(axis=0)", "logits_ENC.var(axis=1).mean(axis=0)"),
            "thrown together": _NOISE.replace("within / logits_ENC.var(axis=(0, 1))", "within.mean() / logits_ENC.var()"),
            "were not kept apart": _NOISE.replace("logits_ENC.var(axis=0).mean(axis=0)", "logits_ENC.mean(axis=1).var(axis=0)"),
        },
        setup=_SETUP,
        level="core",
        minutes=10,
    ),
    Exercise(
        id="ch15.sparse",
        title="TinyViT's sparse store",
        prompt=(
            "TinyViT keeps only the k largest softmax values and their classes. Write `dense(values, indices, classes)`: all "
            "probabilities again, what is left over spread evenly over the classes that were not kept."
        ),
        answer="dense",
        check=_check_dense,
        hints=(
            "All probabilities sum to 1. How much do the stored ones leave over?",
            "That rest is shared by classes - k classes.",
            "Fill an array with the share, then put the values at their indices.",
        ),
        stub="def dense(values, indices, classes):\n    raise NotImplementedError  # `classes` probabilities\n",
        solution=_DENSE,
        alternatives=(
            "def dense(values, indices, classes):\n"
            "    kept = dict(zip(list(indices), list(values)))\n"
            "    rest = (1 - sum(values)) / (classes - len(kept))\n"
            "    return [kept.get(c, rest) for c in range(classes)]\n",
        ),
        mutants={
            "the rest is missing": _DENSE.replace("np.full(classes, rest)", "np.zeros(classes)"),
            "over all classes": _DENSE.replace("(classes - len(values))", "classes"),
            "the whole rest": _DENSE.replace(" / (classes - len(values))", ""),
            "scaled to a sum of 1": _DENSE.replace("np.full(classes, rest)", "np.zeros(classes)").replace(
                "[indices] = values", "[indices] = values / np.sum(values)"
            ),
            "put in order": _DENSE.replace("[indices] = values", "[: len(values)] = values"),
            "stored classes as well": _DENSE.replace("[indices] = values", "[indices] = values + rest"),
        },
        setup=_SETUP,
        level="stretch",
        minutes=10,
    ),
)

QUESTIONS = (
    Question(
        id="ch15.target",
        prompt="The label says 0, the teacher 0.8, and kappa is one half. At which probability of the student is the loss smallest?",
        unit="(a probability)",
        why="The mixed target is half of 0 and half of 0.8, and a cross-entropy is smallest at its target.",
        close=0.01,
    ),
    Question(
        id="ch15.size",
        prompt="14 logits in 16 bits for 86,524 films in 75 epochs. How many megabytes?",
        unit="MB",
        why="28 bytes a view, and 6.5 million views.",
        close=0.1,
    ),
    Question(
        id="ch15.views",
        prompt="Of the variance of a teacher's logits, what share comes from the view of the film, in per cent?",
        unit="per cent",
        why="Small moves matter little beside what is on the film. But they are not nothing: a wrong view is a little label noise.",
        close=0.35,
    ),
    Question(
        id="ch15.kappa",
        prompt="Which student scores best on other patients, if a lead below 0.005 counts as none?",
        choices={
            "a": "labels alone (kappa 0), or no lead over it",
            "b": "a mix (kappa one quarter to three quarters)",
            "c": "the teacher alone (kappa 1)",
        },
        why="Clean labels are right about this film, and a second opinion adds little to them. Where they are wrong, it does.",
    ),
)
