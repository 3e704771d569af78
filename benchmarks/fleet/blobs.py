"""Throughput of blob downloads from the registry, against nginx with the same file."""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from edgec.benchmarks.fleet.backends import free_port, program, wait_port
from edgec.benchmarks.fleet.stage import stage

REPEATS = 5


def _fetch(url: str, token: str, streams: int) -> float:
    """Bytes a second over `streams` downloads at once, by curl."""
    command = [
        program("curl", "curl"),
        "-s",
        "-S",
        "-f",
        "-o",
        "/dev/null",
        "-H",
        f"Authorization: Bearer {token}",
    ]
    command += ["-w", "%{size_download}\n", url]
    began = time.monotonic()
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(streams)]
    total = sum(int(process.communicate()[0]) for process in running)
    if any(process.returncode for process in running):
        raise RuntimeError(f"curl failed for {url}")
    return total / (time.monotonic() - began)


def _nginx(folder: Path, root: Path, sendfile: str) -> tuple[subprocess.Popen[bytes], int]:
    port = free_port()
    config = folder / f"nginx-{sendfile}.conf"
    config.write_text(
        f"worker_processes 2; pid {folder}/nginx-{sendfile}.pid; error_log {folder}/nginx.log; daemon off;\n"
        + ("user root;\n" if os.getuid() == 0 else "")
        + "events { worker_connections 1024; }\n"
        f"http {{ access_log off; sendfile {sendfile}; tcp_nopush on; "
        f"server {{ listen 127.0.0.1:{port}; root {root}; }} }}\n"
    )
    log = folder / "nginx.log"
    log.touch()
    process = subprocess.Popen([program("nginx", "nginx-light"), "-p", str(folder), "-c", str(config)])
    wait_port(port, process, log)
    return process, port


def blobs(folder: Path, megabytes: int) -> dict[str, Any]:
    """One file of `megabytes` from both, alternately, with one and with four downloads at once."""
    content = os.urandom(1 << 20) * megabytes
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    with stage("embedded", folder, 1) as place:
        with place.client() as client:
            upload = client.post("/v2/bench/blobs/uploads/").headers["location"]
            client.put(upload, params={"digest": digest}, content=content, timeout=120).raise_for_status()
        path = next((folder / "data" / "blobs").rglob(digest.removeprefix("sha256:")))
        nginx, port = _nginx(folder, path.parent, "on")
        try:
            ours = f"{place.url}/v2/bench/blobs/{digest}"
            theirs = f"http://127.0.0.1:{port}/{path.name}"
            result: dict[str, Any] = {"megabytes": megabytes}
            for streams in (1, 4):
                rates: dict[str, list[float]] = {"edgec": [], "nginx": []}
                for _name, url in (("edgec", ours), ("nginx", theirs)):
                    _fetch(url, place.token, 1)
                for _ in range(REPEATS):
                    rates["edgec"].append(_fetch(ours, place.token, streams))
                    rates["nginx"].append(_fetch(theirs, place.token, streams))
                medians = {name: statistics.median(values) for name, values in rates.items()}
                result[f"streams_{streams}"] = {
                    "edgec_MB_s": round(medians["edgec"] / 1e6), "nginx_MB_s": round(medians["nginx"] / 1e6),
                    "ratio": round(medians["edgec"] / medians["nginx"], 3),
                    "edgec_range": [round(v / 1e6) for v in (min(rates["edgec"]), max(rates["edgec"]))],
                    "nginx_range": [round(v / 1e6) for v in (min(rates["nginx"]), max(rates["nginx"]))],
                }  # fmt: skip
            return result
        finally:
            nginx.terminate()
            nginx.wait(10)
