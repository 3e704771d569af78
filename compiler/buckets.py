"""Several sets of input shapes in one artifact: a library for each, shared weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

import edgec.runtime as rt
from edgec.compiler import pack
from edgec.compiler.errors import InputShapeError
from edgec.compiler.frontends import ImportedModel
from edgec.compiler.lowered import Lowered


@dataclass(frozen=True)
class Built:
    """A model compiled for one set of input shapes."""

    imported: ImportedModel
    lowered: Lowered


def join(built: Sequence[Built]) -> pack.Further:
    """Join the compiles of one model; weights that an earlier one stores are not stored again.

    A layer whose kernels use different weight layouts for different sizes stores both.

    Raises:
        InputShapeError: two sets of input shapes are the same.
    """
    first = built[0]
    shapes = [
        (
            tuple((p.shape, p.symbols) for p in one.imported.source.inputs),
            tuple(one.imported.source.bounds.items()),
        )
        for one in built
    ]
    if len(set(shapes)) < len(shapes):
        raise InputShapeError("the same input shapes are given twice; each set needs shapes of its own")
    if len(built) == 1:
        return pack.NOTHING_FURTHER
    stored = {_content(array): name for name, array in first.lowered.weights.items()}
    weights: dict[str, npt.NDArray[np.generic]] = {}
    buckets: list[rt.Bucket] = []
    libraries: dict[str, bytes] = {}
    graphs: dict[str, bytes] = {}
    for number, one in enumerate(built[1:], start=1):
        weights |= pack.initial_values(one.imported.source, number)
        names = []
        for name, array in one.lowered.weights.items():
            content = _content(array)
            if content not in stored:
                stored[content] = f"{name}.{number}"
                weights[stored[content]] = array
            names.append(stored[content])
        layer = f"model-{number}.so"
        buckets.append(_bucket(one, layer, tuple(names), number))
        libraries[layer] = one.lowered.code
        graphs |= pack.graphs(one.imported.segments, number)
    plans = tuple(one.lowered.plan for one in built[1:])
    return pack.Further(tuple(buckets), weights, libraries, graphs, plans)


def _bucket(one: Built, layer: str, weights: tuple[str, ...], number: int) -> rt.Bucket:
    source, lowered = one.imported.source, one.lowered
    return rt.Bucket(
        layer=layer,
        inputs=pack.specs(source.inputs, source.bounds),
        outputs=pack.specs(pack.known_outputs(source.outputs, lowered)),
        entry=lowered.entry,
        weights=weights,
        plan=pack.plan_of(lowered),
        varies=lowered.varies,
        calls=lowered.calls,
        kernels=pack.kernels(lowered, source.nodes, one.imported.segments),
        segments=pack.segments_of(one.imported.segments, number),
        states=pack.states_of(source, number),
    )


def _content(array: npt.NDArray[np.generic]) -> tuple[str, tuple[int, ...], bytes]:
    return array.dtype.name, array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
