"""Times by kernel: names of source nodes, probes, bytes read and written."""

from __future__ import annotations

import pytest

import edgec.runtime as rt
from edgec.runtime.execution import profiling
from tests.runtime.inputs import rows


def test_a_profile_names_the_source_nodes_of_every_kernel(model: rt.Model) -> None:
    layers = model.profile({"x": rows(0)}, repeats=5)
    assert layers
    nodes = [int(node) for layer in layers for node in layer.nodes]
    assert sorted(set(nodes)) == list(range(8))
    assert nodes == sorted(nodes)
    assert sum(layer.share for layer in layers) == pytest.approx(1)
    assert all(layer.ms > 0 for layer in layers)
    with pytest.raises(rt.InputError):
        model.profile({"y": rows(0)})


def test_a_probe_is_asked_right_before_and_after_every_kernel(model: rt.Model) -> None:
    asked = iter(range(1000))
    layers = model.profile_runs({"x": rows(0)}, repeats=3, probe=lambda: float(next(asked)))
    assert [len(layer.seconds) for layer in layers] == [3] * len(layers)
    for run in range(3):
        pairs = [layer.probes[run] for layer in layers]
        assert [after for _, after in pairs[:-1]] == [before for before, _ in pairs[1:]]
        assert all(after == before + 1 for before, after in pairs)
    assert layers[0].probes[0][0] == len(layers) + 1, "the first run warms up"
    assert not model.profile_runs({"x": rows(0)}, repeats=1)[0].probes


def test_a_profile_counts_what_each_kernel_reads_and_writes(model: rt.Model) -> None:
    layers = model.profile_runs({"x": rows(0)}, repeats=1)
    weights = sum(weight.array.nbytes for weight in model.artifact.weights().values())
    assert sum(layer.weight_bytes for layer in layers) == weights
    assert all(layer.bytes - layer.weight_bytes >= 2 * 4 * 32 for layer in layers), (
        "a row goes in, a row comes out"
    )


def test_calls_within_a_call_count_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A branch is a function that calls kernels: its own time is what is left of it."""
    recorder = profiling._Recorder(None, ())
    moments = iter([0.0, 1.0, 2.0, 2.0, 5.0, 6.0, 6.5, 10.5, 11.0])
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: next(moments))
    for name, before in [
        ("part", True),
        ("first", True),
        ("first", False),
        ("second", True),
        ("second", False),
    ]:
        recorder(None, name, before, None)
    recorder(None, "part", False, None)
    assert recorder.finish().seconds == [3.0, 3.0, 4.0]
    assert [name for name, *_ in recorder.arguments or ()] == [profiling.BETWEEN, "first", "second"]
