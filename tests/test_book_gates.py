"""Every authoring gate passes on a sound little chapter and fails on a doctored one."""

import copy
import os
from pathlib import Path

import pytest

from cxrlib.course import gates, prose
from cxrlib.course import remake as remake_module
from cxrlib.course.bind import budget_text
from cxrlib.course.exercise import Exercise, Question, right
from cxrlib.course.gates import Chapter
from cxrlib.course.remake import KERNEL_ENVIRONMENT, remake
from cxrlib.errors import CxrError

HEADER = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
    format_version: 0.13
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""

CHAPTER = """
# 3. Patches and positions

> **Budget.** <!-- budget --><!-- /budget --> · level: easy

```{code-cell} ipython3
:tags: [colab, remove-cell]

```

```{code-cell} ipython3
import numpy as np
from cxrlib import course, viz
course.start(3)
```

## What you will be able to do

## What you need

## Why

The mean is ?<!-- =mean -->, of ?<!-- =pixels --> pixels, in a picture of 224<!-- given --> by 224<!-- given -->.

```{code-cell} ipython3
course.fact("mean", 0.8134)
course.fact("pixels", 50176, ",d")
print("side", 224)
```

```{code-cell} ipython3
fig, ax = viz.figure(width=3, height=2)
ax.plot(np.arange(5))
viz.show(fig, f"A straight line that rises from 0 to {np.arange(5).max()}.")
```

```{code-cell} ipython3
def draw(patch):
    fig, ax = viz.figure(width=2, height=2)
    ax.plot(np.arange(patch))
    return fig, f"A line of {patch} points that rises to its end."

viz.knob(draw, patch=(4, 8))
```

```{code-cell} ipython3
:tags: [lib:cxrlib.course.prose.without_code]

def without_code(source: str) -> str:
    # another comment, no docstring
    return _SPAN.sub(" ", _FENCE.sub("\\n", source))
```

```{code-cell} ipython3
:tags: [raises-exception]

viz.radiograph(None, np.zeros(3))
```

## Exercises

```{code-cell} ipython3
# course.check("ch03.toy", 1)
course.start(3)
```

## Error clinic

## Recap

## Further reading

FILLER
"""


def _text() -> str:
    filler = "\n\n+++\n\n".join(" ".join(["word"] * 45) for _ in range(50))
    return HEADER + CHAPTER.replace("FILLER", filler)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A sound chapter, made by `remake` from its .md."""
    folder = tmp_path_factory.mktemp("book") / "chapters"
    folder.mkdir()
    config = "repository: {url: https://example.org/course, branch: main}\n"
    (folder.parent / "_config.yml").write_text(config)
    source = folder / "03_patches_and_positions.md"
    source.write_text(_text())
    assert "changed" in remake(source)
    return source


@pytest.fixture
def chapter(made) -> Chapter:
    return copy.deepcopy(Chapter(made))


def _cell(chapter: Chapter, words: str):
    return next(cell for cell in chapter.notebook.cells if words in cell.source)


# --- remake ---------------------------------------------------------------------------------------------------------


def test_a_second_run_changes_no_byte(made, monkeypatch):
    # A busy machine may take twice as long the second time; that rule has its own test below.
    monkeypatch.setattr(remake_module, "keep_budget", lambda target, measured, rebudget: _budget(made))
    before = {path: path.read_bytes() for path in (made, made.with_suffix(".ipynb"))}
    assert "unchanged" in remake(made)
    assert {path: path.read_bytes() for path in before} == before


def _budget(source: Path) -> dict:
    return Chapter(source).notebook.metadata["cxr"]["budget"]


def test_the_budget_is_restated_when_it_moves_by_a_fifth(made):
    keep, target = remake_module.keep_budget, made.with_suffix(".ipynb")
    old = _budget(made)
    near = {"seconds": old["seconds"] + 4, "peak_mib": old["peak_mib"] * 1.1}
    far = {"seconds": old["seconds"] + 60, "peak_mib": old["peak_mib"]}
    assert keep(target, near, False) == old
    assert keep(target, near, True)["seconds"] == near["seconds"]
    assert keep(target, far, False)["seconds"] == far["seconds"]
    assert keep(target, {"seconds": old["seconds"], "peak_mib": 3 * old["peak_mib"]}, False)["peak_mib"] > 2 * old["peak_mib"]
    assert keep(made.with_name("none.ipynb"), near, False)["seconds"] == near["seconds"]


def test_numbers_and_budget_are_filled_in_both_files(made):
    for path in (made, made.with_suffix(".ipynb")):
        text = path.read_text()
        assert "The mean is 0.81<!-- =mean -->, of 50,176<!-- =pixels --> pixels" in text
        assert f"<!-- budget -->{budget_text(**_budget(made))}<!-- /budget -->" in text
        assert "git+https://example.org/course@main" in text


def test_a_failing_cell_writes_nothing(made, tmp_path):
    chapters = tmp_path / "chapters"
    chapters.mkdir()
    (tmp_path / "_config.yml").write_text((made.parent.parent / "_config.yml").read_text())
    source = chapters / "03_toy.md"
    source.write_text(made.read_text().replace("import numpy as np", "1 / 0"))
    before = source.read_bytes()
    with pytest.raises(CxrError, match="ZeroDivisionError"):
        remake(source)
    assert source.read_bytes() == before
    assert not source.with_suffix(".ipynb").exists()


def test_an_unknown_fact_is_named(made, tmp_path):
    from cxrlib.course.bind import bind, put_budget, put_colab_cell, repository

    with pytest.raises(CxrError, match="'nothing'"):
        bind("it is 3<!-- =nothing -->", {"mean": "0.8"})
    with pytest.raises(CxrError, match="no budget line"):
        put_budget("# 3. Title", "words")
    with pytest.raises(CxrError, match="remove-cell"):
        put_colab_cell("# 3. Title", "https://example.org", "main")
    (tmp_path / "_config.yml").write_text("title: x\n")
    with pytest.raises(CxrError, match="repository"):
        repository(tmp_path)


def test_the_tests_run_kernels_as_remake_does():
    import runpy

    root = Path(__file__).parent.parent
    assert runpy.run_path(str(root / "chapters" / "conftest.py"))["ENVIRONMENT"] == KERNEL_ENVIRONMENT


# --- gates ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def toy_exercises(monkeypatch):
    """The little chapter's exercises, as the gates see them."""

    def exercise(slug, level):
        return Exercise(
            id=f"ch03.{slug}", title=slug, prompt="", answer="x", check=lambda x: right(), hints=("a", "b", "c"),
            stub="", solution="x = 1", alternatives=("x = 2 - 1",), mutants={"m": "x = 0"}, level=level,
        )  # fmt: skip

    items = [exercise(s, v) for s, v in zip("abcd", ("warm-up", "core", "core", "stretch"), strict=True)]
    monkeypatch.setattr(gates, "exercises_of", lambda number: tuple(items))
    monkeypatch.setattr(gates, "questions_of", lambda number: (Question(id="ch03.q", prompt=""),))
    calls = "\n".join(f'course.check("{item.id}", x)' for item in items)
    return calls + '\ncourse.predict("ch03.q", 1)\ncourse.reveal("ch03.q", 2)'


def test_a_sound_chapter_passes_every_gate(chapter, toy_exercises):
    _cell(chapter, "# course.check").source = toy_exercises
    chapter.markdown.cells[chapter.notebook.cells.index(_cell(chapter, "course.check("))].source = toy_exercises
    found = {gate.__name__: gate(chapter) for gate in gates.GATES}
    assert found == {name: [] for name in found}


def test_pair(chapter):
    chapter.markdown.cells[0].source += "\nedited"
    assert len(gates.pair(chapter)) == 1


def test_pair_sees_tags_and_missing_cells(chapter):
    _cell(chapter, "viz.knob").metadata["tags"] = ["nbval-skip"]
    assert len(gates.pair(chapter)) == 1
    del chapter.notebook.cells[-1]
    assert len(gates.pair(chapter)) == 2


def test_ran_in_order(chapter):
    _cell(chapter, "viz.knob").execution_count = None
    assert gates.ran(chapter)


def test_ran_errors_only_where_announced(chapter):
    _cell(chapter, "np.zeros(3)").metadata["tags"] = []
    assert "fails" in gates.ran(chapter)[0]
    _cell(chapter, "viz.knob").metadata["tags"] = ["raises-exception"]
    assert any("but runs" in problem for problem in gates.ran(chapter))


def test_clean_outputs(chapter):
    from nbformat.v4 import new_output

    cell = _cell(chapter, "viz.knob")
    for output, word in (
        (new_output("stream", name="stderr", text="UserWarning: x"), "stderr"),
        (new_output("stream", name="stdout", text="saved to /home/someone/x.png"), "folder"),
        (new_output("stream", name="stdout", text="<Thing at 0x7f00aa11bb22>"), "address"),
    ):
        cell.outputs = [output]
        assert word in gates.clean_outputs(chapter)[0]


def test_library_code(chapter):
    cell = _cell(chapter, "def without_code")
    assert gates.library_code(chapter) == []
    cell.source = cell.source.replace('" "', '""')
    assert "here," in gates.library_code(chapter)[0]
    cell.metadata["tags"] = ["lib:cxrlib.course.prose.nothing"]
    assert gates.library_code(chapter)
    cell.metadata["tags"] = ["lib:nowhere.at.all"]
    assert "no module" in gates.library_code(chapter)[0]


@pytest.mark.parametrize(
    "raw",
    [
        "```{note}\nx\n```",
        ":::{tip}\nx\n:::",
        "see {ref}`there`",
        "(here)=\n## Title",
        "% hidden",
        "{{ value }}",
        "![alt](picture.png)",
        "a footnote[^1]",
        "````{admonition} T\n```python\nx\n```\n````",
        '<img src="a.png" alt="a">',
    ],
)
def test_plain_markdown(chapter, raw):
    assert gates.plain_markdown(chapter) == []
    _cell(chapter, "The mean").source += "\n\n" + raw
    assert gates.plain_markdown(chapter)


@pytest.mark.parametrize(
    "fine",
    [
        "```python\nx = {'a': 1}  # {ref}\n```",
        "$x_{i}$ and $$\\frac{a}{b} \\tag{1}$$",
        "`{ref}` alone",
        "a set {1, 2}",
        "(see below) = fine",
        "50 % of them",
        "<details>\n<summary>Hint</summary>\n\ntext\n\n</details>",
    ],
)
def test_plain_markdown_lets_ordinary_text_pass(fine):
    assert prose.raw_syntax(fine) == []


def test_figures(chapter):
    cell = _cell(chapter, "viz.show(")
    cell.outputs.append(copy.deepcopy(cell.outputs[0]))
    assert "2 figures" in gates.figures(chapter)[0]
    del cell.outputs[0]
    cell.metadata["mystnb"]["image"]["alt"] = "abc.png"
    assert "remake" in gates.figures(chapter)[0]
    cell.outputs[0]["data"]["text/plain"] = "<Figure size 640x480 with 1 Axes>"
    assert "without a sentence" in gates.figures(chapter)[0]


def test_numbers_bound_to_another_value(chapter):
    cell = _cell(chapter, "The mean is")
    cell.source = cell.source.replace("0.81<!--", "0.82<!--")
    assert "prose says mean is 0.82" in gates.numbers(chapter)[0]


def test_numbers_computed_but_typed_by_hand(chapter):
    cell = _cell(chapter, "The mean is")
    for text in (" It was 0.81.", " All 50,176 of them.", " All 50176.", " (224)", "\n\n| a |\n|---|\n| 0.81 |"):
        doctored = copy.deepcopy(chapter)
        _cell(doctored, "The mean is").source += text
        assert len(gates.numbers(doctored)) == 1, text
    cell.source += " In 2017, `0.81` and $0.81$ and [0.81](https://doi.org/0.81) and 7 and 81 %, 0.99."
    assert gates.numbers(chapter) == []


def test_numbers_one_name_two_values(chapter):
    _cell(chapter, "# course.check").outputs[0].text += "mean = 0.70\n"
    assert "rename" in gates.numbers(chapter)[0]


def test_budget(chapter):
    cell = _cell(chapter, "**Budget.**")
    cell.source = cell.source.replace("seconds", "minutes")
    assert gates.budget(chapter)
    del chapter.notebook.metadata["cxr"]
    assert "no measured budget" in gates.budget(chapter)[0]


def test_few_exempt(chapter):
    assert len(chapter.code) < 10
    _cell(chapter, "viz.knob").metadata["tags"] = ["nbval-ignore-output"]
    assert gates.few_exempt(chapter)
    _cell(chapter, "viz.knob").metadata["tags"] = []
    assert not gates.few_exempt(chapter)
    _cell(chapter, "viz.knob").source += "\n# NBVAL_IGNORE_OUTPUT"
    assert gates.few_exempt(chapter)


def test_course_calls(chapter, toy_exercises):
    cell = _cell(chapter, "# course.check")
    cell.source = toy_exercises.replace('course.check("ch03.b", x)', '# course.check("ch03.b", x)')
    assert gates.course_calls(chapter) == ["ch03.b is never given to course.check"]
    cell.source = toy_exercises + '\ncourse.check("ch03.z", x)'
    assert "names nothing" in gates.course_calls(chapter)[0]


def test_course_calls_wants_four_levels(chapter, monkeypatch):
    monkeypatch.setattr(gates, "exercises_of", lambda number: ())
    monkeypatch.setattr(gates, "questions_of", lambda number: ())
    assert "warm-up" in gates.course_calls(chapter)[0]


def test_anatomy(chapter):
    title = _cell(chapter, "# 3. Patches")
    title.source = title.source.replace("Patches", "Pieces")
    assert "does not begin" in gates.anatomy(chapter)[0]
    title.source = title.source.replace("Pieces", "Patches")
    recap = _cell(chapter, "## Recap")
    recap.source = recap.source.replace("## Recap", "## Summary")
    assert "'recap'" in gates.anatomy(chapter)[0]
    recap.source = recap.source.replace("## Summary", "## Recap")
    why = _cell(chapter, "## Why")
    why.source = why.source.replace("## Why", "## What you need").replace("## What you need", "## Why", 1)
    chapter.code[0].source += "\nimport os"
    assert "Colab" in gates.anatomy(chapter)[0]
    del chapter.notebook.cells[-20:]
    assert any("cells: a chapter has" in problem for problem in gates.anatomy(chapter))


def test_anatomy_order(chapter):
    recap, clinic = _cell(chapter, "## Recap"), _cell(chapter, "## Error clinic")
    assert recap is clinic
    recap.source = recap.source.replace("## Error clinic", "## X").replace("## Recap", "## Error clinic").replace("## X", "## Recap")
    assert "order" in gates.anatomy(chapter)[0]


def test_links(chapter):
    _cell(chapter, "The mean is").source += " See [chapter 9](09_nothing.ipynb)."
    assert "does not exist" in gates.links(chapter)[0]
    _cell(chapter, "The mean is").source += " And [this](03_patches_and_positions.md)."
    assert "link to the .ipynb" in gates.links(chapter)[1]


def test_every_gate_is_shown_failing():
    """Each gate's name stands in a test above."""
    text = Path(__file__).read_text()
    assert [gate.__name__ for gate in gates.GATES if f"def test_{gate.__name__}" not in text] == []


def test_the_command_counts_problems(made, capsys):
    assert gates.main([str(made)]) == 1  # the toy checks no exercise
    assert "03_patches_and_positions: " in capsys.readouterr().out
    assert gates.main([str(made.parent / "04_missing.md")]) == 1


# --- budgets --------------------------------------------------------------------------------------------------------


def test_a_broken_budget_fails_the_nbval_run(made, tmp_path):
    """The conftest turns seconds or memory over the limit into a failure that pytest's last line counts."""
    import subprocess
    import sys

    chapters = tmp_path / "chapters"
    chapters.mkdir()
    here = Path(__file__).parent.parent / "chapters"
    (chapters / "sanitize.cfg").write_text((here / "sanitize.cfg").read_text())
    (chapters / "03_toy.ipynb").write_text(made.with_suffix(".ipynb").read_text())
    conftest = (here / "conftest.py").read_text()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", "chapters"]

    def last_line(text: str) -> tuple[int, str]:
        (chapters / "conftest.py").write_text(text)
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
        return done.returncode, done.stdout.strip().splitlines()[-1] + done.stdout

    status, out = last_line(conftest)
    assert status == 0, out
    assert "03_toy" in out and "MiB" in out
    status, out = last_line(conftest.replace("3 * 1024", "20").replace("GRACE_SECONDS = 30", "GRACE_SECONDS = -1000"))
    assert status == 1
    assert "2 failed" in out and "more than 20" in out and "and may take" in out


def test_budget_problems_in_words():
    import runpy

    module = runpy.run_path(str(Path(__file__).parent.parent / "chapters" / "conftest.py"))
    judge = module["budget_problems"]
    stated = {"a": {"seconds": 60, "peak_mib": 500}}
    assert judge({"a": {"seconds": 61.0, "peak_mib": 600.0}}, stated) == []
    assert judge({"a": {"seconds": 61.0, "peak_mib": None}}, stated) == []
    assert "3100 MiB" in judge({"a": {"seconds": 61.0, "peak_mib": 3100.0}}, stated)[0]
    assert "took 200 s" in judge({"a": {"seconds": 200.0, "peak_mib": 600.0}}, stated)[0]
    assert "states no budget" in judge({"b": {"seconds": 1.0, "peak_mib": 1.0}}, stated)[0]
    many = {name: {"seconds": 100, "peak_mib": 1} for name in "abcdef"}
    slow = {name: {"seconds": 100.0, "peak_mib": 1.0} for name in "abcdef"}
    assert "all chapters" in judge(slow, many)[0]
    assert judge(slow, many, workers=2) == []


