"""Every stream: its capture process, its ring in the live view and its pipeline, added and removed together."""

from __future__ import annotations

from collections.abc import Callable

from edgec.device_agent.capture.runner import StreamRunner
from edgec.device_agent.config.settings import StreamSection, differs_live
from edgec.device_agent.inference.runner import Inference
from edgec.device_agent.process.loop import Loop
from edgec.device_agent.view.runner import ViewRunner


class Streams:
    """The streams of the present configuration; `on_change` is called when one changes its state."""

    def __init__(
        self, loop: Loop, inference: Inference, view: ViewRunner | None, on_change: Callable[[], None]
    ) -> None:
        self._loop, self._inference, self._view, self._on_change = loop, inference, view, on_change
        self.runners: dict[str, StreamRunner] = {}

    def add(self, name: str, settings: StreamSection) -> None:
        """Start a stream unless the configuration disables it."""
        if not settings.enabled:
            return
        view_fds = self._view.add(name, settings) if self._view is not None else ()
        runner = StreamRunner(name, settings, self._loop, lambda _: self._on_change(), view_fds)
        self.runners[name] = runner
        self._inference.add_stream(runner)
        runner.start()

    def change(self, name: str, settings: StreamSection) -> None:
        """Go on with other settings; the source is opened anew only where they need it."""
        runner = self.runners.get(name)
        if runner is not None and settings.enabled and differs_live(runner.settings, settings):
            runner.settings = settings
            self._inference.change_stream(runner)
            return
        self.remove(name)
        self.add(name, settings)

    def remove(self, name: str) -> None:
        """End a stream and its tracks."""
        runner = self.runners.pop(name, None)
        if runner is not None:
            self._inference.remove_stream(name)
            runner.close()
            if self._view is not None:
                self._view.remove(name)

    def tick(self) -> None:
        """Let every stream look after its capture process; called every second."""
        for runner in self.runners.values():
            runner.tick()

    def close(self) -> None:
        """End every capture process."""
        for runner in self.runners.values():
            runner.close()
