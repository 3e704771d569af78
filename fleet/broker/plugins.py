"""Plugins of amqtt that admit devices and keep each to its own topics."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from amqtt.contexts import Action
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from edgec.fleet.broker.access import Access
from edgec.fleet.certificates.authority import peer_identity

RULES: dict[str, Access] = {}
"""Rules of each running broker by key: amqtt instantiates its plugins itself, from their names and plain settings."""


@dataclass
class RuleKey:
    """Settings of both plugins: the key of their broker's rules."""

    key: str = ""


class DeviceAuth(BaseAuthPlugin):  # type: ignore[misc]
    """Authenticates devices by password or certificate."""

    Config = RuleKey

    async def authenticate(self, *, session: Session) -> bool:
        """Check user, password, client id and last will."""
        will = session.will_topic if session.will_flag else None
        rules = RULES[self.config.key]
        der = session.ssl_object.getpeercert(binary_form=True) if session.ssl_object else None
        shown = peer_identity(der) if der else None
        username = session.username or (shown[1] if shown else None)
        if username and not session.username:
            session.username = username  # The certificate names the device.
        return await asyncio.to_thread(
            rules.may_connect, username, session.password, session.client_id or "", will, shown
        )


class DeviceTopics(BaseTopicPlugin):  # type: ignore[misc]
    """Restricts each device to its own topics."""

    Config = RuleKey

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool:
        """Check one publish, subscription or delivery."""
        rules = RULES[self.config.key]
        username = session.username if session else None
        if action == Action.PUBLISH:
            return rules.may_publish(username, topic or "")
        return rules.may_receive(username, topic or "")
