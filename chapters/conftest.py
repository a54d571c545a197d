"""How the chapters are tested: `pytest --nbval chapters` runs each notebook and compares every stored output.

Also here: one thread per kernel, a notebook stays on one worker, and each chapter keeps the budget stated at its top.
"""

import json
import os
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent

# The same as cxrlib.course.remake.KERNEL_ENVIRONMENT (a test compares the two). It is spelled out here, because it must be
# set before anything imports torch: two workers whose kernels spin two threads each run many times slower.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}

MEMORY_LIMIT_MIB = 3 * 1024
SECONDS_LIMIT_ALL = 9 * 60
"""For up to six chapters together; with more of them a minute and a half for each."""
SECONDS_EACH = 90
# The stated seconds come from a quiet machine with two cores. Another machine may be slower, and here two notebooks and
# the tests share the two cores: a chapter fails only when it takes 2.5 times its budget and half a minute more.
SLOWER = 2.5
GRACE_SECONDS = 30

_spent: dict[str, dict] = {}


def pytest_configure(config: pytest.Config) -> None:
    for name, value in ENVIRONMENT.items():
        if name != "MPLBACKEND":
            os.environ[name] = value
    if not config.pluginmanager.hasplugin("nbval") or not config.option.nbval:
        return
    config.option.nbval_current_env = True
    config.option.nbval_sanitize_with = str(HERE / "sanitize.cfg")
    config.option.nbval_cell_timeout = 300


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """With `-n 2` a notebook's cells must stay together, in order: they share one kernel."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call):
    """After each cell, while its kernel lives: the most memory the kernel has held. It travels with the report."""
    report = yield
    if call.when == "call" and item.path.suffix == ".ipynb":
        report.user_properties.append(("kernel_peak_mib", _peak_mib(getattr(item.parent, "kernel", None))))
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Adds up each notebook's seconds (the kernel's start is in its first cell's set-up). Runs where reports meet."""
    path = report.nodeid.partition("::")[0]
    if not path.endswith(".ipynb"):
        return
    row = _spent.setdefault(Path(path).stem, {"seconds": 0.0, "peak_mib": None})
    row["seconds"] += report.duration
    peaks = [value for name, value in report.user_properties if name == "kernel_peak_mib" and value is not None]
    if peaks:
        row["peak_mib"] = max([*peaks, row["peak_mib"] or 0.0])


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Turns a broken budget into a failure that the last line counts."""
    if hasattr(session.config, "workerinput"):
        return
    problems = budget_problems(_spent, _stated(), workers=_workers(session.config))
    for problem in problems:
        report = pytest.TestReport(
            nodeid=f"chapters/conftest.py::budget[{problem.partition(':')[0]}]",
            location=("chapters/conftest.py", None, "budget"),
            keywords={},
            outcome="failed",
            longrepr=problem,
            when="call",
        )
        session.config.hook.pytest_runtest_logreport(report=report)
        session.testsfailed += 1
    if problems and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter) -> None:
    """A table of what each chapter took, beside what its top line says."""
    if not _spent:
        return
    terminalreporter.section("chapters: seconds and peak memory")
    stated = _stated()
    for name, row in sorted(_spent.items()):
        budget = stated.get(name, {})
        memory = "unknown (no /proc here)" if row["peak_mib"] is None else f"{row['peak_mib']:.0f} MiB"
        terminalreporter.line(
            f"{name:<34} {row['seconds']:6.1f} s (stated {budget.get('seconds', '?')} s)   "
            f"{memory} (stated {budget.get('peak_mib', '?')} MiB)"
        )
    total = sum(row["seconds"] for row in _spent.values())
    terminalreporter.line(f"{'together':<34} {total:6.1f} s, run by {_workers(terminalreporter.config)} worker(s)")


def budget_problems(measured: dict, stated: dict, *, workers: int = 1) -> list[str]:
    """What breaks the budgets, one line each, "chapter: what".

    Args:
        measured: seconds and peak_mib (None if unknown) by chapter.
        stated: The same, from the notebooks' metadata.
        workers: How many ran side by side, for the limit on all chapters together.
    """
    problems = []
    for name, row in sorted(measured.items()):
        if row["peak_mib"] is not None and row["peak_mib"] > MEMORY_LIMIT_MIB:
            problems.append(f"{name}: its kernel held {row['peak_mib']:.0f} MiB, more than {MEMORY_LIMIT_MIB}")
        budget = stated.get(name, {}).get("seconds")
        if budget is None:
            problems.append(f"{name}: states no budget; remake the notebook")
        elif row["seconds"] > SLOWER * budget + GRACE_SECONDS:
            problems.append(f"{name}: took {row['seconds']:.0f} s; it states {budget} s and may take {SLOWER} times that")
    total = sum(row["seconds"] for row in measured.values()) / workers
    limit = max(SECONDS_LIMIT_ALL, SECONDS_EACH * len(measured))
    if total > limit:
        problems.append(f"all chapters: took {total:.0f} s together, more than {limit}")
    return problems


def _stated() -> dict:
    """Each notebook's stored budget, by chapter."""
    budgets = {}
    for path in HERE.glob("[0-9][0-9]_*.ipynb"):
        budgets[path.stem] = json.loads(path.read_text(encoding="utf-8"))["metadata"].get("cxr", {}).get("budget", {})
    return budgets


def _workers(config: pytest.Config) -> int:
    count = getattr(config.option, "numprocesses", None)
    return count if isinstance(count, int) and count > 0 else 1


def _peak_mib(kernel) -> float | None:
    """A kernel's peak resident memory in MiB; None where the system has no /proc (macOS, Windows)."""
    try:
        status = Path(f"/proc/{kernel.km.provisioner.process.pid}/status").read_text()
    except (AttributeError, OSError):
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else None
