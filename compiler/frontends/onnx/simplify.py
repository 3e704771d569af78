"""Turn an ONNX model into a simpler one that computes the same: recent opset, constants folded, no redundant nodes.

The work is done by tools that follow the standard: `onnx.version_converter` lifts old opsets, and ONNX
Runtime's basic optimisations fold constants and shape arithmetic, drop Identity and Cast chains and merge
batch norms into convolutions, all with operators of the standard. Both keep the names of values that survive,
and by those names every node is traced back to the source model.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto

from edgec.compiler.frontends.onnx.equivalence import computes_alike
from edgec.compiler.frontends.onnx.opsets import lift_opset
from edgec.compiler.frontends.onnx.ort_session import fold


def simplify(model: ModelProto, sizes: Mapping[str, int] | None = None) -> ModelProto:
    """The simplest form of `model` for which ONNX Runtime computes the same; `model` itself if there is none.

    The operator-set converter has been seen to change a model's results, so each step is tested, with `sizes` for the
    symbolic ones of the inputs.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    for candidate in (lift_opset(copy), model):
        folded = fold(candidate)
        if folded is not None and any(
            "_inlfunc_" in name for node in folded.graph.node for name in node.output
        ):
            folded = fold(folded)  # ONNX Runtime writes out functions after it has folded
        if folded is not None and computes_alike(folded, model, sizes):
            return folded
    return model
