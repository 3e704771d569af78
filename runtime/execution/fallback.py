"""Segments that run on ONNX Runtime, called from compiled code.

The compiled function calls them by name as external functions. Where it knows the shapes of the results, it owns their
memory and ONNX Runtime writes straight into it; inputs are never copied. `onnxruntime` is imported here, and only for
an artifact that has such segments.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgec.runtime.artifact import oci
from edgec.runtime.artifact.config import Segment
from edgec.runtime.artifact.reader import Artifact
from edgec.runtime.errors import ArtifactError, IncompatibleDevice
from edgec.runtime.execution.shared_libraries import ffi
from edgec.runtime.execution.threads import Threading
from edgec.targets.telemetry import silence_onnxruntime

_PREFIX = "edgec.fallback."
_lock = threading.Lock()
_users: dict[str, int] = {}


def session_of(artifact: Artifact, segment: Segment, threads: Threading) -> Any:  # noqa: ANN401 - no import of its type
    """Create an ONNX Runtime session for a segment's graph.

    Raises:
        ArtifactError: the graph is missing.
        IncompatibleDevice: ONNX Runtime is not installed, or too old for the graph.
    """
    layer = artifact.layer(oci.FALLBACK_TYPE, segment.layer)
    if layer is None:
        raise ArtifactError(f"{artifact.path}: the graph {segment.layer!r} of a segment is missing")
    silence_onnxruntime()
    try:
        import onnxruntime as ort
    except ModuleNotFoundError:
        nodes = ", ".join(segment.nodes[:3]) + (", …" if len(segment.nodes) > 3 else "")
        raise IncompatibleDevice(
            f"{artifact.config.name} runs {len(segment.nodes)} nodes ({nodes}) through ONNX Runtime, "
            "which is not installed here: pip install onnxruntime"
        ) from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads.threads
    options.log_severity_level = 3
    # Its workers would spin for milliseconds after each segment, on the cores that the next kernels wait for.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # the optimiser left out makes invalid nodes of quantised models, from operator set 21 on (1.31, 1.32)
    return ort.InferenceSession(
        artifact.read(layer),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["QDQPropagationTransformer"],
    )


class FallbackSegments:
    """The fallback segments of one loaded library, registered by name for compiled code until `close`."""

    def __init__(self, artifact: Artifact, segments: Sequence[Segment], threads: Threading) -> None:
        self._names: list[str] = []
        self._calls: dict[str, tuple[int, Callable[..., Any]]] = {}
        for segment in segments:
            if not segment.function.startswith(_PREFIX):
                raise ArtifactError(f"{artifact.path}: the function of a segment is not named {_PREFIX}…")
            call = _caller(session_of(artifact, segment, threads), segment)
            with _lock:
                # equal graphs share a name, and it does not matter which of them is called
                _users[segment.function] = _users.get(segment.function, 0) + 1
                ffi().register_global_func(segment.function, call, override=True)
            self._names.append(segment.function)
            self._calls[segment.function] = len(segment.inputs), call

    def input_count(self, function: str) -> int:
        """The number of inputs of a segment.

        Raises:
            ArtifactError: the artifact has no segment of this name.
        """
        return self._named(function)[0]

    def call(self, function: str, arrays: Sequence[Any]) -> list[Any]:
        """Run a segment on arrays of the host: its inputs, then its outputs, into which it writes.

        Returns:
            its outputs, where none were given.

        Raises:
            ArtifactError: the artifact has no segment of this name.
        """
        made = self._named(function)[1](*arrays)
        if made is None:
            return []
        return [np.from_dlpack(one) for one in (made if isinstance(made, list) else [made])]

    def _named(self, function: str) -> tuple[int, Callable[..., Any]]:
        if function not in self._calls:
            raise ArtifactError(f"the artifact's code calls the segment {function}, which it does not have")
        return self._calls[function]

    def close(self) -> None:
        """Release the sessions that no other loaded artifact uses."""
        names, self._names = self._names, []
        self._calls.clear()
        with _lock:
            for name in names:
                _users[name] -= 1
                if _users[name] == 0:
                    del _users[name]
                    ffi().registry.remove_global_func(name)


def _caller(session: Any, segment: Segment) -> Callable[..., Any]:  # noqa: ANN401 - an InferenceSession
    inputs, outputs = segment.inputs, segment.outputs

    def call(*tensors: Any) -> Any:  # noqa: ANN401 - tensors, or nothing
        arrays = [np.from_dlpack(tensor) for tensor in tensors]
        if len(arrays) == len(inputs):  # shapes depend on the data: ONNX Runtime allocates the results
            results = session.run(list(outputs), dict(zip(inputs, arrays, strict=True)))
            wrapped = [ffi().from_dlpack(np.asarray(result, order="C")) for result in results]
            return wrapped[0] if len(wrapped) == 1 else wrapped
        binding = session.io_binding()
        for name, array in zip(inputs, arrays, strict=False):
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in zip(outputs, arrays[len(inputs) :], strict=True):
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        session.run_with_iobinding(binding)
        return None

    return call
