"""Which keys the queries of an attention can see at all, as its mask says at compile time: a band about the diagonal.

A mask of order hides the keys behind each query's own (behind those of the past, where there are such), one of local
attention also those long before it. Kernels need not visit what no query of a block sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt
from tvm import relax
from tvm.ir import Call

from edgec.compiler.graph.attention_spec import Band
from edgec.compiler.graph.rewrite import Expr, array_of, is_tensor, op_name, shape_of

Hidden = npt.NDArray[np.bool_]  # [queries, keys], either may be 1: for all
_LOWEST = (
    -1e30
)  # finite scores below it, as exporters write them for -inf, have weight 0 beside any other score


def band_of(
    masks: Sequence[Expr],
    chosen: Expr | None,
    fill: float,
    sizes: tuple[int, int],
    values: Mapping[relax.Var, Expr],
) -> Band | None:
    """The keys that queries see, in numbers relative to their own; None where the masks do not say.

    Args:
        masks: what is added to the scores.
        chosen: truth values: which scores count, in the place of such masks.
        fill: the other scores.
        sizes: queries and keys.
        values: what variables are bound to.
    """
    parts = [hidden for one in masks if (hidden := _added(one, values)) is not None]
    if chosen is not None and fill == -np.inf:
        parts += [hidden for hidden in [_false(chosen, values)] if hidden is not None]
    if not any(one.any() for one in parts):
        parts = [hidden for hidden in [_nearly(masks, chosen, fill)] if hidden is not None]
    if not parts:
        return None
    rows, keys = np.nonzero(~np.logical_or.reduce([np.broadcast_to(one, sizes) for one in parts]))
    if not len(rows):
        return None
    before, behind = int((keys - rows).min()), int((keys - rows).max())
    return Band(before, behind) if before > 1 - sizes[0] or behind < sizes[1] - 1 else None


def _nearly(masks: Sequence[Expr], chosen: Expr | None, fill: float) -> Hidden | None:
    """What a constant mask gives a finite score that leaves no weight, where each query has another score."""
    hidden: npt.NDArray[np.bool_] | None = None
    if chosen is not None and fill <= _LOWEST:
        array = array_of(chosen)
        hidden = None if array is None else ~array
    elif chosen is None and len(masks) == 1:
        array = array_of(masks[0])
        hidden = None if array is None else array <= _LOWEST
    if hidden is None or hidden.ndim < 2 or hidden.all(axis=-1).any():
        return None
    return _of_all(hidden)


def _added(expr: Expr, values: Mapping[relax.Var, Expr]) -> Hidden | None:
    """Where a mask that is added is -inf, whatever the inputs are; None if that is not known of any place."""
    array = array_of(expr)
    if array is not None:
        return _of_all(array == -np.inf)
    call = _call_of(expr, values)
    if call is None:
        return None
    name = op_name(call)
    if name in ("add", "minimum"):
        return _either(_added(call.args[0], values), _added(call.args[1], values))
    if name == "where":
        condition, *both = call.args
        this, other = (_added(one, values) for one in both)
        refused, array = _false(condition, values), array_of(condition)
        taken = None if array is None else _of_all(array.astype(bool))
        parts = ((this, other), (refused, other), (taken, this))
        known = [one & two for one, two in parts if one is not None and two is not None]
        return reduce(np.logical_or, known) if known else None
    return _added(call.args[0], values) if _same_places(call, name) else None


def _false(expr: Expr, values: Mapping[relax.Var, Expr]) -> Hidden | None:
    """Where truth values are false, whatever the inputs are; None if that is not known of any place."""
    array = array_of(expr)
    if array is not None:
        return _of_all(~array.astype(bool))
    call = _call_of(expr, values)
    if call is None:
        return None
    name = op_name(call)
    if name in ("logical_and", "bitwise_and", "multiply"):
        return _either(_false(call.args[0], values), _false(call.args[1], values))
    return _false(call.args[0], values) if _same_places(call, name) else None


def _call_of(expr: Expr, values: Mapping[relax.Var, Expr]) -> Call | None:
    """The operator that makes a tensor."""
    call = values.get(expr) if isinstance(expr, relax.Var) else None
    return call if isinstance(call, Call) and is_tensor(call) else None


def _same_places(call: Call, name: str) -> bool:
    """Whether a call keeps the last two axes of its operand, or repeats them."""
    if name not in ("astype", "broadcast_to", "reshape", "expand_dims"):
        return False
    given, made = shape_of(call.args[0]), shape_of(call)
    if name in ("astype", "broadcast_to"):
        return True
    return (1, 1, *given)[-2:] == (1, 1, *made)[-2:]


def _either(one: Hidden | None, other: Hidden | None) -> Hidden | None:
    return other if one is None else one if other is None else one | other


def _of_all(hidden: npt.NDArray[np.bool_]) -> Hidden:
    """What is hidden in all batches."""
    while hidden.ndim < 2:
        hidden = hidden[None]
    return np.asarray(hidden.all(axis=tuple(range(hidden.ndim - 2))))
