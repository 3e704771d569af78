"""Train the keyword spotter: `python -m edgec.models.training.keywords RECORDINGS FOLDER`.

RECORDINGS is a folder of the Free Spoken Digit Dataset (`<digit>_<speaker>_<n>.wav`, 8 kHz). One speaker is
kept from training, and what is stated about the model is measured on that speaker's recordings. Silence comes
from generated noise; unknown speech from digits turned round or cut and joined, from generated speech, and
from music. Takes three minutes on one core, and the extra `train` (PyTorch).
"""

from __future__ import annotations

import argparse
import wave
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgec.models.graph import Graph
from edgec.models.reference import Reference
from edgec.models.synthetic.sounds import RATE, Pool, Rng, active_power
from edgec.models.training.audio import Network, log_mel, train, weights_of
from edgec.models.zoo.sound import DIGITS, KEYWORDS, keywords
from edgec.runtime.card import ModelCard
from edgec.runtime.card.file import load_card

Floats = NDArray[np.float32]
CARD = Path(__file__).resolve().parent.parent / "trained" / "keywords-digits.toml"
SILENCE, UNKNOWN = KEYWORDS.index("_silence_"), KEYWORDS.index("_unknown_")
COPIES, EPOCHS = 5, 14


def read_wav(path: Path) -> Floats:
    """Read mono 16-bit samples as -1 to 1, resampled from 8 to 16 kHz with an empty upper half of the spectrum."""
    with wave.open(str(path)) as file:
        rate = file.getframerate()
        x = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) * np.float32(2.0**-15)
    if rate == RATE:
        return x
    if rate * 2 != RATE:
        raise ValueError(f"{path}: {rate} Hz; the data set is of 8,000 Hz")
    return np.asarray(np.fft.irfft(np.fft.rfft(x), 2 * len(x)) * 2, np.float32)


def recordings(folder: Path) -> dict[str, list[tuple[int, Floats]]]:
    """Digit and samples of every recording, by speaker."""
    found: dict[str, list[tuple[int, Floats]]] = defaultdict(list)
    for path in sorted(folder.glob("*_*_*.wav")):
        digit, speaker, _ = path.stem.split("_")
        found[speaker].append((int(digit), read_wav(path)))
    return dict(found)


def _varied(x: Floats, rng: Rng) -> Floats:
    """Augment a recording: random speed and pitch, timbre and loudness."""
    speed = rng.uniform(0.82, 1.2)
    x = np.interp(np.arange(0, len(x) - 1, speed), np.arange(len(x)), x)
    spectrum = np.fft.rfft(x)
    knots = np.linspace(0, len(spectrum) - 1, 9)
    spectrum *= 10 ** (np.interp(np.arange(len(spectrum)), knots, rng.uniform(-8, 8, 9)) / 20)
    return np.fft.irfft(spectrum, len(x)).astype(np.float32)


def _placed(x: Floats, background: Floats, snr_db: float, rng: Rng) -> Floats:
    """Place `x` (cut to a second) randomly in a second of background, at a random level."""
    x = x[:RATE]
    window = np.zeros(RATE, np.float32)
    begin = int(rng.integers(0, RATE - len(x) + 1))
    window[begin : begin + len(x)] = x
    power = active_power(x) if len(x) >= RATE // 10 else float(np.mean(x**2))
    window += background * np.float32(np.sqrt(max(power, 1e-12) / 10 ** (snr_db / 10)))
    level = 10 ** (rng.uniform(-32, -3) / 20) / max(1e-9, float(np.abs(window).max()))
    return window * np.float32(level)


def _unknown(clips: list[tuple[int, Floats]], pool: Pool, rng: Rng) -> Floats:
    kind = rng.random()
    x = clips[int(rng.integers(len(clips)))][1]
    if kind < 0.3:
        return x[::-1]
    if kind < 0.7:
        other = clips[int(rng.integers(len(clips)))][1]
        a, b = int(len(x) * rng.uniform(0.3, 0.6)), int(len(other) * rng.uniform(0.4, 0.7))
        return np.concatenate([other[b:], x[:a]])
    return pool(str(rng.choice(["speech", "speech", "music", "alarm", "knock"])), rng, RATE * 4 // 5)


def examples(
    clips: list[tuple[int, Floats]],
    pool: Pool,
    rng: Rng,
    *,
    copies: int,
    snr_db: tuple[float, float],
    vary: bool,
) -> tuple[Floats, NDArray[np.int64]]:
    """Generate windows `[n, 16000]` and their classes: each digit `copies` times, fewer of the others."""
    windows, classes = [], []

    def add(x: Floats, kind: int) -> None:
        noise = pool(str(rng.choice(["coloured", "hum", "wind", "machine", "rain"])), rng, RATE)
        windows.append(_placed(x, noise, rng.uniform(*snr_db), rng))
        classes.append(kind)

    for _ in range(copies):
        for digit, x in clips:
            add(_varied(x, rng) if vary else x, digit)
        for _ in range(len(clips) // 5):
            x = _unknown(clips, pool, rng)
            add(_varied(x, rng) if vary else x, UNKNOWN)
        for _ in range(len(clips) // 10):
            quiet = (
                np.zeros(RATE, np.float32)
                if rng.random() < 0.7
                else pool("clicks", rng, RATE) * np.float32(1e-3)
            )
            add(quiet + np.float32(1e-4) * pool("coloured", rng, RATE), SILENCE)
    return np.stack(windows), np.array(classes)


def scores_of(weights: dict[str, NDArray[np.float16]], windows: Floats, card: ModelCard) -> Floats:
    """Probabilities `[n, 12]` from the exported model in ONNX Runtime."""
    graph = Graph("keywords-digits", {k: v.astype(np.float32) for k, v in weights.items()})
    model = Reference(graph.finish(keywords(graph)).SerializeToString(), card)
    logits = np.stack([model.scores(window) for window in windows])
    odds = np.exp(logits - logits.max(1, keepdims=True))
    result: Floats = odds / odds.sum(1, keepdims=True)
    return result


def report(scores: Floats, classes: NDArray[np.int64], threshold: float) -> str:
    """Accuracy over the digits, the share above the threshold, and the rate of false alarms by others."""
    digits = classes < len(DIGITS)
    best, score = scores.argmax(1), scores.max(1)
    right = best[digits] == classes[digits]
    reported = (best < len(DIGITS)) & (score >= threshold)
    return (
        f"digits right {right.mean():.3f}; at {threshold}: right {np.mean(right & reported[digits]):.3f}, "
        f"wrong {np.mean(~right & reported[digits]):.3f}; false from unknown "
        f"{reported[classes == UNKNOWN].mean():.3f}, from silence {reported[classes == SILENCE].mean():.3f}"
    )


def run(
    speakers: dict[str, list[tuple[int, Floats]]], held_back: str, card: ModelCard
) -> dict[str, NDArray[np.float16]]:
    """Train without one speaker, evaluate on that speaker, return the weights."""
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    pool = Pool(np.random.default_rng(2), 60)
    known = [clip for name, clips in speakers.items() if name != held_back for clip in clips]
    windows, classes = examples(known, pool, rng, copies=COPIES, snr_db=(0, 35), vary=True)
    network = Network(len(KEYWORDS))
    train(
        network, log_mel(windows, card), torch.from_numpy(classes),
        nn.CrossEntropyLoss(label_smoothing=0.05), epochs=EPOCHS, seed=3,
    )  # fmt: skip
    weights = weights_of(network)
    unheard = Pool(np.random.default_rng(1_000_003), 20)
    for snr_db in (30.0, 10.0, 0.0):
        rng = np.random.default_rng(4)
        windows, classes = examples(
            speakers[held_back], unheard, rng, copies=1, snr_db=(snr_db, snr_db), vary=False
        )
        result = report(scores_of(weights, windows, card), classes, 0.7)
        print(f"{held_back} unheard, {snr_db:g} dB: {result}", flush=True)
    return weights


def main() -> None:
    """Train, evaluate and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("folder", type=Path, help="where to write keywords-digits.npz")
    parser.add_argument("--held-back", default="theo", help="the speaker to measure on")
    parser.add_argument("--each", action="store_true", help="measure with every speaker held back in turn")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    card = load_card(CARD)
    speakers = recordings(arguments.recordings)
    for name in speakers if arguments.each else [arguments.held_back]:
        weights = run(speakers, name, card)
        if name == arguments.held_back:
            np.savez_compressed(arguments.folder / "keywords-digits.npz", allow_pickle=False, **weights)


if __name__ == "__main__":
    main()
