"""The book's own Sphinx extension: boxes from block quotes, and attribute comments left as they are written."""

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


_kept: dict[str, list[str]] = {}


def keep_attribute_text(app: Sphinx, what: str, name: str, obj, options, lines: list[str]) -> None:
    """Before napoleon: remembers the text under an attribute, which napoleon would split at its first colon."""
    if what in ("attribute", "data", "property"):
        _kept[name] = list(lines)


def restore_attribute_text(app: Sphinx, what: str, name: str, obj, options, lines: list[str]) -> None:
    """After napoleon: puts it back."""
    if name in _kept and what in ("attribute", "data", "property"):
        lines[:] = _kept[name]


def plain_text_marks(app: Sphinx, what: str, name: str, obj, options, lines: list[str]) -> None:
    """Our docstrings are plain text: a bar is a bar, and a paragraph of "Command: ..." lines keeps its lines."""
    keep_lines = False
    for i, line in enumerate(lines):
        if "|" in line and "`" not in line:
            lines[i] = line = line.replace("|", r"\|")
        keep_lines = bool(line.strip()) and (keep_lines or line.startswith("Command:"))
        if keep_lines:
            lines[i] = "| " + line


def setup(app: Sphinx) -> dict:
    app.connect("doctree-read", mark_boxes)
    app.connect("autodoc-process-docstring", plain_text_marks, priority=50)
    app.connect("autodoc-process-docstring", keep_attribute_text, priority=100)
    app.connect("autodoc-process-docstring", restore_attribute_text, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
