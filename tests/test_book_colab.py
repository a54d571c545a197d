"""A chapter's first cell on a stand-in for Colab: it installs cxrlib there, leaves torch and numpy alone, and is quick.

The stand-in is a clean virtual environment that sees this environment's packages through links, but neither cxrlib nor what
Colab lacks. The repository's address leads to this checkout's last commit by a setting of git.
"""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from cxrlib.course.bind import colab_source, repository

ROOT = Path(__file__).parent.parent
NOT_ON_COLAB = ("cxrlib", "torchxrayvision", "lightning", "nbval", "jupyter_book", "jupytext", "pip", "google", "_distutils")

DRIVER = """\
import importlib.metadata as m, json, sys, time
try:
    import google.colab  # Colab's kernel has done this before the first cell
except ImportError:
    pass
from IPython.core.interactiveshell import InteractiveShell
import IPython
shell = InteractiveShell.instance()
names = ("torch", "torchvision", "numpy")
before = {n: m.version(n) for n in names}
began = time.perf_counter()
cell = open(sys.argv[1]).read()
first = shell.run_cell(cell)
seconds = time.perf_counter() - began
began = time.perf_counter()
again = shell.run_cell(cell)
rest = shell.run_cell("from cxrlib import course\\ncourse.start(1)\\nimport cxrlib, torchxrayvision, timm, lightning_fabric")
print(json.dumps({
    "ipython": IPython.__version__, "ok": first.success and again.success, "rest": rest.success, "seconds": seconds,
    "again": time.perf_counter() - began, "before": before, "after": {n: m.version(n) for n in names},
    "cxrlib": sys.modules["cxrlib"].__file__ if rest.success else str(rest.error_in_exec),
}))
"""


def _python(folder: Path) -> str:
    return str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> dict[str, str]:
    """The environment in which git finds this checkout under the course's address."""
    try:
        head = _git("-C", str(ROOT), "rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is not a git checkout: there is no commit that Colab could install")
    url, branch = repository(ROOT)
    bare = tmp_path_factory.mktemp("git") / "course.git"
    _git("clone", "-q", "--bare", ROOT.as_uri(), str(bare))
    _git("-C", str(bare), "update-ref", f"refs/heads/{branch}", head)
    git = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{bare.as_uri()}.insteadOf", "GIT_CONFIG_VALUE_0": url}
    return os.environ | git | {"PYTHONPATH": "", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@pytest.fixture(scope="module")
def shared_packages(tmp_path_factory) -> Path:
    """Links to this environment's packages, without what Colab does not have."""
    folder = tmp_path_factory.mktemp("packages")
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        name = entry.name.lower()
        if not name.startswith(NOT_ON_COLAB) and not name.startswith("__") and entry.suffix != ".pth":
            (folder / entry.name).symlink_to(entry, target_is_directory=entry.is_dir())
    return folder


def _colab(folder: Path, packages: Path, served: dict, ipython: str | None, *, google: bool = True) -> str:
    """A clean environment like Colab's; returns its Python."""
    venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    python = _python(folder)
    ask = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = Path(subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip())
    (site / "shared.pth").write_text(f"{packages}\n")
    if google:
        (site / "google" / "colab").mkdir(parents=True)
        (site / "google" / "colab" / "__init__.py").write_text("")
    if ipython:
        done = subprocess.run(
            [python, "-m", "pip", "install", "-q", f"ipython=={ipython}"], env=served, capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"the package registry gives no IPython {ipython}: {done.stderr.strip()[-200:]}")
    return python


def _run_first_cell(python: str, folder: Path, served: dict) -> dict:
    empty = folder / "content"
    empty.mkdir()
    (empty / "driver.py").write_text(DRIVER)
    (empty / "cell.py").write_text(colab_source(*repository(ROOT)))
    done = subprocess.run(
        [python, "driver.py", "cell.py"], cwd=empty, env=served, capture_output=True, text=True, timeout=300
    )
    if "No matching distribution found for setuptools" in done.stderr + done.stdout:
        pytest.skip("the package registry cannot be reached")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1]) | {"said": done.stdout, "folder": empty}


@pytest.mark.parametrize("ipython", ["7.34.0", None], ids=["ipython7", "newest"])
def test_the_first_cell_installs_cxrlib_and_nothing_else_moves(tmp_path, shared_packages, served, ipython):
    python = _colab(tmp_path / "env", shared_packages, served, ipython)
    result = _run_first_cell(python, tmp_path, served)
    assert result["ok"] and result["rest"], result
    assert result["ipython"].startswith(ipython or ("8." if sys.version_info < (3, 11) else ("8.", "9.", "10.")))
    assert result["before"] == result["after"]
    assert str(tmp_path / "env") in result["cxrlib"], "cxrlib came from elsewhere"
    assert result["seconds"] < 60, f"the first cell took {result['seconds']:.0f} s"
    assert result["again"] < 30, "a second run installs again"
    assert "Chapter 1" in result["said"]
    # The installed copy holds the tables that the library reads.
    ask = "import cxrlib.phantom as p; print(len(p.cohort_labels(5, 0)))"
    done = subprocess.run([python, "-c", ask], env=served, cwd=result["folder"], capture_output=True, text=True)
    assert done.stdout.strip() == "5", done.stderr[-2000:]


def test_elsewhere_the_first_cell_installs_nothing(tmp_path, shared_packages, served):
    python = _colab(tmp_path / "env", shared_packages, served, None, google=False)
    result = _run_first_cell(python, tmp_path, served)
    assert result["ok"]
    assert not result["rest"] and "cxrlib" in result["cxrlib"], "cxrlib was installed outside Colab"
    assert sorted(path.name for path in result["folder"].iterdir()) == ["cell.py", "driver.py"]
