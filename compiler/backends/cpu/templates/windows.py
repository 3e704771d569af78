"""Where a sliding window reads inside its image."""

from __future__ import annotations

from tvm import tirx

from edgec.compiler.backends.cpu.specs import Window
from edgec.compiler.backends.cpu.templates.loop_nests import Expr, const


def row_bounds(w: Window, height: int, top: Expr) -> tuple[Expr | int, Expr | int]:
    """First row of a window from row `top` on that lies inside an image of `height` rows, and how many do.

    Both are constants where no position of the window reaches beyond the image.
    """
    highest = (w.out[0] - 1) * w.stride[0] - w.pad[0] + (w.kernel[0] - 1) * w.dilation[0]
    if w.pad[0] <= 0 and highest < height:
        return 0, w.kernel[0]
    dilation, rows = const(w.dilation[0]), const(w.kernel[0])
    low: Expr = const(0)
    if w.pad[0] > 0:
        low = tirx.min(tirx.max(tirx.indexdiv(const(w.dilation[0] - 1) - top, dilation), const(0)), rows)
    end = tirx.min(rows, tirx.indexdiv(const(height - 1 + w.dilation[0]) - top, dilation))
    return low, tirx.max(end - low, const(0))
