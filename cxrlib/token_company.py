"""Findings that keep company: what becomes of their tokens, maps and scores under two losses on class tokens (chapter 19).

OCT pushes the tokens of two findings to right angles, CCT away from one another. A loss that forbids two tokens to be alike may
hurt most where two findings are often in the same film. Part of `python -m cxrlib.ladder_checks`.

Letters of shapes: N images, K pairs of findings, M images that have both of some pair, B batch, P patches (in maps) or patients (in
sums), S seeds, R resamples.
"""

import itertools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cxrlib.comparison import RESAMPLES, folder_of, interval
from cxrlib.data.augment import normalise, to_float
from cxrlib.data.store import ImageStore
from cxrlib.errors import CxrError
from cxrlib.localization.runs import load_run
from cxrlib.losses.tokens import token_cosines
from cxrlib.metrics import auroc, bootstrap_by_patient

OCT, CCT = "clarity", "clarity_cct"
COMPANY = 1.5
"""Two findings keep company if training films have both at least so many times as often as chance would."""
ENOUGH = 10
"""Test images that must have both findings of a pair."""
MEASURES = ("cosine", "class_attention", "fused", "auroc")


def run_of(out: Path, name: str, seed: int) -> Path:
    """The folder of a row's run.

    Raises:
        CxrError: It was not scored yet.
    """
    folder = folder_of(out, name, seed)
    if not (folder / "evaluation" / "test" / "predictions.npz").exists():
        raise CxrError(f"{folder} was not scored yet: give the compare command again to go on")
    return folder


def told(first_S: list[float], second_S: list[float], samples_R: np.ndarray) -> dict:
    """Two rows beside each other and their difference: of the mean over seeds, with its interval over patients; and each seed's.

    Args:
        first_S: A score of the first row, each seed.
        second_S: The same of the second.
        samples_R: The difference in each resample of patients, mean over the seeds.
    """
    first, second = np.array(first_S, float), np.array(second_S, float)
    samples_R = samples_R[~np.isnan(samples_R)]
    low, high = interval(samples_R) if len(samples_R) else (np.nan, np.nan)
    values = {"first": first.mean(), "second": second.mean(), "difference": (first - second).mean(), "low": low, "high": high}
    return {key: number(value) for key, value in values.items()} | {"by_seed": [number(value) for value in first - second]}


def number(value: float) -> float | None:
    """Four digits for a JSON file, which has no NaN."""
    return None if np.isnan(value) else round(float(value), 4)


def known_mean(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """The mean of what is not NaN, along an axis; NaN where nothing is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis=axis) / known.sum(axis=axis)


def lift(labels_NC: np.ndarray, a: int, b: int) -> float:
    """How many times as often two findings come together as chance would have it. Unknown labels are left out."""
    known = ~np.isnan(labels_NC[:, [a, b]]).any(axis=1)
    first, second = labels_NC[known, a], labels_NC[known, b]
    chance = first.mean() * second.mean()
    return float((first * second).mean() / chance) if chance > 0 else float("nan")


def shared(maps_BCP: Tensor, a_K: list[int], b_K: list[int]) -> Tensor:
    """How much two maps share: each is made to sum to 1, then the smaller of the two is summed. 0: apart, 1: the same map.

    NaN where a map is empty.
    """
    share_BCP = maps_BCP / maps_BCP.sum(dim=-1, keepdim=True)
    return torch.minimum(share_BCP[:, a_K], share_BCP[:, b_K]).sum(dim=-1)


@torch.no_grad()
def look(run: Path, store: ImageStore, rows: np.ndarray, a_K: list[int], b_K: list[int], *, batch: int = 32) -> dict[str, np.ndarray]:
    """Each pair in each image: the cosine of its two tokens (mean over the layers that OCT reads), and what its maps share."""
    model, recipe, _ = load_run(run)
    read: dict[str, list[Tensor]] = {"cosine": [], "class_attention": [], "fused": []}
    for start in range(0, len(rows), batch):
        img_BYX = torch.from_numpy(np.stack([store.image(int(row)) for row in rows[start : start + batch]]))
        out = model(normalise(to_float(img_BYX), mean=recipe.mean, std=recipe.std), maps=True, layers=True)
        read["cosine"].append(token_cosines(out.layers_QBCD).mean(dim=0)[:, a_K, b_K])
        read["class_attention"].append(shared(out.attention_BCyx.flatten(2), a_K, b_K))
        read["fused"].append(shared((out.attention_BCyx * out.foreground_BCyx).flatten(2), a_K, b_K))
    return {key: torch.cat(parts).numpy().astype(float) for key, parts in read.items()}


def company(out: Path, store: ImageStore, seeds: tuple[int, ...], *, resamples: int = RESAMPLES) -> dict:
    """OCT against CCT on pairs of findings, those that keep company beside all others, in test images that have both.

    "auroc" asks whether one of a pair is still told where the other is present: the AUROC of each among the images that have
    the other, the mean of both ways.
    """
    with np.load(run_of(out, OCT, seeds[0]) / "evaluation" / "test" / "predictions.npz", allow_pickle=False) as file:
        names, labels_NC, patients_N = [str(name) for name in file["findings"]], file["labels_NC"].astype(float), file["patients"]
        place = dict(zip(store.table["image"], range(store.n)))
        rows_N = np.array([place[str(image)] for image in file["images"]])
    train_NC = store.labels_NC[store.where(split="train_val")][:, [store.findings.index(name) for name in names]]
    pairs = [
        (a, b) for a, b in itertools.combinations(range(len(names)), 2)
        if ((labels_NC[:, a] == 1) & (labels_NC[:, b] == 1)).sum() >= ENOUGH
    ]  # fmt: skip
    if not pairs:
        raise CxrError(f"no two findings are in the same image {ENOUGH} times: make a larger cohort, or an enriched one")
    a_K, b_K = ([pair[i] for pair in pairs] for i in (0, 1))
    lift_K = np.array([lift(train_NC, a, b) for a, b in pairs])
    both_NK = (labels_NC[:, a_K] == 1) & (labels_NC[:, b_K] == 1)
    some_N = both_NK.any(axis=1)
    targets_NK = np.concatenate([np.where(labels_NC[:, other] == 1, labels_NC[:, one], np.nan) for one, other in ((a_K, b_K), (b_K, a_K))], axis=1)
    weights_RP, patient_N = _drawn(patients_N, resamples)

    value, sample = {OCT: {}, CCT: {}}, {OCT: {}, CCT: {}}
    for seed in seeds:
        looks = {name: look(run_of(out, name, seed), store, rows_N[some_N], a_K, b_K) for name in (OCT, CCT)}
        for name in (OCT, CCT):
            run = run_of(out, name, seed)
            for key, seen_MK in looks[name].items():
                # Only what both runs have a value for: else the two would be means over different images.
                both_known_MK = both_NK[some_N] & ~np.isnan(looks[OCT][key]) & ~np.isnan(looks[CCT][key])
                known_MK = np.where(both_known_MK, seen_MK, np.nan)
                value[name].setdefault(key, []).append(known_mean(known_MK, axis=0))
                sample[name].setdefault(key, []).append(_resampled(known_MK, patient_N[some_N], weights_RP))
            with np.load(run / "evaluation" / "test" / "predictions.npz", allow_pickle=False) as file:
                each = bootstrap_by_patient(file["logits_NC"][:, a_K + b_K], targets_NK, patients_N, metric=auroc, resamples=resamples)
            value[name].setdefault("auroc", []).append(known_mean(each.value.reshape(2, -1), axis=0))
            sample[name].setdefault("auroc", []).append(known_mean(each.samples_RC.reshape(resamples, 2, -1), axis=1))

    close_K = lift_K >= COMPANY
    groups = {}
    for group, mine_K in (("company", close_K), ("others", ~close_K)):
        groups[group] = {"pairs": int(mine_K.sum())}
        if not mine_K.any():
            continue
        for key in MEASURES:
            gain_R = np.mean([known_mean(first[:, mine_K] - second[:, mine_K], axis=1) for first, second in zip(sample[OCT][key], sample[CCT][key])], axis=0)
            groups[group][key] = told(*([float(known_mean(one[mine_K])) for one in value[name][key]] for name in (OCT, CCT)), gain_R)
    lines = [
        {
            "pair": [names[a], names[b]], "images": int(both_NK[:, k].sum()), "lift": round(float(lift_K[k]), 3),
            "company": bool(close_K[k]),
        }
        | {key: [number(np.mean([one[k] for one in value[name][key]])) for name in (OCT, CCT)] for key in MEASURES}
        for k, (a, b) in enumerate(pairs)
    ]  # fmt: skip
    return {"first": OCT, "second": CCT, "lift": COMPANY, "enough": ENOUGH, "images": int(some_N.sum()), "groups": groups, "pairs": lines}


def _drawn(patients_N: np.ndarray, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each resample holds each patient, and each image's patient."""
    patients, patient_N = np.unique(patients_N.astype(str), return_inverse=True)
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(patients), (resamples, len(patients)))
    return np.stack([np.bincount(one, minlength=len(patients)) for one in drawn]).astype(float), patient_N


def _resampled(known_MK: np.ndarray, patient_M: np.ndarray, weights_RP: np.ndarray) -> np.ndarray:
    """The mean of each pair in each resample; NaN where a resample has no image of it."""
    shape = (weights_RP.shape[1], known_MK.shape[1])
    sums_PK, counts_PK = np.zeros(shape), np.zeros(shape)
    np.add.at(sums_PK, patient_M, np.nan_to_num(known_MK))
    np.add.at(counts_PK, patient_M, ~np.isnan(known_MK))
    with np.errstate(invalid="ignore"):
        return (weights_RP @ sums_PK) / (weights_RP @ counts_PK)
