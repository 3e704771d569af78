"""Remainders of integers, exactly: the sign of the dividend or of the divisor, with broadcasting."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.compiler.kernels.remainders import remainder
from tests.compiler.kernels.compiled import evaluate


@pytest.mark.parametrize("sign_of_dividend", [False, True])
def test_against_numpy(sign_of_dividend: bool) -> None:
    a, b = np.arange(-9, 9, dtype="int32"), np.array([[1], [-4], [7]], "int32")
    wanted = (np.fmod if sign_of_dividend else np.mod)(a, b)
    got = evaluate(
        lambda x, y: remainder(x, y, sign_of_dividend=sign_of_dividend), a, b, out=np.zeros_like(wanted)
    )
    np.testing.assert_array_equal(got, wanted)
