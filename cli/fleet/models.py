"""`edgec fleet models`: models, their versions and the tags that move between them."""

from __future__ import annotations

from typing import Annotated

import typer

from edgec.cli.arguments import Json, Server, Token, parse_model_version
from edgec.cli.console import ago, emit_json, out
from edgec.cli.fleet.client import connect

app = typer.Typer(
    no_args_is_help=True, help="List models and versions, move tags, delete what nothing needs."
)
Model = Annotated[str, typer.Argument(help="Name of the model.")]


@app.command("list")
def models_list(server: Server = None, token: Token = None, as_json: Json = False) -> None:
    """List models with their tags and the number of devices that run them."""
    from rich.table import Table

    with connect(server, token) as client:
        rows = client.get("/models")["items"]
    if as_json:
        emit_json(rows)
        return
    if not rows:
        out.print("no models; push one: edgec push MODEL.edge")
        return
    table = Table("model", "versions", "devices", "tags", "pushed")
    for row in rows:
        tags = ", ".join(f"{name} → {version}" for name, version in row["tags"].items())
        table.add_row(
            row["name"], str(row["versions"]), str(row["devices"]), tags, ago(row["last_pushed_at"])
        )
    out.print(table)


@app.command("show")
def models_show(model: Model, server: Server = None, token: Token = None, as_json: Json = False) -> None:
    """Show a model's artifacts, newest first, its tags and their latest moves."""
    from rich.table import Table

    from edgec.fleet.client.connection import part

    with connect(server, token) as client:
        shown = client.get(f"/models/{part(model)}") | client.get(f"/models/{part(model)}/tags")
    if as_json:
        emit_json(shown)
        return
    names: dict[str, list[str]] = {}
    for tag, version in shown["tags"].items():
        names.setdefault(version, []).append(tag)
    table = Table("version", "tags", "target", "size", "pushed", "digest")
    for row in shown["artifacts"]:
        table.add_row(
            row["version"], ", ".join(names.get(row["version"], [])), row["target"], f"{row['size'] / 1e6:.1f} MB",
            ago(row["pushed_at"]), row["digest"][:19],
        )  # fmt: skip
    out.print(table)
    if not shown["history"]:
        return
    moves = Table("tag", "from", "to", "by", "when")
    for move in shown["history"][:20]:
        version = move["version"] or "(removed)"
        moves.add_row(move["tag"], move["previous"] or "-", version, move["actor"], ago(move["at"]))
    out.print(moves)


@app.command("tag")
def models_tag(
    model: Annotated[str, typer.Argument(metavar="MODEL:VERSION", help="A version, or another tag.")],
    tag: Annotated[str, typer.Argument(help="The tag, such as stable or canary.")],
    server: Server = None,
    token: Token = None,
) -> None:
    """Let a tag name a version; what runs does not change before the next rollout of the tag."""
    from edgec.fleet.client.connection import part

    name, version = parse_model_version(model)
    with connect(server, token) as client:
        moved = client.put(f"/models/{part(name)}/tags/{part(tag)}", {"version": version})
    out.print(f"{name}:{moved['tag']} is version {moved['version']}")


@app.command("untag")
def models_untag(
    model: Model,
    tag: Annotated[str, typer.Argument(help="The tag to remove.")],
    server: Server = None,
    token: Token = None,
) -> None:
    """Remove a tag; its history stays."""
    from edgec.fleet.client.connection import part

    with connect(server, token) as client:
        client.delete(f"/models/{part(model)}/tags/{part(tag)}")
    out.print(f"{model} has no tag {tag} any more")


@app.command("delete")
def models_delete(
    model: Annotated[str, typer.Argument(metavar="MODEL:VERSION", help="The version to delete.")],
    server: Server = None,
    token: Token = None,
) -> None:
    """Delete a version for all targets; refused while a device, a rollout or a tag needs it."""
    from edgec.fleet.client.connection import part

    name, version = parse_model_version(model)
    with connect(server, token) as client:
        client.delete(f"/models/{part(name)}/{part(version)}")
    out.print(f"{model} is deleted; its number is not given again")
