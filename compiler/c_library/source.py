"""The header and the source of one model's C library."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import tvm

import edgec.runtime as rt
from edgec.compiler.c_library.names import identifier, in_comment, macro_parts, quoted
from edgec.compiler.c_library.table import node_names
from edgec.compiler.c_library.toolchain import sources
from edgec.compiler.lowered import Operand, Plan, Program
from edgec.runtime.snapshot import header_of

# In the order of the header's enumeration, by numpy's names.
DTYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "bfloat16", "float32",
    "float64",
)  # fmt: skip
_DLPACK = {"int": 0, "uint": 1, "float": 2, "bfloat": 4, "bool": 6}
_ALIGNMENT, _INSTANCE, _WORKER = 64, 512, 64  # as model_api.c asserts
_STACK_OF_RUN = (
    12288  # of what surrounds a kernel, of C's mathematical functions, and to write the text of an error
)
_PLACES = {"input": "INPUT", "weight": "WEIGHT", "arena": "ARENA", "result": "RESULT"}
_SNAPSHOT_HEAD = 8 + 32 + 8


@dataclass(frozen=True)
class CModel:
    """What the C library of a model is made of.

    Attributes:
        config: the artifact's config.
        plan: its memory and calls.
        weights: the blob of weights, in pieces.
        offsets: bytes from the blob's start to each array, by name.
        linked: whether the weights are part of the library.
    """

    config: rt.ArtifactConfig
    plan: Plan
    weights: Sequence[bytes | memoryview]
    offsets: Mapping[str, int]
    linked: bool

    @property
    def name(self) -> str:
        """The prefix of its functions."""
        return identifier(self.config.name)

    @property
    def program(self) -> Program:
        """Its calls."""
        assert self.plan.program is not None
        return self.plan.program

    @property
    def weights_bytes(self) -> int:
        """The size of the blob of weights."""
        return sum(map(len, self.weights))

    def weights_digest(self) -> bytes:
        """SHA-256 of the blob of weights."""
        digest = hashlib.sha256()
        for piece in self.weights:
            digest.update(piece)
        return digest.digest()

    def result_bytes(self) -> list[int]:
        """The size of each result."""
        sizes: dict[int, int] = {}
        for operand in self.program.operands:
            if operand.kind == "result":
                sizes[operand.number] = max(sizes.get(operand.number, 0), operand_bytes(operand))
        return [sizes[number] for number in range(len(sizes))]

    def memory(self) -> tuple[int, int]:
        """The most bytes of an instance: fixed, and for each thread. As `lay_out` of engine.c cuts them."""
        program, config = self.program, self.config
        states = {state.input for state in config.states}
        arguments = sum(len(operands) for _, operands in program.calls)
        results = self.result_bytes()
        parts = [
            _INSTANCE,
            48 * len(program.operands),
            16 * arguments,
            4 * len(program.operands),
            *[8 * len(config.inputs)] * 2,
            *[8 * len(results)] * 2,
            *[8 * len(states)] * 2,
            *(0 if spec.name in states else _bytes(spec.shape, spec.dtype) for spec in config.inputs),
            *results,
            *(_bytes(state.shape, state.dtype) for state in config.states for _ in range(2)),
            self.plan.bytes,
            _ALIGNMENT,  # workers and members of the pool round up
            _ALIGNMENT,
        ]
        return sum(map(_rounded, parts)), _WORKER + _rounded(program.workspace)

    @property
    def stack(self) -> int:
        """The most bytes of stack of a thread."""
        return self.program.stack + _STACK_OF_RUN

    def snapshot_bytes(self) -> int:
        """The size of a snapshot of its state; 0 without state."""
        values = sum(_bytes(state.shape, state.dtype) for state in self.config.states)
        return _SNAPSHOT_HEAD + len(header_of(self.config)) + values if self.config.states else 0


def operand_bytes(operand: Operand) -> int:
    """The size of an operand."""
    return _bytes(operand.shape, operand.dtype)


def _bytes(shape: Iterable[int], dtype: str) -> int:
    return math.prod(shape) * max(8, int(tvm.DataType(dtype).bits)) // 8


def _rounded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def header(model: CModel) -> str:
    """The text of `NAME.h`."""
    config, name = model.config, model.name
    fixed, each = model.memory()
    shown = config.visible()
    lines, macros = [], []
    for kind, specs in (("INPUT", shown.inputs), ("OUTPUT", shown.outputs)):
        for number, (spec, part) in enumerate(zip(specs, macro_parts([s.name for s in specs]), strict=True)):
            sizes = ", ".join(map(str, spec.shape))
            lines.append(f" *   {kind.lower()} {number}: {in_comment(spec.name)} {spec.dtype}[{sizes}]")
            macros.append(f"#define {name.upper()}_{kind}_{part} {number}")
            macros.append(f"#define {name.upper()}_{kind}_{part}_BYTES {_bytes(spec.shape, spec.dtype)}u")
    lines += [f" *   state: {in_comment(str(state))}" for state in config.states]
    features = ", ".join(config.required_features) or "no particular features"
    values = {
        "name": name,
        "NAME": name.upper(),
        "title": in_comment(f"{config.name} {config.version} as a C library, for {config.target}."),
        "about": in_comment(f"It needs {config.arch} with {features}."),
        "fixed": fixed,
        "each": each,
        "arena": model.plan.bytes,
        "weights": model.weights_bytes,
        "stack": model.stack,
        "snapshot": model.snapshot_bytes(),
        "layers": len(model.program.calls),
        "inputs": len(shown.inputs),
        "outputs": len(shown.outputs),
        "ports": "\n".join(lines),
        "port_macros": "\n".join(macros),
        "zeros": "" if model.linked else ", beside weights_path",
        "weights_path": (
            "unused: the weights are in the library"
            if model.linked
            else f"the file {name}.weights, which is mapped once"
        ),
    }
    text = (sources() / "model.h.in").read_text()
    return re.sub(r"@([A-Za-z_]+)@", lambda found: str(values[found[1]]), text)


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
    features = sorted(config.required_features)
    what = f"{config.name} {config.version} for {config.target}"
    parts = [
        '#include "engine.h"',
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
        _description(model, what),
        f"#define NAME {model.name}",
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
        "arena": model.plan.bytes,
        "workspace": program.workspace,
        "stack": model.stack,
        "snapshot": quoted(header_of(config).decode()),
        "runner": "NULL",
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
    names = node_names(model.plan, model.config)
    for (symbol, operands), nodes in zip(model.program.calls, names, strict=True):
        rows.append(f"{{__tvm_ffi_{symbol}, {quoted(symbol)}, {quoted(nodes)}, {first}, {len(operands)}}}")
        first += len(operands)
    return rows


def _ports(kind: str, specs: Sequence[rt.TensorSpec], states: Mapping[str, int]) -> list[str]:
    rows, outside, sizes = [], 0, list[int]()
    for spec in specs:
        state = states.get(spec.name)
        rows.append(
            f"{{{{{quoted(spec.name)}, {DTYPES.index(spec.dtype)}, {len(spec.shape)}, {kind}_sizes + {len(sizes)}, "
            f"{_bytes(spec.shape, spec.dtype)}}}, {'NOWHERE' if state is None else state}, "
            f"{outside if state is None else 'NOWHERE'}, NULL}}"
        )
        outside += state is None
        sizes += spec.shape
    return [_array("int64_t", f"{kind}_sizes", sizes), _array("struct port", kind, rows)]


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
