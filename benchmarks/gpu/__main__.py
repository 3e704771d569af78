"""The command line of the proof on a GPU."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from edgec.benchmarks.gpu.plan import NETWORKS, PRECISIONS


def main() -> None:
    """Prepare a folder, run it, or write the page of its results."""
    parser = argparse.ArgumentParser(prog="python -m edgec.benchmarks.gpu", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    preparing = commands.add_parser("prepare", help="fill a folder with artifacts, references and wheels")
    preparing.add_argument("folder", type=Path)
    preparing.add_argument("--target", default="cuda", help="a GPU of `edgec targets list`")
    preparing.add_argument("--networks", default=",".join(NETWORKS), help="of the zoo, separated by commas")
    preparing.add_argument("--precisions", default=",".join(PRECISIONS), help="separated by commas")
    preparing.add_argument("--seconds", type=float, default=240, help="for all cases together on the GPU")
    preparing.add_argument("--no-wheels", action="store_true", help="the other machine has edgec installed")
    running = commands.add_parser("run", help="run a prepared folder on this machine's GPU")
    running.add_argument("folder", type=Path)
    running.add_argument("--out", type=Path, default=Path("results.json"))
    once = commands.add_parser("once", help="one call of one case, for compute-sanitizer")
    once.add_argument("folder", type=Path)
    once.add_argument("network")
    once.add_argument("precision")
    paging = commands.add_parser("page", help="print the page of a results file, or of none")
    paging.add_argument("results", type=Path, nargs="?")
    _do(parser.parse_args())


def _do(given: argparse.Namespace) -> None:
    from edgec.benchmarks.gpu.run import Results, run, run_once

    if given.command == "prepare":
        from edgec.benchmarks.gpu.prepare import prepare

        names, precisions = given.networks.split(","), given.precisions.split(",")
        prepare(
            given.folder, given.target, names, precisions, given.seconds, print, wheels=not given.no_wheels
        )
    elif given.command == "run":
        results = run(given.folder, print)
        given.out.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))
    elif given.command == "once":
        run_once(given.folder, given.network, given.precision)
    else:
        from edgec.benchmarks.gpu.page import page

        print(page(msgspec.json.decode(given.results.read_bytes(), type=Results) if given.results else None))


if __name__ == "__main__":
    main()
