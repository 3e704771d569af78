"""Samples for retraining, from a device's request to a data set."""

from __future__ import annotations

import contextlib
import io
import json
import uuid
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.fleet.captures.export import FORMATS, Item, export_zip, folder_names
from edgec.fleet.captures.jpeg import jpeg_size
from edgec.protocol.captures import MAX_CAPTURE_BYTES, CaptureMeta, CaptureReason, Prediction
from tests.fleet.servers import FleetServer


def jpeg(width: int = 64, height: int = 48, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return bytes(cv2.imencode(".jpg", pixels)[1].tobytes())


def meta(device: str, **changes: Any) -> CaptureMeta:
    found = [
        Prediction(label="person", class_id=0, score=0.42, box=(4, 6, 20, 40)),
        Prediction(label="a/../b", class_id=1, score=0.4, box=(30, 6, 60, 30)),
    ]
    fields = {"id": uuid.uuid4().hex, "device": device, "stream": "gate", "model": "detector", "version": "3"}
    fields |= {"time": datetime.now(UTC), "reason": CaptureReason.LOW_CONFIDENCE, "predictions": found}
    return CaptureMeta.model_validate(fields | {"width": 64, "height": 48} | changes)


def send(server: FleetServer, token: str, what: CaptureMeta, image: bytes) -> httpx.Response:
    files = {"meta": (None, what.encode(), "application/json"), "image": ("a.jpg", image, "image/jpeg")}
    return httpx.post(
        f"{server.url}/api/v1/captures", files=files, headers={"Authorization": f"Bearer {token}"}
    )


def test_a_sample_arrives_once_and_belongs_to_its_device(server: FleetServer) -> None:
    token = server.enroll("sampler-1")["registry"]["token"]
    other = server.enroll("sampler-2")["registry"]["token"]
    first = meta("sampler-1")
    answer = send(server, token, first, jpeg())
    assert answer.status_code == 201, answer.text
    assert send(server, token, first, jpeg()).status_code == 200, "a repeat is known"
    assert send(server, other, meta("sampler-1"), jpeg()).status_code == 403, "another device's name"
    assert send(server, server.token, meta("sampler-1"), jpeg()).status_code == 403, (
        "an operator is no device"
    )
    assert send(server, "wrong", meta("sampler-1"), jpeg()).status_code == 401
    with server.client() as client:
        rows = list(client.pages("/captures", device="sampler-1", limit=1))
        assert [row["predictions"][0]["label"] for row in rows] == ["person"]
        picture = client.send("GET", f"/api/v1/captures/{rows[0]['id']}/image")
        assert picture.content == jpeg()
        assert picture.headers["content-type"] == "image/jpeg"


@pytest.mark.parametrize(
    ("image", "changes", "status"),
    [
        (b"<svg onload=alert(1)>", {}, 422),
        (jpeg()[:20], {}, 422),
        (jpeg(32, 32), {}, 422),
        (jpeg() + b"\0" * MAX_CAPTURE_BYTES, {}, 413),
    ],
)
def test_what_is_no_such_picture_is_refused(
    server: FleetServer, image: bytes, changes: dict[str, Any], status: int
) -> None:
    name = f"refused-{uuid.uuid4().hex[:8]}"
    token = server.enroll(name)["registry"]["token"]
    answer = send(server, token, meta(name, **changes), image)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_full_quota_asks_the_device_to_wait_and_discarding_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEC_FLEET_CAPTURES_DEVICE_QUOTA", str(int(len(jpeg()) * 1.5)))
    own = FleetServer(tmp_path / "data").start()
    try:
        token = own.enroll("full")["registry"]["token"]
        number = send(own, token, meta("full"), jpeg()).json()["id"]
        assert send(own, token, meta("full"), jpeg(seed=1)).status_code == 507
        with own.client() as client:
            client.send("PATCH", f"/api/v1/captures/{number}", json={"state": "discarded"})
            assert client.get("/captures/usage")["bytes"] == 0
        assert httpx.get(f"{own.url}/api/v1/captures/{number}/image", headers=_auth(own)).status_code == 410
        assert not list((tmp_path / "data" / "captures" / "blobs").rglob("sha256/*/*")), "the picture is gone"
        assert send(own, token, meta("full"), jpeg(seed=1)).status_code == 201
        with own.client() as client:
            client.delete("/devices/full")
        assert not list((tmp_path / "data" / "captures" / "blobs").rglob("sha256/*/*")), (
            "pictures go with the device"
        )
    finally:
        assert own.stop() == 0


def _auth(server: FleetServer) -> dict[str, str]:
    return {"Authorization": f"Bearer {server.token}"}


def test_a_correction_stays_within_the_picture_and_is_exported(server: FleetServer) -> None:
    token = server.enroll("reviewed")["registry"]["token"]
    number = send(server, token, meta("reviewed"), jpeg()).json()["id"]

    def correct(*annotations: dict[str, Any]) -> httpx.Response:
        body = {"state": "corrected", "annotations": list(annotations)}
        return httpx.patch(f"{server.url}/api/v1/captures/{number}", json=body, headers=_auth(server))

    assert "reaches beyond 64×48" in correct({"label": "cat", "box": [0, 0, 65, 4]}).json()["detail"]
    assert correct({"label": "cat", "box": [1, 2, 30, 40]}, {"label": "outdoors"}).status_code == 200
    query = {"device": "reviewed", "val_percent": "0"}
    answer = httpx.get(f"{server.url}/api/v1/captures/export", params=query, headers=_auth(server))
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        found = json.loads(archive.read("annotations/instances_train.json"))
        assert sorted(one["name"] for one in found["categories"]) == ["cat", "outdoors"]
        [image] = found["images"]
        boxes = {tuple(one["bbox"]) for one in found["annotations"]}
        assert boxes == {(1, 2, 29, 38), (0, 0, 64, 48)}, (
            "a label without a box is a box of the whole picture"
        )
        assert archive.read(f"train/{image['file_name']}")[:2] == b"\xff\xd8"


LABEL = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12)
BOX = st.none() | st.tuples(*[st.floats(-50, 500)] * 4)


@given(st.lists(st.tuples(LABEL, BOX), max_size=5), st.sampled_from(FORMATS), st.integers(0, 90))
def test_no_label_or_box_breaks_an_export(found: list[Any], kind: Any, val_percent: int) -> None:
    items = [Item(number, 64, 48, found, lambda: b"\xff\xd8x") for number in (1, 2, 3)]
    with zipfile.ZipFile(io.BytesIO(b"".join(export_zip(items, kind, val_percent)))) as archive:
        assert archive.testzip() is None
        for name in archive.namelist():
            parts = name.split("/")
            assert ".." not in parts
            assert all(part and not part.startswith(".") for part in parts), name
        if kind == "yolo":
            text = "".join(archive.read(n).decode() for n in archive.namelist() if n.startswith("labels/"))
            numbers = [float(x) for line in text.splitlines() for x in line.split()[1:]]
            assert all(0 <= x <= 1 for x in numbers)
            assert len(text.splitlines()) == 3 * len(found)


@given(st.lists(LABEL, max_size=8))
def test_folders_of_classes_are_different_and_tame(labels: list[str]) -> None:
    names = folder_names(labels)
    assert len({name.lower() for name in names.values()}) == len(set(labels))
    assert all(name.isascii() and "/" not in name and name.strip(".") for name in names.values())


@given(st.binary(max_size=200))
def test_bytes_that_are_no_jpeg_have_no_size_or_a_possible_one(data: bytes) -> None:
    for content in (data, b"\xff\xd8" + data):
        with contextlib.suppress(ValueError):
            assert all(0 <= side < 65536 for side in jpeg_size(content))
