"""The report in an artifact: one HTML file without scripts or external resources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rich.filesize import decimal as size

from edgec.compiler.report import precision
from edgec.compiler.report.certificate import read_aloud

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1c2733}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin-top:2rem}h3{font-size:1rem;margin-top:1.4rem}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #e3e8ee}
td{overflow-wrap:break-word}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
td.n,td.k{white-space:nowrap}@media(max-width:58rem){table{display:block;overflow-x:auto}}
.ok{color:#0a7d43}.bad{color:#b3261e}
.muted{color:#667585}.cards{display:flex;gap:1rem;flex-wrap:wrap}
.card{border:1px solid #e3e8ee;border-radius:.6rem;padding:.8rem 1.1rem;min-width:10rem}
.card b{display:block;font-size:1.35rem}svg text{font:12px system-ui,sans-serif;fill:#1c2733}
@media(prefers-color-scheme:dark){body{background:#11161c;color:#dde5ee}svg text{fill:#dde5ee}
td,th,.card{border-color:#2a3440}.muted{color:#93a1b0}.ok{color:#4cc38a}.bad{color:#ff8a80}}
"""
SHOWN_LAYERS = 25


def render(title: str, target: str, evidence: Mapping[str, Any]) -> str:
    """The report on one artifact as a complete HTML document."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width,initial-scale=1'>",
        f"<title>{escape(title)} for {escape(target)}</title><style>{_STYLE}</style>",
        f"<h1>{escape(title)}</h1><p class=muted>compiled for {escape(target)}</p>",
        _cards(evidence),
        _errors(evidence),
        _latency(evidence),
        precision.section(evidence.get("precision")),
        _certificate(evidence.get("certificate")),
        _layers(evidence.get("layers", [])),
        _fallback(evidence.get("fallback", [])),
        _pairs("Sizes", {k.removesuffix("_bytes"): size(v) for k, v in evidence["sizes"].items()}),
        _pairs("Compile time by stage", {k: f"{v:.2f} s" for k, v in evidence["stages_s"].items()}),
        _pairs("Machine", evidence["machine"]),
        _pairs("Versions", evidence["versions"]),
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _cards(evidence: Mapping[str, Any]) -> str:
    if evidence["verified"]:
        worst = max((o["max_rel"] for o in evidence["outputs"]), default=0.0)
        proof = (
            f"<div class=card><b class=ok>verified</b>largest error {worst:.1e} of the largest value</div>"
        )
    else:
        reason = escape(evidence.get("reason", "outputs differ from the reference"))
        proof = f"<div class=card><b class=bad>not verified</b>{reason}</div>"
    cards = [proof]
    latency = evidence.get("latency") or {}
    if "edgec" in latency:
        cards.append(f"<div class=card><b>{latency['edgec']['median_ms']:.3g} ms</b>median latency</div>")
    # The certificate leaves out rounds in which the machine was busy; the two medians alone do not.
    speedup = (evidence.get("certificate") or {}).get("ratio") or evidence.get("speedup")
    if speedup:
        cards.append(f"<div class=card><b>{speedup:.2f}×</b>ONNX Runtime's speed</div>")
    total = evidence["sizes"]["code_bytes"] + evidence["sizes"]["weights_bytes"]
    cards.append(f"<div class=card><b>{size(total)}</b>code and weights</div>")
    return f"<div class=cards>{''.join(cards)}</div>"


def _errors(evidence: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><td>{escape(o['name'])}<td>{o['dtype']}<td>{'×'.join(map(str, o['shape'])) or 'scalar'}"
        f"<td class=n>{o['max_abs']:.2e}<td class=n>{o['max_rel']:.2e}<td class=n>{o['cosine']:.7f}"
        f"<td class=n>{o['mismatches']}<td class={'ok' if o['ok'] else 'bad'}>{'equal' if o['ok'] else 'off'}"
        for o in evidence.get("outputs", [])
    ]
    if not rows:
        return ""
    head = (
        "<tr><th>output<th>type<th>shape<th class=n>largest error<th class=n>relative<th class=n>cosine"
        "<th class=n>mismatches<th>"
    )
    how = (
        f"against {escape(evidence['reference'])} on {escape(evidence['inputs'])}, run on {evidence['where']}"
    )
    return (
        f"<h2>Errors</h2><p class=muted>{how}; accepted: {evidence['error_budget']:g} of the largest "
        f"value</p><table>{head}{''.join(rows)}</table>"
    )


def _latency(evidence: Mapping[str, Any]) -> str:
    latency = evidence.get("latency") or {}
    if not latency:
        return ""
    rows = [
        f"<tr><td>{escape(side)}<td class=n>{t['median_ms']:.3f}<td class=n>{t['p90_ms']:.3f}"
        f"<td class=n>{t['min_ms']:.3f}<td class=n>{t['runs']}"
        for side, t in latency.items()
    ]
    head = "<tr><th><th class=n>median ms<th class=n>90 % ms<th class=n>fastest ms<th class=n>runs"
    return (
        f"<h2>Latency</h2><p class=muted>in turns of 0.3 s in one process, {evidence['threads']} threads, batch as "
        f"compiled</p><table>{head}{''.join(rows)}</table>"
    )


def _certificate(certificate: Mapping[str, Any] | None) -> str:
    if certificate is None:
        return ""
    told = "".join(f"<p>{escape(line)}</p>" for line in read_aloud(certificate))
    rows = "".join(
        f"<tr><td>{escape(', '.join(one['nodes'][:3]) or one['op'])}<td class=k>{escape(one['choice'])}"
        f"<td class=n>{one['ms']:.3f}<td class=n>{_ms(one['floor_ms'])}<td class=k>{escape(one['bound'])}"
        f"<td class=n>{_ms(one['onnxruntime_ms'])}"
        for one in sorted(certificate.get("layers", ()), key=lambda one: -float(one["ms"]))[:SHOWN_LAYERS]
    )
    head = (
        "<tr><th>layer<th>choice<th class=n>ms<th class=n>at the machine's limit<th>bound by"
        "<th class=n>ONNX Runtime ms"
    )
    return f"<h2>Certificate</h2>{told}" + (f"<table>{head}{rows}</table>" if rows else "")


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _layers(layers: Sequence[Mapping[str, Any]]) -> str:
    if not layers:
        return ""
    ordered = sorted(layers, key=lambda layer: -float(layer["ms"]))
    shown, rest = ordered[:SHOWN_LAYERS], ordered[SHOWN_LAYERS:]
    longest = max(float(layer["ms"]) for layer in shown) or 1.0
    bars = []
    for row, layer in enumerate(shown):
        names = ", ".join(layer["nodes"]) or layer["kernel"]
        label = names if len(names) < 52 else names[:50] + "…"
        width, y = 360 * float(layer["ms"]) / longest, 20 * row
        bars.append(
            f"<g><title>{escape(layer['kernel'])}: {escape(names)}</title>"
            f"<svg width=364 height={y + 20}><text x=0 y={y + 14}>{escape(label)}</text></svg>"  # cut at the bars
            f"<rect x=370 y={y + 3} width={max(width, 1):.1f} height=14 rx=2 fill='#3b82c4'/>"
            f"<text x={376 + width:.1f} y={y + 14}>{layer['ms']:.3f} ms · {layer['share']:.0%}</text></g>"
        )
    more = f"<p class=muted>and {len(rest)} more, {sum(float(r['ms']) for r in rest):.3f} ms together</p>"
    return (
        f"<h2>Where the time goes</h2><svg width='100%' viewBox='0 0 860 {20 * len(shown) + 4}' "
        f"role=img aria-label='time per layer'>{''.join(bars)}</svg>{more if rest else ''}"
    )


def _fallback(parts: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{number}<td>{escape(', '.join(part['nodes']))}" for number, part in enumerate(parts)
    )
    if not rows:
        return ""
    return (
        "<h2>Run by ONNX Runtime</h2><p class=muted>These nodes have no compiled form; the device needs "
        f"the package onnxruntime.</p><table><tr><th>part<th>nodes{rows}</table>"
    )


def _pairs(title: str, pairs: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><td>{escape(str(k))}<td>{escape(str(v))}" for k, v in pairs.items())
    return f"<h2>{escape(title)}</h2><table>{rows}</table>" if rows else ""
