"""Rows and columns of zeros in front of a convolution become padding of its own.

Requires: static shapes.
Ensures: a convolution of floating-point images, in whose weights every number is finite, reads the image that a
constant padding with zeros enlarged, and pads by as much; also where the padding stands before the transpose from
channels-last, as in models of Keras. What else reads the padded image keeps it.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call

from edgec.compiler.graph.rewrite import Expr, Walker, array_of, dtype_of, op_name, shape_of

TO_NCHW = (0, 3, 1, 2)


def fold_image_padding(mod: tvm.IRModule) -> tvm.IRModule:
    """Apply the pass (see the module's docstring)."""
    return _Padding(mod).run()


class _Padding(Walker):
    def __init__(self, mod: tvm.IRModule, entry: str = "main") -> None:
        super().__init__(mod, entry)
        self.calls: dict[Expr, Call] = {}  # paddings and transposes, by their new variable

    def bind(self, var: relax.Var, value: Expr) -> None:
        """Give the old variable `var` its new value."""
        super().bind(var, value)
        if op_name(value) in ("nn.pad", "permute_dims") and isinstance(self.renamed[var], relax.Var):
            self.calls[self.renamed[var]] = value

    def visit(self, var: relax.Var, call: Call) -> Expr:
        """The replacement of `call`."""
        if op_name(call) != "nn.conv2d" or not _is_plain(call):
            return call
        found = self._unpadded(call.args[0])
        if found is None:
            return call
        source, around = found
        attrs = call.attrs
        own = [int(width) for width in attrs.padding]
        return relax.op.nn.conv2d(
            source,
            call.args[1],
            strides=list(attrs.strides),
            padding=[a + b for a, b in zip(own, around, strict=True)],
            dilation=list(attrs.dilation),
            groups=int(attrs.groups),
            out_dtype=attrs.out_dtype,
        )

    def _unpadded(self, image: Expr) -> tuple[Expr, list[int]] | None:
        """The image before its padding, in NCHW, and the padding at the top, the left, the bottom and the right."""
        made = self.calls.get(image)
        if made is None:
            return None
        if op_name(made) == "nn.pad":
            around = _zeros_around(made, 2)
            return None if around is None else (made.args[0], around)
        pad = self.calls.get(made.args[0])
        turned = made.attrs.axes is not None and tuple(int(axis) for axis in made.attrs.axes) == TO_NCHW
        if not turned or pad is None or op_name(pad) != "nn.pad" or (around := _zeros_around(pad, 1)) is None:
            return None
        return self.emit(relax.op.permute_dims(pad.args[0], list(TO_NCHW))), around


def _is_plain(call: Call) -> bool:
    attrs, weight = call.attrs, array_of(call.args[1])
    layout = attrs.data_layout == attrs.out_layout == "NCHW" and attrs.kernel_layout == "OIHW"
    return bool(
        layout
        and weight is not None
        and dtype_of(call).startswith("float")
        and dtype_of(call.args[0]).startswith("float")
        and np.isfinite(weight).all()
    )


def _zeros_around(pad: Call, height: int) -> list[int] | None:
    """Rows and columns that a padding adds; None for one of another kind. `height` is the axis of the rows."""
    widths = [int(width) for width in pad.attrs.pad_width]
    if len(shape_of(pad)) != 4 or pad.attrs.pad_mode != "constant" or float(pad.attrs.pad_value) != 0:
        return None
    before, after = widths[::2], widths[1::2]
    others = [axis for axis in range(4) if axis not in (height, height + 1)]
    if min(widths) < 0 or any(before[axis] or after[axis] for axis in others):
        return None
    return [before[height], before[height + 1], after[height], after[height + 1]]
