"""What produces the tables of speed."""

from edgec.targets.telemetry import silence_onnxruntime

silence_onnxruntime()
