"""Single calls of operators with attributes drawn at random, natively compiled, against the standard's evaluator.

`make test` compiles a few of each family; the long test draws other ones, as many as `EDGEC_SAMPLES` says.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from tests.compiler.samples import (
    check,
    chosen,
    elementwise,
    indexing,
    odd,
    products,
    quantised,
    reductions,
    sample,
    spatial,
)

MODULES = (elementwise, reductions, spatial, indexing, products, quantised, chosen, odd)
TOGETHER = 24  # calls in an artifact
OURS = sorted(sample.FAMILIES)


def outcomes(samples: Iterable[sample.Sample], folder: Path) -> list[check.Outcome]:
    """What comes of samples, those of one opset together."""
    by_opset: dict[int, list[sample.Sample]] = defaultdict(list)
    for one in samples:
        by_opset[one.opset].append(one)
    return [
        outcome
        for group in by_opset.values()
        for first in range(0, len(group), TOGETHER)
        for outcome in check.outcomes(group[first : first + TOGETHER], folder)
    ]


def told(found: Iterable[check.Outcome]) -> list[str]:
    """The samples that are not native and right, a line each."""
    return [f"{one.result}: {one.sample.told()}: {one.detail}" for one in found if one.result != "native"]


def test_samples_are_the_same_every_time() -> None:
    for name in OURS:
        one, other = (sample.draw(name, 3, 5) for _ in range(2))
        assert one.told() == other.told()
        for a, b in zip(one.inputs, other.inputs, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_few_calls_of_each_family(module: object, tmp_path: Path) -> None:
    own = [name for name in OURS if sample.FAMILIES[name].__module__ == module.__name__]  # type: ignore[attr-defined]
    assert told(outcomes((sample.draw(name, 0, n) for name in own for n in range(2)), tmp_path)) == []


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", OURS)
def test_many_calls_of_a_family(name: str, tmp_path: Path) -> None:
    count = int(os.environ.get("EDGEC_SAMPLES", "200"))
    seed = int(os.environ.get("EDGEC_SAMPLES_SEED", "1"))
    found = outcomes((sample.draw(name, seed, n) for n in range(count)), tmp_path)
    assert told(found) == [], Counter(one.result for one in found)
