"""``edgec fleet``: the server, its tokens and its rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.cli import fleet_ca, fleet_keys
from edgec.cli.console import emit_json, err, out
from edgec.cli.push import Json, Server, Token

app = typer.Typer(no_args_is_help=True, help="Run the fleet server; tokens, rollouts, registry.")
token_app = typer.Typer(no_args_is_help=True, help="Enrolment tokens: each lets devices into the fleet.")
access_app = typer.Typer(no_args_is_help=True, help="Access tokens of people and machines.")
rollouts_app = typer.Typer(no_args_is_help=True, help="Look at rollouts and steer them.")
groups_app = typer.Typer(no_args_is_help=True, help="Groups of devices.")
app.add_typer(token_app, name="token")
app.add_typer(access_app, name="access")
app.add_typer(rollouts_app, name="rollouts")
app.add_typer(groups_app, name="groups")
app.add_typer(fleet_keys.app, name="keys")
app.add_typer(fleet_ca.app, name="ca")


@app.command()
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


@app.command()
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


@app.command()
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


def _client(server: str | None, token: str | None) -> Any:  # noqa: ANN401 - FleetClient, imported late
    from edgec.fleet.client.connection import FleetClient, resolve

    return FleetClient(*resolve(server, token))


@token_app.command("create")
def token_create(
    uses: Annotated[int, typer.Option(help="How many devices it lets in.")] = 1,
    valid: Annotated[str, typer.Option(help="For how long, such as 24h.")] = "24h",
    label: Annotated[
        list[str] | None, typer.Option(help="name=value that such devices get; may be repeated.")
    ] = None,
    hold: Annotated[bool, typer.Option("--hold", help="Devices wait until somebody accepts them.")] = False,
    note: Annotated[str, typer.Option(help="What it is for.")] = "",
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Make an enrolment token."""
    from edgec.cli.deploy import seconds

    body = {"uses": uses, "valid_s": seconds(valid), "labels": pairs(label or []), "note": note}
    if hold:
        body["auto_accept"] = False
    with _client(server, token) as client:
        made = client.post("/enroll-tokens", body)
        address = client.server
    if as_json:
        emit_json(made | {"server": address})
        return
    out.print(made["token"], soft_wrap=True)
    err.print(
        f"lets {uses} device(s) in for {valid}: edgec agent enroll --server {address} --token …",
        soft_wrap=True,
    )


def pairs(items: list[str]) -> dict[str, str]:
    """``name=value`` items as a dict.

    Raises:
        UsageError: an item has no ``=``.
    """
    from edgec.targets.errors import UsageError

    result = {}
    for item in items:
        name, separator, value = item.partition("=")
        if not separator or not name:
            raise UsageError(f"{item!r} is no label: write name=value")
        result[name] = value
    return result


@token_app.command("list")
def token_list(server: Server = None, token: Token = None) -> None:
    """Enrolment tokens that still let devices in, as JSON."""
    with _client(server, token) as client:
        emit_json(client.get("/enroll-tokens")["items"])


@token_app.command("revoke")
def token_revoke(number: int, server: Server = None, token: Token = None) -> None:
    """Make an enrolment token useless."""
    with _client(server, token) as client:
        client.delete(f"/enroll-tokens/{number}")


@access_app.command("create")
def access_create(
    name: str,
    role: Annotated[str, typer.Option(help="viewer, operator or admin.")] = "viewer",
    model: Annotated[
        list[str] | None, typer.Option(help="Only this model's repository; may be repeated.")
    ] = None,
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Make an access token for a person or a machine."""
    with _client(server, token) as client:
        made = client.post("/access-tokens", {"name": name, "role": role, "models": model or []})
    emit_json(made) if as_json else out.print(made["token"], soft_wrap=True)


@access_app.command("list")
def access_list(server: Server = None, token: Token = None) -> None:
    """Access tokens, without their secrets, as JSON."""
    with _client(server, token) as client:
        emit_json(client.get("/access-tokens")["items"])


@access_app.command("revoke")
def access_revoke(name: str, server: Server = None, token: Token = None) -> None:
    """Make an access token useless at once."""
    from edgec.fleet.client.connection import part

    with _client(server, token) as client:
        client.delete(f"/access-tokens/{part(name)}")


@rollouts_app.command("list")
def rollouts_list(
    model: Annotated[str, typer.Option(help="Only of this model.")] = "",
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """List rollouts, newest first."""
    from rich.table import Table

    with _client(server, token) as client:
        rows = client.get("/rollouts", model=model, limit=100)["items"]
    if as_json:
        emit_json(rows)
        return
    if not rows:
        out.print("no rollouts; start one: edgec deploy MODEL:VERSION --to DEVICE")
        return
    table = Table("id", "model", "for", "state", "done", "devices", "reason")
    for row in rows:
        scope = row["scope"]
        counts = ", ".join(f"{n} {state.lower()}" for state, n in sorted(row["devices"].items()))
        table.add_row(
            str(row["id"]), f"{row['model']}:{row['version']}", f"{scope['kind']} {scope['name']}".strip(),
            row["state"], f"{row['progress']:.0%}", counts, row["reason"],
        )  # fmt: skip
    out.print(table)


@rollouts_app.command("show")
def rollouts_show(number: int, server: Server = None, token: Token = None, as_json: Json = False) -> None:
    """Show a rollout with its stages and devices."""
    from rich.table import Table

    with _client(server, token) as client:
        rollout = client.get(f"/rollouts/{number}")
        rollout["members"] = list(client.pages(f"/rollouts/{number}/devices", limit=1000))
    if as_json:
        emit_json(rollout)
        return
    out.print(
        f"rollout {number} of [bold]{rollout['model']}:{rollout['version']}[/] is {rollout['state']}"
        f" ({rollout['progress']:.0%})"
    )
    if rollout["reason"]:
        out.print(rollout["reason"])
    table = Table("device", "stage", "state", "was", "detail")
    for row in rollout["members"][:100]:
        table.add_row(
            row["device"], str(row["stage"] + 1), row["state"], row["previous_version"] or "-", row["detail"]
        )
    out.print(table)


def _steer(number: int, action: str, server: str | None, token: str | None, **params: Any) -> None:  # noqa: ANN401
    with _client(server, token) as client:
        rollout = client.post(f"/rollouts/{number}/{action}", **params)
    out.print(f"rollout {number} is {rollout['state']}")


@rollouts_app.command("pause")
def rollouts_pause(number: int, server: Server = None, token: Token = None) -> None:
    """Start no further devices; those at work finish."""
    _steer(number, "pause", server, token)


@rollouts_app.command("resume")
def rollouts_resume(number: int, server: Server = None, token: Token = None) -> None:
    """Go on with a paused rollout."""
    _steer(number, "resume", server, token)


@rollouts_app.command("approve")
def rollouts_approve(number: int, server: Server = None, token: Token = None) -> None:
    """Let the next stage begin."""
    _steer(number, "approve", server, token)


@rollouts_app.command("abort")
def rollouts_abort(
    number: int,
    take_back: Annotated[
        bool, typer.Option("--take-back", help="Return updated devices to what they ran.")
    ] = False,
    server: Server = None,
    token: Token = None,
) -> None:
    """Stop a rollout now."""
    _steer(number, "abort", server, token, take_back=take_back)


@groups_app.command("put")
def groups_put(
    name: str,
    device: Annotated[list[str] | None, typer.Option(help="A device of the group; may be repeated.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="name=value that devices have; may be repeated.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Devices of this target.")] = None,
    server: Server = None,
    token: Token = None,
) -> None:
    """Make or replace a group: named devices, and those that match labels and target."""
    from edgec.fleet.client.connection import part

    selector: dict[str, Any] = {"labels": pairs(label)} if label else {}
    if target:
        selector["target"] = target
    with _client(server, token) as client:
        emit_json(client.put(f"/groups/{part(name)}", {"devices": device or [], "selector": selector}))


@groups_app.command("list")
def groups_list(server: Server = None, token: Token = None) -> None:
    """List groups, as JSON."""
    with _client(server, token) as client:
        emit_json(client.get("/groups")["items"])


@app.command()
def gc(
    grace: Annotated[str, typer.Option(help="Leave blobs younger than this.")] = "24h",
    server: Server = None,
    token: Token = None,
) -> None:
    """Remove blobs from the registry that no manifest needs."""
    from edgec.cli.deploy import seconds

    with _client(server, token) as client:
        found = client.post("/registry/gc", grace_s=seconds(grace))
    out.print(
        f"removed {found['blobs']} blobs ({found['bytes'] / 1e6:.1f} MB)"
        f" and {found['uploads']} broken uploads"
    )
