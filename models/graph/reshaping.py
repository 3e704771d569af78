"""Operators that move values: joins, splits, reshapes, slices; and products of two values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgec.models.graph import activation_statistics as statistics
from edgec.models.graph.activation_statistics import Moments
from edgec.models.graph.builder import Builder
from edgec.models.graph.values import Value


class Reshaping(Builder):
    """Operators that move values, and products of two values."""

    def concat(self, values: Sequence[Value], axis: int = 1) -> Value:
        """Join along `axis`."""
        shape = list(values[0].shape)
        axis %= len(shape)
        shape[axis] = sum(v.shape[axis] for v in values)
        parts = [v.moments for v in values if v.moments is not None]
        moments = statistics.joined(parts) if axis == 1 and len(parts) == len(values) else None
        return self._one("Concat", [v.name for v in values], tuple(shape), moments, axis=axis)

    def split(self, x: Value, sizes: Sequence[int], axis: int = 1) -> list[Value]:
        """Cut into pieces of `sizes` along `axis`."""
        shapes = [(*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in sizes]
        pieces = self.node("Split", [x.name, self.ints(*sizes)], shapes, axis=axis)
        if axis != 1 or x.moments is None:
            return pieces
        edges = np.cumsum([0, *sizes])
        return [
            replace(piece, moments=x.moments.pick(np.arange(a, b)))
            for piece, a, b in zip(pieces, edges, edges[1:], strict=False)
        ]

    def reshape(self, x: Value, shape: tuple[int, ...], moments: Moments | None = None) -> Value:
        """Change the shape; moments are dropped unless given."""
        if math.prod(shape) != math.prod(x.shape):
            raise ValueError(f"cannot reshape {x.shape} to {shape} in {self.name}")
        return self._one("Reshape", [x.name, self.ints(*shape)], shape, moments)

    def transpose(self, x: Value, *order: int) -> Value:
        """Permute the axes."""
        return self._one("Transpose", [x.name], tuple(x.shape[i] for i in order), perm=list(order))

    def flatten(self, x: Value) -> Value:
        """`[N, C, 1, 1]` or any other shape to `[N, features]`."""
        rest = math.prod(x.shape[1:])
        moments = x.moments
        if moments is not None and rest != x.channels:
            repeats = rest // x.channels
            moments = Moments(np.repeat(moments.mean, repeats), np.repeat(moments.var, repeats))
        return self._one("Flatten", [x.name], (x.shape[0], rest), moments, axis=1)

    def channel_shuffle(self, x: Value, groups: int) -> Value:
        """Interleave `groups` groups of channels (ShuffleNet): Reshape, Transpose, Reshape."""
        n, c, h, w = x.shape
        split = self.reshape(x, (n, groups, c // groups, h, w))
        swapped = self.transpose(split, 0, 2, 1, 3, 4)
        order = np.arange(c).reshape(groups, c // groups).T.reshape(-1)
        return self.reshape(swapped, x.shape, x.moments.pick(order) if x.moments else None)

    def matmul(self, a: Value, b: Value) -> Value:
        """Batched product over the last two axes."""
        shape = (*a.shape[:-1], b.shape[-1])
        self.count(math.prod(shape) * a.shape[-1])
        return self._one("MatMul", [a.name, b.name], shape)

    def gather_rows(self, table: str, indices: str, shape: tuple[int, ...]) -> Value:
        """Rows of the initializer `table` at int64 `indices` (an embedding); the result has `shape`."""
        return self._one("Gather", [table, indices], shape, axis=0)

    def squeeze(self, x: Value, axis: int) -> Value:
        """Drop an axis of size one."""
        return self._one("Squeeze", [x.name, self.ints(axis)], (*x.shape[:axis], *x.shape[axis + 1 :]))

    def slice(self, x: Value, axis: int, start: int, stop: int) -> Value:
        """`x[start:stop]` along `axis`."""
        shape = (*x.shape[:axis], stop - start, *x.shape[axis + 1 :])
        inputs = [x.name, self.ints(start), self.ints(stop), self.ints(axis)]
        return self._one("Slice", inputs, shape)
