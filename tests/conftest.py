"""Fixtures shared by the tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_folder() -> Path:
    """The folder of genuine files that the environment variable CXR_REAL names; the test is skipped without it."""
    name = os.environ.get("CXR_REAL")
    if not name:
        pytest.skip("CXR_REAL is not set: it names the folder of genuine files that this test reads")
    folder = Path(name)
    if not folder.is_dir():
        pytest.fail(f"CXR_REAL names {folder}, which is not a folder")
    return folder
