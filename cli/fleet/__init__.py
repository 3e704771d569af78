"""`edgec fleet`: the fleet server and its administration."""

from __future__ import annotations

import typer

from edgec.cli.fleet import (
    access,
    audit,
    ca,
    groups,
    keys,
    models,
    mqtt_users,
    rollouts,
    server,
    setup,
    tokens,
)

app = typer.Typer(no_args_is_help=True, help="Run and administer the fleet server.")
for command in (
    setup.setup,
    setup.backup,
    setup.restore,
    server.serve,
    server.mosquitto,
    server.login,
    server.gc,
):
    app.command()(command)
for name, group in (
    ("token", tokens), ("access", access), ("audit", audit), ("models", models), ("rollouts", rollouts),
    ("groups", groups), ("keys", keys), ("ca", ca), ("mqtt-user", mqtt_users),
):  # fmt: skip
    app.add_typer(group.app, name=name)
