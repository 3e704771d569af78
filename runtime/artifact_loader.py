"""Load an artifact: first all checks, then its code.

Digests, format version, runtime ABI, architecture, instruction-set features and C library are checked before any code
is mapped. The loaded bytes are the checked ones: the code is read once, hashed, and loaded from memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgec.runtime.artifact import oci
from edgec.runtime.artifact.config import ArtifactConfig
from edgec.runtime.artifact.reader import MODEL_LIBRARY, PROCESSING_LIBRARY, Artifact, program_title
from edgec.runtime.artifact.weights import Weight
from edgec.runtime.compatibility import check_device
from edgec.runtime.device import Device, device_of
from edgec.runtime.errors import ArtifactError
from edgec.runtime.execution.compiled_functions import Array
from edgec.runtime.execution.threads import Threading
from edgec.runtime.model import Model, Variant


def load_artifact(artifact: Artifact, threads: int | None, affinity: Sequence[int] | None) -> Model:
    """Check and load an open artifact; arguments and errors are those of `edgec.runtime.load`."""
    check_device(artifact.config)
    wanted = Threading.of(threads or artifact.config.threads, affinity)
    device = device_of(artifact.config.device_kind)
    device.load_installed()
    libraries = [_checked_code(artifact, title, device) for title in libraries_of(artifact.config)]
    processing = _checked_code(artifact, PROCESSING_LIBRARY, device) if artifact.config.around else b""
    artifact.verify_digests(skip=(oci.CODE_TYPE,))
    weights = artifact.weights()
    device.ensure_runtime(lambda name: _bundled(artifact, name))
    variants = [
        _variant(artifact, number, config, device, code, weights, wanted)
        for number, (config, code) in enumerate(zip(artifact.config.variants(), libraries, strict=True))
    ]
    return Model(artifact, variants, wanted, processing)


def libraries_of(config: ArtifactConfig) -> list[str]:
    """Titles of the model's code layers, that of the first set of input shapes first."""
    return [MODEL_LIBRARY, *(bucket.layer for bucket in config.buckets)]


def _checked_code(artifact: Artifact, title: str, device: Device) -> bytes:
    code = artifact.code(title)
    device.check_code(code, artifact.config)
    return code


def _variant(
    artifact: Artifact,
    number: int,
    config: ArtifactConfig,
    device: Device,
    code: bytes,
    weights: dict[str, Weight],
    wanted: Threading,
) -> Variant:
    """Load the code for one set of input shapes and bind it to its weights."""
    fallback = None
    if config.segments:
        from edgec.runtime.execution.fallback import FallbackSegments

        fallback = FallbackSegments(artifact, config.segments, wanted)
    if config.calls:
        from edgec.runtime.execution.sequences import register

        register(config.calls)
    # that of a model that varies is for libedgec
    calls = None if config.varies else artifact.layer(oci.PROGRAM_TYPE, program_title(number))
    function = device.function(
        code,
        config,
        ordered(weights, config.weights),
        fallback,
        None if calls is None else bytes(artifact.blob(calls.digest)),
    )
    return Variant(config, function, device.use_threads, initial_values(config, weights))


def initial_values(config: ArtifactConfig, weights: dict[str, Weight]) -> list[Array | None]:
    """What the config's states begin with, in their order; None for zeros.

    Raises:
        ArtifactError: a state does not fit the input, the output or the stored array that it names.
    """
    shapes = [{(s.name, s.shape, s.dtype) for s in specs} for specs in (config.inputs, config.outputs)]
    found: list[Array | None] = []
    for state in config.states:
        kind = (state.shape, state.dtype)
        if (state.input, *kind) not in shapes[0] or (state.output, *kind) not in shapes[1]:
            raise ArtifactError(f"the artifact's state {state} does not fit its inputs and outputs")
        value = None if state.initial is None else ordered(weights, [state.initial])[0].array
        if value is not None and (value.shape, str(value.dtype)) != kind:
            raise ArtifactError(
                f"the artifact's state {state} begins with a {value.dtype}{list(value.shape)}"
            )
        found.append(value)
    return found


def ordered(weights: dict[str, Weight], names: Sequence[str]) -> list[Weight]:
    """Select weights by name, in the order of `names`.

    Raises:
        ArtifactError: one is missing.
    """
    missing = [name for name in names if name not in weights]
    if missing:
        raise ArtifactError(f"the artifact's weights lack {missing[0]!r}")
    return [weights[name] for name in names]


def _bundled(artifact: Artifact, name: str) -> bytes | None:
    layer = artifact.bundled().get(name)
    return None if layer is None else artifact.read(layer)
