"""What every chapter must keep to, each rule one function:  python -m cxrlib.course.gates [chapters/NN_name.md ...]

Each function takes a `Chapter` and returns the problems it found, in words; an empty list means the rule is kept.
`tests/test_book_chapters.py` runs them on every chapter, `tests/test_book_gates.py` shows each of them failing.
"""

import argparse
import ast
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cxrlib.course import prose
from cxrlib.course.bind import BOUND, BUDGET, budget_text, colab_source, facts_of, repository
from cxrlib.course.registry import TITLES, exercises_of, questions_of
from cxrlib.course.same_code import definition, first_difference, locate
from cxrlib.errors import CxrError


@dataclass
class Chapter:
    """A chapter's two files, read once."""

    source: Path
    markdown: Any = field(init=False)
    notebook: Any = field(init=False)

    def __post_init__(self) -> None:
        import jupytext
        import nbformat

        target = self.source.with_suffix(".ipynb")
        if not target.exists():
            raise CxrError(f"{target.name} is missing: run python -m cxrlib.course.remake {self.source}")
        self.markdown = jupytext.reads(self.source.read_text(encoding="utf-8"), fmt="md:myst")
        self.notebook = nbformat.read(target, as_version=4)

    @property
    def number(self) -> int:
        return int(self.source.name[:2])

    @cached_property
    def code(self) -> list:
        return [cell for cell in self.notebook.cells if cell.cell_type == "code"]

    @cached_property
    def text(self) -> list:
        return [cell for cell in self.notebook.cells if cell.cell_type == "markdown"]

    def label(self, cell: Any) -> str:
        """A cell as a person would look for it: its id and how it begins."""
        first = next((line for line in cell.source.splitlines() if line.strip()), "(empty)")
        return f"{cell.id} ({first[:50]!r})"


def _tags(cell: Any) -> list[str]:
    return sorted(cell.metadata.get("tags", []))


def pair(chapter: Chapter) -> list[str]:
    """The .md and the notebook hold the same cells: type, source and tags."""
    left, right = chapter.markdown.cells, chapter.notebook.cells
    problems = [] if len(left) == len(right) else [f"{len(left)} cells in the .md, {len(right)} in the .ipynb"]
    for a, b in zip(left, right, strict=False):
        if (a.cell_type, a.source.strip(), _tags(a)) != (b.cell_type, b.source.strip(), _tags(b)):
            problems.append(f"{chapter.label(b)} differs from the .md: remake the notebook")
    return problems


def ran(chapter: Chapter) -> list[str]:
    """Every code cell was run, in order, in one clean run; it fails where it says so and nowhere else."""
    problems = []
    for count, cell in enumerate(chapter.code, 1):
        if cell.execution_count != count:
            problems.append(f"{chapter.label(cell)} has execution count {cell.execution_count}, not {count}")
        failed = any(output.output_type == "error" for output in cell.outputs)
        if failed != ("raises-exception" in _tags(cell)):
            problems.append(f"{chapter.label(cell)} " + ("fails" if failed else "is tagged raises-exception but runs"))
    return problems


def clean_outputs(chapter: Chapter) -> list[str]:
    """No warning and no folder of one machine is stored."""
    problems = []
    for cell in chapter.code:
        for output in cell.outputs:
            if output.get("name") == "stderr":
                problems.append(f"{chapter.label(cell)} wrote to stderr: {output.text.strip()[:80]!r}")
            text = "\n".join([*prose.texts_of(output), *output.get("traceback", [])])
            if found := re.search(r"(?<![\w/:.])/(?:home|root|tmp|work|Users|private|opt|usr)/[^\s'\"]*", text):
                problems.append(f"{chapter.label(cell)} prints a folder of one machine: {found[0]}")
            if found := re.search(r"\bat 0x[0-9a-f]{6,}", text):
                problems.append(f"{chapter.label(cell)} prints a memory address: {found[0]}")
    return problems


def library_code(chapter: Chapter) -> list[str]:
    """A cell tagged `lib:module.Name` defines what the library defines: equal syntax trees but for docstrings."""
    problems = []
    for cell in chapter.code:
        for tag in (tag for tag in _tags(cell) if tag.startswith("lib:")):
            target = tag.removeprefix("lib:")
            try:
                module, names = locate(target)
                mine = definition(ast.parse(cell.source), [names[-1]])
                theirs = definition(ast.parse(module.read_text(encoding="utf-8")), names)
            except (CxrError, SyntaxError) as error:
                problems.append(f"{chapter.label(cell)}, tag {tag}: {error}")
                continue
            if mine != theirs:
                problems.append(f"{chapter.label(cell)} is not the code of {target}: {first_difference(mine, theirs)}")
    return problems


def plain_markdown(chapter: Chapter) -> list[str]:
    """No MyST directive, role, target or comment, and no picture from a file: Jupyter and Colab show them raw."""
    return [f"{chapter.label(cell)}: {what}" for cell in chapter.text for what in prose.raw_syntax(cell.source)]


def figures(chapter: Chapter) -> list[str]:
    """At most one figure per cell, each with a sentence in words that the book can use."""
    problems = []
    for cell in chapter.code:
        pictures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        if len(pictures) > 1:
            problems.append(f"{chapter.label(cell)} shows {len(pictures)} figures: one per cell")
        for picture in pictures:
            alt = picture["data"].get("text/plain", "")
            if len(alt.split()) < 6 or alt.startswith("<"):
                problems.append(f"{chapter.label(cell)} has a figure without a sentence ({alt!r}): use viz.show(fig, alt)")
            elif cell.metadata.get("mystnb", {}).get("image", {}).get("alt") != alt:
                problems.append(f"{chapter.label(cell)}: the book would not get the figure's words: remake the notebook")
        for output in cell.outputs:
            if {"image/svg+xml", "image/jpeg"} & set(output.get("data", {})):
                problems.append(f"{chapter.label(cell)} shows a picture that is not PNG: use viz.show(fig, alt)")
    return problems


def numbers(chapter: Chapter) -> list[str]:
    """Every bound number equals what was printed, and every computed number in prose is bound."""
    try:
        facts = facts_of(chapter.notebook)
    except CxrError as error:
        return [str(error)]
    computed = {n for cell in chapter.code for output in cell.outputs for n in prose.numbers_in_output(output)}
    problems = []
    for cell in chapter.text:
        for value, _, name in BOUND.findall(cell.source):
            if facts.get(name) != value:
                printed = facts.get(name, "nothing of that name")
                problems.append(f"{chapter.label(cell)}: the prose says {name} is {value}, the cells print {printed}")
        for number in prose.free_numbers(BUDGET.sub("", cell.source)):
            if number.replace(",", "") in computed:
                problems.append(f"{chapter.label(cell)}: {number} is computed by a cell: bind it, or mark it <!-- given -->")
    return problems


def budget(chapter: Chapter) -> list[str]:
    """The budget line at the top says what was measured when the notebook was made."""
    stored = chapter.notebook.metadata.get("cxr", {}).get("budget")
    if not stored:
        return ["the notebook stores no measured budget: remake it"]
    lines = [match[2] for cell in chapter.text[:3] for match in BUDGET.finditer(cell.source)]
    if lines != [budget_text(**stored)]:
        return [f"the budget line says {lines}, the measurement {budget_text(**stored)!r}: remake the notebook"]
    return []


def few_exempt(chapter: Chapter) -> list[str]:
    """At most one code cell in ten is exempt from the comparison of outputs."""
    words = ("nbval-ignore-output", "nbval-skip", "NBVAL_IGNORE_OUTPUT", "NBVAL_SKIP", "PYTEST_VALIDATE_IGNORE_OUTPUT")
    exempt = [cell for cell in chapter.code if any(word in (*_tags(cell), *cell.source.split()) for word in words)]
    if len(exempt) * 10 > len(chapter.code):
        return [f"{len(exempt)} of {len(chapter.code)} code cells are exempt from comparison: at most one in ten"]
    return []


def course_calls(chapter: Chapter) -> list[str]:
    """The chapter checks each of its exercises, and predicts and reveals each of its questions, by their ids."""
    code = "\n".join(cell.source for cell in chapter.code)
    problems = []
    ids = [item.id for item in exercises_of(chapter.number)]
    questions = [item.id for item in questions_of(chapter.number)]
    for call, known in (("check", ids), ("predict", questions), ("reveal", questions)):
        used = re.findall(rf"""^[^#\n]*course\.{call}\(\s*["']([^"']+)""", code, re.MULTILINE)
        problems += [f"course.{call}({name!r}) names nothing of this chapter" for name in used if name not in known]
        problems += [f"{name} is never given to course.{call}" for name in known if name not in used]
    levels = [item.level for item in exercises_of(chapter.number)]
    if levels.count("core") < 2 or not {"warm-up", "stretch"} <= set(levels):
        problems.append(f"a chapter has a warm-up, two core exercises and a stretch; this one has {levels or 'none'}")
    return problems


ANATOMY = ("what you will be able to do", "what you need", "why", "exercises", "error clinic", "recap", "further reading")


def anatomy(chapter: Chapter) -> list[str]:
    """Title, Colab cell, parts and size are those of a chapter."""
    problems = []
    title = f"# {chapter.number}. {TITLES.get(chapter.number, '?')}"
    if not chapter.text or chapter.text[0].source.splitlines()[0].strip() != title:
        problems.append(f"the chapter does not begin with the heading {title!r}")
    expected = colab_source(*repository(chapter.source.parent))
    if not chapter.code or chapter.code[0].source != expected:
        problems.append("the first code cell is not the Colab cell: remake the notebook")
    headings = [h.lower() for cell in chapter.text for h in re.findall(r"^##\s+(.+?)\s*$", cell.source, re.MULTILINE)]
    places = [next((i for i, h in enumerate(headings) if h.startswith(part)), None) for part in ANATOMY]
    problems += [f"there is no section {part!r}" for part, place in zip(ANATOMY, places, strict=True) if place is None]
    found = [place for place in places if place is not None]
    if found != sorted(found):
        problems.append(f"the sections are not in the order {', '.join(ANATOMY)}")
    words = sum(prose.word_count(cell.source) for cell in chapter.text)
    cells = len(chapter.notebook.cells)
    if not 60 <= cells <= 130:
        problems.append(f"{cells} cells: a chapter has 60 to 130")
    if not 2000 <= words <= 5000:
        problems.append(f"{words} words of prose: a chapter has 2,500 to 4,000 (2,000 to 5,000 are let pass)")
    return problems


def links(chapter: Chapter) -> list[str]:
    """Links to other pages of the book lead somewhere."""
    problems = []
    for cell in chapter.text:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose.without_code(cell.source)):
            if re.match(r"https?://|mailto:|#", target):
                continue
            if not (chapter.source.parent / target.partition("#")[0]).exists():
                problems.append(f"{chapter.label(cell)} links to {target}, which does not exist")
            elif re.fullmatch(r"\d\d_\w+\.md", target.partition("#")[0]):
                problems.append(f"{chapter.label(cell)} links to {target}: link to the .ipynb, which every reader has")
    return problems


GATES: tuple[Callable[[Chapter], list[str]], ...] = (
    pair, ran, clean_outputs, library_code, plain_markdown, figures, numbers, budget, few_exempt, course_calls, anatomy,
    links,
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """The command: prints the problems of each chapter. Returns 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m cxrlib.course.gates", description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", type=Path, help="chapters' .md files (default: all of chapters/)")
    chapters = parser.parse_args(arguments).chapters or sorted(Path("chapters").glob("[0-9][0-9]_*.md"))
    total = 0
    for source in chapters:
        try:
            chapter = Chapter(source)
            problems = [(gate.__name__, problem) for gate in GATES for problem in gate(chapter)]
        except CxrError as error:
            problems = [("read", str(error))]
        total += len(problems)
        print(f"{source.stem}: {len(problems) or 'no'} problem{'s' * (len(problems) != 1)}")
        for name, problem in problems:
            print(f"  {name}: {problem}")
    return 1 if total or not chapters else 0


if __name__ == "__main__":
    sys.exit(main())
