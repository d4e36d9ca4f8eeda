"""A small network and a small trainer, the same for every arm of a comparison."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facewright.nn.resnet import BasicBlock, ResNet

if TYPE_CHECKING:
    from collections.abc import Callable

SHIFT = 4  # px a training crop is moved at most
MOMENTUM = 0.9
MAX_GRAD_NORM = 5.0
WARM_UP = 0.05  # of all steps

M = TypeVar("M", bound=nn.Module)
Images = NDArray[np.uint8]
Indices = NDArray[np.int64]


class SmallResNet(nn.Module):
    """A thin ResNet-10, (N, 3, 64, 64) in [−1, 1] to embeddings (N, dim): about 20 M multiply-adds."""

    def __init__(self, dim: int = 128, width: int = 32) -> None:
        super().__init__()
        self.trunk = ResNet(BasicBlock, (1, 1, 1, 1), width=width)
        self.embedding = nn.Linear(self.trunk.out_features, dim, bias=False)
        self.norm = nn.BatchNorm1d(dim)
        self.norm.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        embedding: Tensor = self.norm(self.embedding(self.trunk(x)))
        return embedding


def signed(images: Images) -> Tensor:
    """(N, S, S, 3) uint8 to (N, 3, S, S) in [−1, 1], channels last."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def channels_last(network: M) -> M:
    """The network itself, its weights laid out for fast convolutions on a processor."""
    for weight in network.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return network


def augmented(images: Images, rng: np.random.Generator) -> Images:
    """Every crop mirrored or not, and moved by up to `SHIFT` pixels."""
    padded = np.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="reflect")
    out = np.empty_like(images)
    for i, (y, x) in enumerate(rng.integers(0, 2 * SHIFT + 1, (len(images), 2))):
        crop = padded[i, y : y + images.shape[1], x : x + images.shape[2]]
        out[i] = crop[:, ::-1] if rng.random() < 0.5 else crop
    return out


def half() -> torch.autocast:
    """bfloat16 arithmetic where it is safe."""
    return torch.autocast("cpu", torch.bfloat16)


def train(
    name: str,
    groups: list[dict[str, Any]],
    step: Callable[[int], Tensor],
    steps: int,
    *,
    after: Callable[[int], None] | None = None,
) -> None:
    """SGD over parameter groups that name their `lr` and `weight_decay`: warm-up, then a cosine down to 0.

    `step(number)` gives the loss; `after(steps done)` is called between the steps.
    """
    optimiser = torch.optim.SGD(groups, momentum=MOMENTUM)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda number: _rate(number / steps))
    weights = [p for group in optimiser.param_groups for p in group["params"]]
    began, shown = time.monotonic(), 0.0
    for number in range(steps):
        loss = step(number)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, MAX_GRAD_NORM)
        optimiser.step()
        schedule.step()
        if after is not None:
            after(number + 1)
        seconds = time.monotonic() - began
        if seconds > shown + 20:
            shown = seconds
            left = seconds / (number + 1) * (steps - number - 1)
            print(f"    {name}: {number + 1}/{steps}, loss {float(loss.detach()):.3f}, {left:.0f} s left", flush=True)


def _rate(progress: float) -> float:
    if progress < WARM_UP:
        return (progress + 0.01) / (WARM_UP + 0.01)
    return 0.5 * (1 + float(np.cos(np.pi * (progress - WARM_UP) / (1 - WARM_UP))))


def decayed(network: nn.Module, lr: float, decay: float) -> list[dict[str, Any]]:
    """Parameter groups of a network: decay on matrices and kernels, none on norms and biases."""
    weights = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in weights if p.dim() > 1], "lr": lr, "weight_decay": decay},
        {"params": [p for p in weights if p.dim() <= 1], "lr": lr, "weight_decay": 0.0},
    ]


class Epochs:
    """Shuffled batches of indices, epoch after epoch; the last incomplete batch of an epoch is dropped."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.size, self.seed = count, batch_size, seed
        self.per_epoch = count // batch_size

    def batch(self, number: int) -> Indices:
        epoch, place = divmod(number, self.per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
        return order[place * self.size : (place + 1) * self.size]
