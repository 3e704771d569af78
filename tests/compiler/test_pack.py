"""The parts of a compile as an artifact's config states them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import edgec.runtime as rt
from edgec.compiler import pack
from edgec.compiler.buckets import Built, join
from edgec.compiler.errors import InputShapeError
from edgec.compiler.frontends.onnx.prepare import ports_of
from edgec.compiler.frontends.source import FallbackSegment, ImportedModel, SourceModel, SourceNode
from edgec.compiler.lowered import KernelInfo, Lowered, Place, Plan
from edgec.compiler.options import CompileOptions
from edgec.targets import load_target
from tests.compiler.small_models import model_of

NODES = (SourceNode(0, "conv", "Conv", ""), SourceNode(1, "", "Relu", ""))
KERNEL = KernelInfo("fused", "conv2d", ((0, 1), (1,)), 10, 20, "direct")
SEGMENT = FallbackSegment("segment0", b"graph", ("a",), ("b",), ("NonZero#3",))


def source_of(path: Path, size: int) -> SourceModel:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, size]}, ["y"])
    path.write_bytes(model.SerializeToString())
    ports = ports_of(model.graph.input)
    return SourceModel(path, "sha256:abc", model, model, ports, ports_of(model.graph.output), NODES, {})


def built(path: Path, size: int, **weights: np.ndarray) -> Built:
    plan = Plan("main_planned", 128, (Place(64, (1, size), "float32"),))
    lowered = Lowered(f"code {size}".encode(), weights, {"fused": KERNEL}, plan=plan)
    return Built(ImportedModel(None, source_of(path, size), (SEGMENT,)), lowered)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("YOLO v8 (nano).onnx", "yolo-v8-nano"),
        ("a.b_c-1.onnx", "a.b_c-1"),
        ("Größe.onnx", "gr-e"),
        ("--.onnx", "model"),
        ("zoo/mobilenetv2-100/model.onnx", "mobilenetv2-100"),
        ("/model.onnx", "model"),
    ],
)
def test_artifacts_are_named_after_their_file(file: str, name: str) -> None:
    assert pack.artifact_name(Path(file)) == name


def test_the_config_says_what_a_loader_has_to_know(tmp_path: Path) -> None:
    one = built(tmp_path / "m.onnx", 4, w0=np.zeros(3, np.float32))
    target = load_target("rpi5")
    config = pack.make_config(
        one.imported.source, one.lowered, target, CompileOptions(threads=2),
        name="m", version="3", card=None, segments=one.imported.segments,
    )  # fmt: skip
    assert (config.name, config.version, config.target, config.threads) == ("m", "3", "rpi5", 2)
    assert config.required_features == tuple(sorted(target.features))
    assert config.weights == ("w0",)
    assert config.inputs == (rt.TensorSpec(name="x", safe_name="x", shape=(1, 4), dtype="float32"),)
    assert config.kernels["fused"].calls == (
        ("conv", "Relu#1"),
        ("Relu#1",),
    )  # a node without a name has its place
    assert config.kernels["segment0"].op == "onnxruntime"
    assert config.segments[0].layer == "fallback-0.onnx"
    assert config.plan is not None
    assert (config.plan.entry, config.plan.tensors[0].offset) == ("main_planned", 64)
    assert config.provenance.source == "m.onnx"
    assert config.provenance.source_sha256 == "abc"


def test_options_that_do_not_shape_the_artifact_are_not_in_it(tmp_path: Path) -> None:
    described = pack.described(CompileOptions(cache_dir=tmp_path, input_shapes={"x": (1, 2)}))
    assert described["input_shapes"] == {"x": [1, 2]}
    assert str(tmp_path) not in str(described)
    assert "buckets" not in described


def test_equal_weights_of_several_shapes_are_stored_once(tmp_path: Path) -> None:
    shared, own = np.arange(3, dtype=np.float32), np.zeros(3, np.float32)
    first = built(tmp_path / "a.onnx", 4, w0=shared)
    second = built(tmp_path / "b.onnx", 8, w0=own, w1=shared.copy(), w2=own.copy())
    further = join([first, second])
    (bucket,) = further.buckets
    assert bucket.weights == ("w0.1", "w0", "w0.1")
    assert list(further.weights) == ["w0.1"]
    assert bucket.inputs[0].shape == (1, 8)
    assert further.libraries == {"model-1.so": b"code 8"}
    assert list(further.graphs) == ["fallback-1-0.onnx"]
    assert pack.sizes(first.imported.source, first.lowered, further)["weights_bytes"] == 2 * shared.nbytes


def test_equal_bytes_of_another_type_are_other_weights(tmp_path: Path) -> None:
    first = built(tmp_path / "a.onnx", 4, w0=np.zeros(3, np.float32))
    second = built(tmp_path / "b.onnx", 8, w0=np.zeros(3, np.int32))
    assert join([first, second]).buckets[0].weights == ("w0.1",)


def test_one_set_of_shapes_adds_nothing_and_two_equal_ones_are_refused(tmp_path: Path) -> None:
    one = built(tmp_path / "a.onnx", 4)
    assert join([one]) == pack.NOTHING_FURTHER
    with pytest.raises(InputShapeError, match="given twice"):
        join([one, built(tmp_path / "b.onnx", 4)])
