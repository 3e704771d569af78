"""Fixtures that every package's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real models, pictures, video and sound; absent from a user's clone."""
    folder = Path(os.environ.get("EDGEC_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "MANIFEST.md").is_file():
        pytest.skip(f"the real test data is not here ({folder.name} has no MANIFEST.md); set EDGEC_DATA to it")
    return folder
