"""Makes each chapter's notebook from its .md:  python -m cxrlib.course.remake [chapters/NN_name.md ...]

One clean run in a fresh kernel; nothing random is written, so a second run changes no byte. The numbers in the prose are
filled in from the outputs, in both files.
"""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from cxrlib.course.bind import bind, budget_text, facts_of, put_budget, put_colab_cell, repository
from cxrlib.errors import CxrError
from cxrlib.io import atomic_write

KERNEL_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # the number of threads changes the last digits, and two spinning pools starve each other
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}
"""What a chapter's kernel runs under, here and in `chapters/conftest.py`."""

_CLOCK = re.compile(r"\[?\d+:\d+(?:&lt;|<)[\d:?]+,\s*[\d.?]+\s*(?:[a-zA-Z]+/s|s/[a-zA-Z]+)[^\]\"\\]*\]?")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def remake(source: Path, *, rebudget: bool = False) -> str:
    """Remakes one chapter.

    Args:
        source: The chapter's .md. The notebook of the same name is written beside it.
        rebudget: Restate the budget even if the measurement moved by less than a fifth.

    Returns:
        One line that says what was measured and whether the files changed.

    Raises:
        CxrError: The file is missing or not a chapter, a cell failed, or the prose names an unknown fact. Nothing is
            written then.
    """
    import jupytext
    import nbformat

    if source.suffix != ".md" or not source.exists():
        raise CxrError(f"{source} is not a chapter's .md: give one like chapters/01_name.md")
    original = source.read_text(encoding="utf-8")
    text = put_colab_cell(original, *repository(source.parent))
    notebook = jupytext.reads(text, fmt="md:myst")
    measured = execute(notebook, source)
    target = source.with_suffix(".ipynb")
    budget = keep_budget(target, measured, rebudget)

    facts = facts_of(notebook)
    words = budget_text(**budget)
    text = bind(put_budget(text, words), facts)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            filled = bind(cell.source, facts)
            cell.source = put_budget(filled, words) if "<!-- budget -->" in filled else filled
    tidy(notebook, budget, source)
    written = nbformat.writes(notebook, version=4) + "\n"
    nbformat.validate(nbformat.reads(written, as_version=4))
    changed = [_write(source, original, text), _write(target, _read(target), written)]
    state = "changed" if any(changed) else "unchanged, byte for byte"
    return f"{source.stem}: {measured['seconds']:.0f} s, {measured['peak_mib']:.0f} MiB, {state}"


def execute(notebook: Any, source: Path) -> dict[str, float]:
    """Runs a notebook in place, in a fresh kernel whose folder is the chapter's.

    Returns:
        Wall seconds (the kernel's start included) and the kernel's peak resident memory in MiB (NaN without /proc).

    Raises:
        CxrError: A cell failed.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(source.parent)}},
    )
    measured: dict[str, float] = {}

    def measure(**_) -> None:
        measured["seconds"] = time.perf_counter() - began
        measured["peak_mib"] = peak_mib(client.km.provisioner.process.pid)

    client.on_cell_executed = measure  # the hook at the notebook's end comes after the kernel is gone
    began = time.perf_counter()
    try:
        client.execute(env=os.environ | KERNEL_ENVIRONMENT)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        message = _ANSI.sub("", str(error)).strip()
        raise CxrError(f"{source.name} did not run through; nothing was written:\n{message}") from None
    return measured


def peak_mib(pid: int) -> float:
    """The most memory a process has held so far, in MiB; NaN where the system has no /proc."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return float("nan")
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else float("nan")


def keep_budget(target: Path, measured: dict[str, float], rebudget: bool) -> dict[str, float]:
    """The budget to state: the one stored before, unless the new measurement differs by more than a fifth."""
    least = {"seconds": 5, "peak_mib": 50}  # below these a difference is noise, however short the chapter
    new = {"seconds": round(measured["seconds"]), "peak_mib": round(measured["peak_mib"])}
    try:
        old = json.loads(target.read_text(encoding="utf-8"))["metadata"]["cxr"]["budget"]
        near = all(abs(new[key] - old[key]) <= max(0.2 * old[key], least[key]) for key in new)
    except (OSError, KeyError, TypeError, json.JSONDecodeError):
        return new
    return old if near and not rebudget else new


def tidy(notebook: Any, budget: dict[str, float], source: Path) -> None:
    """Takes out what differs from run to run, and puts in what the book needs."""
    widgets = notebook.metadata.get("widgets")
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
        "cxr": {"budget": budget},
    }
    if widgets:
        notebook.metadata["widgets"] = widgets
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{number:03d}"
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                output.traceback = [_plain_paths(_ANSI.sub("", line), source) for line in output.traceback]
            elif "image/png" in output.get("data", {}):
                alt = output.data.get("text/plain", "")
                # dark-light keeps the theme's dark mode from changing a radiograph's brightness and contrast.
                cell.metadata["mystnb"] = {"image": {"alt": alt, "classes": "dark-light"}}
                output.metadata = {}
    _number_widgets(notebook)


def _plain_paths(text: str, source: Path) -> str:
    """A traceback without this machine's folders."""
    import cxrlib

    package = Path(cxrlib.__file__).resolve().parent
    for folder in (package.parent, source.resolve().parent.parent):
        text = text.replace(f"{folder}{os.sep}", "")
    return re.sub(r"[^\s\"']*[/\\](?=site-packages[/\\]|lib[/\\]python3)", "", text)


def _number_widgets(notebook: Any) -> None:
    """Numbers the random ids of widgets in the order of their creation, and stops the clocks of progress bars."""
    state = notebook.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    if not state:
        return
    text = _CLOCK.sub("", json.dumps(notebook.metadata["widgets"], ensure_ascii=False))
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    stored = json.dumps(outputs)
    for number, model in enumerate(state, 1):
        text, stored = (part.replace(model, f"{number:032x}") for part in (text, stored))
    import nbformat

    notebook.metadata["widgets"] = json.loads(text)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell, renewed in zip(code, json.loads(stored), strict=True):
        cell.outputs = [nbformat.from_dict(output) for output in renewed]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _write(path: Path, old: str, new: str) -> bool:
    """Writes a file if its text changes; says whether it did."""
    if old == new:
        return False
    with atomic_write(path) as file:
        file.write(new)
    return True


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns 0, or 2 if any chapter could not be made."""
    parser = argparse.ArgumentParser(prog="python -m cxrlib.course.remake", description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", type=Path, help="chapters' .md files (default: all of chapters/)")
    parser.add_argument("--rebudget", action="store_true", help="restate the budget from this run in any case")
    options = parser.parse_args(arguments)
    chapters = options.chapters or sorted(Path("chapters").glob("[0-9][0-9]_*.md"))
    if not chapters:
        print("no chapters here: run this in the root of a checkout, or name the .md files", file=sys.stderr)
        return 2
    failed = 0
    for chapter in chapters:
        try:
            print(remake(chapter, rebudget=options.rebudget), flush=True)
        except CxrError as error:
            failed += 1
            print(f"{chapter.stem}: {error}", file=sys.stderr, flush=True)
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
