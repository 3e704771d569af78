"""The OCI distribution specification 1.1, clause by clause, against a running server."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from edgec.fleet.client.connection import FleetClient
from edgec.fleet.client.push import push_artifact
from edgec.fleet.errors import RefusedByServer
from edgec.fleet.registry.manifests import OCI_INDEX, OCI_MANIFEST
from edgec.runtime.artifact.layout_folder import pack_from_layout
from edgec.runtime.artifact.reader import Artifact
from tests.fleet.artifacts import make_artifact
from tests.fleet.servers import FleetServer

pytestmark = pytest.mark.backends("embedded", "objects")

NAME = "conformance/one"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture
def http(server: FleetServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.token}"}) as client:
        yield client


def put_blob(http: httpx.Client, content: bytes, name: str = NAME) -> str:
    digest = digest_of(content)
    answer = http.post(f"/v2/{name}/blobs/uploads/", params={"digest": digest}, content=content)
    assert answer.status_code == 201, answer.text
    assert answer.headers["docker-content-digest"] == digest
    return digest


def put_manifest(http: httpx.Client, tag: str, seed: str = "x", subject: str = "") -> tuple[str, bytes]:
    config, layer = b"{}", seed.encode() * 10
    descriptors = [
        {"mediaType": "application/vnd.test", "digest": put_blob(http, item), "size": len(item)}
        for item in (config, layer)
    ]
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptors[0],
        "layers": descriptors[1:],
    }
    if subject:
        body |= {
            "subject": {"mediaType": OCI_MANIFEST, "digest": subject, "size": 1},
            "artifactType": "application/x.sig",
        }
    content = json.dumps(body).encode()
    answer = http.put(f"/v2/{NAME}/manifests/{tag}", content=content, headers={"Content-Type": OCI_MANIFEST})
    assert answer.status_code == 201, answer.text
    assert answer.headers.get("oci-subject", "") == subject
    return answer.headers["docker-content-digest"], content


def code(answer: httpx.Response) -> str:
    return str(answer.json()["errors"][0]["code"])


def test_end_1_the_api_is_there_and_wants_a_token(http: httpx.Client, server: FleetServer) -> None:
    assert http.get("/v2/").status_code == 200
    refused = httpx.get(f"{server.url}/v2/")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Basic")
    assert code(refused) == "UNAUTHORIZED"
    assert httpx.get(f"{server.url}/v2/", auth=("anyone", server.token)).status_code == 200


def test_end_2_pull_a_blob_whole_and_in_parts(http: httpx.Client) -> None:
    content = os.urandom(300_000)
    digest = put_blob(http, content)
    address = f"/v2/{NAME}/blobs/{digest}"
    head = http.head(address)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "300000", b"")
    whole = http.get(address)
    assert whole.content == content
    assert whole.headers["etag"] == f'"{digest}"'
    part = http.get(address, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, content[100:200])
    assert part.headers["content-range"] == "bytes 100-199/300000"
    tail = http.get(address, headers={"Range": "bytes=299990-", "If-Range": whole.headers["etag"]})
    assert (tail.status_code, tail.content) == (206, content[-10:])
    assert http.get(address, headers={"Range": "bytes=300000-"}).status_code == 416
    assert http.get(address, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    unknown = http.get(f"/v2/{NAME}/blobs/{digest_of(b'never')}")
    assert (unknown.status_code, code(unknown)) == (404, "BLOB_UNKNOWN")
    assert http.get(f"/v2/another/name/blobs/{digest}").status_code == 404, "not held by that repository"


def test_end_3_pull_a_manifest_by_tag_and_digest(http: httpx.Client) -> None:
    digest, content = put_manifest(http, "v1", "three")
    for reference in ("v1", digest):
        answer = http.get(f"/v2/{NAME}/manifests/{reference}")
        assert (answer.status_code, answer.content) == (200, content)
        assert answer.headers["content-type"] == OCI_MANIFEST
        assert answer.headers["docker-content-digest"] == digest
        head = http.head(f"/v2/{NAME}/manifests/{reference}")
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(content)))
    unknown = http.get(f"/v2/{NAME}/manifests/nope")
    assert (unknown.status_code, code(unknown)) == (404, "MANIFEST_UNKNOWN")


def test_end_4_to_6_upload_in_one_and_two_requests(http: httpx.Client) -> None:
    content = os.urandom(70_000)
    started = http.post(f"/v2/{NAME}/blobs/uploads/")
    assert started.status_code == 202
    answer = http.put(started.headers["location"], params={"digest": digest_of(content)}, content=content)
    assert answer.status_code == 201
    assert http.get(answer.headers["location"]).content == content
    wrong = http.post(f"/v2/{NAME}/blobs/uploads/", params={"digest": digest_of(b"other")}, content=content)
    assert (wrong.status_code, code(wrong)) == (400, "DIGEST_INVALID")
    assert http.head(f"/v2/{NAME}/blobs/{digest_of(b'other')}").status_code == 404


def test_end_5_chunks_must_follow_each_other_and_say_where_they_stand(http: httpx.Client) -> None:
    content = os.urandom(90_000)
    place = http.post(f"/v2/{NAME}/blobs/uploads/").headers["location"]
    first = http.patch(place, content=content[:40_000], headers={"Content-Range": "0-39999"})
    assert (first.status_code, first.headers["range"]) == (202, "0-39999")
    out_of_order = http.patch(place, content=content[50_000:], headers={"Content-Range": "50000-89999"})
    assert (out_of_order.status_code, out_of_order.headers["range"]) == (416, "0-39999")
    status = http.get(place)
    assert (status.status_code, status.headers["range"]) == (204, "0-39999")
    second = http.patch(place, content=content[40_000:], headers={"Content-Range": "40000-89999"})
    assert second.headers["range"] == "0-89999"
    assert http.put(place, params={"digest": digest_of(content)}).status_code == 201
    assert http.get(f"/v2/{NAME}/blobs/{digest_of(content)}").content == content
    gone = http.get(place)
    assert (gone.status_code, code(gone)) == (404, "BLOB_UPLOAD_UNKNOWN")


def test_an_upload_can_be_cancelled(http: httpx.Client) -> None:
    place = http.post(f"/v2/{NAME}/blobs/uploads/").headers["location"]
    assert http.delete(place).status_code == 204
    assert http.delete(place).status_code == 404


def test_end_7_a_manifest_is_checked(http: httpx.Client) -> None:
    missing = {
        "schemaVersion": 2,
        "config": {"mediaType": "x/y", "digest": digest_of(b"no"), "size": 2},
        "layers": [],
    }
    headers = {"Content-Type": OCI_MANIFEST}
    cases = {
        b"{": "MANIFEST_INVALID",
        b"[]": "MANIFEST_INVALID",
        b'{"schemaVersion":1}': "MANIFEST_INVALID",
        b'{"schemaVersion":2}': "MANIFEST_INVALID",
        json.dumps(missing).encode(): "MANIFEST_BLOB_UNKNOWN",
    }
    for content, expected in cases.items():
        answer = http.put(f"/v2/{NAME}/manifests/bad", content=content, headers=headers)
        assert answer.status_code in (400, 404), content
        assert code(answer) == expected, content
    _digest, good = put_manifest(http, "seven", "seven")
    lie = http.put(f"/v2/{NAME}/manifests/{digest_of(b'lie')}", content=good, headers=headers)
    assert (lie.status_code, code(lie)) == (400, "DIGEST_INVALID")
    size = json.loads(good)
    size["config"]["size"] += 1
    wrong = http.put(f"/v2/{NAME}/manifests/bad", content=json.dumps(size), headers=headers)
    assert code(wrong) == "SIZE_INVALID"
    assert http.get(f"/v2/{NAME}/manifests/bad").status_code == 404, "nothing of all this was stored"
    index = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [{"mediaType": OCI_MANIFEST, "digest": _digest, "size": 1}],
    }
    answer = http.put(f"/v2/{NAME}/manifests/all", json=index, headers={"Content-Type": OCI_INDEX})
    assert answer.status_code == 201


def test_end_8_tags_are_listed_in_order_and_in_pages(http: httpx.Client) -> None:
    for tag in ("t-b", "t-a", "t-c"):
        put_manifest(http, tag, "eight")
    tags = [tag for tag in http.get(f"/v2/{NAME}/tags/list").json()["tags"] if tag.startswith("t-")]
    assert tags == ["t-a", "t-b", "t-c"]
    page = http.get(f"/v2/{NAME}/tags/list", params={"n": 1, "last": "t-a"})
    assert page.json()["tags"] == ["t-b"]
    following = page.headers["link"].partition(">")[0].lstrip("<")
    assert http.get(following).json()["tags"] == ["t-c"]
    assert http.get(f"/v2/{NAME}/tags/list", params={"n": 0}).json()["tags"] == []
    assert code(http.get("/v2/never/was/tags/list")) == "NAME_UNKNOWN"


def test_end_9_and_10_delete(http: httpx.Client) -> None:
    digest, content = put_manifest(http, "gone", "nine")
    layer = json.loads(content)["layers"][0]["digest"]
    used = http.delete(f"/v2/{NAME}/blobs/{layer}")
    assert used.status_code == 405
    assert digest in used.text
    assert http.delete(f"/v2/{NAME}/manifests/gone").status_code == 202
    assert http.get(f"/v2/{NAME}/manifests/gone").status_code == 404
    assert http.get(f"/v2/{NAME}/manifests/{digest}").status_code == 200, "only the tag went"
    assert http.delete(f"/v2/{NAME}/manifests/{digest}").status_code == 202
    assert http.delete(f"/v2/{NAME}/manifests/{digest}").status_code == 404
    assert http.delete(f"/v2/{NAME}/blobs/{layer}").status_code == 202
    assert http.get(f"/v2/{NAME}/blobs/{layer}").status_code == 404


def test_end_11_mount_from_another_repository(http: httpx.Client) -> None:
    digest = put_blob(http, b"shared" * 100)
    answer = http.post("/v2/conformance/two/blobs/uploads/", params={"mount": digest, "from": NAME})
    assert answer.status_code == 201
    assert http.get(f"/v2/conformance/two/blobs/{digest}").content == b"shared" * 100
    unknown = http.post("/v2/conformance/two/blobs/uploads/", params={"mount": digest_of(b"?"), "from": NAME})
    assert unknown.status_code == 202, "then it is an ordinary upload"


def test_end_12_referrers(http: httpx.Client) -> None:
    subject, _content = put_manifest(http, "subject", "twelve")
    signature, _content = put_manifest(http, "signature", "sig", subject)
    found = http.get(f"/v2/{NAME}/referrers/{subject}").json()
    assert found["mediaType"] == OCI_INDEX
    assert [item["digest"] for item in found["manifests"]] == [signature]
    none = http.get(f"/v2/{NAME}/referrers/{subject}", params={"artifactType": "application/other"})
    assert none.json()["manifests"] == []
    assert none.headers["oci-filters-applied"] == "artifactType"


@pytest.mark.parametrize(
    "path",
    ["/v2/../etc/passwd/manifests/x", "/v2/UPPER/manifests/x", "/v2/a//b/manifests/x", "/v2/%2e%2e/blobs/x",
     "/v2/x/blobs/sha256:..%2f..%2fadmin-token",
     "/v2/x/blobs/uploads/..%2f..%2ffleet.db", "/v2/x/blobs/md5:00"],
)  # fmt: skip
def test_names_cannot_lead_out_of_the_store(http: httpx.Client, path: str) -> None:
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        answer = http.request(method, path, content=b"x")
        assert answer.status_code in (400, 404, 405), (method, answer.text)
        assert b"root:" not in answer.content


def test_an_artifact_comes_back_bit_for_bit(server: FleetServer, tmp_path: Path, http: httpx.Client) -> None:
    source = tmp_path / "a.edge"
    digest = make_artifact(source, "bits", "2.0")
    with server.client() as client:
        first = push_artifact(client, source, None, None, lambda *_: None)
        assert first.digest == digest
        assert first.sent_bytes == first.size
        assert push_artifact(client, source, None, None, lambda *_: None).sent_bytes == 0
        renamed = push_artifact(client, source, None, "2.1", lambda *_: None)
        assert (renamed.version, renamed.sent_bytes < 20_000) == ("2.1", True), "code and weights are shared"
        shown = client.get("/models/bits")["artifacts"]
        assert [item["version"] for item in shown] == ["2.1", "2.0"]
    folder = tmp_path / "layout"
    manifest = http.get("/v2/models/bits/manifests/2.0-x86-64-v3").content
    (folder / "blobs" / "sha256").mkdir(parents=True)
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (folder / "blobs" / "sha256" / digest[7:]).write_bytes(manifest)
    body = json.loads(manifest)
    for item in (body["config"], *body["layers"]):
        content = http.get(f"/v2/models/bits/blobs/{item['digest']}").content
        (folder / "blobs" / "sha256" / item["digest"][7:]).write_bytes(content)
    back = tmp_path / "b.edge"
    pack_from_layout(folder, digest, back)
    assert back.read_bytes() == source.read_bytes()
    assert Artifact.open(back).manifest_digest == digest


def test_tokens_are_kept_to_their_models_and_roles(server: FleetServer, tmp_path: Path) -> None:
    make_artifact(tmp_path / "a.edge", "allowed")
    make_artifact(tmp_path / "b.edge", "forbidden")
    with server.client() as admin:
        mine = admin.post(
            "/access-tokens", {"name": "ci-allowed", "role": "operator", "models": ["allowed"]}
        )["token"]
        looker = admin.post("/access-tokens", {"name": "looker", "role": "viewer"})["token"]
    with server.client(mine) as client:
        push_artifact(client, tmp_path / "a.edge", None, None, lambda *_: None)
        with pytest.raises(RefusedByServer, match="DENIED"):
            push_artifact(client, tmp_path / "b.edge", None, None, lambda *_: None)
    with server.client(looker) as client, pytest.raises(RefusedByServer, match="DENIED"):
        push_artifact(client, tmp_path / "a.edge", None, "3", lambda *_: None)
    device = server.enroll("registry-reader")
    with FleetClient(server.url, device["registry"]["token"]) as client:
        assert client.send("GET", "/v2/models/allowed/manifests/1-x86-64-v3").status_code == 200
        with pytest.raises(RefusedByServer, match="DENIED"):
            client.send("DELETE", "/v2/models/allowed/manifests/1-x86-64-v3")


def test_garbage_goes_and_what_is_needed_stays(
    server: FleetServer, http: httpx.Client, tmp_path: Path
) -> None:
    path = tmp_path / "keep.edge"
    make_artifact(path, "keep")
    with server.client() as client:
        push_artifact(client, path, None, None, lambda *_: None)
        lost = put_blob(http, os.urandom(50_000), "models/keep")
        http.post("/v2/models/keep/blobs/uploads/")
        assert client.post("/registry/gc")["blobs"] == 0, "young blobs may belong to a push in progress"
        freed = client.post("/registry/gc", grace_s=0)
        assert freed["bytes"] >= 50_000
        assert freed["uploads"] >= 1
        assert http.head(f"/v2/models/keep/blobs/{lost}").status_code == 404
        assert push_artifact(client, path, None, None, lambda *_: None).sent_bytes == 0
        client.delete("/models/keep/1")
        assert client.post("/registry/gc", grace_s=0)["blobs"] > 0
        assert push_artifact(client, path, None, None, lambda *_: None).sent_bytes > 0
