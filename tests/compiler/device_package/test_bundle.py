"""The device package: a wheel with the runtime library, and a folder that installs it where there is no network."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgec.compiler.device_package.bundle import SUMS, make_bundle
from edgec.compiler.device_package.wheel import build_wheel
from edgec.compiler.emulation.emulator import find_emulator, lacking
from edgec.compiler.emulation.install import installed
from edgec.compiler.progress import Silent
from edgec.targets import UsageError, detect, load_target, machine_arch

PYTHON = ".".join(platform.python_version_tuple()[:2])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(detect(), tmp_path_factory.mktemp("dist"))


def test_the_wheel_holds_the_library_and_what_it_says(wheel: Path) -> None:
    assert wheel.name.endswith(f"_{machine_arch()}.whl")
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        assert "edgec/runtime/lib/libtvm_runtime.so" in names
        assert "edgec/device_agent/edgec-agent.service" in names
        assert not [
            name for name in names if "__pycache__" in name or name.startswith(("edgec/tests", "edgec/docs"))
        ]
        record = next(name for name in names if name.endswith("RECORD"))
        listed = [line.split(",")[0] for line in content.read(record).decode().splitlines()]
        assert sorted(listed) == sorted(names)
        code = content.read("edgec/runtime/lib/libtvm_runtime.so")
    assert code.startswith(b"\x7fELF")


def test_equal_packages_give_equal_wheels(wheel: Path, tmp_path: Path) -> None:
    again = build_wheel(detect(), tmp_path)
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(wheel.read_bytes()).digest()


def test_an_artifact_runs_with_the_wheel_alone(wheel: Path, tmp_path: Path, tiny_artifact: Path) -> None:
    """Neither TVM's package nor its library from elsewhere is in reach."""
    with zipfile.ZipFile(wheel) as content:
        content.extractall(tmp_path / "site")
    for package in ("numpy", "numpy.libs", "msgspec", "tvm_ffi", "apache_tvm_ffi-*"):
        for path in Path(
            json.loads(_here("import json, numpy; print(json.dumps(numpy.__path__[0]))"))
        ).parent.glob(package):
            (tmp_path / "site" / path.name).symlink_to(path)
    program = (
        "import sys; sys.modules['tvm'] = None; import numpy as np, edgec.runtime as rt; "
        f"model = rt.load({str(tiny_artifact)!r}); "
        "print(rt.__file__, {n: a.shape for n, a in model.run({'x': np.ones((1, 8, 12, 12), 'float32')}).items()})"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": os.environ["PATH"]},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout


def _here(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from onnx import helper

    from edgec.compiler.options import CompileOptions
    from edgec.compiler.pipeline import compile_model
    from tests.compiler.onnx_models import model_of, save

    folder = tmp_path_factory.mktemp("tiny")
    model = save(
        model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 8, 12, 12]}, ["y"], {}), folder, "m.onnx"
    )
    options = CompileOptions(tune="none", threads=1)
    return compile_model(model, detect(), options, output=folder / "tiny.edge").artifact


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle as it is written, without the downloads: the script and what it checks."""
    from edgec.compiler.device_package import bundle as module

    folder = tmp_path / "bundle"
    (folder / "wheels").mkdir(parents=True)
    with zipfile.ZipFile(folder / "wheels" / "edgec-0.whl", "w") as made:
        made.writestr("edgec/cli/main.py", "def main():\n    print('started')\n")
    (folder / "install.sh").write_text(module._script(detect(), PYTHON), encoding="utf-8")
    module._sign(folder)
    return folder


def install(bundle: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(bundle / "install.sh"), "--python", sys.executable, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_script_installs_without_pip(bundle: Path, tmp_path: Path) -> None:
    for _ in range(2):  # a second time replaces the first
        done = install(bundle, "--prefix", str(tmp_path / "opt"))
        assert done.returncode == 0, done.stderr
        started = subprocess.run([tmp_path / "opt/bin/edgec"], capture_output=True, text=True, check=True)
        assert started.stdout == "started\n"
    assert sorted(path.name for path in (tmp_path / "opt").iterdir()) == ["bin", "lib"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (f'!= "{machine_arch()}"', '!= "sparc64"', "this bundle is for"),
        (f'!= "{PYTHON}"', '!= "3.9"', f"this is {PYTHON}: make it with --python {PYTHON}"),
        (
            'calcsize("P") != 8',
            'calcsize("P") == 8',
            "a 64-bit little-endian Python is needed; this one has 64 bits",
        ),
        ('< [int(part) for part in "', '< [99 + int(part) for part in "', "or later; this system has 2."),
        ('library != "glibc"', 'library == "glibc"', "this system has another C library"),
    ],
)
def test_a_machine_that_does_not_fit_is_refused_before_anything_is_written(
    bundle: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    script = bundle / "install.sh"
    text = script.read_text(encoding="utf-8")
    assert old in text
    script.write_text(text.replace(old, new), encoding="utf-8")
    done = install(bundle, "--prefix", str(tmp_path / "opt"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert not (tmp_path / "opt").exists()


def test_an_altered_or_missing_file_is_refused(bundle: Path, tmp_path: Path) -> None:
    path = bundle / "wheels" / "edgec-0.whl"
    content = path.read_bytes()
    path.write_bytes(content + b"x")
    done = install(bundle, "--prefix", str(tmp_path / "opt"))
    assert "edgec-0.whl was altered" in done.stderr
    path.unlink()
    assert "edgec-0.whl: No such file" in install(bundle, "--prefix", str(tmp_path / "opt")).stderr
    assert not (tmp_path / "opt").exists()


def test_wrong_options_and_places_are_named(bundle: Path, tmp_path: Path) -> None:
    assert "unknown option --perfix" in install(bundle, "--perfix", "x").stderr
    assert "--prefix needs a folder" in install(bundle, "--prefix").stderr
    (tmp_path / "file").touch()
    assert "error: " in install(bundle, "--prefix", str(tmp_path / "file")).stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with pytest.raises(UsageError, match="holds other files"):
        make_bundle(detect(), tmp_path / "full", PYTHON, Silent())
    with pytest.raises(UsageError, match="name the target of the processor beside it"):
        make_bundle(load_target("jetson-orin-gpu"), tmp_path / "gpu", PYTHON, Silent())
    assert (tmp_path / "full" / "letter.txt").exists()


@pytest.mark.long
@pytest.mark.emulator
@pytest.mark.timeout(900)
def test_the_bundle_installs_and_runs_on_an_emulated_pi(tmp_path: Path) -> None:
    """From the script to a result, by the bundle's packages alone."""
    import numpy as np
    from onnx import helper

    from edgec.compiler.options import CompileOptions
    from edgec.compiler.pipeline import compile_model
    from tests.compiler.onnx_models import model_of, save

    target = load_target("rpi5")
    if told := lacking(target):
        pytest.skip(told)
    emulator = find_emulator(target)
    assert emulator is not None
    assert emulator.root is not None
    record = installed(target.arch)
    assert record is not None
    make_bundle(target, tmp_path / "bundle", record["python"], Silent())
    assert (tmp_path / "bundle" / SUMS).is_file()
    assert not [
        path
        for path in (tmp_path / "bundle" / "wheels").glob("*")
        if "onnx" in path.name or "tvm-0" in path.name
    ]
    (python, *_), environment = emulator.command([])
    environment.pop("PYTHONPATH")
    command = [
        "sh",
        str(tmp_path / "bundle/install.sh"),
        "--python",
        python,
        "--prefix",
        str(tmp_path / "opt"),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    model = save(
        model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 4]}, ["y"], {}), tmp_path, "m.onnx"
    )
    artifact = compile_model(
        model, target, CompileOptions(tune="none", threads=1), output=tmp_path / "m.edge"
    ).artifact
    np.savez(tmp_path / "in.npz", x=np.array([[-1, 2, -3, 4]], "float32"))
    run = [tmp_path / "opt/bin/edgec", "run", artifact, tmp_path / "in.npz", "--json"]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outputs"] == {"y": [[0.0, 2.0, 0.0, 4.0]]}
    refused = subprocess.run(
        [tmp_path / "bundle/install.sh", "--python", sys.executable, "--prefix", tmp_path / "other"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "this bundle is for aarch64 (rpi5); this machine is x86_64" in refused.stderr
