"""From the planned entry of a module to the steps of a GPU artifact's code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import tvm
from msgspec import structs
from tvm import relax
from tvm.ir import Call, GlobalVar, StringImm, Tuple, TupleGetItem

from edgec.compiler.backends.cuda.lowering import DeviceKernel
from edgec.compiler.errors import KernelUnsupported
from edgec.compiler.graph.memory import plan_memory
from edgec.compiler.graph.rewrite import Expr, dtype_of, is_tensor, leaves, op_name, shape_of
from edgec.compiler.lowered import Plan
from edgec.runtime.gpu.code import ALIGNMENT, Copy, HostCall, Launch, Operand, Step

_FALLBACK = "edgec.fallback."


@dataclass
class GpuProgram:
    """The steps of one run and what they touch.

    Attributes:
        arena_bytes: size of the arena, scratch of kernels included.
        inputs: of the model.
        weights: parameters of `main` behind the inputs.
        outputs: what a run returns.
        steps: in order.
    """

    arena_bytes: int = 0
    inputs: list[Operand] = field(default_factory=list)
    weights: list[Operand] = field(default_factory=list)
    outputs: list[Operand] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)


def planned(mod: tvm.IRModule) -> tuple[tvm.IRModule, Plan]:
    """The module with an entry whose activations are parts of an arena."""
    passes = [
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        relax.transform.StaticPlanBlockMemory(),
    ]
    return plan_memory(tvm.transform.Sequential(passes)(mod))


class ProgramBuilder:
    """Walks the planned entry once."""

    def __init__(self, mod: tvm.IRModule, plan: Plan, kernels: Mapping[str, DeviceKernel]) -> None:
        self._kernels = kernels
        self._entry = mod[plan.entry]
        self._program = GpuProgram(arena_bytes=plan.bytes)
        self._places: dict[Expr, Operand] = {}
        self._allocated: dict[Expr, Expr] = {}  # a result's variable, by each name it goes by
        self._tuples: dict[Expr, Tuple] = {}
        self._calls: dict[str, int] = {}
        self._values: dict[Expr, Expr] = {}
        self._returned: dict[Expr, tuple[Expr, int]] = {}  # what parts on the host return, by part and number
        self._scratch = 0
        params = list(self._entry.params)
        count = len(params) - len(plan.tensors)
        given = int(self._entry.attrs["num_input"]) if "num_input" in self._entry.attrs else count
        for number, param in enumerate(params[:count]):
            place, index = ("input", number) if number < given else ("weight", number - given)
            self._places[param] = _operand(place, index, param)
            (self._program.inputs if place == "input" else self._program.weights).append(self._places[param])
        for param, tensor in zip(params[count:], plan.tensors, strict=True):
            self._places[param] = Operand(
                place="arena", offset=tensor.offset, shape=tensor.shape, dtype=tensor.dtype
            )

    def build(self) -> GpuProgram:
        """The program.

        Raises:
            KernelUnsupported: the entry does something that a GPU's program cannot.
        """
        bindings = [binding for block in self._entry.body.blocks for binding in block.bindings]
        for binding in bindings:
            self._name_results(binding.var, binding.value)
        results = self._results(self._entry.body.body)
        for number, leaf in enumerate(results):
            operand = _operand("output", number, leaf)
            self._program.outputs.append(operand)
            if operand.varies:
                if leaf not in self._returned or leaf in self._places:
                    raise KernelUnsupported(
                        f"the size of result {number + 1} depends on the data, and no part on the host returns it"
                    )
                self._places[leaf] = operand
            if leaf in self._allocated:
                self._places.setdefault(self._allocated[leaf], operand)
        for binding in bindings:
            made = op_name(binding.value) == "builtin.alloc_tensor" or (
                binding.var in self._returned and is_tensor(binding.var)
            )
            if made and binding.var not in self._places:
                self._extend_arena(binding.var)
        for binding in bindings:
            self._step(binding.var, binding.value)
        program = self._program
        for number, leaf in enumerate(results):
            if program.outputs[number].varies:
                continue
            found = self._places[self._allocated.get(leaf, leaf)]
            if (found.place, found.index) != ("output", number):
                program.steps.append(Copy(source=found, target=program.outputs[number]))
        program.arena_bytes = _round(program.arena_bytes) + self._scratch
        return program

    def _extend_arena(self, var: Expr) -> None:
        """A place of its own for a tensor that the memory plan took for a result."""
        begin = _round(self._program.arena_bytes)
        self._places[var] = Operand(place="arena", offset=begin, shape=shape_of(var), dtype=dtype_of(var))
        self._program.arena_bytes = begin + self._places[var].bytes

    def _name_results(self, var: Expr, value: Expr) -> None:
        self._values[var] = value
        if op_name(value) == "builtin.alloc_tensor":
            self._allocated[var] = var
        elif isinstance(value, relax.Var) and value in self._allocated:
            self._allocated[var] = self._allocated[value]
        elif op_name(value) == "reshape" and value.args[0] in self._allocated:
            self._allocated[var] = self._allocated[value.args[0]]
        elif isinstance(value, Tuple):
            self._tuples[var] = value
        elif _on_host(value) and isinstance(var.ty, relax.TensorType):
            self._returned[var] = (var, 0)
        elif isinstance(value, TupleGetItem) and _on_host(self._values.get(value.tuple_value)):
            self._returned[var] = (value.tuple_value, int(value.index))
        elif isinstance(value, TupleGetItem) and value.tuple_value in self._tuples:
            field_ = self._tuples[value.tuple_value].fields[value.index]
            if field_ in self._allocated:
                self._allocated[var] = self._allocated[field_]

    def _results(self, result: Expr) -> list[Expr]:
        """The tensors that a run returns, without the tuples around them."""
        found: list[Expr] = []
        for leaf in leaves(result):
            found += self._results(self._tuples[leaf]) if leaf in self._tuples else [leaf]
        return found

    def _step(self, var: Expr, value: Expr) -> None:
        name = op_name(value)
        if name == "builtin.alloc_tensor":
            return  # has its place
        if isinstance(value, relax.Var):
            self._places[var] = self._places[value]
        elif isinstance(value, TupleGetItem) and value.tuple_value in self._tuples:
            self._places[var] = self._places[self._tuples[value.tuple_value].fields[value.index]]
        elif isinstance(value, TupleGetItem) and var in self._returned:
            return  # the part on the host fills its place
        elif name == "reshape":
            self._places[var] = structs.replace(self._places[value.args[0]], shape=shape_of(var))
        elif name == "call_packed" or _is_packed(value):
            self._host_call(var, value)
        elif isinstance(value, Call) and isinstance(value.op, GlobalVar):
            self._launches(str(value.op.name_hint), [leaf for arg in value.args for leaf in leaves(arg)])
        elif not isinstance(value, Tuple):
            raise KernelUnsupported(f"a GPU's program has no {name or type(value).__name__} between kernels")

    def _launches(self, symbol: str, arguments: Sequence[Expr]) -> None:
        kernel = self._kernels[symbol]
        operands = [self._places[argument] for argument in arguments]
        begin = _round(self._program.arena_bytes)
        at = 0
        for size in kernel.scratch:  # behind the activations; kernels run one after the other and share it
            operands.append(Operand(place="arena", offset=begin + at, shape=(size,), dtype="uint8"))
            at += _round(size)
        self._scratch = max(self._scratch, at)
        call = self._calls.get(symbol, 0)
        self._calls[symbol] = call + 1
        for launch in kernel.launches:
            self._program.steps.append(
                Launch(
                    kernel=launch.name,
                    layer=symbol,
                    call=call,
                    grid=launch.grid,
                    block=launch.block,
                    shared_bytes=launch.shared_bytes,
                    arguments=tuple(operands[number] for number in launch.arguments),
                )
            )

    def _host_call(self, var: Expr, call: Call) -> None:
        name = _packed_name(call)
        if not name.startswith(_FALLBACK):
            raise KernelUnsupported(f"a GPU's program cannot call {name}")
        given = [leaf for argument in call.args for leaf in leaves(argument) if isinstance(leaf, relax.Var)]
        if any(isinstance(leaf.ty, relax.TensorType) and not is_tensor(leaf) for leaf in given):
            raise KernelUnsupported(
                "a value whose size depends on the data goes from one part on the host to another"
            )
        tensors = [leaf for argument in call.args for leaf in leaves(argument) if is_tensor(leaf)]
        operands = tuple(self._places[tensor] for tensor in tensors)
        self._program.steps.append(HostCall(function=name, operands=operands, results=self._results_of(var)))

    def _results_of(self, part: Expr) -> tuple[Operand, ...]:
        """Where what a part returns goes; nothing for one that writes into operands."""
        fields = part.ty.fields if isinstance(part.ty, relax.TupleType) else [part.ty]
        if not all(isinstance(one, relax.TensorType) for one in fields):
            return ()
        unread = Operand(place="arena", shape=(), dtype="uint8", varies=True)
        found = [unread] * len(fields)
        for var, (made_by, number) in self._returned.items():
            if made_by.same_as(part):
                found[number] = self._places.get(var, unread)
        return tuple(found)


def _on_host(value: Expr | None) -> bool:
    """Whether it calls a part on the host."""
    return value is not None and (op_name(value) == "call_packed" or _is_packed(value))


def _is_packed(value: Expr) -> bool:
    return isinstance(value, Call) and isinstance(value.op, relax.ExternFunc)


def _packed_name(call: Call) -> str:
    if isinstance(call.op, relax.ExternFunc):
        return str(call.op.global_symbol)
    first = call.args[0]
    return str(first.value if isinstance(first, StringImm) else first.global_symbol)


def _operand(place: str, index: int, expr: Expr) -> Operand:
    if not is_tensor(expr):
        return Operand(place=place, index=index, shape=(), dtype=dtype_of(expr), varies=True)  # type: ignore[arg-type]
    return Operand(place=place, index=index, shape=shape_of(expr), dtype=dtype_of(expr))  # type: ignore[arg-type]


def _round(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
