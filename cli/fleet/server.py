"""`edgec fleet serve` and the other commands of the server itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.cli.arguments import Server, Token, file_to_write, folder_to_write, parse_duration
from edgec.cli.console import out, styled
from edgec.cli.fleet.client import connect


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="HTTP port; 0 selects a free one. [default: 8600]")] = None,
    mqtt_port: Annotated[
        int | None, typer.Option(help="Port of the embedded broker; 0 selects a free one. [default: 1883]")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder for database, blobs and keys. [default: edgec-fleet]")
    ] = None,
    fleet: Annotated[
        str | None, typer.Option(help="Name of the fleet in MQTT topics. [default: default]")
    ] = None,
    database: Annotated[
        str | None, typer.Option(help="Database, as postgresql://…. [default: SQLite in the data folder]")
    ] = None,
    blobs: Annotated[
        str | None,
        typer.Option(help="Storage for artifacts, as s3://bucket/prefix. [default: the data folder]"),
    ] = None,
    mqtt: Annotated[
        str | None,
        typer.Option(
            help="External broker, as mqtt[s]://user:password@host:port. [default: the embedded broker]"
        ),
    ] = None,
    tls: Annotated[
        bool | None,
        typer.Option("--tls", help="Serve HTTPS and MQTT over TLS with the fleet's own certificates."),
    ] = None,
    public_url: Annotated[
        str | None, typer.Option(help="Address at which devices reach this server.")
    ] = None,
    settings_file: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            help="File with settings, EDGEC_FLEET_…=… a line; those of the environment precede it.",
        ),
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Write the addresses to this file as JSON once the server is ready.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the addresses as JSON.")] = False,
) -> None:
    """Run the fleet server: registry, devices, rollouts, dashboard and, without --mqtt, an MQTT broker."""
    if ready_file is not None:
        file_to_write(ready_file)
    import json
    import logging
    import os

    from edgec.fleet.server import serve as run
    from edgec.fleet.settings import load_settings, read_settings_file

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if settings_file is not None:
        os.environ |= read_settings_file(settings_file) | os.environ
    if data is None and "EDGEC_FLEET_DATA" not in os.environ:
        data = Path("edgec-fleet")
    settings = load_settings(
        host=host, port=port, mqtt_port=mqtt_port, data=data, fleet=fleet, database=database, mqtt=mqtt,
        public_url=public_url, tls=tls, blobs=blobs,
    )  # fmt: skip

    def ready(info: dict[str, Any]) -> None:
        if as_json:
            typer.echo(json.dumps({"ready": True, **info}))
            return
        out.print(
            styled(
                "fleet ",
                (info["fleet"], "bold"),
                " is ready at ",
                (info["url"], "bold"),
                f"  (MQTT {info['mqtt_host']}:{info['mqtt_port']})",
            )
        )
        if info["new_admin"]:
            secret = Path(info["admin_token_file"]).read_text().strip()
            told = styled("sign in with the admin token, shown only once: ", (secret, "bold"))
            out.print(told, soft_wrap=True)
        if info["authority"]:
            out.print(f"fingerprint of the authority: {info['authority']}", soft_wrap=True)
        out.print(
            f"the admin token is stored in {info['admin_token_file']}; stop with Ctrl-C", soft_wrap=True
        )

    run(settings, ready, ready_file)


def mosquitto(
    folder: Annotated[Path, typer.Argument(help="Folder to write to; the server's EDGEC_FLEET_MQTT_FILES.")],
    mqtt: Annotated[
        str,
        typer.Option(
            help="The server's MQTT address, mqtt://user:password@host:port.", envvar="EDGEC_FLEET_MQTT"
        ),
    ],
    fleet: Annotated[str, typer.Option(help="Name of the fleet.", envvar="EDGEC_FLEET_FLEET")] = "default",
    port: Annotated[int, typer.Option(help="Port for devices.")] = 1883,
    server_port: Annotated[int, typer.Option(help="Port for the fleet's own processes.")] = 1884,
    server_host: Annotated[
        str, typer.Option(help="Address for the fleet's own processes; keep it out of reach of devices.")
    ] = "0.0.0.0",
    tls: Annotated[
        Path | None,
        typer.Option(
            help="Folder with server.pem and server.key, to authenticate devices by certificate of the authority "
            "in --data."
        ),
    ] = None,
    data: Annotated[
        Path, typer.Option(help="Data folder of the fleet server.", envvar="EDGEC_FLEET_DATA")
    ] = Path("edgec-fleet"),
    user_port: Annotated[
        int | None,
        typer.Option(help="With --tls: port for users that are no devices, such as Home Assistant."),
    ] = None,
) -> None:
    """Write the configuration of a Mosquitto broker that authenticates this fleet's devices."""
    from edgec.fleet.broker.first_files import write_first
    from edgec.fleet.broker.mqtt_client import BrokerAddress
    from edgec.fleet.certificates.authority import Authority
    from edgec.fleet.certificates.service import FOLDER
    from edgec.fleet.errors import FleetError

    authority = Authority.load(data / FOLDER) if tls else None
    if tls and authority is None:
        raise FleetError(f"there is no authority in {data / FOLDER}: edgec fleet ca init --data {data}")
    address = BrokerAddress.from_url(mqtt)
    path = write_first(
        folder_to_write(folder).resolve(), fleet, (address.username, address.password), port=port,
        server_port=server_port, server_host=server_host, tls=tls.resolve() if tls else None,
        authority=authority, user_port=user_port,
    )  # fmt: skip
    out.print(f"wrote {path}; start the broker with: mosquitto -c {path}", soft_wrap=True)


def login(
    server: Annotated[str, typer.Argument(help="Address of the fleet server.")],
    token: Annotated[
        str | None,
        typer.Option(help="Access token. [default: $EDGEC_TOKEN, or prompt]", envvar="EDGEC_TOKEN"),
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the access token.")] = None,
    ca: Annotated[
        Path | None, typer.Option(help="The authority (PEM) that issued an https server's certificate.")
    ] = None,
    fingerprint: Annotated[
        str | None,
        typer.Option(help="Fingerprint of that authority (SHA256:…), as the server prints it; without --ca."),
    ] = None,
) -> None:
    """Store a server's address, token and authority for later commands.

    An https server whose authority this machine does not know shows it; it is kept once its fingerprint is confirmed.
    """
    from edgec.fleet.client import authority
    from edgec.fleet.client.connection import FleetClient, resolve, save_login
    from edgec.fleet.errors import ServerUnverified

    secret = (
        token_file.read_text().strip()
        if token_file
        else token or typer.prompt("access token", hide_input=True)
    )
    address, _token = resolve(server, secret)
    authority.give(ca)
    kept = authority.authority_for(None)
    if fingerprint is not None and kept is None:
        kept = _confirmed(address, fingerprint)
    try:
        with FleetClient(address, secret, ca=kept) as client:
            who = client.get("/me")
    except ServerUnverified:
        if kept is not None or not sys.stdin.isatty():
            raise
        kept = _confirmed(address, None)
        with FleetClient(address, secret, ca=kept) as client:
            who = client.get("/me")
    path = save_login(address, secret, kept)
    out.print(f"signed in at {address} as {who['name']} ({who['role']}); stored in {path}")


def _confirmed(address: str, fingerprint: str | None) -> str:
    """The authority that a server shows, if its fingerprint is the expected one, or a person says that it is.

    Raises:
        FleetError: it is another one.
    """
    from edgec.fleet.client import authority
    from edgec.fleet.errors import FleetError

    pem = authority.shown_by(address)
    shown = authority.fingerprint(pem)
    if fingerprint is None:
        out.print(f"{address} has an authority that this machine does not know:\n  {shown}", soft_wrap=True)
        if typer.confirm("Is this the fingerprint that the server printed when it started?"):
            return pem
        raise FleetError("not signed in: the authority was not confirmed")
    if shown.lower() != fingerprint.strip().lower():
        raise FleetError(f"{address} has another authority: {shown}")
    return pem


def gc(
    grace: Annotated[str, typer.Option(help="Keep blobs younger than this.")] = "24h",
    server: Server = None,
    token: Token = None,
) -> None:
    """Delete blobs that no manifest references from the registry."""
    with connect(server, token) as client:
        found = client.post("/registry/gc", grace_s=parse_duration(grace))
    out.print(
        f"removed {found['blobs']} blobs ({found['bytes'] / 1e6:.1f} MB)"
        f" and {found['uploads']} incomplete uploads"
    )
