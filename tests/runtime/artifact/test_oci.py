"""Manifests and the canonical tar: what other tools read, and what is refused."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

import pytest

from edgec.runtime.artifact import oci
from edgec.runtime.artifact.oci import Descriptor, Manifest
from edgec.runtime.errors import ArtifactError

BLOB = Descriptor(oci.CODE_TYPE, oci.digest_of(b"code"), 4, "model.so")
CONFIG = Descriptor(oci.CONFIG_TYPE, oci.digest_of(b"{}"), 2)
MANIFEST = Manifest(CONFIG, (BLOB, BLOB), {oci.REF_NAME: "1-rpi5"})


def tar_of(**files: bytes) -> bytes:
    parts = [
        oci.tar_header(name, len(text)) + text + oci.tar_padding(len(text)) for name, text in files.items()
    ]
    return b"".join(parts) + oci.END_OF_TAR


def test_a_manifest_comes_back_and_counts_equal_blobs_once() -> None:
    assert oci.parse_manifest(MANIFEST.to_bytes()) == MANIFEST
    assert MANIFEST.all_blobs() == (CONFIG, BLOB)
    (entry,) = json.loads(oci.index_bytes(MANIFEST, MANIFEST.to_bytes()))["manifests"]
    assert entry["digest"] == oci.digest_of(MANIFEST.to_bytes())
    assert entry["annotations"] == {oci.REF_NAME: "1-rpi5"}


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"{}",
        b"not JSON",
        MANIFEST.to_bytes().replace(b"edgec.artifact", b"other.artifact"),
        MANIFEST.to_bytes().replace(b"sha256:", b"sha1:"),
        MANIFEST.to_bytes().replace(b'"size":4', b'"size":-4'),
        b"[" * 100_000,
    ],
)
def test_what_is_not_a_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(ArtifactError, match="not the manifest of an edgec artifact"):
        oci.parse_manifest(content)


def test_tar_reads_what_is_written() -> None:
    content = tar_of(first=b"1" * 700, second=b"")
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert [(member.name, member.size, member.mtime) for member in tar] == [
            ("first", 700, 0),
            ("second", 0, 0),
        ]
    index = oci.tar_index(memoryview(content))
    assert {name: content[start : start + size] for name, (start, size) in index.items()} == {
        "first": b"1" * 700, "second": b"",
    }  # fmt: skip


def _with_time(content: bytes) -> bytes:
    """The same tar from a tool that records when a file was changed."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo("first")
        member.size, member.mtime = 3, 1_700_000_000
        tar.addfile(member, io.BytesIO(b"abc"))
    return file.getvalue()


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda tar: tar[:-512], "cut short"),
        (lambda tar: tar + b"\0", "appended"),
        (lambda tar: tar.replace(b"abc\0", b"abc\1"), "between the files"),
        (lambda tar: tar[:-1024] + tar, "not canonical"),
        (_with_time, "not canonical"),
        (lambda tar: b"#!/bin/sh\n" + tar, "not an edgec artifact"),
    ],
)
def test_any_other_tar_is_refused(alter: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        oci.tar_index(memoryview(alter(tar_of(first=b"abc"))))


def test_a_file_beyond_ustar_is_refused_before_it_is_written() -> None:
    with pytest.raises(ValueError, match="8 GiB"):
        oci.tar_header("blob", 8 << 30)
    assert len(oci.tar_header("blob", (8 << 30) - 1)) == oci.BLOCK
