"""Presence of devices, from the status messages they publish."""

from __future__ import annotations

from edgec.fleet.store.tables import Device
from edgec.protocol.codec import decode
from edgec.protocol.status import Presence, Status


def apply_status(device: Device, payload: bytes, now: float) -> bool:
    """Apply a status unless it belongs to a past session; returns whether the device has just come online.

    Raises:
        ProtocolError: the payload is not a valid status.
    """
    status = decode(Status, payload)
    known = None
    if device.state != "never":
        known = Status(state=Presence(device.state), boot_id=device.boot_id, session_seq=device.session_seq)
    if not status.supersedes(known):
        return False
    device.state = status.state.value
    device.boot_id, device.session_seq = status.boot_id, min(status.session_seq, 2**62)
    if status.state is Presence.ONLINE:
        device.agent_version = (status.agent_version or device.agent_version)[:64]
        device.target = (status.target or device.target)[:64]
    if (
        status.state is not Presence.OFFLINE
    ):  # A last will carries the time when the broker noticed, not when the device was last seen.
        device.last_seen = max(device.last_seen or 0.0, now)
    return status.state is Presence.ONLINE
