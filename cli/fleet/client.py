"""The connection of the commands to the fleet server."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgec.fleet.client.connection import FleetClient


def connect(server: str | None, token: str | None) -> FleetClient:
    """Return a client of the server that the options, the environment or the login select."""
    from edgec.fleet.client.connection import FleetClient, resolve

    return FleetClient(*resolve(server, token))
