"""Whether a face is as sharp as a face of its size can be, by its crop at the photo's own resolution.

What was blurred, enlarged, compressed hard or buried in noise lacks the finest detail that a sharp face of its size
has. A small convolutional network on the luma of the face says which share of that detail is left. It sees faces at
their own size, from 48 px to 512, and works the same at all of them: its first layers look at single pixels and their
neighbours, and only averages over the face are compared. Made by `reproductions/gate`.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor, nn

if TYPE_CHECKING:
    from numpy.typing import NDArray

FACE = np.s_[0.27:0.83, 0.2:0.8]
"""Rows and columns of a crop on the `ffhq` template that show the face, as shares of its side."""
SHARP = 0.5
"""Probability from which a face counts as sharp."""
LEAST_SIDE, MOST_SIDE = 48, 512
WEIGHTS_FILE = "sharpness.safetensors"
_WIDTHS = (24, 32, 48)
_LEAST_CONTRAST = 4.0  # grey levels: spread of a face's luma below which it is not made stronger


class SharpnessNet(nn.Module):
    """Luma of faces (N, 1, H, W), as `face_luma` gives it, to the logit (N,) that most of the detail is left.

    Three scales of two 3×3 convolutions; mean and spread of every scale's features go to a small head.
    """

    def __init__(self) -> None:
        super().__init__()
        inputs = (4, *_WIDTHS)  # a pixel-unshuffle of 2 first
        self.scales = nn.ModuleList(_scale(*widths) for widths in zip(inputs, _WIDTHS))
        self.head = nn.Sequential(nn.Linear(2 * sum(_WIDTHS), 48), nn.ReLU(inplace=True), nn.Linear(48, 1))

    def forward(self, luma: Tensor) -> Tensor:
        x, seen = F.pixel_unshuffle(luma, 2), []
        for level, scale in enumerate(self.scales):
            x = scale(x if level == 0 else F.avg_pool2d(x, 2))
            seen += [x.mean((2, 3)), x.std((2, 3), correction=0)]
        logit: Tensor = self.head(torch.log(torch.cat(seen, 1) + 1e-3))
        return logit[:, 0]


def _scale(inputs: int, outputs: int) -> nn.Sequential:
    first = nn.Conv2d(inputs, outputs, 3, padding=1)
    second = nn.Conv2d(outputs, outputs, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True))


def face_luma(crop: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(h, w), both even: the luma of the face in a square (S, S, 3) uint8 RGB crop, with a spread of about 1."""
    grey = np.asarray(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), np.float32)
    rows, columns = (slice(*(2 * round(v * len(grey) / 2) for v in (s.start, s.stop))) for s in FACE)
    part = grey[rows, columns]
    return (part - part.mean()) / max(_LEAST_CONTRAST, float(part.std()))


@cache
def shipped_net() -> SharpnessNet:
    """The trained network of this package."""
    net = SharpnessNet()
    state = load((files(__package__ or "") / WEIGHTS_FILE).read_bytes())
    net.load_state_dict({name: value.float() for name, value in state.items()})
    return net.eval().requires_grad_(False)


def native_side(scale: float, size: int) -> int:
    """The side of a crop that shows a face at the photo's own resolution, at most `MOST_SIDE`.

    `scale` is crop pixels per photo pixel of a crop of `size`.
    """
    return int(np.clip(round(size / max(scale, 1e-6)), LEAST_SIDE, MOST_SIDE))


@torch.inference_mode()
def sharpness(crop: NDArray[np.uint8]) -> float:
    """The probability, 0 to 1, that most of the detail of a face is left.

    `crop` is a square (S, S, 3) uint8 RGB crop on the `ffhq` template that was not enlarged, of at least `LEAST_SIDE`.
    """
    luma = torch.from_numpy(face_luma(crop))
    return float(torch.sigmoid(shipped_net()(luma[None, None])))
