"""The pulse: two processes see the same words, and a death names the model in use."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import pytest

from edgec.device_agent.inference.pulse import Pulse, fingerprint


@pytest.fixture
def ends() -> Iterator[tuple[Pulse, Pulse]]:
    fd = os.memfd_create("pulse")
    os.ftruncate(fd, mmap.PAGESIZE)
    yield Pulse(fd), Pulse(fd)
    os.close(fd)


def test_the_supervisor_sees_calls(ends: tuple[Pulse, Pulse]) -> None:
    worker, supervisor = ends
    assert supervisor.call_s == 0.0
    worker.call("sha256:a")
    assert supervisor.call_s > 0
    worker.call("")
    assert supervisor.call_s == 0.0
    worker.call("sha256:a")
    supervisor.reset()
    assert (supervisor.call_s, supervisor.suspect) == (0.0, 0)


def test_the_model_that_is_called_is_suspected_before_the_one_that_is_loaded(
    ends: tuple[Pulse, Pulse],
) -> None:
    worker, supervisor = ends
    assert supervisor.suspect == 0
    worker.load("sha256:new")
    assert supervisor.suspect == fingerprint("sha256:new")
    worker.call("sha256:old")
    assert supervisor.suspect == fingerprint("sha256:old")
    worker.call("")
    assert supervisor.suspect == fingerprint("sha256:new")
    worker.load("")
    assert supervisor.suspect == 0
    assert fingerprint("sha256:new") != fingerprint("sha256:old")
