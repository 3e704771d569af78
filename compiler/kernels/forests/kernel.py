"""The kernel that walks a forest: several trees side by side, no branch that depends on the data."""

from __future__ import annotations

import numpy as np
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.kernels.forests.forest import Aggregate
from edgec.compiler.kernels.forests.table import Table
from edgec.compiler.kernels.tir import Array, Tir

BLOCK_ROWS = 16  # rows that pass one group of trees before the next: their nodes are then in the cache
# Starting the thread pool costs some microseconds; a step of a walk takes about 0.5 ns.
PARALLEL_FROM_STEPS = 100_000
_NEUTRAL = {Aggregate.MIN: np.inf, Aggregate.MAX: -np.inf}


class ForestKernel:
    """Writes the TIR of one forest for a fixed number of rows.

    The function takes `x [rows, n_features]` fp32, the arrays of `arguments` and
    `out [rows, n_targets]` fp32. Sums are kept in fp64: trees add up in another order than in the library
    that trained them, and so their order does not matter.
    """

    def __init__(self, table: Table, rows: int) -> None:
        self.table, self.rows = table, rows
        self.block = min(rows, BLOCK_ROWS)
        self.buffers: dict[str, Tir] = {}

    def arguments(self) -> dict[str, Array]:
        """The constant arrays, by name, in the function's order."""
        table = self.table
        arrays: dict[str, Array] = {
            "feature": table.feature,
            "threshold": table.threshold,
            "child": table.child,
            "roots": table.roots,
            "depth": table.depth,
            "base": table.base,
        }
        if table.rows is None:
            arrays |= {"value": table.value, "target": table.target}
        else:
            arrays |= {"leaf_row": table.leaf_row, "leaves": table.rows}
        if len(table.intervals.feature):
            arrays |= {f"interval_{name}": array for name, array in vars(table.intervals).items()}
        if table.memberships:
            sizes = [m.table.size for m in table.memberships]
            starts = np.cumsum([0, *sizes[:-1]])
            arrays["members"] = np.array(
                [
                    (m.feature, m.first_column, m.table.shape[1], m.table.shape[0] - 1, start)
                    for m, start in zip(table.memberships, starts, strict=True)
                ],
                np.int32,
            )
            arrays["member_table"] = np.concatenate([m.table.reshape(-1) for m in table.memberships])
        return arrays

    def build(self, symbol: str) -> PrimFunc:
        """The function, under the name `symbol`."""
        table = self.table
        with IRBuilder() as builder, T.prim_func():
            T.func_name(symbol)
            T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
            b = self.buffers
            b["x"] = T.arg("x", T.buffer((self.rows, table.n_features), "float32"))
            for name, array in self.arguments().items():
                b[name] = T.arg(name, T.buffer(array.shape, str(array.dtype)))
            b["out"] = T.arg("out", T.buffer((self.rows, table.n_targets), "float32"))
            # TVM's graph passes expect a kernel's body to be a block that declares its reads and writes
            with T.sblock("root"), T.sblock("forest"):
                T.reads(*[_whole(b[name]) for name in b if name != "out"])
                T.writes(_whole(b["out"]))
                self._body()
        return builder.get()

    def _body(self) -> None:
        blocks = -(-self.rows // self.block)
        if blocks > 1 and self.rows * self.table.steps >= PARALLEL_FROM_STEPS:
            with T.parallel(0, blocks) as number:
                self._block(number)
        else:
            with T.serial(0, blocks) as number:
                self._block(number)

    def _block(self, number: Tir) -> None:
        table, b = self.table, self.buffers
        first = number * self.block
        whole = self.rows % self.block == 0
        count = self.block if whole else T.min(self.block, self.rows - first)
        b["wide"] = T.alloc_buffer((self.block, table.columns), "float32")
        b["sum"] = T.alloc_buffer((self.block, table.n_targets), "float64")
        start = _NEUTRAL.get(table.aggregate, 0.0)
        with T.serial(0, count) as row:
            with T.serial(0, table.n_targets) as k:
                _store(b["sum"], T.float64(start), [row, k])
            self._widen(first + row, row)
        with T.serial(0, len(table.depth)) as group, T.serial(0, count) as row:
            self._walk(group, row)
        share = 1.0 / table.trees if table.aggregate is Aggregate.AVERAGE else 1.0
        with T.serial(0, count) as row, T.serial(0, table.n_targets) as k:
            total = b["sum"][row, k] * T.float64(share) + T.cast(b["base"][k], "float64")
            _store(b["out"], T.cast(total, "float32"), [first + row, k])

    def _widen(self, source: Tir, row: Tir) -> None:
        """Fill one row of columns."""
        table, b = self.table, self.buffers
        with T.serial(0, table.n_features) as f:
            _store(b["wide"], b["x"][source, f], [row, f])
        if table.negated:
            with T.serial(0, table.n_features) as f:
                _store(b["wide"], T.float32(0) - b["x"][source, f], [row, table.n_features + f])
        if len(table.intervals.feature):
            self._answer_intervals(source, row)
        if table.memberships:
            self._answer_memberships(source, row)

    def _answer_intervals(self, source: Tir, row: Tir) -> None:
        table, b = self.table, self.buffers
        first = table.n_features * (2 if table.negated else 1)
        with T.serial(0, len(table.intervals.feature)) as i:
            value = b["x"][source, b["interval_feature"][i]]
            inside = T.And(value >= b["interval_low"][i], value <= b["interval_high"][i])
            yes = b["interval_inside"][i]
            answer = T.Select(inside, yes, T.float32(0) - yes)
            _store(b["wide"], T.Select(T.isnan(value), T.float32(np.nan), answer), [row, first + i])

    def _answer_memberships(self, source: Tir, row: Tir) -> None:
        table, b = self.table, self.buffers
        members = b["members"]
        with T.serial(0, len(table.memberships)) as m:
            value = b["x"][source, members[m, 0]]
            known = members[m, 3]
            valid = T.And(value >= T.float32(0), value < T.cast(known, "float32"))
            category = T.cast(T.Select(valid, value, T.float32(0)), "int32")
            exact = T.And(valid, T.cast(category, "float32") == value)
            entry = members[m, 4] + T.Select(exact, category, known) * members[m, 2]
            with T.serial(0, members[m, 2]) as s:
                answer = T.cast(b["member_table"][entry + s], "float32")
                answer = T.Select(T.isnan(value), T.float32(np.nan), answer)
                _store(b["wide"], answer, [row, members[m, 1] + s])

    def _walk(self, group: Tir, row: Tir) -> None:
        """Walk one group of trees with one row, and add the values of their leaves."""
        table, b = self.table, self.buffers
        at = T.alloc_buffer((table.lanes,), "int32", scope="local")
        for lane in range(table.lanes):
            _store(at, b["roots"][group * table.lanes + lane], [lane])
        with T.serial(0, b["depth"][group]):
            for lane in range(table.lanes):
                node = at[lane]
                answer = b["wide"][row, b["feature"][node]] < b["threshold"][node]
                _store(at, b["child"][node] + T.cast(answer, "int32"), [lane])
        if table.rows is not None:
            with T.serial(0, table.n_targets) as k:
                self._combine(
                    row, k, [b["leaves"][b["leaf_row"][at[lane]], k] for lane in range(table.lanes)]
                )
        else:
            self._combine(row, b["target"][group], [b["value"][at[lane]] for lane in range(table.lanes)])

    def _combine(self, row: Tir, target: Tir, values: list[Tir]) -> None:
        total = self.buffers["sum"][row, target]
        for value in values:
            wide = T.cast(value, "float64")
            if self.table.aggregate is Aggregate.MIN:
                total = T.min(total, wide)
            elif self.table.aggregate is Aggregate.MAX:
                total = T.max(total, wide)
            else:
                total = total + wide
        _store(self.buffers["sum"], total, [row, target])


def _whole(buffer: Tir) -> Tir:
    return buffer[tuple(slice(0, size) for size in buffer.shape)]


def _store(buffer: Tir, value: Tir, indices: list[Tir]) -> None:
    T.buffer_store(buffer, value, indices)
