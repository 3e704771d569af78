"""What activations look like on calibration data: a histogram of each, in one pass over the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.quantise.calibrators import Histogram
from edgec.compiler.quantise.dataset import Dataset, check_varied
from edgec.compiler.quantise.errors import CalibrationError
from edgec.compiler.quantise.simulate import Simulation, batches, sizes_of

COMPARED = 32  # examples that are compared with each other


def observe(
    source: SourceModel, names: Sequence[str], data: Dataset, advance: Callable[[], None]
) -> dict[str, Histogram]:
    """Histograms of the float values `names` on all examples.

    Args:
        source: the model.
        names: of activations and inputs.
        data: the examples.
        advance: called after each example (of each pass, if the activations do not fit into memory together).

    Raises:
        CalibrationError: the data say nothing: constant, all the same, or values that are not finite.
    """
    check_varied(data.first(COMPARED))
    seen = {name: Histogram() for name in names}
    given = [port.name for port in source.inputs]
    inner = [name for name in names if name not in given]
    groups = list(batches(inner, sizes_of(source.model))) or [[]]
    for number, group in enumerate(groups):
        model = Simulation(source, further=group)
        for example in data:
            for inputs in example.inputs:
                found = model.run(inputs)
                for name in group:
                    seen[name].add(found[name])
                if number == 0:
                    for name in given:
                        if name in seen:
                            seen[name].add(inputs[name])
            advance()
    for name in inner:
        if seen[name].empty:
            raise CalibrationError(
                f"{name!r} holds no finite value on any example: the model cannot be calibrated"
            )
    return seen
