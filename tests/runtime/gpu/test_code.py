"""The code layer of artifacts for GPUs: what is written is read, and what is damaged is refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.runtime.errors import ArtifactError, IncompatibleDevice
from edgec.runtime.gpu.code import (
    Binary,
    GpuCode,
    Launch,
    Operand,
    capability_of,
    choose_binaries,
    is_programs,
    nearest,
    pack,
    pack_programs,
    unpack,
    unpack_programs,
)
from tests.runtime.gpu.copying import code

PACKED = pack(code(), b"cubinptx")


def test_what_is_packed_is_unpacked() -> None:
    header, binaries = unpack(PACKED)
    assert header == code()
    assert bytes(binaries) == b"cubinptx"


@given(place=st.integers(0, len(PACKED) - 1), flip=st.integers(1, 255))
def test_a_changed_byte_is_read_or_refused(place: int, flip: int) -> None:
    changed = bytearray(PACKED)
    changed[place] ^= flip
    try:
        header, _ = unpack(bytes(changed))
    except (ArtifactError, IncompatibleDevice):
        return
    for step in header.steps:  # nothing that is read leads out of its buffer
        for operand in step.arguments if isinstance(step, Launch) else ():
            assert operand.place != "arena" or operand.offset + operand.bytes <= header.arena_bytes


@given(length=st.integers(0, len(PACKED) - 1))
def test_a_truncated_layer_is_refused(length: int) -> None:
    with pytest.raises(ArtifactError):
        unpack(PACKED[:length])


@pytest.mark.parametrize(
    "operand",
    [
        Operand(place="arena", offset=64, shape=(17,), dtype="float32"),
        Operand(place="input", index=1, shape=(16,), dtype="float32"),
        Operand(place="weight", index=0, shape=(32,), dtype="float32"),
        Operand(place="output", index=9, shape=(1,), dtype="uint8"),
    ],
)
def test_a_step_beyond_its_buffer_is_refused(operand: Operand) -> None:
    step = Launch(kernel="copy_64", layer="l", grid=(1, 1, 1), block=(1, 1, 1), arguments=(operand,))
    header = msgspec.structs.replace(code(), steps=(step,))
    with pytest.raises(ArtifactError, match="reaches beyond a buffer"):
        unpack(pack(header, b"cubinptx"))


def test_a_kernel_that_no_binary_has_and_a_later_format_are_refused() -> None:
    step = Launch(kernel="other", layer="l", grid=(1, 1, 1), block=(1, 1, 1), arguments=())
    with pytest.raises(ArtifactError, match="launches 'other'"):
        unpack(pack(msgspec.structs.replace(code(), steps=(step,)), b"cubinptx"))
    with pytest.raises(IncompatibleDevice, match="install a newer edgec"):
        unpack(pack(msgspec.structs.replace(code(), format=3), b"cubinptx"))


def with_archs(*names: tuple[str, str]) -> GpuCode:
    binaries = tuple(Binary(arch=a, kind=k, kernels=("copy_64",), offset=0, size=1) for k, a in names)  # type: ignore[arg-type]
    return msgspec.structs.replace(code(), binaries=binaries)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((8, 6), "sm_86"),
        ((8, 9), "sm_86"),
        ((8, 0), "sm_80"),
        ((9, 0), "sm_75"),
        ((7, 5), "sm_75"),
        ((8, 7), "sm_75"),  # a GPU in a processor runs no cubin of another
    ],
)
def test_cubins_run_on_later_minor_versions_and_ptx_on_anything_later(
    capability: tuple[int, int], expected: str
) -> None:
    header = with_archs(("cubin", "sm_80"), ("cubin", "sm_86"), ("ptx", "sm_75"))
    assert choose_binaries(header, capability)[0].arch == expected


_CUDA = [("cubin", one) for one in ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_120")]


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((7, 5), ("cubin", "sm_75")), ((8, 0), ("cubin", "sm_80")), ((8, 6), ("cubin", "sm_86")),
        ((8, 7), ("cubin", "sm_87")), ((8, 9), ("cubin", "sm_89")), ((9, 0), ("cubin", "sm_90")),
        ((12, 0), ("cubin", "sm_120")), ((12, 1), ("cubin", "sm_120")),
        ((10, 0), ("ptx", "sm_75")), ((10, 1), ("ptx", "sm_75")), ((11, 0), ("ptx", "sm_75")),
        ((13, 0), ("ptx", "sm_75")),
        ((7, 2), None), ((7, 0), None), ((6, 1), None), ((5, 3), None),
    ],
)  # fmt: skip
def test_the_artifact_for_any_gpu_runs_from_turing_on(
    capability: tuple[int, int], expected: tuple[str, str] | None
) -> None:
    assert nearest([*_CUDA, ("ptx", "sm_75")], capability) == expected


def test_cubins_for_jetson_run_on_no_other_gpu() -> None:
    assert nearest([("cubin", "sm_87")], (8, 9)) is None
    assert nearest([("cubin", "sm_87"), ("ptx", "sm_87")], (8, 9)) == ("ptx", "sm_87")
    assert nearest([("cubin", "sm_101"), ("ptx", "sm_101")], (11, 0)) == ("ptx", "sm_101")


def test_code_of_one_architecture_only_runs_there() -> None:
    assert capability_of("sm_90a") == (9, 0)
    assert capability_of("sm_120") == (12, 0)
    with pytest.raises(IncompatibleDevice, match="sm_90a; this GPU is sm_120"):
        choose_binaries(with_archs(("cubin", "sm_90a")), (12, 0))


def test_several_programs_in_one_layer_are_each_checked() -> None:
    one = pack(code(), b"cubinptx")
    layer = pack_programs({"a": one, "b": one})
    assert is_programs(layer)
    assert not is_programs(one)
    assert unpack_programs(layer) == {"a": one, "b": one}
    for cut in (9, 20, len(layer) - 1):
        with pytest.raises(ArtifactError):
            unpack_programs(layer[:cut])
