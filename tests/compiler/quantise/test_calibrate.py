"""Quantising a small network: what the model holds, how near it is, and what bad data get."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from edgec.compiler.backends.cpu.layouts.byte_pairs import stays_in_16_bits
from edgec.compiler.options import Calibration
from edgec.compiler.progress import Silent
from edgec.compiler.quantise.calibrate import Calibrated, calibrate
from edgec.compiler.quantise.errors import BoundNotMet, CalibrationError
from edgec.runtime.card import Classification, ModelCard, TensorInput
from edgec.targets import load_target
from tests.compiler.onnx_models import model_of
from tests.compiler.quantise.small import network, npz, pictures, source_in

X86, ARM = "x86-64-v4", "rpi5"


def calibrated(
    folder: Path,
    model: onnx.ModelProto | None = None,
    target: str = X86,
    progress: Silent | None = None,
    **options: object,
) -> Calibrated:
    data = npz(folder, pictures(64))
    calibration = Calibration(data, **options)  # type: ignore[arg-type]
    return calibrate(source_in(folder, model), calibration, load_target(target), None, progress or Silent())


def everything(made: Calibrated) -> frozenset[int]:
    return frozenset(layer.position for layer in made.layers)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": one})[0] for one in x])


def test_weights_are_symmetric_per_channel_and_activations_have_a_zero_point(tmp_path: Path) -> None:
    made = calibrated(tmp_path)
    model = made.model(everything(made)).model
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    by_output = {name: node for node in model.graph.node for name in node.output}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == 5
    for node in layers:
        data, weight = by_output[node.input[0]], by_output[node.input[1]]
        assert (data.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        values, scales, zeros = (held[name] for name in weight.input)
        assert values.dtype == np.int8
        assert values.min() >= -127
        assert not zeros.any()
        axis = next(a.i for a in weight.attribute if a.name == "axis")
        assert scales.shape == (values.shape[axis],)
        assert held[data.input[2]].dtype == np.uint8
        if len(node.input) > 2:
            bias = by_output[node.input[2]]
            whole, step, _ = (held[name] for name in bias.input)
            assert whole.dtype == np.int32
            np.testing.assert_allclose(step, held[data.input[1]] * scales, rtol=1e-6)
    carriers = [
        node for node in model.graph.node if node.op_type in ("Add", "MaxPool", "Concat", "AveragePool")
    ]
    for node in carriers:
        assert all(by_output[name].op_type == "DequantizeLinear" for name in node.input)
    assert by_output["y"].op_type == "Gemm"  # what nothing in integers reads is not rounded


class Noting(Silent):
    """Keeps what the user is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_reduced_range_holds_no_pair_of_weights_that_saturates(tmp_path: Path) -> None:
    for reduced in (False, True):
        told = Noting()
        made = calibrated(tmp_path, progress=told, calibrator="minmax", reduce_range=reduced)
        assert any("--reduce-range" in note for note in told.notes) != reduced
        weights = made.recipe.parameters(everything(made)).weights
        layers = [weights[layer.position].values for layer in made.layers if layer.kind == "Conv"]
        assert len(layers) == 4
        assert all(stays_in_16_bits(values, 1) for values in layers) == reduced
        assert ("reduced range" in made.recipe.applied) == reduced
    plain, paired = made.tried["minmax"], made.tried["minmax + reduced range"]
    assert paired < 1.2 * plain


def test_signed_and_unsigned_activations_are_the_same_model(tmp_path: Path) -> None:
    x = pictures(4, seed=9)
    found = []
    for target in (X86, ARM):
        made = calibrated(tmp_path, target=target)
        found.append(run(made.model(everything(made)).model, x))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("calibrator", ["minmax", "percentile", "entropy", "mse"])
def test_every_calibrator_comes_near_the_float_model(calibrator: str, tmp_path: Path) -> None:
    made = calibrated(tmp_path, calibrator=calibrator)
    quality = made.evaluator.of(made.model(everything(made)))
    assert 0 < quality.error < 0.06
    assert next(iter(made.tried)) == calibrator


def test_any_choice_of_layers_is_a_valid_model(tmp_path: Path) -> None:
    made = calibrated(tmp_path, calibrator="minmax")
    x = pictures(4, seed=3)
    exact = run(made.structure.model, x)
    positions = sorted(everything(made))
    for bits in range(2 ** len(positions)):
        chosen = [p for k, p in enumerate(positions) if bits >> k & 1]
        model = made.model(chosen).model
        onnx.checker.check_model(model, full_check=True)
        assert sum(n.op_type == "QuantizeLinear" for n in model.graph.node) >= bool(chosen)
        np.testing.assert_allclose(run(model, x), exact, atol=0.1 * np.abs(exact).max())


def test_a_large_bias_beside_small_weights_fits_into_32_bits(tmp_path: Path) -> None:
    model = network()
    for tensor in model.graph.initializer:
        if tensor.name == "w0":
            values = numpy_helper.to_array(tensor).copy()
            values[0] *= 1e-9  # a dead channel, as pruning or a batch norm leaves it
            tensor.CopyFrom(numpy_helper.from_array(values, "w0"))
    made = calibrated(tmp_path, model, calibrator="minmax")
    quantised = made.model(everything(made)).model
    held = {t.name: numpy_helper.to_array(t) for t in quantised.graph.initializer}
    biases = [a for a in held.values() if a.dtype == np.int32]
    assert all(np.abs(b.astype("i8")).max() <= 2**30 + 2**8 for b in biases)  # scales are float32
    x = pictures(4, seed=3)
    exact = run(made.structure.model, x)
    np.testing.assert_allclose(run(quantised, x), exact, atol=0.1 * np.abs(exact).max())


def test_layers_that_cost_too_much_stay_in_floating_point(tmp_path: Path) -> None:
    made = calibrated(tmp_path, network(sensitive=300.0), max_error=0.02)
    choice = made.choose(Silent())
    assert not made.bound.holds(choice.all_in_int8)
    assert 0 < len(choice.positions) < len(made.layers)
    assert choice.quality.error <= 0.02
    again = made.evaluator.of(made.model(choice.positions))
    assert again == choice.quality
    worst = max(choice.alone, key=lambda position: choice.alone[position])
    assert worst not in choice.positions


def test_a_bound_that_cannot_be_kept_is_refused_with_what_was_reached(tmp_path: Path) -> None:
    with pytest.raises(BoundNotMet, match=r"all 5 layers have an output error of .*%.*\(accepted 0%\)"):
        calibrated(tmp_path, max_error=0.0).choose(Silent())


def bad(x: np.ndarray, at: int, value: float) -> np.ndarray:
    x = x.copy()
    x[at, 0, 0, 2, 2] = value
    return x


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        (pictures(5), "5 examples are too few .* at least 16"),
        (np.ones((64, 1, 3, 16, 16), "f4"), "a single constant value"),
        (pictures(1).repeat(64, axis=0), "all examples are the same"),
        (pictures(64)[..., :8], r"'x' is \[64, 1, 3, 16, 8\]; examples of .* one axis more in front"),
        (bad(pictures(64), 7, np.nan), "example 7 of examples.npz: .* NaN or infinite"),
        (bad(pictures(64), 9, np.inf), "example 9 of examples.npz: .* NaN or infinite"),
    ],
    ids=["few", "constant", "same", "shape", "nan", "inf"],
)
def test_data_that_say_nothing_are_refused_in_two_lines(
    arrays: np.ndarray, told: str, tmp_path: Path
) -> None:
    data = npz(tmp_path, arrays)
    with pytest.raises(CalibrationError, match=told) as caught:
        calibrate(source_in(tmp_path), Calibration(data), load_target(X86), None, Silent()).choose(Silent())
    assert len(str(caught.value).splitlines()) <= 2


def test_a_file_that_is_no_npz_or_lacks_an_input_is_refused(tmp_path: Path) -> None:
    source = source_in(tmp_path)
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(b"PK nothing")
    other = tmp_path / "other.npz"
    np.savez(other, z=pictures(64))
    for path, told in (
        (damaged, "not an .npz file"),
        (other, "has no array 'x'"),
        (tmp_path / "m.txt", "not a folder"),
    ):
        with pytest.raises(CalibrationError, match=told):
            calibrate(source, Calibration(path), load_target(X86), None, Silent())


def test_labels_that_are_no_classes_or_never_right_are_refused(tmp_path: Path) -> None:
    """A loss of accuracy from nothing is nothing: it would hold any bound."""
    card = ModelCard(input=TensorInput(), output=Classification(), labels=tuple("abcde"))
    x, source = pictures(40), source_in(tmp_path)
    best = [int(run(source.model, one[None]).argmax()) for one in x]

    def told(labels: list[int]) -> str:
        data = tmp_path / "labelled.npz"
        np.savez(data, x=x, labels=np.array(labels))

        def quantise() -> None:
            calibrate(source, Calibration(data, max_drop=0.01), load_target(X86), card, Silent()).choose(
                Silent()
            )

        with pytest.raises(CalibrationError) as caught:
            quantise()
        return str(caught.value)

    assert "the class of example 3 is 5, and the model card has 5 labels" in told([*best[:3], 5, *best[4:]])
    never = told([(one + 1) % 5 for one in best])
    assert "the float model gets none of 20 labelled examples right" in never
    assert len(never.splitlines()) <= 2


def test_what_is_quantised_already_or_has_nothing_to_quantise_is_refused(tmp_path: Path) -> None:
    made = calibrated(tmp_path)
    with pytest.raises(CalibrationError, match="quantised already"):
        calibrate(
            made.model(everything(made)),
            Calibration(tmp_path / "examples.npz"),
            load_target(X86),
            None,
            Silent(),
        )
    plain = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 3, 16, 16]}, ["y"], {})
    with pytest.raises(CalibrationError, match="nothing to quantise"):
        calibrated(tmp_path, plain)
