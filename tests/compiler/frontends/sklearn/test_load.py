"""Estimators of scikit-learn beside their own `predict`: support vectors, histograms, missing values, categories."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import edgec.runtime as rt
from edgec.compiler.errors import ModelError
from edgec.compiler.frontends import load_source
from edgec.compiler.options import CompileOptions
from tests.compiler.onnx_models import build

sklearn = pytest.importorskip("sklearn", reason="optional: pip install 'edgec[trees]'")
pytest.importorskip("skl2onnx", reason="optional: pip install 'edgec[trees]'")

OPTIONS = CompileOptions(tune="none", threads=1, input_shapes={"input": (60, 5)})
RNG = np.random.default_rng(2)
WHOLE = RNG.normal(size=(300, 5))
TARGET = WHOLE[:, 0] * 2 + np.sin(3 * WHOLE[:, 1])
HOLES = np.where(RNG.random(WHOLE.shape) < 0.2, np.nan, WHOLE)
CLASSED = HOLES.copy()  # its third column is a category, which has no order
CLASSED[:, 2] = RNG.integers(0, 12, 300)
BY_CLASS = TARGET + 3 * np.isin(CLASSED[:, 2], [1, 4, 7])
NAMES = np.array(["low", "middle", "high"])[(BY_CLASS > 0).astype(int) + (BY_CLASS > 2)]


def histogram(kind: str, **parameters: Any) -> Any:
    from sklearn import ensemble

    return getattr(ensemble, f"HistGradientBoosting{kind}")(max_iter=12, random_state=0, **parameters)


def forest(kind: str) -> Any:
    from sklearn import ensemble

    return getattr(ensemble, kind)(n_estimators=7, random_state=0)


def vectors(kind: str, **parameters: Any) -> Any:
    from sklearn import svm

    return getattr(svm, kind)(**parameters)


CASES = {
    "histogram": (lambda: histogram("Regressor"), HOLES, TARGET),
    "histogram of counts": (lambda: histogram("Regressor", loss="poisson"), HOLES, np.abs(TARGET)),
    "histogram of categories": (lambda: histogram("Regressor", categorical_features=[2]), CLASSED, BY_CLASS),
    "histogram of two classes": (lambda: histogram("Classifier"), HOLES, TARGET > 0),
    "histogram of names": (lambda: histogram("Classifier", categorical_features=[2]), CLASSED, NAMES),
    "forest with holes": (lambda: forest("RandomForestRegressor"), HOLES, TARGET),
    "extra trees with holes": (lambda: forest("ExtraTreesClassifier"), HOLES, TARGET > 0),
    "regression": (lambda: vectors("SVR"), WHOLE, TARGET),
    "polynomial": (lambda: vectors("SVR", kernel="poly"), WHOLE, TARGET),
    "one class": (lambda: vectors("OneClassSVM"), WHOLE, TARGET),
    "classes": (lambda: vectors("SVC"), WHOLE, NAMES),
    "two classes": (lambda: vectors("SVC", kernel="linear"), WHOLE, TARGET > 0),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_converted_predicts_the_same(name: str, tmp_path: Path) -> None:
    make, data, target = CASES[name]
    estimator = make().fit(data, target)
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(estimator))
    x = data[:60].astype("float32")
    if data is CLASSED:
        x[::5, 2], x[1::5, 2], x[2::5, 2] = np.nan, 40, -1  # missing, unknown, impossible
    source = load_source(path, OPTIONS)
    reference = source.original.run({"input": x}) if source.original else {}
    got = ort.InferenceSession(source.model.SerializeToString()).run(None, {"input": x})
    np.testing.assert_allclose(got[0].reshape(-1), plain(estimator, x), atol=2e-5)
    for port, value in zip(source.outputs, got, strict=True):
        np.testing.assert_allclose(value, reference.get(port.name, value), atol=2e-5)


def plain(estimator: Any, x: np.ndarray) -> np.ndarray:
    """The estimator's own prediction, names of classes by their position."""
    found = np.asarray(estimator.predict(x.astype("float64")))
    if found.dtype.kind == "U":
        return np.searchsorted(estimator.classes_, found)
    return found.astype("float32" if found.dtype.kind == "f" else "int64")


def test_a_histogram_of_categories_runs_compiled(tmp_path: Path) -> None:
    make, data, target = CASES["histogram of names"]
    estimator = make().fit(data, target)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(estimator))
    imported, artifact = build(tmp_path / "model.pkl", tmp_path, OPTIONS)
    assert not imported.segments
    x = data[:60].astype("float32")
    x[::5, 2] = 40
    with rt.load(artifact, threads=1) as model:
        got = model.run({"input": x})
    np.testing.assert_array_equal(got["label"], plain(estimator, x))
    np.testing.assert_allclose(got["probabilities"], estimator.predict_proba(x.astype("float64")), atol=1e-5)


def test_missing_values_that_cannot_be_told_are_refused(tmp_path: Path) -> None:
    from sklearn.ensemble import VotingRegressor

    voting = VotingRegressor([("a", forest("RandomForestRegressor")), ("b", forest("ExtraTreesRegressor"))])
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(voting.fit(HOLES, TARGET)))
    with pytest.raises(ModelError, match="missing values to the left"):
        load_source(tmp_path / "model.pkl", OPTIONS)
