"""Only what pyproject.toml cannot say: the package carries the stored results and the small checkpoints that chapters show.

They are kept in data/results and data/checkpoints, outside of the package, with their tables and pictures. A chapter on Colab has
no checkout, only the installed package, so the JSON files and the weights are copied into it when it is built.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


class BuildWithResults(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # the checkout is there, and its files are read where they are
            return
        for name in ("comparison.json", "result.json", "checks.json"):
            for file in sorted((HERE / "data" / "results").glob(f"*/{name}")):
                target = Path(self.build_lib) / "cxrlib" / "course" / "stored" / file.parent.name / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        for file in sorted((HERE / "data" / "checkpoints").glob("*/*")):
            target = Path(self.build_lib) / "cxrlib" / "course" / "checkpoints" / file.parent.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


setup(cmdclass={"build_py": BuildWithResults})
