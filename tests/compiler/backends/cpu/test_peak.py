"""Probes of the machine: their kernels compute what they say, so that their operations are not optimised away."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from edgec.compiler.backends.cpu import peak
from edgec.compiler.backends.cpu.timing import build
from edgec.compiler.thread_pool import set_threads
from edgec.targets import detect
from edgec.targets.measured_rates import Bandwidth

HERE = detect()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    set_threads(1)


def run(func: tvm.tirx.PrimFunc, *arrays: np.ndarray) -> None:
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    build(func, tvm.target.Target(dict(HERE.tvm)))["kernel"](*tensors)
    arrays[-1][...] = tensors[-1].numpy()


def test_multiply_adds_do_all_their_steps() -> None:
    lanes, chains = HERE.fp32_lanes, peak._chains(HERE)
    source = np.empty((2, lanes), np.float32)
    source[0], source[1] = 1.0, 2.0  # x * 1 + 2 from 1, in each step
    out = np.zeros((1, chains, lanes), np.float32)
    run(peak._multiply_adds(HERE, 1), source, out)
    assert (out == 1 + 2 * peak.STEPS).all()


def test_the_inner_loop_multiplies_all_pairs() -> None:
    lanes, rows = HERE.fp32_lanes, (HERE.vector_registers - 4) // peak.COLUMNS
    inputs = np.full((1, rows, peak.DEPTH), 2.0, np.float32)
    weights = np.full((1, peak.DEPTH, peak.COLUMNS, lanes), 3.0, np.float32)
    out = np.zeros((1, rows * peak.COLUMNS, lanes), np.float32)
    run(peak._products(HERE, 1), inputs, weights, out)
    times = peak._tile_products(HERE) // (rows * peak.COLUMNS * peak.DEPTH)
    assert (out == 6.0 * peak.DEPTH * times).all()


def test_reading_sums_every_value_in_every_pass() -> None:
    source = np.ones((1, 5, peak.CHAINS, HERE.fp32_lanes), np.float32)
    out = np.zeros((1, peak.CHAINS, HERE.fp32_lanes), np.float32)
    run(peak._sums(HERE, 1, 5, 3), source, out)
    assert (out == 15).all()


def test_probes_return_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "PEAK_SECONDS", 0.01)
    monkeypatch.setattr(peak, "LARGEST_BYTES", 1 << 20)
    assert peak.fp32_peak_gflops(HERE, 1) > 0
    assert peak.SpeedProbe(HERE, 1)() > 0
    rates = peak.BandwidthProbe(HERE, HERE, 1)()
    assert isinstance(rates, Bandwidth)
    assert min(rates.l2, rates.memory) > 0
