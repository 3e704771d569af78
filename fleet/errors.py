"""Errors of the fleet server and its clients.

- FleetError (EdgecError, 1): what an operator can mend
    - PortTaken (EdgecError, 1): another program listens where the server should
    - ServerUnreachable (3): no fleet server answers at the address
    - RefusedByServer (4): the server answered with a problem
- Problem: an answer of the HTTP API, as RFC 9457 has it; never leaves the server as an exception
"""

from __future__ import annotations

from edgec.targets.errors import EdgecError


class FleetError(EdgecError):
    """Something about the fleet server that its operator can mend."""


class PortTaken(FleetError):
    """The address to listen on is in use."""


class ServerUnreachable(FleetError):
    """Nothing that speaks our API answers at the server's address."""

    exit_code = 3


class RefusedByServer(FleetError):
    """The server understood and said no; `status` is the HTTP status."""

    exit_code = 4

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
