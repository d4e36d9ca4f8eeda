"""StyleGAN2 generator and discriminator, in the original and in the "clean" form, with spatial injection.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020 (arXiv 1912.04958). The two
up-sampling forms are the two under which priors are published: a stride-2 transposed convolution followed by the
[1,3,3,1] filter, and a plain convolution after bilinear doubling. `equalised` says whether the learning-rate scales
are applied at run time (for training from scratch) or already folded into the weights.

The modulated convolution scales its input and output channels around one ordinary convolution, which equals
convolving every sample with its own kernel but batches and keeps channels-last memory.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError, WeightsError
from .norm import pixel_norm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Injection = Literal["none", "sft_half", "sft_full", "noise_add", "noise_concat"]
Upsample = Literal["fir", "bilinear"]
Noise = Literal["fixed", "random"]
State = dict[str, Tensor]

SLOPE = 0.2
GAIN = math.sqrt(2)
BASE_SIZE = 4
BASE_WIDTHS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64, 512: 32, 1024: 16, 2048: 8}
_MAPPING_LR = 0.01
_EPS = 1e-8


def resolutions(size: int) -> list[int]:
    """[4, 8, …, size]; raises UsageError when `size` is not a power of two of at least 8."""
    if size < 8 or size & (size - 1):
        raise UsageError(f"size {size} is not a power of two of at least 8")
    return [2**k for k in range(2, size.bit_length())]


def channel_widths(size: int, channel_multiplier: float = 2, narrow: float = 1.0) -> dict[int, int]:
    """Channels at each resolution from 4 to `size`; the multiplier acts from 64 px on, `narrow` everywhere."""
    return {r: int(BASE_WIDTHS[r] * narrow * (channel_multiplier if r >= 64 else 1)) for r in resolutions(size)}


def num_latents(size: int) -> int:
    """Styles a generator of that size takes: 16 at 512 px."""
    return 2 * len(resolutions(size))


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2, without gain."""
    return F.leaky_relu(x, SLOPE)


class EqualLinear(nn.Module):
    """Linear layer whose weight is scaled by `lr_mul`/√fan_in at run time (folded when not `equalised`)."""

    def __init__(
        self, c_in: int, c_out: int, *, bias_init: float = 0.0, lr_mul: float = 1.0, equalised: bool = True
    ) -> None:
        super().__init__()
        folded = 1.0 / lr_mul if equalised else 1.0 / math.sqrt(c_in)
        self.weight = nn.Parameter(torch.randn(c_out, c_in) * folded)
        self.bias = nn.Parameter(torch.full((c_out,), float(bias_init)))
        self.weight_scale = lr_mul / math.sqrt(c_in) if equalised else 1.0
        self.bias_scale = lr_mul if equalised else 1.0

    def forward(self, x: Tensor) -> Tensor:
        if self.weight_scale == 1.0 and self.bias_scale == 1.0:
            return F.linear(x, self.weight, self.bias)
        return F.linear(x, self.weight * self.weight_scale, self.bias * self.bias_scale)


class Mapping(nn.Module):
    """Pixel norm and fully connected layers: z (N, D) to w (N, D). With no layers it is the pixel norm alone."""

    def __init__(self, dim: int, layers: int = 8, *, equalised: bool = True) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EqualLinear(dim, dim, lr_mul=_MAPPING_LR, equalised=equalised) for _ in range(layers)
        )
        self.gain = GAIN if equalised else 1.0
        if not equalised:
            for layer in self.layers:
                nn.init.normal_(layer.weight, std=GAIN / math.sqrt(dim))  # type: ignore[arg-type]

    def forward(self, z: Tensor) -> Tensor:
        x = pixel_norm(z)
        for layer in self.layers:
            x = leaky(layer(x)) * self.gain
        return x


def fir_kernel() -> Tensor:
    """The 4×4 low-pass filter [1,3,3,1] ⊗ [1,3,3,1], sum 1."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = torch.outer(taps, taps)
    return kernel / kernel.sum()


def _filter(x: Tensor, kernel: Tensor, pad: int, stride: int = 1) -> Tensor:
    channels = x.shape[1]
    weight = kernel.to(x.dtype).expand(channels, 1, *kernel.shape)
    # every place, then every second one: a strided depthwise convolution goes back ten times more slowly on a CPU
    return F.conv2d(x, weight, padding=pad, groups=channels)[..., ::stride, ::stride]


def upsample_fir(x: Tensor, kernel: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C, 2H, 2W): zeros between the samples, then the filter with gain 4."""
    channels = x.shape[1]
    weight = (4 * kernel).to(x.dtype).expand(channels, 1, *kernel.shape)
    return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=channels)


def upsample_bilinear(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, C, 2H, 2W), pixel centres aligned as usual (`align_corners=False`)."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class ModulatedConv(nn.Module):
    """Convolution whose kernel is scaled per sample and input channel by a style, then normalised per output channel.

    forward: x (N, C_in, H, W), style (N, D) to (N, C_out, H', W'), H' = 2H with `upsample`. `gain` multiplies the
    result (used by the caller to save a pass over memory).
    """

    kernel: Tensor

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        style_dim: int,
        *,
        demodulate: bool = True,
        upsample: Upsample | None = None,
        equalised: bool = True,
    ) -> None:
        super().__init__()
        fan_in = c_in * kernel**2
        folded = 1.0 if equalised else 1 / math.sqrt(fan_in)
        self.weight = nn.Parameter(torch.randn(c_out, c_in, kernel, kernel) * folded)
        self.weight_scale = 1 / math.sqrt(fan_in) if equalised else 1.0
        self.modulation = EqualLinear(style_dim, c_in, bias_init=1.0, equalised=equalised)
        self.demodulate = demodulate
        self.upsample = upsample
        self.padding = kernel // 2
        if upsample == "fir":
            self.register_buffer("kernel", fir_kernel(), persistent=False)

    def forward(self, x: Tensor, style: Tensor, gain: float = 1.0) -> Tensor:
        scale, out_scale = self.scales(style)
        x = x * _channel(scale, x)
        x = self.convolve(x)
        if out_scale is not None:
            factor = _channel(out_scale * gain, x)
            x = x * factor if torch.is_grad_enabled() else x.mul_(factor)
        return x

    def scales(self, style: Tensor) -> tuple[Tensor, Tensor | None]:
        """Input scales (N, C_in) and output scales (N, C_out), None without demodulation; always in float32."""
        with torch.autocast(style.device.type, enabled=False):
            scale = self.modulation(style.to(self.modulation.weight.dtype))
            if not self.demodulate:
                return scale, None
            energy = (self.weight.to(scale.dtype) * self.weight_scale).square().sum((2, 3))
            return scale, torch.rsqrt(scale.square() @ energy.t() + _EPS)

    def convolve(self, x: Tensor) -> Tensor:
        """The convolution shared by all samples, with the up-sampling."""
        weight = self.weight if self.weight_scale == 1.0 else self.weight * self.weight_scale
        if self.upsample == "fir":
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            return _filter(x, 4 * self.kernel, pad=1)
        if self.upsample == "bilinear":
            x = upsample_bilinear(x)
        return F.conv2d(x, weight, padding=self.padding)


def _channel(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype)[:, :, None, None]


class StyledConv(nn.Module):
    """Modulated 3×3 convolution, noise, bias, leaky ReLU with gain √2.

    The gain is applied before the (positively homogeneous) activation. The clean form leaves noise and bias unscaled.
    With `concat`, the injected feature is put beside the result instead of added: the output has 2·C_out channels.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        style_dim: int,
        *,
        upsample: Upsample | None = None,
        equalised: bool = True,
        concat: bool = False,
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv(c_in, c_out, 3, style_dim, upsample=upsample, equalised=equalised)
        self.noise_strength = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(c_out * (2 if concat else 1)))
        self.side_gain = GAIN if equalised else 1.0
        self.concat = concat

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        """x (N, C_in, H, W), style (N, D), noise broadcastable to (N, C_out, H', W')."""
        x = self.conv(x, style, gain=GAIN)
        noise = (self.side_gain * self.noise_strength).to(x.dtype) * noise.to(x.dtype)
        bias = (self.side_gain * self.bias).to(x.dtype)[None, :, None, None]
        if self.concat:
            return leaky(torch.cat((x, noise.expand_as(x)), 1) + bias)
        if torch.is_grad_enabled():
            return leaky(x + (noise + bias))
        return F.leaky_relu_(x.add_(noise).add_(bias), SLOPE)  # one map instead of three


class ToRGB(nn.Module):
    """Modulated 1×1 convolution to the image, without demodulation, added to the up-sampled image so far."""

    kernel: Tensor

    def __init__(
        self, c_in: int, style_dim: int, out_channels: int = 3, *, upsample: Upsample = "fir", equalised: bool = True
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv(c_in, out_channels, 1, style_dim, demodulate=False, equalised=equalised)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.upsample = upsample
        if upsample == "fir":
            self.register_buffer("kernel", fir_kernel(), persistent=False)

    def forward(self, x: Tensor, style: Tensor, skip: Tensor | None = None) -> Tensor:
        image: Tensor = self.conv(x, style)
        image = image + self.bias.to(image.dtype)[None, :, None, None]
        if skip is None:
            return image
        if self.upsample == "fir":
            return image + upsample_fir(skip, self.kernel)
        return image + upsample_bilinear(skip)


def sft_full(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Spatial feature transform of all channels."""
    return torch.addcmul(shift, x, scale)


def sft_half(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Spatial feature transform of the second half of the channels; the first half stays the prior's."""
    prior, conditioned = x.chunk(2, 1)
    return torch.cat((prior, torch.addcmul(shift, conditioned, scale)), 1)


_SFT: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"sft_half": sft_half, "sft_full": sft_full}


class Generator(nn.Module):
    """StyleGAN2 synthesis with its mapping network.

    size: output side, a power of two. widths: channels at 4, 8, …, size, in place of the published rule. injection:
    how `conditions` enter. `sft_*`: [scale8, shift8, scale16, …], applied between the two styled convolutions of a
    scale; the list may end early. `noise_*`: one feature per scale from 4 px on, (N, C, r, r) with the generator's
    width, in the noise slot of both convolutions. noise: `fixed` buffers (seeded, part of the weights) or `random`.
    feature_norm: pixel norm after every styled convolution, which no published prior has; it bounds the features when
    the generator is trained from scratch together with its conditions, whose scales otherwise multiply over the levels.
    """

    def __init__(
        self,
        size: int,
        *,
        style_dim: int = 512,
        channel_multiplier: float = 2,
        narrow: float = 1.0,
        widths: Sequence[int] = (),
        mapping_layers: int = 8,
        upsample: Upsample = "fir",
        equalised: bool = True,
        injection: Injection = "none",
        out_channels: int = 3,
        noise: Noise = "fixed",
        feature_norm: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if injection not in get_args(Injection):
            raise UsageError(f"injection {injection!r}: choose one of {', '.join(get_args(Injection))}")
        scales = resolutions(size)
        if widths and len(widths) != len(scales):
            raise UsageError(f"{len(widths)} generator widths for the {len(scales)} scales 4…{size}")
        by_rule = channel_widths(size, channel_multiplier, narrow)
        self.widths = dict(zip(scales, widths)) if widths else by_rule
        self.size = size
        self.style_dim = style_dim
        self.num_latents = num_latents(size)
        self.injection: Injection = injection
        self.noise: Noise = noise
        self.feature_norm = feature_norm

        concat = injection == "noise_concat"
        seen = 2 if concat else 1
        self.mapping = Mapping(style_dim, mapping_layers, equalised=equalised)
        self.constant = nn.Parameter(torch.randn(1, self.widths[BASE_SIZE], BASE_SIZE, BASE_SIZE))
        self.convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        c_in = self.widths[BASE_SIZE]
        for r in scales:
            c_out = self.widths[r]
            if r > BASE_SIZE:
                self.convs.append(
                    StyledConv(c_in, c_out, style_dim, upsample=upsample, equalised=equalised, concat=concat)
                )
                c_in = c_out * seen
            self.convs.append(StyledConv(c_in, c_out, style_dim, equalised=equalised, concat=concat))
            c_in = c_out * seen
            self.to_rgbs.append(ToRGB(c_in, style_dim, out_channels, upsample=upsample, equalised=equalised))
        random = torch.Generator().manual_seed(seed)
        self.noises = nn.Module()
        for i in range(len(self.convs)):
            side = scales[(i + 1) // 2]
            self.noises.register_buffer(f"noise{i}", torch.randn(1, 1, side, side, generator=random))

    def draw_noise(self, seed: int) -> list[Tensor]:
        """Noise maps for `forward`, (1, 1, r, r) for every styled convolution, drawn from a seed on the CPU."""
        random = torch.Generator().manual_seed(seed)
        return [torch.randn(trained.shape, generator=random).to(trained) for trained in self.noises.buffers()]

    def forward(
        self, latent: Tensor, conditions: Sequence[Tensor] = (), noise: Sequence[Tensor] | None = None
    ) -> Tensor:
        """latent w (N, D) or w⁺ (N, num_latents, D), conditions as said above, to an image (N, out, size, size).

        `noise`, one map (1 or N, 1, r, r) for every styled convolution, takes the place of the generator's own.
        """
        if latent.dim() == 2:
            latent = latent[:, None].expand(-1, self.num_latents, -1)
        styles = latent.unbind(1)
        x = self.constant.expand(latent.shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
        image: Tensor | None = None
        for level, to_rgb in enumerate(self.to_rgbs):
            if level > 0:
                x = self._styled(2 * level - 1, x, styles[2 * level - 1], conditions, noise)
                x = self._inject(x, level, conditions)
            x = self._styled(2 * level, x, styles[2 * level], conditions, noise)
            image = to_rgb(x, styles[2 * level + 1], image)
        assert image is not None
        return image

    def _styled(
        self, index: int, x: Tensor, style: Tensor, conditions: Sequence[Tensor], given: Sequence[Tensor] | None
    ) -> Tensor:
        level = (index + 1) // 2
        noise: Tensor = getattr(self.noises, f"noise{index}")
        if self.injection.startswith("noise") and level < len(conditions):
            noise = conditions[level]
        elif given is not None:
            noise = given[index]
        elif self.noise == "random":
            noise = torch.randn(x.shape[0], *noise.shape[1:], device=x.device)
        out: Tensor = self.convs[index](x, style, noise)
        return pixel_norm(out) if self.feature_norm else out

    def _inject(self, x: Tensor, level: int, conditions: Sequence[Tensor]) -> Tensor:
        transform = _SFT.get(self.injection)
        if transform is None or 2 * level > len(conditions):
            return x
        scale, shift = conditions[2 * level - 2], conditions[2 * level - 1]
        return transform(x, scale.to(x.dtype), shift.to(x.dtype))

    @torch.no_grad()
    def mean_latent(self, samples: int = 10_000, seed: int = 0) -> Tensor:
        """The mean w (D,) of `samples` random z."""
        random = torch.Generator().manual_seed(seed)
        z = torch.randn(samples, self.style_dim, generator=random).to(self.constant.device)
        w: Tensor = self.mapping(z)
        return w.mean(0)


def truncate(latent: Tensor, mean: Tensor, psi: float) -> Tensor:
    """Pull latents towards the mean: psi 1 leaves them, 0 gives the mean face."""
    return torch.lerp(mean.expand_as(latent), latent, psi)


class EqualConv(nn.Module):
    """Convolution of the discriminator: optional low-pass and stride 2, equalised weight, bias and leaky ReLU·√2.

    Gains, the caller's too, are applied to weight and bias, before the (positively homogeneous) activation.
    """

    kernel: Tensor

    def __init__(self, c_in: int, c_out: int, kernel: int, *, down: bool = False, activate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(c_out)) if activate else None
        self.weight_scale = 1 / math.sqrt(c_in * kernel**2)
        self.stride = 2 if down else 1
        self.padding = 0 if down else kernel // 2
        self.blur_pad = (kernel + 1) // 2
        if down:
            self.register_buffer("kernel", fir_kernel(), persistent=False)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        stride = self.stride
        if stride == 2 and self.weight.shape[-1] == 1:
            x, stride = _filter(x, self.kernel, self.blur_pad, stride=2), 1
        elif stride == 2:
            x = _filter(x, self.kernel, self.blur_pad)
        if self.bias is None:
            return F.conv2d(x, self.weight * (self.weight_scale * gain), stride=stride, padding=self.padding)
        gain = gain * GAIN
        weight, bias = self.weight * (self.weight_scale * gain), self.bias * gain
        return leaky(F.conv2d(x, weight, bias, stride=stride, padding=self.padding))


class DownBlock(nn.Module):
    """Two convolutions, the second halving, and a 1×1 skip; (N, c_in, H, W) to (N, c_out, H/2, W/2)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1 = EqualConv(c_in, c_in, 3)
        self.conv2 = EqualConv(c_in, c_out, 3, down=True)
        self.skip = EqualConv(c_in, c_out, 1, down=True, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.conv1(x), 1 / GAIN) + self.skip(x, 1 / GAIN)
        return out


def minibatch_stddev(x: Tensor, group: int = 4) -> Tensor:
    """Append one channel: the standard deviation over groups of the batch, averaged over channels and pixels.

    Image i is grouped with i + N/g, i + 2N/g, …; g is the largest divisor of N not above `group`.
    """
    n, c, h, w = x.shape
    g = next(g for g in range(min(group, n), 0, -1) if n % g == 0)
    spread = x.float().reshape(g, n // g, c, h, w).var(0, unbiased=False).add(_EPS).sqrt()
    per_group = spread.mean((1, 2, 3)).to(x.dtype).view(n // g, 1, 1, 1)
    return torch.cat((x, per_group.repeat(g, 1, h, w)), 1)


class Discriminator(nn.Module):
    """Residual discriminator down to 4×4 with minibatch standard deviation: image (N, C, S, S) to logits (N, 1)."""

    def __init__(
        self,
        size: int,
        *,
        channel_multiplier: float = 2,
        narrow: float = 1.0,
        in_channels: int = 3,
        widths: Sequence[int] = (),
    ) -> None:
        super().__init__()
        scales = resolutions(size)
        by_rule = channel_widths(size, channel_multiplier, narrow)
        width = dict(zip(scales, widths, strict=True)) if widths else by_rule
        self.stem = EqualConv(in_channels, width[size], 1)
        self.blocks = nn.ModuleList(DownBlock(width[r], width[r // 2]) for r in reversed(scales[1:]))
        self.final_conv = EqualConv(width[4] + 1, width[4], 3)
        self.final_linear = EqualLinear(width[4] * BASE_SIZE**2, width[4])
        self.out = EqualLinear(width[4], 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.with_features(image)[0]

    def with_features(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits (N, 1) and the feature maps after each down-sampling block (for feature matching)."""
        x = self.stem(image)
        features = []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        x = self.final_conv(minibatch_stddev(x))
        x = leaky(self.final_linear(x.flatten(1))) * GAIN
        logits: Tensor = self.out(x)
        return logits, features


# Key maps of published checkpoints: pure functions from one state dict to another.


def from_rosinality(state: State) -> State:
    """rosinality/stylegan2-pytorch `g_ema` to `Generator(upsample="fir", equalised=True)`."""
    return from_basicsr({_basicsr_name(key): value for key, value in state.items()})


def _basicsr_name(key: str) -> str:
    """The name BasicSR gives to a tensor of rosinality's generator."""
    if key == "input.input":
        return "constant_input.weight"
    if key.startswith("noises."):
        return key.replace("noise_", "noise")
    key = key.replace(".noise.weight", ".weight") if ".noise." in key else key.replace(".conv.", ".modulated_conv.")
    for short, long in (("style.", "style_mlp."), ("conv1.", "style_conv1."), ("convs.", "style_convs.")):
        if key.startswith(short):
            return long + key.removeprefix(short)
    return key


def from_basicsr(state: State) -> State:
    """BasicSR/GFPGAN generator keys, original or clean, to ours.

    The original form fits `Generator(upsample="fir" or "bilinear", equalised=True)`, the clean form
    `Generator(upsample="bilinear", equalised=False)`; `is_clean` tells which it is.
    """
    step = 2 if is_clean(state) else 1
    out = {}
    for key, value in state.items():
        if key.endswith(".kernel"):
            continue
        head, _, rest = key.partition(".")
        if head == "style_mlp":
            index, _, name = rest.partition(".")
            out[f"mapping.layers.{(int(index) - 1) // step}.{name}"] = value
        elif head == "constant_input":
            out["constant"] = value
        elif head == "noises":
            out[key] = value
        elif head in ("style_conv1", "style_convs", "to_rgb1", "to_rgbs"):
            ours = "convs" if head.startswith("style") else "to_rgbs"
            position, name = _position(head, rest)
            out[f"{ours}.{position}.{_LAYER_NAMES[name]}"] = _without_padding_axes(name, value)
        else:
            raise WeightsError(
                f"tensor {key!r} is not part of a StyleGAN2 generator (expected `g_ema` or `params_ema`)"
            )
    return out


_LAYER_NAMES = {
    "weight": "noise_strength",
    "bias": "bias",
    "activate.bias": "bias",
    "modulated_conv.weight": "conv.weight",
    "modulated_conv.modulation.weight": "conv.modulation.weight",
    "modulated_conv.modulation.bias": "conv.modulation.bias",
}


def _position(head: str, rest: str) -> tuple[int, str]:
    """Published lists start with the second layer; ours hold all."""
    if head.endswith("1"):
        return 0, rest
    index, _, name = rest.partition(".")
    return int(index) + 1, name


def _without_padding_axes(name: str, value: Tensor) -> Tensor:
    """Drop the published leading 1 of convolution kernels and the ones around biases."""
    if name == "modulated_conv.weight":
        return value.squeeze(0)
    return value.flatten() if name == "bias" else value


def to_basicsr(state: State, *, clean: bool = False) -> State:
    """Our generator keys as BasicSR and GFPGAN name them, without the fixed filters.

    `clean` names the clean form; its weights are those of `equalised=False` (see `fold_equalised`).
    """
    step = 2 if clean else 1
    out = {}
    for key, value in state.items():
        head, _, rest = key.partition(".")
        if head == "mapping":
            _, index, name = rest.split(".")
            out[f"style_mlp.{int(index) * step + 1}.{name}"] = value
        elif head == "constant":
            out["constant_input.weight"] = value
        elif head == "noises":
            out[key] = value
        else:
            index, _, name = rest.partition(".")
            stem = "style_conv" if head == "convs" else "to_rgb"
            place = f"{stem}1" if index == "0" else f"{stem}s.{int(index) - 1}"
            flat_bias = head == "convs" and not clean
            out[f"{place}.{_published_name(name, flat_bias)}"] = _with_padding_axes(name, value, flat_bias)
    return out


def _published_name(name: str, flat_bias: bool) -> str:
    if name == "noise_strength":
        return "weight"
    if name == "bias":
        return "activate.bias" if flat_bias else "bias"
    return name.replace("conv.", "modulated_conv.", 1)


def _with_padding_axes(name: str, value: Tensor, flat_bias: bool) -> Tensor:
    """The leading 1 of published convolution kernels and the ones around biases."""
    if name == "conv.weight":
        return value[None]
    return value.view(1, -1, 1, 1) if name == "bias" and not flat_bias else value


def to_rosinality(state: State) -> State:
    """Our keys of `Generator(upsample="fir", equalised=True)` as in rosinality's `g_ema`, without the fixed filters."""
    return {_rosinality_name(key): value for key, value in to_basicsr(state).items()}


def _rosinality_name(key: str) -> str:
    """The name rosinality gives to a tensor of BasicSR's original generator."""
    if key == "constant_input.weight":
        return "input.input"
    if key.startswith("noises."):
        return key.replace("noise", "noise_").replace("noise_s.", "noises.")
    key = re.sub(r"^(style_conv1|style_convs\.\d+)\.weight$", r"\1.noise.weight", key)
    return key.replace("style_mlp.", "style.").replace("style_conv", "conv").replace(".modulated_conv.", ".conv.")


_NVIDIA_LAYER = re.compile(r"synthesis\.b(\d+)\.(conv0|conv1|torgb)\.(.+)")
_NVIDIA_NAMES = {
    "weight": "conv.weight",
    "bias": "bias",
    "noise_strength": "noise_strength",
    "affine.weight": "conv.modulation.weight",
    "affine.bias": "conv.modulation.bias",
}


def from_nvidia(state: State) -> State:
    """NVlabs/stylegan2-ada-pytorch `G_ema` to `Generator(upsample="fir", equalised=True)`.

    Its convolutions lack the run-time scale of ours, which demodulation cancels. The tracked mean of w and the fixed
    filters are left out; where the published network clamps its features at 256 (mixed precision), ours does not.
    Raises WeightsError for class-conditional networks and for foreign keys.
    """
    out = {}
    for key, value in state.items():
        layer = _NVIDIA_LAYER.fullmatch(key)
        if key.endswith("resample_filter") or key == "mapping.w_avg":
            continue
        if key == "synthesis.b4.const":
            out["constant"] = value[None]
        elif match := re.fullmatch(r"mapping\.fc(\d+)\.(weight|bias)", key):
            out[f"mapping.layers.{match[1]}.{match[2]}"] = value
        elif layer:
            out |= _from_nvidia_layer(int(layer[1]), layer[2], layer[3], value)
        elif key.startswith("mapping.embed."):
            raise WeightsError("this StyleGAN2 is conditioned on classes; only unconditional networks can be read")
        else:
            raise WeightsError(f"tensor {key!r} is not part of a StyleGAN2 generator (expected `G_ema`)")
    return out


def _from_nvidia_layer(side: int, part: str, name: str, value: Tensor) -> State:
    level = side.bit_length() - 3
    index = level if part == "torgb" else 2 * level - (part == "conv0")
    if name == "noise_const":
        return {f"noises.noise{index}": value[None, None]}
    if name not in _NVIDIA_NAMES:
        raise WeightsError(f"tensor {name!r} of the {side} px block is not part of a StyleGAN2 generator")
    ours = "to_rgbs" if part == "torgb" else "convs"
    return {f"{ours}.{index}.{_NVIDIA_NAMES[name]}": value.reshape(1) if name == "noise_strength" else value}


def to_nvidia(state: State) -> State:
    """Our keys of `Generator(upsample="fir", equalised=True)` as in NVIDIA's `G_ema`, without filters and mean of w."""
    names = {ours: published for published, ours in _NVIDIA_NAMES.items()}
    out = {}
    for key, value in state.items():
        head, _, rest = key.partition(".")
        if head == "constant":
            out["synthesis.b4.const"] = value[0]
        elif head == "mapping":
            out[rest.replace("layers.", "mapping.fc", 1)] = value
        elif head == "noises":
            out[f"{_nvidia_block('convs', int(rest.removeprefix('noise')))}.noise_const"] = value[0, 0]
        else:
            index, _, name = rest.partition(".")
            value = value.reshape(()) if name == "noise_strength" else value
            out[f"{_nvidia_block(head, int(index))}.{names[name]}"] = value
    return out


def _nvidia_block(ours: str, index: int) -> str:
    level = index if ours == "to_rgbs" else (index + 1) // 2
    part = "torgb" if ours == "to_rgbs" else f"conv{1 - index % 2}"
    return f"synthesis.b{BASE_SIZE << level}.{part}"


def is_clean(state: State) -> bool:
    """Whether BasicSR-style generator keys are of the clean form (mapping layers at odd indices only)."""
    return "style_mlp.2.weight" not in state


def discriminator_from_rosinality(state: State) -> State:
    """rosinality/stylegan2-pytorch `d` to `Discriminator`."""
    fixed = {
        "convs.0.0.weight": "stem.weight",
        "convs.0.1.bias": "stem.bias",
        "final_conv.0.weight": "final_conv.weight",
        "final_conv.1.bias": "final_conv.bias",
        "final_linear.0.weight": "final_linear.weight",
        "final_linear.0.bias": "final_linear.bias",
        "final_linear.1.weight": "out.weight",
        "final_linear.1.bias": "out.bias",
    }
    out = {}
    for key, value in state.items():
        if key.endswith(".kernel"):
            continue
        if key in fixed:
            out[fixed[key]] = value
        elif key.startswith("convs."):
            _, index, part, _, name = key.split(".")
            out[f"blocks.{int(index) - 1}.{part}.{name}"] = value
        else:
            raise WeightsError(f"tensor {key!r} is not part of a StyleGAN2 discriminator (expected the entry `d`)")
    return out


def discriminator_from_nvidia(state: State) -> State:
    """NVlabs/stylegan2-ada-pytorch `D` (residual, unconditional) to `Discriminator`."""
    size = max((int(m[1]) for key in state if (m := re.match(r"b(\d+)\.", key))), default=BASE_SIZE)
    places = {f"b{size}.fromrgb": "stem", "b4.conv": "final_conv", "b4.fc": "final_linear", "b4.out": "out"}
    for index in range(size.bit_length() - 3):
        block = f"b{size >> index}"
        places |= {
            f"{block}.conv0": f"blocks.{index}.conv1",
            f"{block}.conv1": f"blocks.{index}.conv2",
            f"{block}.skip": f"blocks.{index}.skip",
        }
    out = {}
    for key, value in state.items():
        place, _, name = key.rpartition(".")
        if name == "resample_filter":
            continue
        if place not in places:
            raise WeightsError(f"tensor {key!r} is not part of an unconditional residual StyleGAN2 discriminator")
        out[f"{places[place]}.{name}"] = value
    return out


def fold_equalised(state: State) -> State:
    """Weights of `Generator(equalised=True)` to those of the same generator with `equalised=False`.

    The function is the same with the same up-sampling. Moving a FIR generator into the bilinear form is only an
    approximation: it was trained with another filter.
    """
    return {key: value * _folding(key, value) for key, value in state.items()}


def unfold_equalised(state: State) -> State:
    """The way back from `fold_equalised`, for training a clean generator on with equalised learning rates."""
    return {key: value / _folding(key, value) for key, value in state.items()}


def _folding(key: str, value: Tensor) -> float:
    if key.startswith("mapping."):
        return _MAPPING_LR * GAIN * (1 / math.sqrt(value.shape[1]) if key.endswith("weight") else 1)
    if key.endswith((".modulation.weight", ".conv.weight")):
        return 1 / math.sqrt(math.prod(value.shape[1:]))
    if key.startswith("convs.") and key.endswith((".noise_strength", ".bias")) and "modulation" not in key:
        return GAIN
    return 1.0
