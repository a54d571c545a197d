"""The book's own Sphinx extension: boxes from block quotes, and docstrings read as the plain text they are."""

import json
import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def mark_boxes(app: Sphinx, doctree: nodes.document) -> None:
    """A block quote that begins with a bold word becomes a box of that kind: **Predict.** -> class "box-predict".

    The chapters use plain Markdown, which Jupyter and Colab show well; only the book adds the frame.
    """
    for quote in doctree.findall(nodes.block_quote):
        paragraph = next(iter(quote.findall(nodes.paragraph)), [])
        words = [child for child in paragraph if child.astext().strip()]  # the parser begins with an empty text
        if words and isinstance(words[0], nodes.strong):
            kind = re.sub(r"[^a-z]+", "-", words[0].astext().lower()).strip("-")
            quote["classes"] += ["box", f"box-{kind}"]


def leave_equations_alone(app: Sphinx, doctree: nodes.document) -> None:
    """Sphinx puts an equation with a line break into a `split`, where MathJax allows no `\\tag`: hand it on as written."""
    for equation in doctree.findall(nodes.math_block):
        text = equation.astext()
        if r"\tag" in text and not equation.get("nowrap"):
            equation["nowrap"] = True
            equation.children = []
            equation += nodes.Text(rf"\[{text}\]")


COLON = "\ue000"  # stands for a colon while napoleon reads, which would take what is before it for a type


def plain_text(app: Sphinx, what: str, name: str, obj, options, lines: list[str]) -> None:
    """Before napoleon: our docstrings are plain text, read as such.

    A bar is a bar. The text under an attribute and under "Returns:" has no type before a colon (annotations have it). A
    paragraph may hang its later lines. The lines of a recipe's "Command: ..." paragraph stay lines.
    """
    section, opening = "", ""
    for i, line in enumerate(lines):
        text = line.strip()
        if not text:
            opening = ""
            continue
        if "|" in line and "`" not in line:
            line = line.replace("|", r"\|")
        if re.fullmatch(r"[A-Z][a-z]+:", line):
            section = line
        elif not line.startswith(" ") and not opening:
            section = ""
        if section in ("Returns:", "Yields:") and line != section:
            line = "    " + line.strip().replace(":", COLON)
        elif not section:
            opening = opening or line
            if opening.startswith("Command:"):
                line = "| " + line
            elif not opening.startswith((" ", "-", "*")) and not opening[0].isdigit():
                line = line.strip()
        if what in ("attribute", "data", "property"):
            line = line.replace(":", COLON)
        lines[i] = line


def colons_back(app: Sphinx, what: str, name: str, obj, options, lines: list[str]) -> None:
    """After napoleon."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


class Results(SphinxDirective):
    """Every measured result of data/results/, from its JSON file: no number of the results page is typed by hand."""

    def run(self) -> list[nodes.Node]:
        folder = Path(self.env.srcdir) / "data" / "results"
        files = sorted(folder.glob("*/result.json"))
        self.env.note_reread()  # a new result is a new file, which no dependency on the old ones would notice
        lines: list[str] = []
        for file in files:
            result = json.loads(file.read_text(encoding="utf-8"))
            lines += tables_markdown(result) if "tables" in result else result_markdown(result, file.parent)
        for file in sorted(folder.glob("*/comparison.json")):
            lines += comparison_markdown(json.loads(file.read_text(encoding="utf-8")))
        for file in sorted(folder.glob("*/checks.json")):
            lines += checks_markdown(json.loads(file.read_text(encoding="utf-8")))
        for file in sorted(folder.glob("bench_*.json")):
            lines += bench_markdown(json.loads(file.read_text(encoding="utf-8")))
        if not lines:
            lines = ["No result has been measured with this version yet."]
        holder = nodes.section()
        holder.document = self.state.document
        self.state.nested_parse(StringList(lines, source=str(folder)), self.content_offset, holder, match_titles=1)
        return holder.children


def result_markdown(result: dict, folder: Path) -> list[str]:
    """A result's section: what was done, how long it took, the table, the picture in words."""

    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    first, several = result["runs"][0], len(result["runs"]) > 1
    macro, seeds = first["macro"], result["over_seeds"]
    lines = [f"## {result['title']}", "", *(f"- {note}" for note in result["notes"])]
    lines += [f"- {result['images']:,} images of {result['patients']:,} patients, split `{result['split']}`", ""]
    lines += ["```text", *result["commands"], "```", ""]
    lines += [f"Macro AUROC **{shown(macro['auroc'])}** ({shown(macro['low'])} to {shown(macro['high'])})"]
    if several:
        low, high = shown(seeds["macro_lowest"]), shown(seeds["macro_highest"])
        lines[-1] += f"; over {len(result['runs'])} seeds {shown(seeds['macro_mean'])}, from {low} to {high}"
    lines[-1] += f". {first['minutes']} minutes on {first['device']} with {first['threads']} threads, {first['epochs']} epochs."
    lines += ["", "| finding | images with it | AUROC | 95 % interval |" + (" mean over seeds |" if several else "")]
    lines += ["|---|---|---|---|" + ("---|" if several else "")]
    for row, mean in zip(first["findings"], seeds["findings_mean"], strict=True):
        name, between = row["finding"].replace("_", " "), f"{shown(row['low'])} to {shown(row['high'])}"
        between = between if row["auroc"] is not None else f"undefined: {row['reason']}"
        lines += [f"| {name} | {row['positives']:,} | {shown(row['auroc'])} | {between} |" + (f" {shown(mean)} |" if several else "")]
    if (folder / "auroc.png").exists():
        best = max((row for row in first["findings"] if row["auroc"] is not None), key=lambda row: row["auroc"])
        words = f"AUROC of {len(first['findings'])} findings with their intervals; macro {shown(macro['auroc'])}, "
        words += f"the highest {best['finding'].replace('_', ' ')} with {shown(best['auroc'])}."
        path = f"/data/results/{folder.name}/auroc.png"
        lines += ["", f"```{{image}} {path}", f":alt: {words}", ":class: dark-light", "```"]
    if (folder / "localization.txt").exists():
        table = (folder / "localization.txt").read_text(encoding="utf-8").rstrip().splitlines()
        lines += ["", "````{admonition} Where it looks: all maps, by finding and by size", ":class: dropdown", "```text", *table, "```", "````"]
    return [*lines, ""]


def tables_markdown(result: dict) -> list[str]:
    """A section of a result that is made of small tables: the commands, then each table as it is."""

    def shown(value) -> str:
        return "–" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)

    lines = [f"## {result['title']}", "", *(f"- {note}" for note in result["notes"]), "", "```text", *result["commands"], "```", ""]
    for table in result["tables"]:
        columns = list(table["rows"][0])
        lines += [f"{table['title']}:", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(shown(row.get(column)) for column in columns) + " |" for row in table["rows"]]
        lines += [""]
    return lines


def comparison_markdown(result: dict) -> list[str]:
    """A comparison's section: the question, the commands, one line per row with each seed and the difference."""
    lines = [f"## {result['title']}", "", f"{result['question']}", "", *(f"- {note}" for note in result["notes"])]
    lines += [f"- {result['images']:,} test images of {result['patients']:,} patients; seeds {', '.join(map(str, result['seeds']))}", ""]
    lines += ["```text", *result["commands"], "```", ""]
    lines += ["| model | parameters | million MACs | macro AUROC | 95 % interval | each seed | difference to the reference |", "|---|---|---|---|---|---|---|"]
    for row in result["rows"]:
        each = " ".join(f"{value:.3f}" for value in row["macro_by_seed"])
        difference = f"{row['difference']:+.3f} ({row['difference_low']:+.3f} to {row['difference_high']:+.3f})"
        difference = "reference" if row["row"] == result["reference"] else difference
        lines.append(
            f"| {row['words']} | {row['parameters']:,} | {row['macs'] / 1e6:.1f} | {row['macro']:.3f} | "
            f"{row['low']:.3f} to {row['high']:.3f} | {each} | {difference} |"
        )
    rates = sorted({row["recipe"]["lr"] for row in result["rows"] if "recipe" in row})
    over = "of the mean over the seeds" if len(result["seeds"]) > 1 else "of one seed"
    end = f"Intervals are {over}: bootstrap over patients, the same patients in every row."
    for rate in rates[:-1]:  # a row that trains at another rate than most says so here
        names = [row["words"] for row in result["rows"] if row["recipe"]["lr"] == rate]
        end += f" {' and '.join(names)}: at a rate of {rate:g}, the others at {rates[-1]:g}."
    return [*lines, "", end, *(localization_markdown(result["localization"]) if result.get("localization") else []), ""]


def checks_markdown(result: dict) -> list[str]:
    """The closer looks at CLARiTy's ladder: by finding without the losses that know anatomy, and pairs of findings under OCT and CCT."""

    def cell(one: dict) -> str:
        if one["difference"] is None or one["low"] is None:
            return "undefined"
        return f"{one['first']:.3f}, {one['second']:.3f}: {one['difference']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})"

    pairs = result["company"]
    lines = [f"## {result['title']}", "", f"{result['question']}", "", *(f"- {note}" for note in result["notes"])]
    lines += [f"- {result['images']:,} test images of {result['patients']:,} patients; seeds {', '.join(map(str, result['seeds']))}", ""]
    lines += ["```text", *result["commands"], "```", ""]
    lines += ["With proximity and confinement, without them, and the difference (interval over patients, mean over seeds):", ""]
    lines += ["| finding | box in its region | region, share of the film | AUROC | mean IoU of the fused map |", "|---|---|---|---|---|"]
    for line in result["without_regions"]["findings"]:
        boxed = "maps" in line
        cover = f"{line['inside']:.2f} | {line['region']:.2f}" if boxed else "no box | no box"
        where = cell(line["maps"]["fused"]["mean iou"]) if boxed else "–"
        lines.append(f"| {line['finding'].replace('_', ' ')} | {cover} | {cell(line['auroc'])} | {where} |")
    words = {"company": f"at least {pairs['lift']:g} times as often as chance", "others": "all other pairs"}
    lines += ["", "OCT, CCT and the difference, in test images that have both findings of a pair:", ""]
    lines += ["| findings that come together | pairs | cosine of tokens | class attention shared | fused map shared | AUROC beside the other |"]
    lines += ["|---|---|---|---|---|---|"]
    for group, scores in pairs["groups"].items():
        cells = " | ".join(cell(scores[key]) if key in scores else "–" for key in ("cosine", "class_attention", "fused", "auroc"))
        lines.append(f"| {words[group]} | {scores['pairs']} | {cells} |")
    return [*lines, ""]


def bench_markdown(bench: dict) -> list[str]:
    """A stopwatch reading's section: ratios within one run, with the goal of each."""
    machine, store, phantom, step = (bench[part] for part in ("machine", "store", "phantom", "step"))
    where = f"{machine['system']}, {machine['device']}, {machine['cpus']} processors, {machine['torch_threads']} torch threads"
    return [
        f"## Speed on {machine['device']}",
        "",
        f"- {where}, torch {machine['versions']['torch']}",
        "",
        "```text",
        "python -m cxrlib bench --out data/results/bench_cpu.json" if machine["device"] == "cpu"
        else "python -m cxrlib bench --device cuda --out data/results/bench_cuda.json",
        "```",
        "",
        "| what | reading | goal |",
        "|---|---|---|",
        f"| store read against PNG decode | {store['ratio']:.0f} times faster | {store['goal']} |",
        *([] if "reading" not in bench else reading_rows(bench)),
        f"| phantoms at 224 px, one process | {phantom['images_per_s']:.0f} images/s | {phantom['goal']} |",
        f"| ViT-S/16 training step, ours over timm's | {step['ratio']:.3f} | {step['goal']} |",
        *([] if "lt_vit" not in bench else lt_vit_rows(bench["lt_vit"])),
        *([] if "clarity" not in bench else clarity_rows(bench["clarity"])),
        *training_rows(bench.get("training")),
        "",
    ]


def reading_rows(bench: dict) -> list[str]:
    """What preparing and reading cost by the image."""
    store, read = bench["store"], bench["reading"]
    return [
        f"| preparing a 1024-px PNG of {store['png_kib']:.0f} KiB, processor time | {store['prepare_cpu_ms']:.1f} ms | at most 25 ms |",
        f"| a 224-px image in a random batch, pages in memory | {read['memory_ms']:.3f} ms | at most 0.15 ms |",
        f"| the same, pages not in memory | {read['disk_ms']:.3f} ms | at most 0.15 ms |",
    ]


def lt_vit_rows(read: dict) -> list[str]:
    """What maps cost at 512 px: LT-ViT, fused and written out, over timm's plain ViT-S/16 without maps."""
    time, memory = f"forward pass at {read['size']} px", f"peak memory, {read['memory_batch']} images, weights aside"
    return [
        f"| LT-ViT with maps over timm's ViT-S/16: {time} | {read['time_ratio']:.3f} | {read['goal']} |",
        f"| LT-ViT with maps over timm's ViT-S/16: {memory} | {read['memory_ratio']:.3f} | {read['goal']} |",
        f"| the same with attention written out: {time} | {read['explicit_time_ratio']:.3f} | for comparison |",
        f"| the same with attention written out: {memory} | {read['explicit_memory_ratio']:.3f} | for comparison |",
    ]


def clarity_rows(read: dict) -> list[str]:
    """What CLARiTy's maps and losses cost."""
    maps, step = read["maps"], read["step"]
    memory = f"peak memory, {maps['memory_batch']} images, weights aside"
    return [
        f"| CLARiTy with maps over without: forward pass at {maps['size']} px | {maps['maps_over_none']:.3f} | at most 1.12 |",
        f"| CLARiTy with maps over all attention stacked: forward pass at {maps['size']} px, batch {maps['batch']} | {maps['maps_over_stacked']:.3f} | at most 0.65 |",
        f"| the same: batch {maps['memory_batch']} | {maps['maps_over_stacked_many']:.3f} | at most 0.65 |",
        f"| the same: {memory} | {maps['memory_ratio']:.3f} | at most 0.125 |",
        f"| CLARiTy's training step, all losses, over timm's ViT-S/16 at {step['size']} px | {step['ratio']:.3f} | {step['goal']} |",
    ]


def training_rows(readings: list[dict] | None) -> list[str]:
    """How fast four models train on a GPU; one line that says so where there was none."""
    if readings is None:
        return ["| training at 224 and 512 px on a GPU, from memory and from the store | not measured: no CUDA device was at hand | CLARiTy at 224 px at least 0.60 of timm's ViT-S/16 |"]
    rows = []
    for read in readings:
        how = f"{read['size']} px, batch {read['batch']}{', compiled' if read['compiled'] else ''}"
        for name, found in read["models"].items():
            mfu = "–" if found["mfu"] is None else f"{found['mfu']:.1%}"
            memory = "–" if found["peak_mib"] is None else f"{found['peak_mib']:.0f} MiB"
            told = f"{found['images_per_s']:.0f} images/s, {found['over_timm']:.3f} of timm's, MFU {mfu}, peak {memory}; from the store {found['store_over_memory']:.3f}"
            rows.append(f"| training {found['words']}: {how} | {told} | from the store at least 0.95{', of timm at least 0.60' if name == 'clarity' and read['size'] == 224 else ''} |")
    return rows


def localization_markdown(table: dict) -> list[str]:
    """Where a comparison's models look: one line per kind of map, macro over the boxed findings, then by finding."""

    def cell(values: list) -> str:
        return "–" if values[0] is None else f"{values[0]:.3f}"

    findings = list(table["findings"])
    lines = [
        "", f"Where they look: {table['boxes']:,} true boxes of {table['images']:,} test images of {table['patients']:,} patients. The "
        "finding is given; thresholds come from the other half of the patients; macro over the boxed findings.", "",
        "| model: map | IoU > .1 | > .3 | > .5 | interval at .5 | each seed at .5 | difference at .5 | mean IoU | pointing |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in table["rows"]:
        macro, at_half = row["scores"]["macro"], row["scores"]["macro"]["iou>0.5"]
        difference = row.get("difference", {}).get("iou>0.5")
        told = "{:+.3f} ({:+.3f} to {:+.3f})".format(*difference) if difference else "reference"
        each = " ".join(f"{value:.3f}" for value in row["macro_by_seed"]["iou>0.5"]) or "–"
        lines.append(
            f"| {row['words']} | {cell(macro['iou>0.1'])} | {cell(macro['iou>0.3'])} | {cell(at_half)} | {at_half[1]:.3f} to {at_half[2]:.3f} | "
            f"{each} | {told} | {cell(macro['mean iou'])} | {cell(macro['pointing'])} |"
        )
    lines += ["", "IoU > .5 by finding:", "", "| model: map | " + " | ".join(name.replace("_", " ") for name in findings) + " |"]
    lines += ["|---" * (len(findings) + 1) + "|"]
    for row in table["rows"]:
        lines.append(f"| {row['words']} | " + " | ".join(cell(row["scores"][name]["iou>0.5"]) for name in findings) + " |")
    return lines


def setup(app: Sphinx) -> dict:
    app.add_directive("results", Results)
    app.connect("doctree-read", mark_boxes)
    app.connect("doctree-read", leave_equations_alone)
    app.connect("autodoc-process-docstring", plain_text, priority=100)
    app.connect("autodoc-process-docstring", colons_back, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
