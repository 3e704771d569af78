"""Linear interpolation of blocked images, against double precision on generated sizes."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgec.compiler.backends.cpu.specs import ResizeSpec
from edgec.compiler.backends.cpu.templates import resize
from edgec.compiler.backends.cpu.templates.epilogue import split_epilogue
from edgec.targets.loader import load_target
from tests.compiler.backends.cpu.kernels import RUNNABLE, run

FEW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(params=RUNNABLE, scope="module")
def target(request):
    return load_target(request.param)


def along(size, out, mode):
    """The matrix by which an axis is interpolated."""
    matrix = np.zeros((out, size))
    for i in range(out):
        at = {
            "half_pixel": (i + 0.5) * size / out - 0.5,
            "pytorch_half_pixel": (i + 0.5) * size / out - 0.5 if out > 1 else 0.0,
            "asymmetric": i * size / out,
            "align_corners": i * (size - 1) / (out - 1) if out > 1 else 0.0,
        }[mode]
        at = min(max(at, 0.0), size - 1.0)
        low = int(at)
        matrix[i, low] += 1 - (at - low)
        matrix[i, min(low + 1, size - 1)] += at - low
    return matrix


@FEW
@given(
    batch=st.integers(1, 2), blocks=st.integers(1, 3), size=st.tuples(*[st.integers(1, 19)] * 2),
    out=st.tuples(*[st.integers(1, 40)] * 2), mode=st.sampled_from(sorted(resize.COORDINATES)),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_interpolates_linearly(target, batch, blocks, size, out, mode, seed):
    spec = ResizeSpec(batch, blocks, size, out, target.fp32_lanes)
    data = np.random.default_rng(seed).standard_normal((batch, blocks, *size, spec.lanes)).astype(np.float32)
    tables = [table for axis in (0, 1) for table in resize.tables(size[axis], out[axis], mode)]
    rows, columns = (along(size[axis], out[axis], mode) for axis in (0, 1))
    wanted = np.einsum("yh,xw,nbhwv->nbyxv", rows, columns, data.astype(np.float64))
    for schedule in resize.candidates(spec):
        kernel = resize.emit(spec, split_epilogue(resize.resize(spec)), schedule, 2)
        np.testing.assert_allclose(run(kernel, target, data, *tables), wanted, rtol=0, atol=3e-6)
