"""The command line of the proof on a GPU."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from edgec.benchmarks.gpu.plan import BATCHES, NETWORKS, PRECISIONS
from edgec.targets.errors import EdgecError

# Parts of a run, each in a process of its own.
_STAGES = {
    "once": "one call of one case, for compute-sanitizer",
    "check": "results of one case, and its times",
    "beside": "one case beside PyTorch",
}


def main() -> None:
    """Prepare a folder, run it, or write the page of its results."""
    parser = argparse.ArgumentParser(prog="python -m edgec.benchmarks.gpu", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    preparing = commands.add_parser("prepare", help="fill a folder with artifacts, references and wheels")
    preparing.add_argument("folder", type=Path)
    preparing.add_argument("--target", default="cuda", help="a GPU of `edgec targets list`")
    preparing.add_argument("--networks", default=",".join(NETWORKS), help="of the zoo, separated by commas")
    preparing.add_argument("--precisions", default=",".join(PRECISIONS), help="separated by commas")
    batches = ",".join(map(str, BATCHES))
    preparing.add_argument(
        "--batches", default=batches, help="pictures or texts of a call, separated by commas"
    )
    preparing.add_argument("--seconds", type=float, default=600, help="for all cases together on the GPU")
    preparing.add_argument("--no-wheels", action="store_true", help="the other machine has edgec installed")
    running = commands.add_parser("run", help="run a prepared folder on this machine's GPU")
    running.add_argument("folder", type=Path)
    running.add_argument("--out", type=Path, default=Path("results.json"))
    for stage, told in _STAGES.items():
        staged = commands.add_parser(stage, help=told)
        staged.add_argument("folder", type=Path)
        staged.add_argument("number", type=int)
        if stage != "once":
            staged.add_argument("out", type=Path)
    paging = commands.add_parser("page", help="print the page of a results file, or of none")
    paging.add_argument("results", type=Path, nargs="?")
    _do(parser.parse_args())


def _do(given: argparse.Namespace) -> None:
    from edgec.benchmarks.gpu import case
    from edgec.benchmarks.gpu.outcomes import Results
    from edgec.benchmarks.gpu.run import run

    if given.command == "prepare":
        from edgec.benchmarks.gpu.prepare import prepare

        names, precisions = given.networks.split(","), given.precisions.split(",")
        batches = [int(one) for one in given.batches.split(",")]
        prepare(
            given.folder, given.target, names, precisions, given.seconds, print,
            batches=batches, wheels=not given.no_wheels,
        )  # fmt: skip
    elif given.command == "run":
        try:
            run(given.folder, lambda line: print(line, flush=True), given.out)
        except EdgecError as error:
            raise SystemExit(f"error: {error}") from error
    elif given.command == "once":
        case.run_once(given.folder, given.number)
    elif given.command == "check":
        case.check(given.folder, given.number, given.out)
    elif given.command == "beside":
        case.beside(given.folder, given.number, given.out)
    else:
        from edgec.benchmarks.gpu.page import page

        print(page(msgspec.json.decode(given.results.read_bytes(), type=Results) if given.results else None))


if __name__ == "__main__":
    main()
