"""Synthetic sounds: four kinds of events, sounds that resemble them, and backgrounds.

All are generated from formulas and random numbers: mono float32 at 16 kHz, events with a peak of one. Two of the
backgrounds are excluded from training, to evaluate on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
Signal = NDArray[np.float64] | NDArray[np.float32]
Rng = np.random.Generator
RATE = 16000
EVENTS = ("alarm", "glass", "knock", "speech")


def _time(count: int) -> NDArray[np.float64]:
    return np.arange(count) / RATE


def _scaled(x: Signal) -> Samples:
    return (x / max(1e-9, float(np.abs(x).max()))).astype(np.float32)


def _unit(x: Signal) -> Samples:
    """`x` at a root mean square of one."""
    return np.asarray(x / max(1e-9, float(np.sqrt(np.mean(x**2)))), np.float32)


def shaped_noise(rng: Rng, count: int, gain: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Samples:
    """Noise whose spectrum is `gain(frequency in Hz)`, root mean square one."""
    size = 1 << (count - 1).bit_length()
    frequencies = np.fft.rfftfreq(size, 1 / RATE)
    real, imaginary = rng.normal(size=(2, len(frequencies)))
    spectrum = (real + 1j * imaginary) * gain(np.asarray(frequencies, np.float64))
    x = np.fft.irfft(spectrum, size)[:count]
    return _unit(x)


# -- events -----------------------------------------------------------------------------------------------
def alarm(rng: Rng, count: int) -> Samples:
    """Beepers, two-tone sirens, sweeps and bells: loud regular tones between 600 and 4,000 Hz."""
    t = _time(count)
    low = float(np.exp(rng.uniform(np.log(600), np.log(3300))))
    period = rng.uniform(0.12, 0.8)
    phase = (t / period + rng.uniform()) % 1
    kind = int(rng.integers(4))
    pitch, gate = np.full(count, low), np.ones(count)
    if kind == 0:
        gate = (phase < rng.uniform(0.35, 0.7)).astype(float)
    elif kind == 1:
        pitch = np.where(phase < 0.5, low, low * rng.uniform(1.15, 1.6))
    elif kind == 2:
        bend = phase if rng.random() < 0.5 else 1 - np.abs(2 * phase - 1)
        pitch = low * (1 + rng.uniform(0.3, 1.0) * bend)
    else:
        period = rng.uniform(0.06, 0.15)
        gate = np.exp(-((t / period + rng.uniform()) % 1) * rng.uniform(1.0, 3.0))
    gate = np.convolve(gate, np.hanning(81) / np.hanning(81).sum(), "same")
    angle = 2 * np.pi * np.cumsum(pitch) / RATE
    tone = np.sin(angle)
    for order in (2, 3, 4, 5):
        tone = tone + rng.uniform(0, 0.6) * np.sin(order * angle) * (low * order < 7500)
    return _scaled(tone * gate)


def glass(rng: Rng, count: int) -> Samples:
    """Breaking glass: a burst of bright noise, then dozens of high partials ringing and shards falling."""
    t = _time(count)
    start = rng.uniform(0.02, 0.3)
    after = np.maximum(t - start, 0)
    noise = _bright(rng, count, rng.uniform(900, 2500))
    x = noise * np.exp(-after * rng.uniform(9, 30)) * (t >= start)
    for _ in range(int(rng.integers(20, 60))):
        begin = start + rng.exponential(0.12)
        since = np.maximum(t - begin, 0)
        pitch, decay = rng.uniform(1800, 7600), rng.uniform(12, 90)
        ring = np.sin(2 * np.pi * pitch * since) * np.exp(-since * decay)
        x = x + rng.uniform(0.1, 0.7) * np.exp(-(begin - start) * 4) * ring * (t >= begin)
    return _scaled(x)


def knock(rng: Rng, count: int) -> Samples:
    """Two to five knocks on wood: damped modes below 900 Hz with a dull click."""
    t = _time(count)
    modes = [
        (rng.uniform(70, 900), rng.uniform(25, 90), rng.uniform(0.3, 1))
        for _ in range(int(rng.integers(3, 6)))
    ]
    cutoff = rng.uniform(800, 3000)
    click = shaped_noise(rng, count, lambda f: 1 / (1 + (f / cutoff) ** 4))
    gap, begin = rng.uniform(0.11, 0.32), rng.uniform(0.02, 0.2)
    x = np.zeros(count)
    for _ in range(int(rng.integers(2, 6))):
        since = np.maximum(t - begin, 0)
        hit = sum(a * np.sin(2 * np.pi * f * since) * np.exp(-since * d) for f, d, a in modes)
        hit = hit + 0.35 * click * np.exp(-since * 220)
        x += hit * (t >= begin) * rng.uniform(0.6, 1)
        begin += gap * rng.uniform(0.85, 1.15)
    return _scaled(x)


VOWELS = (
    (730, 1090, 2440), (270, 2290, 3010), (530, 1840, 2480), (570, 840, 2410), (300, 870, 2240),
    (440, 1020, 2240), (660, 1720, 2410), (520, 1190, 2390), (490, 1350, 1690),
)  # fmt: skip
"""First three formants of vowels in Hz (Peterson and Barney, 1952)."""


def speech(rng: Rng, count: int) -> Samples:
    """Speech-like sound: a buzzing source through moving formants in syllables, with hisses between them."""
    base, size = float(np.exp(rng.uniform(np.log(80), np.log(270)))), rng.uniform(0.9, 1.2)
    x = np.zeros(count)
    begin = int(rng.uniform(-0.1, 0.15) * RATE)
    while begin < count - RATE // 20:
        length = int(rng.uniform(0.09, 0.32) * RATE)
        if rng.random() < 0.3:
            hiss = _hiss(rng, length // 2, rng.uniform(2500, 6000))
            _add(x, hiss * np.hanning(len(hiss)) * rng.uniform(0.05, 0.25), begin)
            begin += len(hiss) * 3 // 4
        _add(x, _syllable(rng, length, base * rng.uniform(0.85, 1.25), size), begin)
        begin += int(length * rng.uniform(0.75, 1.2)) + (
            int(rng.uniform(0, 0.25) * RATE) if rng.random() < 0.25 else 0
        )
    return _scaled(x)


def _hiss(rng: Rng, length: int, centre: float) -> Samples:
    return shaped_noise(rng, length, lambda f: np.exp(-(((f - centre) / 1400) ** 2)))


def _add(x: NDArray[np.float64], part: Signal, begin: int) -> None:
    skip = max(0, -begin)
    part = part[skip : skip + max(0, len(x) - max(begin, 0))]
    x[max(begin, 0) : max(begin, 0) + len(part)] += part


def _syllable(rng: Rng, length: int, pitch: float, size: float) -> NDArray[np.float64]:
    """One voiced syllable from a vowel to another, by adding harmonics under formant envelopes."""
    share = np.linspace(0, 1, length)
    pitches = pitch * (1 + rng.uniform(-0.2, 0.2) * share) * (1 + 0.01 * np.sin(2 * np.pi * 5 * share))
    angle = 2 * np.pi * np.cumsum(pitches) / RATE
    first, last = (np.array(VOWELS[int(rng.integers(len(VOWELS)))]) * size for _ in range(2))
    widths, gains = np.array([90.0, 120.0, 170.0]), np.array([1.0, 0.5, 0.25])
    knots = np.linspace(0, 1, 5)
    formants = first + (last - first) * knots[:, None]
    harmonics = np.arange(1, int(3800 / pitch) + 1)
    near = (harmonics[None, :, None] * pitch - formants[:, None]) / widths
    envelope = (gains / (1 + near**2)).sum(2) + 0.02
    x = np.zeros(length)
    for i, order in enumerate(harmonics):
        x += np.interp(share, knots, envelope[:, i]) * np.sin(order * angle) / np.sqrt(order)
    return x * np.sin(np.pi * share) ** 0.6 * rng.uniform(0.4, 1)


# -- sounds that are not events -----------------------------------------------------------------------------
def chirps(rng: Rng, count: int) -> Samples:
    """Bird-like chirps: short glides, irregular, unlike a siren's period."""
    x = np.zeros(count)
    for _ in range(int(rng.integers(1, 6))):
        length = int(rng.uniform(0.03, 0.14) * RATE)
        pitch = rng.uniform(2200, 6500) * (1 + rng.uniform(-0.4, 0.4) * np.linspace(0, 1, length))
        tone = np.sin(2 * np.pi * np.cumsum(pitch) / RATE) * np.hanning(length)
        _add(x, tone * rng.uniform(0.3, 1), int(rng.integers(0, count)))
    return _scaled(x)


def music(rng: Rng, count: int) -> Samples:
    """A few plucked notes of the tempered scale, with overtones."""
    x = np.zeros(count)
    begin = 0
    while begin < count:
        length = int(rng.uniform(0.2, 0.9) * RATE)
        t = _time(length)
        for note in rng.integers(-17, 20, int(rng.integers(1, 4))):
            pitch = 440 * 2 ** (int(note) / 12)
            decay = rng.uniform(1.5, 8)
            tone = sum(np.sin(2 * np.pi * pitch * k * t) / k ** rng.uniform(0.8, 2) for k in range(1, 6))
            _add(x, tone * np.exp(-t * decay) * np.minimum(1, t * 100), begin)
        begin += int(length * rng.uniform(0.4, 1))
    return _scaled(x)


def _bright(rng: Rng, length: int, above_hz: float) -> Samples:
    return shaped_noise(rng, length, lambda f: (f > above_hz) * np.ones_like(f))


def clicks(rng: Rng, count: int) -> Samples:
    """Ticks and keyboard clicks: single, sharp, without the body of a knock."""
    x = np.zeros(count)
    for begin in rng.integers(0, count, int(rng.integers(1, 9))):
        length = int(rng.uniform(0.002, 0.012) * RATE)
        low = rng.uniform(1500, 4000)
        burst = _bright(rng, length, low)
        _add(x, burst * np.exp(-np.linspace(0, 5, length)) * rng.uniform(0.3, 1), int(begin))
    return _scaled(x)


# -- backgrounds ------------------------------------------------------------------------------------------
def coloured(rng: Rng, count: int) -> Samples:
    """White to brown noise."""
    slope = rng.uniform(0, 1.2)
    return shaped_noise(rng, count, lambda f: 1 / np.maximum(f, 40.0) ** slope)


def hum(rng: Rng, count: int) -> Samples:
    """Mains hum with harmonics over a little noise."""
    t = _time(count)
    base = float(rng.choice([50.0, 60.0, 100.0, 120.0]))
    x = rng.uniform(0.05, 0.6) * coloured(rng, count).astype(np.float64)
    for order in range(1, 12):
        x += rng.uniform(0, 1) / order * np.sin(2 * np.pi * base * order * t + rng.uniform(0, 6))
    return _unit(x)


def wind(rng: Rng, count: int) -> Samples:
    """Low noise that swells and falls."""
    cutoff = rng.uniform(150, 700)
    x = shaped_noise(rng, count, lambda f: 1 / (1 + (f / cutoff) ** 2))
    swell = np.interp(np.arange(count), np.linspace(0, count, 8), rng.uniform(0.3, 1.5, 8))
    x = x * swell.astype(np.float32)
    return _unit(x)


def machine(rng: Rng, count: int) -> Samples:
    """A motor: noise in bands, swelling with each turn, with a whine."""
    t = _time(count)
    turn = rng.uniform(8, 40)
    centre = rng.uniform(300, 2500)
    x = shaped_noise(rng, count, lambda f: np.exp(-(((f - centre) / (0.5 * centre)) ** 2)) + 0.1)
    swell = 1 + rng.uniform(0.2, 0.8) * np.sin(2 * np.pi * turn * t)
    whine = rng.uniform(0.1, 0.6) * np.sin(2 * np.pi * turn * rng.integers(4, 20) * t)
    return _unit(x * swell + whine)


def rain(rng: Rng, count: int) -> Samples:
    """Thousands of small drops over a bright hiss."""
    drops = np.zeros(count)
    where = rng.integers(0, count, int(rng.uniform(300, 3000) * count / RATE))
    np.add.at(drops, where, rng.exponential(1.0, len(where)) * rng.choice([-1, 1], len(where)))
    kernel = np.exp(-np.arange(60) / rng.uniform(3, 12)) * np.sin(np.arange(60) * rng.uniform(0.6, 2.2))
    x = np.convolve(drops, kernel, "same")
    hiss = shaped_noise(rng, count, lambda f: np.minimum(f / 1000, 1.0))
    x = x / max(1e-9, float(np.sqrt(np.mean(x**2)))) + rng.uniform(0.3, 1.0) * hiss
    return _unit(x)


TRAINING_BACKGROUNDS = ("coloured", "hum", "wind")
HELD_BACK_BACKGROUNDS = ("machine", "rain")
OTHERS = ("chirps", "music", "clicks")
_MAKERS: dict[str, Callable[[Rng, int], Samples]] = {
    f.__name__: f
    for f in (alarm, glass, knock, speech, chirps, music, clicks, coloured, hum, wind, machine, rain)
}
Source = Callable[[str, Rng, int], Samples]
"""Returns a sound by name: a fresh one, or one of a pool."""


def fresh(name: str, rng: Rng, count: int) -> Samples:
    """Generate a new sound of that name, `count` samples."""
    return _MAKERS[name](rng, count)


class Pool:
    """Sounds made in advance, for training: `size` of each name, two seconds long, cut to length on request."""

    def __init__(self, rng: Rng, size: int) -> None:
        self._sounds = {name: [make(rng, 2 * RATE) for _ in range(size)] for name, make in _MAKERS.items()}

    def __call__(self, name: str, rng: Rng, count: int) -> Samples:
        """The beginning of an event (whose onset belongs to it), any part of the other sounds."""
        sounds = self._sounds[name]
        begin = 0 if name in EVENTS else int(rng.integers(2 * RATE - count + 1))
        return sounds[int(rng.integers(len(sounds)))][begin : begin + count]


@dataclass(frozen=True)
class Clip:
    """Generate a second of sound and the events in it, `[len(EVENTS)]` of 0 or 1."""

    samples: Samples
    present: NDArray[np.float32]


def active_power(x: Samples) -> float:
    """Mean square of the loudest half of 20 ms blocks: an event's level, whatever its pauses."""
    step = RATE // 50
    blocks = np.mean(x[: len(x) // step * step].reshape(-1, step).astype(np.float64) ** 2, axis=1)
    return float(np.sort(blocks)[len(blocks) // 2 :].mean())


def mix(
    rng: Rng, events: tuple[str, ...], snr_db: float, *, held_back: bool = False, other: bool = False,
    source: Source = fresh, count: int = RATE,
) -> Clip:  # fmt: skip
    """Events over a background at `snr_db` (level of the active half of an event to the background's).

    An event begins anywhere in the first 0.6 s. `other` adds a sound that is no event, at its own level.
    The whole has a peak of -36 to -6 dBFS.
    """
    backgrounds = HELD_BACK_BACKGROUNDS if held_back else TRAINING_BACKGROUNDS
    x = source(str(rng.choice(backgrounds)), rng, count).astype(np.float64)
    floor = float(np.mean(x**2))
    sounds = [(source(name, rng, count), snr_db) for name in events]
    if other:
        sounds.append((source(str(rng.choice(OTHERS)), rng, count), float(rng.uniform(-5, 25))))
    for sound, level in sounds:
        late = int(rng.uniform(0, 0.6) * RATE)
        gain = np.sqrt(floor * 10 ** (level / 10) / max(active_power(sound), 1e-9))
        x[late:] += sound[: count - late] * gain
    x *= 10 ** (rng.uniform(-36, -6) / 20) / max(1e-9, float(np.abs(x).max()))
    return Clip(x.astype(np.float32), np.array([name in events for name in EVENTS], np.float32))
