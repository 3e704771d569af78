"""The artifact's file: the same bytes each time, every altered byte noticed, weights where a device maps
them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import edgec.runtime as rt
from edgec.runtime.artifact import oci
from edgec.runtime.artifact.reader import Artifact

CARD = msgspec.convert(
    {
        "input": {"kind": "image", "width": 8, "height": 8},
        "output": {"decoder": "classification"},
        "labels": ["cat", "dög"],
    },
    rt.ModelCard,
)


def config(**changes: Any) -> rt.ArtifactConfig:
    one = rt.TensorSpec(name="x", safe_name="x", shape=(1, 3), dtype="float32")
    fields: dict[str, Any] = {
        "name": "m",
        "target": "rpi5",
        "arch": "aarch64",
        "inputs": (one,),
        "outputs": (one,),
    }
    return rt.ArtifactConfig(**fields | {"weights": ("w", "b"), "pipeline": CARD} | changes)


def write(path: Path, **changes: Any) -> str:
    weights = {"w": np.arange(70, dtype=np.float32).reshape(7, 10), "b": np.ones(3, np.int8)}
    return rt.write_artifact(
        path, config=config(**changes), code=b"\x7fELF code", weights=weights, evidence={"error": 1e-7}
    )


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a.edge") == write(tmp_path / "b.edge")
    assert (tmp_path / "a.edge").read_bytes() == (tmp_path / "b.edge").read_bytes()
    assert write(tmp_path / "c.edge", version="2") != write(tmp_path / "a.edge")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    digest = write(tmp_path / "a.edge")
    artifact = Artifact.open(tmp_path / "a.edge", digest=digest)
    artifact.verify_digests()
    assert artifact.manifest_digest == digest
    assert artifact.labels() == ("cat", "dög")
    assert artifact.card() == CARD
    assert artifact.config.pipeline is not None
    assert artifact.config.pipeline.labels == ()
    assert artifact.evidence() == {"error": 1e-7}
    assert artifact.code() == b"\x7fELF code"
    np.testing.assert_array_equal(
        artifact.weights()["w"].array, np.arange(70, dtype=np.float32).reshape(7, 10)
    )


def test_any_tar_and_oci_tool_finds_its_way(tmp_path: Path) -> None:
    digest = write(tmp_path / "a.edge")
    (tmp_path / "layout").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "a.edge", "-C", tmp_path / "layout"], check=True)
    index = json.loads((tmp_path / "layout" / "index.json").read_bytes())
    assert json.loads((tmp_path / "layout" / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert [entry["digest"] for entry in index["manifests"]] == [digest]
    Artifact.open(tmp_path / "layout").verify_digests()


def test_weights_are_plain_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    write(tmp_path / "a.edge")
    artifact = Artifact.open(tmp_path / "a.edge")
    layer = artifact.layer(oci.WEIGHTS_TYPE)
    assert layer is not None
    tensors = safetensors.load(artifact.read(layer))
    assert {name for name in tensors if not name.startswith("__")} == {"w", "b"}


@settings(max_examples=40, deadline=None)
@given(
    arrays=st.dictionaries(
        st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=1).filter(
            lambda s: not s.startswith("__")
        ),
        hnp.arrays(
            st.sampled_from([np.dtype(kind) for kind in ("f4", "f2", "i1", "u1", "i4", "i8", "?")]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
        ),
        max_size=5,
    )
)
def test_weights_of_any_shape_and_name_come_back_on_their_boundary(
    arrays: dict[str, Any], tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.mktemp("w") / "a.edge"
    rt.write_artifact(path, config=config(), code=b"x", weights=arrays)
    found = Artifact.open(path).weights()
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].array.tobytes() == array.tobytes()
        assert found[name].array.shape == array.shape
        assert found[name].array.ctypes.data % 64 == 0


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("flip") / "a.edge"
    write(path)
    return path.read_bytes()


def refused(path: Path) -> None:
    with pytest.raises(rt.ArtifactError):
        Artifact.open(path).verify_digests()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_byte_changed_anywhere_is_noticed(data: Any, content: bytes, tmp_path_factory: Any) -> None:
    where = data.draw(st.integers(0, len(content) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda new: new != content[where]))
    path = tmp_path_factory.getbasetemp() / "changed.edge"
    path.write_bytes(content[:where] + bytes([value]) + content[where + 1 :])
    refused(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_cut_and_any_addition_is_noticed(data: Any, content: bytes, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.edge"
    where = data.draw(st.integers(0, len(content) - 1))
    path.write_bytes(content[:where])
    refused(path)
    path.write_bytes(content + data.draw(st.binary(min_size=1, max_size=600)))
    refused(path)


@settings(max_examples=200, deadline=None)
@given(noise=st.binary(max_size=3000))
def test_noise_is_no_artifact(noise: bytes, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.edge"
    path.write_bytes(noise)
    refused(path)


@pytest.mark.parametrize("noise", [b"\x7fELF", b"PK\x03\x04", b"", b"\0" * 1024, b"\0" * 5000])
def test_other_files_are_refused_with_their_path(noise: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.edge"
    path.write_bytes(noise)
    with pytest.raises(rt.ArtifactError, match=r"other\.edge"):
        Artifact.open(path)


def test_a_missing_file_and_a_folder_without_index_are_refused(tmp_path: Path) -> None:
    with pytest.raises(rt.ArtifactError, match="No such file"):
        Artifact.open(tmp_path / "nothing.edge")
    with pytest.raises(rt.ArtifactError, match="no OCI image layout"):
        Artifact.open(tmp_path)


def test_another_format_version_says_what_to_do(tmp_path: Path) -> None:
    write(tmp_path / "a.edge", format_version=2)
    with pytest.raises(rt.ArtifactError, match="format version 2, this edgec reads version 1; update edgec"):
        Artifact.open(tmp_path / "a.edge")


def test_fields_of_a_later_writer_are_ignored(tmp_path: Path) -> None:
    content = msgspec.to_builtins(config()) | {"later": {"field": 1}}
    assert msgspec.convert(content, rt.ArtifactConfig) == config()


def test_a_layout_folder_holds_several_and_gives_the_same_bytes_back(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.edge"), write(tmp_path / "b.edge", version="2")
    folder = tmp_path / "layout"
    assert rt.unpack_to_layout(tmp_path / "a.edge", folder) == first
    assert rt.unpack_to_layout(tmp_path / "b.edge", folder) == second
    assert rt.unpack_to_layout(tmp_path / "a.edge", folder) == first
    with pytest.raises(rt.ArtifactError, match="holds 2 artifacts; name one by its digest"):
        Artifact.open(folder)
    assert Artifact.open(folder, digest=second).config.version == "2"
    # Two versions of one model share their code and weights.
    assert len(list((folder / "blobs" / "sha256").iterdir())) == 8
    rt.pack_from_layout(folder, first, tmp_path / "again.edge")
    assert (tmp_path / "again.edge").read_bytes() == (tmp_path / "a.edge").read_bytes()


def test_a_damaged_blob_of_a_layout_is_noticed_and_nothing_is_written(tmp_path: Path) -> None:
    digest = write(tmp_path / "a.edge")
    rt.unpack_to_layout(tmp_path / "a.edge", tmp_path / "layout")
    artifact = Artifact.open(tmp_path / "layout", digest=digest)
    code = artifact.layer(oci.CODE_TYPE)
    assert code is not None
    blob = tmp_path / "layout" / oci.blob_path(code.digest)
    blob.write_bytes(b"\x7fELF evil")
    with pytest.raises(rt.ArtifactError, match=r"model\.so was altered"):
        rt.pack_from_layout(tmp_path / "layout", digest, tmp_path / "again.edge")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.edge", "layout"]
    blob.unlink()
    with pytest.raises(rt.ArtifactError, match="is missing"):
        Artifact.open(tmp_path / "layout", digest=digest).verify_digests()


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    write(tmp_path / "a.edge")
    before = (tmp_path / "a.edge").read_bytes()
    script = (
        "import resource, sys, numpy as np, edgec.runtime as rt\n"
        "from edgec.runtime.artifact.reader import Artifact\n"
        "config = Artifact.open(sys.argv[1]).config\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "rt.write_artifact(sys.argv[1], config=config, code=b'x', weights={'w': np.zeros(100_000)})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.edge")], capture_output=True, text=True, check=False
    )
    assert "File too large" in done.stderr
    assert (tmp_path / "a.edge").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.edge"]
