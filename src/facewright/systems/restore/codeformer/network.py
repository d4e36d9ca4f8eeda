"""CodeFormer: predict the codes of the undamaged face from the whole damaged one, and choose how much to trust each.

Paper: Zhou, Chan, Li, Loy, "Towards Robust Blind Face Restoration with Codebook Lookup Transformer" (NeurIPS 2022,
arXiv 2206.11253).

A transformer over the 16×16 features of the damaged picture classifies, for every position, which code of a learnt
dictionary the undamaged face would have there (section 3.2). The decoder paints these codes; modules for controllable
feature transformation let the picture's own features change what is painted (section 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ....errors import UsageError
from ....nn.attention import TransformerLayer
from ....nn.vq import ResBlock, VQAutoencoder, VQLayout, inference_copy
from ...base import refuse_seed
from ..restoreformer.network import CodebookRestorer
from ..runs import restored_in_runs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_STD_EPS = 1e-5


@dataclass(frozen=True)
class CodeFormerConfig:
    """Shape of the network; the defaults are the published one (512 px, 94.1 M parameters).

    size: side of the crop. width, multipliers, attention_at, codes, code_dim: of the auto-encoder, see `VQLayout`.
    layers, heads, dim: of the transformer.
    fuse_at: sides at which the picture's features may change the decoder's.
    """

    size: int = 512
    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2, 4, 4, 8)
    attention_at: tuple[int, ...] = (16,)
    codes: int = 1024
    code_dim: int = 256
    layers: int = 9
    heads: int = 8
    dim: int = 512
    fuse_at: tuple[int, ...] = (32, 64, 128, 256)

    @classmethod
    def compact(cls) -> Self:
        """128 px crops on a processor: 8×8 codes."""
        return cls(
            size=128,
            width=32,
            multipliers=(1, 2, 2, 4, 4),
            attention_at=(8,),
            codes=256,
            code_dim=64,
            layers=3,
            heads=4,
            dim=128,
            fuse_at=(16, 32),
        )

    @property
    def layout(self) -> VQLayout:
        return VQLayout(
            size=self.size,
            width=self.width,
            multipliers=self.multipliers,
            encoder_blocks=2,
            decoder_blocks=2,
            attention_at=self.attention_at,
            codes=self.codes,
            code_dim=self.code_dim,
            pointwise=False,
            swish_out=False,
        )


class FeatureTransform(nn.Module):
    """painted + w · (painted · scale + shift), both convolved from the picture's and the painted features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.join = ResBlock(2 * channels, channels)
        self.scale = _two_convs(channels)
        self.shift = _two_convs(channels)

    def forward(self, painted: Tensor, *, picture: Tensor, w: float) -> Tensor:
        """Two maps (N, C, h, h) to one."""
        both = torch.cat([picture.to(painted.dtype), painted], 1)
        if torch.is_grad_enabled():
            both.requires_grad_()  # torch crashes in the backward of a channels-last group norm of a constant
        joined = self.join(both)
        change: Tensor = painted * self.scale(joined) + self.shift(joined)
        return painted + w * change


def _two_convs(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(channels, channels, 3, padding=1),
    )


def adaptive_instance_norm(content: Tensor, style: Tensor) -> Tensor:
    """`content` (N, C, H, W) with the mean and deviation per picture and channel of `style` (Huang and Belongie 2017).

    Unbiased variances, plus 1e-5.
    """
    mean, deviation = _moments(content)
    wanted_mean, wanted_deviation = _moments(style)
    return (content - mean) / deviation * wanted_deviation + wanted_mean


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x, (2, 3), keepdim=True)
    return mean, (variance + _STD_EPS).sqrt()


class CodeFormer(CodebookRestorer):
    """Face restoration by predicting codes (arXiv 2206.11253).

    forward: image (N, 3, S, S) RGB in [−1, 1], aligned by the `ffhq` template, to the restored image of the same shape,
    unclamped. `fidelity` in [0, 1] is the paper's w: 0 paints the predicted codes alone, 1 lets the picture's features
    change them as trained. `adain` gives the codes the colours and light of the picture's features, as the published
    inference does. With `return_aux` also a dict: `logits` (N, T, codes) over the T positions in row order and
    `features` (N, code_dim, h, h), what the encoder sees.

    As in the paper's second and third stage, codebook and decoder are given: they get no gradient, nor does the
    choice of codes pass one on. What the transformer learns from are the logits.
    """

    slug: ClassVar[str] = "codeformer"
    Config: ClassVar[type[CodeFormerConfig]] = CodeFormerConfig
    exact = ("net.encoder", "net.before", "embed", "transformer", "norm", "classify")
    full_precision: ClassVar[tuple[str, ...]] = ("position",)
    config: CodeFormerConfig

    def __init__(self, config: CodeFormerConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        layout = c.layout
        unknown = set(c.fuse_at) - set(layout.sides[:-1])
        if unknown:
            raise UsageError(f"fuse_at {sorted(unknown)}: choose among {layout.sides[:-1]}")
        self.net = VQAutoencoder(layout)
        self.net.quantiser.requires_grad_(False)
        self.net.decoder.requires_grad_(False)
        self.embed = nn.Linear(c.code_dim, c.dim)
        self.position = nn.Parameter(torch.empty((c.size // layout.stride) ** 2, c.dim).normal_(std=0.02))
        self.transformer = nn.ModuleList(TransformerLayer(c.dim, c.heads, 2 * c.dim) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.dim)
        self.classify = nn.Linear(c.dim, c.codes, bias=False)
        channels = dict(zip(layout.sides, layout.widths))
        self.transforms = nn.ModuleDict({str(side): FeatureTransform(channels[side]) for side in c.fuse_at})

    def forward(
        self, image: Tensor, *, fidelity: float = 1.0, adain: bool = True, return_aux: bool = False
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        self._check(image, fidelity)
        logits, features, taps = self._predicted(image)
        chosen = logits.argmax(2).view(-1, *features.shape[2:])
        codes = self.net.quantiser.lookup(chosen)
        if adain:
            codes = adaptive_instance_norm(codes, features.float()).detach()
        changes = self._transforms(taps, fidelity) if fidelity > 0 else None
        del taps  # those without a transform are large and of no more use
        painted = self.net.decoder(codes.to(features.dtype), after_first=changes)
        return (painted, {"logits": logits, "features": features}) if return_aux else painted

    def predict_codes(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image (N, 3, S, S) as for `forward` to its `logits` and `features`, without painting."""
        self._check(image, 1.0)
        return self._predicted(image)[:2]

    def _predicted(self, image: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        features, taps = self.net.encode(image)
        return self._logits(features), features, taps

    def _check(self, image: Tensor, fidelity: float) -> None:
        side = self.config.size
        if image.dim() != 4 or tuple(image.shape[1:]) != (3, side, side):
            raise UsageError(f"this CodeFormer takes images (N, 3, {side}, {side}), not {tuple(image.shape)}")
        if not 0 <= fidelity <= 1:
            raise UsageError(f"fidelity {fidelity} is outside 0…1")

    def _logits(self, features: Tensor) -> Tensor:
        # codes are chosen by small differences: autocast must not blur them
        with torch.autocast(features.device.type, enabled=False):
            tokens = self.embed(features.to(self.position.dtype).flatten(2).transpose(1, 2))
            for layer in self.transformer:
                tokens = layer(tokens, self.position)
            logits: Tensor = self.classify(self.norm(tokens))
        return logits

    def _transforms(self, taps: list[Tensor], w: float) -> dict[int, Any]:
        """What to do after the first block of each decoder level that the configuration names."""
        levels = {side: level for level, side in enumerate(self.config.layout.sides)}
        return {
            levels[side]: partial(self.transforms[str(side)], picture=taps[levels[side]].detach(), w=w)
            for side in self.config.fuse_at
        }

    def restore(
        self, crops: NDArray[np.uint8], *, fidelity: float = 1.0, seed: int | None = None, adain: bool = True
    ) -> NDArray[np.uint8]:
        """(N, S, S, 3) uint8 RGB crops to restored crops of the same shape.

        The network draws no noise: a seed is a UsageError.
        """
        refuse_seed(self.slug, seed)
        return restored_in_runs(self, crops, fidelity=fidelity, adain=adain)

    def _inference_form(self, dtype: torch.dtype) -> nn.Module:
        sides = [side for side in self.config.fuse_at if side in self.config.layout.wide_sides]
        return inference_copy(self, dtype, self.exact, self._been_read, [f"transforms.{side}" for side in sides])


# --- published checkpoints --------------------------------------------------------------------------------------
