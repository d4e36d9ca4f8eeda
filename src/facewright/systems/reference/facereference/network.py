"""FaceReference: a person's other photos correct what the blind restorer made of a damaged face (own design).

FRGP restores the damaged crop and stays as it is. Its decoder's maps of that face ask, its encoder's maps of each
reference answer: tokens of 16×16 px attend to the tokens of all references at once, at first to those of their own
place, as all crops are aligned. What comes back are features and the references' own pixels; a small decoder says how
much of which frequency of the difference between these pixels and FRGP's is to be taken over, and adds what it paints
itself. The references' mean identity embedding steers the layers. All this happens at half the size of the crop: what
makes up a person in a face of few pixels is not its finest texture.

The idea of attending to a reference's features of the same network is that of ReF-LDM's CacheKV (NeurIPS 2024); the
correction of a regression network's output, in place of diffusion, is ours.

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
from ....nn.mmrb import SLOPE, ConvLeaky, init_conv
from ....tasks.card import Preprocess
from ...base import System
from ...restore.frgp.network import dct_matrix

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SIDE = 16  # tokens along a side
_REACH = 1.0  # tokens: how far from its place attention looks before it has learned anything
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
        return cls(width=128, heads=4, layers=2, decoder=64, blocks=1)


class References(NamedTuple):
    """Up to R references of each of N faces: FRGP's encoder maps `coarse` (N, R, C, 16, 16) and `fine` (N, R, C, 32,
    32), the crops themselves at half the size, `pixels` (N, R, 3, S/2, S/2) RGB in [−1, 1], `identity` embeddings
    (N, R, D) of length 1, and which places are taken, `present` (N, R) bool."""

    coarse: Tensor
    fine: Tensor
    pixels: Tensor
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
    basis: Tensor

    def __init__(self, config: FaceReferenceConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        token = c.coarse + 4 * c.fine
        self.patch = c.size // _REDUCED // (2 * _SIDE)  # px at half the size that one place at 32 stands for
        bands = 3 * self.patch**2
        self.ask = Tokens(token, c.width)
        self.answer = Tokens(token, c.width)
        self.identity = nn.Linear(c.identity, c.width)
        self.layers = nn.ModuleList(ReferenceLayer(c.width, c.heads) for _ in range(c.layers))
        self.find = Attention(c.width, c.heads)
        self.expand = nn.Conv2d(c.width, 4 * c.decoder, 1)
        self.gather = nn.Conv2d(c.decoder + c.fine + 2 * bands, c.decoder, 1)
        self.blocks = nn.ModuleList(ResidualBlock(c.decoder) for _ in range(c.blocks))
        self.shares, self.paint = nn.Conv2d(c.decoder, bands, 1), nn.Conv2d(c.decoder, bands, 1)
        for conv in (self.expand, self.gather):
            init_conv(conv)
        for conv in (self.shares, self.paint):
            init_conv(conv, _CORRECTION_INIT)
        rows = dct_matrix(self.patch)
        basis = torch.kron(torch.eye(3), torch.kron(rows, rows))
        self.register_buffer("basis", basis.view(bands, bands, 1, 1), persistent=False)
        self.register_buffer("near", _nearness(), persistent=False)

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
        blind = F.avg_pool2d(restored, _REDUCED)
        x, difference = self._attend(self.ask(coarse, fine), blind, references)
        f = F.pixel_shuffle(self.expand(_as_map(x)), 2)
        views = [F.pixel_unshuffle(view, self.patch) for view in (difference, blind)]
        f = self.gather(torch.cat([f, fine, *views], 1))
        for block in self.blocks:
            f = block(f)
        f = F.leaky_relu(f, SLOPE)
        with torch.autocast(restored.device.type, enabled=False):
            shares, painted = torch.tanh(self.shares(f.float())), self.paint(f.float())
            taken = shares * F.conv2d(views[0].float(), self.basis) + painted
            correction = F.pixel_shuffle(F.conv2d(taken, self.basis.transpose(0, 1)), self.patch)
        return correction * references.present.any(1).to(correction).view(-1, 1, 1, 1)

    def _attend(self, x: Tensor, blind: Tensor, references: References) -> tuple[Tensor, Tensor]:
        """The face's tokens after the layers, and how the references' pixels differ from the face's, (N, 3, S/2, S/2).

        Of a token's pixels the mean is left out: it is the light of another photo.
        """
        present, count = references.present, references.present.shape[1]
        tokens = self.answer(references.coarse.flatten(0, 1), references.fine.flatten(0, 1))
        tokens = tokens.unflatten(0, (-1, count)).flatten(1, 2)
        mask = present | ~present.any(1, keepdim=True)  # attention to nothing has no value; the result is dropped
        bias = self.near.repeat(1, count) + torch.where(mask, 0.0, -torch.inf).repeat_interleave(_SIDE**2, 1)[:, None]
        identity = self._mean_identity(references)
        for layer in self.layers:
            x = layer(x, tokens, identity, bias)
        own, theirs = (_pixel_tokens(each) for each in (blind, references.pixels.flatten(0, 1)))
        theirs = theirs.unflatten(0, (-1, count)).flatten(1, 2)
        found = self.find(x, tokens, bias, theirs.to(x))
        return x, F.pixel_shuffle(_as_map(found.float() - own), 2 * self.patch)

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


class Attention(nn.Module):
    """Attention of tokens (N, 256, C) to others (N, T, C): the weighted means of values (N, T, V), (N, 256, V).

    `bias` (N, 256, T) is added to the logits of all heads. The means of the heads are averaged.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_ask, self.norm_answer = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)

    def weights(self, x: Tensor, answers: Tensor, bias: Tensor) -> Tensor:
        """(N, heads, 256, T), of sum 1."""
        q, k = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(self.norm_ask(x)), self.key(self.norm_answer(answers)))
        )
        return torch.softmax((q @ k.transpose(2, 3)).float() * q.shape[-1] ** -0.5 + bias[:, None], -1)

    def forward(self, x: Tensor, answers: Tensor, bias: Tensor, values: Tensor) -> Tensor:
        return self.weights(x, answers, bias).mean(1).to(values) @ values


class ReferenceLayer(nn.Module):
    """Attention of a face's tokens (N, 256, C) to its references' (N, T, C), then a feed-forward network.

    `identity` (N, 1, C) scales and shifts the hidden units; `bias` as in `Attention`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.hidden, self.steer = nn.Linear(width, 2 * width), nn.Linear(width, 4 * width)
        self.back = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, answers: Tensor, identity: Tensor, bias: Tensor) -> Tensor:
        weights = self.attention.weights(x, answers, bias)
        values = self.value(answers).unflatten(2, (self.attention.heads, -1)).transpose(1, 2)
        x = x + self.out((weights.to(values) @ values).transpose(1, 2).flatten(2))
        scale, shift = self.steer(identity).chunk(2, -1)
        steered: Tensor = x + self.back(F.gelu(self.hidden(self.norm(x)) * (1 + scale) + shift))
        return steered


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions around a leaky ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvLeaky(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        init_conv(self.second, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(self.first(x))
        return out


def _pixel_tokens(image: Tensor) -> Tensor:
    """An image (N, 3, H, W) as 256 tokens (N, 256, V) of its pixels, less their mean in each colour."""
    patch = image.shape[-1] // _SIDE
    local = image - F.interpolate(F.avg_pool2d(image, patch), scale_factor=patch, mode="nearest")
    return F.pixel_unshuffle(local, patch).flatten(2).transpose(1, 2)


def _as_map(tokens: Tensor) -> Tensor:
    """Tokens (N, 256, C) as a map (N, C, 16, 16)."""
    return tokens.transpose(1, 2).unflatten(2, (_SIDE, _SIDE))


def _nearness() -> Tensor:
    """(256, 256) logits: 0 for a token's own place, less the farther another is."""
    rows, columns = torch.meshgrid(torch.arange(_SIDE), torch.arange(_SIDE), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], 1).float()
    return -torch.cdist(places, places).square() / (2 * _REACH**2)
