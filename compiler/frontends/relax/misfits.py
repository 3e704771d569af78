"""Branches that no run can take: ONNX Runtime fails in them for every input of these shapes.

A model whose rate chooses one of two nets, for example, has one that does not fit the length of the input.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgec.compiler.frontends.onnx.graphs import free_names
from edgec.compiler.frontends.onnx.ort_session import ORT_ERRORS, objection, open_session, reason
from edgec.compiler.frontends.relax.builder import Array, Expr
from edgec.compiler.frontends.relax.converters.registry import dtype_of, is_constant, shape_of, value_of
from edgec.compiler.frontends.relax.dims import is_static
from edgec.compiler.frontends.relax.lists import NO_TENSOR


def why_it_fails(graph: GraphProto, outer: Mapping[str, Expr], model: ModelProto) -> str | None:
    """Why a branch fails for any values around it; None where it runs, or where that cannot be told.

    Args:
        graph: the branch.
        outer: the values around it.
        model: the model that it is part of.
    """
    holder = helper.make_node("If", [""], [value.name for value in graph.output], then_branch=graph)
    stored: list[TensorProto] = []
    inputs: list[ValueInfoProto] = []
    arrays: dict[str, Array] = {}
    for name in sorted(free_names(holder)):
        value = outer.get(name)
        if value is None or isinstance(value, NO_TENSOR) or not is_static(value):
            return None
        if is_constant(value):
            stored.append(numpy_helper.from_array(value_of(value), name))
            continue
        arrays[name] = np.ones(shape_of(value), dtype_of(value))
        kind = helper.np_dtype_to_tensor_dtype(arrays[name].dtype)
        inputs.append(helper.make_tensor_value_info(name, kind, arrays[name].shape))
    alone = helper.make_graph(
        list(graph.node), "branch", inputs, list(graph.output), [*graph.initializer, *stored]
    )
    whole = helper.make_model(alone, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    why = objection(whole.SerializeToString())
    if why is not None:
        for value in whole.graph.input:
            value.type.tensor_type.ClearField("shape")
        # accepted without the shapes, it is these that do not fit
        return why if objection(whole.SerializeToString()) is None else None
    try:
        open_session(whole.SerializeToString()).run(None, arrays)
    except ORT_ERRORS as error:
        return reason(error)
    return None
