"""The device's identity: one-time enrolment, and the credentials it returned, stored with mode 0600."""

from __future__ import annotations

import logging
import socket
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from edgec.device_agent.cloud import certificates
from edgec.device_agent.cloud.mqtt_client import Broker
from edgec.device_agent.config.settings import AgentConfig
from edgec.device_agent.errors import ConfigError, EnrollError, StateError
from edgec.device_agent.process.causes import clock_cause
from edgec.device_agent.process.statefile import StateFile
from edgec.protocol.codec import decode, encode
from edgec.protocol.enrol import ENROLL_PATH, EnrollRequest, EnrollResponse
from edgec.protocol.errors import ProtocolError
from edgec.protocol.names import check_name
from edgec.targets import detect

_FILE = "identity.json"
log = logging.getLogger("identity")


def agent_version() -> str:
    """Return the version of the installed package."""
    try:
        return version("edgec")
    except PackageNotFoundError:
        return "0"


def target_name() -> str:
    """Return the name of this machine's target."""
    return detect().name


def identity_file(state: Path) -> StateFile:
    """Return the file that enrolment writes."""
    return StateFile(state / _FILE, mode=0o600)


def load_identity(state: Path) -> EnrollResponse | None:
    """Return what enrolment returned; `None` if the device is not enrolled.

    Raises:
        StateError: the identity is damaged beyond its copy: under another name the device would be another device.
    """
    loaded = identity_file(state).load()
    if loaded.problem:
        log.error("the device's identity: %s", loaded.problem)
    if loaded.data:
        return EnrollResponse.model_validate(loaded.data)
    lost = loaded.problem or ("identity.json and its copy are gone" if certificates.enrolled(state) else "")
    if lost:
        raise StateError(
            f"this device's identity in {state} is lost: {lost}; restore the folder, or enrol the device again "
            "(edgec devices delete NAME, then edgec agent enroll --device NAME)"
        )
    return None


def enroll(
    server: str,
    token: str,
    state: Path,
    *,
    device: str | None,
    labels: dict[str, str],
    timeout_s: float = 20.0,
    ca: Path | None = None,
    claim: Path | None = None,
) -> EnrollResponse:
    """Enrol this device with the fleet server and store the credentials.

    `claim` is a folder with a claim certificate instead of a token, `ca` the authority of the server's certificate.

    Raises:
        EnrollError: the server cannot be reached, refuses, or is not a fleet server.
        StateError: the credentials cannot be written.
    """
    if urlsplit(server).scheme not in ("http", "https"):
        raise EnrollError(f"{server} is not an http or https address of a fleet server")
    request = EnrollRequest(
        token=token, device=device, target=target_name(), agent_version=agent_version(), labels=labels,
        csr=certificates.request_for(state, device),
    )  # fmt: skip
    if claim is not None:
        request = certificates.with_claim(request, claim)
    certificates.trust(state, ca or (claim / "ca.pem" if claim else None))
    url = server.rstrip("/") + ENROLL_PATH
    try:
        response = httpx.post(
            url, content=encode(request), headers={"Content-Type": "application/json"}, timeout=timeout_s
        )
    except httpx.HTTPError as error:
        if clock := clock_cause(error):
            raise EnrollError(f"{server}: {clock}") from error
        raise EnrollError(
            f"{server} cannot be reached: {error}; is `edgec fleet serve` running there?"
        ) from error
    if response.status_code != 200 and response.status_code != 201:
        raise EnrollError(f"{server} refused ({response.status_code}): {_reason(response)}")
    try:
        answer = decode(EnrollResponse, response.content)
    except ProtocolError as error:
        raise EnrollError(f"{server} did not answer as a fleet server: {error}") from error
    certificates.store(state, answer)
    identity_file(state).save(answer.model_dump(mode="json"))
    return answer


def _reason(response: httpx.Response) -> str:
    try:
        body = response.json()
    except ValueError:
        return response.text[:200] or response.reason_phrase
    detail = body.get("detail", body) if isinstance(body, dict) else body
    return str(detail)[:200]


def names_of(config: AgentConfig, identity: EnrollResponse | None) -> tuple[str, str]:
    """Return fleet and device: from enrolment, else from the configuration, else the host name."""
    if identity is not None:
        return identity.fleet, identity.device
    name = config.agent.device or socket.gethostname().partition(".")[0]
    return config.agent.fleet, check_name(name, "device name")


def broker_of(
    config: AgentConfig, identity: EnrollResponse | None, certificate: tuple[Path, Path] | None = None
) -> Broker | None:
    """Return the broker to use: the configuration's, else enrolment's; `None` when there is neither.

    Raises:
        ConfigError: the password file cannot be read.
    """
    section = config.broker
    if section is None and identity is not None:
        access = identity.mqtt
        return Broker(
            access.host, access.port, access.username, access.password, access.tls, ca_pem=access.ca_pem,
            certificate=certificate,
        )  # fmt: skip
    if section is None:
        return None
    password, username = section.password, section.username
    if section.password_file is not None:
        try:
            password = section.password_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(f"broker.password_file: {section.password_file}: {error.strerror}") from error
    if username is None and identity is not None:
        username, password = identity.mqtt.username, identity.mqtt.password
    return Broker(
        section.host, section.port, username, password, section.tls, section.ca,
        keepalive_s=section.keepalive_s, reconnect_max_s=section.reconnect_max_s,
    )  # fmt: skip
