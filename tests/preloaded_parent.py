"""Run as a program: imports the modules that it is told, then forks a process for each request.

A request is one message on the socket of standard input: the command line, folder and environment as JSON, with the
descriptors of the new standard input, output and error and of a pipe. The pipe gets the process's id and, once it has
ended, its exit status, a line each. The child unwinds out of `requests` and then runs as the program that it was asked
to be: its interpreter ends as any other does. It is ended with this process, which ends with whoever holds the socket.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgec.benchmarks.processes import end_with_parent

LARGEST = 1 << 20
DESCRIPTORS = 4


def requests(control: socket.socket) -> dict[str, Any] | None:
    """Fork for each request until the other end of `control` is closed.

    Returns:
        The request, in the child that is to carry it out; None in this process at its end.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, int] = {}
    while True:
        ready = select.select([control.fileno(), reader], [], [])[0]
        if reader in ready:
            os.read(reader, 4096)
            report_ended(running)
        if control.fileno() not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(control, LARGEST, DESCRIPTORS)
        if not message:
            return None
        child = os.fork()
        if child == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            for number, descriptor in enumerate(descriptors[:3]):
                os.dup2(descriptor, number)
            for descriptor in (reader, writer, *descriptors, *running.values()):
                os.close(descriptor)
            end_with_parent()
            return dict(json.loads(message))
        os.write(descriptors[3], f"{child}\n".encode())
        running[child] = descriptors[3]
        for descriptor in descriptors[:3]:
            os.close(descriptor)


def report_ended(running: dict[int, int]) -> None:
    """Write the status of each child that has ended into its pipe."""
    for child, pipe in list(running.items()):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            del running[child]
            with suppress(BrokenPipeError):  # nobody waits for it any more
                os.write(pipe, f"{os.waitstatus_to_exitcode(status)}\n".encode())
            os.close(pipe)


def main() -> None:
    """Import, serve, and in a child become what was asked for."""
    sys.path[0] = str(Path.cwd())  # as `python -m` has it; not the folder of this file
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    request = requests(socket.socket(fileno=os.dup(0)))
    if request is None:
        return
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[0] = str(Path.cwd())
    sys.argv = ["-m", *request["arguments"]]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
