"""Softmax and sigmoid stay finite."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgec.runtime.processing.activations import activate


@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(-1e4, 1e4, width=32)))
def test_activations_stay_finite_and_within_bounds(values: Any) -> None:
    for kind in ("softmax", "sigmoid"):
        result = activate(values, kind)
        assert np.isfinite(result).all()
        assert ((result >= 0) & (result <= 1)).all()
    np.testing.assert_allclose(activate(values, "softmax").sum(axis=-1), 1, rtol=1e-5)
