"""Whether this machine can run an artifact, judged by the artifact's config alone."""

from __future__ import annotations

import sys

from edgec.runtime.artifact.config import ArtifactConfig
from edgec.runtime.device import device_of
from edgec.runtime.errors import IncompatibleDevice
from edgec.runtime.versions import RUNTIME_ABI
from edgec.targets.detection import machine_arch, machine_features, machine_glibc
from edgec.targets.device_kinds import DEVICE_KINDS

ANY_ARCHITECTURE = "any"  # of an artifact without code for the host


def check_device(config: ArtifactConfig) -> None:
    """Check that this machine can run an artifact; the config suffices, so a device asks before it downloads.

    Raises:
        IncompatibleDevice: it cannot; the message says what the artifact needs and what this machine has.
    """
    what = f"{config.name} {config.version} was compiled for {config.target}"
    arch = machine_arch()
    if config.arch not in (arch, ANY_ARCHITECTURE):
        raise IncompatibleDevice(f"{what} ({config.arch}); this machine is {arch}")
    # A 64-bit kernel tells its own architecture to 32-bit programs, too, as on many a Raspberry Pi.
    if (bits := sys.maxsize.bit_length() + 1) != 64:
        raise IncompatibleDevice(f"{what}, for 64-bit programs; this Python has {bits} bits")
    if sys.byteorder != "little":
        raise IncompatibleDevice(f"{what}, which is little-endian; this machine is {sys.byteorder}-endian")
    if config.device_kind not in DEVICE_KINDS:
        kinds = " and ".join(sorted(DEVICE_KINDS))
        raise IncompatibleDevice(
            f"{what}, a {config.device_kind} device; this runtime drives {kinds} devices only"
        )
    if config.runtime_abi != RUNTIME_ABI:
        raise IncompatibleDevice(
            f"{what} with runtime ABI {config.runtime_abi}; this edgec has {RUNTIME_ABI}: "
            "compile the model again, or install the edgec that it was compiled with"
        )
    missing = sorted(set(config.required_features) - machine_features())
    if missing:
        raise IncompatibleDevice(
            f"{what}; this machine's processor lacks {', '.join(missing)}: "
            "compile for the target that `edgec targets detect` names here"
        )
    _check_glibc(config, what)
    device_of(config.device_kind).check()


def _check_glibc(config: ArtifactConfig, what: str) -> None:
    if not config.min_glibc:
        return
    found = machine_glibc()
    if found is None:
        raise IncompatibleDevice(
            f"{what}, which needs glibc {config.min_glibc}; this system has another C library"
        )
    major, minor = (int(part) for part in config.min_glibc.split(".")[:2])
    if found < (major, minor):
        raise IncompatibleDevice(
            f"{what}, which needs glibc {config.min_glibc}; this system has glibc {found[0]}.{found[1]}"
        )
