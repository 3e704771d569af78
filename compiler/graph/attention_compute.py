"""The definition of attention in TE: a template implements it faster, and without one it is scheduled as it is."""

from __future__ import annotations

import math
from dataclasses import asdict

from tvm import te, tirx
from tvm.tirx import PrimFunc

from edgec.compiler.graph.anchors import ANCHOR, WHOLE, decode, encode
from edgec.compiler.graph.attention_spec import AttentionSpec, AttentionTypes, Band

FLOAT32 = AttentionTypes()


def attention(spec: AttentionSpec, types: AttentionTypes = FLOAT32) -> PrimFunc:
    """Attention (see `AttentionSpec`); parameters queries, keys, values, the mask if there is one, result.

    Args:
        spec: sizes and where operands lie.
        types: of the parameters; scores and sums are float32.
    """
    query, key, value = (
        te.placeholder(view.shape, types.operands, name)
        for name, view in (("query", spec.query), ("key", spec.key), ("value", spec.value))
    )
    mask = te.placeholder(spec.mask.shape, types.mask, "mask") if spec.mask else None
    k, top_key, sum_key, out_key = (
        te.reduce_axis((0, extent), name)
        for extent, name in ((spec.inner, "k"), (spec.keys, "t"), (spec.keys, "s"), (spec.keys, "o"))
    )

    def wide(value: tirx.Expr) -> tirx.Expr:
        return value if types.operands == spec.dtype else value.astype(spec.dtype)

    def product(*at: tirx.Expr) -> tirx.Expr:
        *batch, row, column = at
        left, right = query(*spec.query.at([*batch, row, k])), key(*spec.key.at([*batch, column, k]))
        return te.sum(wide(left) * wide(right), axis=k)

    def score(*at: tirx.Expr) -> tirx.Expr:
        scaled = products(*at) * tirx.const(spec.scale, spec.dtype)
        if mask is None or spec.mask is None:
            return scaled
        masked = mask(*spec.mask.at(at))
        if types.mask == "bool":
            return tirx.Select(masked, scaled, tirx.const(types.fill, spec.dtype))
        return scaled + masked

    def power(*at: tirx.Expr) -> tirx.Expr:
        score, highest = scores(*at), top(*at[:-1])
        if not types.zeros:
            return te.exp(score - highest)
        lowest, zero = tirx.const(-math.inf, spec.dtype), tirx.const(0, spec.dtype)
        return te.exp(score - tirx.Select(highest.equal(lowest), zero, highest))

    def result(*place: tirx.Expr) -> tirx.Expr:
        *batch, row, column = (place[spec.order.index(axis)] for axis in range(len(place)))
        whole = total[*batch, row]
        if types.zeros:
            whole = tirx.Select(whole.equal(tirx.const(0, spec.dtype)), tirx.const(1, spec.dtype), whole)
        share = powers[*batch, row, out_key] / whole
        return te.sum(share * wide(value(*spec.value.at([*batch, out_key, column]))), axis=out_key)

    square, lines = (*spec.batch, spec.rows, spec.keys), (*spec.batch, spec.rows)
    products = te.compute(square, product, name="products")
    scores = te.compute(square, score, name="scores")
    top = te.compute(lines, lambda *at: te.max(scores[*at, top_key], axis=top_key), name="top")
    powers = te.compute(square, power, name="powers")
    total = te.compute(lines, lambda *at: te.sum(powers[*at, sum_key], axis=sum_key), name="total")
    out = sums = te.compute(spec.out_shape, result, name="attention")
    if types.result != spec.dtype:
        out = te.compute(spec.out_shape, lambda *at: sums(*at).astype(types.result), name="rounded")
    inputs = [query, key, value] if mask is None else [query, key, value, mask]
    made: PrimFunc = te.create_prim_func([*inputs, out], index_dtype_override="int64")
    chosen = {"fill": types.fill} if types.mask == "bool" else {}
    zeros = {"zeros": True} if types.zeros else {}
    band = {"band": [types.band.first, types.band.last]} if types.band else {}
    attributes = {ANCHOR: encode("attention", {**asdict(spec), **chosen, **zeros, **band}), WHOLE: True}
    return made.without_attr("global_symbol").with_attrs(attributes)


def described(func: PrimFunc) -> tuple[AttentionSpec, AttentionTypes] | None:
    """What an attention that `attention` made computes; None for any other function."""
    operator, fields = decode(str(func.attrs[ANCHOR])) if func.attrs and ANCHOR in func.attrs else ("", {})
    if operator != "attention":
        return None
    fill, zeros = float(fields.pop("fill", -math.inf)), bool(fields.pop("zeros", False))
    band = fields.pop("band", None)
    spec = AttentionSpec.of_fields(fields)
    given = [str(param.ty.dtype.dtype) for param in func.params]
    mask = given[3] if spec.mask else "float32"
    seen = Band(*band) if band else None
    return spec, AttentionTypes(given[0], given[-1], mask, fill, zeros, seen)
