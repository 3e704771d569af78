"""The report says what the evidence says, whatever strings a model brings."""

from __future__ import annotations

import re
from typing import Any

from edgec.compiler.report.html import SHOWN_LAYERS, render


def evidence(**changes: Any) -> dict[str, Any]:
    latency = {"median_ms": 4.0, "p90_ms": 5.0, "min_ms": 3.5, "runs": 12}
    whole: dict[str, Any] = {
        "verified": True,
        "outputs": [
            {"name": "scores", "dtype": "float32", "shape": [1, 10], "max_abs": 2e-6, "max_rel": 1.2e-5,
             "cosine": 1.0, "mismatches": 0, "ok": True},
        ],
        "reference": "onnxruntime 1.31 (session.x64quantprecision=1)", "inputs": "made-up inputs",
        "where": "this machine", "error_budget": 1e-3, "threads": 2,
        "latency": {"edgec": latency, "onnxruntime": latency | {"median_ms": 8.0}}, "speedup": 2.0,
        "layers": [], "fallback": [],
        "sizes": {"code_bytes": 1500, "weights_bytes": 3_000_000}, "stages_s": {"graph": 0.5},
        "machine": {"cpu": "Some CPU"}, "versions": {"edgec": "0.1"},
    }  # fmt: skip
    return whole | changes


def test_a_verified_model_shows_error_speed_and_what_it_was_compared_with() -> None:
    page = render("detector", "rpi5", evidence())
    for told in ("verified", "1.2e-05 of the largest value", "4 ms", "2.00×", "3.0 MB", "1×10", "Some CPU"):
        assert told in page
    assert "onnxruntime 1.31 (session.x64quantprecision=1)" in page
    assert "script" not in page.lower()
    assert not re.search(r"(src|href)=", page)


def test_an_unproven_model_says_why() -> None:
    bare = {k: v for k, v in evidence().items() if k in ("sizes", "stages_s", "machine", "versions")}
    page = render("m", "rpi5", bare | {"verified": False, "reason": "verification was switched off"})
    assert "not verified" in page
    assert "verification was switched off" in page
    assert "Latency" not in page


def test_outputs_that_are_off_are_marked() -> None:
    off = evidence()["outputs"][0] | {"ok": False, "mismatches": 3}
    page = render("m", "rpi5", evidence(verified=False, outputs=[off]))
    assert "<td class=bad>off" in page
    assert "outputs differ from the reference" in page


def test_names_from_a_model_are_text_and_never_markup() -> None:
    name = "<img src=x onerror=alert(1)>"
    layer = {"kernel": name, "nodes": [name], "ms": 1.0, "share": 1.0}
    output = evidence()["outputs"][0] | {"name": name}
    page = render(name, name, evidence(outputs=[output], layers=[layer], fallback=[{"nodes": [name]}]))
    assert "<img" not in page
    assert page.count("&lt;img") >= 5


def test_the_slowest_layers_are_drawn_and_the_rest_is_added_up() -> None:
    layers = [
        {"kernel": f"k{i}", "nodes": [f"layer{i}"], "ms": float(i), "share": 0.01}
        for i in range(SHOWN_LAYERS + 2)
    ]
    page = render("m", "rpi5", evidence(layers=layers))
    assert page.count("<rect") == SHOWN_LAYERS
    assert page.index(f"layer{SHOWN_LAYERS + 1}") < page.index(f"layer{SHOWN_LAYERS}<")
    assert "and 2 more, 1.000 ms together" in page
    assert ">layer1<" not in page
