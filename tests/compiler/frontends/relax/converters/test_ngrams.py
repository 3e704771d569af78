"""TfIdfVectorizer of numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.compiler.frontends.relax.converters.evaluate import assert_native, model_of


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("skips", [0, 2])
@pytest.mark.parametrize("shape", [(9,), (3, 7)])
def test_ngrams_are_counted(mode: str, skips: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    x = np.random.default_rng(4).integers(1, 4, shape).astype("int64")
    node = helper.make_node(
        "TfIdfVectorizer",
        ["x"],
        ["y"],
        mode=mode,
        min_gram_length=1,
        max_gram_length=3,
        max_skip_count=skips,
        ngram_counts=[0, 3, 7],
        ngram_indexes=[0, 1, 2, 5, 4, 3],
        pool_int64s=[1, 2, 3, 1, 2, 3, 3, 2, 1, 3],
        weights=[0.5, 1.0, 2.0, 3.0, 0.25, 4.0],
    )
    assert_native(model_of([node], {"x": x}, {"y": "float32"}), {"x": x}, tmp_path)
