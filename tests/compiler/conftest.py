"""What the compiler's tests share: their compiles measure as little as they can."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_round_of_blocks() -> Iterator[None]:
    """Latencies of a compile from one round: no test here depends on how fast a result is."""
    from edgec.compiler import pipeline

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "MEASURE", replace(pipeline.MEASURE, rounds=1, runs=1, limit_s=0.0))
        yield
