"""Show what can be shown of artifacts for NVIDIA GPUs without one, as tables in Markdown.

    python scripts/gpu_proof.py targets ds-cnn vit-tiny          # cubins of every target
    python scripts/gpu_proof.py networks vit-tiny resnet18@64    # results beside ONNX Runtime

`targets` compiles networks of the zoo in fp16 (or `--precision`) for every target and reads the machine code with
NVIDIA's `cuobjdump` and `nvdisasm`, which come as wheels. `networks` runs networks of the zoo, or files, on this
machine's processor: as OpenCL by PoCL in fp32, and as CUDA C++ by the emulator of the tests in fp16 or `--precision
bf16`. `@64` makes pictures 64 x 64; `--small` takes the zoo's networks as the rehearsal of the proof on a GPU does,
with pictures of 32 x 32 (YOLOv8n 64 x 64) and texts of 16 tokens, all layers kept. An emulated network takes minutes.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

import edgec.runtime as rt
from edgec.compiler.options import CompileOptions, Precision
from edgec.compiler.pipeline import compile_model
from edgec.models import build
from edgec.runtime.gpu.code import Launch, unpack
from edgec.targets import Target
from edgec.targets.device_kinds import DEVICE_KINDS
from edgec.targets.loader import list_targets

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.benchmarks.gpu.emulated import small  # noqa: E402
from tests.compiler.backends.cuda.emulator.backend import REGISTRATION as EMULATED  # noqa: E402
from tests.compiler.backends.cuda.emulator.backend import TARGET as EMULATED_TARGET  # noqa: E402
from tests.compiler.backends.cuda.machine_code import said  # noqa: E402
from tests.compiler.backends.opencl.backend import REGISTRATION as OPENCL  # noqa: E402
from tests.compiler.backends.opencl.backend import TARGET as OPENCL_TARGET  # noqa: E402

INSTRUCTIONS = ("HMMA", "IMMA", "LDSM", "LDGSTS")  # tensor cores, their loads, asynchronous copies
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_BUDGETS = {"fp32": 1e-3, "tf32": 5e-3, "fp16": 5e-3, "bf16": 3e-2}
_WAYS: dict[str, Target] = {"OpenCL": OPENCL_TARGET, "emulated": EMULATED_TARGET}


@dataclass
class Cubins:
    """What the kernels of one network are for one architecture."""

    kernels: int = 0
    size: int = 0
    registers: int = 0
    shared: int = 0
    stack: int = 0
    instructions: dict[str, int] = field(default_factory=dict)  # kernels that have one, by its name


def read_cubins(artifact: Path, arch: str, folder: Path) -> Cubins:
    """Read an artifact's machine code for `arch`."""
    header, binaries = unpack(rt.Artifact.open(artifact).code())
    found = Cubins(instructions=dict.fromkeys(INSTRUCTIONS, 0))
    dynamic = {step.kernel: step.shared_bytes for step in header.steps if isinstance(step, Launch)}
    for one in header.binaries:
        if one.kind != "cubin" or one.arch != arch:
            continue
        cubin = folder / "k.cubin"
        cubin.write_bytes(bytes(binaries[one.offset : one.offset + one.size]))
        found.kernels += len(one.kernels)
        found.size += one.size
        for usage in _USAGE.findall(said("cuobjdump", "--dump-resource-usage", cubin)):
            registers, stack, shared, local = map(int, usage)
            most = max((dynamic.get(name, 0) for name in one.kernels), default=0)
            found.registers = max(found.registers, registers)
            found.shared = max(found.shared, shared + most)
            found.stack = max(found.stack, stack + local)
        # The disassembler of CUDA 13 refuses Volta's code.
        code = "" if arch == "sm_72" else said("nvdisasm", "-c", cubin)
        for name in found.instructions:
            found.instructions[name] += name in code
    return found


def targets(names: list[str], wanted: list[str], precision: Precision, folder: Path) -> None:
    """Print a row for each network and (wanted) target with tensor cores of that precision."""
    print("| network | target | architecture | kernels | cubins, KB | most registers | most shared memory of a block "
          "| largest stack frame |", " | ".join(f"`{one}`" for one in INSTRUCTIONS), "|")  # fmt: skip
    print("|---|---|---|---:|---:|---:|---:|---:|" + "---:|" * len(INSTRUCTIONS))
    for name in names:
        model = Path(name) if name.endswith(".onnx") else build(name, folder / name)
        for target in list_targets():
            gpu = target.gpu
            if target.device_kind != "cuda" or gpu is None or len(gpu.architectures) != 1:
                continue
            if wanted and target.name not in wanted:
                continue
            if precision not in gpu.tensor_types and precision != "fp32":
                continue
            options = CompileOptions(
                verify=False, tune="none", precision=precision, cache_dir=folder / "cache"
            )
            artifact = compile_model(model, target, options, output=folder / "m.edge").artifact
            found = read_cubins(artifact, gpu.architectures[0], folder)
            used = [
                "not read" if gpu.architectures[0] == "sm_72" else str(n) for n in found.instructions.values()
            ]
            row = [Path(name).stem, target.name, gpu.architectures[0], found.kernels, round(found.size / 1024),
                   found.registers, found.shared, found.stack, *used]  # fmt: skip
            print("|", " | ".join(map(str, row)), "|", flush=True)


def networks(names: list[str], ways: list[str], narrow: Precision, folder: Path) -> None:
    """Print a row for each network and way to run it; a network that is wrong ends the script."""
    DEVICE_KINDS["opencl"], DEVICE_KINDS["emulated"] = OPENCL, EMULATED
    print(
        "| network | input | run as | precision | launches | largest error, of the largest value | accepted |"
    )
    print("|---|---|---|---|---:|---:|---:|")
    for text in names:
        name, _, size = text.partition("@")
        model = Path(name) if name.endswith(".onnx") else build(name, folder / name)
        model = _resized(model, int(size), folder) if size else model
        for way, target in _WAYS.items():
            if way not in ways:
                continue
            precision: Precision = "fp32" if way == "OpenCL" else narrow
            options = CompileOptions(
                threads=1, tune="none", precision=precision, error_budget=_BUDGETS[precision],
                cache_dir=folder / "cache",
            )  # fmt: skip
            result = compile_model(model, target, options, output=folder / "m.edge")
            header, _ = unpack(rt.Artifact.open(result.artifact).code())
            launches = sum(isinstance(step, Launch) for step in header.steps)
            error = f"{_largest(result.evidence):.1e}"
            given = " ".join("x".join(map(str, one.shape)) for one in header.inputs)
            row = [Path(name).stem, given, way, precision, launches, error, f"{_BUDGETS[precision]:.0e}"]
            print("|", " | ".join(map(str, row)), "|", flush=True)


def _resized(model: Path, size: int, folder: Path) -> Path:
    """The model with pictures of `size` x `size` as its first input; what follows from that size is left open."""
    made = onnx.load(str(model))
    dims = made.graph.input[0].type.tensor_type.shape.dim
    dims[-2].dim_value, dims[-1].dim_value = size, size
    del made.graph.value_info[:]
    for output in made.graph.output:
        output.type.tensor_type.ClearField("shape")
    path = folder / f"{model.parent.name}-{size}.onnx"
    onnx.save(made, str(path))
    return path


def _largest(evidence: dict[str, Any]) -> float:
    """The largest error of any output that verification found."""
    return max(float(one["max_rel"]) for one in evidence["outputs"])


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    reading = commands.add_parser("targets", help="cubins of every target")
    reading.add_argument("networks", nargs="+", help="of the zoo, or files")
    reading.add_argument("--precision", default="fp16", choices=[*_BUDGETS])
    reading.add_argument("--only", default="", help="targets, separated by commas; all without")
    running = commands.add_parser("networks", help="results beside ONNX Runtime")
    running.add_argument("networks", nargs="+", help="of the zoo, or files; @64 for pictures of 64 x 64")
    running.add_argument("--as", dest="ways", default=",".join(_WAYS), help="OpenCL,emulated")
    running.add_argument("--precision", default="fp16", choices=["fp16", "bf16"], help="of emulated ones")
    running.add_argument("--small", action="store_true", help="small pictures and short texts")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.command == "targets":
            targets(
                given.networks, [one for one in given.only.split(",") if one], given.precision, Path(folder)
            )
        else:
            with small() if given.small else nullcontext():
                networks(given.networks, given.ways.split(","), given.precision, Path(folder))


if __name__ == "__main__":
    main()
