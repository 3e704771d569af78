"""Pass the inference process's reports to the parts that need them."""

from __future__ import annotations

from collections.abc import Callable

from edgec.device_agent.cloud.outbox import Outbox
from edgec.device_agent.health.degraded import Degraded
from edgec.device_agent.inference.messages import DetectionFound, PictureTaken
from edgec.device_agent.updates.watchdog import Watchdog
from edgec.protocol.events import DetectionData
from edgec.protocol.topics import Topics


class InferenceObserver:
    """Takes detections into the outbox and deaths to the watchdog."""

    def __init__(
        self,
        topics: Topics,
        outbox: Outbox,
        watchdog: Watchdog,
        degraded: Degraded,
        on_capture: Callable[[], None],
        on_picture: Callable[[str, bytes], object],
        on_change: Callable[[], None],
        on_unloadable: Callable[[str], None],
    ) -> None:
        self._on_unloadable = on_unloadable
        self._topics, self._outbox, self._watchdog, self._degraded = topics, outbox, watchdog, degraded
        self._on_capture, self._on_picture, self._on_change = on_capture, on_picture, on_change

    def detection(self, message: DetectionFound) -> None:
        """Put a detection into the outbox.

        Raises:
            ValidationError: it is malformed, which is a defect of the inference process.
        """
        stream, topics = message.stream, self._topics
        self._outbox.put_event(
            topics.events(stream),
            f"/edgec/{topics.fleet}/{topics.device}/{stream}",
            stream,
            message.id,
            DetectionData.model_validate(message.data),
            critical=message.critical,
        )

    def capture_kept(self) -> None:
        """Send a new capture."""
        self._on_capture()

    def picture_taken(self, message: PictureTaken) -> None:
        """Publish a picture for the broker's users, if there is a session: a late one is worthless."""
        self._on_picture(self._topics.picture(message.stream), message.jpeg)

    def inference_died(self, suspect: int) -> None:
        """End the open tracks; a model that kills the process repeatedly is rolled back."""
        if suspect:
            for slot, why in self._watchdog.died(suspect):
                self._degraded.record(f"model {slot}", why)
        self._outbox.end_open_tracks(self._topics.events)

    def inference_changed(self) -> None:
        """Report the change."""
        self._on_change()

    def model_unloadable(self, slot: str) -> None:
        """Have the store mended, if that is the reason."""
        self._on_unloadable(slot)
