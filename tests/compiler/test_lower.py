"""Lowering: the same answers as ONNX Runtime, the same bytes twice, kernels that know their source nodes."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

from edgec.compiler.backends.cpu.runner import runs_here
from edgec.compiler.backends.interface import CandidateFailed
from edgec.compiler.lower import lower
from edgec.compiler.options import CompileOptions
from edgec.compiler.progress import Silent
from edgec.compiler.tuning import tuner
from edgec.targets.loader import load_target

UNTUNED = CompileOptions(threads=2, tune="none")


class Net:
    """Builds a small ONNX model node by node."""

    def __init__(self, *shape):
        self.rng = np.random.default_rng(0)
        self.nodes, self.weights, self.shape = [], [], shape

    def weight(self, array):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def random(self, *shape):
        fan = np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 1
        return self.weight((self.rng.standard_normal(shape) / fan).astype(np.float32))

    def op(self, kind, *inputs, **attributes):
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def conv(self, x, ic, oc, k=3, pad=1, stride=1, group=1):
        weight = self.random(oc, ic // group, k, k)
        return self.op("Conv", x, weight, self.random(oc), pads=[pad] * 4, strides=[stride] * 2, group=group)

    def model(self, *outputs):
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
            self.weights,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return onnx.shape_inference.infer_shapes(made)


def compiled(model, target="host", options=UNTUNED, progress=None):
    mod = from_onnx(model, keep_params_in_input=False)
    return lower(mod, load_target(target), options, progress or Silent())


def run(lowered, tmp_path, x):
    path = tmp_path / "model.so"
    path.write_bytes(lowered.code)
    vm = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
    weights = [tvm.runtime.tensor(w) for w in lowered.weights.values()]
    made = vm[lowered.entry](tvm.runtime.tensor(x), *weights)
    return [made.numpy()] if hasattr(made, "numpy") else [m.numpy() for m in made]


def agrees(model, tmp_path, target="host", options=UNTUNED, tolerance=1e-4):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    lowered = compiled(model, target, options)
    for made, wanted in zip(run(lowered, tmp_path, x), session.run(None, {"x": x}), strict=True):
        np.testing.assert_allclose(
            made, wanted, rtol=0, atol=tolerance * max(1e-6, float(np.abs(wanted).max()))
        )
    return lowered


def residual():
    net = Net(1, 5, 19, 23)
    a = net.op("Relu", net.conv("x", 5, 24))
    b = net.conv(a, 24, 24)
    return net.model(net.op("Relu", net.op("Add", b, a)))


def squeeze_excite():
    net = Net(1, 24, 14, 14)
    a = net.op("HardSwish", net.conv("x", 24, 40, group=1))
    d = net.conv(a, 40, 40, group=40)
    pooled = net.op("GlobalAveragePool", d)
    gate = net.op("HardSigmoid", net.conv(net.op("Relu", net.conv(pooled, 40, 10, 1, 0)), 10, 40, 1, 0))
    return net.model(net.op("Mul", d, gate))


def pyramid():
    net = Net(1, 3, 32, 32)
    a = net.op("Sigmoid", net.conv("x", 3, 20, stride=2))
    b = net.op("Tanh", net.conv(a, 20, 17, stride=2))
    up = net.op("Resize", b, "", net.weight(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
    joined = net.op("Concat", up, a, axis=1)
    pooled = net.op("MaxPool", joined, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])
    mean = net.op("AveragePool", joined, kernel_shape=[2, 2], strides=[2, 2])
    return net.model(net.op("Add", pooled, mean), b)


def channels_last():
    net = Net(1, 16, 16, 3)
    a = net.conv(net.op("Transpose", "x", perm=[0, 3, 1, 2]), 3, 16)
    return net.model(net.op("Transpose", net.op("PRelu", a, net.random(16, 1, 1)), perm=[0, 2, 3, 1]))


def perceptron():
    net = Net(3, 40)
    h = net.op("Gemm", "x", net.random(40, 33), net.random(33))
    h = net.op("LayerNormalization", h, net.random(33), net.random(33), axis=-1)
    return net.model(net.op("Softmax", net.op("MatMul", net.op("Erf", h), net.random(33, 10)), axis=-1))


def attention():
    net = Net(1, 10, 24)
    q, k, v = (net.op("MatMul", "x", net.random(24, 24)) for _ in range(3))
    score = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
    return net.model(net.op("MatMul", score, v))


def shuffle():
    net = Net(1, 12, 8, 8)
    a = net.conv("x", 12, 12, 1, 0, group=3)
    split = net.op("Reshape", a, net.weight(np.array([1, 3, 4, 8, 8], np.int64)))
    mixed = net.op("Transpose", split, perm=[0, 2, 1, 3, 4])
    joined = net.op("Reshape", mixed, net.weight(np.array([1, 12, 8, 8], np.int64)))
    up = net.op("ConvTranspose", joined, net.random(12, 6, 2, 2), strides=[2, 2])
    return net.model(net.conv(up, 6, 8))


MODELS = [residual, squeeze_excite, pyramid, channels_last, perceptron, attention, shuffle]


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_agrees_with_onnx_runtime(make, tmp_path):
    agrees(make(), tmp_path)


@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
def test_agrees_for_each_instruction_set(name, tmp_path):
    if not runs_here(load_target(name)):
        pytest.skip(f"hardware: this machine cannot run {name}")
    agrees(pyramid(), tmp_path, name)


def test_same_input_same_bytes():
    first, second = compiled(residual(), "rpi4"), compiled(residual(), "rpi4")
    assert first.code == second.code
    assert list(first.weights) == list(second.weights)
    assert all(np.array_equal(first.weights[k], second.weights[k]) for k in first.weights)
    assert b"/tmp/" not in first.code


def test_kernels_name_their_nodes():
    model = residual()
    mod = from_onnx(model, keep_params_in_input=False)
    lowered = lower(_named(mod), load_target("host"), UNTUNED, Silent())
    nodes = {n for kernel in lowered.kernels.values() for n in kernel.nodes}
    assert nodes >= {0, 2}
    convolutions = [k for k in lowered.kernels.values() if k.kind == "conv2d"]
    assert {k.flops for k in convolutions} == {2 * 19 * 23 * 24 * 5 * 9, 2 * 19 * 23 * 24 * 24 * 9}
    assert all(symbol == kernel.symbol for symbol, kernel in lowered.kernels.items())


def _named(mod):
    """Name the bindings after a running index, as a front end does."""
    function = mod["main"]
    renamed, bindings = {}, []
    from edgec.compiler.graph.rewrite import map_leaves

    for at, binding in enumerate(b for block in function.body.blocks for b in block.bindings):
        value = map_leaves(
            binding.value, lambda leaf: renamed.get(leaf, leaf) if isinstance(leaf, relax.Var) else leaf
        )
        kind = type(binding.var) if isinstance(binding.var, relax.DataflowVar) else relax.Var
        renamed[binding.var] = kind(f"n{at}_v", binding.var.ty)
        bindings.append(relax.VarBinding(renamed[binding.var], value))
    body = relax.SeqExpr([relax.DataflowBlock(bindings)], renamed[function.body.body])
    made = relax.Function(list(function.params), body, function.ret_ty, True, function.attrs)
    return tvm.IRModule({gv: made if gv.name_hint == "main" else f for gv, f in mod.functions.items()})


class Notes(Silent):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def test_a_broken_candidate_is_dropped(tmp_path, monkeypatch):
    """One candidate fails to build, one computes wrongly: both are named, and neither is chosen."""
    from edgec.compiler.backends.cpu.templates import conv2d

    emit, calls = conv2d.emit, []

    def sabotaged(spec, epilogue, schedule, threads):
        calls.append(schedule)
        if schedule == calls[0]:
            raise CandidateFailed("no such schedule")
        if schedule == calls[1]:
            spec = replace(spec, window=replace(spec.window, pad=(0, 0)))
        return emit(spec, epilogue, schedule, threads)

    monkeypatch.setattr(conv2d, "emit", sabotaged)
    net = Net(1, 16, 12, 12)
    model = net.model(net.conv("x", 16, 32, 5, 2))
    notes = Notes()
    options = CompileOptions(threads=1, tune="fast", cache_dir=tmp_path)
    lowered = compiled(model, options=options, progress=notes)
    assert lowered.tuning.dropped == 2
    assert any("no such schedule" in line for line in notes.lines)
    chosen = next(k.schedule for k in lowered.kernels.values() if k.kind == "conv2d")
    assert chosen not in [str(c) for c in calls[:2]]


def test_a_second_compile_finds_the_winners(tmp_path, monkeypatch):
    monkeypatch.setitem(tuner.TRIALS, "fast", 3)
    options = CompileOptions(threads=1, tune="fast", cache_dir=tmp_path)
    first = compiled(residual(), options=options)
    second = compiled(residual(), options=options)
    assert first.tuning.timed > 0
    assert second.tuning.timed == 0
    assert second.tuning.cache_hits == second.tuning.workloads
    assert first.code == second.code
