"""Benchmarks: the commands that produce the tables of speed."""

from edgec.targets.telemetry import silence_onnxruntime
from edgec.targets.without_torch import keep_torch_out

silence_onnxruntime()
keep_torch_out()
