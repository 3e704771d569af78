"""The `edgec` command: registers the commands, and turns errors into messages and exit codes."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
import traceback
from contextlib import suppress

import typer
from rich.markup import escape

from edgec.cli.authority import WithAuthority
from edgec.cli.console import err, out, styled
from edgec.cli.extras import extra_of, install_line, missing_extras
from edgec.cli.interrupts import lasting_interrupts
from edgec.targets.errors import EdgecError

# Each is a module of this package with a function `command`, or with an application `app` of subcommands. They import
# the compiler, the fleet and so on only when they run, so that the help appears at once.
COMMANDS = (
    "compile", "inspect", "run", "verify", "bench", "profile", "push", "deploy", "demo",
    "devices", "captures", "experiments", "targets", "runtime", "models", "libedgec", "agent", "fleet",
    "debug",
)  # fmt: skip
# Old name → present one; to be removed with the version after next.
RENAMED = {"samples": "captures"}

app = typer.Typer(
    cls=WithAuthority,
    name="edgec",
    help="Compile trained models for edge devices, verify the result, ship it and keep it running.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add_commands() -> None:
    for name in COMMANDS:
        _add(name, name)
    for old, name in RENAMED.items():
        _add(old, name, hidden=True)


def _add(name: str, module: str, *, hidden: bool = False) -> None:
    try:
        found = importlib.import_module(f"edgec.cli.{module}")
    except ModuleNotFoundError as error:
        _add_unavailable(name, error, hidden=hidden)
        return
    missing = missing_extras(module)
    panel = escape(f"Commands that need: {install_line(*missing)}") if missing else None
    if hasattr(found, "app"):
        app.add_typer(found.app, name=name, rich_help_panel=panel, hidden=hidden)
    else:
        app.command(name, rich_help_panel=panel, hidden=hidden)(found.command)


def _add_unavailable(name: str, error: ModuleNotFoundError, *, hidden: bool) -> None:
    """Register a command that reports `error` however it is called."""

    @app.command(
        name,
        help=f"Not available: {_missing(error)}.",
        hidden=hidden,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def unavailable() -> None:
        raise error


def _missing(error: ModuleNotFoundError) -> str:
    extra = extra_of(error.name)
    advice = (
        install_line(extra)
        if extra
        else "the installation is incomplete: pip install --force-reinstall edgec"
    )
    return f"the module {error.name} is not installed: {advice}"


def _print_version(wanted: bool) -> None:
    """Print the version of edgec and those of the packages that determine what it compiles and runs."""
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
        False, "--version", callback=_print_version, is_eager=True, help="Show versions and exit."
    ),
    debug: bool = typer.Option(
        False, "--debug", help="Show Python tracebacks. Valid anywhere on the line; same as EDGEC_DEBUG=1."
    ),
) -> None:
    pass


def main() -> None:
    """Run the command line and exit with the command's status."""
    _add_commands()
    debug = "--debug" in sys.argv or os.environ.get("EDGEC_DEBUG", "") not in ("", "0")
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]  # anywhere on the line
    try:
        with lasting_interrupts():
            app()
    except EdgecError as error:
        if debug:
            traceback.print_exc()
        _print_error(str(error))
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        # Of our own modules or an unknown package it is a defect, which a traceback describes better.
        if debug or (extra_of(error.name) is None and not (error.name or "").startswith("edgec.")):
            raise
        _print_error(_missing(error))
        sys.exit(1)
    except OSError as error:
        # Of the user's files: a full disk, a lacking permission, a folder in the place of a file.
        if debug or error.filename is None or error.strerror is None:
            raise
        _print_error(f"{os.fsdecode(error.filename2 or error.filename)}: {error.strerror}")
        sys.exit(1)
    except MemoryError:
        if debug:
            raise
        _print_error(
            "the memory does not suffice for this model; --memory-limit sets how much a compile may take"
        )
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(130)


def _print_error(text: str) -> None:
    err.print(styled(("error:", "bold red"), f" {text}"), soft_wrap=True)


if __name__ == "__main__":
    main()
