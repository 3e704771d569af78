"""The command itself: its help, what it says when a part is not installed, and how errors end it."""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from edgec.cli.extras import EXTRAS, NEEDS, extra_of
from edgec.cli.main import COMMANDS
from tests.cli.conftest import Edgec
from tests.conftest import REPOSITORY

PARTS = ("targets", "runtime", "compiler", "models", "protocol", "device_agent", "fleet", "cli")


def listed(text: str) -> set[str]:
    """The names in the first column of the help's panels."""
    return set(re.findall(r"^[│|] ([a-z]+) ", text, re.MULTILINE))


def test_the_help_lists_every_command(edgec: Edgec) -> None:
    shown = edgec("--help")
    assert shown.returncode == 0
    assert set(COMMANDS) <= listed(shown.stdout)
    assert "pip install" not in shown.stdout


def test_no_command_vanishes_from_the_help_with_its_extra(edgec: Edgec) -> None:
    shown = edgec("--help", without=["compiler", "fleet"])
    assert set(COMMANDS) <= listed(shown.stdout)
    panels = re.split(r"╭─+ ", shown.stdout)
    compiler = next(panel for panel in panels if "pip install 'edgec[compiler]'" in panel)
    assert listed(compiler) == {"compile", "verify", "debug", "runtime", "libedgec"}
    both = next(panel for panel in panels if "pip install 'edgec[compiler,fleet]'" in panel)
    assert listed(both) == {"demo"}


@pytest.mark.parametrize(
    ("arguments", "without"),
    [
        (("compile", "m.onnx"), "compiler"),
        (("inspect", "m.onnx"), "compiler"),
        (("verify", "m.onnx", "m.onnx"), "compiler"),
        (("models", "build", "shapes-v1"), "compiler"),
        (("debug", "reduce", "m.onnx"), "compiler"),
        (("bench", "--suite"), "compiler"),
        (("demo",), "compiler"),
        (("fleet", "serve", "--data", "data"), "fleet"),
        (("fleet", "mosquitto", "folder", "--mqtt", "mqtt://a:b@c:1"), "fleet"),
        (("fleet", "ca", "init", "--data", "data"), "fleet"),
        (("fleet", "serve", "--data", "data", "--blobs", "s3://bucket/prefix"), "s3"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else value,
)
def test_a_command_names_the_line_that_installs_its_extra(
    edgec: Edgec, tmp_path: Path, arguments: tuple[str, ...], without: str
) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not read before the import fails")
    done = edgec(*arguments, cwd=tmp_path, without=[without])
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert f"pip install 'edgec[{without}]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [("targets", "list"), ("models", "list"), ("agent", "--help"), ("devices", "--help"), ("fleet", "token", "--help")],
)  # fmt: skip
def test_a_device_needs_no_extra(edgec: Edgec, arguments: tuple[str, ...]) -> None:
    done = edgec(*arguments, without=EXTRAS)
    assert done.returncode == 0, done.stderr


def test_a_command_whose_own_module_is_missing_says_so(edgec: Edgec) -> None:
    shown = edgec("--help", hidden=["edgec.cli.captures"])
    assert "captures" in listed(shown.stdout)
    assert "Not available: the module edgec.cli.captures is not installed" in shown.stdout
    for arguments in (
        ("captures",),
        ("captures", "list", "--state", "new"),
        ("captures", "--help"),
        ("samples",),
    ):
        done = edgec(*arguments, hidden=["edgec.cli.captures"])
        assert done.returncode == 1
        assert done.stderr.startswith("error: the module edgec.cli.captures is not installed")
    assert edgec("targets", "list", hidden=["edgec.cli.captures"]).returncode == 0


def test_the_old_name_of_captures_still_works(edgec: Edgec) -> None:
    old, new = edgec("samples", "--help"), edgec("captures", "--help")
    assert old.returncode == 0
    assert old.stdout.replace(" samples ", " captures ").split() == new.stdout.split()
    assert "samples" not in listed(edgec("--help").stdout)


def test_the_help_imports_none_of_the_parts() -> None:
    program = """
import sys
from edgec.cli.main import main
sys.argv = ["edgec", "--help"]
try:
    main()
except SystemExit:
    pass
heavy = {"tvm", "onnx", "onnxruntime", "cv2", "torch", "fastapi", "sqlalchemy", "nicegui", "httpx", "pydantic", "paho"}
print(*sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.split() == []


def normal(name: str) -> str:
    """A distribution's name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def base_packages() -> set[str]:
    """What an installation without extras brings: the names of distributions, those required by others included."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: set[str] = set()
    lines = list(project["dependencies"])
    while lines:
        line = lines.pop()
        name = normal(re.split(r"[ <>=!~\[;(]", line)[0])
        if "extra ==" in line or name in found:
            continue
        found.add(name)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # of another platform
            lines += importlib.metadata.requires(name) or []
    return found


def imports(path: Path) -> set[str]:
    """The packages of others that a file imports, inside functions, too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"edgec"}


def test_every_optional_package_has_an_extra() -> None:
    base, providers = base_packages(), importlib.metadata.packages_distributions()
    unknown = {
        f"{path.relative_to(REPOSITORY)}: {name}"
        for path in (path for part in PARTS for path in (REPOSITORY / part).rglob("*.py"))
        for name in imports(path)
        if extra_of(name) is None and not base & {normal(one) for one in providers.get(name, [name])}
    }
    assert not unknown


def test_the_table_of_extras_is_that_of_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(EXTRAS) <= set(project["optional-dependencies"])
    assert set(NEEDS) <= set(COMMANDS)


def test_an_error_shows_its_brackets_and_debug_shows_the_traceback(edgec: Edgec, tmp_path: Path) -> None:
    name = "[bold]none[audio].onnx"
    plain = edgec("compile", name, cwd=tmp_path)
    assert (plain.returncode, plain.stderr) == (2, f"error: {name}: no such model file\n")
    for arguments, environment in ((("--debug", "compile", name), {}), (("compile", name, "--debug"), {}),
                                   (("compile", name), {"EDGEC_DEBUG": "1"})):  # fmt: skip
        debugged = edgec(*arguments, cwd=tmp_path, environment=environment)
        assert debugged.returncode == 2
        assert debugged.stderr.startswith("Traceback")
        assert plain.stderr in debugged.stderr


def test_an_unknown_command_ends_with_the_status_of_wrong_usage(edgec: Edgec) -> None:
    done = edgec("compiel", "x")
    assert done.returncode == 2
    assert "No such command 'compiel'" in done.stderr


def test_the_version_names_what_decides_a_compile(edgec: Edgec) -> None:
    done = edgec("--version")
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} >= {"edgec", "apache-tvm", "onnxruntime"}
