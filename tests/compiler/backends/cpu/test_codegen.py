"""What LLVM is given: checks of arguments refuse with one message, and still refuse."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import te, topi

from edgec.compiler.backends.cpu import codegen
from edgec.compiler.backends.cpu.tir_pipeline import PIPELINE


@pytest.mark.parametrize(
    "wrong", [np.zeros((8, 9), "float32"), np.zeros((8, 8), "int32"), np.zeros(64, "float32")]
)
def test_a_kernel_refuses_arguments_that_do_not_fit(wrong: np.ndarray) -> None:
    x = te.placeholder((8, 8), "float32", name="x")
    kernel = te.create_prim_func([x, topi.nn.relu(x)]).with_attr("global_symbol", "rectified")
    built = tvm.tirx.build(tvm.IRModule({"rectified": kernel}), target="llvm", pipeline=PIPELINE)
    right = np.linspace(-1, 1, 64, dtype="float32").reshape(8, 8)
    out = tvm.runtime.empty((8, 8), "float32")
    built["rectified"](tvm.runtime.tensor(right), out)
    assert (np.asarray(out.numpy()) == np.maximum(right, 0)).all()
    with pytest.raises(ValueError, match="rectified: an argument does not fit"):
        built["rectified"](tvm.runtime.tensor(wrong), out)
    with pytest.raises(ValueError, match="rectified: an argument does not fit"):
        built["rectified"](out)


def test_a_kernel_of_many_tensors_refuses_what_is_none_and_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [te.placeholder((8, 8), "float32", name=f"x{i}") for i in range(24)]
    sums = te.compute((8, 8), lambda i, j: sum(x[i, j] for x in many), name="sums")
    kernel = te.create_prim_func([*many, sums]).with_attr("global_symbol", "summed")

    def build() -> tvm.runtime.Module:
        return tvm.tirx.build(tvm.IRModule({"summed": kernel}), target="llvm", pipeline=PIPELINE)

    built = build()
    arrays = [np.full((8, 8), 2.0**i, "float32") for i in range(24)]
    tensors, out = [tvm.runtime.tensor(array) for array in arrays], tvm.runtime.empty((8, 8), "float32")
    built["summed"](*tensors, out)
    assert (np.asarray(out.numpy()) == np.sum(arrays, axis=0)).all()
    for wrong in ((*tensors[:-1], None, out), (*tensors[:-1], out), (3, *tensors[1:], out)):
        with pytest.raises(ValueError, match="summed: an argument does not fit"):
            built["summed"](*wrong)
    monkeypatch.setattr(codegen, "MANY_ARGUMENTS", 100)
    assert len(built.inspect_source("ll")) < 0.7 * len(build().inspect_source("ll"))
