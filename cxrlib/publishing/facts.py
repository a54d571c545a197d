"""All that a model card says about a run, read from the run and from the store that it was scored on. Nothing is typed by hand.

Letters of shapes: N test images, C findings.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from cxrlib import recipes
from cxrlib.data.checks import check_patients
from cxrlib.data.store import ImageStore
from cxrlib.errors import CxrError
from cxrlib.io import read_json
from cxrlib.licences import Licence, Origin, licence_for, origins_of
from cxrlib.metrics import calibration
from cxrlib.predict import predict
from cxrlib.publishing.subgroups import subgroup_aurocs, subgroups_of
from cxrlib.recipes import Recipe
from cxrlib.training.runs import read_run

CHECKED = 16
"""Test images that are scored again, to see that the evaluation is of these weights."""
CLOSE = 0.05
"""Largest difference of those logits. Wide, because the evaluation may have run on another device and in another precision; the
weights of another epoch are much further off."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a card says."""

    made: dict
    """run.json, with the recipe rebuilt."""
    recipe: Recipe
    findings: tuple[str, ...]
    result: dict
    """result.json: best epoch and its validation score."""
    scored: dict
    """evaluation/test/auroc.json."""
    counts: dict[str, int]
    """Images and patients: trained on, for choosing the epoch, tested on."""
    seen: dict[str, Any]
    """What the training images were: ages, shares of sexes and views."""
    subgroups: pd.DataFrame
    """`subgroup_aurocs` of sex, age and view, with the column `by`."""
    calibrated: pd.DataFrame
    """finding, positives, prevalence, mean probability, ece."""
    localization: pd.DataFrame | None
    """localization.csv of the test split, if the run has one."""
    origins: tuple[Origin, ...]
    licence: Licence
    parameters: int

    @property
    def synthetic(self) -> bool:
        return self.made["data"]["source"] == "phantom" or self.scored["data"]["source"] == "phantom"


def gather(run: str | Path, *, data: str | Path | None = None, model: nn.Module, resamples: int = 1000) -> Facts:
    """Reads a finished, evaluated run.

    Args:
        run: Its folder.
        data: The store that it was evaluated on, if it is no longer where the run says.
        model: Its best weights, in eval mode.
        resamples: Bootstrap samples of patients for the subgroups.

    Raises:
        CxrError: The run is unfinished, was never evaluated on test or not with these weights, or its store is gone.
    """
    run = Path(run)
    made = read_run(run)
    recipe = made["recipe"]
    evaluated = run / "evaluation" / "test"
    if not (run / "result.json").is_file():
        raise CxrError(f"{run} is not finished: give its train command again, then python -m cxrlib evaluate {run} --split test")
    if not (evaluated / "auroc.json").is_file() or not (evaluated / "predictions.npz").is_file():
        raise CxrError(f"{run} was never evaluated on test, and a card without scores says nothing: python -m cxrlib evaluate {run} --split test")
    scored = read_json(evaluated / "auroc.json")
    store = _store(made, scored, data)
    with np.load(evaluated / "predictions.npz", allow_pickle=False) as kept:
        logits_NC, labels_NC, images, patients = (kept[name] for name in ("logits_NC", "labels_NC", "images", "patients"))
    row_of = dict(zip(store.table["image"], range(store.n)))
    rows = np.array([row_of[image] for image in images])
    _same_weights(run, model, store, rows, logits_NC, recipe)
    findings = tuple(recipe.findings) or tuple(made["data"]["findings"])
    table = store.table.iloc[rows]
    groups = []
    for by, names_N in subgroups_of(table).items():
        groups.append(subgroup_aurocs(logits_NC, labels_NC, patients, names_N, findings, resamples=resamples).assign(by=by))
    held = set(pd.read_csv(run / "validation.csv", dtype=str)["image"])
    train_val = store.table.iloc[np.asarray(store.where(split="train_val"))]
    kept_out = train_val["image"].isin(held)
    trained = train_val[~kept_out]
    parts = {"training": trained, "validation": train_val[kept_out], "test": table}
    for complaint in check_patients({name: dict(zip(part["image"], part["patient"])) for name, part in parts.items()}):
        raise CxrError(f"{complaint.what}: such scores cannot be published; {complaint.mend}")
    origins = tuple(origins_of(run))
    return Facts(
        made=made,
        recipe=recipe,
        findings=findings,
        result=read_json(run / "result.json"),
        scored=scored,
        counts={
            f"{name} {what}": count
            for name, part in parts.items()
            for what, count in (("images", len(part)), ("patients", part["patient"].nunique()))
        },
        seen=_seen(trained),
        subgroups=pd.concat(groups, ignore_index=True),
        calibrated=_calibrated(logits_NC, labels_NC, findings),
        localization=_localization(run),
        origins=origins,
        licence=licence_for(made["data"]["source"], list(origins)),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def _store(made: dict, scored: dict, data: str | Path | None) -> ImageStore:
    place = Path(data or made["store"])
    if not place.is_dir():
        raise CxrError(f"the store {place}, which the run was trained on, is gone, and ages, sexes and views are read from it: name it with --data")
    store = ImageStore.open(place)
    for what, sha256 in (("trained", made["data"]["sha256"]), ("evaluated", scored["data"]["sha256"])):
        if store.sha256 != sha256:
            raise CxrError(f"the store {place} is not the one that the run was {what} on: name that one with --data")
    return store


def _same_weights(run: Path, model: nn.Module, store: ImageStore, rows: np.ndarray, logits_NC: np.ndarray, recipe: Recipe) -> None:
    again_NC = predict(model, store.pixels, rows[:CHECKED], recipe=recipe)
    if again_NC.shape != logits_NC[:CHECKED].shape or np.abs(again_NC - logits_NC[:CHECKED]).max(initial=0) > CLOSE:
        raise CxrError(f"the evaluation of {run} is of other weights than its best ones: python -m cxrlib evaluate {run} --split test")


def _seen(trained: pd.DataFrame) -> dict[str, Any]:
    ages = trained["age"].dropna()
    shares = {name: {str(key): round(float(share), 3) for key, share in trained[name].value_counts(normalize=True).items()} for name in ("sex", "view")}
    return shares | {"age": [float(age) for age in np.percentile(ages, (0, 5, 50, 95, 100))] if len(ages) else []}


def _calibrated(logits_NC: np.ndarray, labels_NC: np.ndarray, findings: tuple[str, ...]) -> pd.DataFrame:
    probability_NC = torch.from_numpy(np.asarray(logits_NC)).double().sigmoid().numpy()
    rows = []
    for c, finding in enumerate(findings):
        known = ~np.isnan(labels_NC[:, c])
        label_N, probability_N = labels_NC[known, c], probability_NC[known, c]
        nothing = not known.any()
        rows.append(
            {
                "finding": finding,
                "positives": int(label_N.sum()),
                "prevalence": np.nan if nothing else float(label_N.mean()),
                "mean probability": np.nan if nothing else float(probability_N.mean()),
                "ece": calibration(probability_N, label_N).ece,
            }
        )
    return pd.DataFrame(rows)


def _localization(run: Path) -> pd.DataFrame | None:
    file = run / "localization" / "test" / "localization.csv"
    return pd.read_csv(file) if file.is_file() else None


def command_of(recipe: Recipe) -> str:
    """The command that trains a recipe, with generic places; what no option can say stands behind it in words."""
    try:
        base = recipes.get(recipe.name)
    except CxrError:
        return f"the recipe {recipe.name!r}, which is not one of this version: config.json holds all of it"
    words = [f"python -m cxrlib train {recipe.name} --data STORE --out RUN"]
    if recipe.model != base.model:
        words.append(f"--model {recipe.model}")
        base = dataclasses.replace(base, model=recipe.model, options={}, losses={})
    for flag in ("epochs", "batch", "lr", "seed"):
        if getattr(recipe, flag) != getattr(base, flag):
            words.append(f"--{flag} {getattr(recipe, flag)}")
    if recipe.weights != base.weights:
        words.append(f"--weights {recipe.published()['weights']}")
    words += [f"--{flag} {place}" for flag, place in (("priors", "PRIORS"), ("teacher", "LOGITS")) if getattr(recipe, flag)]
    if recipe.findings != base.findings:
        words.append(f"--findings {','.join(recipe.findings)}")
    for flag, given, usual in (("option", recipe.options, base.options), ("loss", recipe.losses, base.losses)):
        words += [f"--{flag} {name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in given.items() if usual.get(name) != value]
    said = ("epochs", "batch", "lr", "seed", "weights", "priors", "teacher", "findings", "options", "losses", "model")
    lost = [field.name for field in dataclasses.fields(recipe) if field.name not in said and getattr(recipe, field.name) != getattr(base, field.name)]
    lost += [f"{flag} without {name}" for flag in ("options", "losses") for name in getattr(base, flag) if name not in getattr(recipe, flag)]
    return " ".join(words) + (f" (and, in Python, with other {', '.join(lost)}: see config.json)" if lost else "")
