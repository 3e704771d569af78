"""Layout folders hold several artifacts and give the same bytes back."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgec.runtime as rt
from edgec.runtime.artifact import oci
from edgec.runtime.artifact.reader import Artifact
from tests.runtime.artifact.artifacts import write


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
