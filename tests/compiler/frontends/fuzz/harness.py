"""Feed damaged files to a loader in forked processes, and find what is neither a model nor a message."""

from __future__ import annotations

import faulthandler
import io
import mmap
import os
import pickle
import random
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from edgec.cli.console import printable
from edgec.targets import EdgecError

BATCH = 1000  # inputs of one process
TRIES = 5  # to damage a file so that it can be written
LIMIT_S = 60  # of CPU time for one input: the process may have to wait
WAIT_S = 600  # for one input that does nothing
MEMORY = 6 << 30  # bytes of addresses beyond those that the process begins with
# Files in memory: creating one on a disk may take longer than loading it.
PLACE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@dataclass
class Found:
    """What became of the inputs."""

    inputs: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    bad: dict[str, str] = field(default_factory=dict)  # by signature: the seed and the trace of the first

    @property
    def told(self) -> str:
        rate = self.inputs / max(self.seconds, 1e-9)
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.outcomes.most_common())
        return f"{self.inputs} inputs in {self.seconds:.0f} s ({rate:.0f}/s): {kinds}; {len(self.bad)} kinds of defects"


T = TypeVar("T")
Mutate = Callable[[random.Random, Path], Path]
Load = Callable[[Path], object]


def fuzz(
    mutate: Mutate,
    load: Load,
    count: int,
    seed: int = 0,
    limit_s: float = 1e9,
    guarded: Load | None = None,
    without_peer: Load | None = None,
) -> Found:
    """Load `count` damaged files.

    Args:
        mutate: writes a damaged file into a folder and returns it.
        load: the loader.
        seed: of the first input; the others follow.
        limit_s: seconds after which no further process starts.
        guarded: the loader where `load` is that loader without its own guard against crashes, which costs more
            than all the rest: an input that ends the process is loaded again with it, and that outcome counts.
        without_peer: the loader without the library that is its reference, which crashes on some files that pass
            its own check, or damages memory so that a later input ends the process. `edgec compile` runs in a child,
            whose end is an error message (`tests/cli/test_isolation.py`). An input that ends the process, but not
            one without that library, counts as the library's, and is no defect of the loader.
    """
    found, begin, number = Found(), time.monotonic(), 0
    while number < count and time.monotonic() - begin < limit_s:
        end = min(number + BATCH, count)
        number, died, where = _batch(mutate, load, seed, number, end, found)
        if died and guarded is not None:
            number, died, where = _batch(mutate, guarded, seed, number, number + 1, found)
        if died:
            kind = "hang" if died in ("SIGALRM", "SIGPROF") else "crash"
            found.inputs += 1
            alone = (mutate, without_peer, seed, number, number + 1, Found()) if without_peer else None
            if alone and not _batch(*alone)[1]:
                kind = f"{kind} of the reference"
            else:
                found.bad.setdefault(f"{kind} {died} {where[:1]}", f"seed {seed}, input {number}: {where}")
            found.outcomes[kind] += 1
            number += 1
    found.seconds = time.monotonic() - begin
    return found


def apart(make: Callable[[], T]) -> T:
    """What `make` returns, made in a forked process: threads that libraries start would be lost in later forks."""
    with tempfile.TemporaryFile() as told:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                content = pickle.dumps(make())
                while content:
                    content = content[os.write(told.fileno(), content) :]
                code = 0
            finally:
                os._exit(code)
        status = os.waitpid(child, 0)[1]
        assert status == 0, "the samples cannot be made"
        told.seek(0)
        made: T = pickle.load(told)
        return made


def _batch(
    mutate: Mutate, load: Load, seed: int, first: int, end: int, found: Found
) -> tuple[int, str, list[str]]:
    """Load inputs in one process.

    Returns:
        the number of the next input, the signal that ended the process at that input, if one did, and edgec's
        frames at that time, the innermost first, where Python knew them.
    """
    at = mmap.mmap(-1, 8)
    at[:] = struct.pack("<q", first)
    with (
        tempfile.TemporaryFile(dir=PLACE) as told,
        tempfile.TemporaryFile("w+", dir=PLACE) as stacks,
        tempfile.TemporaryDirectory(prefix="edgec-fuzz-", dir=PLACE) as folder,
    ):
        child = os.fork()
        if child == 0:
            try:
                faulthandler.enable(stacks)
                _work(mutate, load, seed, range(first, end), at, told.fileno(), Path(folder))
            finally:
                os._exit(0)
        status = os.waitpid(child, 0)[1]
        told.seek(0)
        for line in told.read().decode("utf-8", "replace").splitlines():
            kind, _, detail = line.partition("\t")
            found.inputs += 1
            found.outcomes[kind] += 1
            if kind == "defect":
                signature, _, trace = detail.partition("\t")
                found.bad.setdefault(signature, trace.replace("\\n", "\n"))
        (place,) = struct.unpack("<q", at[:])
        stacks.seek(0)
        frames = re.findall(r'File ".*/(compiler/\S+)", line (\d+)', stacks.read())
    if not os.WIFSIGNALED(status):
        return end, "", []
    where = [f"{file}:{line}" for file, line in frames if "/tests/" not in file]
    return int(place), signal.Signals(os.WTERMSIG(status)).name, where


def _work(
    mutate: Mutate, load: Load, seed: int, numbers: range, at: mmap.mmap, told: int, folder: Path
) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    sys.stderr = io.StringIO()
    tempfile.tempdir = str(folder)
    warnings.simplefilter("ignore")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for number in numbers:
        at[:] = struct.pack("<q", number)
        rng = random.Random(f"{seed}/{number}")
        path, why = _written(mutate, rng, folder)
        if path is None:
            os.write(told, f"unwritable\t{why}\n".encode())
            continue
        signal.alarm(WAIT_S)
        signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
        os.write(
            told, _outcome(load, path, f"seed {seed}, input {number}").encode("utf-8", "replace") + b"\n"
        )
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)


def _written(mutate: Mutate, rng: random.Random, folder: Path) -> tuple[Path | None, str]:
    """A damaged file, or None and the error's name where it cannot be written: other damage is tried first."""
    why = ""
    for _ in range(TRIES):
        try:
            return mutate(rng, folder), ""
        except Exception as error:  # noqa: BLE001 - what was damaged cannot be written
            why = type(error).__name__
    return None, why


def _outcome(load: Load, path: Path, which: str) -> str:
    try:
        load(path)
    except EdgecError as error:
        if type(error).__name__ == "InternalError":
            return f"defect\tInternalError {str(error)[:80]!r}\t{which}: {error!r}"
        told = printable(str(error))  # as a terminal gets it
        long = len(told.splitlines()) > 2 or len(told) > 12000
        return f"defect\ta long message\t{which}: {told[:300]!r}" if long else "refused"
    except MemoryError:
        return f"defect\tMemoryError\t{which}"
    except BaseException as error:  # noqa: BLE001 - this is what is searched
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "/tests/" not in f.filename]
        last = next(
            (f for f in reversed(ours) if "site-packages" not in f.filename), ours[-1] if ours else frames[-1]
        )
        signature = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"
        trace = f"{which}: {type(error).__name__}: {str(error)[:200]}".replace("\n", " ").replace("\t", " ")
        return f"defect\t{signature}\t{trace}"
    return "loaded"
