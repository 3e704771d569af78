"""Write the winners that this machine found into a file that ships with the package.

`python -m edgec.compiler.tuning.ship TARGET CACHE` takes the winners of families of workloads (any epilogue) from the
tuning cache CACHE and adds them to `shipped/<microarchitecture and registers>.json` beside this file. To fill that
cache, compile any networks with `--tune fast --cache CACHE` for TARGET on a machine that is otherwise idle. Entries of
other versions of a template have other keys that nothing reads: they are left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from edgec.compiler.backends.cpu.templates import attention, conv2d, dense, matmul, sliding
from edgec.compiler.backends.cpu.templates.workloads import FAMILY, WITH_WINOGRAD
from edgec.compiler.tuning.cache import FORMAT, SHIPPED, TuningCache
from edgec.compiler.tuning.tuner import cache_key, shipped_key
from edgec.targets import load_target

CURRENT = (
    f"conv2d.v{conv2d.VERSION}|",
    f"conv2d.v{WITH_WINOGRAD}|",
    f"depthwise.v{sliding.VERSION}|",
    f"pool.v{sliding.VERSION}|",
    f"dense.v{dense.VERSION}|",
    f"matmul.v{matmul.VERSION}|",
    f"attention.v{attention.VERSION}|",
)


def collect(cache: TuningCache) -> dict[str, tuple[str, float]]:
    """Schedule and microseconds by family of workloads."""
    found: dict[str, tuple[str, float]] = {}
    for path in sorted(cache.folder.glob("*.json")):
        entry = json.loads(path.read_text(encoding="utf-8"))
        if entry["format"] == FORMAT and f"|{FAMILY}|" in entry["key"]:
            found[entry["key"]] = (entry["schedule"], round(float(entry["us"]), 1))
    return found


def main(arguments: list[str]) -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target")
    parser.add_argument("cache", type=Path)
    chosen = parser.parse_args(arguments)
    target = load_target(chosen.target)
    name = shipped_key(target)
    output = SHIPPED / f"{name}.json"
    known = json.loads(output.read_text(encoding="utf-8"))[name] if output.exists() else {}
    known |= collect(TuningCache(chosen.cache, cache_key(target)))
    winners = {key: winner for key, winner in known.items() if key.startswith(CURRENT)}
    output.parent.mkdir(parents=True, exist_ok=True)
    new = output.with_name(f".{output.name}.new")
    new.write_text(json.dumps({name: winners}, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    new.replace(output)
    sys.stdout.write(f"{len(winners)} winners in {output}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
