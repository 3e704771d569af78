"""Which target a machine is: by its processors and its board, else by what its processors can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgec.targets.cpuinfo import matches, parse_board, parse_cores, parse_cpuinfo, parse_identities
from edgec.targets.errors import UnknownTarget
from edgec.targets.features import ASIMD

if TYPE_CHECKING:
    from edgec.targets.target import Target


@dataclass(frozen=True)
class Machine:
    """What is known of a machine.

    Attributes:
        arch: as `uname -m` spells it.
        features: of all its processors.
        identities: of each processor, see `edgec.targets.cpuinfo`.
        cores: microarchitectures of its processors, as far as known.
        board: names of the board: what the device tree or `/proc/cpuinfo` says; empty where nothing does.
    """

    arch: str
    features: frozenset[str]
    identities: tuple[str, ...] = ()
    cores: frozenset[str] = frozenset()
    board: str = ""


def machine_of(text: str, board: str = "") -> Machine:
    """The machine whose `/proc/cpuinfo` has this text.

    Raises:
        UnknownTarget: it is not the text of a 64-bit machine.
    """
    features, identities = parse_cpuinfo(text), parse_identities(text)
    if ASIMD in features:
        arch = "aarch64"
    elif "lm" in features:
        arch = "x86_64"
    else:
        raise UnknownTarget(
            "this is no /proc/cpuinfo of a 64-bit x86 or ARM machine: it lists neither asimd nor lm"
        )
    return Machine(arch, features, identities, parse_cores(text), board or parse_board(text))


def recognise(machine: Machine, targets: Sequence[Target]) -> Target:
    """The target among `targets` that a machine is, or the most capable that it fulfils.

    Raises:
        UnknownTarget: it fulfils none of them.
    """
    fitting = [
        target
        for target in targets
        if target.arch == machine.arch and target.features <= machine.features and target.device_kind == "cpu"
    ]
    if not fitting:
        raise UnknownTarget(
            f"no known target fits this machine ({machine.arch}); write one and pass its path to --target"
        )
    known = {target.name: _known(target, machine) for target in fitting}
    counted = [target for target in fitting if _counted(target, machine)]
    if len(counted) == 1 and not machine.board:
        return counted[0]

    def rank(target: Target) -> tuple[int, int, bool, int, bool, str]:
        own_core = target.core.microarchitecture in machine.cores
        named = bool(
            target.processors
        )  # a target of certain processors describes others worse than a general one
        return known[target.name], target.vector_bits, own_core, len(target.features), not named, target.name

    return max(fitting, key=rank)


def _known(target: Target, machine: Machine) -> int:
    """How well a target's processors and boards are those of the machine: 0 where it has other processors."""
    if not _same_processors(target, machine):
        return 0
    if not target.boards:
        return 2
    return 3 if any(word.lower() in machine.board.lower() for word in target.boards) else 1


def _counted(target: Target, machine: Machine) -> bool:
    """Whether it is a board with the machine's processors, and as many of them."""
    return (
        bool(target.boards) and _same_processors(target, machine) and len(machine.identities) == target.cores
    )


def _same_processors(target: Target, machine: Machine) -> bool:
    """Whether a target's processors are those of the machine: none is missing, and there is no other."""
    if not target.processors or not machine.identities:
        return False
    if target.arch == "x86_64":  # the patterns are alternatives: the models of a family
        return all(any(matches(one, pattern) for pattern in target.processors) for one in machine.identities)
    return set(machine.identities) == set(target.processors)
