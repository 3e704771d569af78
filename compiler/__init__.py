"""From a trained model to an artifact."""

from edgec.targets.telemetry import silence_onnxruntime

silence_onnxruntime()
