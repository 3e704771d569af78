"""Upload of captures: damaged ones are discarded, the others arrive once."""

from __future__ import annotations

from pathlib import Path

from edgec.device_agent.cloud.capture_uplink import CaptureUplink
from edgec.device_agent.inference.captures import Spool
from edgec.device_agent.process.retry import RetryPolicy
from tests.device_agent.capture_server import JPEG, CaptureServer, capture_meta
from tests.device_agent.harness import recovering, wait_for


def test_damaged_captures_are_discarded_and_the_others_sent(
    tmp_path: Path, captures_server: CaptureServer
) -> None:
    spool = Spool(tmp_path / "samples", 1 << 20, 10)
    for number in range(8):
        spool.store(capture_meta(number), JPEG)
    folder = tmp_path / "samples"
    (folder / "s-0.json").write_bytes(b"")
    (folder / "s-1.json").write_bytes((folder / "s-1.json").read_bytes()[:20])
    (folder / "s-2.jpg").unlink()
    (folder / "s-3.jpg").write_bytes(b"")
    (folder / "s-4.json").unlink()
    captures_server.faults = [
        429,
        500,
        422,
        0,
    ]  # the first that is whole is refused for good after two attempts
    uplink = CaptureUplink(
        folder, captures_server.url, "secret", retry=RetryPolicy(first_s=0.02, max_s=300.0)
    )
    with recovering("five damaged captures, four bad answers"):
        uplink.start()
        wait_for(lambda: not list(folder.glob("*")), "an empty spool")
    uplink.stop()
    assert sorted(captures_server.samples) == ["s-6", "s-7"]
    assert uplink.sent == 2
    assert uplink.refused == 5
