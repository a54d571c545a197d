"""The model card as Markdown, with the front matter that the Hugging Face hub reads. Every number comes from `Facts`.

Source: what a card should hold: Mitchell et al. 2019 (arXiv 1810.03993).
"""

import numpy as np
import pandas as pd
import yaml

from cxrlib.evaluation import SYNTHETIC
from cxrlib.licences import data_terms
from cxrlib.publishing.facts import Facts, command_of
from cxrlib.publishing.subgroups import FEWEST

LOCALIZED = ("iou>0.1", "iou>0.3", "iou>0.5", "mean iou", "pointing")
NEVER = (
    "To diagnose, to triage, to screen, or to decide anything about a patient: it is no medical device, and no one has tested it as one.",
    "On images of another kind than it was trained on: other views, ages, machines, hospitals or countries, before it was scored there.",
    "With its numbers read as chances: see Calibration.",
    "To show that a finding is absent.",
)
LABELS = {
    "nih": "The labels were mined from reports by a program; several percent are wrong, and its errors are in the test labels too.",
    "chexpert": "The labels were mined from reports by a program, and what a report leaves open is marked as uncertain or left out.",
    "phantom": "The images are drawn and so are the labels. Nothing here says how the model does on a radiograph.",
}


def card(facts: Facts, *, words: str = "") -> str:
    """README.md of a published model.

    Args:
        facts: From `gather`.
        words: What a person says of intended use and limits.
    """
    parts = [_front(facts), _head(facts), _use(words), _data(facts), _training(facts), _licence(facts), _scores(facts), _subgroups(facts)]
    parts += [_calibration(facts), _where(facts), _limits(facts), _how(facts)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(facts: Facts) -> str:
    name = f"{facts.recipe.name}-{facts.recipe.model}"
    source = facts.scored["data"]["source"]
    value = facts.scored["macro"]["auroc"]
    front = {
        "language": "en",
        "license": facts.licence.licence,
        **({"license_name": facts.licence.name} if facts.licence.name else {}),
        "library_name": "cxrlib",
        "pipeline_tag": "image-classification",
        "tags": ["chest-x-ray", "multi-label", "safetensors", "not-for-clinical-use", *(["synthetic"] if facts.synthetic else [])],
    }
    if base := [origin.hub for origin in facts.origins if origin.hub and origin.part == "start weights"]:
        front["base_model"] = base
    if value is not None:
        front["model-index"] = [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "image-classification", "name": "multi-label findings"},
                        "dataset": {"type": source, "name": f"{source}, {facts.scored['data']['sha256'][:12]}", "split": "test"},
                        "metrics": [{"type": "roc_auc", "name": f"macro AUROC over {facts.scored['macro']['defined']} findings", "value": round(value, 4)}],
                    }
                ],
            }
        ]
    return "---\n" + yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000) + "---"


def _head(facts: Facts) -> str:
    recipe, macro = facts.recipe, facts.scored["macro"]
    lines = [f"# {recipe.name} ({recipe.model}), {len(facts.findings)} findings on chest radiographs"]
    if facts.synthetic:
        lines.append(f"**Synthetic.** {SYNTHETIC[0].upper()}{SYNTHETIC[1:]}.")
    size = f"{recipe.image_size} x {recipe.image_size} pixels, patches of {recipe.patch_size}, width {recipe.width}, {recipe.depth} layers, {recipe.heads} heads"
    if recipe.model == "timm":
        size = f"timm's {recipe.options.get('name', 'convnextv2_base')}, {recipe.image_size} x {recipe.image_size} pixels"
    lines.append(
        f"{facts.parameters:,} parameters; {size}. Macro AUROC on test: {_interval(macro['auroc'], macro['low'], macro['high'])} over "
        f"{macro['defined']} of {len(facts.findings)} findings, {facts.counts['test images']:,} images of {facts.counts['test patients']:,} patients."
    )
    return "\n\n".join(lines)


def _use(words: str) -> str:
    never = "## What it must not be used for\n\n" + "\n".join(f"- {line}" for line in NEVER)
    theirs = words.strip() or (
        "Not written yet. A run cannot know what the model is for, who should use it, and what its makers worry about. A person must "
        "say so here."
    )
    return f"{never}\n\n## Intended use and known worries, in the makers' words\n\n{theirs}"


def _data(facts: Facts) -> str:
    data, counts, seen = facts.made["data"], facts.counts, facts.seen
    rows = [[name, f"{counts[f'{name} images']:,}", f"{counts[f'{name} patients']:,}"] for name in ("training", "validation", "test")]
    lines = [
        "## Data",
        f"Source: {data['source']}; {data['images']:,} images of {data['size']} px; SHA-256 of the store `{data['sha256']}`.",
        _table(["part", "images", "patients"], rows),
        "Validation chose the epoch. No patient is in two parts, as was checked when this was written."
        if data["source"] != "phantom"
        else "Validation chose the epoch. No (synthetic) patient is in two parts, as was checked when this was written.",
    ]
    if seen["age"]:
        lowest, low, middle, high, highest = (f"{age:.0f}" for age in seen["age"])
        lines.append(f"Ages in training: {lowest} to {highest} years, half of them below {middle}, 90 % from {low} to {high}.")
    lines += [
        f"{name.capitalize()} in training: " + ", ".join(f"{key} {100 * share:.1f} %" for key, share in seen[name].items()) + "."
        for name in ("sex", "view")
        if seen[name]
    ]
    lines.append(LABELS.get(data["source"], "Where the labels come from is not known to the program that wrote this card."))
    return "\n\n".join(lines)


def _training(facts: Facts) -> str:
    made, result = facts.made, facts.result
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    return "\n\n".join(
        [
            "## Training",
            f"```text\n{command_of(facts.recipe)}\n```",
            f"Seed {facts.recipe.seed}, one run; weights of epoch {result['best_epoch']} of {facts.recipe.epochs}, which had the best validation "
            f"macro AUROC ({_number(result['best_macro_auroc'])}). Commit `{made['commit'] or 'not known: outside a checkout'}`. {versions}. "
            "All settings: config.json.",
        ]
    )


def _licence(facts: Facts) -> str:
    origins = [["data", facts.made["data"]["source"], data_terms(facts.made["data"]["source"])]]
    origins += [[origin.part, origin.name, origin.licence] for origin in facts.origins]
    if not any(origin.part.startswith(("start weights", "data of the start")) for origin in facts.origins):
        origins.insert(1, ["start weights", "none: random", ""])
    if not facts.recipe.teacher:
        origins.append(["teacher", "none", ""])
    named = facts.licence.name or facts.licence.licence
    return f"## Licence and origins\n\n{named}: {facts.licence.why}.\n\n" + _table(["part", "name", "licence or terms"], origins)


def _scores(facts: Facts) -> str:
    rows = [
        [row["finding"], f"{row['positives']:,}", _interval(row["auroc"], row["low"], row["high"]) if row["auroc"] is not None else f"not defined: {row['reason']}"]
        for row in facts.scored["findings"]
    ]
    macro = facts.scored["macro"]
    rows.append([f"macro over {macro['defined']}", "", _interval(macro["auroc"], macro["low"], macro["high"])])
    note = "95 % intervals: percentiles of bootstrap samples of whole patients. They hold the chance in who was tested, not that in training (one seed)."
    return f"## AUROC by finding\n\n{note}\n\n" + _table(["finding", "images with it", "AUROC (95 % interval)"], rows)


def _subgroups(facts: Facts) -> str:
    overall = facts.subgroups[facts.subgroups["finding"] == "macro"]
    rows = [
        [row.by, row.group, f"{row.images:,}", f"{row.patients:,}", str(row.findings), _interval(row.auroc, row.low, row.high)]
        for row in overall.itertuples()
    ]
    note = (
        f"Macro AUROC, within each of sex, age and view over the same findings: those with at least {FEWEST} images with and {FEWEST} "
        "without in every group that is large enough. Groups of one kind can be compared; different kinds cannot. By finding: evaluation/subgroups.csv."
    )
    return f"## By sex, age and view\n\n{note}\n\n" + _table(["by", "group", "images", "patients", "findings", "macro AUROC (95 % interval)"], rows)


def _calibration(facts: Facts) -> str:
    rows = [
        [row.finding, _number(row.prevalence), _number(row.mean), _number(row.ece)]
        for row in facts.calibrated.rename(columns={"mean probability": "mean"}).itertuples()
    ]
    mean = facts.calibrated["ece"].mean()
    note = (
        f"Expected calibration error on test, 15 equal bins; mean {_number(mean)}. The sigmoid of a logit is near a frequency only where findings are "
        "as frequent as in this test set. Where they are rarer, every number is too high: calibrate anew."
    )
    return f"## Calibration\n\n{note}\n\n" + _table(["finding", "frequency in test", "mean probability", "calibration error"], rows)


def _where(facts: Facts) -> str:
    if facts.localization is None:
        return "## Where it looks\n\nNot measured. Do not show its maps as explanations."
    table = facts.localization[facts.localization["group"] == "macro"]
    rows = []
    for (row, how), mine in table.groupby(["row", "how"], sort=False):
        cells = {measure: _interval(value, low, high) for measure, value, low, high in zip(mine["measure"], mine["value"], mine["low"], mine["high"])}
        rows.append([row, how, *(cells.get(measure, "not defined") for measure in LOCALIZED)])
    note = "Share of true boxes that are hit, the finding given; macro over findings. All measures: evaluation/localization.csv."
    return f"## Where it looks\n\n{note}\n\n" + _table(["row", "thresholds from", *LOCALIZED], rows)


def _limits(facts: Facts) -> str:
    lines = ["One run with one seed: another seed gives other numbers.", "No threshold was chosen; the model gives scores, not decisions."]
    small = facts.subgroups[(facts.subgroups["finding"] == "macro") & facts.subgroups["auroc"].isna()]
    if len(small):
        lines.append("Too few to say anything: " + "; ".join(f"{row.by} {row.group} ({row.images:,} images)" for row in small.itertuples()) + ".")
    undefined = [row["finding"] for row in facts.scored["findings"] if row["auroc"] is None]
    if undefined:
        lines.append(f"Never scored, because the test images do not tell: {', '.join(undefined)}.")
    if (facts.made["commit"] or "+changes").endswith("+changes"):
        lines.append("The source that trained it differs from the commit, or is in none: it cannot be rebuilt exactly.")
    lines.append("Tested on the data set it was trained on, and on no other.")
    return "## Known limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _how(facts: Facts) -> str:
    return (
        "## How to use it\n\n```python\nimport torch\nfrom cxrlib import publishing\n\n"
        'model, findings, preprocessing = publishing.load("FOLDER")\n'
        f"img_BYX = torch.zeros(1, {facts.recipe.image_size}, {facts.recipe.image_size}, dtype=torch.uint8)  # your grey image\n"
        "with torch.inference_mode():\n    logits_BC = model(preprocessing(img_BYX)).logits_BC\n```"
    )


def _number(value: float | None) -> str:
    return "not defined" if value is None or np.isnan(value) else f"{value:.3f}"


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or np.isnan(value):
        return "not defined"
    return f"{value:.3f} ({low:.3f} to {high:.3f})" if low is not None and not pd.isna(low) else f"{value:.3f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(cell).replace("|", "/") for cell in row) + " |" for row in rows])
