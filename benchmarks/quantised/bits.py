"""One hash for a quantised network on every instruction set, with one thread and two.

    python -m edgec.benchmarks.quantised.bits FOLDER --data DATA [--document docs/quantisation.md] [--only NETWORK…]

compiles each network for each target, runs it on the same inputs (where this machine lacks instructions, in an
emulator) and hashes the bytes of the outputs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgec.benchmarks.quantised.documented import common_options, write_between
from edgec.benchmarks.quantised.networks import NETWORKS, Network
from edgec.compiler.backends.cpu.runner import runs_here
from edgec.compiler.emulation.emulator import find_emulator, lacking
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.targets import Target, load_target
from edgec.targets.errors import EdgecError

SETS = {
    "x86-64-v2": "SSE4.1", "x86-64-v3": "AVX2", "n100": "AVX-VNNI", "x86-64-v4": "AVX-512",
    "x86-avx512-vnni": "AVX-512 VNNI", "aarch64": "NEON", "rpi5": "dot product", "graviton3": "i8mm",
}  # fmt: skip
THREADS = (1, 2)
LIMIT_S = 3600
MARK = "hashes"

# Runs in the process that loads the artifact, which may be an emulated one.
_WORKER = """
import hashlib, json, sys
import numpy as np
import edgec.runtime as rt
artifact, inputs, threads = sys.argv[1:]
digest, kinds = hashlib.sha256(), set()
with rt.load(artifact, threads=int(threads)) as model, np.load(inputs) as arrays:
    stacked = {name: arrays[name] for name in arrays.files}
    for number in range(len(next(iter(stacked.values())))):
        outputs = model.run({name: array[number] for name, array in stacked.items()})
        for name in sorted(outputs):
            digest.update(np.ascontiguousarray(outputs[name]).tobytes())
            kinds.update(np.unique(outputs[name])[:9].tolist())
print(json.dumps({"hash": digest.hexdigest(), "values": len(kinds)}))
"""


class CannotHash(EdgecError):
    """A target's code cannot run here, or a run failed."""


@dataclass(frozen=True)
class Row:
    """The hashes of a network's outputs, by target and threads."""

    network: Network
    hashes: dict[tuple[str, int], str]

    @property
    def same(self) -> bool:
        """Whether all are equal."""
        return len(set(self.hashes.values())) == 1


def hash_of(artifact: Path, target: Target, inputs: Path, threads: int) -> str:
    """The hash of an artifact's outputs, where it runs natively or in an emulator.

    Args:
        inputs: `.npz` file of the inputs, with an axis of runs in front.

    Raises:
        CannotHash: it does not run here, or all its outputs are the same number.
    """
    arguments = [str(artifact.absolute()), str(inputs.absolute()), str(threads)]
    if runs_here(target):
        command, environment = [sys.executable, "-c", _WORKER], None
    else:
        emulator = find_emulator(target)
        if emulator is None:
            raise CannotHash(lacking(target))
        command, environment = emulator.command(["-c", _WORKER])
    done = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )  # fmt: skip
    if done.returncode:
        raise CannotHash(f"{artifact.name}: exit status {done.returncode}: {done.stderr[-500:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    if found["values"] < 3:
        raise CannotHash(f"{artifact.name}: its outputs say nothing, they have {found['values']} values")
    return str(found["hash"])


def row_of(network: Network, data: Path, folder: Path, targets: Sequence[str], threads: Sequence[int]) -> Row:
    """Compile a network for each target and number of threads, and hash what it computes."""
    inputs = folder / f"{network.name.replace(' ', '-')}.npz"
    np.savez(inputs, allow_pickle=False, **network.inputs(data))
    hashes = {}
    for name in targets:
        target = load_target(name)
        model = network.model(data, folder, target)
        for count in threads:
            artifact = inputs.with_name(f"{inputs.stem}-{name}-{count}.edge")
            if not artifact.exists():
                options = CompileOptions(tune="none", threads=count, verify=False)
                compile_model(model, target, options, output=artifact)
            hashes[name, count] = hash_of(artifact, target, inputs, count)
            print(network.name, name, count, hashes[name, count][:16], flush=True)
    return Row(network, hashes)


def table(rows: Sequence[Row]) -> str:
    """The rows as a table of Markdown; a network whose hashes differ shows all of them."""
    lines = ["| network | what it is | hash of the outputs (SHA-256, first 16 digits) |", "|---|---|---|"]
    for row in rows:
        told = f"`{next(iter(row.hashes.values()))[:16]}`"
        if not row.same:
            told = ", ".join(f"{SETS[name]} {n}: `{h[:16]}`" for (name, n), h in row.hashes.items())
        lines.append(f"| {row.network.name} | {row.network.kind} | {told} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Hash, print and document; 1 if any network's hashes differ."""
    parser = common_options(__doc__)
    parser.add_argument("--targets", default=",".join(SETS))
    parser.add_argument("--only", nargs="*", default=[], help="networks whose names contain one of these")
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    chosen = [n for n in NETWORKS if not given.only or any(part in n.name for part in given.only)]
    rows = [row_of(n, given.data, given.folder, given.targets.split(","), THREADS) for n in chosen]
    print(table(rows))
    if given.document is not None:
        write_between(given.document, MARK, table(rows))
    return 0 if all(row.same for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
