"""What the comparisons share: their options, and a table that is written into a page between two marks."""

from __future__ import annotations

import argparse
from pathlib import Path


def common_options(description: str | None) -> argparse.ArgumentParser:
    """A parser of the options that all of them have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--document", type=Path)
    return parser


def write_between(page: Path, mark: str, text: str) -> None:
    """Replace what lies between `<!-- mark -->` and `<!-- /mark -->`."""
    before, rest = page.read_text(encoding="utf-8").split(f"<!-- {mark} -->\n")
    _, after = rest.split(f"<!-- /{mark} -->")
    page.write_text(f"{before}<!-- {mark} -->\n{text}<!-- /{mark} -->{after}", encoding="utf-8")
