"""What is known of the machine that compiles: measured once, kept in the user's cache folder."""

from __future__ import annotations

from dataclasses import replace

from edgec.compiler.backends.interface import Backend
from edgec.compiler.backends.registry import backend_of
from edgec.compiler.cache_folder import default_folder
from edgec.compiler.progress import Progress, Silent
from edgec.targets import Target, usable_cores
from edgec.targets.machine_rates import MachineRates, RatesFile
from edgec.targets.microarchitecture import UNKNOWN, this_processor


def known_rates(
    backend: Backend, progress: Progress | None = None, *, anew: bool = False
) -> MachineRates | None:
    """The rates of this machine with the instructions of a target; None where it cannot run them.

    They are measured by the first caller on a CPU model, and with `anew`.
    """
    if not backend.can_time or backend.target.timed_on is not None:
        return None
    file = RatesFile(default_folder(), this_processor()[0], backend.target.name)
    found = None if anew else file.read()
    if found is None or found.threads < usable_cores():
        (progress or Silent()).stage("machine")
        found = backend.machine_rates(usable_cores())
        if found is not None:
            file.write(found)
    return found


def estimated(target: Target, progress: Progress | None = None) -> Target:
    """`target` with the core of this machine as measured, if it is `host` and its file describes another core."""
    family = this_processor()[1]
    if not target.here or family in (UNKNOWN, target.core.microarchitecture):
        return target
    rates = known_rates(backend_of(target), progress)
    return target if rates is None else replace(target, core=rates.core(target))
