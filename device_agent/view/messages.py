"""Messages between the supervisor and the process of the live view."""

from __future__ import annotations

from typing import Any

import msgspec

from edgec.device_agent.process.messages import Message, decoder


class StartView(Message, frozen=True):
    """Listen for browsers."""

    device: str
    host: str
    port: int
    token: str | None


class ShowStream(Message, frozen=True):
    """Offer a stream. Descriptors: the view's ring and its eventfd."""

    stream: str
    zones: list[dict[str, Any]]


class HideStream(Message, frozen=True):
    """Withdraw a stream."""

    stream: str


class ViewListening(Message, frozen=True):
    """The page is served on this port."""

    port: int


class ViewFailed(Message, frozen=True):
    """The page cannot be served."""

    message: str


class WatchChanged(Message, frozen=True):
    """The stream's first watcher came, or its last one left."""

    stream: str
    on: bool


ToView = ShowStream | HideStream
FromView = ViewListening | ViewFailed | WatchChanged
START_VIEW: msgspec.json.Decoder[StartView] = decoder(StartView)
TO_VIEW: msgspec.json.Decoder[ToView] = decoder(ToView)
FROM_VIEW: msgspec.json.Decoder[FromView] = decoder(FromView)
