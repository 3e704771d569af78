"""A TCP proxy that delays, cuts, resets, truncates and repeats what goes through it."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading


class FaultProxy:
    """Forwards to a loopback port; about every fiftieth packet meets the fault, until `calm_after`."""

    def __init__(self, target_port: int, fault: str, seed: int) -> None:
        self._target, self._fault, self._random = target_port, fault, random.Random(seed)
        self._calm_at: int | None = None
        self._passed = 0
        self.faults = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pause = threading.Event()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def calm_after(self, bytes_: int) -> None:
        """Behave once so many bytes have gone through."""
        self._calm_at = bytes_

    def close(self) -> None:
        self._listener.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        held = b""
        with contextlib.suppress(OSError):
            while data := source.recv(2048):
                held += data
                while packet := first_packet(held):
                    held = held[len(packet) :]
                    self._passed += len(packet)
                    calm = self._calm_at is not None and self._passed > self._calm_at
                    if calm or self._random.random() > 0.02:
                        sink.sendall(packet)
                    elif not self._disturb(packet, source, sink):
                        raise ConnectionError
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.close()

    def _disturb(self, data: bytes, source: socket.socket, sink: socket.socket) -> bool:
        """Commit the fault; False when the connection is over."""
        fault = self._fault
        if fault == "mix":
            fault = self._random.choice(["delay", "cut", "reset", "truncate", "repeat"])
        self.faults += 1
        match fault:
            case "delay":
                self._pause.wait(self._random.uniform(0.01, 0.2))
                sink.sendall(data)
                return True
            case "repeat":
                # A whole PUBLISH twice: what a retransmitting middle box does. TCP itself repeats no bytes.
                sink.sendall(data + data if data[0] >> 4 == 3 else data)
                return True
            case "truncate":
                sink.sendall(data[: self._random.randrange(len(data))])
            case "reset":
                for sock in (source, sink):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


def first_packet(data: bytes) -> bytes:
    """Return the first whole MQTT packet of `data`, or nothing."""
    length = shift = 0
    for position, byte in enumerate(data[1:5], 1):
        length |= (byte & 127) << shift
        shift += 7
        if not byte & 128:
            end = position + 1 + length
            return data[:end] if len(data) >= end else b""
    return b""
