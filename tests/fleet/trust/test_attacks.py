"""The attacks that the TUF specification names, each tried against a device's own client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, MetaFile
from tuf.ngclient.fetcher import FetcherInterface

from edgec.device_agent.errors import TrustError
from edgec.device_agent.updates.tuf_trust import TufTrust
from edgec.fleet.problems import Problem
from edgec.fleet.trust import repository as repo_module
from edgec.fleet.trust.repository import Repository
from edgec.fleet.trust.signing import Signed, first_root, first_targets, next_root, next_targets, sign
from edgec.protocol.jobs import UpdateDocument

GOOD, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
URL = "http://fleet/tuf/metadata"


class Network(FetcherInterface):
    """What the device can reach: the repository's folder, with whatever an attacker puts in between."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.forged: dict[str, Callable[[], Iterator[bytes]]] = {}
        self.fetched: dict[str, int] = {}

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rpartition("/")[2]
        if name in self.forged:
            for chunk in self.forged[name]():
                self.fetched[name] = self.fetched.get(name, 0) + len(chunk)
                yield chunk
            return
        path = self.folder / name
        if not path.is_file():
            raise DownloadHTTPError("not there", 404)
        yield path.read_bytes()

    def serve(self, name: str, content: bytes) -> None:
        self.forged[name] = lambda: iter([content])


class World:
    """A repository with one signed version, its keys, and a device that enrolled."""

    def __init__(self, tmp_path: Path, roots: int = 1, threshold: int = 1) -> None:
        self.path = tmp_path
        self.repository = Repository(tmp_path / "server")
        self.roots = [CryptoSigner.generate_ed25519() for _ in range(roots)]
        self.targets = [CryptoSigner.generate_ed25519()]
        self.root = first_root(self.roots, self.targets, self.repository.online_key(), threshold=threshold)
        self.metadata = first_targets(self.targets)
        self.repository.publish(self.root.to_bytes(), self.metadata.to_bytes())
        self.sign("1", GOOD)
        self.folder = tmp_path / "server" / "metadata"
        self.network = Network(self.folder)
        self.device = self.new_client()

    def new_client(self) -> TufTrust:
        return TufTrust(self.path / "device", URL, self.root.to_bytes(), "rpi5", self.network)

    def sign(self, version: str, digest: str) -> None:
        item = Signed("detector", version, "rpi5", digest, 1000)
        self.metadata = next_targets(self.metadata, self.targets, add=[item])
        self.repository.publish(None, self.metadata.to_bytes())

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}

    def restore(self, files: dict[str, bytes]) -> None:
        for path in self.folder.iterdir():
            path.unlink()
        for name, content in files.items():
            (self.folder / name).write_bytes(content)

    def online(self) -> CryptoSigner:
        return self.repository._signer()


def job(version: str = "1", digest: str = GOOD) -> UpdateDocument:
    return UpdateDocument(
        model="detector", version=version, manifest_digest=digest, registry="http://fleet",
        repository="models/detector", target="rpi5", trust={"path": f"models/detector/{version}/rpi5"},
    )  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.device.check(job())
    return made


def test_what_is_signed_is_accepted_and_nothing_else(world: World) -> None:
    with pytest.raises(TrustError, match="another digest"):
        world.device.check(job(digest=OTHER))
    with pytest.raises(TrustError, match="is not signed"):
        world.device.check(job(version="2"))
    with pytest.raises(TrustError, match="not signed"):
        world.device.check(job().model_copy(update={"trust": {}}))
    renamed = job().model_copy(update={"version": "9", "trust": {"path": "models/detector/1/rpi5"}})
    with pytest.raises(TrustError, match="signed as detector:1"):
        world.device.check(renamed)
    with pytest.raises(TrustError, match="this device is rpi5"):
        world.device.check(job().model_copy(update={"target": "x86-64-v3"}))


def test_arbitrary_software_attack(world: World) -> None:
    """Targets signed by a key that root does not name."""
    mallory = CryptoSigner.generate_ed25519()
    forged = next_targets(world.metadata, [mallory], add=[Signed("detector", "2", "rpi5", OTHER, 5)])
    with pytest.raises(Problem, match="was signed by 0/1 keys"):
        world.repository.publish(None, forged.to_bytes())
    # Even with the server in hand, whose key signs snapshot and timestamp.
    repo_module.Metadata.verify_delegate, kept = (
        (lambda *_a, **_k: None),
        repo_module.Metadata.verify_delegate,
    )
    try:
        world.repository.publish(None, forged.to_bytes())
    finally:
        repo_module.Metadata.verify_delegate = kept
    with pytest.raises(TrustError, match="signed by 0/1 keys"):
        world.device.check(job("2", OTHER))


def test_rollback_attack(world: World) -> None:
    """Old metadata, once good, is shown again; also to a device whose metadata was wiped."""
    old = world.files()
    world.sign("2", OTHER)
    world.device.check(job("2", OTHER))
    world.restore(old)
    with pytest.raises(TrustError, match=r"version|went back"):
        world.device.check(job())
    for path in (world.path / "device" / "metadata").rglob("*.json"):
        path.unlink()
    with pytest.raises(TrustError, match="went back"):
        world.new_client().check(job())


def test_indefinite_freeze_attack(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is shown the same metadata for ever: the timestamp expires, also for a clock that is put
    back."""
    # A device that knows it is the day after tomorrow, and whose clock then jumps back to today.
    floor = world.device._floor
    state = floor.load().data
    floor.save(state | {"time": (datetime.now(UTC) + timedelta(days=2)).isoformat()})
    with pytest.raises(TrustError, match="timestamp metadata expired"):
        world.device.check(job())
    # And one that is simply shown an expired timestamp.
    monkeypatch.setattr(repo_module, "TIMESTAMP_VALID", timedelta(seconds=-5))
    fresh = World(world.path / "second")
    with pytest.raises(TrustError, match="expired"):
        fresh.device.check(job())


def test_mix_and_match_attack(world: World) -> None:
    """Targets of one moment with the snapshot of another."""
    number = world.metadata.signed.version
    old = world.files()[f"{number}.targets.json"]
    world.sign("2", OTHER)
    world.network.serve(f"{number + 1}.targets.json", old)
    with pytest.raises(TrustError, match="Expected targets v3, got v2"):
        world.device.check(job())


def test_fast_forward_attack_and_recovery(world: World) -> None:
    """Someone with the online key counts versions up to the end; new keys in root let versions count anew."""
    online = world.online()
    timestamp = Metadata.from_bytes(world.files()["timestamp.json"])
    timestamp.signed.version = 2**31
    timestamp.signatures.clear()
    timestamp.sign(online)
    world.network.serve("timestamp.json", timestamp.to_bytes())
    world.device.check(job())
    world.network.forged.clear()
    with pytest.raises(TrustError, match="version"):
        world.device.check(job())
    # The operator revokes the online key; the server starts its count again under a new one.
    (world.path / "server" / "online.pem").unlink()
    fresh = world.repository.online_key()
    following = next_root(world.root)
    for role in ("snapshot", "timestamp"):
        following.signed.revoke_key(online.public_key.keyid, role)
        following.signed.add_key(fresh, role)
    sign(following, world.roots)
    (world.folder / "timestamp.json").unlink()
    world.repository.publish(following.to_bytes(), None)
    world.device.check(job())


def test_endless_data_attack(world: World) -> None:
    """A file that never ends is cut off at its limit."""

    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * 65536

    world.network.forged["timestamp.json"] = endless
    with pytest.raises(TrustError, match="signatures cannot be trusted"):
        world.device.check(job())
    assert world.network.fetched["timestamp.json"] < 1_000_000


def test_slow_retrieval_and_an_absent_server(world: World) -> None:
    def broken() -> Iterator[bytes]:
        raise OSError("timed out")
        yield b""

    world.network.forged["timestamp.json"] = broken
    with pytest.raises(TrustError):
        world.device.check(job())
    world.network.forged.clear()
    world.device.check(job())


def test_wrong_signatures(world: World) -> None:
    """One altered byte, a foreign signature, none at all."""
    content = json.loads(world.files()["timestamp.json"])
    signature = content["signatures"][0]
    for broken in ("0" * len(signature["sig"]), ""):
        changed = content | {"signatures": [signature | {"sig": broken}]}
        world.network.serve("timestamp.json", json.dumps(changed).encode())
        with pytest.raises(TrustError):
            world.device.check(job())
    altered = json.loads(json.dumps(content))
    altered["signed"]["version"] += 1
    world.network.serve("timestamp.json", json.dumps(altered).encode())
    with pytest.raises(TrustError, match="0/1 keys"):
        world.device.check(job())


def test_key_compromise_below_the_threshold(tmp_path: Path) -> None:
    """One of three root keys is stolen where two must sign."""
    world = World(tmp_path, roots=3, threshold=2)
    world.device.check(job())
    mallory = CryptoSigner.generate_ed25519()
    forged = next_root(world.root)
    forged.signed.add_key(mallory.public_key, "targets")
    sign(forged, [world.roots[0], mallory])
    with pytest.raises(Problem, match="1/2 keys"):
        world.repository.publish(forged.to_bytes(), None)
    world.network.serve("2.root.json", forged.to_bytes())
    with pytest.raises(TrustError, match="1/2 keys"):
        world.device.check(job())


def test_key_rotation_is_followed_and_old_keys_stop_counting(world: World) -> None:
    old_targets, fresh = world.targets, [CryptoSigner.generate_ed25519()]
    new_root_key = CryptoSigner.generate_ed25519()
    following = next_root(world.root)
    following.signed.revoke_key(old_targets[0].public_key.keyid, "targets")
    following.signed.add_key(fresh[0].public_key, "targets")
    following.signed.revoke_key(world.roots[0].public_key.keyid, "root")
    following.signed.add_key(new_root_key.public_key, "root")
    sign(following, [*world.roots, new_root_key])
    world.metadata = next_targets(world.metadata, fresh, add=[Signed("detector", "2", "rpi5", OTHER, 5)])
    world.repository.publish(following.to_bytes(), world.metadata.to_bytes())
    world.device.check(job("2", OTHER))
    with pytest.raises(Problem, match="0/1 keys"):
        world.repository.publish(None, next_targets(world.metadata, old_targets).to_bytes())
    third = next_root(following)
    sign(third, world.roots)
    with pytest.raises(Problem, match="0/1 keys"):
        world.repository.publish(third.to_bytes(), None)


def test_a_version_that_is_revoked_is_refused(world: World) -> None:
    world.metadata = next_targets(world.metadata, world.targets, remove=["models/detector/1/rpi5"])
    world.repository.publish(None, world.metadata.to_bytes())
    with pytest.raises(TrustError, match="is not signed"):
        world.device.check(job())


def test_the_server_keeps_timestamps_fresh(world: World) -> None:
    before = Metadata.from_bytes(world.files()["timestamp.json"]).signed
    assert not world.repository.refresh()
    assert world.repository.refresh(datetime.now(UTC) + timedelta(hours=13))
    after = Metadata.from_bytes(world.files()["timestamp.json"]).signed
    assert after.version == before.version + 1
    assert isinstance(after.snapshot_meta, MetaFile)
    world.device.check(job())


@pytest.mark.parametrize(
    "name", ["../online.pem", "online.pem", "..%2fonline.pem", "0.root.json", "root.json/..", ""]
)
def test_only_metadata_is_served(world: World, name: str) -> None:
    assert world.repository.read(name) is None
