"""What the agent's tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["PATH"] += ":/usr/sbin"

from tests.device_agent import harness
from tests.device_agent.capture_server import CaptureServer


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[harness.Broker]:
    if not harness.has_mosquitto():
        pytest.skip("mosquitto is not installed")
    running = harness.Broker(tmp_path)
    yield running
    running.stop()


@pytest.fixture
def fleet(broker: harness.Broker) -> Iterator[harness.FleetEnd]:
    end = harness.FleetEnd(broker.port)
    yield end
    end.close()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[harness.Registry]:
    running = harness.Registry(tmp_path)
    yield running
    running.close()


@pytest.fixture
def agent_of(tmp_path: Path, broker: harness.Broker) -> Iterator:
    made: list[harness.AgentProcess] = []

    def make(config: str, *, with_broker: bool = True, folder: Path | None = None) -> harness.AgentProcess:
        agent = harness.AgentProcess(folder or tmp_path, config, broker.port if with_broker else None)
        made.append(agent)
        return agent

    yield make
    for agent in made:
        agent.close()


@pytest.fixture
def captures_server() -> Iterator[CaptureServer]:
    running = CaptureServer()
    yield running
    running.close()
