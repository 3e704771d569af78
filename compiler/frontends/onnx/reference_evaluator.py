"""The standard's own evaluator as the reference for operators that ONNX Runtime lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto

from edgec.compiler.errors import ModelError

Arrays = Mapping[str, npt.NDArray[np.generic]]

STANDARD_DESCRIPTION = f"onnx {onnx.__version__} reference"
CANNOT_RUN = "the standard's evaluator cannot run this model: "


class Standard:
    """Runs a model with the evaluator of the `onnx` package, which is slow and supports every operator."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self.description = STANDARD_DESCRIPTION

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """The outputs by name.

        Raises:
            ModelError: the evaluator cannot run the model.
        """
        names = [value.name for value in self._model.graph.output]
        try:
            values = evaluator(self._model).run(names, dict(inputs))
        except Exception as error:  # its operators raise any exception of numpy's
            raise ModelError(f"{CANNOT_RUN}{error}") from error
        return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}

    def knows_operators(self) -> bool:
        """Whether the evaluator has all operators of the model."""
        try:
            evaluator(self._model)
        except Exception:  # noqa: BLE001 - what it raises for an unknown operator depends on the operator
            return False
        return True

    def spread(self, inputs: Arrays) -> dict[str, float]:
        """Empty: there is only one implementation."""
        return {}


def evaluator(model: ModelProto) -> Any:  # noqa: ANN401 - the package has no static types
    """The evaluator for a model, with operators that it lacks or knows in part.

    These are `DequantizeLinear` of operator sets below 19, and `MatMulInteger` with zero points a row.
    """
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class DequantizeLinear(OpRun):  # type: ignore[misc]  # untyped base
        """Per tensor and per channel; blocks came later."""

        def _run(self, x: Any, scale: Any, zero_point: Any = None, axis: int = 1) -> tuple[Any]:  # noqa: ANN401
            shape = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)] if scale.ndim else []
            whole = x.astype(np.int32) - (
                0 if zero_point is None else zero_point.astype(np.int32).reshape(shape)
            )
            return ((whole * scale.reshape(shape)).astype(scale.dtype),)

    class MatMulInteger(OpRun):  # type: ignore[misc]  # untyped base
        """With zero points a row of the left and a column of the right matrix."""

        def _run(self, a: Any, b: Any, a_zero: Any = None, b_zero: Any = None) -> tuple[Any]:  # noqa: ANN401
            left, right = a.astype(np.int32), b.astype(np.int32)
            if a_zero is not None:
                left = left - (
                    a_zero.astype(np.int32)[:, None] if a_zero.ndim == 1 else a_zero.astype(np.int32)
                )
            if b_zero is not None:
                right = right - b_zero.astype(np.int32)
            return (np.asarray(left @ right, np.int32),)

    old = any(entry.domain in ("", "ai.onnx") and entry.version < 19 for entry in model.opset_import)
    return ReferenceEvaluator(model, new_ops=[MatMulInteger, *([DequantizeLinear] if old else [])])
