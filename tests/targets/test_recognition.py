"""Machines are recognised by what their `/proc/cpuinfo` says: the texts are in `cpuinfo/`, named by their targets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgec.targets import Target, UnknownTarget, detect_other, list_targets, load_target
from edgec.targets.cpuinfo import cpuinfo_of, matches, parse_board, parse_cpuinfo, parse_identities
from edgec.targets.recognition import machine_of, recognise

TEXTS = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((Path(__file__).parent / "cpuinfo").glob("*.txt"))
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_machine_is_recognised_by_its_processors(name: str) -> None:
    assert detect_other(TEXTS[name]).name == name


def test_every_target_with_processors_of_its_own_has_a_text() -> None:
    boards_alike = {"imx8mp"}  # is told by its device tree alone
    assert {t.name for t in list_targets() if t.processors} - boards_alike <= set(TEXTS)


@pytest.mark.parametrize(
    ("name", "board", "expected"),
    [
        ("cortex-a53", "NXP i.MX8MPlus EVK board fsl,imx8mp-evk fsl,imx8mp", "imx8mp"),
        ("cortex-a53", "Raspberry Pi 3 Model A Plus raspberrypi,3-model-a-plus brcm,bcm2837", "rpi3"),
        ("cortex-a53", "Texas Instruments AM625 SK ti,am625-sk ti,am625", "cortex-a53"),
        ("cortex-a55", "NXP i.MX95 19X19 board fsl,imx95-19x19-evk fsl,imx95", "imx95"),
        ("rk3588", "Radxa ROCK 5B radxa,rock-5b rockchip,rk3588", "rk3588"),
        ("imx95", "Some board of six A55 vendor,six", "cortex-a55"),
    ],
)
def test_boards_with_the_same_processor_are_told_apart_by_the_device_tree(
    name: str, board: str, expected: str
) -> None:
    assert recognise(machine_of(TEXTS[name], board), list_targets()).name == expected


def test_a_machine_of_unknown_processors_gets_what_it_can_run() -> None:
    later = TEXTS["graviton4"].replace("0xd4f", "0xd99")
    found = detect_other(later)
    assert found.features <= load_target("graviton4").features
    assert found.arch == "aarch64"
    other = TEXTS["rpi4"].replace("0x41", "0x61").partition("Model")[0]
    assert detect_other(other).features == load_target("rpi4").features


def test_a_virtual_machine_that_hides_a_feature_is_no_longer_the_processor() -> None:
    hidden = TEXTS["zen4"].replace(" avx512_bf16", "").replace(" avx512_vnni", "")
    assert detect_other(hidden).name == "x86-64-v4"


@pytest.mark.parametrize(
    "text", ["", "nothing", "processor : 0\nFeatures : half thumb neon vfpv4\n", "flags : fpu sse2\n"]
)
def test_a_text_of_no_64_bit_machine_is_refused(text: str) -> None:
    with pytest.raises(UnknownTarget, match="64-bit"):
        detect_other(text)


def test_patterns_list_models_by_ranges() -> None:
    assert matches("AuthenticAMD:25:97", "AuthenticAMD:25:16-31,96-127")
    assert not matches("AuthenticAMD:25:33", "AuthenticAMD:25:16-31,96-127")
    assert not matches("AuthenticAMD:26:97", "AuthenticAMD:25:16-31,96-127")
    assert matches("0x41:0xd0b", "0x41:0xd0b")
    assert not matches("0x4e:0xd0b", "0x41:0xd0b")


def test_identities_and_boards_are_read() -> None:
    assert set(parse_identities(TEXTS["rk3399"])) == {"0x41:0xd03", "0x41:0xd08"}
    assert parse_identities(TEXTS["n100"]) == ("GenuineIntel:6:190",) * 4
    assert parse_board(TEXTS["rpi5"]) == "Raspberry Pi 5 Model B Rev 1.0"
    assert parse_board(TEXTS["zen5"]) == ""


@pytest.mark.parametrize("target", [t for t in list_targets() if not t.gpu], ids=lambda target: target.name)
def test_what_is_written_for_an_emulator_is_read_as_the_target(target: Target) -> None:
    text = cpuinfo_of(target, 3)
    assert parse_cpuinfo(text) >= target.features
    identities = parse_identities(text)
    assert len(identities) == 3
    assert not target.processors or matches(identities[0], target.processors[0])


def test_the_command_reads_a_copy_of_another_machine(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgec.cli.main", "targets", "detect", "--json", "--cpuinfo"]
    done = subprocess.run([*command, "-"], input=TEXTS["rk3588"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["name"] == "rk3588"
    (tmp_path / "copy").write_text("none", encoding="utf-8")
    done = subprocess.run([*command, str(tmp_path / "copy")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "64-bit" in done.stderr
