"""Topic names: built in one place, parsed in one place, both sides use both.

Everything lies under ``edgec/v1/<fleet>/<device>/``:

| topic | direction | QoS, retained |
|---|---|---|
| ``status`` | device → fleet (and last will) | 1, yes |
| ``health`` | device → fleet | 1, no |
| ``events/<stream>`` | device → fleet | 1, no |
| ``shadow/name/<name>/get`` | device → fleet | 1, no |
| ``shadow/name/<name>/get/accepted``, ``…/rejected`` | fleet → device | 1, no |
| ``shadow/name/<name>/update`` | device → fleet (reported), operators through the API (desired) | 1, no |
| ``shadow/name/<name>/update/accepted``, ``…/rejected``, ``…/delta`` | fleet → device | 1, no |
| ``jobs/notify`` | fleet → device: the pending executions, whole | 1, yes |
| ``jobs/get`` | device → fleet: please publish ``jobs/notify`` again | 1, no |
| ``jobs/<job>/update`` | device → fleet | 1, no |
| ``jobs/<job>/update/accepted``, ``…/rejected`` | fleet → device | 1, no |
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from edgec.protocol.errors import ProtocolError
from edgec.protocol.names import check_name

PREFIX = "edgec/v1"


class Kind(StrEnum):
    """What a topic carries; the value is the topic below the device with ``+`` for its one name."""

    STATUS = "status"
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


FROM_DEVICE = (
    Kind.STATUS, Kind.HEALTH, Kind.EVENT, Kind.SHADOW_GET, Kind.SHADOW_UPDATE, Kind.JOBS_GET, Kind.JOB_UPDATE,
)  # fmt: skip
"""What a device publishes; the fleet subscribes to these, and a broker's access list allows no more."""

TO_DEVICE = (
    Kind.SHADOW_GET_ACCEPTED, Kind.SHADOW_GET_REJECTED, Kind.SHADOW_UPDATE_ACCEPTED,
    Kind.SHADOW_UPDATE_REJECTED, Kind.SHADOW_DELTA, Kind.JOBS_NOTIFY, Kind.JOB_UPDATE_ACCEPTED,
    Kind.JOB_UPDATE_REJECTED,
)  # fmt: skip
"""What a device subscribes to."""


@dataclass(frozen=True, slots=True)
class ParsedTopic:
    """A topic taken apart; ``name`` is the stream, shadow or job, empty where the kind has none."""

    fleet: str
    device: str
    kind: Kind
    name: str = ""


class Topics:
    """Builds the topics of one device.

    Raises:
        ProtocolError: the fleet's or device's name is not legal.
    """

    def __init__(self, fleet: str, device: str) -> None:
        self.fleet = check_name(fleet, "fleet name")
        self.device = check_name(device, "device name")
        self.base = f"{PREFIX}/{fleet}/{device}"

    def of(self, kind: Kind, name: str = "") -> str:
        """Return the topic of ``kind``, with ``name`` where the kind has one.

        Raises:
            ProtocolError: a name is missing, not legal, or given where there is none.
        """
        if ("+" in kind) != bool(name):
            raise ProtocolError(f"the topic {kind.value} takes {'a' if '+' in kind else 'no'} name")
        return f"{self.base}/{kind.value.replace('+', check_name(name)) if name else kind.value}"

    @property
    def status(self) -> str:
        """Where the device says that it is there; its last will as well."""
        return self.of(Kind.STATUS)

    @property
    def health(self) -> str:
        """Where the device says how it is."""
        return self.of(Kind.HEALTH)

    @property
    def jobs_notify(self) -> str:
        """Where the fleet lists the device's pending jobs."""
        return self.of(Kind.JOBS_NOTIFY)

    @property
    def jobs_get(self) -> str:
        """Where the device asks for that list."""
        return self.of(Kind.JOBS_GET)

    def events(self, stream: str) -> str:
        """Where the events of ``stream`` go."""
        return self.of(Kind.EVENT, stream)

    def job_update(self, job_id: str) -> str:
        """Where the device reports on a job."""
        return self.of(Kind.JOB_UPDATE, job_id)

    def subscriptions(self) -> list[str]:
        """Return the filters a device subscribes to."""
        return [f"{self.base}/{kind.value}" for kind in TO_DEVICE]


def fleet_subscriptions(fleet: str = "+") -> list[str]:
    """Return the filters a fleet server subscribes to, for one fleet or for all."""
    if fleet != "+":
        check_name(fleet, "fleet name")
    return [f"{PREFIX}/{fleet}/+/{kind.value}" for kind in FROM_DEVICE]


_BY_SHAPE = {tuple(kind.value.split("/")): kind for kind in Kind}


def parse(topic: str) -> ParsedTopic:
    """Take a topic apart.

    Raises:
        ProtocolError: it is not one of ours, or a name in it is not legal.
    """
    levels = topic.split("/")
    if len(levels) < 5 or "/".join(levels[:2]) != PREFIX:
        raise ProtocolError(f"{topic!r} is not under {PREFIX}/<fleet>/<device>/")
    fleet, device, rest = (
        check_name(levels[2], "fleet name"),
        check_name(levels[3], "device name"),
        levels[4:],
    )
    # A filter is no topic: its `+` would pass for a kind that takes a name.
    if "+" not in rest and (kind := _BY_SHAPE.get(tuple(rest))):
        return ParsedTopic(fleet, device, kind)
    position = 2 if rest[0] == "shadow" else 1
    if len(rest) > position:
        shape = (*rest[:position], "+", *rest[position + 1 :])
        if kind := _BY_SHAPE.get(shape):
            return ParsedTopic(fleet, device, kind, check_name(rest[position]))
    raise ProtocolError(f"{topic!r} is not a topic of this protocol")
