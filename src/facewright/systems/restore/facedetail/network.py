"""FaceDetail: restores the detail of soft, small or badly printed faces at 512 px on a processor.

This project's own design; there is no paper. A U-Net on 4×4 patches of pixels (pixel-unshuffle), so that everything
happens at 128 px and below, with plain residual blocks of 3×3 convolutions, which a processor with bfloat16 runs at
nearly its peak. Three things are added: planes that tell every position where in the aligned face it lies, a small head
that estimates the damage from the encoder's features and steers the decoder by channel gains, and at the output an
equaliser: every pixel has a gain for each of three fixed bands of the input, so that the network need not repaint what
is there to sharpen it or to take its noise away. What the bands do not hold is added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.inference import has_bf16
from ....nn.mmrb import init_conv
from ....tasks.card import Preprocess
from ...base import System, refuse_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

Precision = Literal["auto", "fp32", "bf16"]

_SLOPE = 0.2
_BLOCK_INIT = 0.1
_OUTPUT_INIT = 1e-3
_PLANES = 3
_ESTIMATES = 5
_GAIN = 4.0  # what an output of 1 amplifies a band by: soft pictures need gains of several
_SIGMAS = (0.8, 1.6, 3.2)  # pixels; the bands are what each Gaussian takes from the one before


@dataclass(frozen=True)
class FaceDetailConfig:
    """Shape of a FaceDetail network; the defaults are the size for a large card.

    size: side of the crop it is trained on and restores. patch: pixel-unshuffle factor. widths: channels at size/patch
    and every halving of it. encoder, decoder: residual blocks per scale (the decoder has none at the lowest).
    steered: the estimated damage gives every block of the decoder channel gains. hidden: width of the head. located:
    the network is told where in the aligned face it is; without, it takes pictures of anything.
    """

    size: int = 512
    patch: int = 4
    widths: tuple[int, ...] = (64, 128, 192, 256)
    encoder: tuple[int, ...] = (2, 3, 4, 4)
    decoder: tuple[int, ...] = (3, 3, 3)
    steered: bool = True
    hidden: int = 64
    located: bool = True

    @classmethod
    def compact(cls) -> Self:
        """What ships: 3 M parameters, 6 billion multiplications for a face."""
        return cls(widths=(48, 80, 128, 128), encoder=(1, 2, 2, 2), decoder=(1, 2, 2))

    def __post_init__(self) -> None:
        if len(self.encoder) != len(self.widths) or len(self.decoder) != len(self.widths) - 1:
            raise UsageError("a FaceDetail needs as many encoder counts as widths, and one decoder count less")
        if self.size % self.stride:
            raise UsageError(f"a crop of {self.size} px is not possible; choose a multiple of {self.stride}")

    @property
    def stride(self) -> int:
        """Pixels under one position of the lowest scale."""
        return self.patch * int(2 ** (len(self.widths) - 1))


@dataclass(frozen=True, slots=True)
class DetailEstimate:
    """How a crop was damaged, as the network sees it.

    detail: share of the true detail's energy (Laplacian of the face) that is left, 0…1; structure: the same of the
    picture at half its size. psnr (dB): of the input against the undamaged face. noise_sigma: noise and grain, in grey
    levels of 255. downscale: factor by which the face had been reduced, at least 1.
    """

    detail: float
    structure: float
    psnr: float
    noise_sigma: float
    downscale: float


def decode_estimate(raw: Tensor) -> list[DetailEstimate]:
    """(N, 5) raw outputs of the head to natural units; their meaning is that of `data.highres.damage_target`."""
    return [
        DetailEstimate(
            detail=float(detail.clamp(0, 1) ** 2),
            structure=float(structure.clamp(0, 1) ** 2),
            psnr=float((50 * psnr).clamp(min=0)),
            noise_sigma=float(torch.expm1(3 * noise).clamp(min=0)),
            downscale=float(torch.exp2(4 * down).clamp(min=1)),
        )
        for detail, structure, psnr, noise, down in raw.float().cpu()
    ]


def band_filters(patch: int) -> Tensor:
    """(bands·patch², patch², 3, 3): the bands of one colour as a convolution of patches with their neighbours.

    Row b·patch² + p gives band b at pixel p of a patch. Gaussians are cut at the ring of neighbouring patches, so that
    each band has a sum of zero.
    """
    places = torch.arange(-patch, 2 * patch, dtype=torch.float64)
    inner = torch.arange(patch, dtype=torch.float64)

    def smoothing(sigma: float) -> Tensor:
        """(pixels of the patch, 3·patch columns) weights of one direction."""
        weights = torch.exp(-0.5 * ((places[None] - inner[:, None]) / sigma) ** 2)
        return weights / weights.sum(1, keepdim=True)

    kernels = [(places[None] == inner[:, None]).double(), *(smoothing(sigma) for sigma in _SIGMAS)]
    smooth = torch.stack([torch.einsum("iy,jx->ijyx", k, k) for k in kernels])
    bands = smooth[:-1] - smooth[1:]
    # (band, i, j, row of patches · y, column of patches · x) to (band·pixel, pixel of the neighbour, rows, columns)
    split = bands.reshape(len(_SIGMAS), patch, patch, 3, patch, 3, patch).permute(0, 1, 2, 4, 6, 3, 5)
    filters: Tensor = split.reshape(len(_SIGMAS) * patch**2, patch**2, 3, 3).float()
    return filters


class _Block(nn.Module):
    """x + gain · conv(leaky(conv(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        init_conv(self.first)
        init_conv(self.second, _BLOCK_INIT)

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        change: Tensor = self.second(F.leaky_relu(self.first(x), _SLOPE, inplace=True))
        return x + (change if gain is None else change * gain)


class _Blocks(nn.ModuleList):
    """Blocks in a row, each with its own channel gains (N, C, 1, 1) or without."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__(_Block(width) for _ in range(count))

    def forward(self, x: Tensor, gains: Sequence[Tensor | None] = ()) -> Tensor:
        for block, gain in zip(self, gains or [None] * len(self)):
            x = block(x, gain)
        return x


class FaceDetail(System):
    """Detail of aligned faces at 512 px, by this project's own design.

    forward: image (N, 3, H, W) RGB in [−1, 1], a crop on the `ffhq` template or a part of one with sides divisible by
    `config.stride`, to the restored image of the same shape, unclamped. `place` (N, 2) is row and column of each part's
    corner in its crop (default: 0, 0). `fidelity` in [0, 1], a number or one per image: 1 adds what the picture
    supports, less lets the network invent more texture. With `return_aux` also the raw damage estimate (N, 5).

    `precision`: arithmetic of `restore` and its relatives; `auto` takes bfloat16 where the processor has it.
    """

    slug: ClassVar[str] = "facedetail"
    Config: ClassVar[type[FaceDetailConfig]] = FaceDetailConfig
    config: FaceDetailConfig
    bands: Tensor

    def __init__(self, config: FaceDetailConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        self.precision: Precision = "auto"
        w, pixels = c.widths, 3 * c.patch**2
        self.stem = nn.Conv2d(pixels + _PLANES, w[0], 3, padding=1)
        self.encoder = nn.ModuleList(_Blocks(width, n) for width, n in zip(w, c.encoder))
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(w, w[1:]))
        self.ups = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in zip(w, w[1:]))
        self.decoder = nn.ModuleList(_Blocks(width, n) for width, n in zip(w, c.decoder))
        self.look = nn.Linear(sum(w), c.hidden)
        self.estimate = nn.Linear(c.hidden, _ESTIMATES)
        self.steer = nn.Linear(c.hidden, sum(a * n for a, n in zip(w, c.decoder))) if c.steered else None
        self.out = nn.Conv2d(w[0], pixels + len(_SIGMAS) * c.patch**2, 3, padding=1)
        self.register_buffer("bands", band_filters(c.patch).repeat(3, 1, 1, 1), persistent=False)
        for conv in (self.stem, *self.downs, *self.ups, self.look):
            init_conv(conv)
        init_conv(self.out, _OUTPUT_INIT)
        if self.steer is not None:
            init_conv(self.steer, _BLOCK_INIT)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(config.size))

    def forward(
        self,
        image: Tensor,
        *,
        fidelity: float | Tensor = 1.0,
        place: Tensor | None = None,
        return_aux: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        patches = self._patches(image)
        taps = self._encode(patches, self._planes(image, fidelity, place))
        seen = self._seen(taps)
        restored = image + self._change(patches, self._decode(taps, seen))
        return (restored, self.estimate(seen)) if return_aux else restored

    def _patches(self, image: Tensor) -> Tensor:
        """(N, 3·patch², H/patch, W/patch), channels last."""
        c = self.config
        if image.dim() != 4 or image.shape[1] != 3 or image.shape[2] % c.stride or image.shape[3] % c.stride:
            raise UsageError(f"FaceDetail takes images (N, 3, H, W) with sides divisible by {c.stride}")
        return F.pixel_unshuffle(image, c.patch).contiguous(memory_format=torch.channels_last)

    def _change(self, patches: Tensor, features: Tensor) -> Tensor:
        """What is added to the image: its bands, each pixel's by its gains, and what the network paints."""
        cell = self.config.patch**2
        added, gains = self.out(features).split([3 * cell, len(_SIGMAS) * cell], 1)
        count, _, rows, columns = patches.shape
        bands = F.conv2d(patches, self.bands, padding=1, groups=3).view(count, 3, len(_SIGMAS), cell, rows, columns)
        change = added.reshape(count, 3, cell, rows, columns)
        split = gains.reshape(count, 1, len(_SIGMAS), cell, rows, columns)
        for band, gain in zip(bands.unbind(2), split.unbind(2)):
            change = torch.addcmul(change, band, gain, value=_GAIN)
        return F.pixel_shuffle(change.flatten(1, 2), self.config.patch)

    def _encode(self, patches: Tensor, planes: Tensor) -> list[Tensor]:
        """The encoder's features, from size/patch down."""
        x = self.stem(torch.cat([patches, planes.to(patches.dtype)], 1))
        taps = []
        for level, blocks in enumerate(self.encoder):
            if level:
                x = self.downs[level - 1](x)
            x = blocks(x)
            taps.append(x)
        return taps

    def _planes(self, image: Tensor, fidelity: float | Tensor, place: Tensor | None) -> Tensor:
        """(N, 3, H/patch, W/patch): row and column in the whole crop, −1…1, and the fidelity."""
        patch, size = self.config.patch, self.config.size
        count, height, width = len(image), image.shape[2] // patch, image.shape[3] // patch
        corner = image.new_zeros(count, 2) if place is None else place.to(image)
        rows = corner[:, :1] + patch * torch.arange(height, device=image.device, dtype=image.dtype)
        columns = corner[:, 1:] + patch * torch.arange(width, device=image.device, dtype=image.dtype)
        wanted = torch.as_tensor(fidelity, dtype=image.dtype, device=image.device).expand(count)
        shape = (count, height, width)
        if not self.config.located:
            rows, columns = torch.full_like(rows, size / 2), torch.full_like(columns, size / 2)
        planes = (
            (2 * rows / size - 1)[:, :, None].expand(shape),
            (2 * columns / size - 1)[:, None, :].expand(shape),
            (2 * wanted - 1)[:, None, None].expand(shape),
        )
        return torch.stack(planes, 1)

    def _seen(self, taps: list[Tensor]) -> Tensor:
        pooled = torch.cat([tap.abs().mean((2, 3)) for tap in taps], 1)
        return F.leaky_relu(self.look(pooled), _SLOPE)

    def _decode(self, taps: list[Tensor], seen: Tensor) -> Tensor:
        gains = self._gains(seen)
        x = taps[-1]
        for level in range(len(self.decoder) - 1, -1, -1):
            x = taps[level] + F.pixel_shuffle(self.ups[level](x), 2)
            x = self.decoder[level](x, gains[level])
        return x

    def _gains(self, seen: Tensor) -> list[list[Tensor | None]]:
        """Per scale and block of the decoder the gains (N, C, 1, 1) of its channels."""
        c = self.config
        if self.steer is None:
            return [[None] * n for n in c.decoder]
        widths = [width for width, n in zip(c.widths, c.decoder) for _ in range(n)]
        parts = iter((1 + self.steer(seen))[:, :, None, None].split(widths, 1))
        return [[next(parts) for _ in range(n)] for n in c.decoder]

    # Use on pictures

    def restore(self, crops: NDArray[np.uint8], *, fidelity: float = 1.0, seed: int | None = None) -> NDArray[np.uint8]:
        """(N, S, S, 3) uint8 RGB crops to restored crops of the same shape; one batch, so keep N moderate.

        The network draws no noise: a seed is a UsageError.
        """
        refuse_seed(self.slug, seed)
        return self.restore_with_estimate(crops, fidelity=fidelity)[0]

    @torch.inference_mode()
    def restore_with_estimate(
        self, crops: NDArray[np.uint8], *, fidelity: float = 1.0
    ) -> tuple[NDArray[np.uint8], list[DetailEstimate]]:
        """Restored crops and the estimate of what was wrong with each input, from one pass."""
        if not 0 <= fidelity <= 1:
            raise UsageError(f"fidelity {fidelity} is outside 0…1")
        with self._autocast():
            out, raw = self(self.normalise(crops), fidelity=fidelity, return_aux=True)
        pixels = out.float().add_(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy(), decode_estimate(raw)

    @torch.inference_mode()
    def assess_detail(self, crops: NDArray[np.uint8]) -> list[DetailEstimate]:
        """Estimate the damage of (N, S, S, 3) uint8 RGB crops; runs the encoder only."""
        with self._autocast():
            image = self.normalise(crops)
            taps = self._encode(self._patches(image), self._planes(image, 1.0, None))
            return decode_estimate(self.estimate(self._seen(taps)))

    def _autocast(self) -> torch.autocast:
        wanted = self.precision == "bf16" or (self.precision == "auto" and has_bf16(self.device))
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=wanted)
