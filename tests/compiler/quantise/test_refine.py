"""Refinements: what they promise about functions, means and errors, on generated weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.compiler.options import Calibration
from edgec.compiler.progress import Silent
from edgec.compiler.quantise.calibrate import calibrate
from edgec.compiler.quantise.dataset import open_dataset
from edgec.compiler.quantise.moments import gather
from edgec.compiler.quantise.refine import _descend, corrected_bias, equalised, filters, learned_rounding
from edgec.compiler.quantise.simulate import Simulation
from edgec.compiler.quantise.structure import Structure
from edgec.targets import load_target
from tests.compiler.quantise.small import npz, pictures, source_in


@given(st.integers(1, 6), st.integers(1, 24), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_learned_rounding_stays_beside_the_weights_and_is_never_worse(
    rows: int, inner: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    steps = rng.uniform(-127, 127, (rows, inner))
    mixing = rng.standard_normal((inner, inner))
    second = mixing @ mixing.T / inner
    made = _descend(steps, second)
    assert (np.abs(made - steps) < 1).all()
    assert (made == np.rint(made)).all()

    def error(rounded: np.ndarray) -> np.ndarray:
        lost = rounded - steps
        return np.einsum("fi,ij,fj->f", lost, second, lost)

    damped = 0.001 * np.mean(np.diag(second)) * inner  # what the damping may trade
    assert (error(made) <= error(np.rint(steps)) + damped).all()


def test_learned_rounding_finds_the_optimum_of_few_weights() -> None:
    rng = np.random.default_rng(5)
    steps = rng.uniform(-9, 9, (1, 8))
    mixing = rng.standard_normal((8, 8))
    second = mixing @ mixing.T
    choices = np.array(np.meshgrid(*[(0, 1)] * 8)).reshape(8, -1).T + np.floor(steps)
    lost = choices - steps
    best = np.einsum("fi,ij,fj->f", lost, second, lost).min()
    found = _descend(steps, second) - steps
    assert float(np.einsum("fi,ij,fj->f", found, second, found)[0]) <= 2.0 * best
    nearest = np.rint(steps) - steps
    assert best < float(np.einsum("fi,ij,fj->f", nearest, second, nearest)[0])


def test_equalised_channels_leave_the_function_and_even_out_the_weights(tmp_path: Path) -> None:
    source = source_in(tmp_path)
    structure = Structure(source)
    flat = equalised(structure)
    assert flat is not None
    x = {"x": pictures(1)[0]}
    np.testing.assert_allclose(
        Simulation(flat).run(x)["y"], Simulation(source).run(x)["y"], rtol=1e-4, atol=1e-5
    )
    made = Structure(flat)
    names = {layer.name: layer for layer in made.layers}
    first, second = names["depthwise"], names["pointwise"]
    own = np.abs(made.array(first.weight)).reshape(8, -1).max(axis=1)
    into = np.abs(made.array(second.weight)).swapaxes(0, 1).reshape(8, -1).max(axis=1)
    np.testing.assert_allclose(own, into, rtol=1e-3)


def test_corrected_biases_take_the_shift_of_the_mean_away(tmp_path: Path) -> None:
    source, data = source_in(tmp_path), npz(tmp_path, pictures(64))
    made = calibrate(source, Calibration(data, calibrator="minmax"), load_target("x86-64-v4"), None, Silent())
    recipe, structure = made.recipe, made.recipe.structure
    examples = open_dataset(data, source, None)
    moments = gather(structure, recipe.model(recipe.everything), examples, lambda: None)
    weights = recipe.parameters(recipe.everything).weights
    for layer in structure.layers:
        assert moments[layer.position].mean.shape[0] == layer.groups
        exact = structure.array(layer.weight).astype("f8")
        one = weights[layer.position]
        shape = [-1 if a == layer.axis else 1 for a in range(exact.ndim)]
        error = filters(one.values * one.scales.reshape(shape) - exact, layer.axis, layer.groups)
        shift = np.einsum("gfi,gi->gf", error, moments[layer.position].mean).reshape(-1)
        bias = structure.array(layer.bias).reshape(-1) if layer.bias else np.zeros(len(shift))
        corrected = corrected_bias(structure, layer, one, moments[layer.position])
        assert corrected is not None
        np.testing.assert_allclose(corrected, bias - shift, atol=1e-6)


def test_moments_are_those_of_the_patches_that_filters_see(tmp_path: Path) -> None:
    """The output that the moments predict for a filter is the mean of what the convolution computes."""
    source, data = source_in(tmp_path), npz(tmp_path, pictures(16))
    structure = Structure(source)
    moments = gather(structure, source, open_dataset(data, source, None), lambda: None)
    model = Simulation(source, further=[layer.output for layer in structure.layers])
    runs = [model.run({"x": x}) for x in pictures(16)]
    for layer in structure.layers:
        weights = filters(structure.array(layer.weight), layer.axis, layer.groups)
        predicted = np.einsum("gfi,gi->gf", weights, moments[layer.position].mean).reshape(-1)
        values = np.stack([run[layer.output] for run in runs])
        seen = (
            values.mean(axis=tuple(a for a in range(values.ndim) if a != 2))
            if values.ndim > 3
            else values.mean((0, 1))
        )
        bias = structure.array(layer.bias).reshape(-1) if layer.bias else 0
        spread = values.std() + 1e-3
        np.testing.assert_allclose(predicted + bias, seen, atol=0.15 * spread)  # positions are sampled


def test_rounding_learned_from_the_layer_changes_its_output_less(tmp_path: Path) -> None:
    source, data = source_in(tmp_path), npz(tmp_path, pictures(64))
    made = calibrate(source, Calibration(data, calibrator="minmax"), load_target("x86-64-v4"), None, Silent())
    recipe, structure = replace(made.recipe, weights={}), made.recipe.structure  # rounded to the nearest
    moments = gather(
        structure, recipe.model(recipe.everything), open_dataset(data, source, None), lambda: None
    )
    weights = recipe.parameters(recipe.everything).weights
    gained: list[float] = []
    for layer in structure.layers:
        at, exact = layer.position, structure.array(layer.weight).astype("f8")
        learned = learned_rounding(structure, layer, weights[at], moments[at])
        assert learned is not None
        assert learned.values.shape == weights[at].values.shape
        shape = [-1 if a == layer.axis else 1 for a in range(exact.ndim)]

        scales, second = weights[at].scales.reshape(shape), moments[at].second
        assert second is not None
        before, after = (
            filters(values * scales - exact, layer.axis, layer.groups)
            for values in (weights[at].values, learned.values)
        )
        errors = [float(np.einsum("gfi,gij,gfj->", lost, second, lost)) for lost in (before, after)]
        assert errors[1] <= 1.001 * errors[0]
        gained.append(errors[1] / errors[0])
    assert np.mean(gained) < 0.9
