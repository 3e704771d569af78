"""The front end of XGBoost and LightGBM files."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.compiler.errors import ModelError, opening
from edgec.compiler.frontends import formats
from edgec.compiler.frontends.interface import Loaded, read_file
from edgec.compiler.frontends.source import Reference
from edgec.compiler.frontends.trees.lightgbm_file import read_lightgbm
from edgec.compiler.frontends.trees.model import INPUT, OUTPUT, TreeModel, to_onnx
from edgec.compiler.frontends.trees.ubjson import encode
from edgec.compiler.frontends.trees.xgboost_file import read_xgboost
from edgec.compiler.kernels.forests.forest import ForestError
from edgec.compiler.options import CompileOptions

Arrays = Mapping[str, npt.NDArray[np.generic]]


def load(path: Path, options: CompileOptions) -> Loaded:
    """Read a file of XGBoost (JSON, UBJSON, old binary) or LightGBM (text).

    Neither library is needed for that. The one that trained the model becomes the reference where it is
    installed and can still read the file.

    Raises:
        ModelError: damaged, or a model without trees.
    """
    content, digest = read_file(path)
    kind = formats.detect(path)
    try:
        model = read_lightgbm(content) if kind is formats.LIGHTGBM else read_xgboost(content)
        onnx = to_onnx(model)
    except ForestError as error:
        raise ModelError(f"{path}: cannot be compiled as a {kind.name} model: {error}") from error
    original = _lightgbm(content) if kind is formats.LIGHTGBM else _xgboost(model)
    return Loaded(onnx, digest, original)


def _lightgbm(content: bytes) -> Reference | None:
    try:
        import lightgbm
    except ImportError:
        return None
    lightgbm.register_logger(logging.getLogger("lightgbm"))  # its default logger writes to stdout
    # With the sizes of its trees, LightGBM reads them in parallel, and an error there ends the process.
    lines = content.decode("utf-8", "replace").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("tree_sizes="))

    @functools.cache
    def booster() -> Any:  # noqa: ANN401 - as LightGBM declares it
        # Not before it is needed: LightGBM may crash on a damaged file, and it alone would.
        try:
            return lightgbm.Booster(model_str=text)
        except (lightgbm.basic.LightGBMError, ValueError, KeyError) as error:
            raise ModelError(f"LightGBM cannot read the file: {opening(error)}") from error

    return _Library("LightGBM", lambda x: booster().predict(x), "lightgbm")


def _xgboost(model: TreeModel) -> Reference | None:
    """XGBoost with what our reader took from the file, never with the file: damage there ends the process."""
    if model.for_library is None:  # the binary format, which XGBoost dropped in 3.1
        return None
    try:
        import xgboost
    except ImportError:
        return None
    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(encode(model.for_library)))
    except xgboost.core.XGBoostError as error:
        raise ModelError(f"XGBoost cannot read the file: {opening(error)}") from error
    features = model.forest.n_features
    types = ["c" if f in model.categories else "q" for f in range(features)] if model.categories else None

    def predict(x: npt.NDArray[np.generic]) -> Any:  # noqa: ANN401 - as XGBoost declares it
        rows = xgboost.DMatrix(x, feature_types=types, enable_categorical=bool(types))
        return booster.predict(rows, validate_features=False)

    return _Library("XGBoost", predict, "xgboost")


class _Library:
    """A library's own `predict` as the reference."""

    def __init__(self, name: str, predict: Any, module: str) -> None:  # noqa: ANN401
        self._predict = predict
        self.description = f"{name} {importlib.import_module(module).__version__}"

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """The prediction for the rows of the only input."""
        return {OUTPUT: np.asarray(self._predict(inputs[INPUT])).astype(np.float32)}

    def spread(self, inputs: Arrays) -> dict[str, float]:
        """Empty: a library has only one implementation."""
        return {}
