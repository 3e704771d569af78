"""Convolutions of symbolic sizes become kernels that have a template.

Requires: an importer's function, in which results of symbolic size are given names by match casts.
Ensures: a convolution with constant float32 weights whose channels are known is a `call_tir` of
`templates.free_convolution`, with sizes that are names; all other bindings are as they were.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir import Call

from edgec.compiler.backends.cpu.templates.free_convolution import (
    FreeConvSpec,
    filters_at_once,
    free_convolution,
)
from edgec.compiler.graph.rewrite import Array, Expr, Walker, array_of, constant, dtype_of, op_name
from edgec.targets.target import Target

AXES = {"nn.conv1d": (1, "NCW", "OIW"), "nn.conv2d": (2, "NCHW", "OIHW")}


def name_free_convolutions(mod: tvm.IRModule, target: Target) -> tvm.IRModule:
    """Apply the pass (see the module's docstring)."""
    return _Rewriter(mod, target).run()


class _Rewriter(Walker):
    def __init__(self, mod: tvm.IRModule, target: Target) -> None:
        super().__init__(mod)
        self.target = target
        self.later: list[tuple[Expr, relax.MatchCast]] = []  # formulas, and where they are named
        self.done: set[relax.Var] = set()

    def begin(self, function: relax.Function) -> None:
        """Find the names that the function gives to formulas."""
        copies: dict[relax.Var, relax.VarBinding] = {}
        for block in function.body.blocks:
            for binding in block.bindings:
                if not isinstance(binding, relax.MatchCast):
                    if op_name(binding.value) == "call_pure_packed":
                        copies[binding.var] = binding
                    continue
                source = copies.get(binding.value) if isinstance(binding.value, relax.Var) else None
                formula = _copied_size(source.value) if source is not None else None
                if formula is not None and isinstance(binding.ty, relax.ShapeType):
                    self.later.append((formula, binding))

    def match(self, binding: relax.MatchCast, value: Expr) -> None:
        """A cast to sizes that the value has already, or that were named further up, is none."""
        if binding.var in self.done:
            return
        self.done.add(binding.var)
        if _same_type(value.ty, binding.ty):
            self.renamed[binding.var] = value
            return
        super().match(binding, value)

    def visit(self, var: relax.Var, call: Call) -> Expr:
        """A convolution as a call of its kernel."""
        found = AXES.get(op_name(call))
        if found is None:
            return _inferred(call)
        spec, weights = _spec_of(call, found, self.target)
        if spec is None or weights is None:
            return call
        data = call.args[0]
        shape, result = list(data.ty.shape.values), [self._name(dim) for dim in var.ty.shape.values]
        if any(size is None for size in result) or not all(map(_is_plain, shape)):
            return call
        own: dict[Expr, Expr] = {}

        def fresh(size: Expr) -> Expr:
            if isinstance(size, tirx.IntImm):
                return size
            if size not in own:
                own[size] = tirx.Var(str(size.name), "int64")
            return own[size]

        kernel = free_convolution(spec, [fresh(s) for s in shape], [fresh(cast(Expr, s)) for s in result])
        gv = self.builder.add_func(kernel, "convolution")
        kind = relax.TensorType(result, "float32")
        return relax.call_tir(gv, [data, constant(weights)], kind)

    def _name(self, size: Expr) -> Expr | None:
        """The name of a size, given here if it would come later; None where it has none."""
        if _is_plain(size):
            return size
        analyzer = tvm.sym.Analyzer()
        for formula, binding in self.later:
            if not analyzer.can_prove_equal(formula, size):
                continue
            (name,) = binding.ty.values
            if binding.var not in self.done:
                self.done.add(binding.var)
                shape = relax.op.call_pure_packed(
                    "vm.builtin.copy", relax.ShapeExpr([formula]), ty_args=relax.ShapeType(ndim=1)
                )
                cast_to = self.builder.match_cast(self.emit(shape), binding.ty, self.name)
                self.renamed[binding.var] = cast_to
            return cast(Expr, name)
        return None


def _inferred(call: Call) -> Expr:
    """The call with the shape that its arguments give it: their sizes may be names by now."""
    if not isinstance(call.op, tvm.ir.Op) or op_name(call).startswith("call_"):
        return call
    return Call(call.op, list(call.args), attrs=call.attrs, ty_args=list(call.ty_args))


def _is_plain(size: Expr) -> bool:
    return isinstance(size, tirx.IntImm | tirx.Var)


def _copied_size(value: Expr) -> Expr | None:
    """The formula in a call that only names it."""
    if str(getattr(value.args[0], "global_symbol", "")) != "vm.builtin.copy":
        return None
    sizes = list(value.args[1].values) if isinstance(value.args[1], relax.ShapeExpr) else []
    return sizes[0] if len(sizes) == 1 else None


def _same_type(one: Expr, other: Expr) -> bool:
    return isinstance(one, relax.TensorType) and bool(tvm_ffi.structural_equal(one, other))


def _spec_of(
    call: Call, found: tuple[int, str, str], target: Target
) -> tuple[FreeConvSpec | None, Array | None]:
    axes, layout, kernel_layout = found
    data, attrs = call.args[0], call.attrs
    weights = array_of(call.args[1])
    shape = getattr(data.ty, "shape", None)
    if weights is None or weights.dtype != np.float32 or not isinstance(shape, relax.ShapeExpr):
        return None, None
    if all(isinstance(size, tirx.IntImm) for size in shape.values):
        return None, None
    if dtype_of(data) != "float32" or (attrs.data_layout, attrs.kernel_layout) != (layout, kernel_layout):
        return None, None

    def both(values: Expr, filler: int) -> tuple[int, int]:
        own = [int(v) for v in values]
        return (own[0], own[1]) if axes == 2 else (filler, own[0])

    groups, filters = int(attrs.groups), weights.shape[0]
    kernel = both(weights.shape[2:], 1)
    tile = filters_at_once(filters // groups, target)
    spec = FreeConvSpec(
        channels=weights.shape[1] * groups, filters=filters, groups=groups, kernel=kernel,
        strides=both(attrs.strides, 1), dilations=both(attrs.dilation, 1),
        pads=both(list(attrs.padding)[:axes], 0), axes=axes, tile=tile,
    )  # fmt: skip
    return spec, _packed(weights, spec)


def _packed(weights: Array, spec: FreeConvSpec) -> Array:
    taps = spec.kernel[0] * spec.kernel[1]
    apart = weights.reshape(spec.groups, spec.width, spec.depth, taps)
    fill = spec.tiles * spec.tile - spec.width
    apart = np.pad(apart, ((0, 0), (0, fill), (0, 0), (0, 0)))
    tiles = apart.reshape(spec.groups, spec.tiles, spec.tile, spec.depth, taps)
    return np.ascontiguousarray(tiles.transpose(0, 1, 3, 4, 2))
