"""Inner loops of code for 64-bit ARM: what is found in them, and what the best tile would need."""

import pytest

from edgec.benchmarks.arm.loops import Instruction, NoTool, best_loads_per_product, main_loops, tool
from edgec.benchmarks.arm.throughput import throughput
from tests.benchmarks.arm.program import BODY, build


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    try:
        tool("llvm-objdump")
    except NoTool as error:
        pytest.skip(f"tool: {error}")
    (found,) = main_loops(build(tmp_path_factory.mktemp("loop"), 10).read_bytes())
    return found


def test_a_loop_is_what_lies_between_a_branch_and_its_target(loop):
    assert len(loop.instructions) == len(BODY) + 2
    assert (loop.multiplying, loop.products, loop.loads, loop.spills) == (2, 8, 2, 0)
    assert "b.ne" not in loop.assembly


def test_llvm_mca_times_a_loop_by_its_slowest_part(loop):
    """Each round adds to the same two sums: the Neoverse N1 takes four cycles for that, and never less than one."""
    try:
        found = throughput(loop, "neoverse-n1")
    except NoTool as error:
        pytest.skip(f"tool: {error}")
    assert found is not None
    assert 1 <= found.cycles <= 8
    assert found.products_per_cycle == pytest.approx(8 / found.cycles)


@pytest.mark.parametrize(
    ("name", "operands", "products"),
    [
        ("fmla", "v0.4s, v1.4s, v2.s[0]", 4),
        ("fmla", "v0.8h, v1.8h, v2.h[0]", 8),
        ("sdot", "v0.4s, v1.16b, v2.4b[0]", 16),
        ("smmla", "v0.4s, v1.16b, v2.16b", 32),
        ("fmadd", "s0, s1, s2, s3", 1),
        ("fadd", "v0.4s, v1.4s, v2.4s", 0),
        ("ldr", "q0, [x1]", 0),
    ],
)
def test_multiply_adds_of_an_instruction(name, operands, products):
    assert Instruction(0, name, operands).products == products


def test_an_access_to_a_vector_on_the_stack_is_a_spill():
    assert Instruction(0, "str", "q3, [sp, #16]").spills
    assert Instruction(0, "ldp", "q3, q4, [sp, #32]").spills
    assert not Instruction(0, "ldr", "q3, [x1, #16]").spills
    assert not Instruction(0, "str", "x3, [sp, #16]").spills


def test_the_best_tile_reads_least():
    assert best_loads_per_product() == pytest.approx(0.2, abs=0.005)
    assert best_loads_per_product(lanes=8) < best_loads_per_product(lanes=4)
    assert best_loads_per_product(registers=16) > best_loads_per_product(registers=32)
