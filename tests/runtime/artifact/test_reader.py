"""What was written is read; any change of any byte is noticed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgec.runtime as rt
from edgec.runtime.artifact.reader import Artifact
from tests.runtime.artifact.artifacts import CARD, config, write


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
    with pytest.raises(rt.ArtifactError, match="not an OCI image layout"):
        Artifact.open(tmp_path)


def test_another_format_version_says_what_to_do(tmp_path: Path) -> None:
    write(tmp_path / "a.edge", format_version=2)
    with pytest.raises(rt.ArtifactError, match="format version 2, this edgec reads version 1; update edgec"):
        Artifact.open(tmp_path / "a.edge")


def test_fields_of_a_later_writer_are_ignored(tmp_path: Path) -> None:
    content = msgspec.to_builtins(config()) | {"later": {"field": 1}}
    assert msgspec.convert(content, rt.ArtifactConfig) == config()
