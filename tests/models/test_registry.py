"""Models are found by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgec.models import build
from edgec.models.registry import UnknownModel


def test_unknown_model_is_named_with_close_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match=r"'resnet-50'.*resnet50"):
        build("resnet-50", tmp_path / "new")
    assert not (tmp_path / "new").exists()
