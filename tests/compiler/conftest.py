"""What the compiler's tests share: their compiles measure as little as they can."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import onnxruntime as ort
import pytest


@pytest.fixture(scope="session", autouse=True)
def one_round_of_blocks() -> Iterator[None]:
    """Latencies of a compile from one round: no test here depends on how fast a result is."""
    from edgec.compiler import pipeline

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "MEASURE", replace(pipeline.MEASURE, rounds=1, runs=1, limit_s=0.0))
        yield


@pytest.fixture(scope="session", autouse=True)
def references_on_one_thread() -> Iterator[None]:
    """Sessions of ONNX Runtime that name no number of threads have one: idle ones spin for 10 ms after each run."""
    begin = ort.InferenceSession.__init__

    def begin_alone(
        session: Any, model: Any, sess_options: Any = None, *more: Any, **named: Any
    ) -> None:  # fmt: skip
        options = sess_options or ort.SessionOptions()
        options.intra_op_num_threads = options.intra_op_num_threads or 1
        begin(session, model, options, *more, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ort.InferenceSession, "__init__", begin_alone)
        yield
