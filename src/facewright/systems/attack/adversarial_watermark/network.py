"""HiDDeN: a message hidden in a picture by one network and read by another (Zhu et al., ECCV 2018, arXiv 1807.09937).

It is the honest watermarking service that the attack of Yao, Jain and Liu ("Adversarial Watermarking for Face
Recognition", arXiv 2409.16056, 2024) abuses: somebody changes a photo so little that nothing happens, until the service
marks it; then the recogniser no longer finds the person. `attack` holds the attack and the defence.

Layers and order of the channels are those of the usual PyTorch version. Pictures are RGB in [−1, 1] here; the attack
counts in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....tasks.card import Preprocess
from ...base import System, batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...recognise.recogniser import Recogniser

BATCH = 16


@dataclass(frozen=True, slots=True)
class HiddenConfig:
    """Size of the networks; the defaults are the published ones.

    size: side of the crops fed by `mark` in pixels; the networks take any size. bits: of the message. width: channels.
    encoder_blocks, decoder_blocks, discriminator_blocks: of convolution, batch norm and ReLU.
    """

    size: int = 112
    bits: int = 30
    width: int = 64
    encoder_blocks: int = 4
    decoder_blocks: int = 7
    discriminator_blocks: int = 3

    @classmethod
    def compact(cls) -> Self:
        """Half as wide, 16 bits."""
        return cls(bits=16, width=32, decoder_blocks=5)


class Marked(NamedTuple):
    """`image` (N, 3, H, W) with the message in it, not clamped; `bits` (N, L) as the decoder reads them, about 0 to 1;
    `real` (N, 1): the discriminator's logit of being unmarked."""

    image: Tensor
    bits: Tensor
    real: Tensor


class Hidden(System):
    """Encoder, decoder and discriminator; see the module's text.

    forward: (N, 3, H, W) RGB in [−1, 1] and messages (N, L) of 0 and 1, all ones where none is given, to `Marked`.
    """

    slug: ClassVar[str] = "adversarial_watermark"
    Config: ClassVar[type[HiddenConfig]] = HiddenConfig
    config: HiddenConfig

    def __init__(self, config: HiddenConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        self.encoder = Encoder(c)
        self.decoder = Decoder(c)
        self.discriminator = Discriminator(c)

    @classmethod
    def preprocess_for(cls, config: HiddenConfig) -> Preprocess:
        """The crops of recognisers, for which it was made."""
        return Preprocess(CropSpec.aligned(config.size, "arcface"))

    def forward(self, image: Tensor, message: Tensor | None = None) -> Marked:
        if message is None:
            message = image.new_ones(len(image), self.config.bits)
        marked = self.encoder(image, message)
        return Marked(marked, self.decoder(marked), self.discriminator(marked))

    @torch.inference_mode()
    def mark(self, crops: NDArray[np.uint8], messages: NDArray[np.integer]) -> NDArray[np.uint8]:
        """(N, H, W, 3) uint8 RGB crops with messages (N, L) of 0 and 1 in them; UsageError for other messages."""
        if messages.shape != (len(crops), self.config.bits) or not np.isin(messages, (0, 1)).all():
            raise UsageError(f"a message has {self.config.bits} bits of 0 and 1 for every crop, not {messages.shape}")
        rows = [self._marked(crops[part], messages[part]) for part in batches(np.arange(len(crops)), BATCH)]
        return np.concatenate(rows) if rows else crops.copy()

    def _marked(self, crops: NDArray[np.uint8], messages: NDArray[np.integer]) -> NDArray[np.uint8]:
        given = torch.from_numpy(messages.astype(np.float32)).to(self.device)
        image = self.encoder(self.normalise(crops), given).clamp(-1, 1)
        levels = (image + 1).mul(127.5).round().to(torch.uint8)
        return levels.permute(0, 2, 3, 1).cpu().numpy()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def read(self, crops: NDArray[np.uint8]) -> NDArray[np.int64]:
        """(N, H, W, 3) uint8 RGB crops to the bits (N, L) that are read from them, whether or not there are any."""
        rows = [self._read(crops[part]) for part in batches(np.arange(len(crops)), BATCH)]
        return np.concatenate(rows) if rows else np.zeros((0, self.config.bits), np.int64)

    def _read(self, crops: NDArray[np.uint8]) -> NDArray[np.int64]:
        return self.decoder(self.normalise(crops)).round().clamp(0, 1).long().cpu().numpy()  # type: ignore[no-any-return]

    def attack(self, crops: NDArray[np.uint8], recogniser: Recogniser, *, seed: int = 0) -> NDArray[np.uint8]:
        """(N, S, S, 3) uint8 RGB crops, as the recogniser wants them, changed so that this service's mark, whatever it
        says, hides whom they show; see `attack.perturb`, whose defaults it takes. Both networks must be in evaluation
        mode: UsageError where this one is not.
        """
        from ..embedding import embedding_of
        from .attack import perturb, to_8_bits

        embed = embedding_of(recogniser)
        image = torch.from_numpy(np.ascontiguousarray(crops)).to(self.device).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            reference = embed(image)
        changed = to_8_bits(image + perturb(image, reference, self, embed, seed=seed))
        return (changed * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


class Encoder(nn.Module):
    """Features of the picture, then the message at every pixel, the features and the picture to the marked picture."""

    def __init__(self, config: HiddenConfig) -> None:
        super().__init__()
        width = config.width
        self.features = nn.Sequential(*(block(3 if i == 0 else width, width) for i in range(config.encoder_blocks)))
        self.join = block(config.bits + width + 3, width)
        self.paint = nn.Conv2d(width, 3, 1)

    def forward(self, image: Tensor, message: Tensor) -> Tensor:
        everywhere = message[:, :, None, None].expand(-1, -1, *image.shape[2:]).to(image.dtype)
        return self.paint(self.join(torch.cat([everywhere, self.features(image), image], 1)))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """(N, 3, H, W) to the bits (N, L), about 0 to 1."""

    def __init__(self, config: HiddenConfig) -> None:
        super().__init__()
        width = config.width
        blocks = [block(3 if i == 0 else width, width) for i in range(config.decoder_blocks)]
        self.features = nn.Sequential(*blocks, block(width, config.bits))
        self.linear = nn.Linear(config.bits, config.bits)

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(self.features(image).mean((2, 3)))  # type: ignore[no-any-return]


class Discriminator(nn.Module):
    """(N, 3, H, W) to the logit (N, 1) of carrying no message."""

    def __init__(self, config: HiddenConfig) -> None:
        super().__init__()
        width = config.width
        self.features = nn.Sequential(
            *(block(3 if i == 0 else width, width) for i in range(config.discriminator_blocks))
        )
        self.linear = nn.Linear(width, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(self.features(image).mean((2, 3)))  # type: ignore[no-any-return]


def block(c_in: int, c_out: int) -> nn.Sequential:
    """3×3 convolution, batch norm, ReLU."""
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


# --- what happens to a marked picture ---------------------------------------------------------------------------------

KEPT = (25, 9, 9)
"""Coefficients of an 8×8 block, in zig-zag order, that the stand-in for JPEG keeps of Y, U and V."""
_TO_YUV = ((0.299, 0.587, 0.114), (-0.14713, -0.28886, 0.436), (0.615, -0.51499, -0.10001))
_TO_RGB = ((1.0, 0.0, 1.13983), (1.0, -0.39465, -0.58060), (1.0, 2.03211, 0.0))
_TERMS = 10


def zigzag(count: int) -> list[tuple[int, int]]:
    """The first (row, column) of an 8×8 block in JPEG's order."""
    order = sorted(
        ((row, column) for row in range(8) for column in range(8)),
        key=lambda at: (sum(at), at[0] if sum(at) % 2 else at[1]),
    )
    return order[:count]


def jpeg_masked(image: Tensor) -> Tensor:
    """HiDDeN's differentiable stand-in for JPEG: the fine terms of every block's DCT are dropped.

    (N, 3, H, W) to the same shape; the picture is padded by zeros to multiples of 8.
    """
    height, width = image.shape[2:]
    padded = F.pad(image, (0, -width % 8, 0, -height % 8))
    yuv = torch.einsum("oc,nchw->nohw", image.new_tensor(_TO_YUV), padded)
    basis = _dct(image)
    mask = image.new_zeros(3, 8, 8)
    for channel, count in enumerate(KEPT):
        for row, column in zigzag(count):
            mask[channel, row, column] = 1
    count, _, rows, columns = yuv.shape
    blocks = yuv.view(count, 3, rows // 8, 8, columns // 8, 8).transpose(3, 4)  # (N, 3, rows, columns, 8, 8)
    terms = basis @ blocks @ basis.T * mask[:, None, None]
    kept = (basis.T @ terms @ basis).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return torch.einsum("oc,nchw->nohw", image.new_tensor(_TO_RGB), kept)[:, :, :height, :width]


def _dct(like: Tensor) -> Tensor:
    place = torch.arange(8, dtype=torch.float64)
    basis = torch.cos((place[None] + 0.5) * place[:, None] * torch.pi / 8) / 2
    basis[0] /= 2**0.5
    return basis.to(like)


def quantised(image: Tensor) -> Tensor:
    """Rounding to 256 levels between the batch's least and largest value, by ten terms of a Fourier series."""
    low, high = image.min(), image.max()
    levels = (image - low) * 255 / (high - low)
    order = torch.arange(1, _TERMS + 1, device=image.device, dtype=image.dtype).view(-1, *(1,) * image.dim())
    waves = (-1.0) ** (order + 1) / (torch.pi * order) * torch.sin(2 * torch.pi * levels * order)
    return (levels - waves.sum(0)) / 255 * (high - low) + low
