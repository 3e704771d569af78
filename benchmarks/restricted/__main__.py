"""Make copies of the installed runtimes that see no more than AVX2: `python -m edgec.benchmarks.restricted FOLDER`.

`edgec bench --suite --target zen3 --restricted FOLDER` measures beside them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgec.benchmarks.restricted.wheels import CannotRestrict, make


def main() -> int:
    """Make the copies and list the changed libraries."""
    parser = argparse.ArgumentParser(prog="python -m edgec.benchmarks.restricted", description=__doc__)
    parser.add_argument("folder", type=Path, help="about 300 MB")
    try:
        for line in make(parser.parse_args().folder):
            print(line)
    except CannotRestrict as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
