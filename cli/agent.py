"""`edgec agent`: run the device agent, enrol a device, maintain it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)

State = Annotated[Path, typer.Option("--state", help="State folder of the agent.", readable=False)]
# whether they can be read is found by reading them
Config = Annotated[
    Path, typer.Option("--config", "-c", help="Configuration file of the agent.", readable=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.callback(invoke_without_command=True)
def _tune_server(
    context: typer.Context,
    tune_server: Annotated[
        bool,
        typer.Option(
            "--tune-server",
            help="In the place of a command: time kernels for `edgec compile --device HOST:PORT`, until Ctrl-C. "
            "It runs code that it is sent by whoever knows its token.",
        ),
    ] = False,
    host: Annotated[str, typer.Option("--tune-host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--tune-port", min=0, max=65535, help="Port; 0 takes a free one.")
    ] = 7780,
    token: Annotated[
        Path | None,
        typer.Option(
            "--tune-token", help="File with the token. [default: $EDGEC_TUNE_TOKEN]", show_default=False
        ),
    ] = None,
) -> None:
    """Run, configure, enrol and check the agent of a device."""
    if context.invoked_subcommand is not None:
        if tune_server:
            raise typer.BadParameter("is given alone, without a command", param_hint="--tune-server")
        return
    if not tune_server:
        raise typer.BadParameter("a command is missing; see --help")
    _serve_tuning(host, port, token)


def _serve_tuning(host: str, port: int, token: Path | None) -> None:
    import logging
    import signal

    from edgec.cli.arguments import read_token
    from edgec.cli.console import out
    from edgec.runtime.tuning.server import TuneServer

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    server = TuneServer(host, port, read_token(token).encode())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: server.stop())
    place, listens = server.address
    out.print(f"timing kernels on {place}:{listens}", soft_wrap=True)
    server.serve()


@app.command()
def run(
    config: Config = Path("agent.toml"),
    log: Annotated[str | None, typer.Option(help="Log format: `text` or `json`.")] = None,
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
        out.print(f"{config}: valid ({len(loaded.streams)} streams, {len(loaded.models)} models)")


@app.command()
def enroll(
    server: Annotated[str, typer.Option(help="Address of the fleet server, http(s)://host:port.")],
    state: State,
    token: Annotated[str, typer.Option(help="The enrolment token.", envvar="EDGEC_ENROLL_TOKEN")] = "",
    device: Annotated[str | None, typer.Option(help="The requested device name.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Label of the device, as NAME=VALUE. Repeatable.")
    ] = None,
    claim: Annotated[
        Path | None,
        typer.Option(
            help="Folder with a claim certificate (claim.pem and claim.key) to use instead of a token."
        ),
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(help="The authority (PEM) that issued an https server's certificate.")
    ] = None,
    json: Json = False,
) -> None:
    """Enrol this device with a token or a claim certificate; its credentials go to the state folder."""
    from edgec.cli.arguments import parse_labels
    from edgec.cli.console import emit_json, out, styled
    from edgec.device_agent.cloud.identity import enroll as enroll_device
    from edgec.targets.errors import UsageError

    if bool(token) is (claim is not None):
        raise UsageError("give either --token or --claim")
    labels = parse_labels(label or [])
    answer = enroll_device(server, token, state, device=device, labels=labels, ca=ca, claim=claim)
    if json:
        emit_json({"device": answer.device, "fleet": answer.fleet, "registry": answer.registry.url})
    else:
        out.print(styled("enrolled as ", (answer.device, "bold"), f" in fleet {answer.fleet}"))


@app.command()
def status(state: State, json: Json = False) -> None:
    """Show the status of the running agent."""
    from edgec.cli.console import emit_json
    from edgec.device_agent.health.status_socket import query

    answer = query(state)
    if json:
        emit_json(answer)
        return
    # not before: a health check asks for JSON every half minute, and this imports numpy and the doctor
    from edgec.cli.agent_view import print_status

    print_status(answer)


@app.command()
def doctor(
    config: Config = Path("agent.toml"),
    repair: Annotated[
        bool, typer.Option("--repair", help="Fetch damaged models again from the registry.")
    ] = False,
    json: Json = False,
) -> None:
    """Check everything the agent needs, and suggest a remedy for each problem."""
    import os
    from dataclasses import asdict

    # OpenCV's own warnings would appear between the findings, which report the same.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    from edgec.cli.agent_view import print_finding
    from edgec.cli.console import emit_json
    from edgec.device_agent.health.doctor import examine

    findings = []
    for finding in examine(config, repair=repair):
        findings.append(finding)
        if not json:
            print_finding(finding)
    if json:
        # `mend` is the former name of `remedy`, kept for one version.
        emit_json([asdict(finding) | {"mend": finding.remedy} for finding in findings])
    if any(finding.verdict == "bad" for finding in findings):
        raise typer.Exit(1)


@app.command()
def init(path: Annotated[Path, typer.Argument(help="File to write.")] = Path("agent.toml")) -> None:
    """Write a commented configuration to start from."""
    from importlib.resources import files

    from edgec.cli.console import out
    from edgec.targets.errors import UsageError

    if path.exists():
        raise UsageError(f"{path} already exists; remove it or name another file")
    path.write_text(files("edgec.device_agent.config").joinpath("example.toml").read_text(encoding="utf-8"))
    out.print(f"wrote {path}; check it with: edgec agent check --config {path}")
