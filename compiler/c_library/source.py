"""The source of one model's C library: its tables as constants, around `model_api.c`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tvm

import edgec.runtime as rt
from edgec.compiler.c_library.model import CModel, array_bytes, operand_bytes
from edgec.compiler.c_library.names import quoted
from edgec.compiler.lowered import Program
from edgec.runtime.snapshot import header_of

# In the order of the header's enumeration, by numpy's names.
DTYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "bfloat16", "float32",
    "float64",
)  # fmt: skip
_DLPACK = {"int": 0, "uint": 1, "float": 2, "bfloat": 4, "bool": 6}
_PLACES = {"input": "INPUT", "weight": "WEIGHT", "arena": "ARENA", "result": "RESULT"}


def source(model: CModel) -> str:
    """The text of the generated C source."""
    config, program = model.config, model.program
    sizes, rows = _operands(program)
    symbols = sorted({symbol for symbol, _ in program.calls})
    kernels = [
        f"int __tvm_ffi_{symbol}(void *, const struct ffi_value *, int32_t, struct ffi_value *);"
        for symbol in symbols
    ]
    arguments = [index for _, operands in program.calls for index in operands]
    varies = model.machine is not None
    features = sorted(config.required_features)
    what = f"{config.name} {config.version} for {config.target}"
    parts = [
        '#include "machine_code.h"' if varies else '#include "engine.h"',
        *kernels,
        _array("int64_t", "sizes", sizes),
        _array("struct operand", "operands", rows),
        _array("uint32_t", "arguments", arguments),
        _array("struct call", "calls", _calls(model)),
        *_ports("inputs", config.inputs, {state.input: n for n, state in enumerate(config.states)}),
        *_ports("outputs", config.outputs, {state.output: n for n, state in enumerate(config.states)}),
        _array("struct state", "states", _states(model)),
        _array("uint32_t", "output_operands", program.outputs),
        _array("uint64_t", "result_bytes", model.result_bytes()),
        _array("uint64_t", "weights", [model.offsets[weight] for weight in config.weights]),
        _array("char *const", "features", map(quoted, features)),
        f"extern const uint8_t {model.name}_weights_blob[];" if _links(model) else "",
        *([] if model.machine is None else _machine(model.machine)),
        _description(model, what),
        f"#define NAME {model.name}",
        "#define VARIES" if varies else "",
        '#include "model_api.c"',
    ]
    return "\n".join(parts) + "\n"


def _links(model: CModel) -> bool:
    return model.linked and model.weights_bytes > 0


def _description(model: CModel, what: str) -> str:
    config, program = model.config, model.program
    shown = config.visible()
    fields = {
        "name": quoted(config.name),
        "version": quoted(config.version),
        "target": quoted(config.target),
        "operands": len(program.operands),
        "calls": len(program.calls),
        "inputs": len(config.inputs),
        "outputs": len(config.outputs),
        "outside_inputs": len(shown.inputs),
        "outside_outputs": len(shown.outputs),
        "results": len(model.result_bytes()),
        "states": len(config.states),
        "operand": "operands",
        "call": "calls",
        "argument": "arguments",
        "output_operand": "output_operands",
        "size": "sizes",
        "input": "inputs",
        "output": "outputs",
        "state": "states",
        "result_bytes": "result_bytes",
        "weight": "weights",
        "arena": model.arena,
        "workspace": program.workspace,
        "stack": model.stack,
        "snapshot": quoted(header_of(config).decode()),
        "runner": "NULL" if model.machine is None else "&machine.runner",
    }
    inner = ", ".join(f".{key} = {value}" for key, value in fields.items())
    digest = ", ".join(map(str, model.weights_digest()))
    return (
        "static const struct {\n  struct program program;\n  const char *what, *arch, *const *features;\n"
        "  int feature_count;\n  const void *linked;\n  size_t weights_bytes;\n  uint8_t weights_digest[32];\n} "
        "model = {"
        f"{{{inner}}}, {quoted(what)}, {quoted(config.arch)}, features, {len(config.required_features)}, "
        f"{f'{model.name}_weights_blob' if _links(model) else 'NULL'}, {model.weights_bytes}, {{{digest}}}}};"
    )


def _operands(program: Program) -> tuple[list[int], list[str]]:
    """All sizes, and an initialiser for each operand."""
    sizes: list[int] = []
    rows = []
    for operand in program.operands:
        kind = tvm.DataType(operand.dtype)
        code = _DLPACK[operand.dtype.rstrip("0123456789")]
        rows.append(
            f"{{{_PLACES[operand.kind]}, {code}, {8 if operand.dtype == 'bool' else int(kind.bits)}, "
            f"{len(operand.shape)}, {operand.number}, {len(sizes)}, {operand.offset}, {operand_bytes(operand)}}}"
        )
        sizes += operand.shape
    return sizes, rows


def _calls(model: CModel) -> list[str]:
    rows, first = [], 0
    for (symbol, operands), nodes in zip(model.program.calls, model.nodes, strict=True):
        rows.append(f"{{__tvm_ffi_{symbol}, {quoted(symbol)}, {quoted(nodes)}, {first}, {len(operands)}}}")
        first += len(operands)
    return rows


def _ports(kind: str, specs: Sequence[rt.TensorSpec], states: Mapping[str, int]) -> list[str]:
    rows, outside, sizes, most = [], 0, list[int](), list[int]()
    for spec in specs:
        largest = f"{kind}_most + {len(sizes)}" if spec.bounds else "NULL"
        state = states.get(spec.name)
        rows.append(
            f"{{{{{quoted(spec.name)}, {DTYPES.index(spec.dtype)}, {len(spec.shape)}, {kind}_sizes + {len(sizes)}, "
            f"{array_bytes(spec.shape, spec.dtype)}}}, {'NOWHERE' if state is None else state}, "
            f"{outside if state is None else 'NOWHERE'}, {largest}}}"
        )
        outside += state is None
        sizes += spec.shape
        most += [high for _, high in spec.bounds] or spec.shape
    arrays = {"sizes": sizes, "most": most} if any(spec.bounds for spec in specs) else {"sizes": sizes}
    made = [_array("int64_t", f"{kind}_{name}", values) for name, values in arrays.items()]
    return [*made, _array("struct port", kind, rows)]


def _machine(machine: Mapping[str, Any]) -> list[str]:
    """The instructions as constant arrays of `machine_code.h`."""
    arguments, instructions, functions = list[int](), list[str](), list[str]()
    for registers, inputs, body in machine["functions"]:
        functions.append(f"{{{registers}, {inputs}, {len(instructions)}, {len(body)}}}")
        for operation, result, *values in body:
            instructions.append(f"{{{operation}, {result}, {len(arguments)}, {len(values)}}}")
            arguments += values
    sizes, shapes = list[int](), list[str]()
    for shape in machine["constants"]:
        shapes.append(f"{{{len(sizes)}, {len(shape)}}}")
        sizes += shape
    return [
        _array("struct function", "machine_functions", functions),
        _array("struct instruction", "machine_instructions", instructions),
        _array("int64_t", "machine_arguments", arguments),
        _array("int64_t", "machine_sizes", sizes),
        _array("struct constant", "machine_constants", shapes),
        "static const struct machine_code machine = {MACHINE_RUNNER, machine_functions, machine_instructions, "
        f"machine_arguments, machine_sizes, machine_constants, {len(functions)}, {len(shapes)}, {machine['main']}}};",
    ]


def _states(model: CModel) -> list[str]:
    inputs = [spec.name for spec in model.config.inputs]
    outputs = [spec.name for spec in model.config.outputs]
    return [
        f"{{{inputs.index(state.input)}, {outputs.index(state.output)}, "
        f"{'NOWHERE' if state.initial is None else model.offsets[state.initial]}}}"
        for state in model.config.states
    ]


def _array(kind: str, name: str, items: Iterable[object]) -> str:
    """A constant array; C has none without elements, so an empty one gets a zero."""
    joined = ",\n  ".join(map(str, items)) or ("{0}" if kind.startswith("struct") else "0")
    return f"static const {kind} {name}[] = {{\n  {joined}}};"
