"""`edgec fleet serve` and the other commands of the server itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.cli.arguments import Server, Token, parse_duration
from edgec.cli.console import out
from edgec.cli.fleet.client import connect


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. [127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="HTTP port; 0 takes a free one. [8600]")] = None,
    mqtt_port: Annotated[
        int | None, typer.Option(help="Port of the embedded broker; 0 takes a free one. [1883]")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder for blobs, database and keys. [edgec-fleet]")
    ] = None,
    fleet: Annotated[str | None, typer.Option(help="Name of the fleet in MQTT topics. [default]")] = None,
    database: Annotated[
        str | None, typer.Option(help="postgresql://… instead of SQLite in the data folder.")
    ] = None,
    blobs: Annotated[
        str | None, typer.Option(help="s3://bucket/prefix for artifacts instead of the data folder.")
    ] = None,
    mqtt: Annotated[
        str | None, typer.Option(help="mqtt[s]://user:password@host:port of a broker of your own.")
    ] = None,
    tls: Annotated[
        bool | None, typer.Option("--tls", help="HTTPS and MQTT over TLS, with the fleet's own certificates.")
    ] = None,
    public_url: Annotated[str | None, typer.Option(help="Address that devices reach this server at.")] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Write addresses here as JSON once everything answers.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the ready line as JSON.")] = False,
) -> None:
    """Run the fleet server: registry, devices, rollouts, dashboard and, unless --mqtt is given, an MQTT
    broker."""
    import json
    import logging
    import os

    from edgec.fleet.server import serve as run
    from edgec.fleet.settings import load_settings

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
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
            f"fleet [bold]{info['fleet']}[/] is at [bold]{info['url']}[/]"
            f"  (MQTT {info['mqtt_host']}:{info['mqtt_port']})"
        )
        if info["new_admin"]:
            secret = Path(info["admin_token_file"]).read_text().strip()
            out.print(f"sign in with the admin token, shown only now: [bold]{secret}[/]", soft_wrap=True)
        out.print(f"the admin token is kept in {info['admin_token_file']}; stop with Ctrl-C", soft_wrap=True)

    run(settings, ready, ready_file)


def mosquitto(
    folder: Annotated[Path, typer.Argument(help="Where to write; EDGEC_FLEET_MQTT_FILES of the server.")],
    mqtt: Annotated[
        str,
        typer.Option(help="mqtt://user:password@host:port as the server has it.", envvar="EDGEC_FLEET_MQTT"),
    ],
    fleet: Annotated[str, typer.Option(help="Name of the fleet.", envvar="EDGEC_FLEET_FLEET")] = "default",
    port: Annotated[int, typer.Option(help="Port for devices.")] = 1883,
    server_port: Annotated[int, typer.Option(help="Port for the fleet's own processes.")] = 1884,
    server_host: Annotated[
        str, typer.Option(help="Address of that port; no device should reach it.")
    ] = "0.0.0.0",
    tls: Annotated[
        Path | None, typer.Option(help="Folder with server.pem and server.key: devices show certificates.")
    ] = None,
) -> None:
    """Write a configuration for a Mosquitto broker that checks this fleet's devices."""
    from edgec.fleet.broker.mosquitto import write_first
    from edgec.fleet.broker.mqtt_client import BrokerAddress

    address = BrokerAddress.from_url(mqtt)
    path = write_first(
        folder.resolve(), fleet, (address.username, address.password), port=port, server_port=server_port,
        server_host=server_host, tls=tls.resolve() if tls else None,
    )  # fmt: skip
    out.print(f"wrote {path}; start the broker with: mosquitto -c {path}", soft_wrap=True)


def login(
    server: Annotated[str, typer.Argument(help="Address of the fleet server.")],
    token: Annotated[str | None, typer.Option(help="Access token; asked for if not given.")] = None,
) -> None:
    """Keep a server's address and token for later commands."""
    from edgec.fleet.client.connection import FleetClient, resolve, save_login

    secret = token or typer.prompt("access token", hide_input=True)
    address, _token = resolve(server, secret)
    with FleetClient(address, secret) as client:
        who = client.get("/me")
    path = save_login(address, secret)
    out.print(f"signed in at {address} as {who['name']} ({who['role']}); kept in {path}")


def gc(
    grace: Annotated[str, typer.Option(help="Leave blobs younger than this.")] = "24h",
    server: Server = None,
    token: Token = None,
) -> None:
    """Remove blobs from the registry that no manifest needs."""
    with connect(server, token) as client:
        found = client.post("/registry/gc", grace_s=parse_duration(grace))
    out.print(
        f"removed {found['blobs']} blobs ({found['bytes'] / 1e6:.1f} MB)"
        f" and {found['uploads']} broken uploads"
    )
