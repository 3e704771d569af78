"""The precisions that were compared: a table, the sensitivity of each layer as a plot, and the layers given back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from rich.filesize import decimal as size

COLOURS = {"int8": "#2a78c2", "bf16": "#e08a1e", "fp16": "#8a63c9", "fp32": "#b8433a"}
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 860, 240, 64, 26, 26
_GIVEN_BACK = 40  # layers in the table
_ESTIMATED = (
    "The precision was estimated from the core's rates, not measured: the target's code cannot be timed here."
)


def section(found: Mapping[str, Any] | None) -> str:
    """The part of the report about precisions as HTML; empty if only one was compiled."""
    if not found:
        return ""
    notes = "".join(f"<p class=bad>{escape(note)}</p>" for note in found["notes"])
    calibrated = found.get("calibration")
    told = f"<p class=muted>{escape(calibration_in_words(calibrated))}</p>" if calibrated else ""
    judged = found.get("judged")
    if judged:
        told = f"<p class=muted>Judged by {judged['examples']} examples; accepted: {_accepted(judged)}.</p>"
    estimated = f"<p class=muted>{escape(_ESTIMATED)}</p>" if _is_estimated(found) else ""
    plot = _plot(found.get("layers", []))
    return f"<h2>Precisions</h2>{notes}{estimated}{told}{_table(found)}{plot}{_given_back(found)}"


def calibration_in_words(calibration: Mapping[str, Any]) -> str:
    """How the model was quantised, and what it was judged by."""
    tried = "; ".join(f"{name} {error:.2%}" for name, error in calibration["tried"])
    return (
        f"Ranges from {calibration['examples']} examples; judged by {calibration['held_back']} held back; accepted: "
        f"{_accepted(calibration)}. Quantised by {calibration['recipe']}; "
        f"the output errors of all ways that were tried: {tried}."
    )


def _accepted(bounds: Mapping[str, Any]) -> str:
    told = []
    if bounds["max_drop"] is not None:
        told.append(f"a loss of accuracy of {bounds['max_drop']:.2%}")
    if bounds["max_error"] is not None:
        told.append(f"an output error of {bounds['max_error']:.2%}")
    return " and ".join(told)


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The comparison as lines of text, the chosen precision marked."""
    for variant in found["variants"]:
        mark = "*" if variant["name"] == found["chosen"] else " "
        parts = [f"{mark} {variant['name']:<6}"]
        if "median_ms" in variant:
            parts.append(f"{variant['median_ms']:9.3f} ms")
        parts.append(f"weights {size(variant['weights_bytes'])}")
        if "resident_bytes" in variant:
            parts.append(f"resident {size(variant['resident_bytes'])}")
        parts.append(_quality_in_words(variant))
        yield "  ".join(part for part in parts if part)

    if _is_estimated(found):
        yield f"  {_ESTIMATED}"


def _is_estimated(found: Mapping[str, Any]) -> bool:
    """Whether there was a choice that nothing was timed for; older artifacts do not tell."""
    return len(found["variants"]) > 1 and not found.get("timed", True)


def _quality_in_words(variant: Mapping[str, Any]) -> str:
    quality = variant.get("quality")
    if quality is None:
        return ""
    told = f"output error {quality['error']:.2%}"
    if "drop" in quality:
        low, high = quality["drop_interval"]
        told = (
            f"{quality['measure']} {quality['accuracy']:.2%}, loss {quality['drop']:.2%} "
            f"({low:.2%} to {high:.2%}), {told}"
        )
    return told


def _layers_in_words(variant: Mapping[str, Any]) -> str:
    """How many layers are narrow; older artifacts do not tell all kinds."""
    told = f"{variant['layers_int8']} int8, {variant['layers_bf16']} bf16"
    halves = variant.get("layers_fp16", 0)
    told = f"{told}, {halves} fp16" if halves else told
    weights = variant.get("layers_weights", 0)
    return f"{told}, {weights} with narrow weights" if weights else told


def _table(found: Mapping[str, Any]) -> str:
    rows = []
    exact = next((v["quality"] for v in found["variants"] if "accuracy_fp32" in v.get("quality", {})), None)
    measure = exact["measure"] if exact else ""
    for variant in found["variants"]:
        chosen = variant["name"] == found["chosen"]
        quality = dict(variant.get("quality", {}))
        if variant["name"] == "fp32":
            quality = {"error": 0.0} | ({"accuracy": exact["accuracy_fp32"]} if exact else {})
        cells = [
            f"<b>{variant['name']}</b> chosen" if chosen else variant["name"],
            _layers_in_words(variant),
            _number(variant.get("median_ms"), "{:.3f}"),
            size(variant["code_bytes"]),
            size(variant["weights_bytes"]),
            size(variant["resident_bytes"]) if "resident_bytes" in variant else "",
            _number(quality.get("error"), "{:.2%}"),
        ]
        if measure:
            interval = quality.get("drop_interval")
            loss = f"{quality['drop']:.2%}<br>({interval[0]:.2%} to {interval[1]:.2%})" if interval else ""
            cells += [_number(quality.get("accuracy"), "{:.2%}"), loss]
        first, second, *others = cells
        rows.append(
            f"<tr><td class=k>{first}<td class=k>{second}" + "".join(f"<td class=n>{cell}" for cell in others)
        )
    head = (
        "<tr><th>precision<th>layers<th class=n>median ms<th class=n>code<th class=n>weights"
        "<th class=n>resident memory<th class=n>output error"
    )
    head += f"<th class=n>{escape(measure)}<th class=n>loss (95 %)" if measure else ""
    return f"<table>{head}{''.join(rows)}</table>"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _plot(layers: Sequence[Mapping[str, Any]]) -> str:
    """The error of the outputs with each layer alone in int8, on a logarithmic scale, in the order of the model."""
    known = [layer for layer in layers if layer.get("sensitivity", 0.0) > 0]
    if not known:
        return ""
    low = math.floor(math.log10(min(layer["sensitivity"] for layer in known)))
    high = math.ceil(math.log10(max(layer["sensitivity"] for layer in known)))
    high = max(high, low + 1)
    inner = _HEIGHT - _TOP - _BOTTOM

    def y(error: float) -> float:
        return _TOP + inner * (high - math.log10(error)) / (high - low)

    parts = []
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(
            f"<line x1={_LEFT} x2={_WIDTH} y1={at:.1f} y2={at:.1f} stroke='#8884' />"
            f"<text x={_LEFT - 6} y={at + 4:.1f} text-anchor=end>{100 * 10.0**power:g}%</text>"
        )
    step = (_WIDTH - _LEFT) / len(layers)
    for number, layer in enumerate(layers):
        error = max(layer.get("sensitivity", 0.0), 10.0**low)
        top, left = y(error), _LEFT + number * step
        name = f"{layer['name']}: {layer.get('sensitivity', 0.0):.3%}, computed in {layer['precision']}"
        parts.append(
            f"<rect x={left + step * 0.1:.1f} y={top:.1f} width={max(step * 0.8, 1):.1f} "
            f"height={max(_HEIGHT - _BOTTOM - top, 1):.1f} fill='{COLOURS.get(layer['precision'], '#888')}'>"
            f"<title>{escape(name)}</title></rect>"
        )
    return (
        "<h3>Sensitivity by layer</h3><p class=muted>the outputs’ error with one layer alone in int8, in the order of "
        "the model; the colour is the precision that the layer has now</p>"
        f"<svg width='100%' viewBox='0 0 {_WIDTH} {_HEIGHT}' role=img aria-label='sensitivity by layer'>"
        f"{_legend(layers)}{''.join(parts)}"
        f"<text x={_LEFT} y={_HEIGHT - 8}>first layer</text>"
        f"<text x={_WIDTH} y={_HEIGHT - 8} text-anchor=end>last of {len(layers)}</text></svg>"
    )


def _legend(layers: Sequence[Mapping[str, Any]]) -> str:
    counts: dict[str, int] = {}
    for layer in layers:
        counts[layer["precision"]] = counts.get(layer["precision"], 0) + 1
    parts, left = [], _LEFT
    for precision, count in sorted(counts.items()):
        text = f"{precision} ({count})"
        parts.append(
            f"<rect x={left} y=4 width=12 height=12 fill='{COLOURS.get(precision, '#888')}' />"
            f"<text x={left + 17} y=14>{text}</text>"
        )
        left += 40 + 7 * len(text)
    return "".join(parts)


def _given_back(found: Mapping[str, Any]) -> str:
    layers = [layer for layer in found.get("layers", []) if layer["precision"] != "int8"]
    if not layers or found["chosen"] not in ("mixed", "int8"):
        return ""
    layers.sort(key=lambda layer: -layer.get("sensitivity", 0.0))
    rows = []
    for layer in layers[:_GIVEN_BACK]:
        ms = layer.get("ms", {})
        now, before = ms.get(found["chosen"]), ms.get("int8")
        cost = f"{now - before:+.3f}" if now is not None and before is not None else ""
        rows.append(
            f"<tr><td>{escape(layer['name'])}<td>{layer['precision']}"
            f"<td class=n>{_number(layer.get('sensitivity'), '{:.3%}')}<td class=n>{_number(before, '{:.3f}')}"
            f"<td class=n>{_number(now, '{:.3f}')}<td class=n>{cost}"
        )
    more = f"<p class=muted>and {len(layers) - _GIVEN_BACK} more</p>" if len(layers) > _GIVEN_BACK else ""
    return (
        "<h3>Layers not in int8</h3><table><tr><th>layer<th>precision<th class=n>error alone in int8"
        f"<th class=n>ms in int8<th class=n>ms now<th class=n>costs ms{''.join(rows)}</table>{more}"
        "<p class=muted>Where the cost is below zero, the layer is faster so than in int8.</p>"
    )
