"""Code for processors with AVX-VNNI on one without: verified with the right values, in the processes it starts, too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgec.compiler.emulation.avx_vnni import lacks_only_vnni
from edgec.compiler.emulation.emulator import find_emulator, lacking
from edgec.targets import load_target

N100 = load_target("n100")
pytestmark = pytest.mark.skipif(
    not lacks_only_vnni(N100), reason="hardware: this processor has AVX-VNNI, or more is lacking than that"
)
# All four instructions, of 128 and 256 bits, with the second factor in a register and in memory.
SOURCE = """
#include <immintrin.h>
#define BOTH(name)                                                                                              \\
  void name##_256(int *s, const void *a, const void *b) {                                                       \\
    __m256i x = _mm256_loadu_si256(a), y = _mm256_loadu_si256(b), r = _mm256_loadu_si256((void *)s);            \\
    __asm__("%{vex%} " #name " %2, %1, %0" : "+x"(r) : "x"(x), "x"(y));                                           \\
    __asm__("%{vex%} " #name " %2, %1, %0" : "+x"(r) : "x"(x), "m"(*(const __m256i_u *)b));                       \\
    _mm256_storeu_si256((void *)s, r);                                                                          \\
  }                                                                                                             \\
  void name##_128(int *s, const void *a, const void *b) {                                                       \\
    __m128i x = _mm_loadu_si128(a), y = _mm_loadu_si128(b), r = _mm_loadu_si128((void *)s);                     \\
    __asm__("%{vex%} " #name " %2, %1, %0" : "+x"(r) : "x"(x), "x"(y));                                           \\
    __asm__("%{vex%} " #name " %2, %1, %0" : "+x"(r) : "x"(x), "m"(*(const __m128i_u *)b));                       \\
    _mm_storeu_si128((void *)s, r);                                                                             \\
  }
BOTH(vpdpbusd) BOTH(vpdpbusds) BOTH(vpdpwssd) BOTH(vpdpwssds)
"""
PROGRAM = """
import ctypes, subprocess, sys
import numpy as np
from edgec.targets import detect, machine_features
library = ctypes.CDLL(sys.argv[1])
given = np.load(sys.argv[2])
made = {}
for name in ("vpdpbusd", "vpdpbusds", "vpdpwssd", "vpdpwssds"):
    for lanes in (4, 8):
        sums = given["sums"].copy()
        for s, a, b in zip(sums, given["a"], given["b"]):
            getattr(library, f"{name}_{32 * lanes}")(*(ctypes.c_void_p(x.ctypes.data) for x in (s, a, b)))
        made[f"{name}-{lanes}"] = sums
np.savez(sys.argv[3], **made)
inner = "from edgec.targets import machine_features; print(*machine_features())"
child = subprocess.check_output([sys.executable, "-c", inner], text=True)
print(*machine_features() & {"avx_vnni"}, "avx_vnni" in child)
"""


def expected(name: str, lanes: int, sums: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Both products, one after the other, in exact integers."""
    words = "w" in name
    left = a.view(np.int16 if words else np.uint8).astype(np.int64).reshape(len(a), 8, -1)
    right = b.view(np.int16 if words else np.int8).astype(np.int64).reshape(len(b), 8, -1)
    products, total = (left * right).sum(axis=2), sums.astype(np.int64)
    for _ in range(2):
        total = total + products
        total = (
            np.clip(total, -(2**31), 2**31 - 1)
            if name.endswith("s")
            else total.astype(np.int32).astype(np.int64)
        )
    return np.concatenate([total[:, :lanes], sums[:, lanes:]], axis=1)


def test_every_instruction_has_the_right_values(tmp_path: Path) -> None:
    emulator = find_emulator(N100)
    assert emulator is not None
    assert not lacking(N100)
    (tmp_path / "code.c").write_text(SOURCE)
    library = tmp_path / "code.so"
    compiler = [sys.executable, "-m", "ziglang", "cc", "-O1", "-shared", "-fPIC", "-fno-sanitize=all"]
    flags = ["-mavx2", "-mavxvnni", "-o", str(library), str(tmp_path / "code.c")]
    subprocess.run([*compiler, *flags], check=True)
    rng = np.random.default_rng(3)
    sums = rng.integers(-(2**31), 2**31, (20, 8), np.int32)
    a, b = (rng.integers(0, 256, (20, 32), np.uint8) for _ in range(2))
    sums[0], a[0], b[0] = 2**31 - 5, 255, 127
    sums[1], a[1], b[1] = -(2**31) + 5, 127, 128
    np.savez(tmp_path / "given.npz", sums=sums, a=a, b=b)
    command, environment = emulator.command(
        ["-c", PROGRAM, str(library), str(tmp_path / "given.npz"), str(tmp_path / "made.npz")]
    )
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["avx_vnni", "True"], "the features are known, in a child process as well"
    with np.load(tmp_path / "made.npz") as made:
        for key in made.files:
            name, lanes = key.split("-")
            np.testing.assert_array_equal(made[key], expected(name, int(lanes), sums, a, b), err_msg=key)


def test_another_illegal_instruction_ends_the_process() -> None:
    emulator = find_emulator(N100)
    assert emulator is not None
    program = (
        "import ctypes, mmap; m = mmap.mmap(-1, 4096, prot=7); m.write(b'\\x0f\\x0b'); "
        "ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()"
    )
    command, environment = emulator.command(["-c", program])
    assert subprocess.run(command, env=environment, check=False).returncode == -4  # SIGILL


def test_a_damaged_library_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEC_EMULATOR_ROOT", str(tmp_path))
    emulator = find_emulator(N100)
    assert emulator is not None
    emulator.command([])
    (library,) = tmp_path.rglob("avx_vnni.so")
    whole = library.read_bytes()
    library.write_bytes(whole[:-1] + b"x")
    emulator.command([])
    assert library.read_bytes() == whole
