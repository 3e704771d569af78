"""`edgec fleet serve` and the other commands of the server itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.cli.arguments import Server, Token, folder_to_write, parse_duration
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
    ready_file: Annotated[
        Path | None, typer.Option(help="Write the addresses to this file as JSON once the server is ready.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the addresses as JSON.")] = False,
) -> None:
    """Run the fleet server: registry, devices, rollouts, dashboard and, without --mqtt, an MQTT broker."""
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
        typer.Option(help="Folder with server.pem and server.key, to authenticate devices by certificate."),
    ] = None,
    user_port: Annotated[
        int | None,
        typer.Option(help="With --tls: port for users that are no devices, such as Home Assistant."),
    ] = None,
) -> None:
    """Write the configuration of a Mosquitto broker that authenticates this fleet's devices."""
    from edgec.fleet.broker.mosquitto import write_first
    from edgec.fleet.broker.mqtt_client import BrokerAddress

    address = BrokerAddress.from_url(mqtt)
    path = write_first(
        folder_to_write(folder).resolve(), fleet, (address.username, address.password), port=port,
        server_port=server_port, server_host=server_host, tls=tls.resolve() if tls else None,
        user_port=user_port,
    )  # fmt: skip
    out.print(f"wrote {path}; start the broker with: mosquitto -c {path}", soft_wrap=True)


def login(
    server: Annotated[str, typer.Argument(help="Address of the fleet server.")],
    token: Annotated[str | None, typer.Option(help="Access token. [default: prompt]")] = None,
) -> None:
    """Store a server's address and token for later commands."""
    from edgec.fleet.client.connection import FleetClient, resolve, save_login

    secret = token or typer.prompt("access token", hide_input=True)
    address, _token = resolve(server, secret)
    with FleetClient(address, secret) as client:
        who = client.get("/me")
    path = save_login(address, secret)
    out.print(f"signed in at {address} as {who['name']} ({who['role']}); stored in {path}")


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
