"""The same bits as another type, exactly."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.compiler.kernels.reinterpret import reinterpreted, reinterpreted_element
from tests.compiler.kernels.compiled import call, evaluate


@pytest.mark.parametrize(("dtype", "to"), [("float32", "int32"), ("uint16", "float16"), ("int64", "float64")])
def test_against_numpy(dtype: str, to: str) -> None:
    x = np.array([0, 1, -3, 100], "int8").astype(dtype)
    y = np.zeros(4, to)
    call(reinterpreted("k", 4, dtype, to), x, y)
    assert y.tobytes() == x.tobytes()


def test_one_element() -> None:
    x = np.array([-1.5], "float32")
    got = evaluate(lambda a: reinterpreted_element(a, "int32"), x, out=np.zeros(1, "int32"))
    assert got.tobytes() == x.tobytes()
