"""The config blob: one config for each set of input shapes, and the nodes of kernels."""

from __future__ import annotations

import msgspec
import pytest

import edgec.runtime as rt
from tests.runtime.artifact.artifacts import config

WIDE = rt.TensorSpec(name="x", safe_name="x", shape=(1, 9), dtype="float32")


def test_each_set_of_input_shapes_is_a_config_of_its_own() -> None:
    segment = rt.Segment(inputs=("a",), outputs=("b",), function="edgec.fallback.0", layer="0.onnx")
    bucket = rt.Bucket(layer="wide.so", inputs=(WIDE,), outputs=(WIDE,), weights=("b",), segments=(segment,))
    whole = config(buckets=(bucket,))
    first, second = whole.variants()
    assert first == config()
    assert (second.inputs, second.outputs, second.weights) == ((WIDE,), (WIDE,), ("b",))
    assert (second.segments, second.buckets) == ((segment,), ())
    assert (second.name, second.target, second.pipeline) == (whole.name, whole.target, whole.pipeline)


def test_a_kernel_names_each_source_node_once() -> None:
    kernel = rt.KernelInfo(calls=(("conv1", "relu"), ("conv2", "relu")))
    assert kernel.nodes == ("conv1", "relu", "conv2")


def test_a_spec_reads_like_a_signature() -> None:
    assert str(WIDE) == "'x' float32[1, 9]"


@pytest.mark.parametrize(
    ("key", "value"),
    [("name", "Has Capitals"), ("version", "1/2"), ("inputs", None), ("threads", "two")],
)
def test_fields_are_checked(key: str, value: object) -> None:
    document = msgspec.to_builtins(config())
    msgspec.convert(document, rt.ArtifactConfig)
    with pytest.raises(msgspec.ValidationError, match=key):
        msgspec.convert(document | {key: value}, rt.ArtifactConfig)


def test_a_planned_tensor_lies_on_a_boundary() -> None:
    plan = {
        "entry": "main_planned",
        "bytes": 128,
        "tensors": [{"offset": 64, "shape": [4], "dtype": "float32"}],
    }
    assert msgspec.convert(plan, rt.MemoryPlan).tensors[0].offset == 64
    plan["tensors"] = [{"offset": 32, "shape": [4], "dtype": "float32"}]
    with pytest.raises(msgspec.ValidationError, match="multiple of 64"):
        msgspec.convert(plan, rt.MemoryPlan)
