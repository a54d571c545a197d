"""More labels from the same images: logical functions of the findings, such as "Effusion or Mass".

    python -m cxrlib composites STORE OUT --labels 50

How does a model with one token per label do with 5, 13, 50 or 100 labels? To ask that, the images must stay the same while
the labels grow. A composite label is true by definition, at no cost, and it depends on others in a way that we know.

The first labels are findings, in the order of `PLAIN`; from the fifteenth on they are composites. With the same seed a longer
list begins with the shorter one, so stores of 5, 13, 50 and 100 labels are nested, and what they share can be compared.

Letters of shapes: N images, C labels.
"""

import argparse
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cxrlib.data.store import ImageStore, finish_store
from cxrlib.data.studies import Studies
from cxrlib.errors import CxrError
from cxrlib.findings import CHEXPERT_COMPETITION, CHEXPERT_TO_NIH, NIH_FINDINGS

FIVE: tuple[str, ...] = tuple(CHEXPERT_TO_NIH[name] for name in CHEXPERT_COMPETITION)
"""CheXpert's competition findings, by NIH's names: the labels of a store with five."""
PLAIN: tuple[str, ...] = (*FIVE, *(name for name in NIH_FINDINGS if name not in FIVE))
"""The findings in the order in which a growing list takes them. The last, Hernia, is the one that thirteen leave out."""
BAND = (0.03, 0.5)
"""Lowest and highest share of the train_val images that a composite may have: an AUROC needs positives and negatives."""
ALIKE = 0.9
"""A composite whose correlation with a label already taken exceeds this, either way, is no label of its own."""


class Composite(NamedTuple):
    """One label made from findings."""

    name: str
    """In words, without a comma."""
    parts: tuple[str, ...]
    """The findings it is made from."""
    truth: Callable[[np.ndarray], np.ndarray]
    """Bool [N, parts] to bool [N]."""


KINDS: tuple[tuple[str, int, Callable[[np.ndarray], np.ndarray]], ...] = (
    ("{} and {}", 2, lambda has: has.all(axis=1)),
    ("{} or {}", 2, lambda has: has.any(axis=1)),
    ("exactly one of {} and {}", 2, lambda has: has.sum(axis=1) == 1),
    ("{} without {}", 2, lambda has: has[:, 0] & ~has[:, 1]),
    ("{} or {} or {}", 3, lambda has: has.any(axis=1)),
    ("at least two of {} and {} and {}", 3, lambda has: has.sum(axis=1) >= 2),
)
"""Words, how many findings, and the rule. The kinds take turns, so that a list holds all of them."""


def candidates(findings: tuple[str, ...]) -> list[list[Composite]]:
    """Every composite of these findings, one list per kind, in a fixed order."""
    lists = []
    for words, count, truth in KINDS:
        choose = itertools.permutations if "without" in words else itertools.combinations
        lists.append([Composite(words.format(*parts), parts, truth) for parts in choose(findings, count)])
    return lists


def column(composite: Composite, labels_NC: np.ndarray, findings: tuple[str, ...]) -> np.ndarray:
    """A composite's label of each image, float32 [N]: 1, 0, or NaN where one of its parts is unknown."""
    parts = labels_NC[:, [findings.index(name) for name in composite.parts]]
    truth_N = composite.truth(parts == 1).astype(np.float32)
    return np.where(np.isnan(parts).any(axis=1), np.float32("nan"), truth_N)


def draw(
    labels_NC: np.ndarray, findings: tuple[str, ...], *, count: int, seed: int, band: tuple[float, float] = BAND
) -> list[Composite]:
    """Draws composites; the first ones of a longer draw are those of a shorter one.

    Args:
        labels_NC: 1, 0 or NaN, of the images that decide what is frequent enough (train_val: the test patients must not).
        findings: Names of the columns.
        count: How many composites.
        seed: Of the draw.
        band: Lowest and highest share of positives.

    Raises:
        CxrError: There are fewer that are frequent enough and unlike all others.
    """
    if seed < 0:
        raise CxrError(f"seed {seed} is negative: give 0 or more")
    rng = np.random.default_rng(seed)
    turns = [iter([kind[i] for i in rng.permutation(len(kind))]) for kind in candidates(findings)]
    taken_CN = [_standard(labels_NC[:, c]) for c in range(len(findings))]
    chosen: list[Composite] = []
    while len(chosen) < count:
        if not turns:
            raise CxrError(
                f"only {len(chosen)} composites of these {len(findings)} findings have a share of {band[0]} to {band[1]} and are "
                "unlike all others: ask for fewer --labels"
            )
        turn = turns.pop(0)
        for composite in turn:
            label_N = column(composite, labels_NC, findings)
            mean = np.nanmean(label_N) if np.isfinite(label_N).any() else 0.0
            if not band[0] <= mean <= band[1]:
                continue
            standard_N = _standard(label_N)
            if max(abs(float(other_N @ standard_N)) for other_N in taken_CN) > ALIKE:
                continue
            taken_CN.append(standard_N)
            chosen.append(composite)
            turns.append(turn)  # back to the end of the queue; a kind that runs out leaves it
            break
    return chosen


def _standard(label_N: np.ndarray) -> np.ndarray:
    """A label with mean 0 and length 1, so that a product of two is their correlation; unknown counts as the mean."""
    centred_N = np.nan_to_num(label_N - np.nanmean(label_N)) if np.isfinite(label_N).any() else np.zeros(len(label_N))
    length = np.linalg.norm(centred_N)
    return centred_N / length if length else centred_N


def with_composites(store_folder: str | os.PathLike, out: str | os.PathLike, *, count: int, seed: int = 0) -> ImageStore:
    """Writes a store with the same images and `count` labels: findings first, then composites.

    The pixels are not copied where the file system can link them, so do not change either file.

    Args:
        store_folder: A store that has NIH's 14 findings.
        out: The folder to write. If it holds this very store already, that is opened.
        count: Labels in all.
        seed: Of the composites.

    Raises:
        CxrError: A finding is missing, there are not so many composites, or `out` holds something else.
    """
    source, out = ImageStore.open(store_folder), Path(out)
    missing = [name for name in PLAIN if name not in source.findings]
    if missing:
        raise CxrError(f"{store_folder} has no finding {missing[0]!r}: composites are made from NIH's fourteen findings")
    if count < 1:
        raise CxrError(f"{count} labels are none: ask for at least 1")
    plain = PLAIN[:count]
    labels_NC = source.labels_NC[:, [source.findings.index(name) for name in PLAIN]]
    train_val = source.where(split="train_val")
    composites = draw(labels_NC[train_val], PLAIN, count=count - len(plain), seed=seed)
    job = hashlib.sha256(json.dumps(["composites", source.sha256, [*plain, *(c.name for c in composites)]]).encode()).hexdigest()
    if (out / "store.json").exists():
        store = ImageStore.open(out)
        if store.meta["job"] != job:
            raise CxrError(f"{out} holds another store: remove it, or name another folder")
        return store

    table = source.table.drop(columns=[name for name in source.findings if name not in plain])
    table[list(plain)] = labels_NC[:, : len(plain)]
    order = [name for name in table if name not in (*plain, *OF_PIXELS)]
    table = table[[*order, "width", "height", *plain]].copy()
    for composite in composites:
        table[composite.name] = column(composite, labels_NC, PLAIN)
    notes = [*source.meta["notes"]]
    if composites:
        notes.append(f"{len(composites)} of the {count} labels are composites of the findings, drawn with seed {seed}")
    if source.left_out:
        notes.append(f"{len(source.left_out)} images had been left out of the store that this one was made from")
    labels = (*plain, *(composite.name for composite in composites))
    boxes = source.boxes[source.boxes["finding"].isin(plain)]
    studies = Studies(table, boxes, labels, source.source, source.generation, Path(store_folder), tuple(notes))

    return store_with_labels(source, studies, out, job=job)


OF_PIXELS = ("width", "height", "file_width", "file_height", "mode", "inverted")
"""Columns of a store's table that its pixels decide."""


def store_with_labels(source: ImageStore, studies: Studies, out: Path, *, job: str) -> ImageStore:
    """A store of the same pixels, in the same order, with other labels. Pixels are linked where the file system can.

    Args:
        source: Where the pixels are.
        studies: The new table, image by image as in the source.
        out: The folder to write.
        job: Names what made it.
    """
    kept = [dict(row=i, **row) for i, row in enumerate(source.table[list(OF_PIXELS)].to_dict("records"))]
    out.mkdir(parents=True, exist_ok=True)
    (out / "images.u8").unlink(missing_ok=True)
    try:
        os.link(source.folder / "images.u8", out / "images.u8")
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source.folder / "images.u8", out / "images.u8")
    blocks, first = [], 0
    for block in source.meta["blocks"]:
        blocks.append({**block, "kept": kept[first : first + block["n"]], "left_out": []})
        first += block["n"]
    finish_store(out, studies, blocks, job=job, size=source.size)
    return ImageStore.open(out)


def label_only_auroc(labels_NC: np.ndarray, patients_N: np.ndarray, *, folds: int = 5) -> np.ndarray:
    """How well each label can be told from the other labels, without an image: AUROC, [C].

    A logistic regression per label on all the others, fitted on some patients and scored on the rest, each patient once.
    0.5: the others say nothing. 1: they settle it. An unknown label among the others counts as its mean; an image whose own
    label is unknown is left out.

    Args:
        labels_NC: 1, 0 or NaN.
        patients_N: Patient of each image. No patient is on both sides of a fit.
        folds: Parts that the patients are cut into.

    Returns:
        float64 [C]; NaN where a part to fit on lacks positives or negatives, or where there is no other label.

    Source: our measure of how much labels depend on one another.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    from cxrlib.metrics import auroc

    filled_NC = np.where(np.isnan(labels_NC), np.nanmean(labels_NC, axis=0), labels_NC).astype(np.float64)
    result_C = np.full(labels_NC.shape[1], np.nan)
    for c in range(labels_NC.shape[1]):
        rows = np.flatnonzero(~np.isnan(labels_NC[:, c]))
        others_NK, label_N = np.delete(filled_NC[rows], c, axis=1), labels_NC[rows, c]
        score_N = np.full(len(rows), np.nan)
        if not others_NK.shape[1]:
            continue
        for fit, held in GroupKFold(folds).split(others_NK, groups=np.asarray(patients_N)[rows]):
            if len(np.unique(label_N[fit])) == 2:
                model = LogisticRegression(max_iter=1000).fit(others_NK[fit], label_N[fit])
                score_N[held] = model.decision_function(others_NK[held])
        if not np.isnan(score_N).any():
            result_C[c] = auroc(score_N, label_N)
    return result_C


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command `composites`."""
    parser = subparsers.add_parser("composites", help="write a store with the same images and more labels, made from findings")
    parser.add_argument("store", metavar="STORE", help="a store with NIH's 14 findings")
    parser.add_argument("out", metavar="OUT", help="the folder to write")
    parser.add_argument("--labels", type=int, required=True, help="how many labels in all; up to 14 they are findings")
    parser.add_argument("--seed", type=int, default=0, help="of the composites (default 0)")


def run(args: argparse.Namespace) -> int:
    """Writes the store, and says what its labels are and how much they depend on one another."""
    store = with_composites(args.store, args.out, count=args.labels, seed=args.seed)
    rows = store.where(split="train_val")
    share_C = np.nanmean(store.labels_NC[rows], axis=0)
    told_C = label_only_auroc(store.labels_NC[rows], store.patients[rows])
    width = max(len(name) for name in store.findings)
    print(f"{'label':<{width}}  share  AUROC from the other labels alone")
    for name, share, told in zip(store.findings, share_C, told_C):
        print(f"{name:<{width}}  {share:5.3f}  {told:.3f}")
    print(f"{'mean':<{width}}  {share_C.mean():5.3f}  {np.nanmean(told_C):.3f}")
    print(f"{args.out}: {store.n} images, {len(store.findings)} labels, data {store.sha256}")
    return 0
