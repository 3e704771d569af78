"""Train the shapes detector on generated pictures: `python -m edgec.models.training.shapes FOLDER`.

Version 1 is trained on scenes by day. Version 2 continues from it with dim light, noise, blur, motion and tiled floors.
Both are evaluated on pictures of other seeds, with backgrounds that are not in the training data. Takes about ten
minutes on one core, and the extra `train` (PyTorch).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edgec.models.graph import Graph
from edgec.models.metrics import Accuracy, accuracy, rows
from edgec.models.reference import Reference
from edgec.models.synthetic import shapes as data
from edgec.models.synthetic.backgrounds import HELD_BACK, LOOKALIKES, TRAINING
from edgec.models.zoo.shapes import HEIGHT, STRIDES, WIDTH, detector
from edgec.runtime.card.file import load_card

CARD = Path(__file__).resolve().parent.parent / "trained" / "shapes-v2.toml"
SLOTS = 8  # most shapes in one picture
THRESHOLD = 0.5


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of training: its data, number of steps and peak learning rate."""

    conditions: data.Conditions
    backgrounds: tuple[str, ...]
    pictures: int
    steps: int
    peak: float
    seed: int


PLAN = {
    "v1": (Stage(data.DAY, tuple(TRAINING), 2200, 700, 4e-3, 1),),
    "v2": (
        Stage(data.ALL, tuple(TRAINING), 3000, 600, 3e-3, 2),
        Stage(data.ALL, (*TRAINING, *LOOKALIKES), 3600, 500, 3e-3, 2),
    ),
}
BATCH = 16


class ConvBn(nn.Module):  # type: ignore[misc]
    """Convolution, batch norm, ReLU; the names are those of the ONNX graph's weights."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` to `[N, outputs, H / stride, W / stride]`."""
        return functional.relu(self.bn(self.conv(x)))


def _residual(width: int) -> nn.Sequential:
    return nn.Sequential(ConvBn(width, width), ConvBn(width, width))


def _head(width: int) -> nn.Sequential:
    last = nn.Conv2d(width, 4 + len(data.CLASSES), 1)
    nn.init.constant_(last.bias[:4], 0.7)
    nn.init.constant_(last.bias[4:], -4.5)
    nn.init.normal_(last.weight, std=0.01)
    return nn.Sequential(ConvBn(width, width), last)


class Detector(nn.Module):  # type: ignore[misc]
    """The network of `zoo/shapes.py`; returns distances `[N, 4, A]` in strides and logits `[N, 5, A]`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvBn(3, 12, stride=2), ConvBn(12, 20, stride=2))
        self.down3, self.block3 = ConvBn(20, 40, stride=2), _residual(40)
        self.down4, self.block4 = ConvBn(40, 64, stride=2), _residual(64)
        self.down5, self.block5 = ConvBn(64, 80, stride=2), _residual(80)
        self.up5, self.out4 = ConvBn(80, 64, 1), ConvBn(64, 64)
        self.up4, self.out3 = ConvBn(64, 40, 1), ConvBn(40, 40)
        self.head0, self.head1 = _head(40), _head(64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`x` is `[N, 3, 192, 256]`, RGB from 0 to 1."""
        p3 = self.down3(self.stem(x))
        p3 = p3 + self.block3(p3)
        p4 = self.down4(p3)
        p4 = p4 + self.block4(p4)
        p5 = self.down5(p4)
        p5 = p5 + self.block5(p5)
        p4 = self.out4(p4 + functional.interpolate(self.up5(p5), scale_factor=2))
        p3 = self.out3(p3 + functional.interpolate(self.up4(p4), scale_factor=2))
        raw = torch.cat([self.head0(p3).flatten(2), self.head1(p4).flatten(2)], 2)
        return raw[:, :4].clamp(max=4.5).exp(), raw[:, 4:]


def points() -> tuple[Tensor, Tensor]:
    """Centres of the cells in pixels `[A, 2]` and their strides `[A]`."""
    centres, strides = [], []
    for stride in STRIDES:
        y, x = torch.meshgrid(
            torch.arange(HEIGHT // stride) + 0.5, torch.arange(WIDTH // stride) + 0.5, indexing="ij"
        )
        centres.append(torch.stack([x.flatten(), y.flatten()], 1) * stride)
        strides.append(torch.full((x.numel(),), float(stride)))
    return torch.cat(centres), torch.cat(strides)


def boxes_of(distances: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Corners in pixels `[N, A, 4]` from distances `[N, 4, A]`."""
    d = distances.transpose(1, 2) * strides[None, :, None]
    return torch.cat([centres - d[..., :2], centres + d[..., 2:]], 2)


def assign(truth: Tensor, centres: Tensor, strides: Tensor) -> tuple[Tensor, Tensor]:
    """Assign ground truth to cells: its index `[N, A]` and whether there is any `[N, A]`.

    `truth` is `[N, SLOTS, 5]`, class -1 for an empty slot. A cell is assigned a shape whose centre is
    within 1.5 strides and whose longer side suits its scale; among several, the smallest.
    """
    low, high = truth[:, :, None, 1:3], truth[:, :, None, 3:5]
    size = high - low
    longest = size.amax(-1)
    near = ((centres - (low + high) / 2).abs() < 1.5 * strides[:, None]).all(-1)
    inside = ((centres > low) & (centres < high)).all(-1)
    fits = torch.where(strides == STRIDES[0], longest < 60, longest > 40)
    mine = near & inside & fits & (truth[:, :, None, 0] >= 0)
    area = torch.where(mine, size.prod(-1).expand_as(mine), torch.inf)
    smallest, index = area.min(1)
    return index, smallest.isfinite()


def _pairwise_iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Overlap and generalised overlap (Rezatofighi et al., 2019) of boxes `[n, 4]`, pair by pair."""
    both = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - both
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    iou = both / union.clamp(min=1e-6)
    return iou, iou - (hull - union) / hull.clamp(min=1e-6)


def loss_of(distances: Tensor, logits: Tensor, truth: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Cross entropy of the scores, with the box's overlap as target, plus generalised overlap."""
    index, positive = assign(truth, centres, strides)
    wanted = torch.gather(truth, 1, index[..., None].expand(-1, -1, 5))[positive]
    iou, generalised = _pairwise_iou(boxes_of(distances, centres, strides)[positive], wanted[:, 1:])
    target = torch.zeros_like(logits).transpose(1, 2)
    quality = target[positive]
    quality[torch.arange(len(wanted)), wanted[:, 0].long()] = 0.5 + 0.5 * iou.detach()
    target[positive] = quality
    logits = logits.transpose(1, 2)
    scores = functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    return (scores + 1.5 * (1 - generalised).sum()) / max(1, len(wanted))


def pictures(
    conditions: data.Conditions, families: tuple[str, ...], count: int, seed: int
) -> tuple[NDArray[np.uint8], list[data.Truth]]:
    """Generate pictures `[count, 192, 256, 3]` RGB, and their ground truth in the model's pixels."""
    rng = np.random.default_rng(seed)
    frames = np.empty((count, HEIGHT, WIDTH, 3), np.uint8)
    truths = []
    for i in range(count):
        scale = float(rng.choice([1.0, 1.0, 1.5]))
        size = (round(320 * scale), round(240 * scale))
        frame, truth = data.random_picture(rng, conditions, families, width=size[0], height=size[1])
        frames[i] = cv2.cvtColor(cv2.resize(frame, (WIDTH, HEIGHT)), cv2.COLOR_BGR2RGB)
        truth[:, 1:] *= np.array([WIDTH / size[0], HEIGHT / size[1]] * 2, np.float32)
        truths.append(truth)
    return frames, truths


def batches(
    frames: NDArray[np.uint8], truths: list[data.Truth], seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches, randomly mirrored along both axes and with shuffled colour channels."""
    rng = np.random.default_rng(seed)
    slots = np.full((len(truths), SLOTS, 5), -1, np.float32)
    for i, truth in enumerate(truths):
        slots[i, : len(truth)] = truth[:SLOTS]
    while True:
        order = rng.permutation(len(frames))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = np.sort(order[start : start + BATCH])
            x, t = frames[chosen].transpose(0, 3, 1, 2)[:, rng.permutation(3)], slots[chosen].copy()
            if rng.random() < 0.5:
                x, t[..., [1, 3]] = x[..., ::-1], WIDTH - t[..., [3, 1]]
            if rng.random() < 0.5:
                x, t[..., [2, 4]] = x[:, :, ::-1], HEIGHT - t[..., [4, 2]]
            images = torch.from_numpy(np.ascontiguousarray(x)).contiguous(memory_format=torch.channels_last)
            yield images.float() / 255, torch.from_numpy(t)


def train(model: Detector, stage: Stage) -> None:
    """Train `model` in place for a stage; the final weights are a moving average of the last steps."""
    steps, peak, seed = stage.steps, stage.peak, stage.seed
    began = time.monotonic()
    frames, truths = pictures(stage.conditions, stage.backgrounds, stage.pictures, seed)
    print(f"{stage.pictures} pictures in {time.monotonic() - began:.0f} s", flush=True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, total_steps=steps, pct_start=0.15)
    centres, strides = points()
    averaged = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True
    )
    model.train()
    total = 0.0
    for step, (x, truth) in zip(range(1, steps + 1), batches(frames, truths, seed), strict=False):
        distances, logits = model(x)
        loss = loss_of(distances, logits, truth, centres, strides)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        schedule.step()
        averaged.update_parameters(model)
        total += float(loss.detach())
        if step % 50 == 0:
            print(f"{step}/{steps} loss {total / 50:.3f} {time.monotonic() - began:.0f} s", flush=True)
            total = 0.0
    model.load_state_dict(averaged.module.state_dict())


def weights_of(model: Detector) -> dict[str, NDArray[np.float16]]:
    """The weights by name, rounded to float16 as they are shipped."""
    state = model.state_dict()
    return {
        k: v.numpy().astype(np.float16) for k, v in state.items() if not k.endswith("num_batches_tracked")
    }


def measure(
    weights: dict[str, NDArray[np.float16]], conditions: data.Conditions, seed: int, count: int
) -> Accuracy:
    """Accuracy of the exported model in ONNX Runtime on frames with held-back backgrounds."""
    graph = Graph("shapes", {k: v.astype(np.float32) for k, v in weights.items()})
    card = load_card(CARD)
    box_output = msgspec.structs.replace(card.output, score_threshold=0.02)
    model = Reference(
        graph.finish(detector(graph)).SerializeToString(), msgspec.structs.replace(card, output=box_output)
    )
    rng = np.random.default_rng(seed)
    found, truths = [], []
    for _ in range(count):
        frame, truth = data.random_picture(rng, conditions, HELD_BACK)
        found.append(rows(model.predict(frame)))
        truths.append(truth)
    return accuracy(found, truths, len(data.CLASSES), THRESHOLD)


def load(model: Detector, path: Path) -> None:
    """Load weights that this script wrote into `model`."""
    with np.load(path) as file:
        state = {key: torch.from_numpy(file[key].astype(np.float32)) for key in file.files}
    model.load_state_dict(state, strict=False)


def main() -> None:
    """Train, write the weights and print their accuracy as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write shapes-v1.npz and shapes-v2.npz")
    parser.add_argument(
        "--version", choices=[*PLAN, "both"], default="both", help="v2 goes on from v1's file"
    )
    parser.add_argument("--pictures", type=int, default=1000, help="held-back pictures to measure on")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # on a shared machine two threads wait for each other: seven times slower
    cv2.setNumThreads(1)
    report = {}
    for version in PLAN if arguments.version == "both" else [arguments.version]:
        torch.manual_seed(0)
        model = Detector().to(memory_format=torch.channels_last)
        if version == "v2":
            load(model, arguments.folder / "shapes-v1.npz")
        for stage in PLAN[version]:
            train(model, stage)
        weights = weights_of(model)
        np.savez_compressed(arguments.folder / f"shapes-{version}.npz", allow_pickle=False, **weights)
        for name, conditions in (("day", data.DAY), ("all", data.ALL)):
            result = measure(weights, conditions, 1_000_003, arguments.pictures)
            report[f"{version} {name}"] = dataclasses.asdict(result)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
