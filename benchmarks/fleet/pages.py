"""Response times of the dashboard's pages and of the API behind them, with many synthetic devices.

`python -m edgec.benchmarks.fleet.pages [DEVICES]` starts a server of its own in a temporary folder. A page's time is
measured in Chromium, from the start of the navigation until its content has been filled in over the web socket; the
API's is that of a request on an open connection. Each is done ten times; median and worst are printed as a table.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from edgec.benchmarks.fleet.seed import seed_folder
from edgec.benchmarks.processes import end_with_parent

REPEATS = 10
CHROMIUM = os.environ.get("EDGEC_CHROMIUM", "/usr/bin/chromium")
API = (
    "/overview", "/devices?limit=50", "/devices?limit=50&search=lyon", "/devices?limit=50&label=site=lyon",
    "/devices?limit=50&group=dock", "/devices/cam-lyon-0000", "/models", "/rollouts", "/rollouts/3",
    "/rollouts/3/devices?limit=50", "/experiments", "/captures", "/groups", "/audit",
)  # fmt: skip
PAGES = {
    "/": ".e-map a", "/devices": "tr.go", "/devices?search=lyon": "tr.go", "/devices?label=site%3Dlyon": "tr.go",
    "/devices/cam-lyon-0000": ".e-list", "/models": "tr.go", "/models/detector": "tr.go", "/rollouts": "tr.go",
    "/rollouts/3": "tr", "/experiments": ".e-empty", "/captures": ".e-empty", "/access": "tr",
}  # fmt: skip


@contextmanager
def server(folder: Path, devices: int) -> Iterator[tuple[str, str]]:
    """A running server with `devices` devices: its address and an administrator's token."""
    data, ready = folder / "data", folder / "ready.json"
    seed_folder(data, devices)
    command = [sys.executable, "-m", "edgec.cli.main", "fleet", "serve", "--data", str(data), "--port", "0"]
    command += ["--mqtt-port", "0", "--ready-file", str(ready), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=end_with_parent)
    try:
        while not ready.exists():
            if process.poll() is not None:
                raise SystemExit("the server did not start")
            time.sleep(0.05)
        yield json.loads(ready.read_text())["url"], (data / "admin-token").read_text().strip()
    finally:
        process.terminate()
        process.wait(30)


def timed(action: Callable[[], object]) -> list[float]:
    """Milliseconds of each repetition, after a warm-up."""
    action()
    found = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        action()
        found.append(1000 * (time.perf_counter() - begin))
    return found


def measure_api(url: str, token: str) -> dict[str, list[float]]:
    """Times of API requests."""
    with httpx.Client(base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {token}"}) as client:
        return {path: timed(lambda path=path: client.get(path).raise_for_status()) for path in API}  # type: ignore[misc]


def measure_pages(url: str, token: str) -> dict[str, list[float]]:
    """Times of pages in Chromium."""
    from playwright.sync_api import sync_playwright

    def open_page(page: Any, path: str) -> None:  # noqa: ANN401 - playwright's Page
        page.goto(url + path, wait_until="commit")
        page.locator(PAGES[path]).first.wait_for()

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(f"{url}/login")
        page.get_by_label("Access token").first.fill(token)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{url}/")
        found = {path: timed(lambda path=path: open_page(page, path)) for path in PAGES}  # type: ignore[misc]
        browser.close()
    return found


def main() -> None:
    """Measure and print."""
    devices = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as name, server(Path(name), devices) as (url, token):
        print(f"{devices} devices, {REPEATS} repetitions, load before {os.getloadavg()[0]:.2f}\n")
        for title, found in (("API", measure_api(url, token)), ("page", measure_pages(url, token))):
            print(f"| {title} | median ms | worst ms |\n|---|---|---|")
            for path, times in found.items():
                print(f"| `{path}` | {statistics.median(times):.0f} | {max(times):.0f} |")
            print()


if __name__ == "__main__":
    main()
