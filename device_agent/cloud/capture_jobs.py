"""Jobs that request captures: `snapshot` takes one frame of a stream, `capture` several."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from edgec.device_agent.errors import UpdateError
from edgec.device_agent.inference.messages import Answer, TakeCaptures
from edgec.device_agent.inference.runner import Inference
from edgec.device_agent.process.loop import Loop
from edgec.protocol.jobs import CommandDocument

_GRACE_S = 30.0
_MAX_COUNT, _MAX_INTERVAL_S = 500, 3600.0


def take_captures(
    loop: Loop, inference: Inference, job_id: str, document: CommandDocument
) -> Future[dict[str, Any]]:
    """Capture frames for the fleet; the future returns their ids once they are on disk.

    Raises:
        UpdateError: the stream or the parameters are not valid.
    """
    streams = inference.streams
    name = document.stream or (next(iter(streams)) if len(streams) == 1 else "")
    if name not in streams:
        raise UpdateError(f"there is no stream {name}" if name else "the job names no stream")
    if streams[name].settings.model is None:
        raise UpdateError(f"stream {name} has no model that processes it")
    count, interval_s = _parameters(document)
    result: Future[dict[str, Any]] = Future()

    def answered(done: Future[Answer]) -> None:
        late.cancel()
        if result.done():
            return
        error = str(done.exception() or done.result().error)
        kept = [] if done.exception() else done.result().captures
        if kept:
            result.set_result({"captures": kept, "message": error if len(kept) < count else "done"})
        else:
            result.set_exception(UpdateError(error or "no picture was taken"))

    def too_late() -> None:
        if not result.done():
            result.set_exception(UpdateError(f"stream {name} did not process {count} frames in time"))

    late = loop.call_later(count * interval_s + _GRACE_S, too_late)
    inference.request(TakeCaptures(name, count, interval_s, job_id)).add_done_callback(answered)
    return result


def _parameters(document: CommandDocument) -> tuple[int, float]:
    """Return how many frames a job requests, and the seconds between them."""
    if document.operation == "snapshot":
        return 1, 0.0
    count, interval_s = document.parameters.get("count", 1), document.parameters.get("interval_s", 1.0)
    if not isinstance(count, int) or not 1 <= count <= _MAX_COUNT:
        raise UpdateError(f"parameters.count is a whole number from 1 to {_MAX_COUNT}, not {count!r}")
    if not isinstance(interval_s, int | float) or not 0 <= interval_s <= _MAX_INTERVAL_S:
        raise UpdateError(f"parameters.interval_s is 0 to {_MAX_INTERVAL_S:.0f} seconds, not {interval_s!r}")
    return count, float(interval_s)
