"""Mixed multi-path residual block (MMRB): a two-scale residual block that watches for weak texture.

The name and the purpose come from "Enhancing Quality of Pose-varied Face Restoration with Local Weak Feature Sensing
and GAN Prior" (arXiv 2205.14377). Its method section is not publicly readable, so the topology here is this project's
reconstruction: two cross-mixed paths (3×3 and 5×5 fields) and a channel gate driven by high-pass energy.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from .norm import pixel_norm

Paths = Literal["both", "short", "long"]
Mode = Literal["none", "down", "up"]

SLOPE = 0.2
_FUSE_INIT = 0.1
_LIGHT_FUSE_INIT = 0.01
_BLOCK = 4
_MIN_SQUEEZE = 4


def init_conv(conv: nn.Conv2d | nn.Linear, gain: float = 1.0, bias: float = 0.0) -> None:
    """Kaiming initialisation for leaky ReLU 0.2, times `gain`; constant bias."""
    nn.init.kaiming_normal_(conv.weight, a=SLOPE)
    with torch.no_grad():
        conv.weight.mul_(gain)
    if conv.bias is not None:
        nn.init.constant_(conv.bias, bias)


class ConvLeaky(nn.Sequential):
    """k×k convolution that keeps the resolution (or halves it with stride 2), then leaky ReLU 0.2.

    Odd kernels are padded by half their size; the even kernel 2 tiles its input.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> None:
        conv = nn.Conv2d(c_in, c_out, kernel, stride, (kernel - 1) // 2)
        init_conv(conv)
        super().__init__(conv, nn.LeakyReLU(SLOPE, inplace=True))


class SeparableLeaky(nn.Sequential):
    """Pointwise, then depthwise 3×3 convolution, then leaky ReLU 0.2: a rank-one stand-in for `ConvLeaky`.

    Blueprint separable convolution (Haase, Amthor, CVPR 2020). With 128 channels it needs an eighth of the
    multiplications of the dense form.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        pointwise = nn.Conv2d(c_in, c_out, 1, bias=False)
        nn.init.kaiming_normal_(pointwise.weight, nonlinearity="linear")
        depthwise = nn.Conv2d(c_out, c_out, 3, padding=1, groups=c_out)
        init_conv(depthwise)
        super().__init__(pointwise, depthwise, nn.LeakyReLU(SLOPE, inplace=True))


def resample(x: Tensor, mode: Mode) -> Tensor:
    """Bilinear halving or doubling of (N, C, H, W); `none` returns the input."""
    if mode == "none":
        return x
    return F.interpolate(x, scale_factor=0.5 if mode == "down" else 2.0, mode="bilinear", align_corners=False)


class WeakTextureGate(nn.Module):
    """Channel weights in (0, 1) from the standard deviation within 4×4 blocks: what fine texture a channel carries.

    The variance is the mean square less the mean square of the block means: two passes over memory, no map in between.
    """

    def __init__(self, c_in: int, c_out: int, reduction: int = 16) -> None:
        super().__init__()
        squeezed = max(c_in // reduction, _MIN_SQUEEZE)
        self.squeeze = nn.Linear(c_in, squeezed)
        self.excite = nn.Linear(squeezed, c_out)
        init_conv(self.squeeze)
        init_conv(self.excite)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W), H and W multiples of 4, to (N, C_out, 1, 1)."""
        x = x.detach()  # a statistic to weigh by; its gradient would cost as much as a convolution
        means = F.avg_pool2d(x, _BLOCK)
        variance = _mean_square(x) - _mean_square(means)
        deviation = variance.clamp(min=0).sqrt().to(x.dtype)
        gate = torch.sigmoid(self.excite(F.leaky_relu(self.squeeze(deviation), SLOPE)))
        out: Tensor = gate[:, :, None, None]
        return out


def _mean_square(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C), in float32 or finer."""
    precise = torch.promote_types(x.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(x, dim=(2, 3), dtype=precise)
    return norm.square() / (x.shape[2] * x.shape[3])


class MMRB(nn.Module):
    """Mixed multi-path residual block, (N, c_in, H, W) to (N, c_out, H', W').

    mode `down`/`up` halves or doubles the resolution between the two stages, so that the block takes the place of a
    resampling residual block; the skip is then bilinear followed by a 1×1 convolution without bias. Without
    normalisation over images, so that batches do not mix and colour is kept. The output equals the skip plus a residual
    that is small at initialisation.

    `light` replaces the 3×3 convolutions by separable ones and scales every position to unit size at the entrance of
    the residual, so that such blocks can be stacked, and added to a trained network.

    Ablation switches: `paths` keeps one of the two paths, `mix=False` keeps them apart, `gate=False` removes the
    weak-texture gate.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int | None = None,
        mode: Mode = "none",
        *,
        paths: Paths = "both",
        mix: bool = True,
        gate: bool = True,
        light: bool = False,
    ) -> None:
        super().__init__()
        if mode not in get_args(Mode) or paths not in get_args(Paths):
            raise UsageError(f"MMRB mode {mode!r}, paths {paths!r}: choose from {get_args(Mode)}, {get_args(Paths)}")
        c_out = c_in if c_out is None else c_out
        c = c_in // 2
        has_short, has_long = paths != "long", paths != "short"
        self.mode: Mode = mode
        self.mix = mix
        self.light = light
        conv = SeparableLeaky if light else ConvLeaky
        mixed = c * (has_short + has_long) if mix else c
        self.reduce = ConvLeaky(c_in, c, 1)
        self.short1 = conv(c, c) if has_short else None
        self.long1 = nn.Sequential(conv(c, c), conv(c, c)) if has_long else None
        self.short2 = conv(mixed, c) if has_short else None
        self.long2 = nn.Sequential(conv(mixed, c), conv(c, c)) if has_long else None
        self.fuse = nn.Conv2d(c * (has_short + has_long), c_out, 1)
        init_conv(self.fuse, _LIGHT_FUSE_INIT if light else _FUSE_INIT)
        self.gate = WeakTextureGate(c_in, c_out) if gate else None
        self.skip = None
        if mode != "none" or c_in != c_out:
            self.skip = nn.Conv2d(c_in, c_out, 1, bias=False)
            init_conv(self.skip)

    def forward(self, x: Tensor) -> Tensor:
        u = self.reduce(pixel_norm(x) if self.light else x)
        first = [path(u) for path in (self.short1, self.long1) if path is not None]
        second = [path for path in (self.short2, self.long2) if path is not None]
        if self.mix:
            mixed = resample(_cat(first), self.mode)
            results = [path(mixed) for path in second]
        else:
            results = [path(resample(f, self.mode)) for f, path in zip(first, second)]
        residual: Tensor = self.fuse(_cat(results))
        skip: Tensor = x if self.skip is None else self.skip(resample(x, self.mode))
        if self.gate is None:
            return skip + residual
        out: Tensor = torch.addcmul(skip, self.gate(x), residual)
        return out


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
