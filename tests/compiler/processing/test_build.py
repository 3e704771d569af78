"""What is compiled around a model is decided by its card; that the kernels equal numpy is tested with the runtime.

A back end that only takes names down stands for the compiler: nothing is built here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from tvm.tirx import PrimFunc

import edgec.runtime as rt
from edgec.compiler.processing import build
from edgec.runtime.processing.compiled import DETECT, FEATURES, PREPARE
from edgec.targets import load_target

PICTURE = {"kind": "image", "width": 64, "height": 32}
YOLO = {"decoder": "yolov8"}


class Backend:
    in_parallel = False

    def build_functions(self, functions: Mapping[str, PrimFunc]) -> bytes:
        assert all(str(made.attrs["global_symbol"]) == name for name, made in functions.items())
        return " ".join(functions).encode()


class NoLibraries:
    in_parallel = False

    def build_functions(self, functions: Mapping[str, PrimFunc]) -> None:
        return None


def spec(*shape: int, name: str = "x", dtype: str = "float32") -> rt.TensorSpec:
    return rt.TensorSpec(name=name, safe_name=name, shape=shape, dtype=dtype)


def functions(
    monkeypatch: pytest.MonkeyPatch,
    card: dict[str, Any] | None,
    inputs: list[rt.TensorSpec],
    outputs: list[rt.TensorSpec],
    backend: object | None = None,
) -> tuple[str, ...] | None:
    monkeypatch.setattr(build, "backend_of", lambda target: backend or Backend())
    declared = None if card is None else msgspec.convert({"labels": ["a", "b"]} | card, rt.ModelCard)
    library = build.build_processing(declared, inputs, outputs, load_target("rpi5"))
    return None if library is None else library.functions


def test_without_a_card_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert functions(monkeypatch, None, [spec(1, 3, 32, 64)], []) is None


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ([spec(1, 3, 32, 64)], (PREPARE,)),
        ([spec(1, 3, 64, 32)], None),  # not the card's size
        ([spec(2, 3, 32, 64)], None),  # more than one picture
        ([spec(1, 3, 32, 64, dtype="uint8")], None),
        ([spec(1, 3, 32, 64), spec(1, name="t")], None),
    ],
    ids=["fits", "size", "batch", "dtype", "two inputs"],
)
def test_pixels_are_prepared_for_the_input_that_the_card_describes(
    monkeypatch: pytest.MonkeyPatch, inputs: list[rt.TensorSpec], expected: tuple[str, ...] | None
) -> None:
    card = {"input": PICTURE, "output": {"decoder": "raw"}}
    assert functions(monkeypatch, card, inputs, []) == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (spec(1, 6, 42), (PREPARE, DETECT)),
        (spec(2, 6, 42), (PREPARE,)),
        (spec(1, 6, 42, dtype="int8"), (PREPARE,)),
    ],
    ids=["fits", "batch", "dtype"],
)
def test_boxes_are_decoded_from_outputs_of_the_decoders_form(
    monkeypatch: pytest.MonkeyPatch, output: rt.TensorSpec, expected: tuple[str, ...]
) -> None:
    card = {"input": PICTURE, "output": YOLO}
    assert functions(monkeypatch, card, [spec(1, 3, 32, 64)], [output]) == expected


@pytest.mark.parametrize(("features", "expected"), [("waveform", None), ("log-mel", (FEATURES,))])
def test_features_of_sound_are_compiled_where_there_are_any(
    monkeypatch: pytest.MonkeyPatch, features: str, expected: tuple[str, ...] | None
) -> None:
    sound = {"kind": "audio", "sample_rate": 16000, "features": features}
    assert (
        functions(monkeypatch, {"input": sound, "output": {"decoder": "raw"}}, [spec(1, 16000)], [])
        == expected
    )


def test_a_back_end_without_libraries_for_its_cpu_leaves_it_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    card = {"input": PICTURE, "output": {"decoder": "raw"}}
    assert functions(monkeypatch, card, [spec(1, 3, 32, 64)], [], NoLibraries()) is None
