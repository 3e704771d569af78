"""Matrix products, einsum, recurrent layers, attention, losses."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.compiler.samples.sample import Draw, Sample, family


@family
def matrix_product(draw: Draw) -> Sample:
    m, k, n = draw.many(3, 1, 6)
    head = draw.shape(0, 2, 3)
    kind = draw.pick(("float32", "float32", "float64", "float16", "int32", "int64", "uint32"))
    one = [1 if draw.chance(0.2) else s for s in head[draw.within(0, len(head)) :]]
    left = [k] if draw.chance(0.2) else [*head, m, k]
    right = [k] if draw.chance(0.2) else [*one, k, n]
    special = draw.pick((0.0, 0.03))
    fixed = frozenset({draw.pick((1, 0, 9, 9))})
    return Sample(
        "MatMul",
        (draw.numbers(left, kind, special), draw.numbers(right, kind, special)),
        fixed=fixed,
        opset=13,
    )


@family
def general_product(draw: Draw) -> Sample:
    m, k, n = draw.many(3, 1, 6)
    ta, tb = draw.within(0, 1), draw.within(0, 1)
    kind = draw.pick(("float32", "float32", "float64", "int32"))
    a, b = draw.numbers([k, m] if ta else [m, k], kind), draw.numbers([n, k] if tb else [k, n], kind)
    c = draw.numbers(draw.pick(([], [1], [n], [1, n], [m, 1], [m, n])), kind) if draw.chance(0.7) else None
    whole = kind == "int32"
    attrs = {"transA": ta, "transB": tb, "alpha": 2.0 if whole else 0.5, "beta": 3.0 if whole else 0.3}
    return Sample("Gemm", (a, b, c), attrs, 13, frozenset({draw.pick((1, 9)), draw.pick((2, 9))}))


EQUATIONS = (
    "ij,jk->ik", "ij,jk", "bij,bjk->bik", "...ij,...jk->...ik", "...ij,jk", "ii->i", "ii", "ij->ji", "ij->", "i,j->ij",
    "bij,bkj->bik", "ijk,k->ij", "...i->...", "i...->...i", "ij,ij->i", "bhqd,bhkd->bhqk", "ij,jk,kl->il", "iij->ij",
    "ij,ij->", "bij,j->bi", "nchw,cd->ndhw", "ab...,b->a...", "... i , i ... -> ...", "ii,ij->ij", "aij,ajk->ik",
)  # fmt: skip


@family
def einsum(draw: Draw) -> Sample:
    equation = draw.pick(EQUATIONS)
    sizes = {letter: draw.within(1, 4) for letter in "abcdefhijklmnqw"}
    dots = draw.shape(0, 2, 3)
    kind = draw.pick(("float32", "float32", "float64", "int32"))
    values = []
    for term in equation.replace(" ", "").split("->")[0].split(","):
        before, found, after = term.partition("...")
        shape = [*(sizes[c] for c in before), *(dots if found else []), *(sizes[c] for c in after)]
        values.append(draw.numbers(shape, kind))
    return Sample("Einsum", tuple(values), {"equation": equation}, 12)


ACTIVATIONS = (
    "Sigmoid",
    "Tanh",
    "Relu",
    "HardSigmoid",
    "Softsign",
    "Softplus",
    "Elu",
    "LeakyRelu",
    "Affine",
    "ScaledTanh",
    "ThresholdedRelu",
)


@family
def recurrent(draw: Draw) -> Sample:
    """Without clip and lengths, which the evaluator does not implement."""
    op = draw.pick(("LSTM", "GRU", "RNN"))
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    steps, batch, inputs, hidden = draw.within(1, 5), draw.within(1, 3), draw.within(1, 4), draw.within(1, 9)
    direction = draw.pick(("forward", "reverse", "bidirectional"))
    d = 2 if direction == "bidirectional" else 1
    layout = draw.within(0, 1) if d == 1 else 0

    def small(*shape: int) -> np.ndarray:
        return draw.reals(shape) / np.float32(4)

    x, w, r = (
        draw.reals([steps, batch, inputs]),
        small(d, gates * hidden, inputs),
        small(d, gates * hidden, hidden),
    )
    b = small(d, 2 * gates * hidden) if draw.chance(0.7) else None
    h = small(d, batch, hidden) if draw.chance(0.7) else None
    c = small(d, batch, hidden) if draw.chance(0.7) and op == "LSTM" else None
    p = small(d, 3 * hidden) if draw.chance(0.3) and op == "LSTM" else None
    if layout:
        x = x.transpose(1, 0, 2).copy()
        h, c = (v if v is None else v.transpose(1, 0, 2).copy() for v in (h, c))
    attrs: dict[str, Any] = {"hidden_size": hidden, "direction": direction, "layout": layout}
    if op == "GRU" and draw.chance():
        attrs["linear_before_reset"] = 1
    states = (h, c, p) if op == "LSTM" else (h,)
    fixed = frozenset({1, 2, 3, 7}) if draw.chance(0.7) else frozenset[int]()
    return Sample(
        op,
        (x, w, r, b, None, *states),
        attrs,
        draw.pick((14, 22)),
        fixed,
        3 if op == "LSTM" else 2,
        rtol=1e-4,
    )


@family
def attention(draw: Draw) -> Sample:
    batch, groups, queries, keys, size, width = draw.many(6, 1, 4)
    shared = draw.within(1, 2)
    heads = groups * shared
    q = draw.reals([batch, heads, queries, size])
    k, v = draw.reals([batch, groups, keys, size]), draw.reals([batch, groups, keys, width])
    attrs: dict[str, Any] = {}
    if draw.chance(0.4):
        attrs["is_causal"] = 1
    if draw.chance(0.3):
        attrs["scale"] = 0.3
    if draw.chance(0.3):
        attrs["softcap"] = 2.0
    mask = None
    if draw.chance():
        shape = draw.pick(
            ([queries, keys], [1, 1, queries, keys], [batch, heads, queries, keys], [batch, 1, queries, keys])
        )
        mask = draw.reals(shape) if draw.chance() else draw.rng.random(shape) < 0.7
    if draw.chance(0.3):
        n = {"q_num_heads": heads, "kv_num_heads": groups}
        q, k, v = (t.transpose(0, 2, 1, 3).reshape(batch, t.shape[2], -1).copy() for t in (q, k, v))
        attrs |= n
    return Sample("Attention", (q, k, v, mask), attrs, 23, rtol=1e-4)


@family
def rotary(draw: Draw) -> Sample:
    batch, heads, steps = draw.many(3, 1, 3)
    half = draw.within(1, 3)
    size = 2 * half
    x = draw.reals([batch, heads, steps, size])
    shape = [batch, steps, half]
    attrs: dict[str, Any] = {"interleaved": draw.within(0, 1)}
    inputs: tuple[Any, ...] = (x, draw.reals(shape), draw.reals(shape))
    if draw.chance(0.4):
        most = steps + 2
        inputs = (
            x,
            draw.reals([most, half]),
            draw.reals([most, half]),
            draw.integers([batch, steps], "int64", 0, most - 1),
        )
    if draw.chance(0.3):
        attrs |= {"num_heads": heads}
        inputs = (x.transpose(0, 2, 1, 3).reshape(batch, steps, -1).copy(), *inputs[1:])
    return Sample("RotaryEmbedding", inputs, attrs, 23)


@family
def loss(draw: Draw) -> Sample:
    op = draw.pick(("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"))
    shape = [draw.within(1, 4), draw.within(2, 5), *draw.shape(0, 3, 3)]
    target = draw.integers([shape[0], *shape[2:]], draw.pick(("int32", "int64")), 0, shape[1] - 1)
    attrs: dict[str, Any] = {"reduction": draw.pick(("none", "mean", "sum"))}
    if draw.chance(0.4):
        attrs["ignore_index"] = draw.within(0, shape[1] - 1)
    weights = np.abs(draw.reals([shape[1]])) if draw.chance() else None
    outputs = 2 if op == "SoftmaxCrossEntropyLoss" and draw.chance() else 1
    return Sample(op, (draw.reals(shape), target, weights), attrs, 13, outputs=outputs, rtol=1e-4)


@family
def determinant(draw: Draw) -> Sample:
    n = draw.within(1, 4)
    return Sample("Det", (draw.reals([*draw.shape(0, 2, 3), n, n]),), {}, draw.pick((11, 22)), rtol=1e-3)


@family
def fourier(draw: Draw) -> Sample:
    inverse = draw.within(0, 1)
    onesided = 0 if inverse else draw.within(0, 1)
    axis = draw.within(1, 2)
    shape = [draw.within(1, 2), *draw.many(2, 2, 6), 2 if not onesided and draw.chance() else 1]
    length = np.asarray(draw.within(2, 8), "int64") if draw.chance(0.4) else None
    attrs: dict[str, Any] = {"inverse": inverse, "onesided": onesided}
    if draw.chance():
        return Sample(
            "DFT", (draw.reals(shape), length), attrs | {"axis": axis}, 17, frozenset({1}), rtol=1e-3
        )
    return Sample(
        "DFT", (draw.reals(shape), length, np.asarray(axis, "int64")), attrs, 20, frozenset({1, 2}), rtol=1e-3
    )
