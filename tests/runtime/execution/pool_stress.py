"""`python -m tests.runtime.execution.pool_stress THREADS LAUNCHES FOLDER`: how many tasks did not run exactly once."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

from edgec.compiler.backends.cpu.thread_pool import pool_library
from edgec.runtime.execution import pool
from edgec.runtime.execution.pool import ThreadPool
from edgec.targets import machine_arch


def main() -> None:
    """Run the command line."""
    threads, launches, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    source, library = Path(__file__).with_suffix(".c"), folder / "stress.so"
    compiler = [sys.executable, "-m", "ziglang", "cc", "-O2", "-shared", "-fPIC"]
    subprocess.run([*compiler, "-o", str(library), str(source)], check=True)
    pool.load(lambda _name: pool_library(machine_arch(), None))
    assert pool.state.library is not None
    workers = ThreadPool(threads, None)
    workers.use()
    wrong = ctypes.CDLL(str(library)).stress(ctypes.c_void_p(pool.state.library.launch), launches)
    sys.stdout.write(f"{wrong} wrong\n")


if __name__ == "__main__":
    main()
