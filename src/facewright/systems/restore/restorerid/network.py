"""RestorerID: a damaged face restored by Stable Diffusion, by the structure of the photo and the identity of another.

Paper: Ying, Liu, Wu, Zhang, Yu, Fu, Cao, Wu, Yu, Shen, "RestorerID: Towards Tuning-Free Face Restoration with ID
Preservation" (arXiv 2411.14125, 2024). A time-aware encoder looks at the damaged face's latent; what it sees modulates
every residual block of Stable Diffusion 1.5 (`Modulation`, StableSR's). The person comes as four tokens of a face
embedding and CLIP's patches, which every attention asks apart from the text (IP-Adapter FaceID-Plus). Both can
contradict each other, so that the FIR-Adapter (`Rebalancing`) lets the structure ask the tokens in every block. How
strong the tokens are follows the damage: the less is left of the face, the stronger (adaptive ID scale).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.adm import GROUPS, ADMEncoder, ADMLayout, TimeResBlock, quiet
from ....nn.clip import ImageTower, TowerShape
from ....nn.colour import ColourFix, recoloured
from ....nn.diffusion import NoiseSchedule, ddim, guided
from ....nn.iresnet import IRESNET_BLOCKS, IResNet
from ....nn.kl import KLAutoencoder, kl_layout
from ....nn.sd import Attention, Condition, SDLayout, SDUNet, SeparateAttention
from ....tasks.card import Preprocess
from ...base import System
from ...recognise.alignment import aligned

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ....nn.vq import VQLayout

Quality = Callable[["NDArray[np.uint8]"], Sequence[float]]
"""Crops (N, S, S, 3) uint8 RGB to their qualities, 0 to 100."""
Told = Literal["release", "own"]
POSITIVE, NEGATIVE = (
    "best quality, high quality",
    "cartoon, 3d, paint, monochrome, lowres, bad anatomy, worst quality, low quality",
)
"""The texts of every restoration, which weights keep as states of the text tower."""
DEFAULT_SEED = 42
_RECOGNISED, _HEAD_WIDTH = 112, 64
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class RestorerIDConfig:
    """Shape of the network; the defaults are the published ones.

    size: side of the crop. unet: of the denoiser. first_width, first_multipliers: of the auto-encoder. structure_*: of
    the encoder of the damaged face, structure_dim the channels of what it sees. hidden: channels inside modulations.
    rank: of the low-rank products of all attentions. length: tokens of the text. picture_*: of CLIP's picture tower,
    asked before its last block. recogniser, recogniser_widths, features: of the face embedding. tokens, depth: of what
    makes tokens of both; shortcut: whether the embedding's part is added to them, as FaceID-Plus v2 has it.

    paper_init: whether rebalancing begins with all convolutions zero, as published, where it never gets a gradient
    through its reference; else the last ones begin as next to nothing.

    first_beta, last_beta, times: of the noise; steps, eta, guidance: of sampling. told: "release" for the published
    sampler, which tells the network other times than those it removes noise of (up to 19 later, of 1000); "own" for
    the same. strength: of the tokens in training. quality_rate, quality_full: of the adaptive scale exp(rate · (full −
    quality)). colour_fix: how colours are brought back to the input's.
    """

    size: int = 512
    unet: SDLayout = field(default_factory=SDLayout.sd1)
    first_width: int = 128
    first_multipliers: tuple[int, ...] = (1, 2, 4, 4)
    structure_width: int = 256
    structure_multipliers: tuple[int, ...] = (1, 1, 2, 2)
    structure_blocks: int = 2
    structure_attention_at: tuple[int, ...] = (0, 1, 2)
    structure_heads: int = 4
    structure_dim: int = 256
    hidden: int = 128
    rank: int = 128
    length: int = 77
    picture_width: int = 1280
    picture_layers: int = 32
    picture_heads: int = 16
    picture_size: int = 224
    picture_patch: int = 14
    picture_dim: int = 1024
    recogniser: tuple[int, ...] = IRESNET_BLOCKS["iresnet50"]
    recogniser_widths: tuple[int, ...] = (64, 128, 256, 512)
    features: int = 512
    tokens: int = 4
    depth: int = 4
    shortcut: bool = False
    paper_init: bool = False
    first_beta: float = 0.00085
    last_beta: float = 0.0120
    times: int = 1000
    steps: int = 50
    eta: float = 1.0
    guidance: float = 4.0
    told: Told = "release"
    strength: float = 0.75
    quality_rate: float = 0.1
    quality_full: float = 9.5
    colour_fix: ColourFix = "wavelet"

    def __post_init__(self) -> None:
        if isinstance(self.unet, dict):  # as JSON has it
            given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in self.unet.items()}
            object.__setattr__(self, "unet", SDLayout(**given))
        if len(self.unet.multipliers) != len(self.structure_multipliers):
            raise UsageError("the structure's encoder needs as many levels as the U-Net")
        for name, kind in (("told", Told), ("colour_fix", ColourFix)):
            if getattr(self, name) not in get_args(kind):
                raise UsageError(f"{name} {getattr(self, name)!r}: choose one of {', '.join(get_args(kind))}")

    @classmethod
    def paper(cls) -> Self:
        """As published, with the start of rebalancing that the code has."""
        return cls(paper_init=True)

    @classmethod
    def compact(cls) -> Self:
        """64 px crops and narrow parts, for experiments."""
        unet = SDLayout(4, 4, 32, (1, 2), 1, (0, 1), heads=2, tokens=32)
        return cls(
            size=64,
            unet=unet,
            first_width=32,
            first_multipliers=(1, 1, 2),
            structure_width=32,
            structure_multipliers=(1, 1),
            structure_blocks=1,
            structure_attention_at=(0,),
            structure_heads=2,
            structure_dim=32,
            hidden=16,
            rank=4,
            length=8,
            picture_width=32,
            picture_layers=2,
            picture_heads=2,
            picture_size=28,
            picture_dim=16,
            recogniser=(1, 1, 1, 1),
            recogniser_widths=(8, 8, 16, 16),
            features=16,
            depth=1,
            steps=4,
        )

    @property
    def latents(self) -> VQLayout:
        """Of the auto-encoder."""
        return kl_layout(self.size, self.first_width, self.first_multipliers)

    @property
    def structure(self) -> ADMLayout:
        """Of the encoder of the damaged face."""
        width, multipliers = self.structure_width, self.structure_multipliers
        head = width // self.structure_heads
        dim = self.unet.c_out
        return ADMLayout(dim, dim, width, multipliers, self.structure_blocks, self.structure_attention_at, head)


# --- structure


class StructureEncoder(ADMEncoder):
    """What is there at every side: latents (N, 4, h, w) and times (N,) to maps (N, D, h/2ⁱ, w/2ⁱ), finest first."""

    def __init__(self, config: RestorerIDConfig) -> None:
        super().__init__(config.structure, config.structure_heads)
        time = 4 * config.structure_width
        self.fea_tran = nn.ModuleList(TimeResBlock(c, config.structure_dim, time) for c in self.widths)

    def forward(self, x: Tensor, time: Tensor) -> list[Tensor]:
        embedded = self.embedded(x, time)
        return [block(seen, embedded) for block, seen in zip(self.fea_tran, self.levels(x, embedded))]


class Modulation(nn.Module):
    """SPADE: norm(x) · (1 + γ) + β, γ and β seen in the structure (N, D, H, W); the norm has weights of its own."""

    def __init__(self, channels: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.param_free_norm = nn.GroupNorm(GROUPS, channels)
        self.mlp_shared = nn.Sequential(nn.Conv2d(dim, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor, structure: Tensor) -> Tensor:
        seen = self.mlp_shared(structure)
        out: Tensor = self.normed(x) * (1 + self.mlp_gamma(seen)) + self.mlp_beta(seen)
        return out

    def normed(self, x: Tensor) -> Tensor:
        """The norm, its weights apart: where they alone want gradients, torch 2.13 dies of channels-last maps."""
        weight, bias = (value.view(-1, 1, 1) for value in (self.param_free_norm.weight, self.param_free_norm.bias))
        return F.group_norm(x, GROUPS, eps=self.param_free_norm.eps) * weight + bias


class Rebalancing(Modulation):
    """The FIR-Adapter: norm(x) · γ + β, to be added to x; γ and β of the structure after it has asked the tokens."""

    def __init__(self, channels: int, config: RestorerIDConfig) -> None:
        dim = config.structure_dim
        super().__init__(channels, dim, config.hidden)
        self.norm = nn.LayerNorm(dim)
        self.crossattn = Attention(dim, config.unet.tokens, config.unet.heads or dim // config.unet.head_width)
        first = self.mlp_shared[0]
        assert isinstance(first, nn.Conv2d)
        for conv in (self.mlp_gamma, self.mlp_beta):
            quiet(conv)
        for conv in (first, self.mlp_gamma, self.mlp_beta) if config.paper_init else ():
            for value in conv.parameters():
                nn.init.zeros_(value)

    def balance(self, x: Tensor, structure: Tensor, tokens: Tensor) -> Tensor:
        """The change of x (N, C, H, W) by structure (N, D, H, W) and tokens (N, T, C)."""
        rows = structure.flatten(2).transpose(1, 2)
        attention = self.crossattn
        asked = attention.ask(attention.to_q(self.norm(rows)), attention.to_k(tokens), attention.to_v(tokens))
        rows = rows + attention.projected(asked)
        seen = self.mlp_shared(rows.transpose(1, 2).reshape(structure.shape))
        out: Tensor = self.normed(x) * self.mlp_gamma(seen) + self.mlp_beta(seen)
        return out


class StructuredBlock(TimeResBlock):
    """A residual block whose change is modulated by the structure before it is added, and rebalanced afterwards."""

    def __init__(self, c_in: int, c_out: int, time: int, config: RestorerIDConfig) -> None:
        super().__init__(c_in, c_out, time)
        self.spade = Modulation(c_out, config.structure_dim, config.hidden)
        self.IDBalance = Rebalancing(c_out, config)

    def restore(self, x: Tensor, time: Tensor, structure: Sequence[Tensor], tokens: Tensor | None) -> Tensor:
        """As a `TimeResBlock`, with the structure's map of x's side; without tokens nothing is rebalanced."""
        own = next(seen for seen in structure if seen.shape[2:] == x.shape[2:])
        h = self.in_layers(x) + self.emb_layers(time)[..., None, None]
        h = self.skip_connection(x) + self.spade(self.out_layers(h), own)
        out: Tensor = h if tokens is None else h + self.IDBalance.balance(h, own, tokens)
        return out


class RestorerUNet(SDUNet):
    """Stable Diffusion's U-Net with `StructuredBlock`s, separate attention to tokens, low-rank products everywhere."""

    def __init__(self, config: RestorerIDConfig) -> None:
        super().__init__(
            config.unet,
            functools.partial(SeparateAttention, rank=config.rank),
            functools.partial(Attention, rank=config.rank),
            functools.partial(StructuredBlock, config=config),
        )

    def restore(self, x: Tensor, time: Tensor, condition: Condition, structure: Sequence[Tensor]) -> Tensor:
        """As `forward`, with the structure of every level."""

        def residual(block: TimeResBlock, x: Tensor, time: Tensor) -> Tensor:
            assert isinstance(block, StructuredBlock)
            return block.restore(x, time, structure, condition.picture)

        return self._through(x, time, lambda module, x: module(x, condition), residual)


# --- identity


class _Perceiver(nn.Module):
    """Attention of latents (N, T, C) to inputs (N, P, C) and themselves, both normed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // _HEAD_WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        latents = self.norm2(latents)
        keys, values = self.to_kv(torch.cat([self.norm1(x), latents], 1)).chunk(2, 2)

        def split(t: Tensor) -> Tensor:
            return t.view(*t.shape[:2], self.heads, -1).transpose(1, 2)

        found = F.scaled_dot_product_attention(split(self.to_q(latents)), split(keys), split(values))
        out: Tensor = self.to_out(found.transpose(1, 2).flatten(2))
        return out


class _Resampler(nn.Module):
    """Tokens (N, T, C) that look at a picture's patches (N, P, D) several times."""

    def __init__(self, width: int, patches: int, depth: int) -> None:
        super().__init__()
        self.proj_in, self.proj_out = nn.Linear(patches, width), nn.Linear(width, width)
        self.norm_out = nn.LayerNorm(width)
        self.layers = nn.ModuleList(nn.ModuleList([_Perceiver(width), _feed_forward(width)]) for _ in range(depth))

    def forward(self, tokens: Tensor, patches: Tensor) -> Tensor:
        x = self.proj_in(patches)
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleList)
            tokens = layer[0](x, tokens) + tokens
            tokens = layer[1](tokens) + tokens
        out: Tensor = self.norm_out(self.proj_out(tokens))
        return out


def _feed_forward(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, 4 * width, bias=False),
        nn.GELU(),
        nn.Linear(4 * width, width, bias=False),
    )


class IdentityTokens(nn.Module):
    """FaceID-Plus: a face embedding (N, D) and patches of the face (N, P, E) to tokens (N, T, C)."""

    def __init__(self, config: RestorerIDConfig) -> None:
        super().__init__()
        width, features = config.unet.tokens, config.features
        self.tokens, self.shortcut = config.tokens, config.shortcut
        self.proj = nn.Sequential(
            nn.Linear(features, 2 * features), nn.GELU(), nn.Linear(2 * features, width * config.tokens)
        )
        self.norm = nn.LayerNorm(width)
        self.perceiver_resampler = _Resampler(width, config.picture_width, config.depth)

    def forward(self, embedding: Tensor, patches: Tensor) -> Tensor:
        known = self.norm(self.proj(embedding).unflatten(1, (self.tokens, -1)))
        tokens: Tensor = self.perceiver_resampler(known, patches)
        return known + tokens if self.shortcut else tokens


# --- the system


class RestorerID(System):
    """Restoration by Stable Diffusion with structure and identity (arXiv 2411.14125).

    forward: damaged image (N, 3, S, S) RGB in [−1, 1], aligned by the `ffhq` template, to the noise (N, 4, S/8, S/8)
    that the U-Net sees in the `noisy` latent at `time` (N,); in a latent of nothing at the last time, if None.
    `references` (N, R, 3, S, S) are other photos of the person, aligned alike; the image itself, if None. The paper
    takes one; tokens of several stand side by side.

    Only what the paper adds and learns requires gradients: see `added`.
    """

    slug: ClassVar[str] = "restorerid"
    Config: ClassVar[type[RestorerIDConfig]] = RestorerIDConfig
    config: RestorerIDConfig
    texts: Tensor

    def __init__(self, config: RestorerIDConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        self.autoencoder = KLAutoencoder(c.latents)
        self.structure = StructureEncoder(c)
        self.unet = RestorerUNet(c)
        self.picture = ImageTower(
            TowerShape(c.picture_width, c.picture_layers, c.picture_heads, "gelu"),
            c.picture_dim,
            size=c.picture_size,
            patch=c.picture_patch,
        )
        self.recogniser = IResNet(c.recogniser, c.features, widths=c.recogniser_widths)
        self.tokens = IdentityTokens(c)
        # states of the empty text, of POSITIVE and of NEGATIVE
        self.register_buffer("texts", torch.randn(3, c.length, c.unet.tokens))
        self.requires_grad_(False)
        for parameter in self.added().values():
            parameter.requires_grad_(True)

    def added(self) -> dict[str, nn.Parameter]:
        """What the paper adds to published networks and learns, by name: structure and rebalancing."""
        parts = (".structure.", ".spade.", ".IDBalance.")
        return {name: value for name, value in self.named_parameters() if any(part in f".{name}" for part in parts)}

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(config.size))

    @property
    def schedule(self) -> NoiseSchedule:
        return NoiseSchedule.linear(self.config.first_beta, self.config.last_beta, self.config.times)

    def forward(
        self,
        damaged: Tensor,
        references: Tensor | None = None,
        noisy: Tensor | None = None,
        time: Tensor | None = None,
    ) -> Tensor:
        given = self.encode(damaged)
        noisy = torch.zeros_like(given) if noisy is None else noisy
        time = torch.full((len(given),), self.config.times - 1, device=given.device) if time is None else time
        tokens = self.identity(damaged[:, None] if references is None else references)
        return self.predict(noisy, given, time, self.condition(0, len(given), tokens, self.config.strength))

    # What is given

    @torch.no_grad()
    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (N, 3, S, S) to scaled latents (N, 4, S/8, S/8), means or draws, in full precision."""
        with torch.autocast(image.device.type, enabled=False):
            return self.autoencoder.encode(image.float(), generator)

    def identity(self, references: Tensor) -> Tensor:
        """References (N, R, 3, S, S) in [−1, 1] to tokens (N, R · T, C)."""
        count = references.shape[1]
        flat = references.flatten(0, 1)
        embedding = F.normalize(self.recogniser(aligned(flat, _RECOGNISED)))
        face = aligned(flat, self.config.picture_size).add(1) / 2
        tokens: Tensor = self.tokens(embedding, self._patches(_shifted(face)))
        return tokens.reshape(-1, count * self.config.tokens, tokens.shape[2])

    def nobody(self, count: int, references: int = 1) -> Tensor:
        """Tokens (count, references · T, C) of nobody: an embedding of zeros and a picture of CLIP's mean colour."""
        c = self.config
        blank = torch.zeros(1, 3, c.picture_size, c.picture_size, device=self.device)
        embedding = torch.zeros(1, c.features, device=self.device)
        tokens: Tensor = self.tokens(embedding, self._patches(blank))
        return tokens.repeat(count, references, 1)

    def _patches(self, image: Tensor) -> Tensor:
        return self.picture.tokens(image, after=self.config.picture_layers - 1)

    def condition(self, text: int, count: int, tokens: Tensor | None, strength: float | Tensor) -> Condition:
        """What attentions are told: text 0 (empty), 1 (what is wanted) or 2 (what is not), tokens, their strength."""
        return Condition(self.texts[text].expand(count, -1, -1), tokens, strength)

    # The U-Net

    def predict(self, noisy: Tensor, given: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """The noise in a noisy latent, given the latent of the damaged face."""
        return self.unet.restore(noisy, time, condition, self.structure(given, time))

    def sample(self, given: Tensor, tokens: Tensor, strength: float, generator: torch.Generator) -> Tensor:
        """A restored latent by the damaged face's and the person's tokens; `strength` of them in both halves.

        Guidance goes away from the unwanted text and nobody; both see the same structure.
        """
        c, schedule, count = self.config, self.schedule, len(given)
        start = torch.randn(given.shape, generator=generator).to(given)
        times = schedule.spaced(c.steps, "uniform_leading")
        told = dict(zip(times, self._told(times)))
        nobody = self.nobody(count, tokens.shape[1] // c.tokens).to(tokens.dtype)
        wanted, unwanted = self.condition(1, count, tokens, strength), self.condition(2, count, nobody, strength)

        def predict(x: Tensor, time: Tensor) -> Tensor:
            at = torch.full_like(time, told[int(time[0])])
            structure = self.structure(given, at)
            noise, without = (self.unet.restore(x, at, condition, structure) for condition in (wanted, unwanted))
            return guided(noise, without, c.guidance)

        *_, last = ddim(predict, start, schedule, times, eta=c.eta, generator=generator)
        return last

    def _told(self, times: Sequence[int]) -> list[int]:
        """The times that the network is told of, for the falling times whose noise is removed."""
        c = self.config
        if c.told == "own" or len(times) == 1:
            return list(times)
        return [round(i * (c.times - 1) / (len(times) - 1)) for i in range(len(times))][::-1]

    # Use on pictures

    def strength_for(self, quality: float) -> float:
        """The adaptive ID scale of a face of that quality, 0 to 100: 1 at `quality_full`, falling as it rises."""
        c = self.config
        return math.exp(c.quality_rate * (c.quality_full - quality))

    def restore(self, crops: NDArray[np.uint8], *, fidelity: float = 1.0, seed: int | None = None) -> NDArray[np.uint8]:
        """(N, S, S, 3) uint8 RGB crops to restored crops of the same shape, without references.

        `seed` draws the noise, the same for every crop. UsageError for a fidelity other than 1: there is no such dial.
        """
        if fidelity != 1:
            raise UsageError("restorerid has no fidelity to choose; omit it")
        return self.restore_by(crops, None, seed=seed)

    @torch.inference_mode()
    def restore_by(
        self,
        crops: NDArray[np.uint8],
        references: Sequence[NDArray[np.uint8]] | None,
        *,
        seed: int | None = None,
        quality: Quality | None = None,
    ) -> NDArray[np.uint8]:
        """As `restore`, with references (R, S, S, 3) uint8 RGB for every crop, aligned alike.

        `quality` rates the crops for the adaptive scale; by FRGP's estimate of the damage, if None. The paper's is
        MUSIQ, which its constants `quality_rate` and `quality_full` are for.
        """
        if references is not None and (len(references) != len(crops) or not all(len(own) for own in references)):
            raise UsageError(f"{len(crops)} crops need as many sets of at least one reference")
        c = self.config
        strengths = [c.strength] * len(crops)
        if references is not None and len(crops):
            strengths = [self.strength_for(float(found)) for found in (quality or left_of_face)(crops)]
        restored = np.empty_like(crops)
        for number, crop in enumerate(crops):
            generator = torch.Generator().manual_seed(DEFAULT_SEED if seed is None else seed)
            damaged = self.normalise(crop[None])
            given = self.encode(damaged, generator)
            with self.picture_autocast():
                tokens = self.nobody(1)
                if references is not None:
                    tokens = self.identity(self.normalise(references[number])[None])
                latent = self.sample(given, tokens, strengths[number], generator)
            with torch.autocast(self.device.type, enabled=False):
                image = recoloured(self.autoencoder.decode(latent.float()), damaged, c.colour_fix)[0]
            pixels = image.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
            restored[number] = pixels.permute(1, 2, 0).cpu().numpy()
        return restored


def left_of_face(crops: NDArray[np.uint8]) -> list[float]:
    """How much of each face is left, 0 to 100, by the embedded FRGP: what `facewright restore` calls its quality."""
    import cv2

    from ...quality.retained import retained_fraction

    judge = _judge()
    side = judge.preprocess.size
    small = np.stack([cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA) for crop in crops])
    return [100 * retained_fraction(estimate) for estimate in judge.assess(small)]


@functools.cache
def _judge() -> Any:
    from ..frgp.network import FRGP

    return FRGP.from_pretrained()


def _shifted(image: Tensor) -> Tensor:
    """Images in [0, 1] as CLIP is shown them."""
    mean, std = (torch.tensor(values, device=image.device).view(3, 1, 1) for values in (_CLIP_MEAN, _CLIP_STD))
    return (image - mean) / std
