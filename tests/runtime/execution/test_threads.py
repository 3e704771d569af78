"""Thread pools: models with other thread counts, pinning, cuts to the cores at hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import edgec.runtime as rt
from edgec.runtime.execution.threads import Threading
from tests.runtime.inputs import Reference, rows


def test_models_with_other_thread_counts_take_turns_in_one_thread(tiny: Path, reference: Reference) -> None:
    cores = sorted(os.sched_getaffinity(0))
    with rt.load(tiny, threads=1) as one, rt.load(tiny) as every, rt.load(tiny, affinity=cores[-1:]) as last:
        assert (one.threads, every.threads, last.threads) == (1, len(cores), 1)
        for model in (every, one, last, every, last, one, every):
            np.testing.assert_allclose(
                model.run({"x": rows(3)})["y.0"], reference(rows(3)), rtol=1e-5, atol=1e-6
            )
        assert sorted(os.sched_getaffinity(0)) == cores


def test_affinity_pins_and_threads_are_cut_to_the_cores() -> None:
    cores = sorted(os.sched_getaffinity(0))
    assert Threading.of(999, None).threads == len(cores)
    assert Threading.of(None, cores[:1]) == Threading(1, (cores[0],), pinned=True)
    for threads, affinity in ((0, None), (None, []), (None, [4096])):
        with pytest.raises(rt.InputError):
            Threading.of(threads, affinity)
