"""What goes into each layer of a quantised model: the mean of each channel, and second moments of sampled patches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper

from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.quantise.dataset import Dataset
from edgec.compiler.quantise.portions import in_portions
from edgec.compiler.quantise.simulate import Simulation
from edgec.compiler.quantise.structure import Layer, Structure

Floats = npt.NDArray[np.float64]
POSITIONS = 128  # output positions sampled of each example
MOST_INNER = 2304  # elements of a filter: its second moments take the square of it
MOST_BYTES = 512 << 20  # of second moments that are gathered together


@dataclass
class Moments:
    """Of the values that each filter of a layer is multiplied with.

    Attributes:
        mean: by element of a filter, `[groups, inner]`.
        second: the mean of their products, `[groups, inner, inner]`; None where a filter is too large.
    """

    mean: Floats
    second: Floats | None
    count: int = 0

    def add(self, patches: Floats) -> None:
        """Count patches `[groups, number, inner]`."""
        self.mean += patches.sum(axis=1)
        if self.second is not None:
            self.second += np.einsum("gni,gnj->gij", patches, patches, optimize=True)
        self.count += patches.shape[1]

    def finished(self) -> Moments:
        """The means of what was counted."""
        n = max(self.count, 1)
        return Moments(self.mean / n, None if self.second is None else self.second / n, self.count)


def gather(
    structure: Structure, quantised: SourceModel, data: Dataset, advance: Callable[[], None]
) -> dict[int, Moments]:
    """The moments of every layer's input in the quantised model, by the position of the layer.

    Args:
        structure: of the float model.
        quantised: the same with all layers in 8 bits.
        data: examples, each of which is run once for every group of layers whose moments fit into memory.
        advance: called after each example.
    """
    makers = {name: node for node in quantised.model.graph.node for name in node.output}
    found: dict[int, Moments] = {}
    for number, group in enumerate(_groups(structure)):
        inputs = {layer.position: makers[layer.output].input[0] for layer in group}
        model = Simulation(quantised, further=sorted(set(inputs.values())))
        moments = {layer.position: _empty(structure, layer) for layer in group}
        rng = np.random.default_rng(0)
        for example in data:
            for arrays in example.inputs:
                values = model.run(arrays)
                for layer in group:
                    node = structure.nodes[layer.position]
                    shape = structure.constants[layer.weight].dims
                    patches = _patches(node, layer, list(shape), values[inputs[layer.position]], rng)
                    moments[layer.position].add(patches)
            if number == 0:
                advance()
        found |= {position: one.finished() for position, one in moments.items()}
    return found


def supported(layer: Layer, structure: Structure) -> bool:
    """Whether the moments of a layer can be gathered."""
    if layer.kind == "ConvTranspose":
        return False
    attrs = attributes(structure.nodes[layer.position])
    return attrs.get("auto_pad", b"NOTSET") == b"NOTSET" and len(structure.constants[layer.weight].dims) in (
        2,
        4,
    )


def attributes(node: NodeProto) -> dict[str, Any]:
    """A node's attributes by name."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _groups(structure: Structure) -> Iterator[list[Layer]]:
    layers = [layer for layer in structure.layers if supported(layer, structure)]
    return in_portions(layers, lambda layer: _inner(structure, layer) ** 2 * layer.groups * 8, MOST_BYTES)


def _inner(structure: Structure, layer: Layer) -> int:
    shape = structure.constants[layer.weight].dims
    return int(layer.size // shape[layer.axis])


def _empty(structure: Structure, layer: Layer) -> Moments:
    inner = _inner(structure, layer)
    second = np.zeros((layer.groups, inner, inner)) if inner <= MOST_INNER else None
    return Moments(np.zeros((layer.groups, inner)), second)


def _patches(
    node: NodeProto, layer: Layer, shape: Sequence[int], data: npt.NDArray[Any], rng: np.random.Generator
) -> Floats:
    """Some of the patches that the layer's filters are multiplied with: `[groups, number, inner]`."""
    if layer.kind != "Conv":
        rows = data.reshape(-1, data.shape[-1]).astype(np.float64)
        chosen = rng.permutation(len(rows))[:POSITIONS]
        return rows[chosen][None]
    attrs = attributes(node)
    kernel, rank = shape[2:], len(shape) - 2
    strides, dilations = attrs.get("strides", [1] * rank), attrs.get("dilations", [1] * rank)
    pads = attrs.get("pads", [0] * 2 * rank)
    padded = np.pad(data, [(0, 0), (0, 0), *((pads[i], pads[i + rank]) for i in range(rank))])
    sizes = [
        (padded.shape[i + 2] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in range(rank)
    ]
    total = int(padded.shape[0] * np.prod(sizes))
    chosen = rng.permutation(total)[:POSITIONS] if total > POSITIONS else np.arange(total)
    batch, *places = np.unravel_index(chosen, (padded.shape[0], *sizes))
    index = [
        (place[:, None] * strides[i] + np.arange(kernel[i]) * dilations[i]).reshape(
            len(chosen), *[kernel[i] if j == i else 1 for j in range(rank)]
        )
        for i, place in enumerate(places)
    ]
    at = (batch.reshape(-1, *[1] * rank), slice(None), *index)
    taken = np.moveaxis(padded[at], -1, 1).astype(np.float64)  # [number, channels, *kernel]
    groups = layer.groups
    grouped = taken.reshape(len(chosen), groups, -1)
    return np.ascontiguousarray(grouped.transpose(1, 0, 2))
