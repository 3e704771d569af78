"""Train the sound-event model on generated sounds: `python -m edgec.models.training.sound_events FOLDER`.

Evaluated on sounds of other seeds over backgrounds that are not in the training data (a machine, rain), at stated
signal-to-noise ratios. Takes four minutes on one core, and the extra `train` (PyTorch).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgec.models.graph import Graph
from edgec.models.reference import Reference
from edgec.models.synthetic.sounds import EVENTS, Pool, Rng, Source, fresh, mix
from edgec.models.training.audio import Network, log_mel, train, weights_of
from edgec.models.zoo.sound import events
from edgec.runtime.card import ModelCard
from edgec.runtime.card.file import load_card

Floats = NDArray[np.float32]
CARD = Path(__file__).resolve().parent.parent / "trained" / "sound-events.toml"
CLIPS, EPOCHS, POOL = 9000, 14, 120
THRESHOLD = 0.5


def examples(
    rng: Rng, count: int, source: Source, *, snr_db: tuple[float, float], held_back: bool
) -> tuple[Floats, Floats]:
    """Generate windows `[n, 16000]` with none, one or two events, and labels `[n, 4]`."""
    windows, present = [], []
    for _ in range(count):
        number = int(rng.choice([0, 1, 2], p=[0.3, 0.5, 0.2]))
        names = tuple(str(name) for name in rng.choice(EVENTS, number, replace=False))
        clip = mix(
            rng, names, float(rng.uniform(*snr_db)), held_back=held_back, other=rng.random() < 0.35,
            source=source,
        )  # fmt: skip
        windows.append(clip.samples)
        present.append(clip.present)
    return np.stack(windows), np.stack(present)


def scores_of(weights: dict[str, NDArray[np.float16]], windows: Floats, card: ModelCard) -> Floats:
    """Probabilities `[n, 4]` from the exported model in ONNX Runtime."""
    graph = Graph("sound-events", {k: v.astype(np.float32) for k, v in weights.items()})
    model = Reference(graph.finish(events(graph)).SerializeToString(), card)
    logits = np.stack([model.scores(window) for window in windows])
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


def report(scores: Floats, present: Floats) -> str:
    """Precision and recall at the threshold, event by event, and their harmonic mean over all."""
    found, wanted = scores >= THRESHOLD, present > 0.5
    parts = []
    for i, name in enumerate(EVENTS):
        right = float((found & wanted)[:, i].sum())
        parts.append(
            f"{name} {right / max(1, found[:, i].sum()):.2f}/{right / max(1, wanted[:, i].sum()):.2f}"
        )
    f1 = 2 * (found & wanted).sum() / max(1, found.sum() + wanted.sum())
    return f"F1 {f1:.3f}; precision/recall: {', '.join(parts)}"


def main() -> None:
    """Train, write the weights and print their accuracy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write sound-events.npz")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    card = load_card(CARD)
    pool = Pool(np.random.default_rng(1), POOL)
    windows, present = examples(np.random.default_rng(2), CLIPS, pool, snr_db=(-6, 30), held_back=False)
    network = Network(len(EVENTS))
    train(
        network, log_mel(windows, card), torch.from_numpy(present), nn.BCEWithLogitsLoss(),
        epochs=EPOCHS, seed=3,
    )  # fmt: skip
    weights = weights_of(network)
    np.savez_compressed(arguments.folder / "sound-events.npz", allow_pickle=False, **weights)
    for snr_db in (20.0, 10.0, 5.0, 0.0, -5.0):
        rng = np.random.default_rng(1_000_003)
        windows, present = examples(rng, 500, fresh, snr_db=(snr_db, snr_db), held_back=True)
        print(f"{snr_db:g} dB: {report(scores_of(weights, windows, card), present)}", flush=True)


if __name__ == "__main__":
    main()
