"""Users of the broker that are no devices, such as Home Assistant: what each may read and write."""

from __future__ import annotations

import re
import threading
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator
from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec.fleet.access.secrets import new_secret
from edgec.fleet.audit.log import audit
from edgec.fleet.broker.access import Rights
from edgec.fleet.broker.passwords import hash_password
from edgec.fleet.problems import Problem
from edgec.fleet.store.database import Database
from edgec.fleet.store.tables import Device, MqttUser
from edgec.protocol.names import Name
from edgec.protocol.topics import FOR_USERS, PREFIX

TopicFilter = Annotated[str, Field(min_length=1, max_length=255)]


class NewMqttUser(BaseModel):
    """A user of the broker to create."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    home_assistant: bool = Field(False, description="What Home Assistant needs: to see all devices.")
    reads: list[TopicFilter] = Field(
        default_factory=list, max_length=64, description="Topic filters to subscribe to."
    )
    writes: list[TopicFilter] = Field(
        default_factory=list, max_length=64, description="Topic filters to publish to."
    )

    @field_validator("reads", "writes")
    @classmethod
    def _filters(cls, values: list[str]) -> list[str]:
        for value in values:
            if not is_filter(value):
                raise ValueError(
                    f"{value!r} is not a topic filter: + and # stand for whole levels, # for the last"
                )
        return values


def is_filter(text: str) -> bool:
    """Whether a text is a topic filter of MQTT, and safe to write into a line of Mosquitto's access list."""
    if not re.fullmatch(r"[^\s\x00-\x1f\x7f](?:[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?", text):
        return False
    levels = text.split("/")
    return all("#" not in one and ("+" not in one or one == "+") for one in levels[:-1]) and (
        levels[-1] in ("#", "+") or not set("#+") & set(levels[-1])
    )


def home_assistant_rights(fleet: str, prefix: str) -> tuple[list[str], list[str]]:
    """What Home Assistant reads and writes: discovery and what devices report; its own birth message."""
    reads = [f"{prefix}/#", *(f"{PREFIX}/{fleet}/+/{kind.value}" for kind in FOR_USERS)]
    return reads, [f"{prefix}/status"]


def create_user(
    session: Session, actor: str, wanted: NewMqttUser, *, fleet: str, prefix: str
) -> tuple[MqttUser, str]:
    """Add a user; the second value is the password, shown once.

    Raises:
        Problem: 409 when a user or a device has the name; 422 without any right.
    """
    taken = session.scalar(select(MqttUser.id).filter_by(name=wanted.name)) or session.scalar(
        select(Device.id).filter_by(name=wanted.name)
    )
    if taken:
        raise Problem(409, "Name taken", f"A device or a user of the broker is called {wanted.name!r}.")
    reads, writes = list(wanted.reads), list(wanted.writes)
    if wanted.home_assistant:
        more_reads, more_writes = home_assistant_rights(fleet, prefix)
        reads, writes = [*more_reads, *reads], [*more_writes, *writes]
    if not reads and not writes:
        raise Problem(
            422, "No rights", "Give it topic filters to read or write, or what Home Assistant needs."
        )
    password = new_secret("mqtt")
    row = MqttUser(
        name=wanted.name, password_hash=hash_password(password), reads=reads, writes=writes, created_by=actor
    )
    session.add(row)
    session.flush()
    audit(session, actor, "mqtt-user.create", row.name, reads=reads, writes=writes)
    return row, password


def delete_user(session: Session, actor: str, name: str) -> None:
    """Remove a user.

    Raises:
        Problem: 404.
    """
    row = session.scalar(select(MqttUser).filter_by(name=name))
    if row is None:
        raise Problem(404, "User not found", f"There is no user of the broker called {name!r}.")
    session.delete(row)
    audit(session, actor, "mqtt-user.delete", name)


class MqttUsers:
    """The rights of all users, kept in memory: the embedded broker asks for them with each message."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._rights: dict[str, Rights] = {}
        self.load()

    def load(self) -> None:
        """Read them again, after a change."""
        with self._lock, self._database.reading() as session:
            self._rights = {
                row.name: Rights(row.password_hash, tuple(row.reads), tuple(row.writes))
                for row in session.scalars(select(MqttUser))
            }

    def rights(self, name: str) -> Rights | None:
        """The rights of a user; None if there is none of this name."""
        return self._rights.get(name)
