"""Sequences and optional values while a graph is imported: lists of tensors whose length is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TensorList:
    """A sequence of the standard, taken apart when the model is imported.

    Attributes:
        items: the tensors in order; their shapes may differ.
        dtype: numpy's name of their element type.
    """

    items: tuple[Any, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class Absent:
    """An optional value without an element."""
