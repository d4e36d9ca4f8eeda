"""FRGP: restoration of faces in any pose with an asymmetric codec in front of a StyleGAN2 prior.

Paper: Hu, Liu, Liu, Lu, Yu, Fu, "Enhancing Quality of Pose-varied Face Restoration with Local Weak Feature Sensing
and GAN Prior" (arXiv 2205.14377, 2022–2023).

What is the paper's: an asymmetric encoder-decoder of mixed multi-path residual blocks (MMRB) in front of a StyleGAN2
generator, without landmarks, heat maps or parsing maps. What is this project's reconstruction: everything more
precise than that. No code, no weights and no readable method section are public, so the block topology, the widths,
the injection and the compact form (pixel-unshuffle stem, residual output, degradation estimate) are ours. The widths
match the parameter budget of GFPGAN, so that the two can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError, WeightsError
from ....face import DegradationEstimate
from ....geometry.crop import CropSpec
from ....nn.mmrb import MMRB, ConvLeaky, Paths, init_conv
from ....nn.norm import pixel_norm
from ....nn.stylegan2 import (
    Generator,
    Injection,
    channel_widths,
    fold_equalised,
    from_basicsr,
    from_rosinality,
    is_clean,
    leaky,
    num_latents,
    resolutions,
    upsample_bilinear,
)
from ....tasks.card import Preprocess
from ...base import System

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

Latent = Literal["w_plus", "w", "z"]

_HEAD_INIT = 0.1
_LATENT_INIT = 0.1
# small enough that the first output rounds to the input's pixels, not zero, so that gradients flow from the start
_RESIDUAL_INIT = 1e-4
_MEAN_LATENT_SAMPLES = 10_000
_EQUALISED_ENERGY = 0.1


@dataclass(frozen=True)
class FRGPConfig:
    """Shape of an FRGP network; the defaults are the full size (512 px, 86.8 M parameters).

    size: side of the crop.
    patch: pixel-unshuffle factor at the stem and pixel-shuffle factor at the output; inside, all is size/patch.
    channel_multiplier, narrow: StyleGAN2's width rule; `encoder_widths` and `generator_widths` (at 4, 8, …,
        size/patch) replace it.
    style_dim, mapping_layers: of the StyleGAN2 mapping network.
    latent: `w_plus` (one style per layer), `w` (one for all), `z` (one, through the mapping network).
    latent_rank: 0 for one full linear layer from the bottleneck to the latent, else the rank of its factorisation.
    injection: how the decoder's features enter the generator.
    head_kernel, decoder_kernel: 3 as in the full size, or 1.
    top_tap: the decoder also sees the encoder at the highest resolution.
    light: further MMRBs of the light form at each scale from 4 up, in encoder and decoder; empty for none.
    feature_norm: pixel norm in decoder and generator, for training both from scratch; published priors have none.
    residual: the generator adds to the input instead of painting the whole face.
    damping: before that, shares of the input's patch frequencies are taken out; see `Damping`.
    pyramid: 1×1 image heads on the decoder, for a pyramid loss.
    quality_head: also estimate the degradation of the input.
    paths, mix, gate: ablation switches of the MMRB.
    """

    size: int = 512
    patch: int = 1
    channel_multiplier: float = 2
    narrow: float = 1.0
    style_dim: int = 512
    mapping_layers: int = 8
    latent: Latent = "w_plus"
    latent_rank: int = 0
    injection: Injection = "sft_half"
    encoder_widths: tuple[int, ...] = ()
    generator_widths: tuple[int, ...] = ()
    light: tuple[int, ...] = ()
    head_kernel: int = 3
    decoder_kernel: int = 3
    top_tap: bool = False
    feature_norm: bool = False
    residual: bool = False
    damping: bool = False
    pyramid: bool = True
    quality_head: bool = False
    paths: Paths = "both"
    mix: bool = True
    gate: bool = True

    @classmethod
    def compact(cls) -> Self:
        """256 px crops on a CPU: 4×4 patches become channels, so that all work happens at 64 px and below."""
        return cls(
            size=256,
            patch=4,
            style_dim=256,
            mapping_layers=0,
            latent_rank=128,
            encoder_widths=(192, 192, 128, 96, 64),
            generator_widths=(256, 256, 192, 96, 96),
            light=(0, 0, 1, 1, 1),
            injection="sft_full",
            head_kernel=1,
            decoder_kernel=1,
            top_tap=True,
            residual=True,
            damping=True,
            quality_head=True,
        )

    @property
    def working_size(self) -> int:
        return self.size // self.patch


# the network's six raw numbers are log1p(blur σ), log2(downscale), noise σ/25, (100 − quality)/50, PSNR/50, SSIM
def decode_estimate(raw: Tensor) -> list[DegradationEstimate]:
    """(N, 6) raw outputs of the quality head to estimates in natural units, clipped to their valid ranges."""
    return [
        DegradationEstimate(
            blur_sigma=float(torch.expm1(blur).clamp(min=0)),
            downscale=float(torch.exp2(down).clamp(min=1)),
            noise_sigma=float((25 * noise).clamp(min=0)),
            jpeg_quality=float((100 - 50 * jpeg).clamp(0, 100)),
            psnr=float((50 * psnr).clamp(min=0)),
            ssim=float(ssim.clamp(-1, 1)),
        )
        for blur, down, noise, jpeg, psnr, ssim in raw.float().cpu()
    ]


class _LightBlocks(nn.ModuleDict):
    """Light MMRBs by resolution; features of other resolutions pass unchanged."""

    def __init__(self, widths: dict[int, int], counts: dict[int, int]) -> None:
        super().__init__(
            {str(r): nn.Sequential(*(MMRB(widths[r], light=True) for _ in range(n))) for r, n in counts.items() if n}
        )

    def forward(self, x: Tensor) -> Tensor:
        key = str(x.shape[-1])
        if key in self:
            x = self[key](x)
        return x


class Encoder(nn.Module):
    """Stem, then at every scale an MMRB, light MMRBs (the result is kept as tap) and a strided convolution, to 4×4."""

    def __init__(self, c_in: int, widths: dict[int, int], light: dict[int, int], block: dict[str, Any]) -> None:
        super().__init__()
        scales = sorted(widths, reverse=True)
        self.stem = ConvLeaky(c_in, widths[scales[0]])
        self.blocks = nn.ModuleList(MMRB(widths[r], **block) for r in scales)
        self.light = _LightBlocks(widths, light)
        self.downs = nn.ModuleList(ConvLeaky(widths[r], widths[r // 2], stride=2) for r in scales[:-1])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Image (N, C, S, S) to taps from S down to 4."""
        x = self.stem(x)
        taps = [self.light(self.blocks[0](x))]
        for down, block in zip(self.downs, self.blocks[1:]):
            taps.append(self.light(block(down(taps[-1]))))
        return taps


class Decoder(nn.Module):
    """One convolution per scale from the 4×4 bottleneck up, each fed with the encoder's tap of the scale below.

    With `top_tap` the last scale gets its own tap too: needed where one position stands for a patch of pixels.
    """

    def __init__(
        self, widths: dict[int, int], light: dict[int, int], kernel: int, top_tap: bool, feature_norm: bool
    ) -> None:
        super().__init__()
        scales = sorted(widths)
        top = widths[scales[-1]]
        self.laterals = nn.ModuleList(nn.Conv2d(widths[q], widths[q], 1) for q in scales[:-1])
        self.convs = nn.ModuleList(nn.Conv2d(widths[q], widths[2 * q], kernel, 1, kernel // 2) for q in scales[:-1])
        self.top = nn.Conv2d(top, top, 1) if top_tap else None
        for conv in (*self.laterals, *self.convs, *([self.top] if self.top else [])):
            init_conv(conv)
        self.light = _LightBlocks(widths, {r: n for r, n in light.items() if r > scales[0]})
        self.pointwise = kernel == 1
        self.feature_norm = feature_norm

    def forward(self, taps: list[Tensor]) -> list[Tensor]:
        """Encoder taps (S … 4) to features at 8 … S."""
        f = taps[-1]
        features = []
        for level, (lateral, conv) in enumerate(zip(self.laterals, self.convs)):
            f = f + lateral(taps[-1 - level])
            # a 1×1 convolution commutes with bilinear resampling, and is four times cheaper before it
            f = upsample_bilinear(conv(f)) if self.pointwise else conv(upsample_bilinear(f))
            if self.top is not None and level == len(self.convs) - 1:
                f = f + self.top(taps[0])
            f = self.light(pixel_norm(leaky(f)) if self.feature_norm else leaky(f))
            features.append(f)
        return features


def _head(c_in: int, c_out: int, kernel: int, bias: float) -> nn.Sequential:
    last = nn.Conv2d(c_in, c_out, kernel, 1, kernel // 2)
    init_conv(last, _HEAD_INIT, bias)
    return nn.Sequential(ConvLeaky(c_in, c_in, kernel), last)


class LatentHead(nn.Module):
    """Bottleneck (N, C, 4, 4) to `count` style vectors, as an offset from the mean latent."""

    def __init__(self, c_in: int, count: int, style_dim: int, rank: int) -> None:
        super().__init__()
        features = c_in * 16
        self.shape = (count, style_dim)
        self.reduce = nn.Linear(features, rank) if rank else None
        self.out = nn.Linear(rank or features, count * style_dim)
        if self.reduce is not None:
            init_conv(self.reduce)
        init_conv(self.out, _LATENT_INIT)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if self.reduce is not None:
            x = self.reduce(x)
        offsets: Tensor = self.out(x)
        return offsets.view(-1, *self.shape)


class Damping(nn.Module):
    """What is to be taken out of the input: of every frequency of its patches a share of its own.

    A network that adds to its input would have to paint noise and block edges once more to take them away, pixel by
    pixel; here it only says how much of which frequency (orthonormal DCT of patch×patch pixels, each colour) is not
    the face's. Fresh weights take out nothing that could be seen.
    """

    basis: Tensor

    def __init__(self, channels: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        bands = 3 * patch**2
        shares = nn.Conv2d(channels, bands, 1)
        init_conv(shares, _RESIDUAL_INIT)
        self.shares = nn.Sequential(ConvLeaky(channels, channels), shares)
        rows = _dct_matrix(patch)
        basis = torch.kron(torch.eye(3), torch.kron(rows, rows))
        self.register_buffer("basis", basis.view(bands, bands, 1, 1), persistent=False)

    def forward(self, image: Tensor, features: Tensor) -> Tensor:
        """Image (N, 3, S, S) and features (N, C, S/patch, S/patch) to the part of the image that is to go."""
        shares = torch.tanh(self.shares(features).float())
        with torch.autocast(image.device.type, enabled=False):
            bands = F.conv2d(F.pixel_unshuffle(image.float(), self.patch), self.basis)
            gone = F.conv2d(shares * bands, self.basis.transpose(0, 1))
        return F.pixel_shuffle(gone, self.patch)


def _dct_matrix(size: int) -> Tensor:
    """The orthonormal DCT-II, (frequencies, places)."""
    frequencies, places = torch.arange(size)[:, None], torch.arange(size)[None]
    matrix: Tensor = torch.cos(torch.pi / size * (places + 0.5) * frequencies) * (2 / size) ** 0.5
    matrix[0] /= 2**0.5
    return matrix


class QualityHead(nn.Module):
    """Pooled encoder taps of all scales to six raw degradation numbers, (N, 6)."""

    def __init__(self, channels: int, hidden: int = 64) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, hidden)
        self.out = nn.Linear(hidden, 6)
        init_conv(self.hidden)

    def forward(self, taps: list[Tensor]) -> Tensor:
        pooled = torch.cat([tap.abs().mean((2, 3)) for tap in taps], 1)
        raw: Tensor = self.out(leaky(self.hidden(pooled)))
        return raw


class Encoded(NamedTuple):
    """What the codec sees in images: encoder `taps` from S down to 4, decoder `features` from 8 up to S, and the
    `latent`, w (N, D) or w⁺ (N, L, D)."""

    taps: list[Tensor]
    features: list[Tensor]
    latent: Tensor


class FRGP(System):
    """Face restoration with an MMRB codec and a StyleGAN2 prior (arXiv 2205.14377; details are a reconstruction).

    forward: image (N, 3, S, S) RGB in [−1, 1], aligned by the `ffhq` template, to the restored image of the same
    shape, unclamped. `fidelity` in [0, 1], a number or one per image (N,), scales how strongly the picture's own
    features condition the generator: 1 as trained, 0 the prior's face of that latent alone (in residual form without
    the input itself). `noise` takes the place of the generator's (see `Generator.draw_noise`). With `return_aux`
    also a dict: `latent`, `features` (the decoder's, 8 … S), `conditions`, `rgb_pyramid` (coarse to fine) and
    `degradation` (N, 6), the last two where configured.

    `precision`: arithmetic of `restore` and its relatives; `auto` takes bfloat16 where the processor has it.
    """

    slug: ClassVar[str] = "frgp"
    Config: ClassVar[type[FRGPConfig]] = FRGPConfig
    config: FRGPConfig
    mean_latent: Tensor

    def __init__(self, config: FRGPConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        _check(c)
        scales = resolutions(c.working_size)
        rule = channel_widths(c.working_size, c.channel_multiplier, c.narrow)
        g_width = _per_scale(c.generator_widths, scales, "widths") or rule
        e_width = _per_scale(c.encoder_widths, scales, "widths") or {r: g // 2 for r, g in g_width.items()}

        light = _per_scale(c.light, scales, "counts of light blocks") or dict.fromkeys(scales, 0)
        block = {"paths": c.paths, "mix": c.mix, "gate": c.gate}
        self.encoder = Encoder(3 * c.patch**2, e_width, light, block)
        self.decoder = Decoder(e_width, light, c.decoder_kernel, c.top_tap, c.feature_norm)
        latents = num_latents(c.working_size) if c.latent == "w_plus" else 1
        self.to_latent = LatentHead(e_width[4], latents, c.style_dim, c.latent_rank)
        self.condition_heads = self._condition_heads(e_width, g_width)
        self.to_rgbs = nn.ModuleList()
        if c.pyramid:
            self.to_rgbs.extend(nn.Conv2d(e_width[r], 3 * c.patch**2, 1) for r in scales[1:])
        self.damping = Damping(e_width[scales[-1]], c.patch) if c.damping else None
        self.quality = QualityHead(sum(e_width.values())) if c.quality_head else None
        self.generator = Generator(
            c.working_size,
            style_dim=c.style_dim,
            widths=tuple(g_width.values()),
            mapping_layers=c.mapping_layers,
            upsample="bilinear",
            equalised=False,
            injection=c.injection,
            out_channels=3 * c.patch**2,
            feature_norm=c.feature_norm,
        )
        self.register_buffer("mean_latent", torch.zeros(c.style_dim))
        if c.latent != "z":
            self.generator.mapping.requires_grad_(False)
        if c.residual:
            self._start_as_identity()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _condition_heads(self, e_width: dict[int, int], g_width: dict[int, int]) -> nn.ModuleList:
        c = self.config
        heads = nn.ModuleList()
        if c.injection.startswith("noise"):
            heads.extend(_head(e_width[r], g_width[r], c.head_kernel, 0.0) for r in e_width)
            return heads
        for r in list(e_width)[1:]:
            c_out = g_width[r] - g_width[r] // 2 if c.injection == "sft_half" else g_width[r]
            heads.append(_head(e_width[r], c_out, c.head_kernel, 1.0))
            heads.append(_head(e_width[r], c_out, c.head_kernel, 0.0))
        return heads

    @torch.no_grad()
    def _start_as_identity(self) -> None:
        for to_rgb in self.generator.to_rgbs:
            to_rgb.get_parameter("conv.weight").mul_(_RESIDUAL_INIT)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(config.size))

    def forward(
        self,
        image: Tensor,
        *,
        fidelity: float | Tensor = 1.0,
        noise: Sequence[Tensor] | None = None,
        return_aux: bool = False,
    ) -> Tensor | tuple[Tensor, dict[str, Any]]:
        c = self.config
        taps, features, latent = self.encode(image)
        conditions = self._conditions(taps[-1], features)
        kept = _as_factor(fidelity, image)
        applied = conditions if kept is None else self._weaken(conditions, kept)
        out = self._shuffle(self.generator(latent, applied, noise))
        if c.residual:
            left = image if self.damping is None else image - self.damping(image, features[-1])
            out = out + (left if kept is None else kept * left)
        if not return_aux:
            return out
        aux: dict[str, Any] = {"latent": latent, "features": features, "conditions": conditions}
        if c.pyramid:
            aux["rgb_pyramid"] = [self._shuffle(head(f)) for head, f in zip(self.to_rgbs, features)]
        if self.quality is not None:
            aux["degradation"] = self.quality(taps)
        return out, aux

    def encode(self, image: Tensor) -> Encoded:
        """What the codec sees in images (N, 3, S, S), without painting them; UsageError for another shape."""
        self._check_input(image)
        taps = self.encoder(self._unshuffle(image))
        return Encoded(taps, self.decoder(taps), self._latent(taps[-1]))

    def _check_input(self, image: Tensor) -> None:
        side = self.config.size
        if image.dim() != 4 or tuple(image.shape[1:]) != (3, side, side):
            raise UsageError(f"this FRGP takes images (N, 3, {side}, {side}), not {tuple(image.shape)}")

    def _unshuffle(self, image: Tensor) -> Tensor:
        x = F.pixel_unshuffle(image, self.config.patch) if self.config.patch > 1 else image
        return x.contiguous(memory_format=torch.channels_last)

    def _shuffle(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(x, self.config.patch) if self.config.patch > 1 else x

    def _latent(self, bottleneck: Tensor) -> Tensor:
        styles: Tensor = self.to_latent(bottleneck).float()
        if self.config.latent == "z":
            return self.generator.mapping(styles.squeeze(1))  # type: ignore[no-any-return]
        styles = styles + self.mean_latent
        return styles if self.config.latent == "w_plus" else styles.squeeze(1)

    def _conditions(self, bottleneck: Tensor, features: list[Tensor]) -> list[Tensor]:
        if self.config.injection.startswith("noise"):
            return [head(f) for head, f in zip(self.condition_heads, [bottleneck, *features])]
        return [head(features[i // 2]) for i, head in enumerate(self.condition_heads)]

    def _weaken(self, conditions: list[Tensor], kept: Tensor) -> list[Tensor]:
        """Interpolate towards the neutral condition: scale 1, shift 0, injected feature 0."""
        if self.config.injection.startswith("noise"):
            return [kept * x for x in conditions]
        return [1 + kept * (x - 1) if i % 2 == 0 else kept * x for i, x in enumerate(conditions)]

    # Use on pictures

    def restore(self, crops: NDArray[np.uint8], *, fidelity: float = 1.0, seed: int | None = None) -> NDArray[np.uint8]:
        """(N, S, S, 3) uint8 RGB crops to restored crops of the same shape; one batch, so keep N moderate.

        `seed` draws the generator's noise anew, one draw for all crops, so that none depends on its place in a batch;
        None takes the noise as trained. Raises UsageError for a fidelity outside 0…1, and for a seed where features
        are injected in place of the noise.
        """
        out, _ = self._run(crops, fidelity, seed, return_aux=False)
        return out

    def restore_with_estimate(
        self, crops: NDArray[np.uint8], *, fidelity: float = 1.0, seed: int | None = None
    ) -> tuple[NDArray[np.uint8], list[DegradationEstimate]]:
        """Restored crops and the estimate of what was wrong with each input, from one forward pass."""
        self._require_quality_head()
        out, aux = self._run(crops, fidelity, seed, return_aux=True)
        return out, decode_estimate(aux["degradation"])

    def assess(self, crops: NDArray[np.uint8]) -> list[DegradationEstimate]:
        """Estimate the degradation of (N, S, S, 3) uint8 RGB crops; runs the encoder only."""
        quality = self._require_quality_head()
        with torch.inference_mode(), self.picture_autocast():
            image = self.normalise(crops)
            self._check_input(image)
            return decode_estimate(quality(self.encoder(self._unshuffle(image))))

    def _require_quality_head(self) -> QualityHead:
        if self.quality is None:
            raise UsageError("this FRGP was built without a quality head; use a configuration with quality_head=True")
        return self.quality

    def _run(
        self, crops: NDArray[np.uint8], fidelity: float, seed: int | None, *, return_aux: bool
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        if not 0 <= fidelity <= 1:
            raise UsageError(f"fidelity {fidelity} is outside 0…1")
        if seed is not None and self.config.injection.startswith("noise"):
            raise UsageError(f"with injection {self.config.injection!r} no noise is drawn; omit the seed")
        noise = None if seed is None else self.generator.draw_noise(seed)
        with torch.inference_mode(), self.picture_autocast():
            result = self(self.normalise(crops), fidelity=fidelity, noise=noise, return_aux=return_aux)
            out, aux = result if return_aux else (result, {})
            pixels = out.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy(), aux

    # The prior

    def load_prior(self, state: dict[str, Tensor]) -> None:
        """Put a published StyleGAN2 into the generator and start the latent at its mean face.

        `state` as `convert_prior` takes it. Raises WeightsError when width, size or style dimension differ.
        """
        self._take_prior(convert_prior(state))

    def adopt_prior(self, prior: Generator) -> None:
        """Put a StyleGAN2 trained by this package into the generator and start the latent at its mean face.

        As in `convert_prior`, one that up-samples with the FIR filter changes a little. Raises WeightsError when width,
        size or style dimension differ.
        """
        self._take_prior(convert_prior(prior.state_dict()))

    def _take_prior(self, state: dict[str, Tensor]) -> None:
        own = self.generator.state_dict()
        wrong = [k for k in own if k not in state or state[k].shape != own[k].shape]
        if wrong or set(state) - set(own):
            raise WeightsError(f"this prior has another size or width than the network: see {(wrong or ['…'])[:3]}")
        self.generator.load_state_dict(state)
        self.update_mean_latent()

    def update_mean_latent(self, samples: int = _MEAN_LATENT_SAMPLES) -> None:
        """Set the latent's origin to the mean of the mapping network, after its weights have changed."""
        self.mean_latent.copy_(self.generator.mean_latent(samples))


def convert_prior(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published StyleGAN2 generator to the `generator` part of FRGP (bilinear up-sampling, folded scales).

    Takes the state dict of rosinality/stylegan2-pytorch (`g_ema`), of BasicSR or GFPGAN (`params_ema`; original,
    bilinear or clean), of a whole GFPGAN (its `stylegan_decoder.` part), of this package's own `Generator`, or of a
    system that holds one (its `generator.` part). Priors trained with the FIR filter change a little under bilinear
    up-sampling and want fine-tuning; bilinear and clean ones stay exactly what they were. Raises WeightsError for
    anything else.
    """
    for wrapper in ("g_ema", "params_ema", "params"):
        if isinstance(state.get(wrapper), dict):
            state = state[wrapper]  # type: ignore[assignment]
            break
    state = {key.removeprefix("module."): value for key, value in state.items()}
    for part in ("stylegan_decoder.", "generator."):
        if any(key.startswith(part) for key in state):
            state = {key.removeprefix(part): value for key, value in state.items() if key.startswith(part)}
    if "constant" in state:
        return fold_equalised(state) if _is_equalised(state) else state
    if "input.input" in state:
        return fold_equalised(from_rosinality(state))
    if "constant_input.weight" not in state:
        raise WeightsError(
            "this is not a StyleGAN2 generator: it has neither `input.input` nor `constant_input.weight`"
        )
    converted = from_basicsr(state)
    return converted if is_clean(state) else fold_equalised(converted)


def _is_equalised(state: dict[str, Tensor]) -> bool:
    """Whether scales are still to be applied: such kernels have a spread of 1, folded ones of 1/√fan-in."""
    return float(state["convs.0.conv.weight"].float().square().mean()) > _EQUALISED_ENERGY


def _check(c: FRGPConfig) -> None:
    if c.patch < 1 or c.size % c.patch:
        raise UsageError(f"patch {c.patch} does not divide size {c.size}")
    if c.latent not in get_args(Latent):
        raise UsageError(f"latent {c.latent!r}: choose one of {', '.join(get_args(Latent))}")
    if c.damping and (c.patch == 1 or not c.residual):
        raise UsageError("damping works on patches of the input: it needs patch of at least 2, and residual")
    if c.injection == "none":
        raise UsageError("FRGP needs an injection: sft_half, sft_full, noise_add or noise_concat")


def _per_scale(given: tuple[int, ...], scales: list[int], what: str) -> dict[int, int]:
    if given and len(given) != len(scales):
        raise UsageError(f"{len(given)} {what} for the {len(scales)} scales 4…{scales[-1]}")
    return dict(zip(scales, given))


def _as_factor(fidelity: float | Tensor, image: Tensor) -> Tensor | None:
    """A factor that broadcasts over images; None for plain 1, which then costs nothing."""
    if isinstance(fidelity, Tensor):
        return fidelity.to(image).view(-1, 1, 1, 1)
    return None if fidelity == 1 else torch.tensor(float(fidelity), device=image.device, dtype=image.dtype)
