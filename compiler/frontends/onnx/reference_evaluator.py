"""The standard's own evaluator as the reference for operators that ONNX Runtime lacks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto

from edgec.compiler.errors import ModelError

Arrays = Mapping[str, npt.NDArray[np.generic]]


class Standard:
    """Runs a model with the evaluator of the ``onnx`` package, which is slow and knows every operator."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self.description = f"onnx {onnx.__version__} reference"

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """The outputs by name.

        Raises:
            ModelError: the evaluator cannot run the model.
        """
        from onnx.reference import ReferenceEvaluator

        names = [value.name for value in self._model.graph.output]
        try:
            values = ReferenceEvaluator(self._model).run(names, dict(inputs))
        except Exception as error:  # its operators raise whatever numpy does
            raise ModelError(f"the standard's evaluator cannot run this model: {error}") from error
        return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}

    def spread(self, inputs: Arrays) -> dict[str, float]:
        """There is one implementation only."""
        return {}
