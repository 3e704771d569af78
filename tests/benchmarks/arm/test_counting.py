"""Counting instructions in qemu, on a program whose loop is known."""

import shutil
import subprocess

import pytest

from edgec.benchmarks.arm.counting import build_plugin, marked
from tests.benchmarks.arm.program import BODY, build

QEMU = shutil.which("qemu-aarch64")


@pytest.mark.skipif(
    QEMU is None, reason="tool: qemu with plugins is not installed (apt-get install qemu-user)"
)
def test_what_lies_between_two_marks_is_counted_to_the_instruction(tmp_path):
    plugin, counts = build_plugin(tmp_path), []
    for rounds in (1000, 51000):
        program = build(tmp_path, rounds)
        done = subprocess.run(
            [QEMU, "-plugin", str(plugin), str(program)], capture_output=True, text=True, check=True
        )
        first, second = marked(done.stderr)
        counts.append(second - first)
    assert counts[1] - counts[0] == 50_000 * (len(BODY) + 2)
    # What is outside of the loop: a load of its count and the call of the second mark.
    assert 0 < counts[0] - 1000 * (len(BODY) + 2) < 10
