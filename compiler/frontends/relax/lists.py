"""Sequences and optional values while a graph is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TensorList:
    """A sequence whose length is known, taken apart when the model is imported.

    Attributes:
        items: the tensors in order; their shapes may differ.
        dtype: numpy's name of their element type.
    """

    items: tuple[Any, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class RuntimeList:
    """A sequence whose length is known only when the model runs: an object that the runtime's functions take.

    Attributes:
        value: the variable that holds it.
        dtype: numpy's name of its tensors' element type.
        rank: the number of axes of its tensors.
    """

    value: Any
    dtype: str
    rank: int


@dataclass(frozen=True)
class Absent:
    """An optional value without an element."""


NO_TENSOR = (TensorList, RuntimeList, Absent)
