"""Run float and quantised models in ONNX Runtime, with Q and DQ as rounding in float32.

Its own integer kernels are not used: they saturate on CPUs without VNNI, and what is compiled later does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper

from edgec.compiler.frontends.onnx.ort_session import ORT_ERRORS, UNSOUND
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.quantise.errors import CalibrationError
from edgec.compiler.quantise.portions import in_portions
from edgec.compiler.verify.inputs import Arrays

MOST_OBSERVED = 256 << 20  # bytes of activations that one run may return


class Simulation:
    """A model in ONNX Runtime.

    Args:
        source: names the inputs and outputs.
        model: what to run; by default the source's own.
        further: values that are returned beside the outputs.

    Raises:
        CalibrationError: ONNX Runtime rejects the model.
    """

    def __init__(
        self,
        source: SourceModel,
        model: ModelProto | None = None,
        further: Sequence[str] = (),
        threads: int = 0,
    ) -> None:
        given = model or source.model
        self.names = [port.name for port in source.outputs] + list(further)
        if further:
            copy = ModelProto()
            copy.CopyFrom(given)
            have = {value.name for value in copy.graph.output}
            copy.graph.output.extend(
                helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
                for name in further
                if name not in have
            )
            given = copy
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        # whose threads spin takes the cores from what is measured meanwhile
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(
                given.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=UNSOUND,
            )
        except ORT_ERRORS as error:
            raise CalibrationError(
                f"{source.path}: ONNX Runtime does not run the prepared model, which quantisation needs: "
                f"{str(error).splitlines()[0][:200]}"
            ) from error

    def run(self, inputs: Arrays) -> Arrays:
        """The outputs, and the further values, by name.

        Raises:
            CalibrationError: the model fails on these inputs.
        """
        try:
            values = self._session.run(self.names, inputs)
        except ORT_ERRORS as error:
            raise CalibrationError(
                f"the model fails on an example: {str(error).splitlines()[0][:200]}"
            ) from error
        return dict(zip(self.names, values, strict=True))


def batches(names: Sequence[str], bytes_of: dict[str, int]) -> Iterator[list[str]]:
    """Names in groups whose values together stay within `MOST_OBSERVED`."""
    return in_portions(names, lambda name: bytes_of.get(name, 0), MOST_OBSERVED)


def sizes_of(model: ModelProto) -> dict[str, int]:
    """Bytes of each float value whose shape is known."""
    found = {}
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        found[value.name] = 4 * int(np.prod([max(d.dim_value, 1) for d in dims], dtype=np.int64))
    return found
