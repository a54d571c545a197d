"""Stored results are found in a checkout and in an installed package, and a wrong name is said so."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cxrlib import course
from cxrlib.course import results
from cxrlib.errors import CxrError
from cxrlib.io import read_json

ROOT = Path(__file__).parent.parent


def test_a_checkout_reads_its_own_files():
    assert course.stored("phantom_cpu") == read_json(ROOT / "data" / "results" / "phantom_cpu" / "result.json")


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(CxrError, match=r"no stored result 'phantoms_cpu'.*phantom_cpu"):
        course.stored("phantoms_cpu")


def test_without_a_checkout_the_packages_copies_are_read(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "cxrlib"
    (package / "course" / "stored" / "lt").mkdir(parents=True)
    (package / "course" / "stored" / "lt" / "comparison.json").write_text('{"name": "lt"}')
    (package / "__init__.py").touch()
    (tmp_path / "site-packages" / "data" / "results").mkdir(parents=True)  # somebody else's
    monkeypatch.setattr(results.cxrlib, "__file__", str(package / "__init__.py"))
    assert course.stored("lt") == {"name": "lt"}


def test_an_installed_package_carries_every_result(tmp_path):
    """Built from a copy that holds what a build needs, so that nothing is written into the checkout."""
    source, site = tmp_path / "source", tmp_path / "site"
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    for name in ("__init__.py", "_compat.py", "errors.py", "io.py", "course/results.py"):
        (source / "cxrlib" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "cxrlib" / name, source / "cxrlib" / name)
    (source / "cxrlib" / "course" / "__init__.py").touch()
    names = []
    for kind in ("comparison.json", "result.json", "checks.json"):
        for file in (ROOT / "data" / "results").glob(f"*/{kind}"):
            (source / "data" / "results" / file.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, source / "data" / "results" / file.parent.name / kind)
            names.append(file.parent.name)
    assert names
    build = ["-c", "from setuptools import build_meta; import sys; print(build_meta.build_wheel(sys.argv[1]))", str(tmp_path)]
    made = subprocess.run([sys.executable, *build], cwd=source, check=True, capture_output=True, text=True).stdout
    shutil.unpack_archive(tmp_path / made.split()[-1], site, "zip")
    read = "import json, sys; from cxrlib.course.results import stored; print(json.dumps([stored(n)['title'] for n in sys.argv[1:]]))"
    environment = os.environ | {"PYTHONPATH": str(site)}
    out = subprocess.run([sys.executable, "-c", read, *names], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert json.loads(out.stdout) == [course.stored(name)["title"] for name in names]
    assert not (site / "data").exists()
