"""The examples in C, C++, Rust and Go print what Python computes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

import edgec.runtime as rt
from edgec.compiler.c_library.build import build_c_library
from edgec.compiler.c_library.libedgec import build_libedgec
from edgec.compiler.c_library.toolchain import Libc
from edgec.compiler.options import CompileOptions, Shape
from edgec.compiler.pipeline import CompileResult, compile_model
from edgec.runtime.processing.input_files import read_sound
from edgec.targets import detect, load_target
from edgec.targets.target import Target
from tests.compiler.c_library.harness import Built, build, python_outputs, zig_cc
from tests.compiler.c_library.models import stream

EXAMPLES = Path(__file__).parents[2] / "examples" / "c"


HERE = detect()


def library(
    model: Path,
    folder: Path,
    card: str,
    name: str,
    shapes: dict[str, Shape],
    target: Target = HERE,
    libc: Libc = "gnu",
) -> CompileResult:
    """Compile a model to an artifact and to a C library in `folder`."""
    loaded = rt.load_card(EXAMPLES.parent / card)
    options = CompileOptions(tune="none", verify=False, c_library=True, fallback=False, input_shapes=shapes)
    result = compile_model(model, target, options, card=loaded, name=name, output=folder / f"{name}.edge")
    build_c_library(folder, result.config, result.lowered, target, result.initial, libc=libc)
    return result


def compiled(source: str, folder: Path, name: str, triple: str = f"{HERE.arch}-linux-gnu") -> str:
    """An example over a C library in `folder`."""
    program = str(folder / "program")
    archive = str(folder / f"lib{name}.a")
    static = ["-static"] if triple.endswith("musl") else []
    arguments = [str(EXAMPLES / source), f"-I{folder}", archive, "-lm", "-lpthread", *static, "-o", program]
    zig_cc(triple, *arguments)
    return program


class Example(NamedTuple):
    """An example over the C library of a model, and what it reads."""

    source: str
    name: str
    card: str
    model: str
    shapes: dict[str, Shape]
    arguments: list[str]
    stdin: bytes


def picture_of(shared_data: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A daisy, 128 by 128, blue first."""
    picture = cv2.imread(str(next(shared_data.rglob("daisy.jpg"))))
    assert picture is not None
    return cv2.resize(picture, (128, 128)).astype(np.uint8)


def sound_of(shared_data: Path) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Speech and silence, a hundred frames."""
    samples, _ = read_sound(shared_data / "audio" / "silero_test_60s.wav")
    return samples[: 512 * 100].astype("<i2")


def classify(shared_data: Path, folder: Path) -> Example:
    """The classifier of pictures."""
    cv2.imwrite(str(folder / "daisy.ppm"), picture_of(shared_data))
    card = "cards/mobilenetv2_035_128_flowers5.toml"
    model = "mobilenetv2_035_128_flowers5.onnx"
    shapes: dict[str, Shape] = {"input_1": (1, 3, 128, 128)}
    return Example("classify.c", "flowers", card, model, shapes, [str(folder / "daisy.ppm")], b"")


def listen(shared_data: Path, _folder: Path) -> Example:
    """The one that finds speech."""
    heard = sound_of(shared_data).tobytes()
    shapes: dict[str, Shape] = {"input": (1, 576)}
    return Example("listen.c", "vad", "c/vad.toml", "silero_vad_16k_op15.onnx", shapes, [], heard)


def printed(program: Sequence[str], example: Example) -> list[np.float32]:
    """The numbers in the second column of what an example prints."""
    done = subprocess.run(
        [*program, *example.arguments], input=example.stdin, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return [np.float32(line.split()[1]) for line in done.stdout.decode().splitlines()]


def test_a_picture_is_classified(shared_data: Path, tmp_path: Path) -> None:
    example = classify(shared_data, tmp_path)
    model = next(shared_data.rglob(example.model))
    result = library(model, tmp_path, example.card, example.name, example.shapes)
    scores = printed([compiled(example.source, tmp_path, example.name)], example)
    pixels = picture_of(shared_data)[:, :, ::-1].transpose(2, 0, 1).astype(np.float32)
    with rt.load(result.artifact, threads=1) as loaded:
        image = np.ascontiguousarray(pixels[None]) / np.float32(127.5) - np.float32(1)
        expected = loaded.run({"input_1": image})["dense"][0]
    assert scores == list(expected)
    assert expected[0] > 0.99  # a daisy


def test_a_stream_of_sound_is_listened_to(shared_data: Path, tmp_path: Path) -> None:
    example = listen(shared_data, tmp_path)
    model = next(shared_data.rglob(example.model))
    result = library(model, tmp_path, example.card, example.name, example.shapes)
    found = printed([compiled(example.source, tmp_path, example.name)], example)
    heard = sound_of(shared_data)
    padded = np.concatenate([np.zeros(64, np.float32), heard.astype(np.float32) / np.float32(32768)])
    with rt.load(result.artifact, threads=1) as loaded:
        session = loaded.session()
        frames = [padded[None, at : at + 576] for at in range(0, len(heard), 512)]
        expected = [session.run({"input": frame})["output"].item() for frame in frames]
    assert len(found) == 100
    assert found == [np.float32(value) for value in expected]
    assert max(found) > 0.9 > 0.1 > min(found)


@pytest.mark.long
@pytest.mark.emulator
@pytest.mark.timeout(1800)
@pytest.mark.skipif(HERE.arch != "x86_64", reason="the processor that valgrind knows here is x86-64's")
@pytest.mark.parametrize("make", [classify, listen])
def test_valgrind_finds_nothing_and_other_systems_compute_the_same(
    make: Callable[[Path, Path], Example], shared_data: Path, tmp_path: Path
) -> None:
    """AVX2 under valgrind; musl on x86-64; a static program as a Raspberry Pi 4 in qemu."""
    example = make(shared_data, tmp_path)
    model = next(shared_data.rglob(example.model))
    found: dict[str, list[np.float32]] = {}
    for target, triple, emulator in (
        ("x86-64-v3", "x86_64-linux-gnu", ""),
        ("x86-64-v3", "x86_64-linux-gnu", "valgrind"),
        ("x86-64-v3", "x86_64-linux-musl", ""),
        ("rpi4", "aarch64-linux-musl", "qemu-aarch64-static"),
    ):
        if emulator and shutil.which(emulator) is None:
            pytest.skip(f"{emulator} is not installed")
        folder = tmp_path / f"{target}-{triple}-{emulator}"
        folder.mkdir()
        libc: Libc = "musl" if triple.endswith("musl") else "gnu"
        library(model, folder, example.card, example.name, example.shapes, load_target(target), libc)
        options = {
            "valgrind": ["--error-exitcode=9", "--leak-check=full", "-q"],
            "qemu-aarch64-static": ["-cpu", "cortex-a72"],
        }
        program = compiled(example.source, folder, example.name, triple)
        before = [emulator, *options[emulator]] if emulator else []
        found[folder.name] = printed([*before, program], example)
    first = next(iter(found.values()))
    for name, values in found.items():
        np.testing.assert_allclose(values, first, atol=2e-6, err_msg=name)


@pytest.fixture(scope="module")
def libedgec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("libedgec")
    build_libedgec(folder, detect())
    return folder


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(stream(), detect(), tmp_path_factory.mktemp("net"))


LANGUAGES = {
    "c++": ("g++", ["-std=c++17", "-Wall", "-Wextra", "classify.cpp", "-I{lib}", "-L{lib}", "-ledgec", "-o"]),
    "rust": ("rustc", ["classify.rs", "-L", "{lib}", "-l", "dylib=edgec", "-o"]),
    "go": ("go", ["build", "-o"]),
}  # fmt: skip


@pytest.mark.parametrize(
    "language",
    [pytest.param(one, marks=pytest.mark.long) if one in ("rust", "go") else one for one in LANGUAGES],
)
def test_other_languages(language: str, libedgec: Path, net: Built, tmp_path: Path) -> None:
    compiler, arguments = LANGUAGES[language]
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    program = tmp_path / "program"
    command = [compiler, *(one.format(lib=libedgec) for one in arguments), str(program)]
    environment = os.environ | {
        "CGO_CFLAGS": f"-I{libedgec}", "CGO_LDFLAGS": f"-L{libedgec}", "GOFLAGS": "-mod=mod", "GO111MODULE": "off",
        "GOCACHE": str(tmp_path / "cache"), "LD_LIBRARY_PATH": str(libedgec),
    }  # fmt: skip
    if language == "go":
        command.append("classify.go")
    subprocess.run(command, cwd=EXAMPLES, env=environment, check=True)
    frame = np.random.default_rng(4).standard_normal((1, 40)).astype(np.float32)
    (tmp_path / "input.bin").write_bytes(frame.tobytes())
    done = subprocess.run(
        [str(program), str(net.result.artifact), str(tmp_path / "input.bin")],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = [np.float32(line.split()[1]) for line in done.stdout.splitlines()]
    assert found == list(python_outputs(net, [{"frame": frame}])[0]["score"][0])
