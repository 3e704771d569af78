"""The loader of libedgec on artifacts that are wrong on purpose, with the sanitizers of the C compiler."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from edgec.compiler.c_library.libedgec import SOURCES
from edgec.compiler.c_library.toolchain import sources
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.runtime.versions import RUNTIME_ABI
from edgec.targets import detect
from tests.compiler.c_library.fuzz import Parts, mutant
from tests.compiler.c_library.harness import build, zig_cc
from tests.compiler.c_library.models import repeating, stream
from tests.compiler.small_models import save

HARNESS = Path(__file__).parent / "artifact_driver.c"
BATCH = 200


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The loader with checks of memory (where the system has a compiler with them) and of undefined behaviour."""
    made = tmp_path_factory.mktemp("fuzz") / "loader"
    arguments = [
        "-std=gnu11", "-g", "-O1", f'-DEDGEC_RUNTIME_ABI="{RUNTIME_ABI}"', f"-I{sources()}", str(HARNESS),
        *(str(sources() / name) for name in SOURCES), "-lm", "-lpthread", "-o", str(made),
    ]  # fmt: skip
    checks = ["-fsanitize=undefined", "-fno-sanitize-recover=all"]
    if shutil.which("cc"):
        done = subprocess.run(
            ["cc", "-fsanitize=address", *checks, *arguments], capture_output=True, check=False
        )
        if done.returncode == 0:
            return made
    # the compiler that ziglang brings has no runtime for -fsanitize=address
    zig_cc(f"{detect().arch}-linux-gnu", *checks, *arguments)
    return made


@pytest.fixture(scope="module", params=["calls", "branches"])
def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    folder = tmp_path_factory.mktemp("model")
    if request.param == "calls":
        return Parts(build(stream(), detect(), folder).result.artifact)
    options = CompileOptions(tune="none", verify=False)
    path = save(repeating(), folder)
    return Parts(compile_model(path, detect(), options, output=folder / "loop.edge").artifact)


def load_mutants(program: Path, parts: Parts, seeds: range, folder: Path) -> Counter[str]:
    """Load the artifacts of some seeds; how often each code came, with a text for every refusal."""
    codes: Counter[str] = Counter()
    for begin in range(seeds.start, seeds.stop, BATCH):
        paths = []
        for seed in range(begin, min(begin + BATCH, seeds.stop)):
            paths.append(folder / f"{seed}.edge")
            paths[-1].write_bytes(mutant(parts, seed))
        listed = "".join(f"{path}\n" for path in paths)
        done = subprocess.run(
            [str(program)], input=listed.encode(), capture_output=True, check=False, timeout=120
        )
        lines = done.stdout.decode(errors="replace").split("\n")[:-1]
        culprit = paths[min(len(lines), len(paths) - 1)].name
        assert done.returncode == 0, f"seed {culprit}: {done.stderr.decode(errors='replace')[-2000:]}"
        for line, path in zip(lines, paths, strict=True):
            code, _, text = line.partition(" ")
            assert code in "01234", f"{path.name}: {line}"
            assert bool(text) == (code != "0"), f"{path.name}: {line}"
            codes[code] += 1
        for path in paths:
            path.unlink()
    return codes


def test_the_artifact_itself_loads(program: Path, parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "whole.edge").write_bytes(parts.write())
    done = subprocess.run(
        [str(program)], input=f"{tmp_path}/whole.edge\n", capture_output=True, text=True, check=False
    )
    assert done.stdout == "0 \n", done.stderr


def test_wrong_artifacts_are_refused(program: Path, parts: Parts, tmp_path: Path) -> None:
    codes = load_mutants(program, parts, range(400), tmp_path)
    assert codes["3"] > 130  # most are found wrong
    assert codes["0"] > 10  # and some changes mean nothing, so that the mutants reach all of the loader


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_many_wrong_artifacts_are_refused(program: Path, parts: Parts, tmp_path: Path) -> None:
    codes = load_mutants(program, parts, range(1_000_000, 1_100_000), tmp_path)
    assert codes.total() == 100_000
