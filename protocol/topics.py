"""Topic names: one module builds and parses them for both sides.

All topics are under `edgec/v1/<fleet>/<device>/`:

| topic | direction | QoS, retained |
|---|---|---|
| `status` | device → fleet (and last will) | 1, yes |
| `status/rival` | fleet → device: another process uses its identity | 1, no |
| `health` | device → fleet | 1, no |
| `events/<stream>` | device → fleet | 1, no |
| `shadow/name/<name>/get` | device → fleet | 1, no |
| `shadow/name/<name>/get/accepted`, `…/rejected` | fleet → device | 1, no |
| `shadow/name/<name>/update` | device → fleet (reported), operators through the API (desired) | 1, no |
| `shadow/name/<name>/update/accepted`, `…/rejected`, `…/delta` | fleet → device | 1, no |
| `jobs/notify` | fleet → device: the complete list of pending executions | 1, yes |
| `jobs/get` | device → fleet: request for `jobs/notify` | 1, no |
| `jobs/<job>/update` | device → fleet | 1, no |
| `jobs/<job>/update/accepted`, `…/rejected` | fleet → device | 1, no |
| `picture/<stream>` | device → other users of the broker: a JPEG now and then | 1, no |
| `update/<slot>` | device → other users of the broker: the slot's version, and the one to come | 1, yes |

Devices may also publish Home Assistant's discovery messages, below a node of their own (`discovery_node`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from edgec.protocol.errors import ProtocolError
from edgec.protocol.names import check_name

PREFIX = "edgec/v1"


class Kind(StrEnum):
    """What a topic carries; the value is the topic below the device, with `+` in place of a name."""

    STATUS = "status"
    STATUS_RIVAL = "status/rival"
    HEALTH = "health"
    EVENT = "events/+"
    SHADOW_GET = "shadow/name/+/get"
    SHADOW_GET_ACCEPTED = "shadow/name/+/get/accepted"
    SHADOW_GET_REJECTED = "shadow/name/+/get/rejected"
    SHADOW_UPDATE = "shadow/name/+/update"
    SHADOW_UPDATE_ACCEPTED = "shadow/name/+/update/accepted"
    SHADOW_UPDATE_REJECTED = "shadow/name/+/update/rejected"
    SHADOW_DELTA = "shadow/name/+/update/delta"
    JOBS_NOTIFY = "jobs/notify"
    JOBS_GET = "jobs/get"
    JOB_UPDATE = "jobs/+/update"
    JOB_UPDATE_ACCEPTED = "jobs/+/update/accepted"
    JOB_UPDATE_REJECTED = "jobs/+/update/rejected"
    PICTURE = "picture/+"
    MODEL_UPDATE = "update/+"


FROM_DEVICE = (
    Kind.STATUS, Kind.HEALTH, Kind.EVENT, Kind.SHADOW_GET, Kind.SHADOW_UPDATE, Kind.JOBS_GET, Kind.JOB_UPDATE,
)  # fmt: skip
"""Topics that a device publishes. The fleet subscribes to them, and the broker's access list allows no others."""

TO_DEVICE = (
    Kind.STATUS_RIVAL, Kind.SHADOW_GET_ACCEPTED, Kind.SHADOW_GET_REJECTED, Kind.SHADOW_UPDATE_ACCEPTED,
    Kind.SHADOW_UPDATE_REJECTED, Kind.SHADOW_DELTA, Kind.JOBS_NOTIFY, Kind.JOB_UPDATE_ACCEPTED,
    Kind.JOB_UPDATE_REJECTED,
)  # fmt: skip
"""Topics that a device subscribes to."""


FOR_OTHERS = (Kind.PICTURE, Kind.MODEL_UPDATE)
"""Topics that a device publishes for other users of the broker, such as Home Assistant, and not for the fleet."""

FOR_USERS = (Kind.STATUS, Kind.HEALTH, Kind.EVENT, *FOR_OTHERS)
"""Topics of all devices that are of use to such users."""

DISCOVERY_PREFIX = "homeassistant"
"""Where Home Assistant looks for discovery messages, unless it is told otherwise."""


def discovery_node(fleet: str, device: str) -> str:
    """The node of a device in Home Assistant's discovery topics, `<prefix>/<component>/<node>/<object>/config`.

    Only letters, digits, `_` and `-` are allowed there. `.` is written `_-` and `_` twice, so that no two devices share
    a node: the broker lets each write below its own only.
    """
    return f"edgec-{_escaped(fleet)}-{_escaped(device)}"


def _escaped(name: str) -> str:
    return name.replace("_", "__").replace(".", "_-")


@dataclass(frozen=True, slots=True)
class ParsedTopic:
    """A parsed topic; `name` is the stream, shadow or job, and empty for kinds without one."""

    fleet: str
    device: str
    kind: Kind
    name: str = ""


class Topics:
    """Builder for the topics of one device.

    Raises:
        ProtocolError: The name of the fleet or device is not valid.
    """

    def __init__(self, fleet: str, device: str) -> None:
        self.fleet = check_name(fleet, "fleet name")
        self.device = check_name(device, "device name")
        self.base = f"{PREFIX}/{fleet}/{device}"

    def of(self, kind: Kind, name: str = "") -> str:
        """Return the topic of `kind`, with `name` for kinds that have one.

        Raises:
            ProtocolError: The name is missing, not valid, or given for a kind without one.
        """
        if ("+" in kind) != bool(name):
            raise ProtocolError(f"the topic {kind.value} takes {'a' if '+' in kind else 'no'} name")
        return f"{self.base}/{kind.value.replace('+', check_name(name)) if name else kind.value}"

    @property
    def status(self) -> str:
        """Topic of the device's presence and its last will."""
        return self.of(Kind.STATUS)

    @property
    def status_rival(self) -> str:
        """Topic where the fleet says that another process uses the device's identity."""
        return self.of(Kind.STATUS_RIVAL)

    @property
    def health(self) -> str:
        """Topic of the device's health."""
        return self.of(Kind.HEALTH)

    @property
    def jobs_notify(self) -> str:
        """Topic where the fleet lists the device's pending jobs."""
        return self.of(Kind.JOBS_NOTIFY)

    @property
    def jobs_get(self) -> str:
        """Topic where the device requests that list."""
        return self.of(Kind.JOBS_GET)

    def events(self, stream: str) -> str:
        """Return the topic of the events of `stream`."""
        return self.of(Kind.EVENT, stream)

    def picture(self, stream: str) -> str:
        """Return the topic of the pictures of `stream`."""
        return self.of(Kind.PICTURE, stream)

    def model_update(self, slot: str) -> str:
        """Return the topic of the versions of the model in `slot`."""
        return self.of(Kind.MODEL_UPDATE, slot)

    def job_update(self, job_id: str) -> str:
        """Return the topic where the device reports progress on a job."""
        return self.of(Kind.JOB_UPDATE, job_id)

    def subscriptions(self) -> list[str]:
        """Return the topic filters that a device subscribes to."""
        return [f"{self.base}/{kind.value}" for kind in TO_DEVICE]


def fleet_subscriptions(fleet: str = "+") -> list[str]:
    """Return the topic filters that a fleet server subscribes to, for one fleet or for all."""
    if fleet != "+":
        check_name(fleet, "fleet name")
    return [f"{PREFIX}/{fleet}/+/{kind.value}" for kind in FROM_DEVICE]


_BY_SHAPE = {tuple(kind.value.split("/")): kind for kind in Kind}


def parse(topic: str) -> ParsedTopic:
    """Parse a topic.

    Raises:
        ProtocolError: It is not a topic of this protocol, or contains a name that is not valid.
    """
    levels = topic.split("/")
    if len(levels) < 5 or "/".join(levels[:2]) != PREFIX:
        raise ProtocolError(f"{topic!r} is not under {PREFIX}/<fleet>/<device>/")
    fleet, device, rest = (
        check_name(levels[2], "fleet name"),
        check_name(levels[3], "device name"),
        levels[4:],
    )
    # A filter is not a topic, but its `+` would match the placeholder of a kind with a name.
    if "+" not in rest and (kind := _BY_SHAPE.get(tuple(rest))):
        return ParsedTopic(fleet, device, kind)
    position = 2 if rest[0] == "shadow" else 1
    if len(rest) > position:
        shape = (*rest[:position], "+", *rest[position + 1 :])
        if kind := _BY_SHAPE.get(shape):
            return ParsedTopic(fleet, device, kind, check_name(rest[position]))
    raise ProtocolError(f"{topic!r} is not a topic of this protocol")
