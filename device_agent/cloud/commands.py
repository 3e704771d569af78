"""Commands that arrive as jobs: snapshot, capture, restart-stream, report-health, restart, rollback."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from edgec.device_agent.cloud.capture_jobs import take_captures
from edgec.device_agent.errors import UpdateError
from edgec.device_agent.inference.runner import Inference
from edgec.device_agent.inference.streams import Streams
from edgec.device_agent.process.loop import Loop
from edgec.device_agent.updates.catalog import Catalog
from edgec.protocol.jobs import CommandDocument


class Commands:
    """Carries commands out.

    Args:
        loop: the supervisor's.
        inference: takes captures, and is restarted.
        streams: are restarted.
        catalog: rolls a slot back.
        enrolled: whether a fleet server takes captures.
        report_health: publishes health on request.
    """

    def __init__(
        self,
        loop: Loop,
        inference: Inference,
        streams: Streams,
        catalog: Catalog,
        *,
        enrolled: bool,
        report_health: Callable[[], None],
    ) -> None:
        self._loop, self._inference, self._streams, self._catalog = loop, inference, streams, catalog
        self._enrolled, self._report_health = enrolled, report_health

    def carry_out(self, job_id: str, document: CommandDocument) -> dict[str, Any] | Future[dict[str, Any]]:
        """Return the job's details, now or later.

        Raises:
            UpdateError: the command cannot be carried out here.
        """
        match document.operation:
            case "snapshot" | "capture":
                if not self._enrolled:
                    raise UpdateError(
                        "this device is not enrolled: there is no fleet server to upload captures to"
                    )
                return take_captures(self._loop, self._inference, job_id, document)
            case "restart-stream":
                runner = self._streams.runners.get(document.stream or "")
                if runner is None:
                    raise UpdateError(f"there is no stream {document.stream}")
                runner.restart("the fleet requested it")
            case "report-health":
                self._report_health()
            case "restart":
                self._inference.kill("the fleet requested it")
            case "rollback":
                digest = document.parameters.get("digest")
                slot, version = self._catalog.roll_back(document.slot, str(digest) if digest else None)
                self._inference.load_slot(slot)
                return {"slot": slot, "running_version": version.version, "running_digest": version.digest}
        return {}
