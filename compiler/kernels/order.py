"""Elements in order: keys that compare as unsigned integers, a stable sort of them, and the first of a row.

NaN exceeds all numbers, and the two zeros are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

from edgec.compiler.kernels.loops import Buffers, Shape, add, counter, function, i64, store
from edgec.compiler.kernels.tir import Tir

DIGIT = 8  # bits that a pass of the sort looks at
FEW = 16  # elements that are kept in order by insertion while the row passes
SHORT = 48  # up to so many elements, insertion beats counting
LANES = 16  # elements that are looked at together
SLACK = 2048  # elements beyond those wanted that are collected before some are dropped
# Starting the thread pool costs some microseconds.
PARALLEL_FROM = 1 << 14  # elements
_FRACTION = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}  # bits below the exponent


@dataclass(frozen=True)
class Keys:
    """How elements become keys whose order is theirs.

    Attributes:
        dtype: of the elements.
        descending: the largest element has the smallest key.
    """

    dtype: str
    descending: bool = False

    @property
    def bits(self) -> int:
        """The width of the elements."""
        return 8 if self.dtype == "bool" else int("".join(c for c in self.dtype if c.isdigit()))

    @property
    def type(self) -> str:
        """The keys' dtype: elements of less than 32 bits are shifted to the left."""
        return "uint64" if self.bits == 64 else "uint32"

    @property
    def width(self) -> int:
        """The keys' width."""
        return max(self.bits, 32)

    def const(self, value: int) -> Tir:
        """A number of the keys' dtype."""
        return tirx.const(value, self.type)

    def of(self, value: Tir) -> Tir:
        """The key of an element."""
        key = self._ascending(value)
        return self.last() - key if self.descending else key

    def last(self) -> Tir:
        """The greatest key."""
        return tirx.bitwise_not(self.const(0)) << (self.width - self.bits)

    def may_precede(self, value: Tir, bound: Tir) -> Tir:
        """Whether an element's key may be less than that of `bound`, an element or an `element` of a limit.

        Of floats, this is cheaper than their keys.
        """
        if not self.dtype.startswith("float"):
            return self.of(value) < self.of(bound)
        if self.descending:
            return tirx.any(value > bound, tirx.isnan(value))
        return tirx.any(value < bound, tirx.isnan(bound))

    def element(self, key: Tir) -> Tir:
        """The bound for `may_precede` at a limit: the element of that key, where one is there."""
        sign, shift = self.const(1) << (self.width - 1), self.width - self.bits
        ascending = self.last() - key if self.descending else key
        if self.dtype == "bool" or self.dtype.startswith("uint"):
            return (ascending >> shift).astype(self.dtype)
        if self.dtype.startswith("int"):
            return ((ascending ^ sign) >> shift).astype(f"uint{self.bits}").astype(self.dtype)
        raw = tirx.Select((ascending & sign) != self.const(0), ascending ^ sign, tirx.bitwise_not(ascending))
        if (
            self.descending
        ):  # zeros precede the key of a zero with a sign, which no element has: the number below it
            low = self.const(1 << (self.width - 1) | 1 << (shift + _FRACTION[self.dtype]))
            raw = tirx.Select((raw >> shift) == (sign >> shift), low, raw)
        return tirx.reinterpret(self.dtype, (raw >> shift).astype(f"uint{self.bits}"))

    def _ascending(self, value: Tir) -> Tir:
        kind, shift, sign = str(self.dtype), self.width - self.bits, self.const(1) << (self.width - 1)
        if kind == "bool" or kind.startswith("uint"):
            return value.astype(self.type) << shift
        if kind.startswith("int"):
            return (value.astype(self.type) << shift) ^ sign
        raw = tirx.reinterpret(f"uint{self.bits}", value).astype(self.type) << shift
        raw = tirx.Select(value == tirx.const(0, self.dtype), self.const(0), raw)
        key = tirx.Select((raw & sign) != self.const(0), tirx.bitwise_not(raw), raw | sign)
        return tirx.Select(tirx.isnan(value), self.last(), key)


@dataclass(frozen=True)
class Sorter:
    """Pairs of keys and places that are collected and sorted, in buffers of twice their number.

    Attributes:
        keys: how elements become keys.
        capacity: the most pairs.
    """

    keys: Keys
    key: Tir
    place: Tir
    count: Tir
    begin: Tir
    capacity: Tir

    @classmethod
    def allocate(cls, keys: Keys, capacity: Tir) -> Sorter:
        """Buffers for up to `capacity` pairs."""
        size = capacity * 2
        return cls(
            keys,
            T.alloc_buffer((size,), keys.type),
            T.alloc_buffer((size,), "int32"),
            counter(),
            counter(),
            i64(capacity) if isinstance(capacity, int) else capacity,
        )

    def add(self, key: Tir, place: Tir) -> None:
        """Collect a pair."""
        store(self.key, key, self.count[0])
        store(self.place, place.astype("int32"), self.count[0])
        add(self.count)

    def add_if(self, wanted: Tir, key: Tir, place: Tir) -> None:
        """Collect a pair if it is wanted, without a branch; up to `capacity` more are written, not collected."""
        store(self.key, key, self.count[0])
        store(self.place, place.astype("int32"), self.count[0])
        add(self.count, wanted.astype("int64"))

    def at(self, number: Tir) -> Tir:
        """The place of the pair at a position, once sorted."""
        return self.place[self.begin[0] + number]

    def sort(self) -> None:
        """Sort the pairs by key; those of equal keys keep their order."""
        with T.If(self.count[0] <= i64(SHORT)):
            with T.Then():
                self._insert_all()
            with T.Else():
                self._count_digits()

    def keep_first(self, wanted: Tir, limit: Tir) -> None:
        """Drop pairs (before they are sorted) that are not among the `wanted` first, all or most of them.

        Args:
            wanted: how many have to stay.
            limit: gets the key from which on further pairs are not among the first.
        """
        store(limit, self.keys.const(0), 0)
        with T.If(self.count[0] > wanted), T.Then():
            below = self._find_limit(wanted, limit)
            self._drop(limit, wanted - below[0])

    def keep_portion(self, wanted: Tir, limit: Tir) -> None:
        """Drop pairs (before they are sorted) from a limit on, which is the greatest key where all stay.

        Args:
            wanted: about how many should stay. Fewer do where many keys are equal.
            limit: gets the key of which, and of greater ones, no pair stays.
        """
        store(limit, self.keys.last(), 0)
        with T.If(self.count[0] > wanted * i64(2)), T.Then():
            store(limit, self.keys.const(0), 0)
            below = self._find_limit(wanted, limit)
            with T.If(below[0] == i64(0)):
                with T.Then():
                    store(limit, self.keys.last(), 0)
                with T.Else():
                    self._drop(limit, i64(0))

    def _find_limit(self, wanted: Tir, limit: Tir) -> Tir:
        """Raise a limit bit by bit to where about `wanted` keys are below it, which are counted."""
        below, done = counter(), counter()
        with T.serial(0, self.keys.bits) as turn, T.If(done[0] == i64(0)), T.Then():
            bit = self.keys.const(self.keys.width - 1) - turn.astype(self.keys.type)
            mark = kept_value(limit[0] | self.keys.const(1) << bit)
            found = self._count_below(mark)
            with T.If(found[0] <= wanted + tirx.floordiv(wanted, i64(4))), T.Then():
                store(limit, mark[0], 0)
                store(below, found[0], 0)
                store(done, tirx.Select(found[0] >= wanted, i64(1), i64(0)), 0)
        return below

    def _count_below(self, mark: Tir) -> Tir:
        """How many keys are less than a mark."""
        sums, found = T.alloc_buffer((LANES,), "int32", scope="local"), counter()
        blocks = tirx.floordiv(self.count[0], i64(LANES))
        with T.vectorized(0, LANES) as lane:
            store(sums, tirx.const(0, "int32"), lane)
        with T.serial(0, blocks) as block, T.vectorized(0, LANES) as lane:
            less = self.key[block * i64(LANES) + _wide(lane)] < mark[0]
            store(sums, sums[lane] + less.astype("int32"), lane)
        for lane in range(LANES):
            add(found, sums[lane].astype("int64"))
        with T.serial(0, self.count[0] - blocks * i64(LANES)) as i:
            add(found, (self.key[blocks * i64(LANES) + i] < mark[0]).astype("int64"))
        return found

    def _drop(self, limit: Tir, equal: Tir) -> None:
        """Keep the keys below the limit, and the first `equal` of those equal to it."""
        kept, left = counter(), counter(equal)
        with T.serial(0, self.count[0]) as i:
            mine = kept_value(self.key[i])
            same = kept_value(tirx.Select(tirx.all(mine[0] == limit[0], left[0] > i64(0)), i64(1), i64(0)))
            store(left, left[0] - same[0], 0)
            store(self.place, self.place[i], kept[0])
            store(self.key, mine[0], kept[0])
            add(kept, tirx.any(mine[0] < limit[0], same[0] == i64(1)).astype("int64"))
        store(self.count, kept[0], 0)

    def _insert_all(self) -> None:
        key, place = self.key, self.place
        with T.serial(0, self.count[0]) as i:
            to, mine, own = counter(i), kept_value(key[i]), kept_value(place[i])
            with T.While(tirx.all(to[0] > i64(0), key[tirx.max(to[0] - 1, i64(0))] > mine[0])):
                store(key, key[to[0] - 1], to[0])
                store(place, place[to[0] - 1], to[0])
                add(to, -1)
            store(key, mine[0], to[0])
            store(place, own[0], to[0])

    def _digit(self, key: Tir, turn: int) -> Tir:
        shift = self.keys.width - self.keys.bits + turn * DIGIT
        return ((key >> self.keys.const(shift)) & self.keys.const((1 << DIGIT) - 1)).astype("int32")

    def _count_digits(self) -> None:
        """Radix sort, the least digit first; a digit that is the same in all keys is passed over."""
        key, place, turns, values = self.key, self.place, self.keys.bits // DIGIT, 1 << DIGIT
        ends = T.alloc_buffer((turns * values,), "int32")
        with T.serial(0, turns * values) as i:
            store(ends, tirx.const(0, "int32"), i)
        with T.serial(0, self.count[0]) as i:
            for turn in range(turns):
                slot = self._digit(key[i], turn) + turn * values
                store(ends, ends[slot] + 1, slot)
        for turn in range(turns):
            first = self._digit(key[self.begin[0]], turn) + turn * values
            with T.If(ends[first].astype("int64") != self.count[0]), T.Then():
                total = T.alloc_buffer((1,), "int32", scope="local")
                store(total, tirx.const(0, "int32"), 0)
                with T.serial(0, values) as v:
                    own = kept_value(ends[turn * values + v])
                    store(ends, total[0], turn * values + v)
                    store(total, total[0] + own[0], 0)
                other = self.capacity - self.begin[0]
                with T.serial(0, self.count[0]) as i:
                    slot = kept_value(self._digit(key[self.begin[0] + i], turn) + turn * values)
                    to = kept_value(other + ends[slot[0]].astype("int64"))
                    store(key, key[self.begin[0] + i], to[0])
                    store(place, place[self.begin[0] + i], to[0])
                    store(ends, ends[slot[0]] + 1, slot[0])
                store(self.begin, other, 0)


def kept_value(value: Tir) -> Tir:
    """A value in a buffer of its own, so that later writes do not change it."""
    made = T.alloc_buffer((1,), str(value.ty.dtype), scope="local")
    store(made, value, 0)
    return made


def first_of_rows(symbol: str, shape: Shape, count: Tir, dtype: str, *, largest: bool) -> PrimFunc:
    """A function that finds the first elements of each row, in order; of equal ones, the foremost comes first.

    Args:
        symbol: its name.
        shape: `[outer, length, inner]` of the tensor, whose rows are along the second axis.
        count: how many elements of a row are wanted.
        dtype: of the elements.
        largest: the largest come first instead of the smallest.

    Returns:
        a function of `x` with the results `values` and `places` (int64), both `[outer, count, inner]`.
    """
    keys = Keys(dtype, descending=largest)
    outer, length, inner = shape
    sizes = {"x": (shape, dtype)}
    results = {"values": ((outer, count, inner), dtype), "places": ((outer, count, inner), "int64")}

    def body(b: Buffers) -> None:
        x, made = b["x"], b["places"]
        rows, own, wanted = x.shape[0] * x.shape[2], x.shape[1], made.shape[1]
        known = isinstance(length, int) and isinstance(outer, int) and isinstance(inner, int)
        alone = known and (outer * inner == 1 or outer * length * inner < PARALLEL_FROM)
        with (T.serial if alone else T.parallel)(0, rows) as row:
            o, p = tirx.floordiv(row, x.shape[2]), tirx.floormod(row, x.shape[2])

            def write(rank: Tir, place: Tir, o: Tir = o, p: Tir = p) -> None:
                store(b["places"], place.astype("int64"), o, rank, p)
                store(b["values"], x[o, place, p], o, rank, p)

            def element(place: Tir, o: Tir = o, p: Tir = p) -> Tir:
                return x[o, place, p]

            row_of = Row(keys, element, write, own, wanted)
            if isinstance(count, int):
                (row_of.few if count <= FEW else row_of.many)()
            else:
                with T.If(wanted <= FEW):
                    with T.Then():
                        row_of.few()
                    with T.Else():
                        row_of.many()

    return function(symbol, sizes, results, body)


@dataclass(frozen=True)
class Row:
    """A row of elements whose first ones are wanted.

    Attributes:
        keys: how elements become keys.
        element: at a place.
        write: the place of the element of a rank.
        length: of the row.
        wanted: how many elements are wanted.
    """

    keys: Keys
    element: Callable[[Tir], Tir]
    write: Callable[[Tir, Tir], None]
    length: Tir
    wanted: Tir

    def key(self, place: Tir) -> Tir:
        """The key of the element at a place."""
        return self.keys.of(self.element(place))

    def few(self) -> None:
        """Insertion into a list of the first elements so far: most elements of a long row are only compared once."""
        best, places = T.alloc_buffer((FEW,), self.keys.type), T.alloc_buffer((FEW,), "int32")
        wanted = _wide(self.wanted)
        last = tirx.max(wanted - 1, i64(0))

        def insert(place: Tir) -> None:
            mine = kept_value(self.key(place))
            to = counter(tirx.min(_wide(place), last))
            with T.While(tirx.all(to[0] > i64(0), best[tirx.max(to[0] - 1, i64(0))] > mine[0])):
                store(best, best[to[0] - 1], to[0])
                store(places, places[to[0] - 1], to[0])
                add(to, -1)
            store(best, mine[0], to[0])
            store(places, place.astype("int32"), to[0])

        with T.serial(0, wanted) as place:
            insert(place)
        with T.If(wanted > i64(0)), T.Then():

            def take(place: Tir) -> None:
                with T.If(self.key(place) < best[last]), T.Then():
                    insert(place)
                    store(bound, self.element(_wide(places[last])), 0)

            bound = kept_value(self.element(_wide(places[last])))
            may = self.keys.may_precede
            scan(wanted, _wide(self.length), lambda place: may(self.element(place), bound[0]), take)
        with T.serial(0, wanted) as rank:
            self.write(rank, places[rank])

    def many(self) -> None:
        """Collect what precedes a limit, which is lowered whenever there is too much of it, then sort."""
        wanted, length = _wide(self.wanted), _wide(self.length)
        room = tirx.min(length, tirx.max(wanted * 2, wanted + SLACK))
        sorter = Sorter.allocate(self.keys, room + LANES)
        limit = T.alloc_buffer((1,), self.keys.type, scope="local")
        with T.serial(0, room) as place:
            store(sorter.key, self.key(place), place)
            store(sorter.place, place.astype("int32"), place)
        store(sorter.count, room, 0)
        with T.If(length > wanted), T.Then():
            sorter.keep_first(wanted, limit)
            with T.If(length > room), T.Then():

                def take(place: Tir) -> None:
                    key = kept_value(self.key(place))
                    sorter.add_if(key[0] < limit[0], key[0], place)

                def make_room() -> None:
                    with T.If(sorter.count[0] >= room), T.Then():
                        sorter.keep_first(wanted, limit)
                        store(bound, self.keys.element(limit[0]), 0)

                bound = kept_value(self.keys.element(limit[0]))
                may = self.keys.may_precede
                scan(room, length, lambda place: may(self.element(place), bound[0]), take, make_room)
                sorter.keep_first(wanted, limit)
        sorter.sort()
        with T.serial(0, wanted) as rank:
            self.write(rank, sorter.at(rank))


def scan(
    begin: Tir,
    end: Tir,
    likely: Callable[[Tir], Tir],
    take: Callable[[Tir], None],
    prepare: Callable[[], None] = lambda: None,
) -> None:
    """Do something with the elements from `begin` up to `end` that are wanted, where few are: vectors decide.

    Args:
        begin: place of the first.
        end: place after the last.
        likely: whether an element may be wanted.
        take: looks at an element that may be wanted, or is beside one in a vector, and takes it if it is.
        prepare: comes before each vector of elements that are looked at.
    """
    blocks = tirx.floordiv(end - begin, i64(LANES))
    with T.serial(0, blocks) as block:
        marks = T.alloc_buffer((LANES,), "int32", scope="local")
        first = begin + block * i64(LANES)
        with T.vectorized(0, LANES) as lane:
            store(marks, likely(first + _wide(lane)).astype("int32"), lane)
        found = [marks[lane] for lane in range(LANES)]
        while len(found) > 1:
            found = [tirx.bitwise_or(a, b) for a, b in zip(found[::2], found[1::2], strict=True)]
        with T.If(found[0] != tirx.const(0, "int32")), T.Then():
            prepare()
            with T.serial(0, LANES) as lane:
                take(first + _wide(lane))
    rest = begin + blocks * i64(LANES)
    prepare()
    with T.serial(0, end - rest) as i:
        take(rest + i)


def _wide(value: Tir) -> Tir:
    return i64(value) if isinstance(value, int) else value.astype("int64")
