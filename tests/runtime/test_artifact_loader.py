"""Loading: every check comes before any code, and weights are used where the file is mapped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgec.runtime as rt
from edgec.runtime import cpu_device


@pytest.mark.parametrize(
    ("at", "changed", "found"),
    [
        (18, b"\xf3\0", "riscv64$"),
        (4, b"\1", ", 32-bit$"),
        (5, b"\2", ", big-endian$"),
        (5, b"\2\1\0\0\0\0\0\0\0\0\0\0\3\0\x16", "s390x, big-endian$"),
    ],
)
def test_code_of_another_machine_than_the_config_says_is_refused(
    mlp: Any, tmp_path: Path, at: int, changed: bytes, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_device, "load_code", lambda code: pytest.fail("code was loaded"))
    code = mlp.code[:at] + changed + mlp.code[at + len(changed) :]
    rt.write_artifact(tmp_path / "a.edge", config=mlp.config, code=code, weights=mlp.weights)
    with pytest.raises(rt.ArtifactError, match=f"but its code is for .*{found}"):
        rt.load(tmp_path / "a.edge")


def test_code_that_is_no_library_is_refused(mlp: Any, tmp_path: Path) -> None:
    rt.write_artifact(tmp_path / "b.edge", config=mlp.config, code=b"import os", weights=mlp.weights)
    with pytest.raises(rt.ArtifactError, match="not a shared library"):
        rt.load(tmp_path / "b.edge")


def test_a_missing_weight_is_named(mlp: Any, tmp_path: Path) -> None:
    weights = dict(list(mlp.weights.items())[1:])
    rt.write_artifact(tmp_path / "a.edge", config=mlp.config, code=mlp.code, weights=weights)
    with pytest.raises(rt.ArtifactError, match=re.escape(f"lack {next(iter(mlp.weights))!r}")):
        rt.load(tmp_path / "a.edge")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_altered_artifact_never_runs_code(
    data: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tiny.read_bytes()
    where = data.draw(st.integers(0, len(content) - 1))
    flipped = content[where] ^ data.draw(st.integers(1, 255))
    path = tmp_path / "altered.edge"
    path.write_bytes(content[:where] + bytes([flipped]) + content[where + 1 :])
    with monkeypatch.context() as patch:
        patch.setattr(cpu_device, "load_code", lambda code: pytest.fail("code was loaded"))
        patch.setattr(cpu_device, "ensure_runtime", lambda bundled: pytest.fail("a library was loaded"))
        with pytest.raises(rt.ArtifactError):
            rt.load(path)


@pytest.mark.parametrize("change", [(b",", b"e"), (b'"', b"x"), (b":", b";"), (b"1", b"9")])
def test_a_damaged_header_of_weights_is_said_to_be_damage(
    mlp: Any, tmp_path: Path, change: tuple[bytes, bytes]
) -> None:
    """With an `e` for a comma the shape `[1,1024]` is `[1e1024]`: more than Python's numbers reach."""
    weights = mlp.weights | {"more": np.zeros((1, 1024), "uint8")}
    path = tmp_path / "damaged.edge"
    rt.write_artifact(path, config=mlp.config, code=mlp.code, weights=weights)
    content = path.read_bytes()
    where = content.index(b"[1,1024]")
    damaged = content[where:].replace(*change, 1)
    path.write_bytes(content[:where] + damaged)
    with pytest.raises(
        rt.ArtifactError, match=re.escape(f"{path}: weights.safetensors was altered (its digest differs)")
    ):
        rt.load(path)
    with pytest.raises(rt.ArtifactError, match=re.escape(f"{path}: the artifact's weights are malformed")):
        rt.Artifact.open(path).weights()


def test_weights_are_used_where_the_file_is_mapped(mlp: Any, tmp_path: Path) -> None:
    """What TVM computes with lies at the addresses of the file's mapping, and its pages stay the file's
    own.
    """
    path = mlp.write(tmp_path / "a.edge")
    with rt.load(path) as model:
        model.run({"x": np.ones((1, 32), "float32")})
        mapped = [
            [int(end, 16) for end in line.split()[0].split("-")]
            for line in Path("/proc/self/maps").read_text().splitlines()
            if line.endswith(str(path))
        ]
        assert model._first.engine is not None
        for tensor in model._first.engine.weights:
            assert any(low <= tensor.data_ptr() < high for low, high in mapped)
        assert private_bytes(path) == 0


def private_bytes(path: Path) -> int:
    """Bytes of the file's mapping that this process has a copy of for itself."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path))
        elif inside and line.startswith("Private_Dirty:"):
            total += 1024 * int(line.split()[1])
    return total
