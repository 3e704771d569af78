"""`edgec fleet audit`: who did what, when, and whether the log still says so."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgec.cli.arguments import Json, Server, Token, file_to_write
from edgec.cli.console import emit_json, out
from edgec.cli.fleet.client import connect

app = typer.Typer(no_args_is_help=True, help="The audit log: export and verify it.")
Since = Annotated[
    str,
    typer.Option(help="A head that an earlier check printed (COUNT:HASH); it must still be part of the log."),
]


@app.command()
def export(
    output: Annotated[Path, typer.Argument(help="File to write, one JSON object a line.")],
    server: Server = None,
    token: Token = None,
) -> None:
    """Download the whole audit log as JSON lines, checked as it arrives."""
    from edgec.fleet.audit.chain import read_lines, verify

    with connect(server, token) as client:
        client.download("/audit/export", file_to_write(output))
    with output.open(encoding="utf-8") as lines:
        head = verify(read_lines(lines))
    out.print(f"wrote {output}: {head.count} entries, head {head}", soft_wrap=True)


@app.command("verify")
def verify_log(
    file: Annotated[
        Path | None,
        typer.Argument(help="An export to check instead of the server's log.", show_default=False),
    ] = None,
    since: Since = "",
    server: Server = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Check that no entry was changed, removed or inserted. Note the head: a later check with --since finds out if the
    end was cut off or the log was rewritten."""
    from edgec.fleet.audit.chain import ChainBroken, parse_head, read_lines, verify

    if file is not None:
        with file.open(encoding="utf-8") as lines:
            head = verify(read_lines(lines), parse_head(since) if since else None)
        found = {"intact": True, "entries": head.count, "head": str(head)}
    else:
        with connect(server, token) as client:
            found = client.get("/audit/verify", since=since)
        if not found["intact"]:
            raise ChainBroken(str(found["reason"]))
    if as_json:
        emit_json(found)
    else:
        out.print(f"intact: {found['entries']} entries, head {found['head']}", soft_wrap=True)
