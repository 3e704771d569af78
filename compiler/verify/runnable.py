"""Whether what a compile is going to make can be verified here, before it is made."""

from __future__ import annotations

from edgec.compiler.backends.registry import backend_of
from edgec.compiler.errors import ToolMissing
from edgec.compiler.options import Precision
from edgec.compiler.progress import Progress
from edgec.targets import Target
from edgec.targets.features import ELEMENTS

_ELEMENTS: dict[Precision, frozenset[str]] = {"fp16": frozenset({"float16"}), "bf16": frozenset({"bfloat16"})}


def verifiable(target: Target, precision: Precision, progress: Progress) -> Target:
    """`target`, where its code can run here or in an emulator.

    `auto` leaves out the types whose instructions nothing here has, and says so.

    Raises:
        ToolMissing: code in this precision cannot be run here.
    """
    if precision != "auto":
        try:
            backend_of(target.without(target.unused(_ELEMENTS.get(precision, ())))).runner()
        except ToolMissing as error:
            if precision not in _ELEMENTS or not _runs(target.without(target.unused(()))):
                raise
            raise ToolMissing(
                f"{error}; or compile with --precision auto, which leaves {precision} out"
            ) from error
        return target
    for elements in (ELEMENTS, frozenset({"bfloat16"}), frozenset[str]()):
        unused = target.unused(elements)
        if _runs(target.without(unused)):
            break
    else:
        backend_of(target).runner()  # says why not
    if unused:
        types = " and ".join(sorted(ELEMENTS - elements))
        progress.note(
            f"auto leaves out {types}: nothing here runs {', '.join(sorted(unused))}. "
            "--no-verify lets it choose among all"
        )
    return target.without(unused)


def _runs(target: Target) -> bool:
    try:
        backend_of(target).runner()
    except ToolMissing:
        return False
    return True
