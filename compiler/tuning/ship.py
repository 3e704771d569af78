"""Write the winners found on this machine into a file that ships with the package.

`python -m edgec.compiler.tuning.ship TARGET CACHE` takes the winners of families of workloads (any epilogue) from the
tuning cache CACHE and adds them to `shipped/<microarchitecture and registers>.json` beside this file. To fill that
cache, compile any networks with `--tune fast --cache CACHE` for TARGET on a machine that is otherwise idle; `host` as
TARGET writes them for the microarchitecture family of this machine. Entries of
other versions of a template have other keys that nothing reads: they are left out. A target whose core borrowed another
one's winners until now (`winners` in its `[core]` table) reads its own once that key is removed.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from edgec.compiler.backends.interface import FAMILY
from edgec.compiler.backends.registry import backend_of
from edgec.compiler.this_machine import estimated
from edgec.compiler.tuning.cache import FORMAT, SHIPPED, TuningCache
from edgec.targets import load_target


def collect(cache: TuningCache) -> dict[str, tuple[str, float]]:
    """Schedule and microseconds by family of workloads."""
    found: dict[str, tuple[str, float]] = {}
    for path in sorted(cache.folder.glob("*.json")):
        entry = json.loads(path.read_text(encoding="utf-8"))
        if entry["format"] == FORMAT and f"|{FAMILY}|" in entry["key"]:
            found[entry["key"]] = (entry["schedule"], round(float(entry["us"]), 1))
    return found


def main(arguments: list[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target")
    parser.add_argument("cache", type=Path)
    chosen = parser.parse_args(arguments)
    target = estimated(load_target(chosen.target))
    backend = backend_of(replace(target, core=replace(target.core, winners="")))
    name = backend.shipped_keys[0]
    output = SHIPPED / f"{name}.json"
    known = json.loads(output.read_text(encoding="utf-8"))[name] if output.exists() else {}
    known |= collect(TuningCache(chosen.cache, backend.winners_key))
    winners = {key: winner for key, winner in known.items() if key.startswith(backend.current_workloads)}
    output.parent.mkdir(parents=True, exist_ok=True)
    new = output.with_name(f".{output.name}.new")
    new.write_text(json.dumps({name: winners}, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    new.replace(output)
    sys.stdout.write(f"{len(winners)} winners in {output}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
