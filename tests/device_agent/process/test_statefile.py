"""State that was cut, emptied or altered is noticed, and the copy before it taken."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.device_agent.errors import StateError
from edgec.device_agent.process.statefile import StateFile, write_durably
from edgec.device_agent.updates.deployments import Deployments, SlotState, Update, Version
from tests.device_agent.harness import recovering

DIGEST = "sha256:" + "a" * 64


def test_round_trip_and_the_copy(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "x.json")
    assert file.load().data == {}
    file.save({"n": 1})
    file.save({"n": 2})
    assert StateFile(file.path).load().data == {"n": 2}
    file.path.write_bytes(b"")
    loaded = StateFile(file.path).load()
    assert loaded.data == {"n": 2}
    assert "damaged" in loaded.problem
    assert StateFile(file.path).load().problem == "", "it was mended"


@pytest.mark.parametrize("name", ["x.json", "x.json.old"])
@pytest.mark.parametrize("harm", ["remove", "flip"])
def test_one_write_has_a_copy_and_either_mends_the_other(tmp_path: Path, name: str, harm: str) -> None:
    StateFile(tmp_path / "x.json").save({"device": "cam-1"})
    path = tmp_path / name
    if harm == "flip":
        raw = bytearray(path.read_bytes())
        raw[70] ^= 1
        path.write_bytes(raw)
    else:
        path.unlink()
    loaded = StateFile(tmp_path / "x.json").load()
    assert loaded.data == {"device": "cam-1"}
    assert bool(loaded.problem) == (harm == "flip" or name == "x.json")
    assert (tmp_path / "x.json").read_bytes() == (tmp_path / "x.json.old").read_bytes()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_gives_a_version_that_was_written(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    folder = tmp_path_factory.mktemp("state")
    file = StateFile(folder / "x.json")
    for number in range(3):
        file.save({"n": number, "text": "x" * number})
    raw = bytearray(file.path.read_bytes())
    match data.draw(st.sampled_from(["cut", "alter", "append", "remove"])):
        case "cut":
            raw = raw[: data.draw(st.integers(0, len(raw) - 2))]
        case "alter":
            position = data.draw(st.integers(0, len(raw) - 2))
            raw[position] ^= data.draw(st.integers(1, 255))
        case "append":
            raw += data.draw(st.binary(min_size=2, max_size=20))
        case "remove":
            raw = None
    if raw is None:
        file.path.unlink()
    else:
        file.path.write_bytes(raw)
    with recovering("state file cut, altered, lengthened or removed (alone)"):
        loaded = StateFile(file.path).load()
    assert loaded.data == {"n": 2, "text": "xx"}


def test_a_damaged_record_of_deployments_still_names_a_model(tmp_path: Path) -> None:
    path = tmp_path / "deployments.json"
    record = Deployments(path)
    record.set_slot("a", SlotState(Version(DIGEST, "m", "1")))
    document = {
        "model": "m", "version": "2", "manifest_digest": DIGEST, "registry": "http://x",
        "repository": "models/m",
    }  # fmt: skip
    record.accept(Update("job", "a", document))
    for damage in (b"", path.read_bytes()[:40], b'{"slots": 3}'):
        path.write_bytes(damage)
        again = Deployments(path)
        assert again.to_run("a") == Version(DIGEST, "m", "1")
        assert again.update is not None
        assert again.problem
    path.with_name("deployments.json.old").write_bytes(b"")
    path.write_bytes(b"\0" * 100)
    assert Deployments(path).to_run("a") is None


def test_a_full_disk_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    StateFile(path).save({"n": 1})
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from edgec.device_agent.errors import StateError\n"
        "from edgec.device_agent.process.statefile import StateFile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))\n"
        "file = StateFile(Path(sys.argv[1])); file.load()\n"
        "try: file.save({'n': 'x' * 5000})\n"
        "except StateError as error: print(error); sys.exit(7)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr
    assert "larger than the limit" in done.stdout
    assert StateFile(path).load().data == {"n": 1}
    assert sorted(one.name for one in tmp_path.iterdir()) == ["x.json", "x.json.old"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 200


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot write"):
        write_durably(tmp_path / "file" / "x.json", b"")
