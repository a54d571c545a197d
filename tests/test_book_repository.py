"""What the project's own files promise: one address, two commands, pins inside the ranges, nothing of one machine."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import cxrlib
from cxrlib.course.bind import colab_source, repository

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
URL, BRANCH = repository(ROOT)


def _tracked() -> list[Path]:
    """The text files that git knows here (all files outside a checkout)."""
    try:
        names = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True).stdout.split("\n")
        files = [ROOT / name for name in names if name]
    except (OSError, subprocess.CalledProcessError):
        files = [p for p in ROOT.rglob("*") if p.is_file() and not any(part.startswith((".", "_build")) for part in p.parts)]
    return [path for path in files if path.is_file() and "vendor" not in path.parts]


def _texts():
    for path in _tracked():
        try:
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def test_the_address_stands_in_one_place():
    """Everything that repeats it is generated from _config.yml or compared with it below."""
    slug = URL.removeprefix("https://github.com/")
    derived = r"_config\.yml|README\.md|CITATION\.cff|pyproject\.toml|chapters/\d\d_\w+\.(md|ipynb)"
    holders = [name for name, text in _texts() if slug in text and not re.fullmatch(derived, name)]
    assert holders == []


def test_what_repeats_the_address_agrees():
    assert PROJECT["urls"]["Repository"] == URL
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["repository-code"] == URL
    slug = URL.removeprefix("https://github.com/")
    readme = (ROOT / "README.md").read_text()
    colab = re.findall(r"https://colab\.research\.google\.com/github/([^)\s]+)", readme)
    assert colab and all(link.startswith(f"{slug}/blob/{BRANCH}/chapters/") for link in colab)
    assert all((ROOT / link.removeprefix(f"{slug}/blob/{BRANCH}/")).exists() for link in colab)
    for name, text in _texts():
        if re.fullmatch(r"chapters/\d\d_\w+\.md", name):
            assert text.count(slug) == 1 and colab_source(URL, BRANCH) in text, name


def test_another_address_changes_the_first_cell():
    other = colab_source("https://example.org/elsewhere", "dev")
    assert "git+https://example.org/elsewhere@dev" in other
    assert URL not in other


def _pins() -> dict[str, Requirement]:
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert lines.pop() == "-e ."
    return {_plain(requirement.name): requirement for requirement in map(Requirement, lines)}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_requirement_is_pinned_exactly():
    for requirement in _pins().values():
        assert re.fullmatch(r"==[^*+]+", str(requirement.specifier)), requirement


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_pins_lie_inside_the_ranges(python):
    pins = _pins()
    wanted = [Requirement(r) for r in PROJECT["dependencies"] + sum(PROJECT["optional-dependencies"].values(), [])]
    for requirement in wanted:
        if requirement.marker and not requirement.marker.evaluate({"python_version": python, "extra": ""}):
            continue
        pin = str(pins[_plain(requirement.name)].specifier).removeprefix("==")
        assert requirement.specifier.contains(Version(pin)), f"{requirement} is pinned to {pin}"


def test_the_ranges_hold_what_colab_brings():
    """Colab's image of August 2026 (googlecolab/backend-info), where Python is 3.13: nothing there may be reinstalled."""
    colab = {
        "torch": "2.11.0", "torchvision": "0.26.0", "timm": "1.0.28", "numpy": "2.1.3", "pandas": "2.2.3", "scipy": "1.16.3",
        "matplotlib": "3.10.0", "scikit-learn": "1.6.1", "ipywidgets": "7.7.1",
    }  # fmt: skip
    for requirement in map(Requirement, PROJECT["dependencies"]):
        if requirement.marker and not requirement.marker.evaluate({"python_version": "3.13"}):
            continue
        if requirement.name in colab:
            assert requirement.specifier.contains(colab.pop(requirement.name)), requirement
    assert colab == {}


def test_the_installed_environment_is_the_pinned_one():
    """Stored outputs were made with these versions; others may differ in the last digits."""
    import importlib.metadata

    for name in ("torch", "numpy", "timm", "scikit-learn", "matplotlib", "nbval", "jupyter-book"):
        installed = Version(importlib.metadata.version(name)).public
        assert _pins()[name].specifier.contains(installed), f"{name} {installed} is installed"


def test_the_readmes_two_commands():
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    first, second = blocks[0].strip(), blocks[1].strip()
    assert "\n" not in first + second
    assert "pip install -r requirements.txt" in first and first.endswith("jupyter-book build .")
    assert re.search(r"pytest .*--nbval chapters tests$", second)
    for command in re.findall(r"python -m cxrlib (\w+)", "".join(blocks)):
        from cxrlib.cli import COMMANDS

        assert command in COMMANDS


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == cxrlib.__version__
    assert f"## {cxrlib.__version__} " in (ROOT / "CHANGELOG.md").read_text()
    assert PROJECT["license"] == citation["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_nothing_tells_of_one_machine():
    """No folder of a person's machine, in code, prose or stored outputs."""
    folder = re.compile(r"(?<![\w./])/(?:home|root|Users|work|tmp)/\w[\w./-]*")
    found = {}
    for name, text in _texts():
        if name.startswith(("tests/", "cxrlib/course/gates.py")):
            continue  # these name such folders to find them
        if match := folder.search(text):
            found[name] = match[0]
    assert found == {}


def test_the_picture_of_the_readme_is_there_and_has_words():
    readme = (ROOT / "README.md").read_text()
    for alt, path in re.findall(r"!\[([^\]]*)\]\((?!http)([^)]+)\)", readme):
        assert (ROOT / path).exists() and len(alt.split()) > 5
