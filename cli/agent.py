"""`edgec agent`: run the device agent, enrol a device, maintain it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Run the agent on a device: cameras in, events out, updates in.", no_args_is_help=True)

State = Annotated[Path, typer.Option("--state", help="The agent's state folder.")]
Config = Annotated[Path, typer.Option("--config", "-c", help="The agent's TOML file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def run(
    config: Config = Path("agent.toml"),
    log: Annotated[str | None, typer.Option(help="Log lines as `text` or `json`.")] = None,
) -> None:
    """Run the agent until SIGTERM or Ctrl-C."""
    from edgec.device_agent.agent import run as run_agent

    run_agent(config, log)


@app.command()
def check(config: Config = Path("agent.toml"), json: Json = False) -> None:
    """Validate a configuration file and print it with all defaults."""
    from edgec.cli.console import emit_json, out
    from edgec.device_agent.config.settings import load_config

    loaded = load_config(config)
    if json:
        emit_json(loaded.model_dump(mode="json", exclude_none=True))
    else:
        out.print(f"{config}: good ({len(loaded.streams)} streams, {len(loaded.models)} models)")


@app.command()
def enroll(
    server: Annotated[str, typer.Option(help="The fleet server's address, http(s)://host:port.")],
    state: State,
    token: Annotated[str, typer.Option(help="The enrolment token.", envvar="EDGEC_ENROLL_TOKEN")] = "",
    device: Annotated[str | None, typer.Option(help="The requested device name.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, may be repeated.")] = None,
    claim: Annotated[
        Path | None,
        typer.Option(help="Folder with a claim certificate (claim.pem, claim.key), instead of a token."),
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(help="The authority (PEM) that issued an https server's certificate.")
    ] = None,
    json: Json = False,
) -> None:
    """Enrol this device with a token or a claim certificate; its credentials go to the state folder."""
    from edgec.cli.console import emit_json, out
    from edgec.device_agent.cloud.identity import enroll as enroll_device
    from edgec.targets.errors import UsageError

    if bool(token) is (claim is not None):
        raise UsageError("give either --token or --claim")
    pairs = [text.partition("=") for text in label or []]
    if any(not separator for _, separator, _ in pairs):
        raise UsageError("a label is written KEY=VALUE")
    labels = {key: value for key, _, value in pairs}
    answer = enroll_device(server, token, state, device=device, labels=labels, ca=ca, claim=claim)
    if json:
        emit_json({"device": answer.device, "fleet": answer.fleet, "registry": answer.registry.url})
    else:
        out.print(f"enrolled as [bold]{answer.device}[/] in fleet {answer.fleet}")


@app.command()
def status(state: State, json: Json = False) -> None:
    """Show the status of the running agent."""
    from edgec.cli.agent_view import print_status
    from edgec.cli.console import emit_json
    from edgec.device_agent.health.status_socket import ask

    answer = ask(state)
    if json:
        emit_json(answer)
    else:
        print_status(answer)


@app.command()
def doctor(config: Config = Path("agent.toml"), json: Json = False) -> None:
    """Check everything the agent needs, and suggest a remedy for each problem."""
    import os
    from dataclasses import asdict

    # OpenCV's own warnings would stand between the findings, which say the same.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    from edgec.cli.agent_view import print_finding
    from edgec.cli.console import emit_json
    from edgec.device_agent.health.doctor import examine

    findings = []
    for finding in examine(config):
        findings.append(finding)
        if not json:
            print_finding(finding)
    if json:
        # `mend` is the former name of `remedy`, kept for one version.
        emit_json([asdict(finding) | {"mend": finding.remedy} for finding in findings])
    if any(finding.verdict == "bad" for finding in findings):
        raise typer.Exit(1)


@app.command()
def init(path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("agent.toml")) -> None:
    """Write a commented configuration to start from."""
    from importlib.resources import files

    from edgec.cli.console import out
    from edgec.targets.errors import UsageError

    if path.exists():
        raise UsageError(f"{path} exists; remove it or name another file")
    path.write_text(files("edgec.device_agent.config").joinpath("example.toml").read_text(encoding="utf-8"))
    out.print(f"wrote {path}; try it with: edgec agent check --config {path}")
