"""Errors of the fleet server and its clients.

- FleetError (EdgecError, 1): an error that an operator can fix
    - PortTaken (EdgecError, 1): another program listens on the server's address
    - ServerUnreachable (3): no fleet server answers at the address
        - ServerUnverified: a server answers, with a certificate that nobody vouches for
    - RefusedByServer (4): the server answered with an error
Error responses of the HTTP API are `edgec.fleet.problems.Problem`, which never leaves the server as an exception.
"""

from __future__ import annotations

from edgec.targets.errors import EdgecError


class FleetError(EdgecError):
    """An error of the fleet server that its operator can fix."""


class PortTaken(FleetError):
    """The address to listen on is already in use."""


class ServerUnreachable(FleetError):
    """Nothing that speaks our API answers at the server's address."""

    exit_code = 3


class ServerUnverified(ServerUnreachable):
    """A server answers, but no authority that is known here issued its certificate."""


class RefusedByServer(FleetError):
    """The server refused a request; `status` is the HTTP status."""

    exit_code = 4

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
