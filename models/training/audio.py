"""Shared by both audio trainings: the network in PyTorch, its training loop, its weights."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edgec.models.zoo.sound import BLOCKS, FIRST, FRAMES
from edgec.runtime.card import AudioInput, ModelCard
from edgec.runtime.processing.audio import AudioPreprocessor

Floats = NDArray[np.float32]


def log_mel(windows: Floats, card: ModelCard) -> Floats:
    """Features `[n, 49, mels]` of windows `[n, samples]`, extracted by the runtime."""
    if not isinstance(card.input, AudioInput):
        raise TypeError(f"the card {card.name} is not for sound")
    front = AudioPreprocessor(card.input, (1, 1, FRAMES, card.input.mels), "float32")
    return np.stack([front.features(window) for window in windows])


class _Block(nn.Module):  # type: ignore[misc]
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Depthwise, then 1×1 convolution, each with batch norm and ReLU."""
        x = functional.relu(self.bn1(self.depthwise(x)))
        return functional.relu(self.bn2(self.pointwise(x)))


class Network(nn.Module):  # type: ignore[misc]
    """The network of `zoo/sound.py`; the names are those of the ONNX graph's weights."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.ModuleDict(
            {"conv": nn.Conv2d(1, FIRST, 5, 2, 2, bias=False), "bn": nn.BatchNorm2d(FIRST)}
        )
        widths = [FIRST, *(out for out, _ in BLOCKS)]
        self.blocks = nn.Sequential(*(_Block(widths[i], out, s) for i, (out, s) in enumerate(BLOCKS)))
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, 1, frames, mels]` to logits `[N, classes]`."""
        x = functional.relu(self.stem["bn"](self.stem["conv"](x)))
        x = self.blocks(x).mean((2, 3))
        return self.fc(functional.dropout(x, 0.2, self.training))


def _masked(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Mask a random span of time and one of frequency, and shift the level (SpecAugment, Park et al. 2019)."""
    x = x + torch.from_numpy(rng.uniform(-0.3, 0.3, (len(x), 1, 1, 1)).astype(np.float32))
    for axis, longest in ((2, 10), (3, 6)):
        length = int(rng.integers(0, longest))
        begin = int(rng.integers(0, x.shape[axis] - length))
        x.narrow(axis, begin, length).fill_(float(x.mean()))
    return x


def train(
    network: Network, features: Floats, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor],
    *, epochs: int, seed: int, batch: int = 64,
) -> None:  # fmt: skip
    """Train in place on features `[n, frames, mels]`; the learning rate rises and falls once."""
    rng = np.random.default_rng(seed)
    steps = len(features) // batch
    optimiser = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=epochs * steps)
    network.to(memory_format=torch.channels_last).train()
    began = time.monotonic()
    for epoch in range(epochs):
        order, total = rng.permutation(len(features)), 0.0
        for step in range(steps):
            chosen = np.sort(order[step * batch : (step + 1) * batch])
            value = loss(network(_masked(torch.from_numpy(features[chosen])[:, None], rng)), targets[chosen])
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            schedule.step()
            total += float(value.detach())
        seconds = time.monotonic() - began
        print(f"epoch {epoch + 1}/{epochs} loss {total / steps:.3f} {seconds:.0f} s", flush=True)
    network.eval()


def weights_of(network: nn.Module) -> dict[str, NDArray[np.float16]]:
    """The weights by name, rounded to float16 as they are shipped."""
    state = network.state_dict()
    return {
        k: v.numpy().astype(np.float16) for k, v in state.items() if not k.endswith("num_batches_tracked")
    }
