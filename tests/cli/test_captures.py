"""`edgec captures`, from a device's upload to a data set."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.cli.conftest import Operator
from tests.fleet.captures.test_captures import jpeg, meta, send
from tests.fleet.servers import FleetServer


@pytest.fixture(scope="module")
def taken(fleet: FleetServer) -> list[int]:
    """Numbers of four captures of the device `taker`."""
    token = fleet.enroll("taker")["registry"]["token"]
    return [send(fleet, token, meta("taker"), jpeg(seed=n)).json()["id"] for n in range(4)]


def test_captures_are_listed_by_what_they_are(operator: Operator, taken: list[int]) -> None:
    listed = json.loads(operator("captures", "list", "--device", "taker", "--json"))
    assert {row["id"] for row in listed["items"]} == set(taken)
    assert listed["usage"]["bytes"] > 0
    assert not json.loads(
        operator("captures", "list", "--device", "taker", "--state", "discarded", "--json")
    )["items"]
    assert (
        len(json.loads(operator("captures", "list", "--device", "taker", "--limit", "2", "--json"))["items"])
        == 2
    )
    assert json.loads(operator("samples", "list", "--device", "taker", "--json")) == listed


def test_reviewed_captures_are_exported(operator: Operator, taken: list[int], tmp_path: Path) -> None:
    first, second, third, fourth = taken
    assert "2 confirmed" in operator("captures", "confirm", first, second)
    operator("captures", "correct", third, "cat=1,2,30,40", "outdoors")
    operator("captures", "discard", fourth)
    operator("captures", "export", tmp_path / "set.zip", "--device", "taker", "--val-percent", "0")
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        assert archive.testzip() is None
        found = json.loads(archive.read("annotations/instances_train.json"))
        assert {image["id"] for image in found["images"]} == {first, second, third}
        assert {one["name"] for one in found["categories"]} >= {"cat", "outdoors", "person"}
        cat = next(one for one in found["annotations"] if one["bbox"] == [1, 2, 29, 38])
        assert cat["image_id"] == third
    assert operator("captures", "export", tmp_path / "x.zip", "--device", "nobody", status=4)
    assert not (tmp_path / "x.zip").exists()


def test_boxes_that_are_none_are_refused(operator: Operator, taken: list[int]) -> None:
    assert "a box is four numbers" in operator("captures", "correct", taken[0], "cat=1,2", status=2)
