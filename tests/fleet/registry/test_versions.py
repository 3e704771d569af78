"""Versions of models never change; tags move, and what is needed stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgec.fleet.client.push import Pushed, VersionTaken, push_artifact
from edgec.fleet.errors import RefusedByServer
from edgec.runtime.artifact.config import ArtifactConfig, TensorSpec
from edgec.runtime.artifact.writer import write_artifact
from tests.fleet.servers import FleetServer, wait_for
from tests.fleet.sim_device import SimDevice

pytestmark = pytest.mark.backends("embedded", "external")
Make = Callable[..., SimDevice]


@pytest.fixture
def push(server: FleetServer, tmp_path: Path) -> Callable[..., Pushed]:
    """Pushes an artifact whose weights depend on `seed`."""

    def put(name: str, version: str | None = "1", seed: int = 0, *, following: bool = False) -> Pushed:
        path = tmp_path / f"{name}-{version}-{seed}.edge"
        tensor = TensorSpec(name="x", safe_name="x", shape=(1,), dtype="float32")
        config = ArtifactConfig(
            name=name,
            version=version or "0",
            target="x86-64-v3",
            arch="x86_64",
            inputs=(tensor,),
            outputs=(tensor,),
        )
        weights = {"w": np.full(4, seed, np.float32)}
        write_artifact(path, config=config, code=b"\x7fELF", weights=weights, evidence={})
        with server.client() as client:
            return push_artifact(client, path, None, None, lambda *_: None, following=following)

    return put


def test_a_version_stays_what_it_is(server: FleetServer, push: Callable[..., Pushed]) -> None:
    first = push("fixed", "2")
    assert not first.known
    again = push("fixed", "2")
    assert (again.known, again.digest, again.sent_bytes) == (True, first.digest, 0)
    with pytest.raises(VersionTaken, match=r"fixed:2 for x86-64-v3 is another artifact.*--next"):
        push("fixed", "2", seed=1)
    with server.client() as client:
        [artifact] = client.get("/models/fixed")["artifacts"]
    assert artifact["digest"] == first.digest


def test_the_server_refuses_a_push_that_does_not_ask_first(
    server: FleetServer, push: Callable[..., Pushed], monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = push("rude", "1").digest
    monkeypatch.setattr("edgec.fleet.client.push._digest_of_tag", lambda *_: None)
    with pytest.raises(VersionTaken, match=f"DENIED: rude:1 for x86-64-v3 is {digest}"):
        push("rude", "1", seed=1)
    with server.client() as client:
        held = client.send("HEAD", "/v2/models/rude/manifests/1-x86-64-v3").headers["docker-content-digest"]
    assert held == digest, "the tag of the version has not moved either"


def test_next_gives_the_following_number(push: Callable[..., Pushed]) -> None:
    assert push("grows", following=True).version == "1"
    assert push("grows", seed=1, following=True).version == "2"
    push("grows", "7.4")
    assert push("grows", seed=2, following=True).version == "8"


def test_a_deleted_version_is_not_given_again(server: FleetServer, push: Callable[..., Pushed]) -> None:
    digest = push("gone", "1").digest
    with server.client() as client:
        client.delete("/models/gone/1")
        with pytest.raises(VersionTaken, match="deleted sha256"):
            push("gone", "1", seed=1)
        assert push("gone", seed=1, following=True).version == "2"
        assert push("gone", "1").digest == digest, "the very same artifact may come back"


def test_tags_move_and_keep_their_history(server: FleetServer, push: Callable[..., Pushed]) -> None:
    push("tagged", "1")
    push("tagged", "2", seed=1)
    with server.client() as client:
        client.put("/models/tagged/tags/canary", {"version": "2"})
        client.put("/models/tagged/tags/stable", {"version": "1"})
        client.put("/models/tagged/tags/stable", {"version": "canary"})
        client.put("/models/tagged/tags/stable", {"version": "2"})
        shown = client.get("/models/tagged/tags")
        assert shown["tags"] == {"stable": "2", "canary": "2"}
        moves = [(one["tag"], one["previous"], one["version"]) for one in shown["history"]]
        assert moves == [("stable", "1", "2"), ("stable", "", "1"), ("canary", "", "2")]
        client.delete("/models/tagged/tags/canary")
        shown = client.get("/models/tagged/tags")
        assert (shown["tags"], shown["history"][0]["version"]) == ({"stable": "2"}, "")
        for tag, version, match in (
            ("x", "9", "No such version"),
            ("1", "2", "Is a version"),
            ("a b", "2", "Bad tag"),
        ):
            with pytest.raises(RefusedByServer, match=match):
                client.put(f"/models/tagged/tags/{tag}", {"version": version})
        with pytest.raises(VersionTaken, match="stable is a tag of tagged"):
            push("tagged", "stable", seed=3)


def test_what_is_needed_is_not_deleted(
    server: FleetServer, device: Make, push: Callable[..., Pushed]
) -> None:
    for number in (1, 2, 3):
        push("kept", str(number), seed=number)
    camera = device("kept-cam")
    with server.client() as client:

        def deploy(version: str, **plan: object) -> int:
            scope = {"kind": "device", "name": "kept-cam"}
            body = {"model": "kept", "version": version, "scope": scope, "plan": plan}
            return int(client.post("/rollouts", body)["id"])

        def refused(version: str) -> str:
            with pytest.raises(RefusedByServer) as caught:
                client.delete(f"/models/kept/{version}")
            return str(caught.value)

        client.put("/models/kept/tags/stable", {"version": "1"})
        number = deploy("stable")
        wait_for(lambda: client.get(f"/rollouts/{number}")["ended"])
        assert camera.running["version"] == "1", "a tag stands for the version that it names"
        wait_for(lambda: [one["version"] for one in client.get("/devices/kept-cam")["models"]] == ["1"])
        assert "kept-cam runs it; the tag stable names it" in refused("1")
        held = deploy("2", stages=[{"percent": 100, "approval": True}])
        assert f"rollout {held} is for it" in refused("2")
        assert f"rollout {held} takes devices back to it" in refused("1")
        digest = client.get("/models/kept")["artifacts"][-1]["digest"]
        with pytest.raises(RefusedByServer, match="kept-cam runs it"):
            client.send("DELETE", f"/v2/models/kept/manifests/{digest}")
        client.delete("/models/kept/3")
        client.post(f"/rollouts/{held}/abort")
        wait_for(lambda: client.get(f"/rollouts/{held}")["ended"])
        client.delete("/models/kept/2")
