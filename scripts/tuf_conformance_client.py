#!/usr/bin/env python3
"""The device's TUF client behind the command line that TUF's conformance suite drives.

The suite is github.com/theupdateframework/tuf-conformance; in a checkout of it:

    pytest tuf_conformance --entrypoint "python /path/to/scripts/tuf_conformance_client.py"

It needs the program faketime. What it tests is what a device runs: `edgec.device_agent.updates.tuf_trust`, with its
fetcher and its floor. Artifacts, which devices fetch from a registry by digest, are downloaded by python-tuf here.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import httpx
from tuf.api.exceptions import DownloadError, RepositoryError

from edgec.device_agent.errors import AgentError
from edgec.device_agent.updates.tuf_trust import TufTrust


def main() -> int:
    """Run one command of the suite; returns its exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url", default="")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-base-url", default="")
    parser.add_argument("--target-dir", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    given = parser.parse_args()
    first = given.metadata_dir.parent / "enrolled-root.json"
    if given.command == "init":
        shutil.copy(given.root, first)
        shutil.copy(given.root, given.metadata_dir / "root.json")
        return 0
    try:
        # The suite's folder is called `metadata`, as ours is; the floor lies beside it.
        updater = TufTrust(given.metadata_dir.parent, given.metadata_url, first.read_bytes()).refresh()
        for name in given.target_name:
            info = updater.get_targetinfo(name)
            if info is None:
                return 1
            place = given.target_dir / name.replace("/", "%2F")
            if updater.find_cached_target(info, str(place)) is None:
                updater.download_target(info, str(place), given.target_base_url)
    except (AgentError, RepositoryError, DownloadError, OSError, ValueError, httpx.HTTPError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
