"""Join parts, islands and control flow into one module for TVM's virtual machine.

Requires: the pieces are lowered: kernels scheduled, constants lifted to trailing parameters, memory of islands planned.
Ensures: one module whose function `main` takes the model's inputs, then all weights, then all activations of islands.
What a function needs of these for itself or for what it calls is passed to it. Islands run one at a time, so all of
their activations share one arena from its start: its size is that of the largest plan.

A loop is a function that halves: `run(depth, …)` runs itself twice at one depth less, and at depth 0 one iteration,
unless the loop has ended. So the stack grows by the depth, and not by the number of iterations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax, te
from tvm.ir import Call, GlobalVar
from tvm.tirx import PrimFunc

from edgec.compiler.graph.control import Branch, Control, Repeat, result_type, scalar
from edgec.compiler.graph.rewrite import Expr, map_leaves, with_value
from edgec.compiler.lowered import Place

Weights = Mapping[str, npt.NDArray[np.generic]]
RUNTIME = "edgec.sequence."  # functions that the runtime has for compiled code
KERNEL = relax.FuncType.opaque_func(ret=relax.TupleType([]), purity=False)
DEPTH = 62  # 2^62 iterations


@dataclass(frozen=True)
class Piece:
    """A lowered function.

    Attributes:
        name: under which it is called.
        mod: its module; `entry` takes its inputs, its weights, then its activations.
        weights: its constants in order.
        static: whether it is an island, whose memory is planned.
        entry: the function's name in `mod`.
        places: its activations in order.
    """

    name: str
    mod: tvm.IRModule
    weights: Weights = field(default_factory=dict)
    static: bool = False
    entry: str = "main"
    places: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Extra:
    """A weight or an activation that is passed from `main` to where it is used."""

    key: tuple[object, ...]
    name: str


@dataclass
class Woven:
    """The joined module.

    Attributes:
        mod: with `main` and all others.
        weights: of `main`, in order.
        places: of `main`, in order.
        calls: names of the runtime's functions that it calls.
    """

    mod: tvm.IRModule
    weights: dict[str, npt.NDArray[np.generic]]
    places: tuple[Place, ...]
    calls: tuple[str, ...] = ()


def weave(pieces: Sequence[Piece], control: Sequence[Control], main: str) -> Woven:
    """Apply the pass (see the module's docstring); `main` names the piece that is the model itself."""
    return _Weaver(pieces, control, main).run()


class _Weaver:
    def __init__(self, pieces: Sequence[Piece], control: Sequence[Control], main: str) -> None:
        self.pieces = {piece.name: piece for piece in pieces}
        self.control = {one.name: one for one in control}
        self.main = main
        self.extras: dict[tuple[object, ...], Extra] = {}
        self.arrays: dict[tuple[object, ...], npt.NDArray[np.generic]] = {}
        self.places: dict[tuple[object, ...], Place] = {}
        self.own: dict[str, list[tuple[object, ...]]] = {}
        self.needs: dict[str, list[tuple[object, ...]]] = {}
        self.globals: dict[str, GlobalVar] = {}
        self.functions: dict[GlobalVar, relax.Function | PrimFunc] = {}

    def run(self) -> Woven:
        for piece in self.pieces.values():
            self.own[piece.name] = self._extras_of(piece)
        self._close()
        self._name_all()
        for piece in self.pieces.values():
            self._add_piece(piece)
        kernels = _Counters(self.functions) if self.control else None
        for one in self.control.values():
            assert kernels is not None
            if isinstance(one, Branch):
                self._add_branch(one)
            else:
                self._add_repeat(one, kernels)
        used = self.needs[self.main]
        weights = {self.extras[k].name: self.arrays[k] for k in used if k in self.arrays}
        places = tuple(self.places[k] for k in used if k in self.places)
        called = {c for piece in self.pieces.values() for c in _external_calls(piece.mod[piece.entry])}
        calls = tuple(sorted(name for name in called if name.startswith(RUNTIME)))
        return Woven(tvm.IRModule(self.functions), weights, places, calls)

    # What is passed to whom.

    def _extras_of(self, piece: Piece) -> list[tuple[object, ...]]:
        keys: list[tuple[object, ...]] = []
        key: tuple[object, ...]
        for name, array in piece.weights.items():
            digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
            key = ("w", array.dtype.name, array.shape, digest)
            if key not in self.extras:
                _, _, node = name.partition("_")
                unique = f"w{len(self.arrays)}" + (f"_{node}" if node else "")
                self.extras[key] = Extra(key, unique)
                self.arrays[key] = array
            keys.append(key)
        for number, place in enumerate(piece.places):
            key = ("m", piece.name, number)
            self.extras[key] = Extra(key, f"m{len(self.places)}")
            self.places[key] = place
            keys.append(key)
        return keys

    def _called(self, name: str) -> list[str]:
        if name in self.pieces:
            piece = self.pieces[name]
            return [
                c for c in _external_calls(piece.mod[piece.entry]) if c in self.pieces or c in self.control
            ]
        one = self.control[name]
        return list(one.parts) if isinstance(one, Branch) else [one.body]

    def _close(self) -> None:
        """What each function needs for itself and for what it calls: weights first, in a fixed order."""

        def needs(name: str) -> dict[tuple[object, ...], None]:
            if name not in found:
                found[name] = dict.fromkeys(self.own.get(name, []))
                for inner in self._called(name):
                    found[name] |= needs(inner)
            return found[name]

        found: dict[str, dict[tuple[object, ...], None]] = {}
        order = {key: number for number, key in enumerate(self.extras)}
        for name in (*self.pieces, *self.control):
            self.needs[name] = sorted(needs(name), key=lambda k: (k[0] == "m", order[k]))

    def _params_of(self, name: str) -> dict[tuple[object, ...], relax.Var]:
        # of any type: the virtual machine would check the shape of each at every call of every function
        return {k: relax.Var(self.extras[k].name, relax.AnyType()) for k in self.needs[name]}

    # Functions and their types.

    def _name_all(self) -> None:
        for name, piece in self.pieces.items():
            function = piece.mod[piece.entry]
            inputs = [p.ty for p in function.params[: len(function.params) - len(self.own[name])]]
            self._declare(name, inputs, function.ret_ty)
        for name, one in self.control.items():
            if isinstance(one, Branch):
                inputs = [scalar("bool"), *one.parameters]
            else:
                inputs = [scalar("int64"), scalar("bool"), *one.state, *one.reads]
            self._declare(name, inputs, result_type(one))

    def _declare(
        self, name: str, inputs: Sequence[Expr], result: Expr, needs: str | None = None
    ) -> GlobalVar:
        symbol = "main" if name == self.main else name.replace(".", "_")
        gv = GlobalVar(symbol)
        extras = [relax.AnyType() for _ in self.needs[needs or name]]
        erased = [relax.analysis.erase_to_well_defined(kind) for kind in inputs]
        relax.expr._update_type(
            gv, relax.FuncType([*erased, *extras], relax.analysis.erase_to_well_defined(result), False)
        )
        self.globals[name] = gv
        return gv

    def _define(self, name: str, params: Sequence[Expr], body: Expr, result: Expr) -> None:
        gv = self.globals[name]
        made = relax.Function(list(params), body, relax.analysis.erase_to_well_defined(result), False)
        self.functions[gv] = made.with_attr("global_symbol", str(gv.name_hint))

    def _add_piece(self, piece: Piece) -> None:
        function = piece.mod[piece.entry]
        own = self.own[piece.name]
        inputs = list(function.params[: len(function.params) - len(own)])
        passed = self._params_of(piece.name)
        renamed: dict[Expr, Expr] = dict(
            zip(function.params[len(inputs) :], [passed[k] for k in own], strict=True)
        )
        typed: list[relax.Binding] = []
        if not piece.static:  # there, types of kernels are checked when the module is lowered
            for param, key in zip(function.params[len(inputs) :], own, strict=True):
                var = relax.Var(str(passed[key].name), param.ty)
                typed.append(relax.MatchCast(var, passed[key], param.ty))
                renamed[param] = var
        kernels: dict[str, GlobalVar] = {}
        for gv, kernel in piece.mod.functions.items():
            if isinstance(kernel, PrimFunc):
                symbol = kernel_symbol(piece.name, str(gv.name_hint), self.main)
                own_gv = kernels[str(gv.name_hint)] = GlobalVar(symbol)
                relax.expr._update_type(own_gv, KERNEL)  # which takes weights of any type
                self.functions[own_gv] = kernel.with_attr("global_symbol", symbol)

        def rewritten(expr: Expr) -> Expr:
            made = map_leaves(
                expr, lambda leaf: renamed.get(leaf, leaf) if isinstance(leaf, relax.Var) else leaf
            )
            return self._redirect(made, kernels, passed)

        blocks = [relax.BindingBlock(typed)] if typed else []
        for block in function.body.blocks:
            blocks.append(relax.BindingBlock([with_value(b, rewritten(b.value)) for b in block.bindings]))
        body = relax.SeqExpr(blocks, rewritten(function.body.body))
        self._define(piece.name, [*inputs, *passed.values()], body, function.ret_ty)

    def _redirect(
        self, expr: Expr, kernels: Mapping[str, GlobalVar], passed: Mapping[tuple[object, ...], relax.Var]
    ) -> Expr:
        """A call of a kernel or an external function of ours by its place in the joined module."""
        if not isinstance(expr, Call):
            return expr
        if isinstance(expr.op, GlobalVar) and str(expr.op.name_hint) in kernels:
            return Call(
                kernels[str(expr.op.name_hint)], list(expr.args), expr.attrs, expr.ty_args, ret_ty=expr.ty
            )
        name = _external_name(expr)
        if name in self.globals:
            return self._call(name, list(expr.args), passed)
        return expr

    def _call(
        self,
        name: str,
        arguments: Sequence[Expr],
        passed: Mapping[tuple[object, ...], relax.Var],
        needs: str | None = None,
    ) -> Call:
        extras = [passed[k] for k in self.needs[needs or name]]
        return Call(self.globals[name], [*arguments, *extras])

    # Control flow.

    def _add_branch(self, one: Branch) -> None:
        condition = relax.Var("condition", scalar("bool"))
        given = [relax.Var(f"v{n}", kind) for n, kind in enumerate(one.parameters)]
        passed = self._params_of(one.name)
        arms = []
        for part, reads in zip(one.parts, one.reads, strict=True):
            result = relax.Var("result", one.result)
            value = self._call(part, [given[i] for i in reads], passed)
            arms.append(relax.SeqExpr([relax.BindingBlock([relax.VarBinding(result, value)])], result))
        chosen = relax.Var("chosen", one.result)
        choice = relax.VarBinding(chosen, relax.If(condition, arms[0], arms[1]))
        body = relax.SeqExpr([relax.BindingBlock([choice])], chosen)
        self._define(one.name, [condition, *given, *passed.values()], body, one.result)

    def _add_repeat(self, one: Repeat, kernels: _Counters) -> None:
        step, run = f"{one.name}.step", f"{one.name}.run"
        # of an iteration and of the loop: number, condition, state, lists of rows
        carried = [scalar("int64"), scalar("bool"), *one.state, *[relax.AnyType()] * one.rows]
        result = relax.TupleType(carried)
        self._declare(step, [*carried, *one.reads], result, needs=one.name)
        self._declare(run, [scalar("int64"), scalar("int64"), *carried, *one.reads], result, needs=one.name)
        self._define_step(one, step, carried, kernels)
        self._define_run(one, run, step, carried, kernels)
        passed = self._params_of(one.name)
        limit, condition = relax.Var("limit", scalar("int64")), relax.Var("condition", scalar("bool"))
        state = [relax.Var(f"s{n}", kind) for n, kind in enumerate(one.state)]
        reads = [relax.Var(f"r{n}", kind) for n, kind in enumerate(one.reads)]
        steps = _Steps()
        depth = steps.bind(kernels.number(DEPTH), scalar("int64"))
        zero = steps.bind(kernels.number(0), scalar("int64"))
        lists = [steps.bind(_packed("ffi.List"), relax.AnyType()) for _ in range(one.rows)]
        arguments = [depth, limit, zero, condition, *state, *lists, *reads]
        done = steps.bind(self._call(run, arguments, passed, needs=one.name), result)
        body = steps.returning(done)
        self._define(one.name, [limit, condition, *state, *reads, *passed.values()], body, result)

    def _define_step(self, one: Repeat, name: str, carried: Sequence[Expr], kernels: _Counters) -> None:
        passed = self._params_of(one.name)
        values = [relax.Var(f"c{n}", kind) for n, kind in enumerate(carried)]
        reads = [relax.Var(f"r{n}", kind) for n, kind in enumerate(one.reads)]
        count = 2 + len(one.state)
        steps = _Steps()
        body = self.pieces[one.body]
        kinds = list(body.mod[body.entry].ret_ty.fields)
        made = steps.bind(
            self._call(one.body, [*values[:count], *reads], passed), body.mod[body.entry].ret_ty
        )
        parts = [steps.bind(relax.TupleGetItem(made, n), kind) for n, kind in enumerate(kinds)]
        for number, rows in enumerate(values[count:]):
            steps.bind(_packed("ffi.ListAppend", rows, parts[1 + len(one.state) + number]), relax.AnyType())
        following = steps.bind(kernels.next(values[0]), scalar("int64"))
        fields = [following, *parts[: 1 + len(one.state)], *values[count:]]
        whole = steps.bind(relax.Tuple(fields), relax.TupleType(list(carried)))
        self._define(name, [*values, *reads, *passed.values()], steps.returning(whole), whole.ty)

    def _define_run(
        self, one: Repeat, name: str, step: str, carried: Sequence[Expr], kernels: _Counters
    ) -> None:
        passed = self._params_of(one.name)
        depth, limit = relax.Var("depth", scalar("int64")), relax.Var("limit", scalar("int64"))
        values = [relax.Var(f"c{n}", kind) for n, kind in enumerate(carried)]
        reads = [relax.Var(f"r{n}", kind) for n, kind in enumerate(one.reads)]
        result = relax.TupleType(list(carried))
        once = _Steps()
        once_done = once.bind(self._call(step, [*values, *reads], passed, needs=one.name), result)
        twice = _Steps()
        less = twice.bind(kernels.previous(depth), scalar("int64"))
        first = twice.bind(self._call(name, [less, limit, *values, *reads], passed, needs=one.name), result)
        middle = [twice.bind(relax.TupleGetItem(first, n), kind) for n, kind in enumerate(carried)]
        second = twice.bind(self._call(name, [less, limit, *middle, *reads], passed, needs=one.name), result)
        inner = _Steps()
        leaf = inner.bind(kernels.is_zero(depth), scalar("bool"))
        chosen = inner.bind(relax.If(leaf, once.returning(once_done), twice.returning(second)), result)
        ended = _Steps()
        same = ended.bind(relax.Tuple(values), result)
        outer = _Steps()
        more = outer.bind(kernels.goes_on(values[0], limit, values[1]), scalar("bool"))
        done = outer.bind(relax.If(more, inner.returning(chosen), ended.returning(same)), result)
        self._define(name, [depth, limit, *values, *reads, *passed.values()], outer.returning(done), result)


def kernel_symbol(piece: str, kernel: str, main: str) -> str:
    """The symbol of a piece's kernel in the joined module."""
    return kernel if piece == main else f"{piece.replace('.', '_')}_{kernel}"


class _Steps:
    """Bindings in order."""

    def __init__(self) -> None:
        self.bindings: list[relax.VarBinding] = []

    def bind(self, value: Expr, kind: Expr) -> relax.Var:
        var = relax.Var(f"t{len(self.bindings)}", kind)
        self.bindings.append(relax.VarBinding(var, value))
        return var

    def returning(self, result: Expr) -> relax.SeqExpr:
        return relax.SeqExpr([relax.BindingBlock(self.bindings)], result)


class _Counters:
    """Kernels that count iterations."""

    def __init__(self, functions: dict[GlobalVar, relax.Function | PrimFunc]) -> None:
        self._functions = functions
        self._made: dict[str, GlobalVar] = {}

    def number(self, value: int) -> Call:
        """A constant."""
        return self._call(f"number_{value}", [], "int64", lambda: te.const(value, "int64"))

    def next(self, count: Expr) -> Call:
        """The next iteration's number."""
        return self._call("next_iteration", [count], "int64", lambda x: x + 1)

    def previous(self, depth: Expr) -> Call:
        """One less."""
        return self._call("one_less", [depth], "int64", lambda x: x - 1)

    def is_zero(self, depth: Expr) -> Call:
        """Whether a number is zero."""
        return self._call("is_zero", [depth], "bool", lambda x: x == 0)

    def goes_on(self, count: Expr, limit: Expr, condition: Expr) -> Call:
        """Whether there is another iteration."""
        return self._call(
            "goes_on", [count, limit, condition], "bool", lambda i, m, going: tvm.tirx.all(i < m, going)
        )

    def _call(self, name: str, arguments: list[Expr], dtype: str, function: object) -> Call:
        if name not in self._made:
            inputs = [te.placeholder((), str(a.ty.dtype.dtype), f"x{n}") for n, a in enumerate(arguments)]
            made = te.compute((), lambda: function(*[x() for x in inputs]), name=name)  # type: ignore[operator]
            gv = GlobalVar(f"edgec_{name}")
            kernel = te.create_prim_func([*inputs, made], index_dtype_override="int64")
            kernel = kernel.with_attr("global_symbol", str(gv.name_hint))
            relax.expr._update_type(gv, kernel.ty)
            self._functions[gv] = kernel
            self._made[name] = gv
        return relax.call_tir(self._made[name], arguments, out_ty=scalar(dtype))


def _packed(name: str, *arguments: Expr) -> Call:
    return Call(relax.ExternFunc(name), list(arguments), None, [relax.AnyType()])


def _external_name(expr: Expr) -> str:
    if isinstance(expr, Call) and isinstance(expr.op, relax.ExternFunc):
        return str(expr.op.global_symbol)
    return ""


def _external_calls(function: relax.Function) -> list[str]:
    bindings = [b for block in function.body.blocks for b in block.bindings]
    return [name for b in bindings if (name := _external_name(b.value))]
