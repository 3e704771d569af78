"""Weights of few bits in a float model: products of constant weights become MatMulNBits, within the error budget.

The weights of a matrix product are rounded in blocks of 32 along the reduced axis, symmetric, with a scale each;
activations and sums stay float32, and no calibration data are needed. Layers are chosen as those for bfloat16 are, by
what rounding them costs in the outputs of the whole model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgec.compiler.frontends.onnx.graphs import free_names
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.precisions.narrow import PREFIX, Choice, Layer, Switches, most_within
from edgec.compiler.precisions.samples import samples_of
from edgec.compiler.verify.inputs import Arrays

SIZE = 32  # elements of the reduced axis that share a scale
LEAST = 1 << 16  # weights of a product: fewer stay in a cache as real numbers
SHARE = 0.8  # of the budget for the rounding of weights; the rest is for Winograd's transforms and the order of sums
SHRUNK = (
    1.0,
    0.95,
    0.9,
    0.85,
    0.8,
)  # of the largest weight of a block, for the scale with the smallest error
MICROSOFT = "com.microsoft"

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Blocks:
    """A matrix of weights in blocks.

    Attributes:
        codes: int8 `[columns, blocks, SIZE]`.
        scales: float32 `[columns, blocks]`.
        bits: of a code.
    """

    codes: npt.NDArray[np.int8]
    scales: Matrix
    bits: int

    @property
    def values(self) -> Matrix:
        """The weights that these stand for, `[columns, inner]`."""
        real = self.codes.astype(np.float32) * self.scales[..., None]
        return real.reshape(len(self.scales), -1)

    @property
    def stored(self) -> npt.NDArray[np.uint8]:
        """As MatMulNBits stores them, zero in the middle, the first of two codes in the lower half of a byte."""
        raised = (self.codes.astype(np.int16) + (1 << (self.bits - 1))).astype(np.uint8)
        return raised if self.bits == 8 else (raised[..., 0::2] | raised[..., 1::2] << 4).astype(np.uint8)


def rounded(weights: Matrix, bits: int) -> Blocks:
    """Weights `[columns, inner]` in codes of few bits."""
    parts = weights.reshape(len(weights), -1, SIZE)
    most = (1 << (bits - 1)) - 1
    largest = np.abs(parts).max(axis=-1)
    scales, least = np.ones_like(largest), np.full(largest.shape, np.inf)
    for share in SHRUNK:
        tried = np.where(largest > np.finfo(np.float32).tiny * most, largest * (share / most), 1.0).astype(
            "f4"
        )
        codes = np.clip(np.rint(parts / tried[..., None]), -most - 1, most)
        error = np.square(codes * tried[..., None] - parts).sum(axis=-1)
        scales, least = np.where(error < least, tried, scales), np.minimum(error, least)
    codes = np.clip(np.rint(parts / scales[..., None]), -most - 1, most)
    return Blocks(codes.astype(np.int8), scales.astype(np.float32), bits)


@dataclass(frozen=True)
class _Product:
    """A product with constant weights: its node, the weights as `[columns, inner]`, and the source node."""

    node: NodeProto
    weights: Matrix
    origin: int


def with_narrow_weights(
    source: SourceModel, inputs: Arrays, budget: float, bits: int
) -> tuple[SourceModel, Choice]:
    """The model with as many large products as `budget` allows on `inputs` in weights of `bits`."""
    products = list(_products(source))
    blocks = {product.origin: rounded(product.weights, bits) for product in products}
    if not products:
        return source, Choice()
    layers = [Layer(product.origin, product.weights.size) for product in products]
    samples = samples_of(source, inputs, half=False)
    measure = Switches(_with_switches(source, products, blocks), layers, samples)
    choice = most_within(layers, measure, SHARE * budget, whole_first=True)
    chosen = {product.node.output[0]: product for product in products if product.origin in choice.nodes}
    return _rewritten(source, chosen, blocks), choice


def _products(source: SourceModel) -> Iterator[_Product]:
    """The products of the main graph whose weights are constant, many, and divided by blocks."""
    constants = {tensor.name: tensor for tensor in source.model.graph.initializer}
    found = set[int]()
    for node in source.model.graph.node:
        weight = constants.get(node.input[1]) if node.op_type in ("MatMul", "Gemm") else None
        origin = source.origins.get(node.output[0])
        if weight is None or origin is None or origin in found or node.domain not in ("", "ai.onnx"):
            continue
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if given.get("transA", 0) or given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0:
            continue
        if weight.data_type != TensorProto.FLOAT or len(weight.dims) != 2:
            continue
        columns = np.asarray(numpy_helper.to_array(weight), np.float32)
        columns = columns if given.get("transB", 0) else columns.T
        if columns.size >= LEAST and columns.shape[1] % SIZE == 0 and np.isfinite(columns).all():
            found.add(origin)
            yield _Product(node, columns, origin)


def _with_switches(source: SourceModel, products: list[_Product], blocks: Mapping[int, Blocks]) -> ModelProto:
    """The model with a boolean input at each product that takes the rounded weights."""
    model = _copied(source)
    by_output = {product.node.output[0]: product for product in products}
    nodes = list[NodeProto]()
    for node in source.model.graph.node:
        product = by_output.get(node.output[0])
        if product is not None:
            switch = f"{PREFIX}{product.origin}"
            values = blocks[product.origin].values
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            values = np.ascontiguousarray(values if transposed else values.T)
            model.graph.input.append(helper.make_tensor_value_info(switch, TensorProto.BOOL, []))
            model.graph.initializer.append(numpy_helper.from_array(values, f"{switch}_rounded"))
            names = [switch, f"{switch}_rounded", node.input[1]]
            nodes.append(helper.make_node("Where", names, [f"{switch}_weights"]))
            node = _copy(node)
            node.input[1] = f"{switch}_weights"
        nodes.append(node)
    model.graph.node.extend(nodes)
    return model


def _rewritten(
    source: SourceModel, chosen: Mapping[str, _Product], blocks: Mapping[int, Blocks]
) -> SourceModel:
    """The model with MatMulNBits in the place of the chosen products; the reference stays as it was."""
    if not chosen:
        return source
    model, nodes = _copied(source), list[NodeProto]()
    for node in source.model.graph.node:
        product = chosen.get(node.output[0])
        nodes += [node] if product is None else _in_bits(model, product, blocks[product.origin])
    model.graph.node.extend(nodes)
    read = {port.name for port in model.graph.output}.union(*(free_names(node) for node in nodes))
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    if all(one.domain != MICROSOFT for one in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    sums = {f"{PREFIX}{product.origin}_product": product.origin for product in chosen.values()}
    return replace(source, model=model, origins={**source.origins, **sums})


def _in_bits(model: ModelProto, product: _Product, blocks: Blocks) -> list[NodeProto]:
    """A product, and the sum with what a Gemm adds to it."""
    node, (columns, inner) = product.node, product.weights.shape
    names = [f"{PREFIX}{product.origin}_{part}" for part in ("codes", "scales", "product")]
    for name, array in zip(names, (blocks.stored, blocks.scales.reshape(-1)), strict=False):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    added = node.input[2] if len(node.input) > 2 else ""
    made = helper.make_node(
        "MatMulNBits", [node.input[0], *names[:2]], [names[2] if added else node.output[0]], name=node.name,
        domain=MICROSOFT, K=inner, N=columns, bits=blocks.bits, block_size=SIZE,
    )  # fmt: skip
    return [made, helper.make_node("Add", [names[2], added], list(node.output))] if added else [made]


def _copied(source: SourceModel) -> ModelProto:
    """The model without its nodes."""
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    del model.graph.node[:]
    return model


def _copy(node: NodeProto) -> NodeProto:
    made = NodeProto()
    made.CopyFrom(node)
    return made
