"""Blobs in a store that speaks S3: uploads that any process goes on with, links, what a crash leaves behind."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgec.fleet.errors import FleetError
from edgec.fleet.registry.blobs import DigestMismatch, OffsetMismatch, UnknownUpload
from edgec.fleet.registry.s3 import PART, BlobBucket
from tests.fleet.servers import Backend, FleetServer, ObjectStore

BIG = PART + (PART >> 1)
NAME = "objects/one"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture
def bucket(objects: ObjectStore, request: pytest.FixtureRequest) -> BlobBucket:
    return BlobBucket(objects.client(), objects.BUCKET, request.node.name)


@pytest.fixture
def server_with(objects: ObjectStore, tmp_path: Path) -> Iterator[Callable[..., FleetServer]]:
    made: list[FleetServer] = []

    def make(name: str, **environment: str) -> FleetServer:
        folder = tmp_path / f"server-{len(made)}"
        folder.mkdir()
        backend = Backend(objects=objects)
        made.append(FleetServer(folder / "data", backend=backend, **environment))
        return made[-1].start()

    yield make
    for server in made:
        server.stop()


def http(server: FleetServer) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.token}"}, timeout=60)


def test_an_upload_goes_on_in_another_process(
    objects: ObjectStore, server_with: Callable[..., FleetServer], tmp_path: Path
) -> None:
    """Two servers share a database and a bucket, and nothing else."""
    shared = {
        "EDGEC_FLEET_DATABASE": f"sqlite:///{tmp_path / 'shared.db'}",
        "EDGEC_FLEET_BLOBS": f"s3://{objects.BUCKET}/two",
    }
    one, two = server_with("one", **shared), server_with("two", **shared)
    content = os.urandom(2 * PART + 12_345)
    cut = PART + 777
    with http(one) as first:
        place = first.post(f"/v2/{NAME}/blobs/uploads/").headers["location"]
        answer = first.patch(place, content=content[:cut], headers={"Content-Range": f"0-{cut - 1}"})
        assert (answer.status_code, answer.headers["range"]) == (202, f"0-{cut - 1}")
    one.kill()
    assert len(objects.keys("two/uploads/")) == 2, "its id and what is too little for a part"
    digest = digest_of(content)
    second = httpx.Client(base_url=two.url, headers={"Authorization": f"Bearer {one.token}"}, timeout=60)
    with second:
        assert second.get(place).headers["range"] == f"0-{cut - 1}"
        wrong = second.patch(place, content=b"x", headers={"Content-Range": "5-5"})
        assert (wrong.status_code, wrong.headers["range"]) == (416, f"0-{cut - 1}")
        done = second.put(place, params={"digest": digest}, content=content[cut:])
        assert done.status_code == 201, done.text
        address = f"/v2/{NAME}/blobs/{digest}"
        assert second.get(address).content == content
        part = second.get(address, headers={"Range": f"bytes={PART - 3}-{PART + 3}"})
        assert (part.status_code, part.content) == (206, content[PART - 3 : PART + 4])
        assert part.headers["content-range"] == f"bytes {PART - 3}-{PART + 3}/{len(content)}"
        assert second.get(address, headers={"Range": "bytes=-5"}).content == content[-5:]
        resumed = {"Range": "bytes=100-", "If-Range": f'"{digest}"'}
        assert second.get(address, headers=resumed).content == content[100:]
        other = {"Range": "bytes=100-", "If-Range": '"something else"'}
        assert second.get(address, headers=other).content == content, "a range of something else is no use"
        beyond = second.get(address, headers={"Range": f"bytes={len(content)}-"})
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(content)}")
        head = second.head(address)
        assert int(head.headers["content-length"]) == len(content)
    assert objects.keys("two/uploads/") == []
    assert not list((two.data / "blobs").rglob("*")), "nothing lies in the data folder"


def test_a_link_to_the_store_needs_no_token(server_with: Callable[..., FleetServer]) -> None:
    server = server_with("links", EDGEC_FLEET_S3_REDIRECT="true")
    content = os.urandom(5000)
    with http(server) as client:
        digest = digest_of(content)
        uploads = f"/v2/{NAME}/blobs/uploads/"
        assert client.post(uploads, params={"digest": digest}, content=content).status_code == 201
        answer = client.get(f"/v2/{NAME}/blobs/{digest}")
        assert answer.status_code == 307
        link = answer.headers["location"]
        assert httpx.get(link).content == content
        assert client.head(f"/v2/{NAME}/blobs/{digest}").headers["content-length"] == "5000"
        ranged = client.get(
            f"/v2/{NAME}/blobs/{digest}", headers={"Range": "bytes=10-19"}, follow_redirects=True
        )
        assert (ranged.status_code, ranged.content) == (206, content[10:20])
        assert httpx.get(f"{server.url}/v2/{NAME}/blobs/{digest}").status_code == 401


def test_a_store_that_is_away_is_said_so(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path).start()
    server = FleetServer(tmp_path / "data", backend=Backend(objects=store)).start()
    with http(server) as client:
        digest = digest_of(b"kept")
        client.post(
            f"/v2/{NAME}/blobs/uploads/", params={"digest": digest}, content=b"kept"
        ).raise_for_status()
        assert client.get("/readyz").json()["blobs"] == "ok"
        store.stop()
        answer = client.get(f"/v2/{NAME}/blobs/{digest}")
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (503, "UNAVAILABLE")
        assert client.post(f"/v2/{NAME}/blobs/uploads/").status_code == 503
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["blobs"]) == (503, "unreachable")
        assert client.get("/api/v1/overview").status_code == 200, "the rest goes on"
    assert server.stop() == 0


def test_a_bucket_that_is_not_there_is_said_at_the_start(objects: ObjectStore, monkeypatch: Any) -> None:
    for name, value in objects.settings("x").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(FleetError, match="s3://nowhere"):
        BlobBucket.open("s3://nowhere", objects.url, redirect=False)


def test_a_crash_between_parts_loses_no_acknowledged_byte(bucket: BlobBucket) -> None:
    """The tail was acknowledged; then a part that contains it was sent, and the process died before saying so."""
    content = os.urandom(BIG)
    name = bucket.start_upload()
    with pytest.raises(UnknownUpload):
        bucket.upload_size("0" * 32)
    first = bucket.open_upload(name, 0)
    first.write(content[:1000])
    first.close()
    assert bucket.upload_size(name) == 1000
    died = bucket.open_upload(name, 1000)
    died.write(content[1000:])
    assert bucket.upload_size(name) == PART, "the whole part counts, the bytes behind it were never kept"
    with pytest.raises(OffsetMismatch):
        bucket.open_upload(name, 1000)
    last = bucket.open_upload(name, PART)
    last.write(content[PART:])
    last.close()
    assert bucket.finish_upload(name, digest_of(content)).size == BIG
    assert bucket.read(digest_of(content)) == content


def test_a_crash_before_the_name_is_given_can_be_finished(bucket: BlobBucket) -> None:
    content = os.urandom(BIG)
    name = bucket.start_upload()
    writer = bucket.open_upload(name, None)
    writer.write(content)
    writer.close()
    bucket._put_together(name, bucket._progress(name))
    assert bucket.upload_size(name) == BIG
    assert bucket.finish_upload(name, digest_of(content)).size == BIG
    assert bucket.read(digest_of(content)) == content
    with pytest.raises(UnknownUpload):
        bucket.finish_upload(name, digest_of(content))


@pytest.mark.parametrize("size", [10, BIG])
def test_other_bytes_are_no_blob(bucket: BlobBucket, size: int) -> None:
    name = bucket.start_upload()
    writer = bucket.open_upload(name, None)
    writer.write(b"x" * size)
    writer.close()
    with pytest.raises(DigestMismatch):
        bucket.finish_upload(name, digest_of(b"y"))
    assert bucket.find(digest_of(b"y")) is None
    with pytest.raises(UnknownUpload):
        bucket.upload_size(name)


def test_what_nobody_finishes_is_found_and_removed(bucket: BlobBucket, objects: ObjectStore) -> None:
    names = {bucket.start_upload(), bucket.start_upload()}
    assert bucket.stale_uploads(time.time() - 3600) == []
    stale = bucket.stale_uploads(time.time() + 3600)
    assert set(stale) == names
    for name in stale:
        bucket.cancel_upload(name)
    assert bucket.stale_uploads(time.time() + 3600) == []
    pictures = bucket.within("captures/")
    digest = pictures.put(b"a picture")
    assert bucket.find(digest) is None
    assert list(bucket.digests()) == []
    assert [found for found, _at, _size in pictures.digests()] == [digest]
    pictures.delete(digest)
    assert list(pictures.digests()) == []
    client = objects.client()
    assert "Uploads" not in client.list_multipart_uploads(Bucket=objects.BUCKET, Prefix=bucket._prefix)
