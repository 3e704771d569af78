"""The same artifacts in a registry that others wrote (Distribution, Debian's docker-registry): what our client pushes
there, a device's own fetcher brings down, and the fleet's signatures vouch for it."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from securesystemslib.signer import CryptoSigner

from edgec.benchmarks.fleet.backends import BackendMissing, program
from edgec.device_agent.errors import FetchError, TrustError
from edgec.device_agent.process.retry import RetryPolicy
from edgec.device_agent.updates.fetch import Fetcher
from edgec.device_agent.updates.store import ModelStore
from edgec.device_agent.updates.tuf_trust import TufTrust
from edgec.fleet.client.connection import FleetClient
from edgec.fleet.client.push import push_artifact
from edgec.fleet.trust.repository import Repository
from edgec.fleet.trust.signing import Signed, first_root, first_targets, next_targets
from edgec.protocol.jobs import UpdateDocument
from tests.fleet.artifacts import make_artifact
from tests.fleet.servers import said_port
from tests.fleet.trust.test_attacks import Network

RETRY = RetryPolicy(first_s=0.05, max_s=1, total_s=60)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Its address, and the folder in which it keeps blobs."""
    try:
        command = program("docker-registry", "docker-registry")
    except BackendMissing as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("distribution")
    log = folder / "log"
    config = folder / "config.yml"
    config.write_text(
        "version: 0.1\nlog: {level: info}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'store'}}}, delete: {{enabled: true}}}}\n"
        "http: {addr: '127.0.0.1:0'}\n"
    )
    with log.open("wb") as stream:
        process = subprocess.Popen([command, "serve", str(config)], stdout=stream, stderr=stream)
    try:
        yield f"http://127.0.0.1:{said_port(process, log)}", folder / "store"
    finally:
        process.kill()
        process.wait(10)


def pushed(address: str, path: Path) -> tuple[str, int]:
    with FleetClient(address, None) as client:
        done = push_artifact(client, path, None, None, lambda *_: None)
    return done.digest, done.sent_bytes


def fetcher(address: str, store: ModelStore, retry: RetryPolicy = RETRY) -> Fetcher:
    return Fetcher(store, address, "models/detector", None, threading.Event(), retry)


def test_pushed_once_and_pulled_whole(registry: tuple[str, Path], tmp_path: Path) -> None:
    address, _store = registry
    make_artifact(tmp_path / "one.edge", "detector", "1")
    digest, sent = pushed(address, tmp_path / "one.edge")
    assert sent > 250_000
    assert pushed(address, tmp_path / "one.edge") == (digest, 0), "what is there is not sent again"
    assert httpx.get(f"{address}/v2/models/detector/tags/list").json()["tags"] == ["1-x86-64-v3"]
    store = ModelStore(tmp_path / "models")
    work = fetcher(address, store)
    work.fetch(digest)
    assert store.whole(digest)
    assert work.retries == 0
    with pytest.raises(FetchError):
        fetcher(address, store).fetch(f"sha256:{'0' * 64}")


def test_a_download_that_broke_off_goes_on(registry: tuple[str, Path], tmp_path: Path) -> None:
    address, _store = registry
    make_artifact(tmp_path / "two.edge", "detector", "2")
    digest, _sent = pushed(address, tmp_path / "two.edge")
    store = ModelStore(tmp_path / "models")
    whole = ModelStore(tmp_path / "whole")
    manifest = fetcher(address, whole).fetch(digest)
    weights = max(manifest.all_blobs(), key=lambda blob: blob.size)
    content = whole.path(weights.digest).read_bytes()
    (store.partials / weights.digest.removeprefix("sha256:")).write_bytes(content[:200_000])
    work = fetcher(address, store)
    work.fetch(digest)
    assert store.whole(digest)
    assert work.transferred < len(content) - 200_000 + 5_000, "only the rest was fetched"


def test_the_fleet_vouches_for_what_lies_there(registry: tuple[str, Path], tmp_path: Path) -> None:
    """Signatures come from the fleet, bytes from anywhere: a registry that changes them is found out."""
    address, folder = registry
    make_artifact(tmp_path / "three.edge", "detector", "3")
    digest, _sent = pushed(address, tmp_path / "three.edge")
    repository, keys = Repository(tmp_path / "server"), [CryptoSigner.generate_ed25519()]
    root = first_root(keys, keys, repository.online_key())
    first = first_targets(keys)
    repository.publish(root.to_bytes(), first.to_bytes())
    item = Signed("detector", "3", "x86-64-v3", digest, 1000)
    repository.publish(None, next_targets(first, keys, add=[item]).to_bytes())
    network = Network(tmp_path / "server" / "metadata")
    trust = TufTrust(tmp_path / "device", "http://fleet/tuf/metadata", root.to_bytes(), "x86-64-v3", network)
    document = UpdateDocument(
        model="detector", version="3", manifest_digest=digest, registry=address, target="x86-64-v3",
        repository="models/detector", trust={"path": item.path},
    )  # fmt: skip
    trust.check(document)
    other = document.model_copy(update={"manifest_digest": f"sha256:{'1' * 64}"})
    with pytest.raises(TrustError):
        trust.check(other)
    [stored] = folder.rglob(f"{digest.removeprefix('sha256:')}/data")
    stored.write_bytes(stored.read_bytes().replace(b"detector", b"detectoR"))
    store = ModelStore(tmp_path / "models")
    with pytest.raises((TrustError, FetchError)):
        fetcher(address, store, RetryPolicy(first_s=0.05, max_s=0.2, total_s=1)).fetch(digest)
    assert not store.whole(digest)
