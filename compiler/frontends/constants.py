"""Inputs that the model card sets once and for all, such as a sample rate: constants of the compiled model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, ValueInfoProto, helper, numpy_helper

from edgec.compiler.errors import InputShapeError
from edgec.compiler.frontends.interface import Loaded
from edgec.compiler.frontends.source import KeepsState, Reference

Arrays = Mapping[str, npt.NDArray[np.generic]]


def bind_constants(loaded: Loaded, constants: Mapping[str, float]) -> Loaded:
    """Make constants of inputs; `loaded.model` is changed.

    Raises:
        InputShapeError: the model has no such input, or its sizes are free.
    """
    if not constants:
        return loaded
    arrays = {name: _constant(loaded.model, name, value) for name, value in constants.items()}
    graph = loaded.model.graph
    kept = [ValueInfoProto.FromString(v.SerializeToString()) for v in graph.input if v.name not in arrays]
    del graph.input[:]
    graph.input.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    original = loaded.original
    if original is not None:
        keeps = isinstance(original, KeepsState)
        original = _SetAndKept(original, arrays) if keeps else _Set(original, arrays)
    return replace(loaded, original=original)


def _constant(model: ModelProto, name: str, value: float) -> npt.NDArray[np.generic]:
    for given in model.graph.input:
        if given.name == name:
            kind = given.type.tensor_type
            shape = tuple(dim.dim_value for dim in kind.shape.dim)
            if 0 in shape:
                raise InputShapeError(
                    f"the card sets the input {name!r} to {value}, but its sizes are free; leave it an input"
                )
            return np.full(shape, value, helper.tensor_dtype_to_np_dtype(kind.elem_type))
    known = ", ".join(given.name for given in model.graph.input)
    raise InputShapeError(f"the card sets the input {name!r}, which the model lacks; it has {known}")


class _Set:
    """A reference that gets the constants as inputs."""

    def __init__(self, reference: Reference, arrays: Arrays) -> None:
        self._reference, self._arrays = reference, arrays

    @property
    def description(self) -> str:
        """That of the reference."""
        return self._reference.description

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """See `Reference`."""
        return self._reference.run({**inputs, **self._arrays})

    def spread(self, inputs: Arrays) -> dict[str, float]:
        """See `Reference`."""
        return self._reference.spread({**inputs, **self._arrays})


class _SetAndKept(_Set):
    """The same for a reference with variables."""

    def run_steps(
        self, steps: Sequence[Arrays], carried: Mapping[str, str]
    ) -> list[dict[str, npt.NDArray[np.generic]]]:
        """See `KeepsState`."""
        assert isinstance(self._reference, KeepsState)
        return self._reference.run_steps([{**step, **self._arrays} for step in steps], carried)
