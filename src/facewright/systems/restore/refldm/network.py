"""ReF-LDM: a damaged face restored by latent diffusion whose attention sees the person's other photos.

Paper: Hsiao, Liu, Yang, Kuo, Jou, Chen, "ReF-LDM: A Latent Diffusion Model for Reference-based Face Image Restoration"
(NeurIPS 2024, arXiv 2412.05043). The noisy latent and the damaged face's stand side by side at the U-Net's input.
CacheKV (section 3.2): each reference passes the same U-Net once, clean, at time 0 and without a damaged face; the keys
and values of all its self-attentions are kept and stand behind those of the face at every step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.adm import ADMLayout, ADMUNet, AttentionProcessor, Cached, KeysValues, Recording, plain
from ....nn.diffusion import NoiseSchedule, Spacing, ddim, guided
from ....nn.vq import VQAutoencoder
from ....tasks.card import Preprocess
from ...base import System
from ...latents.refldm_vqgan.network import RefLDMVQGANConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Encoding = Literal["strip", "single"]
DEFAULT_SEED = 2024


@dataclass(frozen=True)
class RefLDMConfig:
    """Shape of the network; the defaults are the published ones.

    latents: the auto-encoder, which is frozen. width, multipliers, blocks, attention_at, head_width: of the U-Net, as
    in `ADMLayout`. first_beta, last_beta, times: of the noise.

    steps, spacing, guidance: of sampling; as released: 50 steps that start at the last time, 1.5. The paper takes 100
    uniform ones. encoding: "strip" encodes the references side by side, so that each depends a little on the others, as
    released; "single" one by one.
    """

    latents: RefLDMVQGANConfig = field(default_factory=RefLDMVQGANConfig)
    width: int = 160
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    blocks: int = 2
    attention_at: tuple[int, ...] = (1, 2, 3)
    head_width: int = 32
    first_beta: float = 0.0015
    last_beta: float = 0.0155
    times: int = 1000
    steps: int = 50
    spacing: Spacing = "uniform_trailing"
    guidance: float = 1.5
    encoding: Encoding = "strip"

    def __post_init__(self) -> None:
        if isinstance(self.latents, dict):  # as JSON has it
            given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in self.latents.items()}
            object.__setattr__(self, "latents", RefLDMVQGANConfig(**given))

    @classmethod
    def paper(cls) -> Self:
        """As the paper samples."""
        return cls(steps=100, spacing="uniform")

    @classmethod
    def compact(cls) -> Self:
        """64 px crops and a narrow U-Net on 16×16 latents, for experiments."""
        latents = RefLDMVQGANConfig.compact()
        return cls(latents, width=32, multipliers=(1, 2), blocks=1, attention_at=(0, 1), head_width=16, steps=4)

    @property
    def layout(self) -> ADMLayout:
        """Of the U-Net: noisy latent and damaged face's in, noise out."""
        dim = self.latents.code_dim
        return ADMLayout(2 * dim, dim, self.width, self.multipliers, self.blocks, self.attention_at, self.head_width)


class RefLDM(System):
    """Restoration by latent diffusion with references (arXiv 2412.05043).

    forward: damaged image (N, 3, S, S) RGB in [−1, 1], aligned by the `ffhq` template, to the noise (N, D, S/8, S/8)
    that the U-Net sees in the `noisy` latent at `time` (N,); in a latent of nothing at the last time, if None.
    `references` (N, R, 3, S, S) are other photos of the person, aligned alike.
    """

    slug: ClassVar[str] = "refldm"
    Config: ClassVar[type[RefLDMConfig]] = RefLDMConfig
    config: RefLDMConfig

    def __init__(self, config: RefLDMConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        if c.encoding not in get_args(Encoding):
            raise UsageError(f"encoding {c.encoding!r}: choose one of {', '.join(get_args(Encoding))}")
        self.autoencoder = VQAutoencoder(c.latents.layout).requires_grad_(False)
        self.unet = ADMUNet(c.layout)

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(config.latents.size))

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
        cache = None if references is None else self.remember(self.encode_references(references))
        return self.predict(noisy, given, time, cache)

    # Latents

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Images (N, 3, S, S) to latents (N, D, S/8, S/8), before their codes are looked up.

        In full precision, as decoding: half of it would change codes.
        """
        with torch.autocast(image.device.type, enabled=False):
            latent: Tensor = self.autoencoder.encode(image.float())[0]
        return latent

    @torch.no_grad()
    def encode_references(self, references: Tensor) -> Tensor:
        """(N, R, 3, S, S) to latents (N, R, D, S/8, S/8)."""
        count = references.shape[1]
        if self.config.encoding == "single":
            found = self.encode(references.flatten(0, 1))
            return found.view(-1, count, *found.shape[1:])
        strip = references.permute(0, 2, 3, 1, 4).flatten(3)  # side by side
        return torch.stack(self.encode(strip).chunk(count, 3), 1)

    def decode(self, latent: Tensor) -> Tensor:
        """Latents to images; every position becomes its nearest code first, gradients pass straight through."""
        with torch.autocast(latent.device.type, enabled=False):
            image: Tensor = self.autoencoder.decode(self.autoencoder.quantiser(latent.float()).features)
        return image

    # The U-Net

    def remember(self, latents: Tensor) -> list[KeysValues]:
        """CacheKV: keys and values of every self-attention for reference latents (N, R, D, h, w), references in a row.

        The latent stands where the noisy one would; where the damaged face would, stands nothing; the time is 0.
        """
        faces, count = latents.shape[:2]
        flat = latents.flatten(0, 1)
        recording = Recording()
        self.unet(torch.cat([flat, torch.zeros_like(flat)], 1), torch.zeros(len(flat), device=flat.device), recording)

        def in_a_row(seen: Tensor) -> Tensor:
            return seen.view(faces, count, *seen.shape[1:]).transpose(1, 2).flatten(2, 3)

        return [KeysValues(in_a_row(layer.keys), in_a_row(layer.values)) for layer in recording.layers]

    def predict(self, noisy: Tensor, given: Tensor, time: Tensor, cache: Sequence[KeysValues] | None = None) -> Tensor:
        """The noise in a noisy latent, given the latent of the damaged face and what references left in the cache."""
        processor: AttentionProcessor = plain if cache is None else Cached(cache)
        noise: Tensor = self.unet(torch.cat([noisy, given], 1), time, processor)
        return noise

    def sample(self, given: Tensor, references: Tensor | None, start: Tensor) -> Tensor:
        """A restored latent from noise `start`, the damaged face's latent, and those of references (N, R, D, h, w).

        Guidance compares with references of nothing: zero latents, which pass the cache like any others. Without
        references there is no guidance, and nothing is cached.
        """
        c = self.config
        schedule = self.schedule
        cache = None if references is None else self.remember(references)
        empty = None if references is None else self.remember(torch.zeros_like(references))

        def predict(x: Tensor, time: Tensor) -> Tensor:
            noise = self.predict(x, given, time, cache)
            if empty is None or c.guidance == 1:
                return noise
            return guided(noise, self.predict(x, given, time, empty), c.guidance)

        *_, last = ddim(predict, start, schedule, schedule.spaced(c.steps, c.spacing))
        return last

    # Use on pictures

    def restore(self, crops: NDArray[np.uint8], *, fidelity: float = 1.0, seed: int | None = None) -> NDArray[np.uint8]:
        """(N, S, S, 3) uint8 RGB crops to restored crops of the same shape, without references.

        `seed` draws the noise, the same for every crop. UsageError for a fidelity other than 1: there is no such dial.
        """
        if fidelity != 1:
            raise UsageError("refldm has no fidelity to choose; omit it")
        return self.restore_by(crops, None, seed=seed)

    @torch.inference_mode()
    def restore_by(
        self,
        crops: NDArray[np.uint8],
        references: Sequence[NDArray[np.uint8]] | None,
        *,
        seed: int | None = None,
    ) -> NDArray[np.uint8]:
        """As `restore`, with references (R, S, S, 3) uint8 RGB for every crop, aligned alike."""
        if references is not None and (len(references) != len(crops) or not all(len(own) for own in references)):
            raise UsageError(f"{len(crops)} crops need as many sets of at least one reference")
        restored = np.empty_like(crops)
        size = [self.config.latents.code_dim, *(side // self.config.latents.layout.stride for side in crops.shape[1:3])]
        start = torch.randn(size, generator=torch.Generator().manual_seed(DEFAULT_SEED if seed is None else seed))
        for number, crop in enumerate(crops):
            given = self.encode(self.normalise(crop[None]))
            own = None
            if references is not None:
                own = self.encode_references(self.normalise(references[number])[None])
            with self.picture_autocast():
                latent = self.sample(given, own, start[None].to(given))
            image = self.decode(latent)[0]
            pixels = image.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
            restored[number] = pixels.permute(1, 2, 0).cpu().numpy()
        return restored
