"""What `--precision int8` costs trained networks that nobody here trained or tuned anything for, on data held back.

    python -m edgec.benchmarks.quantised.accuracy FOLDER --data DATA [--document docs/calibration.md] [--only NETWORK…]
        [--reduce-range]

Where the data have labels the loss is one of accuracy. Elsewhere a classifier's own best classes are the labels, so the
loss is the share of examples whose best class changes; other networks are measured by the error of their outputs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from edgec.benchmarks.quantised.documented import common_options, write_between
from edgec.benchmarks.quantised.inputs import Array, crops
from edgec.compiler.frontends import load_source
from edgec.compiler.frontends.source import SourceModel
from edgec.compiler.options import Calibration, CompileOptions
from edgec.compiler.progress import Silent
from edgec.compiler.quantise.calibrate import Calibrated, calibrate
from edgec.compiler.quantise.choose import Choice
from edgec.compiler.quantise.simulate import Simulation
from edgec.runtime import ModelCard, load_card
from edgec.targets import load_target

MARK = "accuracy"
EXAMPLES = 400
CARDS = Path(__file__).parents[2] / "examples" / "cards"


@dataclass(frozen=True)
class Network:
    """A network with examples.

    Attributes:
        model: its file in the data folder.
        examples: its only input with an axis of examples in front, and their labels (none: see the module).
        data: what the examples are.
        classifies: whether its result is a class.
    """

    model: str
    data: str
    examples: Callable[[Path], tuple[Array, Array | None]]
    classifies: bool = False

    @property
    def name(self) -> str:
        """The file's name."""
        return Path(self.model).stem

    @property
    def card(self) -> ModelCard | None:
        """Its model card, if there is one."""
        path = CARDS / f"{self.name}.toml"
        return load_card(path) if path.exists() else None


def _digits(mean: float, scale: float, _data: Path) -> tuple[Array, Array | None]:
    """Handwritten digits of scikit-learn, scanned at 8×8, in a frame of 28×28; with labels."""
    import cv2
    from sklearn.datasets import load_digits

    found = load_digits()
    chosen = np.random.default_rng(3).permutation(len(found.images))[: 3 * EXAMPLES]
    images = np.zeros((len(chosen), 1, 1, 28, 28), np.float32)
    for made, number in zip(images, chosen, strict=True):
        made[0, 0, 4:24, 4:24] = cv2.resize(
            found.images[number] * 15.9, (20, 20), interpolation=cv2.INTER_CUBIC
        )
    return (np.clip(images, 0, 255) - mean) * np.float32(scale), found.target[chosen].astype(np.int64)


def _pictures(
    side: tuple[int, int], mean: float, scale: float, nchw: bool, data: Path
) -> tuple[Array, Array | None]:
    """Crops of photographs."""
    pictures = (np.stack(crops(data, EXAMPLES, *side)).astype(np.float32) - mean) * np.float32(scale)
    return (pictures.transpose(0, 1, 4, 2, 3) if nchw else pictures), None


def _nchw(side: tuple[int, int], mean: float, scale: float) -> Callable[[Path], tuple[Array, Array | None]]:
    return partial(_pictures, side, mean, scale, True)


def _nhwc(side: tuple[int, int], mean: float, scale: float) -> Callable[[Path], tuple[Array, Array | None]]:
    return partial(_pictures, side, mean, scale, False)


CROPS = "crops of photographs"
NETWORKS = (
    Network("onnx/classify/mnist_pytorch_logsoftmax.onnx", "scikit-learn's digits, labelled",
            partial(_digits, 33.3285, 0.0127282), True),
    Network("onnx/classify/mnist_cntk.onnx", "scikit-learn's digits, labelled", partial(_digits, 0.0, 1.0), True),
    Network("onnx/classify/mobilenetv2_035_128_flowers5.onnx", CROPS, _nchw((128, 128), 127.5, 1 / 127.5), True),
    Network("onnx/face/ultraface_rfb_320.onnx", CROPS, _nchw((240, 320), 127, 1 / 128)),
    Network("onnx/face/ultraface_slim_320.onnx", CROPS, _nchw((240, 320), 127, 1 / 128)),
    Network("onnx/face/facemesh_192.onnx", CROPS, _nchw((192, 192), 0, 1 / 255)),
    Network("onnx/face/blazeface_front_128_nhwc.onnx", CROPS, _nhwc((128, 128), 127.5, 1 / 127.5)),
    Network("onnx/hand/hand_landmark_224.onnx", CROPS, _nchw((224, 224), 0, 1 / 255)),
    Network("onnx/segment/selfie_landscape_144x256_nhwc.onnx", CROPS, _nhwc((144, 256), 0, 1 / 255)),
    Network("onnx/detect/lightweight_person_192.onnx", CROPS, _nchw((192, 192), 0, 1)),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What quantisation cost a network."""

    network: Network
    calibrated: Calibrated
    choice: Choice

    def line(self) -> str:
        """A line of the table."""
        whole, mixed = self.choice.all_in_int8, self.choice.quality
        exact, lost = "", f"error {whole.error:.2%}"
        if whole.drop is not None and whole.exact is not None:
            exact = f"{whole.exact:.2%}"
            lost = f"{whole.drop.value:.2%} ({whole.drop.low:.2%} to {whole.drop.high:.2%})"
        kept = mixed.drop.value if mixed.drop is not None else mixed.error
        layers = f"{len(self.choice.positions)} of {len(self.calibrated.layers)}: {kept:.2%}"
        network = self.network
        return (
            f"| {network.name} | {network.data} | {whole.examples} | {exact} | {lost} | {layers} | "
            f"{self.calibrated.recipe.name} |"
        )


def _classes(source: SourceModel, examples: Array) -> Array:
    """What the float model takes the examples for."""
    run, (port,) = Simulation(source).run, source.inputs
    (output,) = (one.name for one in source.outputs)
    return np.array([int(np.argmax(run({port.name: example})[output])) for example in examples])


def row_of(network: Network, data: Path, folder: Path, reduce_range: bool = False) -> Row:
    """Quantise a network with half of its examples and measure it on the others."""
    first, labels = network.examples(data)
    source = load_source(data / network.model, CompileOptions())
    (port,) = source.inputs
    examples = first.astype(port.dtype).reshape(len(first), *port.shape)
    arrays = {port.name: examples}
    if network.classifies:
        arrays["labels"] = _classes(source, examples) if labels is None else labels
    file = folder / f"{network.name}.npz"
    np.savez(file, allow_pickle=False, **arrays)
    drop, error = (0.01, None) if network.classifies else (None, 0.1)
    calibration = Calibration(file, max_drop=drop, max_error=error, reduce_range=reduce_range)
    calibrated = calibrate(source, calibration, load_target("host"), network.card, Silent())
    return Row(network, calibrated, calibrated.choose(Silent()))


def table(rows: Sequence[Row]) -> str:
    """The rows as a table of Markdown."""
    lines = [
        "| network | data | held back | fp32 | lost with all layers in int8 | int8 layers within the bound | recipe |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    return "\n".join([*lines, *(row.line() for row in rows)]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Quantise, print and document."""
    parser = common_options(__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="networks whose names contain one of these")
    parser.add_argument("--reduce-range", action="store_true", help="as of `edgec compile`")
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    chosen = [n for n in NETWORKS if not given.only or any(part in n.name for part in given.only)]
    rows = []
    for network in chosen:
        rows.append(row_of(network, given.data, given.folder, given.reduce_range))
        print(rows[-1].line(), flush=True)
    if given.document is not None:
        write_between(given.document, MARK, table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
