"""`edgec agent doctor`: checks everything the agent needs, and suggests a remedy for each problem."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Literal

import httpx

from edgec.device_agent.capture.source import describe
from edgec.device_agent.capture.sources import open_source
from edgec.device_agent.cloud import certificates
from edgec.device_agent.cloud import identity as ident
from edgec.device_agent.config.settings import AgentConfig, load_config
from edgec.device_agent.errors import AgentError, StateError
from edgec.device_agent.health.report import clock_is_plausible
from edgec.device_agent.health.status_socket import query
from edgec.device_agent.process.causes import clock_cause
from edgec.device_agent.process.statefile import StateFile, write_durably
from edgec.device_agent.updates.deployments import Deployments
from edgec.device_agent.updates.mend import Mender
from edgec.device_agent.updates.store import ModelStore
from edgec.protocol.enrol import EnrollResponse
from edgec.runtime.artifact.reader import Artifact
from edgec.targets.errors import EdgecError

_LOW_DISK_BYTES = 200 << 20
_SKEW_S = 120.0
_SOURCE_S = 10.0
_MEND_S = 120.0
_REMEDIES = {
    "camera": "plug it in; `ls -l /dev/video*` lists the cameras and their permissions",
    "url": "try the address with ffplay or in a browser from this device",
    "microphone": "`arecord -l` lists the devices",
}
"""What to do about a source that cannot be opened, by its kind."""


_NO_STATE = frozenset({"samples", "media", "metadata", "models"})
"""Folders whose JSON files are no state files of ours."""
_AFTER_DAMAGE = "check the card or disk: damage seldom stays alone"


@dataclass(frozen=True)
class Finding:
    """The result of one check; `remedy` suggests what to do about a problem."""

    what: str
    verdict: Literal["good", "warning", "bad"]
    text: str
    remedy: str = ""


def examine(path: Path, *, repair: bool = False) -> Iterator[Finding]:
    """Run one check after the other; the agent may be running. With `repair`, fetch damaged models again."""
    try:
        config = load_config(path)
    except EdgecError as error:
        yield Finding("configuration", "bad", str(error), "correct the named line")
        return
    yield Finding("configuration", "good", f"{len(config.streams)} streams, {len(config.models)} models")
    running = _is_running(config.agent.state)
    if running:
        yield Finding("agent", "good", "runs")
    else:
        yield Finding("agent", "warning", "does not run", f"edgec agent run --config {path}")
    yield from _state(config)
    yield from _damage(config)
    try:
        identity = ident.load_identity(config.agent.state)
    except StateError as error:
        yield Finding(
            "identity", "bad", str(error), "edgec devices delete NAME, then edgec agent enroll --device NAME"
        )
        return
    certificates.trust(config.agent.state)
    yield _clock(identity)
    yield from _enrolment(config, identity)
    yield from _broker(config, identity)
    yield from _models(config, identity if repair else None)
    yield from _sources(config, running)


def _is_running(state: Path) -> bool:
    try:
        query(state)
    except AgentError:
        return False
    return True


def _state(config: AgentConfig) -> Iterator[Finding]:
    state = config.agent.state
    probe = state / ".doctor"
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        begin = time.perf_counter()
        write_durably(probe, b"x")
        took_ms = (time.perf_counter() - begin) * 1000
        probe.unlink()
    except (AgentError, OSError) as error:
        yield Finding("state folder", "bad", str(error), f"make {state} writable for this user")
        return
    yield Finding("state folder", "good", f"{state}, a durable write takes {took_ms:.1f} ms")
    mode = state.stat().st_mode & 0o077
    if mode & 0o007:
        yield Finding(
            "state folder",
            "warning",
            "it is readable for others and contains credentials",
            f"chmod 700 {state}",
        )
    usage = os.statvfs(state)
    free = usage.f_bavail * usage.f_frsize
    verdict: Literal["good", "warning"] = "good" if free > _LOW_DISK_BYTES else "warning"
    yield Finding(
        "disk", verdict, f"{free / 1e9:.2f} GB are free", "" if verdict == "good" else "free some space"
    )


def _damage(config: AgentConfig) -> Iterator[Finding]:
    """Damaged state files; to read them mends them from their copies."""
    state = config.agent.state
    if mended := certificates.repair(state):
        yield Finding("certificates", "warning", f"{mended}: written again from the copy", "none needed")
    for path in sorted({*state.glob("*.json"), *state.glob("*/*.json")}):
        if path.parent.name in _NO_STATE:
            continue
        loaded = StateFile(path, mode=path.stat().st_mode & 0o777).load()
        if loaded.problem:
            lost = "" if loaded.data else "; nothing of it is left"
            yield Finding(
                "state file", "warning" if loaded.data else "bad", loaded.problem + lost, _AFTER_DAMAGE
            )


def _enrolment(config: AgentConfig, identity: EnrollResponse | None) -> Iterator[Finding]:
    if identity is None:
        verdict: Literal["warning", "bad"] = "warning" if config.broker else "bad"
        yield Finding(
            "enrolment", verdict, "this device is not enrolled",
            f"edgec agent enroll --server URL --token TOKEN --state {config.agent.state}",
        )  # fmt: skip
        return
    yield Finding("enrolment", "good", f"{identity.device} in fleet {identity.fleet}")
    try:
        answer = httpx.get(f"{identity.registry.url.rstrip('/')}/v2/", timeout=5, headers=_auth(identity))
    except httpx.HTTPError as error:
        if clock_cause(error):
            yield Finding("registry", "warning", "not checked: the clock is wrong", "see clock")
            return
        yield Finding(
            "registry", "bad", f"{identity.registry.url}: {error}", "check the network and the server"
        )
        return
    good = answer.status_code in (200, 401)
    text = f"{identity.registry.url} answers {answer.status_code}"
    yield Finding("registry", "good" if good else "bad", text, "" if good else "check the server's address")


def _auth(identity: EnrollResponse) -> dict[str, str]:
    return {"Authorization": f"Bearer {identity.registry.token}"} if identity.registry.token else {}


def _clock(identity: EnrollResponse | None) -> Finding:
    remedy = "start a time service (systemd-timesyncd, chrony)"
    if not clock_is_plausible():
        return Finding("clock", "bad", f"shows {time.strftime('%Y-%m-%d')}", remedy)
    if identity is not None:
        try:
            answer = httpx.get(f"{identity.registry.url.rstrip('/')}/v2/", timeout=5, headers=_auth(identity))
            server = parsedate_to_datetime(answer.headers["date"]).timestamp()
        except (httpx.HTTPError, KeyError, ValueError) as error:
            if cause := clock_cause(error):
                return Finding("clock", "bad", cause, remedy)
            return Finding(
                "clock", "good", f"shows {time.strftime('%Y-%m-%d %H:%M:%S')}, no server to compare"
            )
        skew = time.time() - server
        verdict: Literal["good", "warning"] = "good" if abs(skew) < _SKEW_S else "warning"
        return Finding(
            "clock", verdict, f"{skew:+.0f} s from the server's", "" if verdict == "good" else remedy
        )
    return Finding("clock", "good", f"shows {time.strftime('%Y-%m-%d %H:%M:%S')}")


def _broker(config: AgentConfig, identity: EnrollResponse | None) -> Iterator[Finding]:
    try:
        broker = ident.broker_of(config, identity)
    except EdgecError as error:
        yield Finding("broker", "bad", str(error), "correct the configuration")
        return
    if broker is None:
        yield Finding("broker", "bad", "no broker is configured", "enrol the device, or add a [broker] table")
        return
    where = f"{broker.host}:{broker.port}"
    try:
        with socket.create_connection((broker.host, broker.port), timeout=5) as sock:
            if broker.tls:
                context = ssl.create_default_context(cafile=broker.ca, cadata=broker.ca_pem)
                context.wrap_socket(sock, server_hostname=broker.host).close()
    except OSError as error:
        if clock_cause(error):
            yield Finding("broker", "warning", "not checked: the clock is wrong", "see clock")
            return
        remedy = "is it running, and can this device reach it?"
        if isinstance(error, socket.gaierror):
            remedy = "is the name correct, and does this device have a name server?"
        yield Finding("broker", "bad", f"{where}: {error.strerror or error}", remedy)
        return
    yield Finding("broker", "good", f"{where} can be reached")


def _models(config: AgentConfig, mend_with: EnrollResponse | None) -> Iterator[Finding]:
    store = ModelStore(config.agent.state / "models")
    record = Deployments(config.agent.state / "deployments.json")
    for slot, section in config.models.items():
        version = record.to_run(slot)
        if mend_with is not None:
            yield from _mend(slot, Mender(store, record, mend_with.registry, _MEND_S))
        if version is not None and store.whole(version.digest):
            shown = f"{version.name} {version.version}".strip() or version.digest[:19]
            yield Finding(f"model {slot}", "good", f"{shown}, unaltered")
        elif version is not None:
            yield Finding(
                f"model {slot}", "bad", f"{version.digest[:19]}… is damaged or missing in the store",
                "edgec agent doctor --repair fetches it again, as the agent does when it loads it",
            )  # fmt: skip
        elif section.artifact is None:
            yield Finding(f"model {slot}", "warning", "none yet: the slot waits for an update")
        else:
            try:
                Artifact.open(section.artifact).verify_digests()
                yield Finding(f"model {slot}", "good", f"{section.artifact.name}, unaltered")
            except (EdgecError, OSError) as error:
                remedy = f"copy the artifact there, or correct models.{slot}.artifact"
                yield Finding(f"model {slot}", "bad", str(error), remedy)


def _mend(slot: str, mender: Mender) -> Iterator[Finding]:
    try:
        if mender.mend(slot):
            yield Finding(
                f"model {slot}", "warning", "was damaged; what was missing is fetched", "restart the agent"
            )
    except AgentError as error:
        yield Finding(f"model {slot}", "bad", str(error), "is the registry within reach?")


def _sources(config: AgentConfig, running: bool) -> Iterator[Finding]:
    for name, stream in config.streams.items():
        what, shown = f"source {name}", describe(stream.source)
        if running and stream.source.kind in ("camera", "microphone"):
            yield Finding(what, "good", f"{shown}: in use by the agent")
            continue
        try:
            yield Finding(what, "good", f"{shown}: {_within(partial(_one_frame, config, name))}")
        except TimeoutError:
            yield Finding(what, "bad", f"{shown}: no frame within {_SOURCE_S:.0f} s", "reset the camera")
        except EdgecError as error:
            remedy = _REMEDIES.get(stream.source.kind, f"correct streams.{name}.source")
            yield Finding(what, "bad", str(error), remedy)


def _within(look: Callable[[], str]) -> str:
    """Call in a thread that is abandoned when it hangs, as the read of a camera may for ever.

    Raises:
        TimeoutError: no answer in time.
        EdgecError: what `look` raised.
    """
    future: Future[str] = Future()

    def work() -> None:
        try:
            future.set_result(look())
        except Exception as error:  # noqa: BLE001 - the caller's thread raises it
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future.result(_SOURCE_S)


def _one_frame(config: AgentConfig, name: str) -> str:
    stream = config.streams[name]
    source = open_source(stream.source, min(stream.open_timeout_s, _SOURCE_S))
    try:
        frame = source.read(None)
        if frame is None:
            return "is empty"
        kind = "sound" if stream.source.is_sound else f"{frame.shape[1]}×{frame.shape[0]}"
        return f"delivers {kind}"
    finally:
        source.close()
