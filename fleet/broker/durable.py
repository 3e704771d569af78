"""amqtt, changed to acknowledge a message once it is committed and to route it without a search."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig
from amqtt.errors import NoDataError
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.mqtt.puback import PubackPacket
from amqtt.session import IncomingApplicationMessage, Session
from amqtt.utils import gen_client_id

from edgec.fleet.broker.access import SERVER, Access
from edgec.fleet.broker.filters import Filters, fixed_part
from edgec.fleet.broker.messages import Inbound

LIMIT = 1000
"""Number of connections from which log, metrics and dashboard recommend a separate broker."""


FULL_PAUSE_S = 0.05


REFUSED = 0x80


CONNECT_S = 10.0
"""A connection that has not sent its CONNECT by then is closed."""


TAKE_OVER_S = 5.0


NEAR = 0.8
log = logging.getLogger(__name__)


Stream = Any
"""One direction of a connection, as amqtt has it."""


Sink = Callable[[Inbound], bool]
"""Accepts a message if there is room; returns whether it did."""


class DurableBroker(Broker):  # type: ignore[misc]
    """Acknowledges a device's message once it is committed, not as soon as it is read.

    amqtt acknowledges a QoS 1 message on arrival. A crash before the commit would then lose a message that the
    device, trusting the acknowledgement, has already deleted from its outbox. So these messages go straight to the
    ingest, and their PUBACK follows the commit. Other traffic takes amqtt's usual path.
    """

    def __init__(self, config: BrokerConfig, rules: Access, sink: Sink) -> None:
        super().__init__(config)
        self._rules = rules
        self._sink = sink
        self._receipts = _Receipts(self._loop)
        self._subscriptions = Filters()
        self._filters_of: dict[str, set[str]] = {}
        self._ended: dict[int, asyncio.Event] = {}
        """By session, set when its connection is over."""
        self._taking_over: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By client id: connections of one take over one after the other."""
        self._relayed: set[asyncio.Future[Any]] = set()
        self._warned = False
        self.without_connect = 0
        """Connections that were closed because no CONNECT came."""

    def _warn_near_limit(self) -> None:
        if self._warned or len(self._sessions) < NEAR * LIMIT:
            return
        self._warned = True
        log.warning(
            "the embedded broker has %d of the %d connections it is designed for: use an external one (--mqtt)",
            len(self._sessions), LIMIT,
        )  # fmt: skip

    async def add_subscription(self, subscription: tuple[str, int], session: Session) -> int:
        """Subscribe a client, and remember the filter for when it leaves."""
        code: int = await super().add_subscription(subscription, session)
        if code != REFUSED:
            self._filters_of.setdefault(session.client_id or "", set()).add(subscription[0])
        return code

    async def _del_all_subscriptions(self, session: Session) -> None:
        for name in self._filters_of.pop(session.client_id or "", set()):
            self._del_subscription(name, session)
            if not self._subscriptions.get(name, [None]):
                del self._subscriptions[name]

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        # amqtt sends retained messages of a filter even if it has just refused the subscription.
        name = subscription[0]
        if not self._rules.may_receive(session.username, name):
            return
        if fixed_part(name) is None:
            retained = self._retained_messages.get(name)
            handler = self._get_handler(session)
            if retained is not None and handler is not None:
                qos = min(subscription[1], retained.qos or subscription[1])
                await handler.mqtt_publish(retained.topic, retained.data, qos, retain=True)
            return
        if session.username == SERVER:  # No message that reaches devices through a wildcard is ever retained.
            await super()._publish_retained_messages_for_subscription(subscription, session)
        elif self._rules.rights(session.username or "") is not None and (
            handler := self._get_handler(session)
        ):
            for topic, retained in list(self._retained_messages.items()):
                if self._matches(topic, name) and self._rules.may_receive(session.username, topic):
                    qos = min(subscription[1], retained.qos or subscription[1])
                    await handler.mqtt_publish(topic, retained.data, qos, retain=True)

    async def _relay(self, topic: str, data: bytes) -> None:
        """Deliver what a device reports to the fleet to other users who subscribed to it, too."""
        for name in self._subscriptions.candidates(topic):
            if not self._matches(topic, name):
                continue
            for session, granted in list(self._subscriptions.get(name, ())):
                user = session.username or ""
                if self._rules.rights(user) is None or not self._rules.may_receive(user, topic):
                    continue
                # For them it is news: who is away misses it.
                if session.transitions.state == "connected" and (handler := self._get_handler(session)):
                    self._relayed.add(
                        task := asyncio.ensure_future(
                            handler.mqtt_publish(topic, data, min(granted, 1), retain=False)
                        )
                    )
                    task.add_done_callback(self._relayed.discard)

    async def _run_broadcast(self, running_tasks: Any) -> None:  # noqa: ANN401 - a deque of tasks
        broadcast = await self._broadcast_queue.get()
        topic = broadcast["topic"]
        for name in self._subscriptions.candidates(topic):
            if not self._matches(topic, name):
                continue
            for session, granted in list(self._subscriptions.get(name, ())):
                qos = broadcast.get("qos", granted)
                if not self._rules.may_receive(session.username, topic):
                    continue
                if session.transitions.state != "connected":
                    if not session.clean_session and qos > 0:
                        await self._retain_broadcast_message(broadcast, qos, session)
                    continue
                if handler := self._get_handler(session):
                    work = handler.mqtt_publish(topic, broadcast["data"], qos, retain=False)
                    running_tasks.append(asyncio.ensure_future(work))

    async def _initialize_client_session(
        self, reader: Stream, writer: Stream, *address: Stream
    ) -> tuple[Any, Session]:
        """Admit a client, and end the connection that it had before.

        amqtt first deletes the old session of a client id and then checks the password, so that anybody could end
        anybody's session; and it leaves the old connection open, so that two devices of one identity, or a device
        and its own half-open connection, both look connected and take each other's subscriptions away.
        """
        handler, session = await self._first_packet(reader, writer)
        listener = next(iter(self.listeners_config.values()))
        session.edgec_admitted = await super()._authenticate(session, listener)
        if not session.edgec_admitted:
            handler.attach(session, reader, writer)
            await handler.mqtt_connack_authorize(False)
            await writer.close()
            raise NoDataError(f"{session.client_id} is not admitted")
        # From here to amqtt's registration of the session nothing waits, so the next one finds it.
        async with self._taking_over.setdefault(session.client_id, asyncio.Lock()):
            await self._take_over(session.client_id)
        kept = self._sessions.get(session.client_id)
        if session.clean_session or kept is None:
            await self._delete_session(session.client_id)
            session.parent = 0
        else:
            session = _renewed(kept[0], session)
        if session.keep_alive > 0:
            session.keep_alive += self.config.get("timeout-disconnect-delay", 0)
        self._warn_near_limit()
        self._acknowledge_after_commit(handler, session)
        _end_even_before_start(handler)
        return handler, session

    async def _first_packet(self, reader: Stream, writer: Stream) -> tuple[Any, Session]:
        try:
            async with asyncio.timeout(CONNECT_S):
                handler, session = await BrokerProtocolHandler.init_from_connect(
                    reader, writer, self.plugins_manager
                )
        except TimeoutError as error:
            self.without_connect += 1
            await writer.close()
            raise NoDataError(f"no CONNECT within {CONNECT_S:g} s") from error
        except Exception:  # Whatever it sent was no CONNECT; amqtt logs it and leaves the connection open.
            await writer.close()
            raise
        if not session.client_id:
            session.client_id = gen_client_id()
        return handler, session

    async def _take_over(self, client_id: str) -> None:
        """End the connection that has this client id, its last will included, before the new one begins."""
        if (old := self._sessions.get(client_id)) is not None and old[0].transitions.is_connected():
            log.info("%s connects again: its connection from before is closed", client_id)
            ended = self._ended.setdefault(id(old[0]), asyncio.Event())
            old[1].edgec_over = True
            await old[1].handle_connection_closed()
            try:
                await asyncio.wait_for(ended.wait(), TAKE_OVER_S)
            except TimeoutError:  # It is stuck.
                log.warning("%s: its connection from before did not end by itself", client_id)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop_handler(old[1]), TAKE_OVER_S)
                    await asyncio.wait_for(ended.wait(), TAKE_OVER_S)

    async def _handle_client_session(
        self,
        reader: Stream,
        writer: Stream,
        session: Session,
        handler: Any,  # noqa: ANN401
        *rest: Any,  # noqa: ANN401
    ) -> None:
        """Serve a connection, and close it whatever ended that.

        amqtt leaves a connection open when it gives up on it: after a message that the client did not acknowledge in
        time, or one to an illegal topic. The client would look connected, unheard, and nobody could take over.
        """
        ended = self._ended.setdefault(id(session), asyncio.Event())
        try:
            try:
                await super()._handle_client_session(reader, writer, session, handler, *rest)
            except Exception as error:  # noqa: BLE001 - whatever amqtt gives up on, the connection has to end
                log.warning(
                    "%s: its connection is closed: %s", session.client_id, error or type(error).__name__
                )
            await self._close_abandoned(session, handler)
        finally:
            ended.set()
            self._ended.pop(id(session), None)

    async def _close_abandoned(self, session: Session, handler: Any) -> None:  # noqa: ANN401
        held = self._sessions.get(session.client_id or "")
        if held is not None and held[1] is handler and session.transitions.is_connected():
            lost = self._loop.create_future()
            lost.set_result(None)
            await self._handle_disconnect(session, handler, lost)  # Its last will, too.

    async def _authenticate(self, session: Session, _listener: Any) -> bool:  # noqa: ANN401
        return bool(session.edgec_admitted)  # Checked when the connection began.

    def _acknowledge_after_commit(self, handler: Any, session: Session) -> None:  # noqa: ANN401
        ordinary = handler._handle_qos1_message_flow
        order = asyncio.Lock()

        async def flow(message: Any) -> None:  # noqa: ANN401
            topic = message.topic or ""
            ours = isinstance(message, IncomingApplicationMessage) and not message.retain
            if not ours or not self._rules.for_fleet(session.username, topic):
                await ordinary(message)
                return
            await self._relay(topic, bytes(message.data))
            committed = self._loop.create_future()
            inbound = Inbound(topic, bytes(message.data), self._receipts.number(committed), self._receipts)
            async with order:
                while not self._sink(inbound):
                    await asyncio.sleep(FULL_PAUSE_S)
            await committed
            message.puback_packet = PubackPacket.build(message.packet_id)
            await handler._send_packet(message.puback_packet)

        handler._handle_qos1_message_flow = flow


def _end_even_before_start(handler: Any) -> None:  # noqa: ANN401
    """amqtt forgets that a connection is to end when that is said before its handler has started."""
    begin, handler.edgec_over = handler.start, False

    async def start() -> None:
        await begin()
        if handler.edgec_over:
            await handler.handle_connection_closed()

    handler.start = start


def _renewed(kept: Session, new: Session) -> Session:
    """A kept session with the new connection's credentials and last will."""
    for name in (
        "will_flag", "will_message", "will_topic", "will_qos", "will_retain", "keep_alive", "username", "password",
        "remote_address", "remote_port", "ssl_object", "edgec_admitted",
    ):  # fmt: skip
        setattr(kept, name, getattr(new, name))
    kept.parent = 1
    return kept


class _Receipts:
    """Messages that wait for their commit; the ingest's thread acknowledges many at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._last = 0

    def number(self, committed: asyncio.Future[None]) -> int:
        """Assign a number to a message; called within the event loop."""
        self._last += 1
        self._waiting[self._last] = committed
        return self._last

    def acknowledge(self, numbers: list[int]) -> None:
        """Acknowledge committed messages; may be called from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._settle, numbers)

    def _settle(self, numbers: list[int]) -> None:
        for number in numbers:
            committed = self._waiting.pop(number, None)
            if committed is not None and not committed.done():
                committed.set_result(None)
