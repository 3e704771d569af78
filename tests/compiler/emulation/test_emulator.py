"""The emulator as it is prepared and found: what is missing is said with the way out, and what is there runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgec.compiler.emulation import install, packages
from edgec.compiler.emulation.emulator import default_root, find_emulator, lacking
from edgec.compiler.errors import ToolMissing
from edgec.compiler.progress import Silent
from edgec.compiler.wheels import Machine, requirements
from edgec.targets import load_target, machine_arch

EDGEC = [sys.executable, "-m", "edgec.cli.main"]
elsewhere = pytest.mark.skipif(machine_arch() == "aarch64", reason="this machine needs no emulator")


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for an emulator that is not prepared, and no qemu in the system."""
    monkeypatch.setenv("EDGEC_EMULATOR_ROOT", str(tmp_path / "emulator"))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_what_is_missing_is_named_with_the_command_that_brings_it(empty: Path) -> None:
    assert "qemu for aarch64 is not installed: `edgec targets emulator install`" in lacking(
        load_target("rpi4")
    )
    assert "qemu emulates no processor" in lacking(load_target("x86-64-v4"))
    assert find_emulator(load_target("rpi4")) is None


@elsewhere
@pytest.mark.emulator
def test_run_and_verify_name_the_command_too(tmp_path: Path) -> None:
    environment = os.environ | {"EDGEC_EMULATOR_ROOT": str(tmp_path)}
    command = [*EDGEC, "targets", "emulator", "run", "rpi4", "--version"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "edgec targets emulator install" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@elsewhere
def test_without_apt_the_way_out_is_a_folder_from_elsewhere(empty: Path) -> None:
    with pytest.raises(ToolMissing, match=r"apt-get is not installed.*--from FOLDER"):
        install.install("aarch64", None, Silent())
    assert not default_root("aarch64").exists()


@elsewhere
def test_a_folder_without_packages_is_refused(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ToolMissing, match=r"no such folder.*emulator download"):
        install.install("aarch64", empty / "nothing", Silent())
    (empty / "given").mkdir()
    with pytest.raises(ToolMissing, match="there are no Debian packages"):
        install.install("aarch64", empty / "given", Silent())
    assert not list(empty.glob("emulator/*")), "nothing half made is left"


@pytest.mark.parametrize("arch", ["riscv64", machine_arch()])
def test_an_architecture_without_an_emulator_is_refused(arch: str) -> None:
    with pytest.raises(ToolMissing, match=r"no emulator for riscv64|runs such code without an emulator"):
        install.install(arch, None, Silent())


def test_the_words_of_apt_are_passed_on(tmp_path: Path) -> None:
    with pytest.raises(
        ToolMissing, match="apt-get failed: E: Unable to locate package edgec-no-such-package"
    ):
        packages.fetch(["edgec-no-such-package"], "aarch64", tmp_path, Silent())


def test_wheels_are_those_for_the_machine_and_of_what_edgec_requires() -> None:
    options = Machine("aarch64", "3.11", "2.31").pip_options
    assert options[0] == "--platform=manylinux_2_31_aarch64"
    assert "--python-version=3.11" in options
    names = requirements()
    assert any(name.startswith("numpy") for name in names)
    assert not any(name.startswith(("apache-tvm=", "onnx")) for name in names)


@elsewhere
@pytest.mark.emulator
def test_the_emulated_board_is_taken_for_itself_in_every_process() -> None:
    """By its C library, by `/proc/cpuinfo`, and in a process that an emulated one starts."""
    target = load_target("rpi5")
    if told := lacking(target):
        pytest.skip(told)
    emulator = find_emulator(target)
    assert emulator is not None
    inner = "import platform; print(platform.machine())"
    program = (
        "import json, os, subprocess, sys; from edgec.targets import detect, machine_features; "
        f"child = subprocess.run([sys.executable, '-c', {inner!r}], capture_output=True, text=True).stdout.strip(); "
        "text = open('/proc/cpuinfo').read(); "
        "print(json.dumps([detect().name, sorted(machine_features()), child, text]))"
    )
    command, environment = emulator.command(["-c", program])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    name, features, child, cpuinfo = json.loads(done.stdout)
    assert name == "rpi5"
    assert set(features) >= target.features
    assert child == "aarch64"
    assert "asimddp" in cpuinfo
    assert "0xd0b" in cpuinfo
