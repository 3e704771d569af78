"""What the code checks for is what the package installs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from edgec.runtime import versions

ROOT = Path(__file__).parents[2]
PINNED = {"apache-tvm": versions.TVM, "apache-tvm-ffi": versions.TVM_FFI}


def test_the_project_pins_the_versions_that_the_code_checks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["compiler"]]
    pinned = dict(r.split("==") for r in requirements if r.startswith("apache-tvm"))
    assert pinned == PINNED
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert dict(re.findall(r"^(apache-tvm\S*)==(\S+)$", constraints, re.MULTILINE)) == PINNED


def test_the_names_of_series_and_abi_belong_to_these_versions() -> None:
    assert versions.TVM.startswith(versions.TVM_SERIES)
    tvm, ffi = re.fullmatch(r"tvm-([\d.]+)\+ffi-([\d.]+)", versions.RUNTIME_ABI).groups()
    assert versions.TVM.startswith(f"{tvm}.")
    assert versions.TVM_FFI.startswith(f"{ffi}.")


def test_no_other_module_of_the_package_spells_a_version_of_tvm() -> None:
    spelt = [
        str(file.relative_to(ROOT))
        for folder in (
            "targets",
            "runtime",
            "compiler",
            "models",
            "device_agent",
            "fleet",
            "cli",
            "benchmarks",
        )
        for file in (ROOT / folder).rglob("*.py")
        if any(version in file.read_text(encoding="utf-8") for version in PINNED.values())
    ]
    assert spelt == ["runtime/versions.py"]
