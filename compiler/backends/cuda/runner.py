"""Run code for an NVIDIA GPU: on this machine, if it has one that the code is for."""

from __future__ import annotations

from edgec.compiler.backends.interface import Runner
from edgec.compiler.backends.this_machine import ThisMachine
from edgec.compiler.errors import ToolMissing
from edgec.runtime.errors import IncompatibleDevice
from edgec.runtime.gpu.code import capability_of
from edgec.runtime.gpu.driver import shared_driver
from edgec.targets.target import Target


def runner_of(target: Target) -> Runner:
    """This machine.

    Raises:
        ToolMissing: it has no GPU that runs the target's code.
    """
    way_out = "Compile on a machine that has such a GPU, or pass --no-verify and run `edgec verify` there."
    try:
        driver = shared_driver()
    except IncompatibleDevice as error:
        raise ToolMissing(
            f"code for {target.name} cannot run here: {str(error).splitlines()[0].rstrip('.')}.\n{way_out}"
        ) from error
    found = driver.capability
    names = (*target.gpu.architectures, target.gpu.ptx) if target.gpu else ()
    if not any(capability_of(name) <= found for name in names if name):
        raise ToolMissing(
            f"code for {target.name} ({', '.join(names)}) cannot run here: {driver.name} is "
            f"sm_{found[0]}{found[1]}.\n{way_out}"
        )
    return ThisMachine()
