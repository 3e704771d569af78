"""`edgec targets`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgec.runtime.gpu.found import FoundGpu
from edgec.targets import list_targets
from tests.benchmarks.gpu.emulated import make_driver
from tests.cli.conftest import Edgec


def test_every_listed_target_can_be_shown(edgec: Edgec) -> None:
    listed = json.loads(edgec("targets", "list", "--json").stdout)
    names = [target["name"] for target in listed]
    assert {"x86-64-v3", "rpi5"} <= set(names)
    assert json.loads(edgec("targets", "show", "rpi5", "--json").stdout) in listed
    text = edgec("targets", "list").stdout
    assert all(name in text for name in names)


def test_a_gpu_is_described_by_its_own_facts(edgec: Edgec) -> None:
    shown = edgec("targets", "show", "h100").stdout
    for fact in ("sm_90", "132", "228 KiB", "50 MiB", "bf16", "3350 GB/s"):
        assert fact in shown
    assert "registers" not in shown
    assert "glibc" not in shown, "a fact of processors"
    assert "sm_90; 132 SM" in edgec("targets", "list", environment={"COLUMNS": "200"}).stdout


def test_an_alias_and_a_file_name_the_target(edgec: Edgec, tmp_path: Path) -> None:
    rpi = json.loads(edgec("targets", "show", "rpi5", "--json").stdout)
    assert rpi["aliases"]
    for alias in rpi["aliases"]:
        assert json.loads(edgec("targets", "show", alias, "--json").stdout) == rpi
    done = edgec("targets", "show", "rpi6", cwd=tmp_path)
    assert done.returncode == 2
    assert "rpi5" in done.stderr, "the nearest name is suggested"


def test_the_machine_at_hand_has_a_target(edgec: Edgec) -> None:
    found = json.loads(edgec("targets", "detect", "--json").stdout)
    assert found["name"] in edgec("targets", "detect").stdout


def test_an_nvidia_gpu_is_found_by_its_driver(edgec: Edgec, tmp_path: Path) -> None:
    make_driver(tmp_path)
    with_driver = {"LD_LIBRARY_PATH": str(tmp_path), "COLUMNS": "200"}
    text = edgec("targets", "detect", environment=with_driver).stdout
    assert "NVIDIA GPU: Fake GPU, sm_89, 58 multiprocessors" in text
    assert "--target l4 (or rtx40, cuda)" in text
    found = json.loads(edgec("targets", "detect", "--json", environment=with_driver).stdout)["nvidia"]
    assert found["targets"] == ["l4", "rtx40", "cuda"]


@pytest.mark.parametrize(
    ("architecture", "multiprocessors", "wanted"),
    [
        ("sm_87", 16, ["jetson-orin-gpu", "jetson-orin-nano-gpu", "jetson-orin-nx-gpu", "cuda"]),
        ("sm_86", 70, ["a10", "a2", "cuda"]),
        ("sm_103", 148, ["cuda"]),  # by its PTX
        ("sm_61", 20, []),
    ],
)
def test_targets_of_a_gpu_are_those_with_its_code(
    architecture: str, multiprocessors: int, wanted: list[str]
) -> None:
    found = FoundGpu("a GPU", architecture, multiprocessors, 1 << 30, "12.4")
    assert found.among([one for one in list_targets() if one.gpu is not None]) == wanted


def test_the_machine_is_measured_and_remembered(edgec: Edgec, tmp_path: Path) -> None:
    cache = {"EDGEC_CACHE": str(tmp_path)}
    found = json.loads(edgec("targets", "detect", "--measure", "--json", environment=cache).stdout)
    rates = found["rates"]
    assert rates["gops"]["fp32"][0] > 0
    assert {level["name"] for level in rates["levels"]} >= {"L1", "memory"}
    assert all(level["latency_ns"] > 0 and level["gbytes"][0] > 0 for level in rates["levels"])
    assert found["target"]["core"]["microarchitecture"] == rates["family"]
    kept = [json.loads(file.read_text()) for file in (tmp_path / "machines").iterdir()]
    assert [one["rates"] for one in kept] == [rates]


@pytest.mark.parametrize("command", ["show", "list"])
def test_a_broken_file_is_named(edgec: Edgec, tmp_path: Path, command: str) -> None:
    folder = tmp_path / "edgec" / "targets"
    folder.mkdir(parents=True)
    (folder / "mine.toml").write_text("name = [")
    arguments = [folder / "mine.toml"] if command == "show" else []
    done = edgec(
        "targets", command, *arguments, environment={"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
    )
    assert "Traceback" not in done.stderr
    if command == "show":
        assert done.returncode != 0
        assert "mine.toml" in done.stderr
