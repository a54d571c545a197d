"""Ties the prose of a chapter to what its cells computed: bound numbers, the budget line, the Colab cell."""

import re
from pathlib import Path
from typing import Any

from cxrlib.course.facts import FACT_LINE
from cxrlib.errors import CxrError

BOUND = re.compile(r"([\w.,+\-−%?]+)(<!-- =([a-z][a-z0-9_]*) -->)")
"""A bound number in prose: `0.81<!-- =name -->`. The value may not hold spaces, brackets or stars."""

BUDGET = re.compile(r"(<!-- budget -->)(.*?)(<!-- /budget -->)", re.DOTALL)
"""Where the budget stands in the line at a chapter's top."""

COLAB_CELL = re.compile(r"^```\{code-cell\}[^\n]*\n:tags: \[colab, remove-cell\]\n.*?^```$", re.DOTALL | re.MULTILINE)
"""The chapter's first cell in its .md."""

COLAB_SOURCE = """\
# @title On Colab, run me first: I install cxrlib (elsewhere I do nothing) {{ display-mode: "form" }}
import importlib.metadata
import importlib.util
import pathlib
import subprocess
import sys

if "google.colab" in sys.modules and importlib.util.find_spec("cxrlib") is None:
    # What Colab brings stays as it is: pip may not touch torch, torchvision or numpy.
    keep = [f"{{name}}=={{importlib.metadata.version(name)}}" for name in ("torch", "torchvision", "numpy")]
    pathlib.Path("keep.txt").write_text("\\n".join(keep))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--constraint", "keep.txt"]
    subprocess.run([*pip, "git+{url}@{branch}"], check=True)
    importlib.invalidate_caches()"""


def repository(folder: Path) -> tuple[str, str]:
    """The repository's address and branch, from the nearest `_config.yml` at or above a folder.

    Raises:
        CxrError: There is none, or it names no repository.
    """
    import yaml

    for place in (folder.resolve(), *folder.resolve().parents):
        if (place / "_config.yml").exists():
            config = yaml.safe_load((place / "_config.yml").read_text(encoding="utf-8"))
            try:
                return config["repository"]["url"].rstrip("/"), config["repository"]["branch"]
            except (KeyError, TypeError):
                raise CxrError(f"{place / '_config.yml'} names no repository url and branch: add them") from None
    raise CxrError(f"no _config.yml at or above {folder}: run this in a checkout of the course")


def colab_source(url: str, branch: str) -> str:
    """The code of every chapter's first cell."""
    return COLAB_SOURCE.format(url=url, branch=branch)


def put_colab_cell(text: str, url: str, branch: str) -> str:
    """Rewrites the Colab cell of a chapter's .md from the one template.

    Raises:
        CxrError: The chapter has no such cell.
    """
    cell = f"```{{code-cell}} ipython3\n:tags: [colab, remove-cell]\n\n{colab_source(url, branch)}\n```"
    if not COLAB_CELL.search(text):
        raise CxrError("the chapter has no cell with the tags [colab, remove-cell]: copy it from another chapter")
    return COLAB_CELL.sub(lambda _: cell, text, count=1)


def facts_of(notebook: Any) -> dict[str, str]:
    """The values that the notebook's cells printed as `name = value`, by name.

    Raises:
        CxrError: Two cells print different values under one name.
    """
    facts: dict[str, str] = {}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        for output in cell.get("outputs", []):
            if output.get("output_type") != "stream":
                continue
            for name, value in FACT_LINE.findall(output["text"]):
                if facts.setdefault(name, value) != value:
                    raise CxrError(f"the fact {name!r} is {facts[name]} in one place and {value} in another: rename one")
    return facts


def bind(text: str, facts: dict[str, str]) -> str:
    """Puts the computed values into prose.

    Args:
        text: Markdown with `0.81<!-- =name -->` in it.
        facts: From `facts_of`.

    Raises:
        CxrError: The prose names a fact that no cell prints.
    """

    def put(match: re.Match) -> str:
        name = match[3]
        if name not in facts:
            raise CxrError(f"the prose names the fact {name!r}, which no cell prints: add course.fact({name!r}, ...)")
        return facts[name] + match[2]

    return BOUND.sub(put, text)


def budget_text(seconds: float, peak_mib: float) -> str:
    """The budget in words: "about 70 seconds and 0.9 GB of memory on two CPU cores, no GPU needed"."""
    near = max(5, round(seconds / 5) * 5)
    gigabytes = peak_mib * 1024**2 / 1e9
    return f"about {near} seconds and {gigabytes:.1f} GB of memory on two CPU cores, no GPU needed"


def put_budget(text: str, words: str) -> str:
    """Rewrites the budget line.

    Raises:
        CxrError: The chapter has no budget line.
    """
    if not BUDGET.search(text):
        raise CxrError("the chapter has no budget line: add `> **Budget.** <!-- budget --><!-- /budget -->` at its top")
    return BUDGET.sub(lambda match: f"{match[1]}{words}{match[3]}", text, count=1)
