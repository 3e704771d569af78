"""Target files: found by name, alias and path; wrong ones refused with the key that is wrong; this machine
named.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from edgec.targets import (
    BadTargetFile,
    Target,
    UnknownTarget,
    detect,
    list_targets,
    load_target,
    machine_arch,
    machine_features,
)
from edgec.targets.core import Core, make_core
from edgec.targets.cpuinfo import parse_cores, parse_cpuinfo
from edgec.targets.detection import detect_from
from edgec.targets.hwcap import decode_hwcap
from edgec.targets.target import read_target_file

SHIPPED = Path(__file__).resolve().parents[2] / "targets"

OWN = """
name = "greenhouse"
description = "the box in the greenhouse"
extends = "rpi5"
l2_bytes = 262144
extra_features = ["sve"]

[tvm]
kind = "llvm"
mtriple = "aarch64-linux-gnu"
mcpu = "cortex-a76"
mattr = ["+sve"]
"""


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEC_TARGETS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", [target.name for target in list_targets()])
def test_every_shipped_target_is_one_that_tvm_takes(name: str) -> None:
    tvm = pytest.importorskip("tvm")
    target = load_target(name)
    made = tvm.target.Target(target.tvm)
    if target.gpu is not None:
        assert made.kind.name == target.device_kind == "cuda"
        return
    assert made.attrs["mcpu"]
    assert target.vector_bits in (128, 256, 512)
    assert target.fp32_lanes * 32 == target.vector_bits


def test_names_and_aliases_belong_to_one_target_each() -> None:
    names = [name for target in list_targets() for name in (target.name, *target.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("alias", "name"),
    [("avx2", "x86-64-v3"), ("znver4", "zen4"), ("raspberry-pi-5", "rpi5"), ("Cortex-A72", "rpi4")],
)
def test_an_alias_leads_to_its_target(alias: str, name: str) -> None:
    assert load_target(alias).name == name


def test_an_unknown_name_is_answered_with_what_comes_near() -> None:
    with pytest.raises(UnknownTarget, match=r"unknown target 'rpi6'; did you mean rpi5"):
        load_target("rpi6")


def test_a_file_of_the_users_own_extends_a_shipped_one(own_folder: Path) -> None:
    (own_folder / "box.toml").write_text(OWN)
    target = load_target("greenhouse")
    base = load_target("rpi5")
    assert target.l2_bytes == 262144
    assert target.l3_bytes == base.l3_bytes
    assert target.features == base.features | {"sve"}
    assert target.aliases == ()
    assert target in list_targets()
    assert load_target(str(own_folder / "box.toml")) == target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("l2_bytes = 262144", "l2_bytes = -1"), "l2_bytes must be positive"),
        (("l2_bytes = 262144", 'l2_bytes = "much"'), "l2_bytes must be of type int, not 'much'"),
        (("l2_bytes = 262144", "l2_byte = 1"), "unknown key 'l2_byte'"),
        (('extends = "rpi5"', 'extends = "rpi55"'), "extends 'rpi55', which is not a known target"),
        (('extends = "rpi5"', 'extends = "greenhouse"'), "is circular"),
        (('extends = "rpi5"', ""), "the key arch is missing"),
        (('kind = "llvm"', ""), "needs a kind"),
        (('name = "greenhouse"', ""), "the key name is missing"),
        (('name = "greenhouse"', "name = "), "cannot be read as a target description"),
        (('["sve"]', '["neon"]'), "the feature 'neon' is called 'asimd'"),
        (("[tvm]", "[core]\nfma_units = 2\n[tvm]"), "unknown key 'core.fma_units'"),
        (("[tvm]", "[core]\nfma_per_cycle = 0\n[tvm]"), "core.fma_per_cycle must be positive, not 0"),
        (("[tvm]", "[core]\nloads_exposed = -1\n[tvm]"), "core.loads_exposed must be 0 or positive, not -1"),
        (("[tvm]", "[core]\nl2_bytes_per_cycle = nan\n[tvm]"), "core.l2_bytes_per_cycle must be positive"),
        (("[tvm]", "[core]\nissue_width = 2.5\n[tvm]"), "core.issue_width must be of type int, not 2.5"),
        (("[tvm]", "[core]\nmicroarchitecture = 76\n[tvm]"), "core.microarchitecture must be of type str"),
        (
            ("[tvm]", "[core.dots]\nsdot = 2\n[tvm]"),
            "core.dots.sdot must have the keys latency and per_cycle",
        ),
    ],
)
def test_a_bad_file_is_refused_with_its_path_and_key(
    own_folder: Path, change: tuple[str, str], message: str
) -> None:
    path = own_folder / "box.toml"
    path.write_text(OWN.replace(*change))
    with pytest.raises(BadTargetFile, match=message) as caught:
        load_target(str(path))
    assert str(path) in str(caught.value)


def test_a_file_inherits_the_facts_of_its_core_one_by_one(own_folder: Path) -> None:
    path = own_folder / "box.toml"
    path.write_text(
        OWN.replace(
            "[tvm]",
            "[core]\nl3_bytes_per_cycle = 4\n[core.dots]\nfdot = { per_cycle = 1, latency = 2 }\n[tvm]",
        )
    )
    core, base = load_target("greenhouse").core, load_target("rpi5").core
    assert core.l3_bytes_per_cycle == 4.0
    assert core.fma_latency == base.fma_latency
    assert core.microarchitecture == "cortex-a76"
    assert set(core.dots) == {"sdot", "fdot"}


def test_a_file_that_extends_nothing_needs_no_core(own_folder: Path) -> None:
    whole = {
        key: value for key, value in load_target("aarch64").to_json().items() if key not in ("core", "tvm")
    }
    lines = [
        f"{key} = {json.dumps(value)}" for key, value in (whole | {"name": "old", "aliases": []}).items()
    ]
    (own_folder / "old.toml").write_text("\n".join([*lines, "[tvm]", 'kind = "llvm"']))
    assert load_target("old").core == Core()


@pytest.mark.parametrize("target", [t for t in list_targets() if t.gpu], ids=lambda target: target.name)
def test_a_shipped_gpu_is_described_with_its_source(target: Target) -> None:
    gpu = target.gpu
    assert gpu is not None
    assert gpu.source
    assert gpu.architectures
    assert gpu.ptx
    assert gpu.shared_bytes_per_block <= gpu.shared_bytes_per_multiprocessor
    assert gpu.fp32_gflops > 100
    assert target.arch == "any"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("architectures = ['87']", "named such as sm_87, not '87'"),
        ("multiprocessors = 0", "gpu.multiprocessors must be positive"),
        ("tensor_types = ['fp17']", "are of fp16, bf16"),
        ("cores = 5", "unknown key 'gpu.cores'"),
        ("clock_mhz = 'fast'", "gpu.clock_mhz must be of type int"),
        ("unified_memory = 1", "gpu.unified_memory must be of type bool"),
        ("ptx = ['sm_87']", "gpu.ptx must be of type str"),
        ("architectures = 'sm_87'", "must be a list of strings"),
    ],
)
def test_a_wrong_fact_of_a_gpu_is_named(own_folder: Path, table: str, message: str) -> None:
    (own_folder / "mine.toml").write_text(
        f'name = "mine"\ndescription = "mine"\nextends = "l4"\n[gpu]\n{table}\n'
    )
    with pytest.raises(BadTargetFile, match=message):
        load_target("mine")


@pytest.mark.parametrize("target", [t for t in list_targets() if not t.gpu], ids=lambda target: target.name)
def test_a_shipped_core_is_described_whole_and_with_its_source(target: Target) -> None:
    assert target.core.source
    assert target.core.microarchitecture != "generic"
    files = {read_target_file(path)["name"]: path for path in SHIPPED.glob("*.toml")}
    core = read_target_file(files[target.name]).get("core", {})
    if (
        "microarchitecture" in core
    ):  # another core than that of the target which it extends: no fact is shared
        assert set(core) >= {fact.name for fact in fields(Core)} - {"dots", "winners"}


def test_small_and_large_arm_cores_are_targets_of_their_own() -> None:
    small, large = load_target("cortex-a55"), load_target("cortex-a76")
    assert large.name == "rpi5"
    assert small.features == large.features
    assert small.core.microarchitecture != large.core.microarchitecture
    assert small.core.fma_per_cycle < large.core.fma_per_cycle


def test_a_core_of_another_maker_is_not_taken_for_arms() -> None:
    assert parse_cores("CPU implementer : 0x51\nCPU part : 0xd05\n") == frozenset()


def test_this_machine_fulfils_the_target_that_it_is_said_to_be() -> None:
    found = detect()
    assert found.arch == machine_arch()
    assert found.features <= machine_features()
    assert found.cores >= 1
    assert load_target("host") == found
    wider = [t for t in list_targets() if t.arch == found.arch and t.vector_bits > found.vector_bits]
    assert not any(t.features <= machine_features() for t in wider)


def test_a_machine_that_no_target_describes_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgec.targets.detection.machine_arch", lambda: "s390x")
    with pytest.raises(UnknownTarget, match="s390x"):
        detect_from(list_targets())


def test_features_are_those_that_all_cores_have() -> None:
    text = "processor : 0\nFeatures : fp asimd asimddp\n\nprocessor : 1\nFeatures : fp asimd asimddp sve\n"
    assert parse_cpuinfo(text) == {"fp", "asimd", "asimddp", "dotprod"}
    assert parse_cpuinfo("nothing") == frozenset()


def test_the_bits_of_arm_processors_are_read_as_linux_writes_them() -> None:
    cortex_a72 = decode_hwcap(0x8FB, 0)
    assert cortex_a72 >= {"fp", "asimd", "aes", "crc32"}
    assert "asimddp" not in cortex_a72
    assert decode_hwcap(1 << 20, 1 << 13) == {"asimddp", "i8mm"}


def test_the_command_prints_targets_as_json() -> None:
    command = [sys.executable, "-m", "edgec.cli.main", "targets"]
    done = subprocess.run([*command, "list", "--json"], capture_output=True, text=True, check=True)
    assert {entry["name"] for entry in json.loads(done.stdout)} == {t.name for t in list_targets()}
    done = subprocess.run([*command, "show", "rpi5"], capture_output=True, text=True, check=True)
    assert "cortex-a76: 4 instructions a cycle" in " ".join(done.stdout.split())
    done = subprocess.run([*command, "show", "nope"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown target 'nope'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_target_round_trips_through_json() -> None:
    content = load_target("rpi4").to_json()
    restored = {
        "features": frozenset(content["features"]),
        **{key: tuple(content[key]) for key in ("aliases", "processors", "boards")},
        "core": make_core(content["core"]),
    }
    assert Target(**content | restored) == load_target("rpi4")


def test_the_guide_names_every_key_of_a_target_file() -> None:
    guide = (SHIPPED.parent / "docs" / "targets.md").read_text(encoding="utf-8")
    keys = [
        *(key for key in Target.__dataclass_fields__ if key != "here"),  # set by detection, not by a file
        *(f"{fact.name}" for fact in fields(Core)),
        "extends",
        "extra_features",
    ]
    missing = [key for key in keys if not re.search(rf"`[^`\n]*\b{key}\b|^{key} = ", guide, re.MULTILINE)]
    assert not missing


def test_the_example_of_the_guide_is_a_target(own_folder: Path) -> None:
    guide = (SHIPPED.parent / "docs" / "targets.md").read_text(encoding="utf-8")
    (own_folder / "own.toml").write_text(guide.split("```toml\n")[1].split("```")[0])
    target = load_target("greenhouse")
    assert target.l3_bytes == 1048576
    assert target.core.memory_bytes_per_cycle == 4.0
