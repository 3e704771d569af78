"""Models are found by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgec.models import build, find_model, list_models, sample_inputs
from edgec.models.registry import UnknownModel


def test_unknown_model_is_named_with_close_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match=r"'resnet-50'.*resnet50"):
        build("resnet-50", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_every_model_is_found_once() -> None:
    names = [entry.name for entry in list_models()]
    assert len(set(names)) == len(names)
    assert all(find_model(name).name == name for name in names)


def test_sample_inputs_repeat_and_fit() -> None:
    first, again, other = (
        sample_inputs("bert-mini"),
        sample_inputs("bert-mini"),
        sample_inputs("bert-mini", 1),
    )
    assert {name: array.shape for name, array in first.items()} == {
        "input_ids": (1, 128), "attention_mask": (1, 128), "token_type_ids": (1, 128),
    }  # fmt: skip
    assert np.array_equal(first["input_ids"], again["input_ids"])
    assert not np.array_equal(first["input_ids"], other["input_ids"])
    assert first["attention_mask"].sum() == 96
    (picture,) = sample_inputs("resnet18").values()
    assert (picture.shape, picture.dtype) == ((1, 3, 224, 224), np.float32)
