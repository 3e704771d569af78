"""Pictures of captures with their boxes."""

from __future__ import annotations

from typing import Any

from edgec.fleet.dashboard.parts import esc

COLOURS = ("#5aa9f7", "#3fcf96", "#e7b549", "#ff7b6b", "#b58cf5", "#4fd0d6", "#f28fc0", "#a3d65c")


def boxes(found: list[dict[str, Any]], width: int, height: int, scale: float = 1.0) -> str:
    """Boxes with their labels, as an SVG to lie over the picture; small pictures need a larger `scale`."""
    unit = scale * max(width, height * 4 / 3) / 640
    labels = sorted({str(one["label"]) for one in found})
    shapes = []
    for one in found:
        colour = COLOURS[labels.index(one["label"]) % len(COLOURS)]
        left, top, right, bottom = one.get("box") or (0, 0, width, height)
        score = f" {one['score']:.2f}" if "score" in one else ""
        shapes.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 1):.1f}" height="{max(bottom - top, 1):.1f}" fill="none" '
            f'stroke="{colour}" stroke-width="{2.5 * unit:.1f}" rx="{2 * unit:.1f}"/><text x="{left + 3 * unit:.1f}" '
            f'y="{max(top - 5 * unit, 15 * unit):.1f}" fill="{colour}" font-size="{16 * unit:.1f}" font-weight="600" '
            f'paint-order="stroke" stroke="#000b" stroke-width="{3 * unit:.1f}">{esc(one["label"] + score)}</text>'
        )
    return f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="xMidYMid meet" aria-hidden="true">{"".join(shapes)}</svg>'


def picture(capture: dict[str, Any], scale: float = 1.0) -> str:
    """The picture of a capture, with the boxes of what is in it."""
    if capture["state"] == "discarded":
        return '<div class="e-pic e-gone" style="aspect-ratio:4/3">Discarded: the picture was removed for good.</div>'
    found = capture["annotations"] if capture["state"] == "corrected" else capture["predictions"]
    text = ", ".join(str(one["label"]) for one in found) or "nothing found"
    return (
        f'<div class="e-pic" style="max-width:calc(78vh * {capture["width"] / capture["height"]:.3f});margin:auto"><img src="/api/v1/captures/{capture["id"]}/image" loading="lazy" alt="{esc(text)}" '
        f'width="{capture["width"]}" height="{capture["height"]}" style="height:auto">'
        f"{boxes(found, capture['width'], capture['height'], scale)}</div>"
    )
