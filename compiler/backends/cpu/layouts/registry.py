"""The rules of the layout planner, by operator."""

from __future__ import annotations

from collections.abc import Callable

from tvm.ir import Call

from edgec.compiler.backends.cpu.layouts.value import Plan, Value

Rule = Callable[[Plan, Call], Value | None]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register
