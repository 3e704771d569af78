"""Tree ensembles against their libraries, and pre- and postprocessing against numpy and OpenCV, as one page.

    python -m edgec.benchmarks.trees_and_pictures FOLDER --prepare      # trains and compiles, takes a minute or two
    python -m edgec.benchmarks.trees_and_pictures FOLDER --document docs/trees-and-pictures.md

Everything runs on one thread. The sides of a row take turns in one process. Their results are compared first: a row
whose sides differ is an error.
"""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgec.runtime as rt
from edgec.benchmarks import machine, processing
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.compiler.verify.timing import time_in_blocks
from edgec.runtime.execution.shared_libraries import ensure_runtime
from edgec.targets import detect

FEATURES, ROWS, LIMIT_S = 20, 4000, 3.0
BATCHES = (1, 100)
Array = npt.NDArray[Any]
Predict = Callable[[Array], Array]


@dataclass(frozen=True)
class Ensemble:
    """A way to train an ensemble, and its library's own way to predict.

    `train` saves a model into a folder and returns its file; `predictor` reads the file again.
    """

    title: str
    package: str
    train: Callable[[Path, Array, Array], Path]
    predictor: Callable[[Path], Predict]


def data() -> tuple[Array, Array]:
    """Twenty real features of which a tenth is missing, and a target that depends on eight of them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    y = np.sin(2 * x[:, :4]).sum(1) + (x[:, 4:8] > 0.3).sum(1) + 0.1 * rng.normal(size=ROWS)
    x[rng.random(x.shape) < 0.1] = np.nan
    return x, y.astype(np.float32)


def _train_xgboost(folder: Path, x: Array, y: Array) -> Path:
    import xgboost

    parameters = {"max_depth": 6, "seed": 0, "nthread": 2}
    path = folder / "xgboost.json"
    xgboost.train(parameters, xgboost.DMatrix(x, y), 200).save_model(path)
    return path


def _xgboost(path: Path) -> Predict:
    import xgboost

    booster = xgboost.Booster({"nthread": 1}, model_file=path)

    def predict(x: Array) -> Array:
        return np.asarray(booster.inplace_predict(x))

    return predict


def _train_lightgbm(folder: Path, x: Array, y: Array) -> Path:
    import lightgbm

    parameters = {"num_leaves": 31, "seed": 0, "verbose": -1, "num_threads": 2}
    path = folder / "lightgbm.txt"
    lightgbm.train(parameters, lightgbm.Dataset(x, y), 200).save_model(path)
    return path


def _lightgbm(path: Path) -> Predict:
    import lightgbm

    booster = lightgbm.Booster(model_file=path)

    def predict(x: Array) -> Array:
        return np.asarray(booster.predict(x, num_threads=1))

    return predict


def _train_sklearn(name: str, **parameters: Any) -> Callable[[Path, Array, Array], Path]:  # noqa: ANN401
    def train(folder: Path, x: Array, y: Array) -> Path:
        from sklearn import ensemble

        path = folder / f"{name}.pkl"
        model = getattr(ensemble, name)(random_state=0, **parameters)
        path.write_bytes(pickle.dumps(model.fit(x, y)))
        return path

    return train


def _sklearn(path: Path) -> Predict:
    model = pickle.loads(path.read_bytes())  # written by this script
    if hasattr(model, "n_jobs"):
        model.n_jobs = 1

    def predict(x: Array) -> Array:
        return np.asarray(model.predict(x))

    return predict


ENSEMBLES = (
    Ensemble("XGBoost, 200 trees of depth 6", "xgboost-cpu", _train_xgboost, _xgboost),
    Ensemble("LightGBM, 200 trees of 31 leaves", "lightgbm", _train_lightgbm, _lightgbm),
    Ensemble(
        "scikit-learn RandomForestRegressor, 100 trees of depth 10", "scikit-learn",
        _train_sklearn("RandomForestRegressor", n_estimators=100, max_depth=10, n_jobs=2), _sklearn,
    ),
    Ensemble(
        "scikit-learn HistGradientBoostingRegressor, 100 trees", "scikit-learn",
        _train_sklearn("HistGradientBoostingRegressor", max_iter=100), _sklearn,
    ),
)  # fmt: skip


def prepare(folder: Path) -> None:
    """Train and compile what is not in the folder yet."""
    folder.mkdir(parents=True, exist_ok=True)
    x, y = data()
    for number, ensemble in enumerate(ENSEMBLES):
        for batch in BATCHES:
            artifact = folder / f"{number}-{batch}.edge"
            if artifact.is_file():
                continue
            path = ensemble.train(folder, x, y)
            (folder / f"{number}.path").write_text(path.name)
            options = CompileOptions(
                threads=1, tune="none", input_shapes={"input": (batch, FEATURES)}, fallback=False
            )
            compile_model(path, detect(), options, output=artifact)


def tree_rows(folder: Path) -> list[str]:
    """A row of the table for each ensemble and batch."""
    rows, (x, _) = [], data()
    for number, ensemble in enumerate(ENSEMBLES):
        predict = ensemble.predictor(folder / (folder / f"{number}.path").read_text())
        for batch in BATCHES:
            given = np.ascontiguousarray(x[:batch])
            with rt.load(folder / f"{number}-{batch}.edge", threads=1) as model:
                inputs = {"input": given}
                got, expected = next(iter(model.run(inputs).values())), predict(given)
                np.testing.assert_allclose(got.reshape(-1), expected.reshape(-1), rtol=1e-4, atol=1e-4)
                sides = {"edgec": lambda: model.run(inputs), "library": lambda: predict(given)}  # noqa: B023
                times = time_in_blocks(sides, runs=2000, limit_s=LIMIT_S)
            ours, theirs = times["edgec"], times["library"]
            cells = (f"{1e3 * t.median_ms:,.1f} ({1e3 * t.min_ms:,.1f})" for t in (ours, theirs))
            ratio = theirs.median_ms / ours.median_ms
            rows.append(f"| {ensemble.title} | {batch} | {' | '.join(cells)} | {ratio:.1f} |")
    return rows


def picture_rows() -> list[str]:
    """A row of the table for each step before and after a model."""
    rows = []
    for name, sides in processing.steps().items():
        ours, theirs = sides.values()
        cells = (f"{side.median_ms:.3f} ({side.min_ms:.3f})" for side in (ours, theirs))
        rows.append(f"| {name} | {' | '.join(cells)} | {theirs.median_ms / ours.median_ms:.1f} |")
    return rows


def page(folder: Path) -> str:
    """The page, measured now."""
    ensure_runtime(lambda name: None)
    load = os.getloadavg()
    facts = machine.describe_machine(detect(), (1,))
    versions = facts["versions"] | {e.package: metadata.version(e.package) for e in ENSEMBLES}
    versions["opencv"] = metadata.version("opencv-python-headless")
    lines = [
        "# Trees and pictures beside the libraries",
        "",
        "Written by `python -m edgec.benchmarks.trees_and_pictures`; nothing here is edited by hand.",
        "",
        f"- Machine: {facts['processor']}, {facts['cores']} cores, {facts['system']}, load {load[0]:.2f} at the start; "
        f"target `{facts['target']}`; {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"- {', '.join(f'{name} {version}' for name, version in versions.items())}, Python {facts['python']}",
        "- One thread each. The sides of a row take turns of 0.3 s in one process after their results have been "
        "compared; medians, the fastest run in brackets. All trees are compiled, none runs through ONNX Runtime.",
        "",
        "## Tree ensembles: microseconds a call",
        "",
        f"{FEATURES} features, a tenth of the values missing. The library's own `predict` is called as a "
        "program would: `inplace_predict` (XGBoost), `predict` (the others); ours is `Model.run`.",
        "",
        "| ensemble | rows | edgec | library | times faster |",
        "|---|---|---|---|---|",
        *tree_rows(folder),
        "",
        "## Before and after the model: milliseconds a frame",
        "",
        "| step | edgec | numpy and OpenCV | times faster |",
        "|---|---|---|---|",
        *picture_rows(),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Prepare, or measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, help="models and artifacts, made there when missing")
    parser.add_argument("--prepare", action="store_true", help="only train and compile")
    parser.add_argument("--document", type=Path, default=Path("docs/trees-and-pictures.md"))
    asked = parser.parse_args()
    prepare(asked.folder)
    if not asked.prepare:
        asked.document.write_text(page(asked.folder), encoding="utf-8")


if __name__ == "__main__":
    main()
