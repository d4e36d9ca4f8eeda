"""Augmentation inside a discriminator, as strong as its overfitting asks for.

Source: Karras et al., "Training Generative Adversarial Networks with Limited Data", NeurIPS 2020 (arXiv 2006.06676):
real and generated pictures pass the same random changes, each made with probability p < 1, so that the generator does
not learn the changes (section 2.2), and p follows the share of real pictures that the discriminator is sure of
(section 3.1). Of the paper's changes those that leave an aligned face one: mirror, shift, brightness, contrast,
saturation and cut-out.

Every change is linear in the picture, so first and second derivatives exist.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import UsageError

SHIFT = 1 / 8
"""Largest shift, as a share of the side."""
CUTOUT = 1 / 2
"""Side of the square that is cut out, as a share of the picture's."""
BRIGHTNESS, CONTRAST, SATURATION = 0.2, 0.5, 1.0
"""Deviations of the added brightness and of the binary logarithms of the two factors."""


class AdaptiveAugment(nn.Module):
    """Random changes of (N, 3, S, S) RGB pictures in [−1, 1], each made with probability `p` per picture.

    `p` starts at 0. `adapt` takes the discriminator's logits of real pictures and moves p so that the mean of their
    sign stays near `target`; p can go from 0 to 1 within `images` pictures, in steps every `interval` calls. All of
    this is state of the module and saved with it. The draws come from torch's global generator.
    """

    p: Tensor
    sign_sum: Tensor
    seen: Tensor
    calls: Tensor

    def __init__(
        self, *, target: float = 0.6, images: int = 500_000, interval: int = 4, p: float = 0.0, limit: float = 0.8
    ) -> None:
        super().__init__()
        if not (0 <= p <= limit <= 1 and images > 0 and interval > 0):
            raise UsageError(f"augmentation needs 0 ≤ p ≤ limit ≤ 1 and positive images and interval, not {p}, {limit}")
        self.target, self.images, self.interval, self.limit = target, images, interval, limit
        self.register_buffer("p", torch.tensor(float(p)))
        self.register_buffer("sign_sum", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def adapt(self, real_logits: Tensor) -> float:
        """Take note of logits of real pictures (any shape), move p when it is time, and return it."""
        self.sign_sum += real_logits.float().sign().sum()
        self.seen += real_logits.numel()
        self.calls += 1
        if int(self.calls) % self.interval == 0:
            towards = torch.sign(self.sign_sum / self.seen - self.target)
            self.p.add_(towards * self.seen / self.images).clamp_(0, self.limit)
            self.sign_sum.zero_()
            self.seen.zero_()
        return float(self.p)

    def forward(self, images: Tensor) -> Tensor:
        if float(self.p) == 0:
            return images
        with torch.autocast(images.device.type, enabled=False):
            changed = recoloured(moved(images.float(), self.p), self.p)
            return changed * _cutout(changed, self.p)


def _chosen(count: int, p: Tensor) -> Tensor:
    return torch.rand(count, device=p.device) < p


def moved(images: Tensor, p: Tensor) -> Tensor:
    """Mirrored, and shifted by whole pixels with reflection at the border, each with probability `p` per picture.

    Rows and columns are picked by matrices of zeros and ones: exact, and differentiable as often as one likes.
    """
    count, side = len(images), images.shape[-1]
    rows = _picks(_shifts(count, side, p), torch.zeros(count, dtype=torch.bool, device=p.device), side)
    columns = _picks(_shifts(count, side, p), _chosen(count, 0.5 * p), side)
    return rows[:, None] @ images @ columns[:, None].transpose(2, 3)


def _shifts(count: int, side: int, p: Tensor) -> Tensor:
    most = int(side * SHIFT)
    return torch.randint(-most, most + 1, (count,), device=p.device) * _chosen(count, p)


def _picks(shift: Tensor, mirrored: Tensor, side: int) -> Tensor:
    """(N, S, S) matrices whose row i has its 1 where pixel i comes from."""
    source = torch.arange(side, device=shift.device) + shift[:, None]
    source = torch.where(mirrored[:, None], side - 1 - source, source)
    source = source.abs()
    source = torch.where(source >= side, 2 * (side - 1) - source, source)
    return nn.functional.one_hot(source, side).float()


def recoloured(images: Tensor, p: Tensor) -> Tensor:
    """Brightness, contrast about grey and saturation about the mean of the channels, each with probability `p`."""
    count = len(images)

    def drawn(deviation: float) -> Tensor:
        return (torch.randn(count, device=p.device) * deviation * _chosen(count, p)).view(-1, 1, 1, 1)

    images = (images + drawn(BRIGHTNESS)) * drawn(CONTRAST).exp2()
    grey = images.mean(1, keepdim=True)
    return grey + (images - grey) * drawn(SATURATION).exp2()


def _cutout(images: Tensor, p: Tensor) -> Tensor:
    """(N, 1, S, S) zeros in a square around a random place, ones elsewhere."""
    count, side = len(images), images.shape[-1]
    place = torch.arange(side, device=p.device)
    inside = [
        (place - torch.rand(count, 1, device=p.device) * side).abs() < CUTOUT * side / 2 for _ in ("rows", "columns")
    ]
    square = inside[0][:, :, None] & inside[1][:, None, :] & _chosen(count, p)[:, None, None]
    return (~square).float()[:, None]
