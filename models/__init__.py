"""The model zoo: standard architectures, small models trained for edgec, and their cards.

>>> from edgec.models import build, list_models
>>> [entry.name for entry in list_models() if entry.task == "classification"][:2]
['resnet18', 'resnet50']
"""

from edgec.models.catalogue import ZooEntry
from edgec.models.registry import UnknownModel, build, find_model, list_models, sample_inputs
from edgec.targets.telemetry import silence_onnxruntime

silence_onnxruntime()

__all__ = ["UnknownModel", "ZooEntry", "build", "find_model", "list_models", "sample_inputs"]
