"""Opens the source that a configuration names."""

from __future__ import annotations

from edgec.device_agent.capture.pictures import Folder, TestPattern, Video
from edgec.device_agent.capture.sound import Microphone, SoundFile
from edgec.device_agent.capture.source import FrameSource
from edgec.device_agent.config.source_settings import SourceSettings


def open_source(section: SourceSettings, timeout_s: float) -> FrameSource:
    """Open a source.

    Raises:
        SourceError: it cannot be opened; names the source and what to check.
    """
    match section.kind:
        case "test":
            return TestPattern(section)
        case "folder":
            return Folder(section)
        case "sound":
            return SoundFile(section)
        case "microphone":
            return Microphone(section)
        case _:
            return Video(section, timeout_s)
