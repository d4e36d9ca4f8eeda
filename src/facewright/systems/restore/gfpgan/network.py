"""GFPGAN: restoration with a U-Net that steers a StyleGAN2 of faces through half of its channels.

Paper: Wang, Li, Zhang, Shan, "Towards Real-World Blind Face Restoration with Generative Facial Prior" (CVPR 2021,
arXiv 2101.04061). Both published forms (TencentARC/GFPGAN) load and compute the same: the "clean" one of versions 1.2,
1.3 and 1.4, with bilinear up-sampling and folded scales, and the original one of the paper's version 1.0.

The published network has no control of fidelity. `fidelity` here fades the spatial features out, towards the face the
prior paints from the style codes alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.inference import AutocastCopy
from ....nn.mmrb import MMRB
from ....nn.stylegan2 import (
    DownBlock,
    EqualConv,
    Generator,
    ModulatedConv,
    channel_widths,
    leaky,
    num_latents,
    resolutions,
)
from ....tasks.card import Preprocess
from ...base import System
from ..runs import restored_in_runs
from .original import ScaledConv, ScaledLinear, UpBlock, condition_head

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

EncoderBlock = Literal["residual", "mmrb"]
Form = Literal["clean", "original"]

_ENCODER_NARROW = 0.5


@dataclass(frozen=True)
class GFPGANConfig:
    """Shape of a GFPGAN; the defaults are the published size (512 px, 86.4 M parameters).

    channel_multiplier, narrow: StyleGAN2's width rule; the U-Net has half of these widths. style_dim, mapping_layers:
    of the StyleGAN2 mapping network, which comes with the prior but is bypassed. encoder_block: the encoder's
    down-sampling blocks, the published residual ones or the mixed multi-path ones of FRGP in their place. form: that of
    versions 1.2 to 1.4, or of 1.0.
    """

    size: int = 512
    channel_multiplier: float = 2
    narrow: float = 1.0
    style_dim: int = 512
    mapping_layers: int = 8
    encoder_block: EncoderBlock = "residual"
    form: Form = "clean"

    @classmethod
    def original(cls) -> Self:
        """Version 1.0, the network of the paper (76.2 M parameters)."""
        return cls(channel_multiplier=1, form="original")

    @classmethod
    def compact(cls) -> Self:
        """128 px crops and an eighth of the widths, for experiments on a CPU."""
        return cls(size=128, narrow=0.125, style_dim=64, mapping_layers=2)


class ResBlock(nn.Module):
    """Two convolutions with a bilinear change of size by `scale` between them, and a 1×1 skip (appendix of the paper).

    forward: (N, c_in, H, W) to (N, c_out, scale·H, scale·W).
    """

    def __init__(self, c_in: int, c_out: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.conv1 = nn.Conv2d(c_in, c_in, 3, 1, 1)
        self.conv2 = nn.Conv2d(c_in, c_out, 3, 1, 1)
        self.skip = nn.Conv2d(c_in, c_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = leaky(self.conv2(self._resized(leaky(self.conv1(x)))))
        skip: Tensor = self.skip(self._resized(x))
        return inner + skip

    def _resized(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)


def _down_block(kind: EncoderBlock, c_in: int, c_out: int) -> nn.Module:
    return MMRB(c_in, c_out, "down") if kind == "mmrb" else ResBlock(c_in, c_out, 0.5)


def _condition_head(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, 1, 1), nn.LeakyReLU(0.2), nn.Conv2d(channels, channels, 3, 1, 1)
    )


class GFPGAN(System):
    """Face restoration with a generative facial prior (arXiv 2101.04061, section 3).

    forward: image (N, 3, S, S) RGB in [−1, 1], aligned by the `ffhq` template, to the restored image of the same
    shape, unclamped. `fidelity` in [0, 1]: 1 is the published network, 0 the prior's face of the style codes alone.
    `noise` takes the place of the generator's (see `Generator.draw_noise`). With `return_pyramid`
    also the images the decoder's features show at 8, 16, …, S px, for the pyramid loss
    (section 3.3). Raises UsageError for another shape.

    `precision`: arithmetic of `restore`; `auto` takes bfloat16 where the processor has it.
    """

    slug: ClassVar[str] = "gfpgan"
    Config: ClassVar[type[GFPGANConfig]] = GFPGANConfig
    mapped = True
    config: GFPGANConfig

    def __init__(self, config: GFPGANConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        if c.encoder_block not in get_args(EncoderBlock):
            raise UsageError(f"encoder_block {c.encoder_block!r}: choose one of {', '.join(get_args(EncoderBlock))}")
        scales = resolutions(c.size)
        width = channel_widths(c.size, c.channel_multiplier, c.narrow * _ENCODER_NARROW)
        rising, falling = list(zip(scales, scales[1:])), list(zip(scales[::-1], scales[-2::-1]))

        build = self._build_original if c.form == "original" else self._build_clean
        build(width, falling, rising)
        self.generator = Generator(
            c.size,
            style_dim=c.style_dim,
            channel_multiplier=c.channel_multiplier,
            narrow=c.narrow,
            mapping_layers=c.mapping_layers,
            upsample="fir" if c.form == "original" else "bilinear",
            equalised=c.form == "original",
            injection="sft_half",
        )
        self.generator.mapping.requires_grad_(False)
        for head in self.scale_heads:
            nn.init.ones_(head[-1].bias)  # type: ignore[index]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _build_clean(
        self, width: dict[int, int], falling: list[tuple[int, int]], rising: list[tuple[int, int]]
    ) -> None:
        c = self.config
        self.activate: nn.Module = nn.LeakyReLU(0.2)
        self.stem: nn.Module = nn.Conv2d(3, width[c.size], 1)
        self.downs = nn.ModuleList(_down_block(c.encoder_block, width[a], width[b]) for a, b in falling)
        self.bottleneck: nn.Module = nn.Conv2d(width[4], width[4], 3, 1, 1)
        self.ups = nn.ModuleList(ResBlock(width[a], width[b], 2) for a, b in rising)
        self.to_rgbs = nn.ModuleList(nn.Conv2d(width[r], 3, 1) for _, r in rising)
        self.to_latent: nn.Module = nn.Linear(width[4] * 16, num_latents(c.size) * c.style_dim)
        self.scale_heads = nn.ModuleList(_condition_head(width[r]) for _, r in rising)
        self.shift_heads = nn.ModuleList(_condition_head(width[r]) for _, r in rising)

    def _build_original(
        self, width: dict[int, int], falling: list[tuple[int, int]], rising: list[tuple[int, int]]
    ) -> None:
        c = self.config
        if c.encoder_block != "residual":
            raise UsageError("the original form of GFPGAN has residual blocks only")
        self.activate = nn.Identity()  # convolutions of that form activate themselves
        self.stem = EqualConv(3, width[c.size], 1)
        self.downs = nn.ModuleList(DownBlock(width[a], width[b]) for a, b in falling)
        self.bottleneck = EqualConv(width[4], width[4], 3)
        self.ups = nn.ModuleList(UpBlock(width[a], width[b]) for a, b in rising)
        self.to_rgbs = nn.ModuleList(ScaledConv(width[r], 3, 1) for _, r in rising)
        self.to_latent = ScaledLinear(width[4] * 16, num_latents(c.size) * c.style_dim)
        self.scale_heads = nn.ModuleList(condition_head(width[r]) for _, r in rising)
        self.shift_heads = nn.ModuleList(condition_head(width[r]) for _, r in rising)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(config.size))

    def forward(
        self,
        image: Tensor,
        *,
        fidelity: float = 1.0,
        noise: Sequence[Tensor] | None = None,
        return_pyramid: bool = False,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        side = self.config.size
        if image.dim() != 4 or tuple(image.shape[1:]) != (3, side, side):
            raise UsageError(f"this GFPGAN takes images (N, 3, {side}, {side}), not {tuple(image.shape)}")
        taps = self._encode(image)
        bottleneck = self.activate(self.bottleneck(taps[-1]))
        latent = self.to_latent(bottleneck.flatten(1)).float().view(len(image), -1, self.config.style_dim)
        features = self._decode(bottleneck, taps)
        conditions = self._conditions(features, fidelity)
        pyramid = [to_rgb(f) for to_rgb, f in zip(self.to_rgbs, features)] if return_pyramid else []
        del taps, features  # large, and of no more use to the generator
        restored: Tensor = self.generator(latent, conditions, noise)
        return (restored, pyramid) if return_pyramid else restored

    def _encode(self, image: Tensor) -> list[Tensor]:
        """Features at S/2, S/4, …, 4."""
        x = self.activate(self.stem(image))
        taps = []
        for down in self.downs:
            x = down(x)
            taps.append(x)
        return taps

    def _decode(self, bottleneck: Tensor, taps: list[Tensor]) -> list[Tensor]:
        """Features at 8, 16, …, S, each from the one below plus the encoder's of that size."""
        x, features = bottleneck, []
        for up, tap in zip(self.ups, reversed(taps)):
            x = up(x + tap)
            features.append(x)
        return features

    def _conditions(self, features: list[Tensor], fidelity: float) -> list[Tensor]:
        """Scale and shift of every size, faded towards 1 and 0 where `fidelity` is below 1."""
        conditions = []
        for feature, scale_head, shift_head in zip(features, self.scale_heads, self.shift_heads):
            scale, shift = scale_head(feature), shift_head(feature)
            if fidelity != 1:
                scale, shift = 1 + fidelity * (scale - 1), fidelity * shift
            conditions += [scale, shift]
        return conditions

    # Use on pictures

    def restore(self, crops: NDArray[np.uint8], *, fidelity: float = 1.0, seed: int | None = None) -> NDArray[np.uint8]:
        """(N, S, S, 3) uint8 RGB crops to restored crops of the same shape.

        `seed` draws the generator's noise anew, one draw for all crops, so that none depends on its place in a batch;
        None takes the noise as trained.
        Raises UsageError for a fidelity outside 0…1.
        """
        if not 0 <= fidelity <= 1:
            raise UsageError(f"fidelity {fidelity} is outside 0…1")
        noise = None if seed is None else self.generator.draw_noise(seed)
        return restored_in_runs(self, crops, fidelity=fidelity, noise=noise)

    def _inference_form(self, dtype: torch.dtype) -> nn.Module:
        heavy = (nn.Conv2d, nn.Linear, ModulatedConv, EqualConv, ScaledConv, ScaledLinear)
        return AutocastCopy(self, dtype, heavy, self._been_read)
