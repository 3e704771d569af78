"""Networks of the suite: the zoo, and the files of a data folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgec.benchmarks.networks.catalogue import LEFT_OUT, networks, shapes_of
from edgec.models import list_models


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("onnx/audio/silero_vad_16k.onnx", "onnx/detect/yolox.onnx", "onnx/other/unused.onnx"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_real_models_follow_the_zoo(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEC_DATA", raising=False)
    zoo = [network.name for network in networks()]
    assert set(zoo) == {entry.name for entry in list_models()} - LEFT_OUT
    assert [network.name for network in networks(data)][len(zoo) :] == ["silero_vad_16k", "yolox"]
    monkeypatch.setenv("EDGEC_DATA", str(data))
    assert networks() == networks(data)


def test_parts_of_names_choose(data: Path) -> None:
    assert [(one.name, one.group) for one in networks(data, ("resnet", "vad"))] == [
        ("resnet18", "zoo"), ("resnet50", "zoo"), ("silero_vad_16k", "real"),
    ]  # fmt: skip


def test_free_shapes_are_filled_by_name(data: Path) -> None:
    (vad,) = networks(data, ("vad",))
    assert vad.shapes == {"input": (1, 512)}
    assert vad.model(data) == vad.path
    assert shapes_of("yolox.onnx") == {}
