"""Element-wise operators, and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgec.models.graph import activation_statistics as statistics
from edgec.models.graph.builder import Builder
from edgec.models.graph.values import Value, broadcast


class Elementwise(Builder):
    """Element-wise operators, and softmax."""

    def _map(
        self,
        x: Value,
        op: str,
        inputs: Sequence[str],
        f: Callable[[statistics.Array], statistics.Array],
        **at: Any,  # noqa: ANN401 - ONNX attributes
    ) -> Value:
        moments = x.moments.through(f) if x.moments is not None else None
        return self._one(op, [x.name, *inputs], x.shape, moments, None, **at)

    def relu(self, x: Value) -> Value:
        """`max(x, 0)`."""
        return self._map(x, "Relu", (), lambda v: np.maximum(v, 0))

    def clip(self, x: Value, low: float, high: float) -> Value:
        """`min(max(x, low), high)`; ReLU6 is exported this way."""
        bounds = [self.constant(f"const.{v:g}", np.array(v, np.float32)) for v in (low, high)]
        return self._map(x, "Clip", bounds, lambda v: np.clip(v, low, high))

    def relu6(self, x: Value) -> Value:
        """`min(max(x, 0), 6)`."""
        return self.clip(x, 0.0, 6.0)

    def hard_sigmoid(self, x: Value) -> Value:
        """`clip(x / 6 + 1/2, 0, 1)` (MobileNetV3)."""
        return self._map(x, "HardSigmoid", (), lambda v: np.clip(v / 6 + 0.5, 0, 1), alpha=1 / 6, beta=0.5)

    def hard_swish(self, x: Value) -> Value:
        """`x * hard_sigmoid(x)` (MobileNetV3), the ONNX operator HardSwish."""
        return self._map(x, "HardSwish", (), lambda v: v * np.clip(v / 6 + 0.5, 0, 1))

    def sigmoid(self, x: Value) -> Value:
        """Logistic function."""
        return self._map(x, "Sigmoid", (), _logistic)

    def tanh(self, x: Value) -> Value:
        """Hyperbolic tangent."""
        return self._map(x, "Tanh", (), np.tanh)

    def silu(self, x: Value) -> Value:
        """`x * sigmoid(x)`, exported as Sigmoid and Mul."""
        product = self.mul(x, self.sigmoid(x))
        moments = x.moments.through(lambda v: v * _logistic(v)) if x.moments is not None else None
        return replace(product, moments=moments)

    def gelu(self, x: Value) -> Value:
        """Gaussian error linear unit with erf, exported as PyTorch does: Div, Erf, Add, Mul, Mul."""
        root = self.constant("const.sqrt2", np.array(math.sqrt(2.0), np.float32))
        one = self.constant("const.one", np.array(1.0, np.float32))
        half = self.constant("const.half", np.array(0.5, np.float32))
        scaled = self._one("Div", [x.name, root], x.shape)
        erf = self._one("Erf", [scaled.name], x.shape)
        plus = self._one("Add", [erf.name, one], x.shape)
        product = self._one("Mul", [x.name, plus.name], x.shape)
        return self._one("Mul", [product.name, half], x.shape)

    def add(self, a: Value, b: Value) -> Value:
        """Element-wise sum, with broadcasting."""
        both = a.moments.plus(b.moments) if a.moments and b.moments else None
        return self._one("Add", [a.name, b.name], broadcast(a, b), both)

    def mul(self, a: Value, b: Value) -> Value:
        """Element-wise product, with broadcasting."""
        both = a.moments.times(b.moments) if a.moments and b.moments else None
        return self._one("Mul", [a.name, b.name], broadcast(a, b), both)

    def sub(self, a: Value, b: Value) -> Value:
        """Element-wise difference, with broadcasting; moments are dropped."""
        return self._one("Sub", [a.name, b.name], broadcast(a, b))

    def exp(self, x: Value) -> Value:
        """Element-wise exponential; moments are dropped."""
        return self._one("Exp", [x.name], x.shape)

    def scale(self, x: Value, factor: float, shift: float = 0.0) -> Value:
        """`x * factor + shift` with scalar constants (the Add only where `shift` is not zero)."""
        moments = x.moments.affine(np.array(factor), np.array(shift)) if x.moments else None
        by = self.constant(f"const.{factor:.9g}", np.array(factor, np.float32))
        y = self._one("Mul", [x.name, by], x.shape, moments)
        if shift:
            offset = self.constant(f"const.{shift:.9g}", np.array(shift, np.float32))
            y = self._one("Add", [y.name, offset], x.shape, moments)
        return y

    def softmax(self, x: Value, axis: int = -1) -> Value:
        """Softmax along `axis`."""
        return self._one("Softmax", [x.name], x.shape, axis=axis)


def _logistic(v: statistics.Array) -> statistics.Array:
    result: statistics.Array = 1.0 / (1.0 + np.exp(-v))
    return result
