"""Building blocks of pages as HTML. Everything that comes from a device or a person goes through `esc`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from urllib.parse import quote

TONES = {
    "online": "good", "offline": "bad", "stopped": "warn", "never": "", "pending": "warn", "revoked": "bad",
    "RUNNING": "accent", "PAUSED": "warn", "AWAITING_APPROVAL": "warn", "ROLLING_BACK": "bad", "SUCCEEDED": "good",
    "FAILED": "bad", "ROLLED_BACK": "bad", "ABORTED": "", "ACTIVE": "accent", "WAITING": "", "UNREACHED": "warn",
    "SKIPPED": "", "CANCELED": "", "REVERTING": "warn", "REVERTED": "warn", "REVERT_FAILED": "bad", "QUEUED": "",
    "IN_PROGRESS": "accent", "TIMED_OUT": "warn", "REJECTED": "bad", "running": "good", "stalled": "bad",
    "starting": "accent", "restarting": "warn", "paused": "warn", "ended": "", "failed": "bad", "probation": "accent",
    "loading": "accent", "absent": "", "drift": "warn", "accepted": "good", "PREPARING": "accent", "DECIDED": "good",
    "ENDING": "warn", "ENDED": "", "new": "accent", "confirmed": "good", "corrected": "good", "discarded": "", "better": "good",
    "worse": "bad", "same": "good", "undecided": "",
}  # fmt: skip
LIVE = {"online", "RUNNING", "IN_PROGRESS", "ROLLING_BACK", "ACTIVE"}
BAR = {
    "SUCCEEDED": "good", "FAILED": "bad", "REVERT_FAILED": "bad", "ACTIVE": "accent", "REVERTING": "warn",
    "REVERTED": "warn", "UNREACHED": "warn", "CANCELED": "idle", "SKIPPED": "idle",
}  # fmt: skip
NAMES = {"never": "not seen yet", "drift": "differs from desired"}


def esc(value: object) -> str:
    """Text made safe for HTML, in content and in quoted attributes."""
    return escape(str(value), quote=True)


def link(path: str, *parts: object) -> str:
    """A path with its parts quoted."""
    return path + "".join(f"/{quote(str(part), safe='')}" for part in parts)


def badge(state: str, text: str = "") -> str:
    """A coloured word for a state."""
    shown = text or NAMES.get(state, state.lower().replace("_", " "))
    return (
        f'<span class="e-badge {TONES.get(state, "")}{" live" if state in LIVE else ""}">{esc(shown)}</span>'
    )


def ago(at: float | None) -> str:
    """How long ago, with the exact time as a tooltip."""
    if at is None:
        return '<span class="e-faint">never</span>'
    exact = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
    return f'<span title="{exact}">{passed(time.time() - at)}</span>'


def moment(at: float) -> str:
    """A time in UTC, to the second, with how long ago it was as a tooltip. The heading should name UTC."""
    exact = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))
    return f'<time class="e-time" datetime="{exact.replace(" ", "T")}Z" title="{passed(time.time() - at)}">{exact}</time>'


def percent(share: float, digits: int = 0) -> str:
    """A share as percent."""
    return f"{100 * share:.{digits}f} %"


def scope_name(scope: Mapping[str, str]) -> str:
    """What a rollout or an experiment is for, such as `group dock`."""
    return f"{scope['kind']} {scope['name']}" if scope["name"] else "all devices"


def passed(seconds: float) -> str:
    """A stretch of time in two words, ending with 'ago'."""
    if seconds < 2:
        return "just now"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def number(value: float | None, unit: str = "", digits: int = 1) -> str:
    """A number with its unit, or a dash."""
    return '<span class="e-faint">–</span>' if value is None else f"{value:.{digits}f}{unit}"


def count(value: int) -> str:
    """A whole number with its thousands separated."""
    return f"{value:,}".replace(",", "\u202f")


def tile(value: object, caption: str, *, tone: str = "", href: str = "", of: object = None) -> str:
    """A large number with what it counts."""
    shown, whole = (count(item) if isinstance(item, int) else item for item in (value, of))
    small = f" <small>of {esc(whole)}</small>" if whole is not None else ""
    inner = f"<b>{esc(shown)}{small}</b><span>{esc(caption)}</span>"
    return (
        f'<a class="e-tile {tone}" href="{esc(href)}">{inner}</a>'
        if href
        else f'<div class="e-tile {tone}">{inner}</div>'
    )


def tiles(items: Iterable[str]) -> str:
    """Tiles in a row that wraps."""
    return f'<div class="e-tiles">{"".join(items)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], links: Sequence[str] = ()) -> str:
    """A table. A heading may begin with `#` (numbers, right-aligned), then `~` (hidden on a phone)."""
    names = [name.removeprefix("#").removeprefix("~") for name in head]
    classes = [
        ("num " if name.startswith("#") else "") + ("wide" if "~" in name[:2] else "") for name in head
    ]
    # An empty heading would still be announced by screen readers: make it a cell.
    top = "".join(
        f'<th scope="col" class="{c}">{esc(name)}</th>' if name else f'<td class="{c}"></td>'
        for name, c in zip(names, classes, strict=True)
    )
    body = []
    for index, row in enumerate(rows):
        cells = "".join(f'<td class="{c}">{cell}</td>' for cell, c in zip(row, classes, strict=True))
        go = f' class="go" data-href="{esc(links[index])}"' if links else ""
        body.append(f"<tr{go}>{cells}</tr>")
    return f'<div class="e-scroll"><table class="e-table"><thead><tr>{top}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def empty(title: str, text: str, command: str = "") -> str:
    """What to show where there is nothing: why, and what to do."""
    code = f"<code>{esc(command)}</code>" if command else ""
    return f'<div class="e-empty"><b>{esc(title)}</b>{esc(text)}<br>{code}</div>'


HEALTH = {"SUCCEEDED": "well", "UNREACHED": "to look at", "FAILED": "offline", "CANCELED": "not seen"}


def bar(counts: Mapping[str, int], words: str = "") -> str:
    """A bar of member states, or with `words="health"` of states of health."""
    total = sum(counts.values()) or 1
    order = sorted(counts, key=lambda state: list(BAR).index(state) if state in BAR else 99)
    parts = "".join(
        f'<i class="{BAR[state]}" style="width:{100 * counts[state] / total:.2f}%"></i>'
        for state in order
        if state in BAR
    )
    names = HEALTH if words else {}
    label = (
        ", ".join(
            f"{count(n)} {names.get(state, state.lower().replace('_', ' '))}" for state, n in counts.items()
        )
        or "no devices"
    )
    return f'<div class="e-bar" role="img" aria-label="{esc(label)}" title="{esc(label)}">{parts}</div>'


def button(text: str, method: str, path: str, *, ask: str = "", tone: str = "", body: object = None) -> str:
    """A small button that calls the API and then refreshes the page; `ask` is a question to confirm first."""
    data = f' data-body="{esc(json.dumps(body))}"' if body is not None else ""
    question = f' data-ask="{esc(ask)}"' if ask else ""
    return (
        f'<button class="e-mini {tone}" data-call="{method} {esc(path)}"{data}{question}>{esc(text)}</button>'
    )


def pairs(items: Mapping[str, str]) -> str:
    """Names and values; the values are HTML."""
    return '<dl class="e-kv">' + "".join(f"<dt>{esc(k)}</dt><dd>{v}</dd>" for k, v in items.items()) + "</dl>"


def chips(labels: Mapping[str, object]) -> str:
    """Labels of a device."""
    return "".join(f'<span class="e-chip">{esc(k)}={esc(v)}</span>' for k, v in sorted(labels.items()))
