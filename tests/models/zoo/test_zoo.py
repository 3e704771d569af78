"""Every model of the zoo: published size, valid ONNX, activations in range, the same bytes each time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgec.models import build, find_model, list_models, sample_inputs
from edgec.models.registry import describe
from edgec.runtime.card.file import load_card

RANDOM = [entry.name for entry in list_models() if not entry.trained]
# name: (parameters, multiply-adds or None, relative tolerance of the multiply-adds); what the papers round,
# the tolerance allows. Sources: torchvision's table of weights ("Num. params", "GIGA-FLOPs"), and as named.
PUBLISHED = {
    "resnet18": (11_689_512, 1.814e9, 1e-3),
    "resnet50": (25_557_032, 4.089e9, 1e-3),
    "mobilenetv1": (4_231_976, 569e6, 2e-3),  # arXiv:1704.04861: 4.2 M, 569 M; count: timm mobilenetv1_100
    "mobilenetv2": (3_504_872, 0.301e9, 2e-3),
    "mobilenetv3-large": (5_483_032, 0.217e9, 3e-3),
    "mobilenetv3-small": (2_542_856, 0.057e9, 1e-2),
    "squeezenet1.1": (1_235_496, 0.349e9, 2e-3),
    "shufflenetv2-1.0": (2_278_604, 0.145e9, 3e-3),
    "efficientnet-lite0": (4_652_008, 407e6, 6e-2),  # authors' table: 4.7 M, 407 M; count: timm
    "densenet121": (7_978_856, 2.834e9, 1e-3),
    "inception-v3": (27_161_264 - 3_326_696, 5.713e9, 1e-3),  # without the auxiliary classifier
    "ssdlite-mobilenetv3": (3_440_060, 0.583e9, 2e-3),
    "yolov8n-640": (3_157_200, 8.7e9 / 2, 1e-2),  # Ultralytics: GFLOPs count a multiply-add twice
    "yolov8n-320": (3_157_200, 8.7e9 / 8, 1e-2),
    "unet": (7_763_041, None, 0.0),  # mateuszbuda/brain-segmentation-pytorch
    "ds-cnn": (23_756, 2.7e6, 2e-2),  # MLPerf Tiny's reference model, trainable parameters
    "vit-tiny": (5_717_416, 1.26e9, 1e-2),  # timm vit_tiny_patch16_224, attention products counted
    "bert-mini": (11_170_560, None, 0.0),  # prajjwal1/bert-mini, after arXiv:1908.08962
}


def test_published_figures_cover_the_zoo() -> None:
    assert set(PUBLISHED) == set(RANDOM)


@pytest.mark.parametrize("name", RANDOM)
def test_model(name: str, tmp_path: Path) -> None:
    """Builds, is valid, has the published cost, and runs with finite outputs that depend on the input."""
    path = build(name, tmp_path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    graph, outputs = describe(name)
    params, macs, tolerance = PUBLISHED[name]
    entry = find_model(name)
    assert (graph.cost.params, graph.cost.macs) == (entry.params, entry.macs)
    assert entry.params == params
    assert macs is None or abs(entry.macs - macs) <= tolerance * macs
    card = tmp_path / "model.toml"
    assert card.exists() == (name != "bert-mini")
    if card.exists():
        assert load_card(card).name == name

    every = [value for node in model.graph.node for value in node.output]
    expected = {out: value.shape for out, value in outputs.items()}
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(value) for value in every)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    first = dict(zip(every, session.run(every, sample_inputs(name, 0)), strict=True))
    second = dict(zip(every, session.run(every, sample_inputs(name, 1)), strict=True))
    for key, value in first.items():
        assert np.isfinite(value).all(), key
        limit = 11_000 if name == "bert-mini" else 1_500 if name.startswith("yolo") else 40
        assert np.abs(value).max() < limit, f"{key} grows to {np.abs(value).max()}"
    for key, shape in expected.items():
        assert first[key].shape == shape
        assert first[key].std() > 1e-4, f"{key} hardly varies"
        change = np.abs(first[key] - second[key]).mean() / np.abs(first[key]).mean()
        assert change > 0.01, f"{key} hardly depends on the input"


@pytest.mark.parametrize("name", ["mobilenetv2", "shufflenetv2-1.0", "bert-mini"])
def test_same_bytes_in_another_process(name: str, tmp_path: Path) -> None:
    """Nothing of a process's state (hash seed, earlier builds, numpy's generator) shows in the file."""
    here = build(name, tmp_path / "here").read_bytes()
    code = f"from edgec.models import build; build({name!r}, {str(tmp_path / 'there')!r})"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert (tmp_path / "there" / "model.onnx").read_bytes() == here
