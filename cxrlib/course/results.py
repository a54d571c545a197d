"""Stored results: tables of runs that take too long for a chapter, read where the chapter needs them.

In a checkout they are data/results/NAME/comparison.json (or result.json, checks.json), as the commands in them wrote them. An installed
package carries copies, put there when it is built (see setup.py): on Colab there is no checkout.
"""

from pathlib import Path

import cxrlib
from cxrlib.errors import CxrError
from cxrlib.io import read_json

FILES = ("comparison.json", "result.json", "checks.json")


def results_folder() -> Path:
    """The checkout's data/results if there is one, else the package's own copies."""
    package = Path(cxrlib.__file__).parent
    checkout = package.parent / "data" / "results"
    return checkout if (package.parent / "pyproject.toml").is_file() and checkout.is_dir() else package / "course" / "stored"


def stored(name: str) -> dict:
    """A stored result.

    Args:
        name: Its folder, for example "lt_vit_rivals".

    Returns:
        What was measured, with the commands that measured it: a comparison (see `cxrlib.comparison`), the runs of one
        recipe (see `cxrlib.results`), or closer looks at a comparison's runs (see `cxrlib.ladder_checks`).

    Raises:
        CxrError: There is no result of that name.
    """
    folder = results_folder()
    for file in FILES:
        if (folder / name / file).is_file():
            return read_json(folder / name / file)
    known = sorted({path.parent.name for file in FILES for path in folder.glob(f"*/{file}")})
    raise CxrError(f"there is no stored result {name!r}: there are {', '.join(known) or 'none'}")
