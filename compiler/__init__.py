"""From a trained model to an artifact."""

from edgec.compiler.without_torch import keep_torch_out
from edgec.targets.telemetry import silence_onnxruntime

silence_onnxruntime()
keep_torch_out()
