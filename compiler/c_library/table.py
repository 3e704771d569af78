"""The table of a model's calls as the artifact stores it, for `libedgec`.

JSON: `arena`, `workspace` and `stack` in bytes; `operands` as `[kind, number, offset, dtype, shape]`; `calls` as
`[symbol, operands, nodes of the source model]`; `outputs` as indices of operands; `unaligned`, whether kernels read
inputs on any boundary of their elements (otherwise on one of 64 bytes); and `snapshot`, the header of a snapshot of the
model's state, so that one made in C can be restored in Python and the other way round. A model with branches, loops or
sizes known only at run time has `machine` (`machine.py`) in place of `outputs`: its `operands` are the main function's
parameters, and its `calls` the kernels.
"""

from __future__ import annotations

from typing import Any

import edgec.runtime as rt
from edgec.compiler.c_library.machine import NotRunnable, machine_of
from edgec.compiler.lowered import Lowered, Operand, Plan, Program
from edgec.runtime.artifact.oci import canonical_json
from edgec.runtime.snapshot import header_of


def table_of(plan: Plan | None, config: rt.ArtifactConfig) -> dict[str, Any] | None:
    """The table of one set of input shapes, which `config` describes; None for a model that needs more than a table."""
    if plan is None or plan.program is None or config.segments or config.device_kind != "cpu":
        return None
    program = plan.program
    return {
        "arena": plan.bytes,
        "workspace": program.workspace,
        "stack": program.stack,
        "operands": [[o.kind, o.number, o.offset, o.dtype, list(o.shape)] for o in program.operands],
        "calls": [
            [symbol, list(operands), nodes]
            for (symbol, operands), nodes in zip(program.calls, node_names(plan, config), strict=True)
        ],
        "outputs": list(program.outputs),
        "unaligned": program.unaligned,
        "snapshot": header_of(config).decode(),
    }


def table_bytes(plan: Plan | None, config: rt.ArtifactConfig) -> bytes | None:
    """`table_of` as the artifact's layer."""
    table = table_of(plan, config)
    return None if table is None else canonical_json(table)


def varying_bytes(lowered: Lowered, config: rt.ArtifactConfig) -> bytes | None:
    """The table of a model with branches, loops or sizes known only at run time; None for what libedgec cannot run."""
    if config.segments or config.device_kind != "cpu" or config.calls:
        return None
    try:
        program, machine = varying_program(lowered, config)
    except NotRunnable:
        return None
    table = {
        "arena": lowered.activation_bytes,
        "workspace": program.workspace,
        "stack": program.stack,
        "operands": [[o.kind, o.number, o.offset, o.dtype, list(o.shape)] for o in program.operands],
        "calls": [
            [symbol, [], nodes]
            for (symbol, _), nodes in zip(program.calls, kernel_nodes(program, config), strict=True)
        ],
        "machine": machine,
        "snapshot": header_of(config).decode(),
    }
    return canonical_json(table)


def varying_program(lowered: Lowered, config: rt.ArtifactConfig) -> tuple[Program, dict[str, Any]]:
    """The parameters and kernels of a model with branches, loops or sizes known only at run time, and its instructions.

    Returns:
        the parameters of `main` as operands, the kernels as calls without arguments, no outputs; and `machine` as
        `machine_of` gives it.

    Raises:
        NotRunnable: it needs an operation that libedgec lacks.
    """
    found = machine_of(lowered.code)
    places = lowered.plan.tensors if lowered.plan else ()
    operands = (
        *(Operand("input", number, 0, spec.shape, spec.dtype) for number, spec in enumerate(config.inputs)),
        *(
            Operand("weight", number, 0, array.shape, array.dtype.name)
            for number, array in enumerate(lowered.weights.values())
        ),
        *(Operand("arena", 0, place.offset, place.shape, place.dtype) for place in places),
    )
    calls = tuple((symbol, ()) for symbol in found["symbols"])
    return Program(operands, calls, (), lowered.workspace, lowered.stack), found["machine"]


def kernel_nodes(program: Program, config: rt.ArtifactConfig) -> list[str]:
    """The source model's nodes that each kernel computes, whatever calls it."""
    kernels = config.kernels
    return [", ".join(kernels[symbol].nodes) if symbol in kernels else "" for symbol, _ in program.calls]


def node_names(plan: Plan, config: rt.ArtifactConfig) -> list[str]:
    """The source model's nodes that each call computes."""
    assert plan.program is not None
    seen: dict[str, int] = {}
    names = []
    for symbol, _ in plan.program.calls:
        number = seen.get(symbol, 0)
        seen[symbol] = number + 1
        calls = config.kernels[symbol].calls if symbol in config.kernels else ()
        names.append(", ".join(calls[number]) if number < len(calls) else "")
    return names
