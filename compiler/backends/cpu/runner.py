"""Run code for a CPU on this machine, or in an emulator of its architecture."""

from __future__ import annotations

from edgec.compiler.backends.cpu.emulator import ROOT_VARIABLE, find_emulator
from edgec.compiler.backends.interface import Runner
from edgec.compiler.backends.this_machine import ThisMachine
from edgec.compiler.errors import ToolMissing
from edgec.targets import machine_arch, machine_features
from edgec.targets.loader import detect
from edgec.targets.target import Target


def runs_here(target: Target) -> bool:
    """Whether this machine can run (and so time) code for `target`."""
    here = detect()
    return target.device_kind == "cpu" and target.arch == here.arch and target.features <= here.features


def runner_of(target: Target) -> Runner:
    """The runner of a target's code: this machine or an emulator.

    Raises:
        ToolMissing: neither is possible here.
    """
    if target.arch == machine_arch():
        lacking = sorted(target.features - machine_features())
        if not lacking:
            return ThisMachine()
        raise ToolMissing(
            f"code for {target.name} cannot run here: this CPU lacks {', '.join(lacking)}. Compile on such a "
            "machine, or pass --no-verify and run `edgec verify` there"
        )
    emulator = find_emulator(target)
    if emulator is None:
        raise ToolMissing(
            f"code for {target.name} cannot be verified here: that needs qemu-user-static and an emulator "
            f"root (scripts/make_emulator_root.py, {ROOT_VARIABLE}). --no-verify compiles without verification"
        )
    return emulator
