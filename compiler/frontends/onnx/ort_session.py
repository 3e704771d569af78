"""ONNX Runtime as a tool: to check whether it accepts a model, to fold constants, and to run it."""

from __future__ import annotations

import re
import resource
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from onnx import ModelProto
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    NoModel,
    NotImplemented,
    RuntimeException,
)

ORT_ERRORS = (
    Fail,
    InvalidArgument,
    InvalidGraph,
    NoModel,
    NotImplemented,
    RuntimeException,
    UnicodeDecodeError,  # its messages quote names of the model, which in a damaged file may be any bytes
)
# It adds QuantizeLinear nodes whose zero point has another type than they say, from operator set 21 on (1.31, 1.32).
# The other makes one grid of two, of a scale of its own: values move by fractions of a step.
UNSOUND = ["QDQPropagationTransformer", "DoubleQDQPairsRemover"]
MOST_MEMORY = 12 << 30  # bytes that folding may allocate on top of what the process has


def open_session(
    content: bytes | str,
    *,
    threads: int = 1,
    settings: Sequence[str] = (),
    profile: str = "",
    refine: Callable[[ort.SessionOptions], None] | None = None,
) -> ort.InferenceSession:
    """A session of ONNX Runtime on a serialised model, or on a file, without the optimiser that is `UNSOUND`.

    Args:
        content: of the model, or the path of its file.
        threads: for its operators.
        settings: entries of the session's configuration to set to 1.
        profile: a prefix of the file for a profile of the runs; none by default.
        refine: changes further options.

    Raises:
        Exception: one of `ORT_ERRORS` if it rejects the model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    for setting in settings:
        options.add_session_config_entry(setting, "1")
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    if refine is not None:
        refine(options)
    session = ort.InferenceSession(
        content, options, providers=["CPUExecutionProvider"], disabled_optimizers=UNSOUND
    )
    if isinstance(content, bytes) and any(kind in content for kind in (b"LSTM", b"GRU")):
        empty = next((value.name for value in session.get_inputs() if 0 in value.shape), None)
        if empty is not None:
            raise Fail(f"it aborts in recurrent layers without a batch, and the input {empty!r} is empty")
    return session


def reason(error: Exception | None) -> str:
    """Why ONNX Runtime fails, in a line without its codes and the places in its sources."""
    told = re.sub(r"/onnxruntime\S*/\S+:\d+ .*?\) ", "", str(error).strip())
    told = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", told)
    told = re.sub(
        r"^Non-zero status code returned while running \S+ node\. Name:'.*?' Status Message: ", "", told
    )
    return told.splitlines()[0][:200] if told else "without a reason"


def fold(model: ModelProto) -> ModelProto | None:
    """The model after ONNX Runtime's basic optimisations, or None if ONNX Runtime rejects it."""
    # operators that the standard defines by others stay whole: one converter does better than a dozen nodes
    whole = ["session.disable_aot_function_inlining"]
    with tempfile.TemporaryDirectory(prefix="edgec-fold-") as folder:
        file = Path(folder) / "folded.onnx"

        def basic(options: ort.SessionOptions) -> None:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
            options.optimized_model_filepath = str(file)

        try:
            with bounded_memory(MOST_MEMORY):
                open_session(model.SerializeToString(), settings=whole, refine=basic)
        except (*ORT_ERRORS, MemoryError):
            return None
        return onnx.load(file)


@contextmanager
def bounded_memory(extra: int) -> Iterator[None]:
    """Limit this process to `extra` more bytes: folding evaluates any constant in a model, whatever its size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    limit = used + extra if soft == resource.RLIM_INFINITY else min(soft, used + extra)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def runs_in_onnxruntime(content: bytes) -> bool:
    """Whether ONNX Runtime accepts a serialised model."""
    return objection(content) is None


def objection(content: bytes) -> str | None:
    """Why ONNX Runtime rejects a serialised model; None if it accepts it."""
    try:
        open_session(content)
    except ORT_ERRORS as error:
        return reason(error)
    return None


def outputs_of(model: ModelProto, inputs: dict[str, Any]) -> list[Any] | None:
    """The outputs that ONNX Runtime computes; None if it cannot run the model."""
    try:
        return list(open_session(model.SerializeToString()).run(None, inputs))
    except (*ORT_ERRORS, RuntimeError):  # the second of types that numpy lacks, such as bfloat16
        return None
