"""Refinements of quantised weights; each is kept only where it makes the measured error smaller.

- Bias correction: rounding shifts the mean of a layer's output by the error of its weights times the mean of its input,
  which is taken off its bias (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
  ICCV 2019, section 4.2).
- Learned rounding: each weight is rounded up or down so that the layer's output changes least on what the layer sees,
  the quadratic problem of Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020
  (equation 13), solved by coordinate descent from the nearest integers instead of a relaxation.
- Cross-layer equalisation: channels between two convolutions are scaled so that both filters have equal ranges (the
  first paper, section 4.1). The float model stays the same function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, numpy_helper

from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.quantise.moments import Moments
from edgec.compiler.quantise.qdq import WEIGHT_LIMIT, Weights, spread
from edgec.compiler.quantise.structure import Layer, Structure

SWEEPS = 3  # over all weights; the third changes hardly any
EQUALISED = 10  # sweeps over pairs of layers
MOST_WORK = 4e9  # multiply-adds of a sweep over a layer's weights
DAMPING = 0.001  # of the mean second moment, added to its diagonal

Floats = npt.NDArray[np.float64]


def filters(weights: npt.NDArray[Any], axis: int, groups: int) -> Floats:
    """Weights as `[groups, filters, inner]`."""
    rows = np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1).astype(np.float64)
    return rows.reshape(groups, -1, rows.shape[1])


def _from_filters(rows: Floats, axis: int, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    moved = [shape[axis], *(s for a, s in enumerate(shape) if a != axis)]
    return np.moveaxis(rows.reshape(moved), 0, axis)


def corrected_bias(
    structure: Structure, layer: Layer, weights: Weights, moments: Moments
) -> npt.NDArray[np.float32] | None:
    """The bias that keeps the mean of the layer's output; None for a layer that can have none."""
    if layer.kind == "MatMul":
        return None
    exact = structure.array(layer.weight).astype(np.float64)
    rounded = weights.values * spread(weights.scales, exact.ndim, layer.axis).astype(np.float64)
    error = filters(rounded - exact, layer.axis, layer.groups)
    shift = np.einsum("gfi,gi->gf", error, moments.mean).reshape(-1)
    bias = structure.array(layer.bias).reshape(-1) if layer.bias else np.zeros(len(shift), np.float32)
    return np.asarray(bias - shift, np.float32)


def learned_rounding(
    structure: Structure, layer: Layer, weights: Weights, moments: Moments
) -> Weights | None:
    """The weights rounded for the smallest error of the layer's output; None for a layer that is too large."""
    exact = structure.array(layer.weight).astype(np.float64)
    steps = filters(exact / spread(weights.scales, exact.ndim, layer.axis), layer.axis, layer.groups)
    second = moments.second
    if second is None or steps.size * steps.shape[2] > MOST_WORK:
        return None
    made = np.stack([_descend(rows, h) for rows, h in zip(steps, second, strict=True)])
    values = _from_filters(made, layer.axis, exact.shape)
    return Weights(np.clip(values, -WEIGHT_LIMIT, WEIGHT_LIMIT).astype(np.int8), weights.scales)


def _descend(steps: Floats, second: Floats) -> Floats:
    """`steps` `[filters, inner]` rounded up or down for a small `error @ second @ error` of each filter."""
    h = second + DAMPING * max(float(np.mean(np.diag(second))), 1e-12) * np.eye(len(second))
    down = np.clip(np.floor(steps), -WEIGHT_LIMIT, WEIGHT_LIMIT)
    up = np.clip(down + 1, -WEIGHT_LIMIT, WEIGHT_LIMIT)
    made = np.clip(np.rint(steps), down, up)
    pull = (made - steps) @ h
    for _ in range(SWEEPS):
        flipped = 0
        for i in range(steps.shape[1]):
            change = np.where(made[:, i] == down[:, i], up[:, i] - down[:, i], down[:, i] - up[:, i])
            better = (2 * change * pull[:, i] + change**2 * h[i, i] < -1e-12) & (change != 0)
            if better.any():
                made[better, i] += change[better]
                pull[better] += change[better, None] * h[i]
                flipped += int(better.sum())
        if not flipped:
            break
    return made


def equalised(structure: Structure) -> SourceModel | None:
    """The float model with the channels between pairs of layers scaled; None where there is no pair."""
    pairs = _pairs(structure)
    if not pairs:
        return None
    arrays = {
        name: structure.array(name).astype(np.float64)
        for pair in pairs
        for layer in pair
        for name in (layer.weight, layer.bias)
        if name
    }
    for _ in range(EQUALISED):
        for first, second in pairs:
            _equalise(arrays, first, second)
    model = ModelProto()
    model.CopyFrom(structure.model)
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name].astype(np.float32), tensor.name))
    return replace(structure.source, model=model)


def _equalise(arrays: Mapping[str, Floats], first: Layer, second: Layer) -> None:
    out, into = arrays[first.weight], arrays[second.weight]
    depthwise = second.groups > 1
    own = np.abs(out).reshape(out.shape[0], -1).max(axis=1)
    other = np.abs(into if depthwise else into.swapaxes(0, 1)).reshape(out.shape[0], -1).max(axis=1)
    usable = (own > 1e-12) & (other > 1e-12)
    factor = np.where(usable, np.sqrt(own / np.where(usable, other, 1.0)), 1.0)
    factor = np.clip(np.where(factor > 0, factor, 1.0), 1e-3, 1e3)
    out /= factor.reshape(-1, *[1] * (out.ndim - 1))
    if first.bias:
        arrays[first.bias][...] = arrays[first.bias] / factor
    axis = 0 if depthwise else 1
    into *= factor.reshape([-1 if a == axis else 1 for a in range(into.ndim)])


def _pairs(structure: Structure) -> list[tuple[Layer, Layer]]:
    """Convolutions that only another one reads, directly or through a rectifier, and whose weights nothing shares."""
    by_position = {layer.position: layer for layer in structure.layers if layer.kind == "Conv"}
    found = []
    for layer in by_position.values():
        name = layer.output
        readers = structure.readers.get(name, [])
        if (
            len(readers) == 1
            and structure.nodes[readers[0]].op_type == "Relu"
            and name not in structure.outputs
        ):
            name = structure.nodes[readers[0]].output[0]
            readers = structure.readers.get(name, [])
        after = by_position.get(readers[0]) if len(readers) == 1 and name not in structure.outputs else None
        if after is None or after.data != name:
            continue
        inside = structure.constants[after.weight].dims[1]
        depthwise = (
            after.groups > 1 and inside == 1 and after.groups == structure.constants[after.weight].dims[0]
        )
        alone = all(
            len(structure.readers.get(n, [])) == 1 for p in (layer, after) for n in (p.weight, p.bias) if n
        )
        if alone and (after.groups == 1 or depthwise):
            found.append((layer, after))
    return found
