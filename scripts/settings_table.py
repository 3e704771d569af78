"""Write the table of the fleet server's settings into docs/fleet-setup.md: `python scripts/settings_table.py`."""

from __future__ import annotations

import re
from pathlib import Path

from edgec.fleet.settings import PREFIX, Settings

PAGE = Path(__file__).parent.parent / "docs" / "fleet-setup.md"
BLOCK = re.compile(r"(?<=<!-- settings -->\n).*?(?=<!-- /settings -->)", re.DOTALL)


def table() -> str:
    """The table, with a row per setting: variable, default, meaning."""
    rows = ["", "| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.is_required() or field.default in (None, "") else f"`{_shown(field.default)}`"
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join([*rows, "", ""])


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


if __name__ == "__main__":
    PAGE.write_text(BLOCK.sub(lambda _: table(), PAGE.read_text()))
