"""Load an artifact: first every check, then its code.

Before a byte of code is mapped, digests, format version, runtime ABI, architecture, instruction-set
features and C library have been checked. What was checked is what is loaded: the code is read once,
hashed, and loaded from memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgec.runtime import oci
from edgec.runtime.artifact import AROUND_LIBRARY, MODEL_LIBRARY, Artifact
from edgec.runtime.compiled_functions import NativeFunction, check_code, little_endian, load_code
from edgec.runtime.config import RUNTIME_ABI, ArtifactConfig
from edgec.runtime.errors import ArtifactError, IncompatibleDevice
from edgec.runtime.model import Model, Variant
from edgec.runtime.shared_libraries import check_ffi, ensure_runtime, load_installed
from edgec.runtime.threads import Threading
from edgec.runtime.weights import Weight
from edgec.targets.detection import machine_arch, machine_features, machine_glibc


def load_artifact(artifact: Artifact, threads: int | None, affinity: Sequence[int] | None) -> Model:
    """The model of an opened artifact, as :func:`edgec.runtime.load` says."""
    check_device(artifact.config)
    wanted = Threading.of(threads or artifact.config.threads, affinity)
    load_installed()
    libraries = [_checked_code(artifact, title) for title in libraries_of(artifact.config)]
    around = _checked_code(artifact, AROUND_LIBRARY) if artifact.config.around else b""
    artifact.verify_digests(skip=(oci.CODE_TYPE,))
    weights = artifact.weights()
    ensure_runtime(lambda name: _bundled(artifact, name))
    variants = [
        _variant(artifact, config, code, weights, wanted)
        for config, code in zip(artifact.config.variants(), libraries, strict=True)
    ]
    return Model(artifact, variants, wanted, around)


def libraries_of(config: ArtifactConfig) -> list[str]:
    """The titles of the code layers of the model, that of the first set of input shapes first."""
    return [MODEL_LIBRARY, *(bucket.layer for bucket in config.buckets)]


def _checked_code(artifact: Artifact, title: str) -> bytes:
    code = artifact.code(title)
    check_code(code, artifact.config)
    return code


def _variant(
    artifact: Artifact, config: ArtifactConfig, code: bytes, weights: dict[str, Weight], wanted: Threading
) -> Variant:
    """The model for one set of input shapes, its code loaded and bound to its weights."""
    foreign = None
    if config.segments:
        from edgec.runtime.fallback import Foreign

        foreign = Foreign(artifact, config.segments, wanted)
    own = ordered(weights, config.weights)
    engine = NativeFunction(load_code(code), config.entry, own, config.inputs, foreign, config.plan)
    return Variant(config, engine)


def ordered(weights: dict[str, Weight], names: Sequence[str]) -> list[Weight]:
    """The weights of these names, in this order.

    Raises:
        ArtifactError: one is not there.
    """
    missing = [name for name in names if name not in weights]
    if missing:
        raise ArtifactError(f"the artifact's weights lack {missing[0]!r}")
    return [weights[name] for name in names]


def check_device(config: ArtifactConfig) -> None:
    """Check that this machine can run the artifact, from its config alone: for a device before it downloads.

    Raises:
        IncompatibleDevice: it cannot; the message says what the artifact needs and what there is here.
    """
    what = f"{config.name} {config.version} was compiled for {config.target}"
    arch = machine_arch()
    if config.arch != arch:
        raise IncompatibleDevice(f"{what} ({config.arch}); this machine is {arch}")
    if config.device_kind != "cpu":
        raise IncompatibleDevice(f"{what}, a {config.device_kind} device; this runtime drives CPUs only")
    if not little_endian():
        raise IncompatibleDevice(f"{what}; its weights are little-endian and this machine is not")
    if config.runtime_abi != RUNTIME_ABI:
        raise IncompatibleDevice(
            f"{what} with runtime ABI {config.runtime_abi}; this edgec has {RUNTIME_ABI}: "
            "compile the model again, or install the edgec that it was compiled with"
        )
    missing = sorted(set(config.required_features) - machine_features())
    if missing:
        raise IncompatibleDevice(
            f"{what}, which has {', '.join(missing)}; this machine's processor has not: "
            "compile for the target that `edgec targets detect` names here"
        )
    _check_glibc(config, what)
    check_ffi()


def _check_glibc(config: ArtifactConfig, what: str) -> None:
    if config.min_glibc is None:
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


def _bundled(artifact: Artifact, name: str) -> bytes | None:
    layer = artifact.bundled().get(name)
    return None if layer is None else artifact.read(layer)
