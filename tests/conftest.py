"""Shared fixtures: where the public development data lies, if it is here at all."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of public data sets (`FOVEAL_DATA`, else `../shared/data` beside the repository)."""
    root = Path(os.environ.get("FOVEAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (root / "README.md").exists():
        pytest.skip(f"public data sets are not at {root}; set FOVEAL_DATA to run this test on them")
    return root
