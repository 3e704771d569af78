"""A device's missing features are found from the artifact's config, before any code is loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import edgec.runtime as rt
from edgec.runtime import compatibility, cpu_device

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"arch": "riscv64", "target": "board"}, r"compiled for board \(riscv64\); this machine is"),
    (
        {"required_features": ("avx2", "telepathy", "warp")},
        r"this machine's processor lacks telepathy, warp",
    ),
    ({"runtime_abi": "tvm-9.9+ffi-0.1"}, r"runtime ABI tvm-9\.9\+ffi-0\.1; this edgec has tvm-0\.27"),
    ({"min_glibc": "99.1"}, r"needs glibc 99\.1; this system has"),
    # The back end of the tests is listed, too, where its module was imported before.
    ({"device_kind": "npu"}, r"an? npu device; this runtime drives cpu and cuda devices only"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_a_machine_that_lacks_something_is_told_what(
    mlp: Any, changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_device, "load_code", lambda code: pytest.fail("code was loaded"))
    with pytest.raises(rt.IncompatibleDevice, match=message):
        rt.load(mlp.write(tmp_path / "a.edge", **changes))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("maxsize", 2**31 - 1, "for 64-bit programs; this Python has 32 bits"),
        ("byteorder", "big", "which is little-endian; this machine is big-endian"),
    ],
)
def test_a_program_of_another_kind_is_told_so(
    mlp: Any, name: str, value: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        compatibility, "sys", SimpleNamespace(**{"maxsize": sys.maxsize, "byteorder": "little", name: value})
    )
    with pytest.raises(rt.IncompatibleDevice, match=message):
        rt.check_device(mlp.config)


def test_a_system_without_glibc_is_refused(mlp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compatibility, "machine_glibc", lambda: None)
    with pytest.raises(rt.IncompatibleDevice, match="this system has another C library"):
        rt.check_device(mlp.config)
