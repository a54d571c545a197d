"""Chapter 16's exercises and questions."""

import os
import tempfile
from pathlib import Path

import numpy as np

from cxrlib.course.compare import compare
from cxrlib.course.exercise import Exercise, Question, Verdict, right, wrong

SETUP = "import itertools\nimport os\nfrom pathlib import Path\n\nimport numpy as np\n"


def _check_hours(hours) -> Verdict:
    cases = ((70_000, 75, 4.6e9, 312e12, 0.4, 1), (1_000_000, 3, 37.8e9, 989e12, 0.25, 8))

    def all_cases(count):
        return np.array([count(*case) for case in cases])

    answer = all_cases(lambda n, e, m, p, u, d: 6 * n * e * m / (p * u * d) / 3600)
    return compare(
        np.array([float(hours(*case)) for case in cases]),
        answer,
        what="hours of two trainings",
        causes={
            "that is the forward pass alone: going back costs twice as much again": answer / 3,
            "a multiply-accumulate is two operations: one multiplication and one sum": answer / 2,
            "those are seconds": answer * 3600,
            "the devices share the work: divide by their number": all_cases(lambda n, e, m, p, u, d: 6 * n * e * m / (p * u) / 3600),
            "no device reaches its peak: multiply the peak by the share that is used": all_cases(
                lambda n, e, m, p, u, d: 6 * n * e * m / (p * d) / 3600
            ),
            "the share that is used makes the training longer, not shorter: it belongs below the line": answer
            * np.array([case[4] ** 2 for case in cases]),
        },
        rtol=1e-6,
        note="Do this before every run. If the answer is weeks, no flag will save you.",
    )


def _check_share(device_losses) -> Verdict:
    rng = np.random.default_rng(16)
    loss_WBC = rng.random((3, 4, 5)) + np.arange(3)[:, None, None]
    known_WBC = rng.random((3, 4, 5)) < np.array([0.9, 0.4, 0.15])[:, None, None]
    known_WBC[:, 0, 0] = True
    loss_WBC = np.where(known_WBC, loss_WBC, np.nan)
    sums_W, counts_W = np.nansum(loss_WBC, axis=(1, 2)), known_WBC.sum(axis=(1, 2))
    answer = 3 * sums_W / counts_W.sum()
    return compare(
        np.array([float(x) for x in device_losses(loss_WBC.copy(), known_WBC.copy())]),
        answer,
        what="the loss that each of three devices reports",
        causes={
            "each device divided by its own known labels: divide by those of all devices": sums_W / counts_W,
            "the gradients will be averaged over the devices, so each must be multiplied by their number": answer / 3,
            "unknown labels were counted too: divide by the known ones": 3 * sums_W / known_WBC.size,
            "every loss is NaN: an unknown label must be taken out before the sum, not multiplied by zero": np.full(3, np.nan),
            "each device must report its own part, not the loss of all": np.full(3, sums_W.sum() / counts_W.sum()),
        },
        rtol=1e-6,
        note="Their average is the mean over all known labels, whatever number of devices shares them.",
    )


def _check_timeline(finish) -> Verdict:
    cases = (((2, 2, 2, 9, 2, 2), (3, 3, 3, 3, 3, 3)), ((1, 4, 2, 3, 1), (2, 5, 1, 6, 2)), ((5, 5, 5, 1), (1, 2, 1, 4)))

    def ahead(read, compute):
        ready, end = 0, 0
        for r, c in zip(read, compute, strict=True):
            ready += r
            end = max(end, ready) + c
        return end

    def all_cases(count):
        return np.array([count(*case) for case in cases], float)

    return compare(
        np.array([float(finish(list(read), list(compute))) for read, compute in cases]),
        all_cases(ahead),
        what="when three trainings end",
        causes={
            "that is one after the other: while the device computes, the next batch is being read": all_cases(lambda r, c: sum(r) + sum(c)),
            "neither the reader nor the device is busy all the time: each waits for the other somewhere": all_cases(
                lambda r, c: max(sum(r), sum(c))
            ),
            "reading may run several batches ahead, not only one step beside another": all_cases(
                lambda r, c: r[0] + sum(max(a, b) for a, b in zip(r[1:], c, strict=False)) + c[-1]
            ),
            "the first batch must be read before anything is computed": all_cases(lambda r, c: ahead((0, *r[1:]), c)),
            "a step begins when its batch is there and the device is free: the later of the two, not the sum": all_cases(
                lambda r, c: sum(r) + max(c)
            ),
        },
        rtol=1e-9,
        note="A queue forgives a reader that stumbles. It does not forgive one that is slower on average.",
    )


def _check_save(save) -> Verdict:
    def broken():
        yield "new, "
        raise OSError("no space left on device")

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "state.txt"
        path.write_text("old", encoding="utf-8")
        held = path.with_name("held")  # another name of the same file: it changes only if the file itself is written over
        os.link(path, held)
        save(path, iter(["new, ", "whole"]))
        got = path.read_text(encoding="utf-8") if path.exists() else "nothing"
        if got != "new, whole":
            return wrong(expected='the file holds "new, whole" after a save that worked', got=repr(got), cause="write every piece, then rename over the old file")
        if held.read_text(encoding="utf-8") != "old":
            return wrong(
                expected="a new file in the old one's place", got="the old file, written over", cause="opening the old file for writing empties it: write beside it, then os.replace"
            )
        left = sorted(p.name for p in Path(name).iterdir() if p not in (path, held))
        if left:
            return wrong(expected="one file after a save that worked", got=f"also {left}", cause="the new file was copied, or never renamed: use os.replace")
        try:
            save(path, broken())
            raised = False
        except OSError:
            raised = True
        got = path.read_text(encoding="utf-8") if path.exists() else "nothing"
        if got == "nothing":
            return wrong(
                expected='"new, whole" still there after a save that broke', got="no file", cause="the old file was removed first: it may go only when the new one is whole"
            )
        if got != "new, whole":
            return wrong(
                expected='"new, whole" still there after a save that broke', got=repr(got),
                cause="half a file took the old one's place: write beside it, and rename only once every piece is written",
            )  # fmt: skip
        if not raised:
            return wrong(expected="the error is raised again", got="silence", cause="the error was swallowed: a run that cannot save must say so")
    return right("A kill between any two lines leaves the old state or the new one. (cxrlib.io.atomic_write also waits until the bytes are on the disk.)")


EXERCISES = (
    Exercise(
        id="ch16.hours",
        title="Before you spend",
        prompt="Write hours(images, epochs, macs, peak, mfu, devices): how long a training takes. peak: operations per second of one device.",
        answer="hours",
        check=_check_hours,
        hints=(
            "Operations first: a multiply-accumulate is two, and going back costs twice the way there.",
            "Speed next: what all devices together really do is peak x mfu x devices.",
            "return 6 * images * epochs * macs / (...) / 3600",
        ),
        stub="def hours(images, epochs, macs, peak, mfu, devices):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def hours(images, epochs, macs, peak, mfu, devices):\n"
            "    operations = images * epochs * 6 * macs\n"
            "    return operations / (peak * mfu * devices) / 3600\n"
        ),
        alternatives=(
            "def hours(images, epochs, macs, peak, mfu, devices):\n"
            "    images_per_second = devices * peak * mfu / (2 * macs + 4 * macs)\n"
            "    return images * epochs / images_per_second / 60 / 60\n",
        ),
        mutants={
            "forward pass alone": "def hours(n, e, m, p, u, d):\n    return 2 * n * e * m / (p * u * d) / 3600\n",
            "two operations": "def hours(n, e, m, p, u, d):\n    return 3 * n * e * m / (p * u * d) / 3600\n",
            "those are seconds": "def hours(n, e, m, p, u, d):\n    return 6 * n * e * m / (p * u * d)\n",
            "divide by their number": "def hours(n, e, m, p, u, d):\n    return 6 * n * e * m / (p * u) / 3600\n",
            "no device reaches its peak": "def hours(n, e, m, p, u, d):\n    return 6 * n * e * m / (p * d) / 3600\n",
        },
        setup=SETUP,
        level="warm-up",
        minutes=4,
    ),
    Exercise(
        id="ch16.share",
        title="What each device reports",
        prompt=(
            "Write device_losses(loss_WBC, known_WBC): W devices hold B films with C labels each; loss is NaN where a label is unknown. "
            "Return W numbers whose average is the mean over all known labels of all devices."
        ),
        answer="device_losses",
        check=_check_share,
        hints=(
            "Write down the mean over all known labels first: one sum, one count.",
            "Each device has a part of that sum. Its count is of no use; the count of all is.",
            "np.where(known, loss, 0).sum(...) / known.sum(), and what undoes an average over W?",
        ),
        stub="def device_losses(loss_WBC, known_WBC):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def device_losses(loss_WBC, known_WBC):\n"
            "    sums_W = np.where(known_WBC, loss_WBC, 0).sum(axis=(1, 2))\n"
            "    return len(sums_W) * sums_W / known_WBC.sum()\n"
        ),
        alternatives=(
            "def device_losses(loss_WBC, known_WBC):\n"
            "    world, count = len(loss_WBC), np.count_nonzero(known_WBC)\n"
            "    return [loss_BC[known_BC].sum() * world / count for loss_BC, known_BC in zip(loss_WBC, known_WBC)]\n",
        ),
        mutants={
            "its own known labels": "def device_losses(loss, known):\n    return [a[b].mean() for a, b in zip(loss, known)]\n",
            "multiplied by their number": "def device_losses(loss, known):\n    return np.nansum(loss, axis=(1, 2)) / known.sum()\n",
            "unknown labels were counted": "def device_losses(loss, known):\n    return len(loss) * np.nansum(loss, axis=(1, 2)) / known.size\n",
            "every loss is NaN": "def device_losses(loss, known):\n    return len(loss) * (loss * known).sum(axis=(1, 2)) / known.sum()\n",
        },
        setup=SETUP,
        level="core",
        minutes=10,
    ),
    Exercise(
        id="ch16.timeline",
        title="When it ends",
        prompt=(
            "Write finish(read, compute): seconds to read and to compute each batch, read by a thread that runs as far ahead as it likes. "
            "When is the last batch computed?"
        ),
        answer="finish",
        check=_check_timeline,
        hints=(
            "Keep two clocks: when the reader has finished batch i, and when the device has.",
            "The reader never waits: its clock is a running sum.",
            "The device begins batch i at max(device free, batch i there).",
        ),
        stub="def finish(read, compute):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def finish(read, compute):\n"
            "    ready, end = 0, 0\n"
            "    for r, c in zip(read, compute):\n"
            "        ready += r\n"
            "        end = max(end, ready) + c\n"
            "    return end\n"
        ),
        alternatives=(
            "def finish(read, compute):\n"
            "    # The last wait ends with some batch i: all reading up to it, then all computing from it on.\n"
            "    return max(sum(read[: i + 1]) + sum(compute[i:]) for i in range(len(read)))\n",
        ),
        mutants={
            "one after the other": "def finish(read, compute):\n    return sum(read) + sum(compute)\n",
            "busy all the time": "def finish(read, compute):\n    return max(sum(read), sum(compute))\n",
            "several batches ahead": (
                "def finish(read, compute):\n    return read[0] + sum(max(r, c) for r, c in zip(read[1:], compute)) + compute[-1]\n"
            ),
            "first batch must be read": (
                "def finish(read, compute):\n"
                "    ready, end = 0, 0\n"
                "    for i, (r, c) in enumerate(zip(read, compute)):\n"
                "        ready += r if i else 0\n"
                "        end = max(end, ready) + c\n"
                "    return end\n"
            ),
        },
        setup=SETUP,
        level="core",
        minutes=12,
    ),
    Exercise(
        id="ch16.save",
        title="Save, or leave it alone",
        prompt=(
            "Write save(path, pieces): write the strings that the iterator pieces gives into the file path. If it raises in the middle, "
            "the old file must stay whole, and the error must be raised."
        ),
        answer="save",
        check=_check_save,
        hints=(
            "Never open the old file for writing: opening it empties it.",
            "Write to another name in the same folder.",
            "os.replace(new, path), after the last piece, outside of any finally.",
        ),
        stub="def save(path, pieces):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def save(path, pieces):\n"
            '    beside = path.with_suffix(".part")\n'
            '    with open(beside, "w") as file:\n'
            "        for piece in pieces:\n"
            "            file.write(piece)\n"
            "    os.replace(beside, path)\n"
        ),
        alternatives=(
            "def save(path, pieces):\n"
            '    text = "".join(pieces)\n'
            '    beside = Path(str(path) + ".new")\n'
            "    beside.write_text(text)\n"
            "    beside.replace(path)\n",
        ),
        mutants={
            "empties it": 'def save(path, pieces):\n    with open(path, "w") as file:\n        for piece in pieces:\n            file.write(piece)\n',
            "half a file took": (
                "def save(path, pieces):\n"
                '    beside = path.with_suffix(".part")\n'
                "    try:\n"
                '        with open(beside, "w") as file:\n'
                "            for piece in pieces:\n"
                "                file.write(piece)\n"
                "    finally:\n"
                "        os.replace(beside, path)\n"
            ),
            "removed first": (
                "def save(path, pieces):\n"
                '    beside = path.with_suffix(".part")\n'
                "    path.unlink()\n"
                '    with open(beside, "w") as file:\n'
                "        for piece in pieces:\n"
                "            file.write(piece)\n"
                "    os.replace(beside, path)\n"
            ),
            "error was swallowed": (
                "def save(path, pieces):\n"
                "    try:\n"
                '        text = "".join(pieces)\n'
                "    except OSError:\n"
                "        return\n"
                '    beside = path.with_suffix(".part")\n'
                "    beside.write_text(text)\n"
                "    os.replace(beside, path)\n"
            ),
        },
        setup=SETUP,
        level="stretch",
        minutes=10,
    ),
)


QUESTIONS = (
    Question(
        id="ch16.price",
        prompt="LT-ViT on NIH: pre-training for 1,000 epochs of two views, then 75 epochs with labels. What share of all operations is pre-training?",
        choices={"a": "about half", "b": "about three quarters", "c": "more than nine tenths"},
        why="Labels are scarce, so one trains long without them. The price of a method is mostly the price of its start.",
    ),
    Question(
        id="ch16.means",
        prompt="Four devices, each averaging over its own known labels; then the gradients are averaged. How far is the result from the whole batch's?",
        choices={"a": "rounding error, about a millionth", "b": "about one per cent", "c": "ten per cent or so"},
        why="A device with few known labels gives each of them more weight. The fewer labels are known, the farther off.",
    ),
    Question(
        id="ch16.ahead",
        prompt="Eight batches of 3 s each; reading takes 2 s, once 9 s. One after the other: 47 s. With three batches read ahead?",
        choices={"a": "26: only the first read is waited for", "b": "30", "c": "47: the slow read spoils it"},
        why="The queue pays for a stumble with what it has saved before. Early in an epoch it has saved little.",
    ),
    Question(
        id="ch16.ones",
        prompt="Add 1 to a bfloat16 number a thousand times, from 0. What comes out?",
        choices={"a": "1000", "b": "1024, rounded up", "c": "256"},
        why="Eight bits write every whole number up to 256. Past it they lie 2 apart, and 257, half-way, is rounded back to the even neighbour.",
    ),
    Question(
        id="ch16.kept",
        prompt="A ViT of 12 layers keeps its inner values for the gradient. If each layer forgets them, how much is still kept?",
        choices={"a": "about half", "b": "about a quarter", "c": "less than a tenth"},
        why="Of each layer only its input stays: one vector per token, where queries, keys, values and the MLP's four times wider ones were.",
    ),
)
