"""FaceReference: a person's other photos correct what the blind restorer made of a damaged face (own design).

FRGP restores the damaged crop and stays as it is. Its decoder's maps of that face ask, its encoder's maps of each
reference answer: tokens of 16×16 px attend to the tokens of all references at once. A small decoder, steered by the
references' mean identity embedding, paints a correction of FRGP's output at half the size of the crop: what makes up a
person in a face of few pixels is not its finest texture.

The idea of attending to a reference's features of the same network is that of ReF-LDM's CacheKV (NeurIPS 2024); the
correction of a regression network's output, in place of diffusion, is ours. The references' own pixels are not used:
aligned as they are, the best share of them to mix in was 0 at every frequency.

Fresh weights correct nothing that could be seen, and without references nothing is ever corrected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.mmrb import SLOPE, init_conv
from ....tasks.card import Preprocess
from ...base import System

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SIDE = 16  # tokens along a side
_REDUCED = 2  # how many times smaller than the crop the correction is drawn
# small enough that the first output rounds to the input's pixels, not zero, so that gradients flow from the start
_CORRECTION_INIT = 1e-4


@dataclass(frozen=True)
class FaceReferenceConfig:
    """Shape of the network beside the compact FRGP (256 px); the defaults are for more data than LFW has.

    size: side of the crop. coarse, fine: channels of FRGP's maps at 16 and 32. identity: length of the embeddings.
    width, heads, layers: of the attention. decoder: channels of the convolutions at 32. blocks: residual ones there.
    """

    size: int = 256
    coarse: int = 128
    fine: int = 96
    identity: int = 128
    width: int = 256
    heads: int = 8
    layers: int = 4
    decoder: int = 128
    blocks: int = 4

    @classmethod
    def compact(cls) -> Self:
        """The size that ships."""
        return cls(width=128, heads=4, layers=2, decoder=64, blocks=2)


class References(NamedTuple):
    """Up to R references of each of N faces: FRGP's encoder maps `coarse` (N, R, C, 16, 16) and `fine` (N, R, C, 32,
    32), `identity` embeddings (N, R, D) of length 1, and which places are taken, `present` (N, R) bool."""

    coarse: Tensor
    fine: Tensor
    identity: Tensor
    present: Tensor


class FaceReference(System):
    """Corrects the faces that FRGP restored, by references of the same person.

    forward: `restored` (N, 3, S, S) RGB in [−1, 1], FRGP's output on the `ffhq` template; `coarse` (N, C, 16, 16) and
    `fine` (N, C, 32, 32), its decoder's maps of the damaged face; `references`. Maps and references of one face serve
    all images. Returns the corrected image, unclamped. A face none of whose references is present comes back as it was.
    """

    slug: ClassVar[str] = "facereference"
    Config: ClassVar[type[FaceReferenceConfig]] = FaceReferenceConfig
    config: FaceReferenceConfig

    def __init__(self, config: FaceReferenceConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        token = c.coarse + 4 * c.fine
        self.patch = c.size // (2 * _SIDE)  # px that one place at 32 stands for
        self.ask = Tokens(token, c.width)
        self.answer = Tokens(token, c.width)
        self.identity = nn.Linear(c.identity, c.width)
        self.layers = nn.ModuleList(ReferenceLayer(c.width, c.heads) for _ in range(c.layers))
        self.expand = nn.Conv2d(c.width, 4 * c.decoder, 1)
        self.gather = nn.Conv2d(c.decoder + c.fine + 3 * self.patch**2, c.decoder, 1)
        self.blocks = nn.ModuleList(SteeredBlock(c.decoder, c.width) for _ in range(c.blocks))
        self.paint = nn.Conv2d(c.decoder, 3 * (self.patch // _REDUCED) ** 2, 1)
        for conv in (self.expand, self.gather):
            init_conv(conv)
        init_conv(self.paint, _CORRECTION_INIT)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(config.size))

    def forward(self, restored: Tensor, coarse: Tensor, fine: Tensor, references: References) -> Tensor:
        correction = self.correct(restored, coarse, fine, references)
        return restored + F.interpolate(correction, scale_factor=_REDUCED, mode="bicubic", align_corners=False)

    def correct(self, restored: Tensor, coarse: Tensor, fine: Tensor, references: References) -> Tensor:
        """The correction alone, (N, 3, S/2, S/2)."""
        coarse, fine = (maps.expand(len(restored), *maps.shape[1:]) for maps in (coarse, fine))
        references = References(*(part.expand(len(restored), *part.shape[1:]) for part in references))
        self._check(restored, references)
        present, count = references.present, references.present.shape[1]
        tokens = self.answer(references.coarse.flatten(0, 1), references.fine.flatten(0, 1))
        tokens = tokens.unflatten(0, (-1, count)).flatten(1, 2)
        mask = present | ~present.any(1, keepdim=True)  # attention to nothing has no value; the result is dropped
        mask = mask.repeat_interleave(_SIDE**2, 1)[:, None, None]
        identity = self._mean_identity(references)
        x = self.ask(coarse, fine)
        for layer in self.layers:
            x = layer(x, tokens, identity, mask)
        f = F.pixel_shuffle(self.expand(x.transpose(1, 2).unflatten(2, (_SIDE, _SIDE))), 2)
        f = self.gather(torch.cat([f, fine, F.pixel_unshuffle(restored, self.patch)], 1))
        for block in self.blocks:
            f = block(f, identity)
        correction = F.pixel_shuffle(self.paint(F.leaky_relu(f, SLOPE)).float(), self.patch // _REDUCED)
        return correction * present.any(1).to(correction).view(-1, 1, 1, 1)

    def _mean_identity(self, references: References) -> Tensor:
        kept = references.present.to(references.identity)[..., None]
        mean = (references.identity * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1)
        found: Tensor = self.identity(mean)
        return found

    def corrected(
        self, restored: NDArray[np.uint8], coarse: Tensor, fine: Tensor, references: References
    ) -> NDArray[np.uint8]:
        """As `forward`, of (N, S, S, 3) uint8 RGB crops."""
        device = self.device
        with torch.inference_mode(), self.picture_autocast():
            moved = References(*(part.to(device) for part in references))
            image = self(self.normalise(restored), coarse.to(device), fine.to(device), moved)
            pixels = image.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()  # type: ignore[no-any-return]

    def _check(self, restored: Tensor, references: References) -> None:
        side = self.config.size
        if tuple(restored.shape[1:]) != (3, side, side):
            raise UsageError(f"FaceReference takes images (N, 3, {side}, {side}), not {tuple(restored.shape)}")
        if references.present.shape[1] == 0:
            raise UsageError("FaceReference takes at least one reference a face; mark a missing one as not present")


class Tokens(nn.Module):
    """FRGP's maps at 16 and 32 as 256 tokens (N, 256, C), each with its place."""

    def __init__(self, c_in: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(c_in)
        self.project = nn.Linear(c_in, width)
        self.place = nn.Parameter(torch.randn(_SIDE**2, width) * width**-0.5)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        maps = torch.cat([coarse, F.pixel_unshuffle(fine, 2)], 1)
        tokens: Tensor = self.project(self.norm(maps.flatten(2).transpose(1, 2))) + self.place
        return tokens


class ReferenceLayer(nn.Module):
    """Attention of a face's tokens (N, 256, C) to its references' (N, T, C), then a feed-forward network.

    `identity` (N, 1, C) scales and shifts the hidden units; `mask` (N, 1, 1, T) says which tokens are there.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_ask, self.norm_answer = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.hidden, self.steer = nn.Linear(width, 2 * width), nn.Linear(width, 4 * width)
        self.back = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, answers: Tensor, identity: Tensor, mask: Tensor) -> Tensor:
        q = self._split(self.query(self.norm_ask(x)))
        k, v = (self._split(part) for part in self.key_value(self.norm_answer(answers)).chunk(2, -1))
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(found.transpose(1, 2).flatten(2))
        scale, shift = self.steer(identity).chunk(2, -1)
        steered: Tensor = x + self.back(F.gelu(self.hidden(self.norm(x)) * (1 + scale) + shift))
        return steered

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class SteeredBlock(nn.Module):
    """Two 3×3 convolutions around a leaky ReLU, whose input an identity (N, 1, C) scales and shifts."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.steer = nn.Linear(width, 2 * channels)
        init_conv(self.first)
        init_conv(self.second, 0.1)

    def forward(self, x: Tensor, identity: Tensor) -> Tensor:
        scale, shift = self.steer(identity[:, 0])[..., None, None].chunk(2, 1)
        out: Tensor = x + self.second(F.leaky_relu(self.first(x) * (1 + scale) + shift, SLOPE))
        return out
