"""The table of targets, from figures that are given; and the figure of a real compile."""

from pathlib import Path

from edgec.benchmarks.arm.every_target import arm_targets, table

FOUND = {
    "a/model.onnx|rpi5|fp32": {"error": 1.2e-7, "where": "qemu"},
    "b/model.onnx|rpi5|fp32": {"error": 3.4e-8, "where": "qemu"},
    "a/model.onnx|rpi4|fp32": {"failure": "an output differs"},
    "b/model.onnx|rpi4|fp32": {"error": 2e-8, "where": "qemu"},
    "a/model.onnx|rpi5|fp16": {"error": 1e-4, "where": "qemu"},
    "a/model.onnx|rpi4|fp16": {"failure": "rpi4 has no half-precision vectors", "lacks": True},
}


def test_a_row_has_the_largest_error_of_each_precision_and_tells_what_failed():
    rows = table(FOUND, ["rpi5", "rpi4"], ["fp32", "fp16"]).splitlines()[2:]
    assert rows == [
        "| `rpi5` | qemu | 1e-07 of 2 | 0.0001 of 1 |",
        "| `rpi4` | qemu | 2e-08 of 1, 1 refused | – |",
    ]


def test_the_boards_are_among_the_targets_and_gpus_are_not():
    found = arm_targets()
    assert {"rpi3", "rpi5", "graviton4", "jetson-orin"} <= set(found)
    assert "jetson-orin-gpu" not in found
    assert all(Path(name).name == name for name in found)
