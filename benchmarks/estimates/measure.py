"""Measure how candidates rank beside their estimates on this machine.

`python -m edgec.benchmarks.estimates.measure NETWORK…` times, for each convolution and product of networks of the
zoo, the two best guesses and some candidates spread evenly over the rest of the order, on one thread. It writes
`<family>.json` beside this file, from which the results page and a test take it. The machine has to be otherwise
idle.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgec.benchmarks.estimates.agreement import FEWEST, FOLDER, Timed, agreement
from edgec.compiler.backends.interface import Workload
from edgec.compiler.options import CompileOptions
from edgec.compiler.progress import Silent
from edgec.compiler.tuning.tuner import Tuner
from edgec.targets import Target, detect
from edgec.targets.microarchitecture import this_processor

FIRST, SPREAD = 2, 4
MINUTES = 10.0  # for a network


def spread(candidates: Sequence[Any]) -> tuple[Any, ...]:
    """The first candidates, and some at equal distances up to the last."""
    rest = len(candidates) - FIRST
    if rest <= SPREAD:
        return tuple(candidates)
    places = [FIRST + round(number * (rest - 1) / (SPREAD - 1)) for number in range(SPREAD)]
    return (*candidates[:FIRST], *(candidates[place] for place in places))


class SpreadTuner(Tuner):
    """Times a sample of all candidates, and keeps what it timed with the places in the whole order."""

    found: dict[str, Timed]

    def tune(self, works: Sequence[tuple[Workload, int]]) -> None:
        """Time a sample of every workload's candidates."""
        whole = {work.key: work for work, _ in works}
        super().tune([(replace(work, candidates=spread(work.candidates)), count) for work, count in works])
        for key, times in self.times.items():
            places = {str(c): place for place, c in enumerate(whole[key].candidates)} if key in whole else {}
            self.found |= (
                {key: [(text, places[text], s * 1e6) for text, s in times.items()]} if places else {}
            )


def measure(network: str, target: Target, folder: Path) -> dict[str, Timed]:
    """The candidates timed of each workload of a network of the zoo, where there are enough of them."""
    from edgec.compiler.backends.registry import backend_of
    from edgec.compiler.frontends import load_source, to_relax
    from edgec.compiler.lower import lower
    from edgec.models import build

    options = CompileOptions(threads=1, tune="full", minutes=MINUTES, cache_dir=folder)
    imported = to_relax(load_source(build(network, folder / network), options))
    tuner = SpreadTuner(backend_of(target), options, Silent())
    tuner.found = {}
    lower(imported.mod, target, options, Silent(), parts=imported.parts, tuner=tuner)
    return {key: timed for key, timed in tuner.found.items() if len(timed) >= FEWEST}


def main() -> None:
    """Run the command line."""
    target, found = detect(), dict[str, Timed]()
    with tempfile.TemporaryDirectory(prefix="edgec-estimates-") as folder:
        for network in sys.argv[1:]:
            found |= measure(network, target, Path(folder))
            sys.stdout.write(f"{network}: {agreement(found)}\n")
    rounded = {
        key: [(text, place, round(us, 1)) for text, place, us in timed] for key, timed in found.items()
    }
    file = FOLDER / f"{this_processor()[1]}.json"
    file.write_text(json.dumps(rounded, indent=0, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
