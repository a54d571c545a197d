"""The book's own Sphinx extension: boxes from block quotes, and docstrings read as the plain text they are."""

import re

from docutils import nodes
from sphinx.application import Sphinx


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


def setup(app: Sphinx) -> dict:
    app.connect("doctree-read", mark_boxes)
    app.connect("autodoc-process-docstring", plain_text, priority=100)
    app.connect("autodoc-process-docstring", colons_back, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
