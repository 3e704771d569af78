"""The ``edgec`` command: registers the command groups and turns errors into messages and exit codes."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
import traceback
from contextlib import suppress

import typer

from edgec.cli.console import err, out
from edgec.cli.interrupts import lasting_interrupts
from edgec.targets.errors import EdgecError

# Modules with `register(app)` add top-level commands; modules with `app` become a group of that name.
TOP_LEVEL = (
    "compile", "inspect", "run", "verify", "bench", "profile", "push", "deploy", "devices", "captures",
    "experiments", "demo",
)  # fmt: skip
GROUPS = ("targets", "models", "agent", "fleet", "debug")

app = typer.Typer(
    name="edgec",
    help="Compile trained models for edge devices, prove the result, ship it and keep it running.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add_commands() -> None:
    for name in TOP_LEVEL:
        if importlib.util.find_spec(f"edgec.cli.{name}"):
            importlib.import_module(f"edgec.cli.{name}").register(app)
    for name in GROUPS:
        if importlib.util.find_spec(f"edgec.cli.{name}"):
            app.add_typer(importlib.import_module(f"edgec.cli.{name}").app, name=name)


def _print_version(wanted: bool) -> None:
    """edgec's version, then those of the packages that decide what it compiles and runs."""
    if not wanted:
        return
    out.print(
        f"edgec {importlib.metadata.version('edgec')}, Python {platform.python_version()}", highlight=False
    )
    for name in ("apache-tvm", "apache-tvm-ffi", "onnx", "onnxruntime", "numpy"):
        with suppress(importlib.metadata.PackageNotFoundError):
            out.print(f"{name} {importlib.metadata.version(name)}", highlight=False)
    raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Show versions and end."
    ),
    debug: bool = typer.Option(
        False, "--debug", help="Show Python tracebacks; may stand anywhere. Or set EDGEC_DEBUG."
    ),
) -> None:
    pass


def main() -> None:
    """Run the command line; the process's exit status tells what happened."""
    _add_commands()
    debug = "--debug" in sys.argv or os.environ.get("EDGEC_DEBUG", "") not in ("", "0")
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]  # anywhere on the line
    try:
        with lasting_interrupts():
            app()
    except EdgecError as error:
        if debug:
            traceback.print_exc()
        err.print(f"[bold red]error:[/] {error}", soft_wrap=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        extra = {"tvm": "compiler", "onnx": "compiler", "onnxruntime": "compiler", "sqlalchemy": "fleet"}
        extra |= {"nicegui": "fleet", "fastapi": "fleet", "amqtt": "fleet", "sounddevice": "audio"}
        name = (error.name or "").partition(".")[0]
        if debug or name not in extra:
            raise
        err.print(f"[bold red]error:[/] this needs the package {name}: pip install 'edgec\\[{extra[name]}]'")
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(130)


if __name__ == "__main__":
    main()
