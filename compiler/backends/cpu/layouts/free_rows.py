"""Products of a symbolic number of rows with constant weights become finished kernels.

What connects islands of static shapes has a kernel for each operator and no layouts. A product there reads plain
rows, its weights are packed as those of static products are, and a bias and an activation behind it are part of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from tvm import IRModule, relax, te, tirx, topi
from tvm.ir import Call
from tvm.tirx import IntImm, PrimFunc

from edgec.compiler.backends.cpu import compute
from edgec.compiler.backends.cpu.layouts.packing import pack_dense
from edgec.compiler.backends.cpu.specs import DenseSpec, encode
from edgec.compiler.backends.cpu.templates import free_rows
from edgec.compiler.backends.cpu.templates.epilogue import split_epilogue
from edgec.compiler.graph.anchors import ANCHOR, SCHEDULE
from edgec.compiler.graph.rewrite import Array, Expr, Walker, array_of, constant, dtype_of, op_name
from edgec.targets.target import Target

ACTIVATIONS = {"nn.relu": topi.nn.relu, "sigmoid": topi.sigmoid, "tanh": topi.tanh}


def with_free_rows(mod: IRModule, target: Target, threads: int) -> IRModule:
    """Apply the pass (see the module's docstring) to `main`."""
    return _FreeRows(mod, target, threads).run()


@dataclass(frozen=True)
class Product:
    """A product that operators behind it may join."""

    x: Expr
    weight: Array
    bias: Array | None = None
    activation: str = ""


class _FreeRows(Walker):
    def __init__(self, mod: IRModule, target: Target, threads: int) -> None:
        super().__init__(mod)
        self.target, self.threads = target, threads
        self.products: dict[Expr, Product] = {}
        self.single: set[Expr] = set()

    def bind(self, var: relax.Var, value: Expr) -> None:
        """Remember results that one operator alone reads."""
        super().bind(var, value)
        if self.uses.get(var, 0) == 1:
            self.single.add(self.renamed[var])

    def visit(self, var: relax.Var, call: Call) -> Expr:
        """A product, or an operator that joins the product before it."""
        product = _product(call) if op_name(call) == "matmul" else self._joined(call)
        if product is None:
            return call
        made = self._call(product)
        self.products[made] = product
        return made

    def _joined(self, call: Call) -> Product | None:
        name = op_name(call)
        if name in ACTIVATIONS:
            product = self._before(call.args[0])
            return None if product is None or product.activation else replace(product, activation=name)
        if name != "add":
            return None
        for value, other in (call.args, reversed(call.args)):
            product, bias = self._before(value), array_of(other)
            if product is None or bias is None or product.bias is not None or product.activation:
                continue
            cols = product.weight.shape[1]
            if (
                bias.size in (1, cols)
                and bias.shape[-1:] in ((cols,), (1,), ())
                and bias.ndim <= _rank(product.x)
            ):
                return replace(product, bias=np.broadcast_to(bias.reshape(-1), (cols,)))
        return None

    def _before(self, value: Expr) -> Product | None:
        return self.products.get(value) if value in self.single else None

    def _call(self, product: Product) -> Expr:
        """The kernel of a product, called."""
        inner, cols = product.weight.shape
        spec = DenseSpec(0, inner, cols, self.target.fp32_lanes)
        leading = list(product.x.ty.shape.values)[:-1]
        schedule = free_rows.choose(spec, self.target, self.threads)
        epilogue = split_epilogue(definition(spec, leading, product))
        if epilogue is None:
            raise RuntimeError("the epilogue of a product of free rows maps no elements in place")
        kernel = free_rows.emit(spec, epilogue, schedule, self.target, self.threads)
        kernel = kernel.with_attrs({"tirx.is_scheduled": True, SCHEDULE: f"{schedule} of free rows"})
        given = [product.x, constant(pack_dense(product.weight, spec.lanes))]
        given += [] if product.bias is None else [constant(product.bias)]
        gv = self.builder.add_func(kernel, "matmul")
        return self.emit(
            relax.call_tir(gv, given, relax.TensorType([*leading, IntImm("int64", cols)], spec.dtype))
        )


def _rank(x: Expr) -> int:
    return len(x.ty.shape.values)


def _product(call: Call) -> Product | None:
    """The product of an activation with free rows and a constant matrix; None for others."""
    x, weight = call.args[0], array_of(call.args[1])
    if weight is None or weight.ndim != 2 or not weight.size or dtype_of(call) != "float32":
        return None
    if dtype_of(x) != "float32" or weight.dtype != np.float32 or not isinstance(x.ty.shape, relax.ShapeExpr):
        return None
    *leading, inner = x.ty.shape.values
    known = isinstance(inner, IntImm) and int(inner) == weight.shape[0]
    return Product(x, weight) if known and leading else None


def definition(spec: DenseSpec, leading: list[Expr], product: Product) -> PrimFunc:
    """What the kernel computes, of sizes with names of its own."""
    sizes = [
        IntImm("int64", int(size)) if isinstance(size, IntImm) else tirx.Var(f"n{axis}", "int64")
        for axis, size in enumerate(leading)
    ]
    blocks = -(-spec.cols // spec.lanes)
    x = te.placeholder((*sizes, spec.inner), spec.dtype, "x")
    weight = te.placeholder((blocks, spec.inner, spec.lanes), spec.dtype, "weight")
    bias = te.placeholder((spec.cols,), spec.dtype, "bias")
    k = te.reduce_axis((0, spec.inner), "k")
    shape = (*sizes, spec.cols)

    def body(*at: Expr) -> Expr:
        *row, column = at
        return te.sum(x[*row, k] * weight[column // spec.lanes, k, column % spec.lanes], axis=k)

    out = te.compute(shape, body, name="dense", attrs={ANCHOR: encode(spec)})
    if product.bias is not None:
        out = topi.add(out, bias)
    if product.activation:
        out = ACTIVATIONS[product.activation](out)
    return compute.prim_func([x, weight] if product.bias is None else [x, weight, bias], out)
