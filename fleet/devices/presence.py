"""Presence of devices, and which process holds a device's identity when two use it.

A process of the agent has a random `boot_id`; each of its sessions has a number and a token, and a status lists the
tokens of the sessions before it, which the device keeps on disk. Whoever lists the token of the last session known here
*continues* the record. A copied card continues it, too, but only until the original speaks again:

- A process that appears while another holds the identity takes it for the time being; the other one is remembered as
  the *former*. If the former opens another session, both are alive: it was here first, so it gets the identity back
  and the newcomer is *refused*. A former that is silent for `RETURN_S` has lost it, unless the newcomer never
  continued the record.
- A refused process is told so, stops, and asks again now and then. It is accepted once the holder has stopped or has
  not been heard of for `RETURN_S`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgec.fleet.store.tables import Device
from edgec.protocol.codec import decode
from edgec.protocol.status import Health, Presence, RivalNotice, Status

RETURN_S = 180.0
UNPROVEN_S = 86400.0
"""After this long without the former, a record that was not continued is accepted as it is."""
SHOWN_S = 86400.0
MAX_SEQ = 2**62


@dataclass(slots=True)
class Arrival:
    """What a status changed.

    Attributes:
        online: the device has just come online.
        notice: to be sent to the device.
        entry: for the audit log; empty if there is nothing to record.
    """

    online: bool = False
    notice: RivalNotice | None = None
    entry: dict[str, Any] = field(default_factory=dict)


def apply_status(device: Device, payload: bytes, now: float) -> Arrival:
    """Apply a status, unless it belongs to a past session or to a process that does not hold the identity.

    Raises:
        ProtocolError: the payload is not a valid status.
    """
    status = decode(Status, payload)
    _settle(device, now)
    rival = device.rival or {}
    if device.state == "never" or not device.boot_id:
        return _accept(device, status, now)
    if status.boot_id == device.boot_id:
        return _same_process(device, status, now)
    if not status.session:  # An agent from before tokens: only the number tells its sessions apart.
        return _accept(device, status, now) if status.supersedes(_known(device)) else Arrival()
    if status.boot_id == rival.get("boot_id"):
        return _rival_speaks(device, status, now)
    if status.state is not Presence.ONLINE or status.session in device.session_tokens:
        return Arrival()  # Of a session before the current one, on its way for long.
    return _newcomer(device, status, now)


def apply_heard(device: Device, health: Health, now: float) -> bool:
    """Note that a process reports: presence follows what is heard, and not only what the broker says.

    Returns:
        Whether the report counts: that of a process which does not hold the identity does not.
    """
    rival = device.rival or {}
    if health.boot_id == rival.get("boot_id"):
        device.rival = rival | {"heard_at": now}
        return bool(rival.get("role") != "refused")
    if health.boot_id == device.boot_id:
        newer = health.session_seq > device.session_seq
        if device.state == "offline" or newer:
            device.state = "online"
        device.session_seq = max(device.session_seq, min(health.session_seq, MAX_SEQ))
    elif device.state != "online":  # The status that announced it was lost.
        device.state, device.boot_id = "online", health.boot_id[:64]
        device.session_seq = min(health.session_seq, MAX_SEQ)
    device.report_interval_s = health.interval_s
    return True


def duplicate(device: Device, now: float) -> dict[str, Any] | None:
    """The refused second process of a device, for people; None if there is none."""
    rival = device.rival or {}
    if rival.get("role") != "refused" or now - rival["heard_at"] > SHOWN_S:
        return None
    return {
        "holder": device.boot_id, "refused": rival["boot_id"], "since": rival["since"], "heard_at": rival["heard_at"]
    }  # fmt: skip


def _known(device: Device) -> Status:
    return Status(state=Presence(device.state), boot_id=device.boot_id, session_seq=device.session_seq)


def _settle(device: Device, now: float) -> None:
    """End what has lasted long enough."""
    rival = device.rival or {}
    if rival.get("role") == "former":
        if now - rival["since"] > (RETURN_S if rival["proven"] else UNPROVEN_S):
            device.session_tokens = rival["tokens"]
            # The former stays known by name: should it return after all, there are two.
            device.rival = rival | {"role": "past"}
    elif rival and now - rival.get("heard_at", now) > SHOWN_S:
        device.rival = {}


def _take(device: Device, status: Status, now: float) -> bool:
    """Copy a status into the row; returns whether the device has just come online."""
    online = status.state is Presence.ONLINE
    device.state = status.state.value
    device.boot_id, device.session_seq = status.boot_id, min(status.session_seq, MAX_SEQ)
    if online:
        device.agent_version = (status.agent_version or device.agent_version)[:64]
        device.target = (status.target or device.target)[:64]
    if status.state is not Presence.OFFLINE:
        # A last will carries the time when the broker noticed, not when the device was last seen.
        device.last_seen = max(device.last_seen or 0.0, now)
    return online


def _tokens(status: Status) -> list[str]:
    return [status.session, *status.before][: Status.REMEMBERED]


def _accept(device: Device, status: Status, now: float) -> Arrival:
    if status.session and status.state is Presence.ONLINE:
        device.session_tokens = _tokens(status)
    return Arrival(online=_take(device, status, now))


def _same_process(device: Device, status: Status, now: float) -> Arrival:
    if not status.supersedes(_known(device)):
        return Arrival()
    rival = device.rival or {}
    if status.session and status.state is Presence.ONLINE:
        if rival.get("role") == "former":
            device.rival = rival | {"tokens": _tokens(status)}
            if rival["proven"]:
                device.session_tokens = _tokens(status)
        else:
            device.session_tokens = _tokens(status)
    notice = _notice(device) if status.state is Presence.ONLINE and duplicate(device, now) else None
    return Arrival(_take(device, status, now), notice)


def _rival_speaks(device: Device, status: Status, now: float) -> Arrival:
    rival = device.rival
    if status.state is not Presence.ONLINE or status.session_seq <= rival["session_seq"]:
        return Arrival()
    if rival["role"] == "former":
        return _give_back(device, status, now)
    if rival["role"] == "past":
        device.rival = _refused(status.boot_id, status.session_seq, now)
        return Arrival(notice=_notice(device), entry=_entry(device))
    if device.state != "online" and (device.state == "stopped" or now - (device.last_seen or 0.0) > RETURN_S):
        device.rival = {}
        return _newcomer(device, status, now)
    device.rival = rival | {"session_seq": min(status.session_seq, MAX_SEQ), "heard_at": now}
    return Arrival(notice=_notice(device))


def _newcomer(device: Device, status: Status, now: float) -> Arrival:
    """A process that was not here before takes the identity, for the time being if another may still be alive."""
    rival = device.rival or {}
    proven = not device.session_tokens or device.session_tokens[0] in status.before
    unproven_holder = rival.get("role") == "former" and not rival["proven"]
    if proven and unproven_holder and device.state == "online":
        # The holder never continued the record, this one does.
        device.rival = _refused(device.boot_id, device.session_seq, now)
        device.session_tokens = _tokens(status)
        return Arrival(_take(device, status, now), _notice(device), _entry(device))
    if device.state == "stopped" and proven:
        if rival.get("role") != "refused":
            device.rival = {}
        device.session_tokens = _tokens(status)
        return Arrival(_take(device, status, now))
    device.rival = {
        "boot_id": device.boot_id, "session_seq": device.session_seq, "role": "former", "proven": proven,
        "since": now, "heard_at": now, "tokens": _tokens(status),
    }  # fmt: skip
    if proven:
        device.session_tokens = _tokens(status)
    return Arrival(_take(device, status, now))


def _give_back(device: Device, status: Status, now: float) -> Arrival:
    """The former process is alive: it has the identity again, and the newcomer is refused."""
    device.rival = _refused(device.boot_id, device.session_seq, now)
    device.session_tokens = _tokens(status)
    return Arrival(_take(device, status, now), _notice(device), _entry(device))


def _refused(boot_id: str, session_seq: int, now: float) -> dict[str, Any]:
    seq = min(session_seq, MAX_SEQ)
    return {"boot_id": boot_id, "session_seq": seq, "role": "refused", "since": now, "heard_at": now}


def _notice(device: Device) -> RivalNotice:
    return RivalNotice(holder=device.boot_id, refused=device.rival["boot_id"])


def _entry(device: Device) -> dict[str, Any]:
    return {"holder": device.boot_id, "refused": device.rival["boot_id"]}
