"""Timing kernels on a device: who may, what it refuses, and that a bad candidate is only left out."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgec.compiler.backends.cpu import remote
from edgec.compiler.emulation.emulator import lacking
from edgec.compiler.errors import ToolMissing
from edgec.compiler.options import CompileOptions
from edgec.compiler.pipeline import compile_model
from edgec.runtime.tuning.connection import Connection, Refused, TuneError, check_token
from edgec.runtime.tuning.server import TuneServer
from edgec.targets import detect, load_target
from edgec.targets.target import Target, TimedOn
from tests.compiler.onnx_models import model_of, save

TOKEN = "a token of some length"
EDGEC = [sys.executable, "-m", "edgec.cli.main"]


@pytest.fixture
def server() -> Iterator[TuneServer]:
    running = TuneServer("127.0.0.1", 0, TOKEN.encode())
    thread = threading.Thread(target=running.serve)
    thread.start()
    yield running
    running.stop()
    thread.join()


def place(server: TuneServer, token: str = TOKEN) -> TimedOn:
    return TimedOn(*server.address, token)


@pytest.fixture(autouse=True)
def no_device_from_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_devices", {})


def convolution(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    constants = {"w": rng.standard_normal((32, 16, 3, 3)).astype("float32")}
    return save(model_of(nodes, {"x": [1, 16, 14, 14]}, ["y"], constants), folder, "m.onnx")


def compiled(folder: Path, target: Target) -> None:
    options = CompileOptions(tune="fast", threads=1, cache_dir=folder / "cache")
    result = compile_model(convolution(folder), target, options, output=folder / "m.edge")
    assert result.evidence["verified"]


def entries(cache: Path) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in cache.rglob("*.json")]


def test_candidates_are_timed_on_the_device(server: TuneServer, tmp_path: Path) -> None:
    """By this very machine, as a device: the cache then holds what it measured."""
    compiled(tmp_path, replace(detect(), timed_on=place(server)))
    timed = [text for text in entries(tmp_path / "cache") if '"timed"' in text]
    assert timed


def test_a_wrong_token_is_refused_by_both_sides(server: TuneServer) -> None:
    with pytest.raises(ToolMissing, match=r"the connection ended|token is not the one"):
        remote.Device(place(server, "another token of that length"), detect())
    with pytest.raises(TuneError, match="16 are needed"):
        check_token("short")
    left, right = socket.socketpair()
    with left, right:
        told: list[TuneError] = []

        def other() -> None:
            try:
                Connection(right, b"x" * 20, serves=True)
            except TuneError as error:
                told.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        with pytest.raises(Refused):
            Connection(left, b"y" * 20, serves=False)
        thread.join()
        assert isinstance(told[0], Refused)


def test_a_stranger_does_not_hold_up_the_server(server: TuneServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        socket.create_connection(server.address) as silent,
        socket.create_connection(server.address) as noisy,
    ):
        noisy.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(100))
        assert remote.Device(place(server), detect()).ask({"op": "time"})[0]["error"]
        silent.sendall(b"edgec")


def test_one_compile_at_a_time(server: TuneServer) -> None:
    first = remote.Device(place(server), detect())
    with pytest.raises(ToolMissing, match="timing candidates of another compile"):
        remote.Device(place(server), detect())
    assert "error" in first.ask({"op": "add"})[0]


def test_a_device_of_another_kind_is_refused(server: TuneServer) -> None:
    with pytest.raises(ToolMissing, match=r"s390x; the device at 127\.0\.0\.1:\d+ is"):
        remote.Device(place(server), replace(detect(), arch="s390x"))
    with pytest.raises(ToolMissing, match=r"has warp9, which the device at .* lacks"):
        remote.Device(place(server), replace(detect(), features=frozenset({"warp9"})))
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    with pytest.raises(ToolMissing, match="agent --tune-server"):
        remote.Device(TimedOn("127.0.0.1", port, TOKEN), detect())


def test_code_that_cannot_be_loaded_and_one_that_ends_its_process_are_errors(
    server: TuneServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = remote.Device(place(server), detect())
    assert device.ask({"op": "workload", "arguments": [[[4], "float32"]]})[0] == {}
    assert "error" in device.ask({"op": "add"}, b"no library")[0]
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    workers = [int(pid) for path in children for pid in path.read_text().split()]
    for pid in workers:
        if "edgec.runtime.tuning.worker" in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, signal.SIGSEGV)
    answer = device.ask({"op": "add"}, b"x")[0]
    assert answer["ended"]
    assert device.ask({"op": "workload", "arguments": [[[4], "float32"]]})[0] == {}, (
        "the next one has its own"
    )


def test_an_altered_frame_is_noticed() -> None:
    left, right = socket.socketpair()
    with left, right:
        made: list[Connection] = []
        thread = threading.Thread(target=lambda: made.append(Connection(right, b"k" * 20, serves=True)))
        thread.start()
        ours = Connection(left, b"k" * 20, serves=False)
        thread.join()
        ours.send({"op": "one"}, b"blob")
        assert made[0].receive() == ({"op": "one"}, b"blob")
        text = b'{"op": "forged"}'
        left.sendall(len(text).to_bytes(4, "big") + bytes(8) + text + bytes(32))
        with pytest.raises(TuneError, match="altered"):
            made[0].receive()


def test_the_command_needs_a_token_and_an_address_of_its_own(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "EDGEC_TUNE_TOKEN"}

    def edgec(*arguments: str) -> str:
        done = subprocess.run(
            [*EDGEC, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        return " ".join(done.stderr.split())

    assert "a token is needed" in edgec("agent", "--tune-server")
    (tmp_path / "token").write_text("short")
    assert "16 are needed" in edgec("agent", "--tune-server", "--tune-token", str(tmp_path / "token"))
    (tmp_path / "m.onnx").write_bytes(b"")
    wishes = ("compile", str(tmp_path / "m.onnx"), "--target", "rpi5")
    assert "not of the form HOST:PORT" in edgec(*wishes, "--device", "pi.local")
    assert "a token is needed" in edgec(*wishes, "--device", "pi.local:7780")


@contextmanager
def emulated_server() -> Iterator[TimedOn]:
    command = [*EDGEC, "targets", "emulator", "run", "rpi5", "agent", "--tune-server", "--tune-port", "0"]
    environment = os.environ | {"EDGEC_TUNE_TOKEN": TOKEN}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield TimedOn("127.0.0.1", int(line.rpartition(":")[2]), TOKEN)
        finally:
            process.send_signal(signal.SIGTERM)
    assert process.returncode == 0


@pytest.mark.long
@pytest.mark.emulator
@pytest.mark.timeout(900)
def test_candidates_are_timed_in_the_emulator(tmp_path: Path) -> None:
    """A board that this machine is not: other candidates win there than the first, or the same, but by measurement."""
    target = load_target("rpi5")
    if told := lacking(target):
        pytest.skip(told)
    with emulated_server() as device:
        compiled(tmp_path, replace(target, timed_on=device))
    assert [text for text in entries(tmp_path / "cache") if '"timed"' in text]
