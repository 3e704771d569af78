"""What a device needs to run a model, beside onnxruntime and PyTorch: the tables of docs/device-package.md.

    python scripts/device_sizes.py prepare WORK MODEL [--target rpi5]
    python scripts/device_sizes.py measure WORK

`prepare` builds edgec's wheels, installs them and onnxruntime into folders of WORK by pip, for this machine and for
another target, and compiles the model for this machine. `measure` prints installed sizes, and of five fresh processes
for each runtime the medians of import, time to the first result, and resident memory; files are in the page cache.
PyTorch is measured where this Python has it. Needs `edgec[compiler]`; run `measure` on a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

RUNS = 5
# What running an artifact imports, of all that `pip install edgec` brings.
RUNNING = ("edgec", "numpy", "numpy.libs", "tvm_ffi", "apache_tvm_ffi.libs", "msgspec")
# Each prints seconds from the start of the process: after the import, after the first result; and resident bytes.
_CHILD = """
import os, sys, time
def told(*times):
    pages = int(open("/proc/self/statm").read().split()[1])
    print(*times, pages * os.sysconf("SC_PAGE_SIZE"))
def now():
    return time.monotonic() - float(sys.argv[2])
path = sys.argv[1]
"""
_PROGRAMS = {
    "`edgec_runtime`": """
import edgec_runtime as rt, math
imported = now()
size = {"float32": 4, "uint8": 1, "int8": 1}
with rt.load(path, threads=1) as model:
    model.run({one.name: bytes(math.prod(one.shape) * size[one.dtype]) for one in model.inputs})
    told(imported, now())
""",
    "`edgec.runtime`, with numpy and tvm-ffi": """
import edgec.runtime as rt, numpy
imported = now()
with rt.load(path, threads=1) as model:
    model.run({one.name: numpy.zeros(one.shape, one.dtype) for one in model.inputs})
    told(imported, now())
""",
    "onnxruntime, with numpy": """
import onnxruntime, numpy
imported = now()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
kinds = {"tensor(float)": numpy.float32, "tensor(uint8)": numpy.uint8, "tensor(int8)": numpy.int8}
session.run(None, {one.name: numpy.zeros(one.shape, kinds[one.type]) for one in session.get_inputs()})
told(imported, now())
""",
    "PyTorch, without what it requires": """
import torch
told(now())
""",
}


def megabytes(path: Path) -> float:
    """Bytes of the files below a path, in megabytes."""
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sum(one.stat().st_size for one in files) / 1e6


def pip(into: Path, *arguments: str) -> None:
    """Install into a folder, which must not exist."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, "--no-warn-script-location", "--target", str(into), *arguments], check=True)


def edgec(*arguments: str) -> None:
    """Run a command of edgec."""
    subprocess.run(
        [sys.executable, "-m", "edgec.cli.main", *arguments], check=True, stdout=subprocess.DEVNULL
    )


def wheel(work: Path, target: str, *options: str) -> Path:
    """Build a wheel for a target."""
    folder = work / "wheels" / "-".join([target, *options])
    edgec("runtime", "wheel", "--target", target, "--output", str(folder), *options)
    (made,) = folder.glob("*.whl")
    return made


def prepare(work: Path, model: Path, target: str) -> None:
    """Build, install and compile all that `measure` looks at."""
    work.mkdir(parents=True)
    own = wheel(work, "host")
    pip(work / "edgec", str(own))
    pip(work / "alone", str(wheel(work, "host", "--standalone")))
    pip(work / "onnxruntime", "onnxruntime", "numpy")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    arch = "aarch64" if platform.machine() == "x86_64" else "x86_64"
    platforms = [f"--platform=manylinux_2_{minor}_{arch}" for minor in (17, 24, 27, 28)]
    other = [
        *platforms,
        f"--platform=manylinux2014_{arch}",
        f"--python-version={version}",
        "--only-binary=:all:",
    ]
    pip(work / f"edgec-{target}", *other, str(wheel(work, target)))
    pip(work / f"onnxruntime-{target}", *other, "onnxruntime", "numpy")
    edgec(
        "runtime",
        "bundle",
        "--target",
        target,
        "--python",
        version,
        "--output",
        str(work / f"bundle-{target}"),
    )
    artifact = work / "model.edge"
    edgec("compile", str(model), "--tune", "none", "--threads", "1", "--output", str(artifact))
    (work / "model.onnx").write_bytes(model.read_bytes())
    (work / "target").write_text(target, encoding="utf-8")


def parts(folder: Path) -> dict[str, float]:
    """Megabytes of the packages in a folder, without their metadata."""
    return {
        one.name: megabytes(one) for one in sorted(folder.iterdir()) if not one.name.endswith(".dist-info")
    }


def times(program: str, path: Path, packages: Path | None) -> list[float]:
    """Medians of what a program prints: seconds, and megabytes resident at last."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _CHILD + program, str(path)]
    if packages is not None:
        environment["PYTHONPATH"] = str(packages)
        command[1:1] = ["-S"]
    rows = []
    for _ in range(RUNS + 1):  # the first one brings the files into the page cache
        done = subprocess.run(
            [*command, str(time.monotonic())],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            cwd=path.parent,
        )
        rows.append([float(word) for word in done.stdout.split()])
    return [statistics.median(column) for column in zip(*rows[1:], strict=True)]


def measure(work: Path) -> None:
    """Print the tables."""
    target = (work / "target").read_text(encoding="utf-8")
    print(f"Installed for {target}, Python {platform.python_version()}, MB:\n\n| part | MB |\n|---|---|")
    installed = parts(work / f"edgec-{target}")
    for name, size in sorted(installed.items(), key=lambda pair: -pair[1])[:8]:
        print(f"| {name} | {size:.1f} |")
    print(f"| all that `pip install` of edgec's wheel brings | {sum(installed.values()):.0f} |")
    print(f"| of it, what running an artifact imports | {running(installed):.0f} |")
    print(
        f"| onnxruntime with what it requires | {sum(parts(work / f'onnxruntime-{target}').values()):.0f} |"
    )
    print(f"| `edgec runtime bundle`, to copy | {megabytes(work / f'bundle-{target}'):.0f} |\n")
    sizes = {
        "`edgec_runtime`": sum(parts(work / "alone").values()),
        "`edgec.runtime`, with numpy and tvm-ffi": running(parts(work / "edgec")),
        "onnxruntime, with numpy": sum(parts(work / "onnxruntime").values()),
    }
    places = dict(zip(sizes, ("alone", "edgec", "onnxruntime"), strict=True))
    columns = ["", "installed, MB", "model, MB", "import, ms", "to the first result, ms", "resident, MB"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name, program in _PROGRAMS.items():
        if name.startswith("PyTorch"):
            if (found := find_spec("torch")) is None or found.origin is None:
                continue
            imported, resident = times(program, work / "model.onnx", None)
            size = megabytes(Path(found.origin).parent)
            print(f"| {name} | {size:.0f} | | {1e3 * imported:.0f} | | {resident / 1e6:.0f} |")
            continue
        model = work / ("model.onnx" if name.startswith("onnxruntime") else "model.edge")
        imported, first, resident = times(program, model, work / places[name])
        print(
            f"| {name} | {sizes[name]:.2f} | {megabytes(model):.1f} | {1e3 * imported:.0f} | {1e3 * first:.0f} "
            f"| {resident / 1e6:.0f} |"
        )


def running(packages: dict[str, float]) -> float:
    """Megabytes of the packages that running an artifact imports."""
    return sum(size for name, size in packages.items() if name in RUNNING)


def main() -> None:
    """Prepare or measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    actions = parser.add_subparsers(dest="action", required=True)
    first = actions.add_parser("prepare")
    first.add_argument("work", type=Path)
    first.add_argument("model", type=Path)
    first.add_argument("--target", default="rpi5")
    actions.add_parser("measure").add_argument("work", type=Path)
    arguments = parser.parse_args()
    if arguments.action == "prepare":
        prepare(arguments.work.absolute(), arguments.model, arguments.target)
    else:
        measure(arguments.work.absolute())


if __name__ == "__main__":
    main()
