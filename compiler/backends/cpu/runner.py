"""Run code for a CPU on this machine, or in an emulator of its architecture."""

from __future__ import annotations

from edgec.compiler.backends.interface import Runner
from edgec.compiler.backends.this_machine import ThisMachine
from edgec.compiler.emulation.emulator import find_emulator, lacking
from edgec.compiler.errors import ToolMissing
from edgec.targets import machine_arch, machine_features
from edgec.targets.loader import detect
from edgec.targets.target import Target


def runs_here(target: Target) -> bool:
    """Whether this machine can run (and so time) code for `target`."""
    here = detect()
    return target.device_kind == "cpu" and target.arch == here.arch and target.features <= here.features


def runner_of(target: Target, *, emulate: bool = False) -> Runner:
    """The runner of a target's code: this machine, or an emulator where it cannot run the code.

    Args:
        emulate: take an emulator also where this machine could run the code.

    Raises:
        ToolMissing: neither is possible here.
    """
    here = target.arch == machine_arch()
    missing = sorted(target.features - machine_features()) if here else []
    if here and not missing and not emulate:
        return ThisMachine()
    emulator = find_emulator(target)
    if emulator is not None:
        return emulator
    if missing:
        raise ToolMissing(
            f"code for {target.name} cannot run here: this CPU lacks {', '.join(missing)}, and {lacking(target)}. "
            "Compile on such a machine, or pass --no-verify and run `edgec verify` there"
        )
    raise ToolMissing(
        f"code for {target.name} cannot be run here: {lacking(target)}"
        + ("" if emulate else ". --no-verify compiles without verification")
    )
