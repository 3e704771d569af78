"""A quantised network has the same bits on every instruction set that runs here, and for any number of threads."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import edgec.runtime as rt
from edgec.benchmarks.quantised.bits import hash_of
from edgec.compiler import pack
from edgec.compiler.backends.cpu.runner import runs_here
from edgec.compiler.frontends import load_source, to_relax
from edgec.compiler.lower import lower
from edgec.compiler.options import CompileOptions
from edgec.compiler.progress import Silent
from edgec.targets import load_target
from tests.compiler.small_models import save

TARGETS = [
    name
    for name in ("x86-64-v2", "x86-64-v3", "x86-64-v4", "x86-avx512-vnni")
    if runs_here(load_target(name))
]
RNG = np.random.default_rng(17)
SHAPE = (1, 3, 20, 20)


class Net:
    """A network in QDQ form; every value is rounded to a grid of its own."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(value, f"c{len(self.constants)}"))
        return self.constants[-1].name

    def op(self, kind: str, *inputs: str, **attrs: object) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [f"v{len(self.nodes)}"], **attrs))
        return str(self.nodes[-1].output[0])

    def rounded(self, x: str, scale: float, zero: int, dtype: str = "uint8") -> str:
        grid = [self.constant(np.array(scale, "float32")), self.constant(np.array(zero, dtype))]
        return self.op("DequantizeLinear", self.op("QuantizeLinear", x, *grid), *grid)

    def conv(self, x: str, out: int, per_group: int, size: int, **attrs: object) -> str:
        weights = RNG.integers(-128, 128, (out, per_group, size, size)).astype("int8")
        scales = self.constant(RNG.uniform(0.002, 0.01, out).astype("float32"))
        w = self.op(
            "DequantizeLinear", self.constant(weights), scales, self.constant(np.zeros(out, "int8")), axis=0
        )
        bias = self.constant(RNG.uniform(-1, 1, out).astype("float32"))
        return self.op("Conv", x, w, bias, pads=[size // 2] * 4, **attrs)

    def model(self, result: str) -> ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
            [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def network() -> ModelProto:
    """Products, sums, functions, pools, parts on different grids, a softmax."""
    net = Net()
    x = net.rounded("x", 0.03, 121)
    a = net.rounded(net.op("Relu", net.conv(x, 16, 3, 3, strides=[2, 2])), 0.05, 0)
    b = net.rounded(net.conv(a, 16, 1, 3, group=16), 0.07, 130)
    b = net.rounded(net.op("Mul", b, net.rounded(net.op("Sigmoid", b), 1 / 256, 0)), 0.04, 7)
    c = net.rounded(net.op("Add", net.rounded(net.conv(b, 16, 16, 1), 0.11, 99), a), 0.13, 60)
    free = net.op("Add", net.conv(c, 16, 16, 1), a)  # not rounded between the two
    d = net.op("Concat", c, net.rounded(free, 0.21, 140), axis=1)
    d = net.rounded(
        net.op("MaxPool", net.rounded(d, 0.2, 128), kernel_shape=[2, 2], strides=[2, 2]), 0.2, 128
    )
    mean = net.rounded(net.op("GlobalAveragePool", d), 0.02, 128)
    scores = net.op("Flatten", net.rounded(net.conv(mean, 10, 32, 1), 0.1, 128))
    scores = net.op("Mul", scores, net.constant(np.array(0.2, "float32")))
    return net.model(net.rounded(net.op("Softmax", scores, axis=1), 1 / 256, 0))


def compiled(path: Path, name: str, threads: int, folder: Path) -> Path:
    """The artifact of a network for a target."""
    options = CompileOptions(tune="none", threads=threads, fallback=False)
    imported, target = to_relax(load_source(path, options)), load_target(name)
    lowered = lower(imported.mod, target, options, Silent())
    config = pack.make_config(
        imported.source, lowered, target, options, name="m", version="1", card=None, segments=[]
    )
    artifact = folder / f"{name}-{threads}.edge"
    pack.write(artifact, config, lowered, segments=[])
    return artifact


@pytest.mark.skipif(len(TARGETS) < 2, reason="optional: this machine runs one of the instruction sets only")
def test_the_same_bits_on_every_instruction_set(tmp_path: Path) -> None:
    path = save(network(), tmp_path)
    inputs = [RNG.standard_normal(SHAPE).astype("float32") * scale for scale in (1.0, 100.0)]
    hashes = {}
    for name, threads in [*((name, 1) for name in TARGETS), (TARGETS[-1], 2)]:
        artifact = compiled(path, name, threads, tmp_path)
        with rt.load(artifact, threads=threads) as model:
            outputs = [value for x in inputs for value in model.run({"x": x}).values()]
        hashes[name, threads] = hashlib.sha256(b"".join(v.tobytes() for v in outputs)).hexdigest()
        assert np.unique(np.concatenate(outputs)).size > 3  # not all the same number
    assert len(set(hashes.values())) == 1, hashes


@pytest.mark.skipif("x86-64-v3" not in TARGETS, reason="optional: this machine has no AVX2")
def test_avx_vnni_has_the_same_bits(tmp_path: Path) -> None:
    """Where the processor lacks it, a handler computes its instructions, exactly."""
    path, inputs = save(network(), tmp_path), tmp_path / "x.npz"
    np.savez(inputs, x=RNG.standard_normal((2, *SHAPE)).astype("float32"))
    found = {
        name: hash_of(compiled(path, name, 1, tmp_path), load_target(name), inputs, 1)
        for name in ("x86-64-v3", "n100")
    }
    assert found["n100"] == found["x86-64-v3"]
