"""libedgec: C programs run artifacts, and refuse what they cannot run before its code is loaded."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import edgec.runtime as rt
from edgec.compiler.c_library.libedgec import SOURCES, build_libedgec
from edgec.compiler.c_library.toolchain import sources
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.runtime.versions import RUNTIME_ABI
from edgec.targets import detect, load_target
from tests.compiler.c_library.harness import Built, build, python_outputs, run_driver, same, zig_cc
from tests.compiler.c_library.harness import driver as driver_of
from tests.compiler.c_library.models import classifier, stream
from tests.compiler.small_models import save

DRIVER = Path(__file__).parent / "artifact_driver.c"
RNG = np.random.default_rng(0)
PICTURES = [{"image": RNG.standard_normal((1, 3, 32, 32)).astype(np.float32)} for _ in range(2)]
FRAMES = [{"frame": RNG.standard_normal((1, 40)).astype(np.float32)} for _ in range(6)]
ABI = f'-DEDGEC_RUNTIME_ABI="{RUNTIME_ABI}"'


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program over the shared library, for this machine."""
    folder = tmp_path_factory.mktemp("libedgec")
    built = build_libedgec(folder, detect())
    assert all(size < 200_000 for size in built.files.values())
    program = folder / "driver"
    shared = [str(folder / "libedgec.so"), f"-Wl,-rpath,{folder}"]
    zig_cc(f"{detect().arch}-linux-gnu", str(DRIVER), f"-I{folder}", *shared, "-o", str(program))
    return program


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(classifier(), detect(), tmp_path_factory.mktemp("pictures"))


def run(
    command: Sequence[str],
    artifact: Path,
    inputs: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    threads: int = 1,
    of_set: int = 0,
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Outputs of each run, and what the driver tells."""
    config = rt.Artifact.open(artifact).config.variants()[of_set].visible()
    (folder / "in.bin").write_bytes(
        b"".join(one[spec.name].tobytes() for one in inputs for spec in config.inputs)
    )
    given = [str(artifact), str(of_set), str(threads), str(folder / "in.bin"), str(folder / "out.bin")]
    done = subprocess.run([*command, *given, str(len(inputs))], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    content, at, found = (folder / "out.bin").read_bytes(), 0, []
    for _ in inputs:
        outputs = {}
        for spec in config.outputs:
            size = int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize
            outputs[spec.name] = np.frombuffer(content[at : at + size], spec.dtype).reshape(spec.shape)
            at += size
        found.append(outputs)
    return found, json.loads(done.stdout)


def refusal(command: Sequence[str], artifact: Path) -> str:
    """Code and text of a load that fails."""
    done = subprocess.run(list(command), input=f"{artifact}\n", capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_it_runs_an_artifact(driver: Path, pictures: Built, tmp_path: Path) -> None:
    for threads in (1, 2):
        found, told = run([str(driver)], pictures.result.artifact, PICTURES, tmp_path, threads=threads)
        assert same(found, python_outputs(pictures, PICTURES))
    plan = pictures.result.lowered.plan
    assert plan is not None
    assert plan.program is not None
    assert told["layers"] == len(plan.program.calls)


def test_a_session_keeps_its_state(driver: Path, tmp_path: Path) -> None:
    built = build(stream(), detect(), tmp_path, name="stream")
    found, _ = run([str(driver)], built.result.artifact, FRAMES, tmp_path)
    assert same(found, python_outputs(built, FRAMES))


def test_several_sets_of_shapes(driver: Path, tmp_path: Path) -> None:
    path = save(classifier("n"), tmp_path)
    options = CompileOptions(
        tune="none",
        verify=False,
        input_shapes={"image": (1, 3, 32, 32)},
        buckets=({"image": (2, 3, 32, 32)},),
    )
    artifact = compile_model(path, detect(), options, output=tmp_path / "two.edge").artifact
    batch = {"image": np.concatenate([one["image"] for one in PICTURES])}
    with rt.load(artifact, threads=1) as model:
        expected = [model.run(batch)]
    found, told = run([str(driver)], artifact, [batch], tmp_path, of_set=1)
    assert same(found, expected)
    assert told["sets"] == 2


def rewritten(artifact: Path, output: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The artifact with another config, and digests that fit."""
    opened = rt.Artifact.open(artifact)
    config = msgspec.to_builtins(opened.config)
    change(config)
    layers = {layer.title: layer for layer in opened.layers}
    rt.write_artifact(
        output,
        config=msgspec.convert(config, rt.ArtifactConfig),
        code=opened.code(),
        weights={name: weight.array for name, weight in opened.weights().items()},
        programs={"program.json": opened.read(layers["program.json"])},
    )
    return output


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({"arch": "riscv64"}, "4 .* was compiled for riscv64; this machine is"),
    "feature": ({"required_features": ["avx9000"]}, "4 .* needs a processor with avx9000; this one lacks it"),
    "nameless feature": ({"required_features": [""]}, "4 .* needs a processor with ; this one lacks it"),
    "glibc": ({"min_glibc": "9.99"}, r"4 .* needs glibc 9.99; this system has glibc 2\."),
    "runtime ABI": ({"runtime_abi": "tvm-9"}, "4 .* has another runtime ABI"),
    "device": ({"device_kind": "cuda"}, "4 .* is for another device than a processor"),
    "fallback": (
        {"segments": [{"inputs": ["x"], "outputs": ["y"], "function": "f", "layer": "l", "nodes": ["lower_case"]}]},
        "4 .* needs ONNX Runtime for node lower_case",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_run_here_is_refused(driver: Path, pictures: Built, tmp_path: Path, kind: str) -> None:
    changes, expected = REFUSED[kind]
    artifact = rewritten(
        pictures.result.artifact, tmp_path / "other.edge", lambda config: config.update(changes)
    )
    told = refusal([str(driver)], artifact)
    assert re.match(expected, told), told


def test_no_artifact_and_altered_ones_are_refused(driver: Path, pictures: Built, tmp_path: Path) -> None:
    content = pictures.result.artifact.read_bytes()
    place = content.index(b"safetensors") + 20
    changed = {
        "short": content[:-600],
        "longer": content + bytes(512),
        "weights": content[: len(content) - 4000] + b"!" + content[len(content) - 3999 :],
        "header": content[:place] + b"!" + content[place + 1 :],
        "text": b"hello",
        "empty": b"",
    }
    for name, altered in changed.items():
        (tmp_path / name).write_bytes(altered)
        assert refusal([str(driver)], tmp_path / name).startswith("3 "), name
    assert refusal([str(driver)], tmp_path / "missing") == f"3 {tmp_path}/missing cannot be read"
    assert refusal([str(driver)], tmp_path).startswith("3 ")


def all_sources() -> list[str]:
    return [str(sources() / name) for name in SOURCES]


OTHER_MACHINES = {
    "s390x": ("s390x-linux-musl", "needs a little-endian machine; this one is big-endian"),
    "arm": ("arm-linux-musleabihf", "needs a 64-bit machine; this program is built for 32 bits"),
}


@pytest.mark.long  # ziglang builds musl for each, the first time
@pytest.mark.emulator
@pytest.mark.parametrize("machine", OTHER_MACHINES)
def test_other_machines_refuse(pictures: Built, tmp_path: Path, machine: str) -> None:
    if shutil.which(f"qemu-{machine}-static") is None:
        pytest.skip(f"qemu-{machine}-static is not installed")
    triple, expected = OTHER_MACHINES[machine]
    program = tmp_path / "driver"
    zig_cc(triple, ABI, "-static", str(DRIVER), *all_sources(), f"-I{sources()}", "-lm", "-o", str(program))
    told = refusal([f"qemu-{machine}-static", str(program)], pictures.result.artifact)
    assert expected in told


@pytest.mark.long
@pytest.mark.emulator
@pytest.mark.skipif(
    shutil.which("qemu-aarch64-static") is None, reason="qemu-aarch64-static is not installed"
)
def test_arm_with_musl_statically(tmp_path: Path) -> None:
    built = build(classifier(), load_target("rpi4"), tmp_path, libc="musl")
    build_libedgec(tmp_path / "lib", load_target("rpi4"), "musl")
    program = tmp_path / "driver"
    library = str(tmp_path / "lib" / "libedgec.a")
    zig_cc(
        "aarch64-linux-musl", "-static", str(DRIVER), f"-I{tmp_path}/lib", library, "-lm", "-o", str(program)
    )
    qemu = ["qemu-aarch64-static", "-cpu", "cortex-a72"]
    found, _ = run([*qemu, str(program)], built.result.artifact, PICTURES, tmp_path)
    linked, _ = run_driver(built, driver_of(built, "-static"), PICTURES, before=qemu)
    assert same(found, linked)


DIGESTS = r"""
#include <stdio.h>
#include <stdlib.h>
#include "engine.h"
#ifdef PORTABLE
int sha256_blocks(uint32_t h[8], const uint8_t *bytes, size_t count) { return (void)h, (void)bytes, (void)count, 0; }
#endif
int main(int count, char **sizes) {
  static uint8_t bytes[10000];
  uint8_t digest[32];
  for (int i = 0; i < 10000; i++) bytes[i] = (uint8_t)(i * i >> 3);
  for (int k = 1; k < count; k++) {
    sha256(bytes + k % 3, (size_t)atoi(sizes[k]), digest);
    for (int i = 0; i < 32; i++) printf("%02x", digest[i]);
    puts("");
  }
}
"""


@pytest.mark.parametrize("portable", [False, True])
def test_digests(tmp_path: Path, portable: bool) -> None:
    """With the processor's instructions, and without."""
    (tmp_path / "digests.c").write_text(DIGESTS)
    files = ["sha256.c"] if portable else ["sha256.c", "sha256_blocks.c"]
    flags = ["-DPORTABLE"] if portable else []
    program = tmp_path / "digests"
    code = [str(sources() / name) for name in files]
    zig_cc(
        f"{detect().arch}-linux-gnu",
        *flags,
        str(tmp_path / "digests.c"),
        *code,
        f"-I{sources()}",
        "-o",
        str(program),
    )
    sizes = [0, 1, 55, 56, 63, 64, 65, 119, 120, 127, 128, 1000, 9997]
    content = bytes(i * i >> 3 & 255 for i in range(10000))
    expected = [hashlib.sha256(content[k % 3 :][:size]).hexdigest() for k, size in enumerate(sizes, 1)]
    done = subprocess.run([str(program), *map(str, sizes)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_valgrind_finds_nothing(driver: Path, tmp_path: Path) -> None:
    built = build(classifier(), load_target("x86-64-v3"), tmp_path)
    valgrind = ["valgrind", "-q", "--leak-check=full", "--error-exitcode=9", "--fair-sched=yes"]
    found, _ = run([*valgrind, str(driver)], built.result.artifact, PICTURES[:1], tmp_path, threads=2)
    assert same(found, python_outputs(built, PICTURES[:1]))
