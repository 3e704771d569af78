"""The examples in C, C++, Rust and Go print what Python computes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

import edgec.runtime as rt
from edgec.compiler.c_library.build import build_c_library
from edgec.compiler.c_library.libedgec import build_libedgec
from edgec.compiler.options import CompileOptions, Shape
from edgec.compiler.pipeline import CompileResult, compile_model
from edgec.runtime.processing.input_files import read_sound
from edgec.targets import detect
from tests.compiler.c_library.harness import Built, build, python_outputs, zig_cc
from tests.compiler.c_library.models import stream

EXAMPLES = Path(__file__).parents[2] / "examples" / "c"


def library(model: Path, folder: Path, card: str, name: str, shapes: dict[str, Shape]) -> CompileResult:
    """Compile a model to an artifact and to a C library in `folder`."""
    loaded = rt.load_card(EXAMPLES.parent / card)
    options = CompileOptions(tune="none", verify=False, c_library=True, fallback=False, input_shapes=shapes)
    result = compile_model(model, detect(), options, card=loaded, name=name, output=folder / f"{name}.edge")
    build_c_library(folder, result.config, result.lowered, detect(), result.initial)
    return result


def compiled(source: str, folder: Path, name: str) -> str:
    """An example over a C library in `folder`."""
    program = str(folder / "program")
    archive = str(folder / f"lib{name}.a")
    arguments = [str(EXAMPLES / source), f"-I{folder}", archive, "-lm", "-lpthread", "-o", program]
    zig_cc(f"{detect().arch}-linux-gnu", *arguments)
    return program


def test_a_picture_is_classified(shared_data: Path, tmp_path: Path) -> None:
    model = next(shared_data.rglob("mobilenetv2_035_128_flowers5.onnx"))
    shapes: dict[str, Shape] = {"input_1": (1, 3, 128, 128)}
    result = library(model, tmp_path, "cards/mobilenetv2_035_128_flowers5.toml", "flowers", shapes)
    picture = cv2.imread(str(next(shared_data.rglob("daisy.jpg"))))
    assert picture is not None
    picture = cv2.resize(picture, (128, 128))
    cv2.imwrite(str(tmp_path / "daisy.ppm"), picture)
    done = subprocess.run(
        [compiled("classify.c", tmp_path, "flowers"), str(tmp_path / "daisy.ppm")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = [line.split() for line in done.stdout.splitlines()]
    pixels = picture[:, :, ::-1].transpose(2, 0, 1).astype(np.float32) / np.float32(127.5) - np.float32(1)
    with rt.load(result.artifact, threads=1) as loaded:
        expected = loaded.run({"input_1": np.ascontiguousarray(pixels[None])})["dense"][0]
    assert [np.float32(score) for _, score in lines] == list(expected)
    assert lines[0][0] == "daisy"
    assert expected[0] > 0.99


def test_a_stream_of_sound_is_listened_to(shared_data: Path, tmp_path: Path) -> None:
    model = shared_data / "onnx" / "audio" / "silero_vad_16k_op15.onnx"
    result = library(model, tmp_path, "c/vad.toml", "vad", {"input": (1, 576)})
    samples, _ = read_sound(shared_data / "audio" / "silero_test_60s.wav")
    heard = samples[: 512 * 100].astype("<i2")
    done = subprocess.run(
        [compiled("listen.c", tmp_path, "vad")], input=heard.tobytes(), capture_output=True, check=True
    )
    found = [np.float32(line.split()[1]) for line in done.stdout.decode().splitlines()]
    padded = np.concatenate([np.zeros(64, np.float32), heard.astype(np.float32) / np.float32(32768)])
    with rt.load(result.artifact, threads=1) as loaded:
        session = loaded.session()
        frames = [padded[None, at : at + 576] for at in range(0, len(heard), 512)]
        expected = [session.run({"input": frame})["output"].item() for frame in frames]
    assert len(found) == 100
    assert found == [np.float32(value) for value in expected]
    assert max(found) > 0.9 > 0.1 > min(found)


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
