"""Libraries that are told of a processor with AVX2 and nothing beyond it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgec.benchmarks.restricted import wheels

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or not shutil.which("objdump") or not shutil.which("cc"),
    reason="requires an x86-64 processor, cc and objdump",
)

ASKS = """
void ask(unsigned leaf, unsigned sub, unsigned *r)
{ __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub)); }
void undefined(void) { __builtin_trap(); }
int decoy(void) { return 0xa20f; } /* the bytes of cpuid, within another instruction */
"""
# Prints what a library sees at leaf 7 as it is and as changed, then executes an instruction that is undefined.
PROGRAM = """
import ctypes, json, sys
from pathlib import Path
from edgec.benchmarks.restricted.wheels import use
folder = Path(sys.argv[1])
use(folder)
found = []
for name in ("plain.so", "changed.so"):
    library, registers = ctypes.CDLL(str(folder / name)), (ctypes.c_uint32 * 4)()
    for leaf, sub in ((1, 0), (7, 0), (7, 1)):
        library.ask(leaf, sub, registers)
        found.append(list(registers))
    assert library.decoy() == 0xA20F
print(json.dumps(found), flush=True)
library.undefined()
"""
AVX512 = 1 << 16 | 1 << 17 | 1 << 28 | 1 << 30 | 1 << 31
VNNI, AVX_VNNI, AVX2, FMA = 1 << 11, 1 << 4, 1 << 5, 1 << 12


def _handler(folder: Path) -> None:
    source = Path(wheels.__file__).with_name("cpuid.c")
    command = ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"]
    subprocess.run([*command, str(folder / wheels.LIBRARY), str(source)], check=True)


def test_a_changed_library_sees_avx2_and_nothing_beyond(tmp_path: Path) -> None:
    _handler(tmp_path)
    (tmp_path / "ask.c").write_text(ASKS)
    plain, changed = tmp_path / "plain.so", tmp_path / "changed.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(plain), str(tmp_path / "ask.c")], check=True)
    shutil.copy(plain, changed)
    assert wheels.change(changed, "objdump") == 1
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False
    )
    one, seven, more, one_changed, seven_changed, more_changed = json.loads(done.stdout)
    assert one_changed[2] & ~(1 << 27) == one[2] & ~(1 << 27)
    assert one_changed[2] & FMA == one[2] & FMA
    assert seven_changed[0] == seven[0]
    assert seven_changed[1] & AVX2 == seven[1] & AVX2
    assert not seven_changed[1] & AVX512
    assert not seven_changed[2] & VNNI
    assert not more_changed[0] & AVX_VNNI
    assert more_changed[0] & ~(1 << 4 | 1 << 5 | 1 << 21 | 1 << 23) == more_changed[0]
    assert done.returncode < 0, f"a fault of the program's own still ends it: {more}"


def test_a_folder_without_copies_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(wheels.CannotRestrict, match=r"-m edgec\.benchmarks\.restricted"):
        wheels.use(tmp_path)


@pytest.mark.long  # copies and disassembles 60 MB
def test_onnx_runtime_runs_no_instruction_of_avx512(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "PACKAGES", ("onnxruntime",))
    assert any("libonnxruntime" in line or "pybind11" in line for line in wheels.make(tmp_path))
    weights = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [256, 1024])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [256, 1024])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    program = (
        "import sys; from pathlib import Path; from edgec.benchmarks.restricted.wheels import sampled, use\n"
        "folder = Path(sys.argv[1]); sys.argv[2] and use(folder)\n"
        "import numpy as np, onnxruntime\n"
        "session = onnxruntime.InferenceSession(str(folder / 'm.onnx'))\n"
        "x = np.ones((256, 1024), np.float32)\n"
        "print(*sampled(folder, lambda: session.run(None, {'x': x}), 0.5))"
    )
    for restricted in ("yes", ""):
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path), restricted],
            capture_output=True, text=True, check=True, env=os.environ | wheels.environment(),
        )  # fmt: skip
        samples, beyond = map(int, done.stdout.split()[-2:])
        assert samples > 50
        if restricted:
            assert beyond == 0
        elif "avx512f" in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
            assert beyond > samples / 4, "the proof sees AVX-512 where it is used"
