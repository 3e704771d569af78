"""The definition of attention in TE: a template implements it faster, and without one it is scheduled as it is."""

from __future__ import annotations

from dataclasses import asdict

from tvm import te, tirx
from tvm.tirx import PrimFunc

from edgec.compiler.graph.anchors import ANCHOR, WHOLE, encode
from edgec.compiler.graph.attention_spec import AttentionSpec


def attention(spec: AttentionSpec) -> PrimFunc:
    """Attention (see `AttentionSpec`); parameters queries, keys, values, the mask if there is one, result."""
    query, key, value = (
        te.placeholder(view.shape, spec.dtype, name)
        for name, view in (("query", spec.query), ("key", spec.key), ("value", spec.value))
    )
    mask = te.placeholder(spec.mask.shape, spec.dtype, "mask") if spec.mask else None
    k, top_key, sum_key, out_key = (
        te.reduce_axis((0, extent), name)
        for extent, name in ((spec.inner, "k"), (spec.keys, "t"), (spec.keys, "s"), (spec.keys, "o"))
    )

    def product(*at: tirx.Expr) -> tirx.Expr:
        *batch, row, column = at
        left, right = query(*spec.query.at([*batch, row, k])), key(*spec.key.at([*batch, column, k]))
        return te.sum(left * right, axis=k)

    def score(*at: tirx.Expr) -> tirx.Expr:
        scaled = products(*at) * tirx.const(spec.scale, spec.dtype)
        return scaled if mask is None or spec.mask is None else scaled + mask(*spec.mask.at(at))

    def result(*place: tirx.Expr) -> tirx.Expr:
        *batch, row, column = (place[spec.order.index(axis)] for axis in range(len(place)))
        share = powers[*batch, row, out_key] / total[*batch, row]
        return te.sum(share * value(*spec.value.at([*batch, out_key, column])), axis=out_key)

    square, lines = (*spec.batch, spec.rows, spec.keys), (*spec.batch, spec.rows)
    products = te.compute(square, product, name="products")
    scores = te.compute(square, score, name="scores")
    top = te.compute(lines, lambda *at: te.max(scores[*at, top_key], axis=top_key), name="top")
    powers = te.compute(square, lambda *at: te.exp(scores(*at) - top(*at[:-1])), name="powers")
    total = te.compute(lines, lambda *at: te.sum(powers[*at, sum_key], axis=sum_key), name="total")
    out = te.compute(spec.out_shape, result, name="attention")
    inputs = [query, key, value] if mask is None else [query, key, value, mask]
    made: PrimFunc = te.create_prim_func([*inputs, out], index_dtype_override="int64")
    attributes = {ANCHOR: encode("attention", asdict(spec)), WHOLE: True}
    return made.without_attr("global_symbol").with_attrs(attributes)
