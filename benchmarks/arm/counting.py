"""Instructions that a network takes on 64-bit ARM, ours beside ONNX Runtime's and LiteRT's, counted in qemu.

    python -m edgec.benchmarks.arm.counting MODEL… --target rpi5 [--json]

Each side runs on one thread in the emulator with its aarch64 wheel, on the same model: a `.tflite` beside LiteRT, an
`.onnx` beside ONNX Runtime and, where `--pnnx` names ncnn's converter (PyPI: pnnx), beside ncnn. What is counted lies
between two system calls around several runs, after a first one: neither start nor loading.

Needs `edgec targets emulator install`, qemu with plugins (Debian: qemu-user) and a C compiler.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from edgec.compiler import wheels
from edgec.compiler.emulation.emulator import SITE, Emulator, find_qemu_for, lacking
from edgec.compiler.emulation.install import installed
from edgec.compiler.options import ERROR_BUDGET, CompileOptions, Precision
from edgec.compiler.pipeline import compile_model
from edgec.compiler.wheels import Machine
from edgec.targets import Target, load_target
from edgec.targets.errors import EdgecError

PEERS = ("ai-edge-litert", "flatbuffers", "ncnn")  # ONNX Runtime is in the root
RUNS = 2
LIMIT_S = 900
_BEGIN = """import os, sys
import numpy as np
runs, path, rng = int(sys.argv[1]), sys.argv[2], np.random.default_rng(0)
def fill(shape, dtype):
    return rng.random([d if isinstance(d, int) and d > 0 else 1 for d in shape]).astype(dtype)
"""
PROGRAMS = {
    "edgec": """import edgec.runtime as rt
model = rt.load(path, threads=1)
inputs = {i.name: fill(i.shape, i.dtype) for i in model.inputs}
def run(): model.run(inputs)
""",
    "onnxruntime": """import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
types = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int8)": "int8", "tensor(int64)": "int64",
         "tensor(int32)": "int32", "tensor(float16)": "float16", "tensor(bool)": "bool"}
inputs = {i.name: fill(i.shape, types[i.type]) for i in session.get_inputs()}
def run(): session.run(None, inputs)
""",
    "litert": """from ai_edge_litert.interpreter import Interpreter
model = Interpreter(path, num_threads=1)
model.allocate_tensors()
for i in model.get_input_details(): model.set_tensor(i["index"], fill(i["shape"].tolist(), i["dtype"]))
run = model.invoke
""",
    "ncnn": """import ncnn
net = ncnn.Net()
net.opt.num_threads, net.opt.use_vulkan_compute = 1, False
net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = HALF
net.load_param(path)
net.load_model(path[:-5] + "bin")
arrays = [fill(shape[1:], "float32") for shape in SHAPES]  # a Mat only points into its array
inputs = {name: ncnn.Mat(array) for name, array in zip(net.input_names(), arrays, strict=True)}
outputs = net.output_names()
def run():
    extractor = net.create_extractor()
    for name, value in inputs.items(): extractor.input(name, value)
    for name in outputs: extractor.extract(name)
""",
}
_END = """run()
os.getppid()
for _ in range(runs): run()
os.getppid()
"""


class CannotCount(EdgecError):
    """A side that does not run in the emulator, or a tool that is missing."""


@dataclass(frozen=True)
class Counter:
    """qemu with the plugin, on an emulated board."""

    emulator: Emulator
    plugin: Path
    peers: Path

    def per_run(self, side: str, path: Path, settings: Mapping[str, object] | None = None) -> float:
        """Instructions of a run of a network.

        Raises:
            CannotCount: it does not run.
        """
        program = PROGRAMS[side]
        for name, value in (settings or {}).items():
            program = program.replace(name, repr(value))
        return self.between_marks(_BEGIN + program + _END, str(RUNS), str(path)) / RUNS

    def between_marks(self, program: str, *arguments: str) -> int:
        """Instructions of a Python program between its first and its second call of `os.getppid`.

        Raises:
            CannotCount: it does not run.
        """
        command, environment = self.emulator.command(["-c", program, *arguments])
        script = Path(command[0]).read_text(encoding="utf-8")
        started = script.replace("exec ", "", 1).splitlines()[1].replace('"$@"', "")
        qemu, *options = started.split()
        dynamic = shutil.which(Path(qemu).name.removesuffix("-static"))
        if dynamic is None:
            raise CannotCount("qemu with plugins is not installed: apt-get install qemu-user")
        environment["PYTHONPATH"] += f":{self.peers}"
        environment |= {"PYTHONHASHSEED": "0", "ORT_DISABLE_TELEMETRY": "1"}
        line = [dynamic, "-plugin", str(self.plugin), *options, *command[1:]]
        done = subprocess.run(
            line, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        found = marked(done.stderr)
        if done.returncode or len(found) != 2:
            raise CannotCount(f"exit {done.returncode}: {done.stderr.strip().splitlines()[-2:]}")
        return found[1] - found[0]


def build_plugin(folder: Path) -> Path:
    """Build qemu's plugin in a folder.

    Raises:
        CannotCount: there is no compiler for it.
    """
    plugin = folder / "libcount.so"
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        raise CannotCount("a C compiler is needed for qemu's plugin")
    source = Path(__file__).with_name("count.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(plugin), str(source)], check=True)
    return plugin


def marked(told: str) -> list[int]:
    """The instructions executed until each mark, from what the plugin wrote."""
    return [int(count) for count in re.findall(r"instructions at a mark: (\d+)", told)]


def counter(target: Target, folder: Path) -> Counter:
    """Prepare counting for a target.

    Raises:
        CannotCount: the emulator, the plugin interface or a compiler is missing.
    """
    emulator, record = find_qemu_for(target), installed(target.arch)
    if emulator is None or emulator.root is None or record is None:
        raise CannotCount(lacking(target) or f"{target.name} is emulated with this machine's own Python")
    plugin = build_plugin(folder)
    peers = emulator.root.parent / "peers"
    if not peers.is_dir():
        with tempfile.TemporaryDirectory(dir=emulator.root.parent, prefix=".peers-") as scratch:
            machine = Machine(target.arch, record["python"], record["glibc"])
            for name in PEERS:
                wheels.download([name], machine, Path(scratch) / "wheels", dependencies=False)
            wheels.unpack(Path(scratch) / "wheels", Path(scratch) / SITE)
            try:
                (Path(scratch) / SITE).rename(peers)
            except OSError:  # another count was faster
                if not peers.is_dir():
                    raise
    return Counter(emulator, plugin, peers)


def converted(model: Path, pnnx: Path, folder: Path) -> tuple[Path, dict[str, object]]:
    """A network in ncnn's format, and what its program needs to know of it.

    Args:
        model: an ONNX file with float32 inputs.
        pnnx: ncnn's converter.
        folder: that the files are written to.

    Raises:
        CannotCount: it is not converted.
    """
    graph = onnx.load(model, load_external_data=False).graph
    known = {constant.name for constant in graph.initializer}
    shapes = [
        [dim.dim_value or 1 for dim in given.type.tensor_type.shape.dim]
        for given in graph.input
        if given.name not in known
    ]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        source = Path(scratch) / "model.onnx"
        source.symlink_to(model.resolve())
        told = "inputshape=" + ",".join(str(shape).replace(" ", "") for shape in shapes)
        # Its float16 weights are an option of the converter: those of fp32 stay as they are.
        done = subprocess.run(
            [str(pnnx.resolve()), str(source), told, "fp16=0"], cwd=scratch, capture_output=True, text=True
        )
        for kind in ("param", "bin"):
            made = Path(scratch) / f"model.ncnn.{kind}"
            if not made.is_file():
                raise CannotCount(f"pnnx made no {kind}: {done.stderr.strip().splitlines()[-1:]}")
            made.rename(folder / f"{model.stem}.ncnn.{kind}")
    return folder / f"{model.stem}.ncnn.param", {"SHAPES": shapes}


def count(
    model: Path,
    target: Target,
    counting: Counter,
    folder: Path,
    precision: Precision,
    pnnx: Path | None = None,
) -> dict[str, float]:
    """Instructions of a run by side; sides that cannot run the model are reported and left out."""
    artifact = folder / f"{model.stem}-{target.name}-{precision}.edge"
    budget = ERROR_BUDGET[precision]  # as the command has it: tiles of Winograd's algorithm depend on it
    options = CompileOptions(threads=1, tune="none", verify=False, precision=precision, error_budget=budget)
    compile_model(model, target, options, output=artifact)
    sides = {"edgec": artifact, "litert" if model.suffix == ".tflite" else "onnxruntime": model}
    if pnnx is not None and model.suffix == ".onnx":
        sides["ncnn"] = model
    found = {}
    for side, path in sides.items():
        try:
            settings: dict[str, object] = {}
            if side == "ncnn" and pnnx is not None:
                path, settings = converted(model, pnnx, folder)
                settings["HALF"] = precision == "fp16"
            found[side] = counting.per_run(side, path, settings)
        except (CannotCount, subprocess.TimeoutExpired) as error:
            sys.stderr.write(f"{model.stem}: {error}\n")
    return found


def main() -> None:
    """Count, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--target", default="rpi5")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--pnnx", type=Path, help="ncnn's converter, to count ncnn as well")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    target, told, ratios = load_target(arguments.target), {}, list[float]()
    with tempfile.TemporaryDirectory(prefix="edgec-counting-") as scratch:
        counting = counter(target, Path(scratch))
        for model in arguments.models:
            found = told[model.name] = count(
                model, target, counting, Path(scratch), arguments.precision, arguments.pnnx
            )
            others = {side: value for side, value in found.items() if side != "edgec"}
            if "edgec" not in found or not others:
                continue
            ratios += [value / found["edgec"] for value in others.values()]
            if not arguments.json:
                beside = ", ".join(
                    f"{side} {v / 1e6:.1f} M ({v / found['edgec']:.2f})" for side, v in others.items()
                )
                sys.stdout.write(f"{model.stem}: {found['edgec'] / 1e6:.1f} M instructions; {beside}\n")
                sys.stdout.flush()
    if arguments.json:
        json.dump(told, sys.stdout, indent=1)
    elif ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        sys.stdout.write(
            f"others take {mean:.2f} times as many (geometric mean of {len(ratios)}, lowest {min(ratios):.2f})\n"
        )


if __name__ == "__main__":
    main()
