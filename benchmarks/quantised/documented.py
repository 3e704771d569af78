"""Write a table into a page, between two marks."""

from __future__ import annotations

from pathlib import Path


def write_between(page: Path, mark: str, text: str) -> None:
    """Replace what lies between `<!-- mark -->` and `<!-- /mark -->`."""
    before, rest = page.read_text(encoding="utf-8").split(f"<!-- {mark} -->\n")
    _, after = rest.split(f"<!-- /{mark} -->")
    page.write_text(f"{before}<!-- {mark} -->\n{text}<!-- /{mark} -->{after}", encoding="utf-8")
