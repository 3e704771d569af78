"""Values of a graph under construction, and the small arithmetic of their shapes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgec.models.graph.activation_statistics import Moments

Pair = int | tuple[int, int]
Padding = int | tuple[int, int, int, int]
"""One number for all sides, or `(top, left, bottom, right)` as ONNX orders them."""


@dataclass(frozen=True)
class Value:
    """A tensor in the graph: its name, static shape and, where tracked, the moments of its channels (axis 1)."""

    name: str
    shape: tuple[int, ...]
    moments: Moments | None = None

    @property
    def channels(self) -> int:
        """Size of axis 1."""
        return self.shape[1]


@dataclass(frozen=True)
class Cost:
    """Parameters as papers count them (no running statistics) and multiply-adds of one inference."""

    params: int = 0
    macs: int = 0


def moments_of(x: Value) -> Moments:
    """The moments of `x`; where they are not tracked, those of a normalised value."""
    return x.moments if x.moments is not None else Moments.standard(x.channels)


def pair(value: Pair) -> tuple[int, int]:
    """Height and width of a kernel or stride."""
    return (value, value) if isinstance(value, int) else value


def sides(value: Padding) -> tuple[int, int, int, int]:
    """Padding of the four sides."""
    return (value, value, value, value) if isinstance(value, int) else value


def broadcast(a: Value, b: Value) -> tuple[int, ...]:
    """The shape of an element-wise result."""
    return tuple(int(n) for n in np.broadcast_shapes(a.shape, b.shape))
