"""Which inputs of a model are states: variables of its own, pairs that the card declares, or pairs found by name.

A pair is found if its input and its output have the same shape and element type, the same name but for a mark of
direction (`state` and `stateN`, `conv_cache` and `conv_cache_out`, `past_key_values.0.key` and `present.0.key`), and
that name has a word for states in it. Whatever is in doubt is left to the caller, and a note says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from onnx import ModelProto

from edgec.compiler.errors import InputShapeError
from edgec.compiler.frontends.onnx import windows
from edgec.compiler.frontends.source import Port, SourceModel, State
from edgec.runtime.card import StatePair

_INPUT_MARKS = frozenset({"in", "input", "inp", "prev", "previous", "past", "old", "init", "initial"})
_OUTPUT_MARKS = frozenset(
    {"out", "output", "new", "next", "present", "updated", "upd", "final", "n"},
)
_WORDS = frozenset(
    {
        "state",
        "states",
        "hidden",
        "cell",
        "cache",
        "cached",
        "caches",
        "mem",
        "memory",
        "h",
        "c",
        "kv",
        "past",
    }
    | {
        "rnn",
        "lstm",
        "gru",
        "recurrent",
        "carry",
        "buffer",
        "buf",
        "hx",
        "cx",
        "context",
        "ctx",
        "history",
        "hist",
    }
)
# The names of PyTorch's recurrent layers, and of Hugging Face's caches.
_SPELLINGS = {
    "hn": ["h", "n"],
    "cn": ["c", "n"],
    "hy": ["hx", "n"],
    "cy": ["cx", "n"],
    "h0": ["h"],
    "c0": ["c"],
}
_KINDS = "fiu"


def with_states(
    source: SourceModel,
    variables: Sequence[State],
    declared: Sequence[StatePair] | None,
    cut: Mapping[str, int] | None = None,
) -> SourceModel:
    """The model with its states.

    Args:
        source: the model with static shapes.
        variables: the states that its front end made inputs and outputs of.
        declared: pairs beside them; None finds them by name, and an empty sequence drops the variables, too.
        cut: the outputs that `keep_windows` cut, with the axis.

    Raises:
        InputShapeError: a declared pair names no input or output, or they differ in shape or element type.
    """
    if declared is None:
        found, notes = _by_name(source, {state.input for state in variables})
        states = [*variables, *found]
        notes = [*(_told(source, state, cut or {}) for state in states), *notes]
        return _bound(source, states, notes)
    if not declared:
        return source
    states = [*variables, *(_declared(source, pair) for pair in declared)]
    for kind, names in (("input", [s.input for s in states]), ("output", [s.output for s in states])):
        if double := {name for name in names if names.count(name) > 1}:
            raise InputShapeError(f"the {kind} {double.pop()!r} is declared in two pairs of states")
    return _bound(source, states, [_told(source, state, cut or {}) for state in states])


def _bound(source: SourceModel, states: Sequence[State], notes: Sequence[str]) -> SourceModel:
    """The model with states, whose outputs have the shapes of their inputs where those are not known."""
    shapes = {state.output: _port(source.inputs, state.input, "input").shape for state in states}
    outputs = tuple(replace(port, shape=shapes.get(port.name, port.shape)) for port in source.outputs)
    return replace(source, outputs=outputs, states=tuple(states), notes=tuple(notes))


def _fits(into: Port, out: Port) -> bool:
    """Whether an output can be the next value of an input; sizes that are not known may be any."""
    sizes = zip(into.shape, out.shape, strict=False)
    same = len(into.shape) == len(out.shape) and all(b in (a, -1) for a, b in sizes)
    return same and into.dtype == out.dtype


def _declared(source: SourceModel, pair: StatePair) -> State:
    into, out = _port(source.inputs, pair.input, "input"), _port(source.outputs, pair.output, "output")
    if any(into.symbols):
        raise InputShapeError(
            f"the state {pair.input!r} has sizes that are chosen in each run; give it fixed ones with --input "
            f"{pair.input}:SIZES, or declare no state"
        )
    if not _fits(into, out):
        raise InputShapeError(
            f"the state {pair.input!r} is {into.dtype}{list(into.shape)}, but the output {pair.output!r} that is "
            f"declared as its next value is {out.dtype}{list(out.shape)}"
        )
    value = np.full(into.shape, pair.initial, into.dtype) if pair.initial else None
    return State(pair.input, pair.output, value, "declared")


def _port(ports: Sequence[Port], name: str, kind: str) -> Port:
    for port in ports:
        if port.name == name:
            return port
    known = ", ".join(port.name for port in ports)
    raise InputShapeError(
        f"a state is declared with the {kind} {name!r}, which the model lacks; it has {known}"
    )


def keep_windows(model: ModelProto, declared: Sequence[StatePair] | None) -> dict[str, int]:
    """Cut outputs that grow with each run to the length of the states that they become (in place).

    Args:
        model: the model before its shapes are set.
        declared: as for `with_states`; without, nothing is cut: a model's outputs are what it says they are.

    Returns:
        the outputs that were cut, with the axis.
    """
    inputs, outputs = [v.name for v in model.graph.input], [v.name for v in model.graph.output]
    pairs = [(p.input, p.output) for p in declared or () if p.input in inputs and p.output in outputs]
    cut = {out: windows.keep_window(model, into, out) for into, out in pairs}
    return {out: axis for out, axis in cut.items() if axis is not None}


def _is_cache(into: Sequence[str], out: Sequence[str]) -> bool:
    """Whether two names are those of a cache before and after: `past_key_values.0.key` and `present.0.key`."""
    core = [token for token in into if token != "past"], [token for token in out if token != "present"]
    return "past" in into and "present" in out and core[0] == core[1]


def _told(source: SourceModel, state: State, cut: Mapping[str, int]) -> str:
    port = _port(source.inputs, state.input, "input")
    kind = f"{port.dtype}{list(port.shape)}"
    if state.origin == "variable":
        return f"state: the variable {state.input!r}, {kind}"
    axis = cut.get(state.output)
    window = "" if axis is None else f", the last {port.shape[axis]} entries of axis {axis}"
    found = " (found by name and shape; --no-state switches it off)" if state.origin == "names" else ""
    return f"state: {state.input!r} → {state.output!r}, {kind}{window}{found}"


def _by_name(source: SourceModel, taken: set[str]) -> tuple[list[State], list[str]]:
    """The pairs found by name, and notes on inputs that look like states and have no pair."""
    inputs = [
        p
        for p in source.inputs
        if p.name not in taken and p.shape and not any(p.symbols) and np.dtype(p.dtype).kind in _KINDS
    ]
    outputs = [p for p in source.outputs if p.name not in {port.name for port in source.inputs}]
    pairs: list[tuple[Port, Port]] = []
    for loosely in (False, True):
        free_in = [p for p in inputs if p not in [a for a, _ in pairs]]
        free_out = [p for p in outputs if p not in [b for _, b in pairs]]
        fitting = [(a, b) for a in free_in for b in free_out if _alike(a, b, loosely=loosely)]
        for a, b in fitting:
            if sum(a is x for x, _ in fitting) == 1 and sum(b is y for _, y in fitting) == 1:
                pairs.append((a, b))
    pairs = [(a, b) for a, b in pairs if _fits(a, b)]
    alone = len(pairs) >= len(source.inputs) - len(taken) or len(pairs) >= len(source.outputs) - len(taken)
    if alone:  # nothing would be left to pass in or out: not a stream
        pairs = []
    found = [State(a.name, b.name, None, "names") for a, b in pairs]
    paired = {a.name for a, _ in pairs}
    lost = [p for p in inputs if p.name not in paired and _is_state(_tokens(p.name))]
    return found, [] if alone else [_lost(port, outputs) for port in lost]


def _lost(into: Port, outputs: Sequence[Port]) -> str:
    """The note on an input that looks like a state and is none."""
    grown = next((out.name for out in outputs if _is_cache(_tokens(into.name), _tokens(out.name))), None)
    if grown is not None:
        return (
            f"the input {into.name!r} looks like a cache that grows: the caller passes it. To keep its last entries as "
            f"a state, declare it in the model card with the output {grown!r}"
        )
    return (
        f"the input {into.name!r} looks like a state, but no output of its shape belongs to it by name: the caller "
        "passes it (or declare the pair in the model card)"
    )


def _alike(into: Port, out: Port, *, loosely: bool) -> bool:
    """Whether two names are one but for marks of direction, and the name of a state."""
    a, b = _tokens(into.name), _tokens(out.name)
    core_a = [token for token in a if token not in _INPUT_MARKS]
    core_b = [token for token in b if token not in _OUTPUT_MARKS]
    if loosely:  # h_0 and h_n, last_state and state
        core_a = [token for token in core_a if token != "last"]
        core_a = core_a[:-1] if len(core_a) > 1 and core_a[-1] in ("0", "t") else core_a
        core_b = core_b[:-1] if len(core_b) > 1 and core_b[-1] in ("1", "t") else core_b
    cache = "past" in a and "present" in b
    return core_a == core_b and bool(core_a) and (cache or (_is_state(a) and _is_state(b)))


def _is_state(tokens: Sequence[str]) -> bool:
    return not _WORDS.isdisjoint(tokens)


def _tokens(name: str) -> list[str]:
    """The words of a name in lower case: `decoder.stateN` is decoder, state, n."""
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name.replace("past_key_values", "past")).lower()
    words = [word for word in re.split(r"[^a-z0-9]+", spaced) if word]
    return [token for word in words for token in _SPELLINGS.get(word, _split(word))]


def _split(word: str) -> list[str]:
    return re.findall(r"[a-z]+|\d+", word)
