"""A child process for the tests of the supervisor: `python -m tests.device_agent.process.children`."""

from __future__ import annotations

import os
import signal
import sys
import time

import msgspec

from edgec.device_agent.process import child
from edgec.device_agent.process.messages import Message


class Begin(Message, frozen=True):
    """What the child shall do."""

    behaviour: str


class Said(Message, frozen=True):
    """What the child says."""

    text: str


def main() -> None:
    channel = child.enter(sys.argv[1:])
    start, fds = channel.receive(msgspec.json.Decoder(Begin))
    channel.send(Said(f"{start.behaviour} with {len(fds)} descriptors"))
    match start.behaviour:
        case "hang":
            time.sleep(600)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "nonsense":
            channel.socket.send(b'{"op":"nonsense"}')
            channel.send(Said("after it"))
        case "fail":
            sys.exit(3)


if __name__ == "__main__":
    main()
