"""PVA: a hole in a face filled as this person, by latent diffusion whose attention to words also sees her other photos.

Paper: Xu, Motamed, Vaddamanu, Wu, Haene, Bazin, De la Torre, "Personalized Face Inpainting with Diffusion Models by
Parallel Visual Attention" (WACV 2024, arXiv 2312.03556). Stable Diffusion 2's inpainting network is frozen. A
recogniser makes a vector of each reference, a transformer ten tokens of any number of vectors, and every attention to
words asks words and tokens under one softmax (`nn.sd.JointAttention`). A learnt word stands for a person of photos.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.bpe import BytePairs
from ....nn.clip import TextTower, TowerShape
from ....nn.diffusion import NoiseSchedule, ddim, guided
from ....nn.iresnet import IRESNET_BLOCKS, IResNet
from ....nn.kl import KLAutoencoder, kl_layout
from ....nn.sd import Condition, JointAttention, SDLayout, SDUNet
from ....tasks.card import Preprocess
from ...base import System

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ....nn.vq import VQLayout

DEFAULT_SEED = 2023
_ENCODED_SIDE, _ROWS, _COLUMNS, _RECOGNISED = 256, slice(35, 223), slice(32, 220), 112


@dataclass(frozen=True)
class PVAConfig:
    """Shape of the network; the defaults are the published ones.

    size: side of the crop. unet: of the denoiser, nine channels in: noisy latent, mask, latent of the picture without
    the hole. first_width, first_multipliers: of the auto-encoder. text_width, text_layers, text_heads, words, length:
    of the tower that reads prompts, asked before its last layer. recogniser: blocks of the IResNet; features: channels
    of its vectors. tokens: that stand for the references. transform_width, transform_layers, transform_heads: of what
    makes them.

    neutral: numbers of the words "a" and "person". merges: bytes of the vocabulary that came with the weights; without
    any (0) there are no prompts but the neutral one.

    first_beta, last_beta, times: of the noise; steps, eta: of sampling; guidance: with a prompt.
    """

    size: int = 512
    unet: SDLayout = field(default_factory=lambda: SDLayout.sd2(9))
    first_width: int = 128
    first_multipliers: tuple[int, ...] = (1, 2, 4, 4)
    text_width: int = 1024
    text_layers: int = 24
    text_heads: int = 16
    words: int = 49_408
    length: int = 77
    recogniser: tuple[int, ...] = IRESNET_BLOCKS["iresnet50"]
    recogniser_widths: tuple[int, ...] = (64, 128, 256, 512)
    features: int = 512
    tokens: int = 10
    transform_layers: int = 4
    transform_heads: int = 8
    neutral: tuple[int, int] = (320, 2533)
    merges: int = 0
    first_beta: float = 0.00085
    last_beta: float = 0.0120
    times: int = 1000
    steps: int = 100
    eta: float = 1.0
    guidance: float = 6.0

    def __post_init__(self) -> None:
        if isinstance(self.unet, dict):  # as JSON has it
            given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in self.unet.items()}
            object.__setattr__(self, "unet", SDLayout(**given))
        if self.unet.c_in != 2 * self.unet.c_out + 1 or self.unet.tokens != self.text_width:
            raise UsageError("PVA's U-Net takes a noisy latent, a mask and a latent, and tokens as wide as the text's")

    @classmethod
    def compact(cls) -> Self:
        """64 px crops and narrow parts, for experiments."""
        unet = SDLayout(9, 4, 32, (1, 2), 1, (0, 1), heads=0, head_width=16, tokens=32, linear=True)
        narrow = {"first_width": 32, "first_multipliers": (1, 1, 2), "text_width": 32, "text_layers": 2}
        small = {"text_heads": 2, "words": 100, "length": 8, "recogniser": (1, 1, 1, 1), "features": 16, "tokens": 4}
        return cls(
            size=64,
            unet=unet,
            recogniser_widths=(8, 8, 16, 16),
            transform_layers=1,
            transform_heads=2,
            neutral=(5, 7),
            steps=4,
            **narrow,  # type: ignore[arg-type]
            **small,  # type: ignore[arg-type]
        )

    @property
    def latents(self) -> VQLayout:
        """Of the auto-encoder."""
        return kl_layout(self.size, self.first_width, self.first_multipliers)


class TransformNetwork(nn.Sequential):
    """Vectors of any number of references (N, R, D) to tokens (N, T, C), whatever their order.

    Learnt queries stand behind the vectors; what becomes of them are the tokens.
    """

    def __init__(self, config: PVAConfig) -> None:
        width = config.text_width
        layer = nn.TransformerEncoderLayer(width, config.transform_heads, 2 * width, batch_first=True)
        encoder = nn.TransformerEncoder(layer, config.transform_layers, nn.LayerNorm(width), enable_nested_tensor=False)
        super().__init__(nn.Linear(config.features, width), encoder)
        self.q_tokens = nn.Parameter(torch.randn(config.tokens, config.features))
        self.pos_enc = nn.Parameter(torch.zeros(config.tokens, width))

    def forward(self, vectors: Tensor) -> Tensor:
        queries = self.q_tokens.expand(len(vectors), -1, -1)
        seen = self[1](self[0](torch.cat([vectors, queries.to(vectors.dtype)], 1)))
        tokens: Tensor = seen[:, -len(self.q_tokens) :] + self.pos_enc
        return tokens


class PVA(System):
    """Inpainting of aligned faces with references and prompts (arXiv 2312.03556).

    forward: image (N, 3, S, S) RGB in [−1, 1], aligned by the `ffhq` template, to the noise (N, 4, S/8, S/8) that the
    U-Net sees in the `noisy` latent at `time` (N,); in a latent of nothing at the last time, if None. `hole` (N, 1, S,
    S) is 1 where pixels are lost; everywhere, if None. `references` (N, R, 3, S, S) are photos of the person, aligned
    alike; the image itself, if None.

    Only what PVA adds requires gradients: `to_visual_*` of the U-Net, `transform` and the word `modifier`.
    """

    slug: ClassVar[str] = "pva"
    Config: ClassVar[type[PVAConfig]] = PVAConfig
    config: PVAConfig
    merges: Tensor

    def __init__(self, config: PVAConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        self.autoencoder = KLAutoencoder(c.latents)
        self.text = TextTower(
            TowerShape(c.text_width, c.text_layers, c.text_heads, "gelu"), c.text_width, words=c.words, length=c.length
        )
        self.recogniser = IResNet(c.recogniser, c.features, widths=c.recogniser_widths)
        self.unet = SDUNet(c.unet, JointAttention)
        self.transform = TransformNetwork(c)
        self.modifier = nn.Parameter(0.02 * torch.randn(c.text_width))
        self.register_buffer("merges", torch.zeros(c.merges, dtype=torch.uint8))
        self.requires_grad_(False)
        for parameter in self.added().values():
            parameter.requires_grad_(True)

    def added(self) -> dict[str, nn.Parameter]:
        """What PVA adds to Stable Diffusion and learns, by name."""
        parts = (".to_visual_", "transform.", "modifier")
        return {name: value for name, value in self.named_parameters() if any(part in name for part in parts)}

    def train(self, mode: bool = True) -> Self:
        """The recogniser stays in evaluation mode, whatever is trained: its batch norms would spoil what it knows."""
        super().train(mode)
        self.recogniser.eval()
        return self

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(config.size))

    @property
    def schedule(self) -> NoiseSchedule:
        return NoiseSchedule.linear(self.config.first_beta, self.config.last_beta, self.config.times)

    def forward(
        self,
        image: Tensor,
        references: Tensor | None = None,
        hole: Tensor | None = None,
        noisy: Tensor | None = None,
        time: Tensor | None = None,
    ) -> Tensor:
        hole = torch.ones_like(image[:, :1]) if hole is None else hole
        known = self.known(image, hole)
        noisy = torch.zeros_like(known[:, 1:]) if noisy is None else noisy
        time = torch.full((len(image),), self.config.times - 1, device=image.device) if time is None else time
        tokens = self.visual(image[:, None] if references is None else references)
        return self.predict(noisy, known, time, Condition(self.words("", len(image)), tokens))

    # What the U-Net is told

    @torch.no_grad()
    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (N, 3, S, S) to scaled latents (N, 4, S/8, S/8), in full precision."""
        with torch.autocast(image.device.type, enabled=False):
            return self.autoencoder.encode(image.float(), generator)

    def known(self, image: Tensor, hole: Tensor) -> Tensor:
        """(N, 5, S/8, S/8): the mask, by its nearest pixels, and the latent of the image with a grey hole."""
        mask = hole.to(image.dtype)
        latent = self.encode(image * (1 - mask))
        return torch.cat([F.interpolate(mask, size=latent.shape[2:], mode="nearest"), latent], 1)

    def visual(self, references: Tensor) -> Tensor:
        """References (N, R, 3, S, S) in [−1, 1] to tokens (N, T, C)."""
        count = references.shape[1]
        flat = F.interpolate(
            references.flatten(0, 1), size=(_ENCODED_SIDE, _ENCODED_SIDE), mode="bilinear", align_corners=True
        )
        crop = F.adaptive_avg_pool2d(flat[..., _ROWS, _COLUMNS], _RECOGNISED)
        vectors: Tensor = self.recogniser(crop)
        tokens: Tensor = self.transform(vectors.view(-1, count, vectors.shape[1]))
        return tokens

    def words(self, prompt: str, count: int = 1, *, anybody: bool = False) -> Tensor:
        """(count, 77, C) of a prompt after "a <person>,"; of anybody with "a person" instead.

        UsageError for a prompt without a vocabulary, and for one that is too long.
        """
        numbers = self._numbers(prompt, anybody=anybody)
        embedded: Tensor = self.text.embedding(torch.tensor([numbers], device=self.device).clamp(min=0))
        new = torch.tensor([number < 0 for number in numbers], device=self.device)[None, :, None]
        embedded = torch.where(new, self.modifier.to(embedded.dtype), embedded)
        states = self.text.states(embedded, after=self.config.text_layers - 1)
        return states.expand(count, -1, -1)

    def _numbers(self, prompt: str, *, anybody: bool) -> list[int]:
        """Token numbers of a whole row, −1 for the learnt word; what is left of it is 0, as SD 2 was trained."""
        c = self.config
        a, person = c.neutral
        inner = [a, person] if anybody else [a, -1, person]
        if prompt:
            if not c.merges:
                raise UsageError(f"these weights of {self.slug} came without a vocabulary, so they take no prompt")
            pairs = BytePairs.read(bytes(self.merges.cpu().numpy()).decode())
            inner += pairs.encode(f", {prompt}")
        begin, end = c.words - 2, c.words - 1
        if len(inner) + 2 > c.length:
            raise UsageError(f"the prompt has {len(inner)} tokens, {c.length - 2} fit; shorten it")
        return [begin, *inner, end, *[0] * (c.length - 2 - len(inner))]

    # The U-Net

    def predict(self, noisy: Tensor, known: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """The noise in a noisy latent, given what is known of the picture (N, 5, h, w)."""
        noise: Tensor = self.unet(torch.cat([noisy, known], 1), time, condition)
        return noise

    def sample(self, known: Tensor, wanted: Condition, against: Condition | None, generator: torch.Generator) -> Tensor:
        """A latent of the whole picture. `against` is what guidance goes away from; None for no guidance.

        Both conditions have the same tokens of references, so that guidance strengthens the words alone.
        """
        c, schedule = self.config, self.schedule
        start = torch.randn((len(known), c.unet.c_out, *known.shape[2:]), generator=generator).to(known)

        def predict(x: Tensor, time: Tensor) -> Tensor:
            noise = self.predict(x, known, time, wanted)
            if against is None:
                return noise
            return guided(noise, self.predict(x, known, time, against), c.guidance)

        times = schedule.spaced(c.steps, "uniform")
        *_, last = ddim(predict, start, schedule, times, eta=c.eta, generator=generator)
        return last

    # Use on pictures

    def fill(self, crops: NDArray[np.uint8], holes: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """(N, S, S, 3) uint8 RGB crops and (N, S, S) holes to crops drawn whole, without references."""
        return self.fill_by(crops, holes, [crops[:0]] * len(crops))

    @torch.inference_mode()
    def fill_by(
        self,
        crops: NDArray[np.uint8],
        holes: NDArray[np.bool_],
        references: Sequence[NDArray[np.uint8]],
        *,
        prompt: str = "",
        seed: int | None = None,
    ) -> NDArray[np.uint8]:
        """As `fill`, with references (R, S, S, 3) uint8 RGB for every crop, aligned alike; R may be 0."""
        if len(references) != len(crops) or len(holes) != len(crops):
            raise UsageError(f"{len(crops)} crops need as many holes and sets of references")
        drawn = np.empty_like(crops)
        for number, (crop, hole, own) in enumerate(zip(crops, holes, references)):
            generator = torch.Generator().manual_seed(DEFAULT_SEED if seed is None else seed)
            mask = torch.from_numpy(np.ascontiguousarray(hole)).to(self.device)[None, None]
            known = self.known(self.normalise(crop[None]), mask)
            with self.picture_autocast():
                tokens = self.visual(self.normalise(own)[None]) if len(own) else None
                wanted = Condition(self.words(prompt, anybody=not len(own)), tokens)
                against = Condition(self.words("", anybody=True), tokens) if prompt else None
                latent = self.sample(known, wanted, against, generator)
            with torch.autocast(self.device.type, enabled=False):
                image = self.autoencoder.decode(latent.float())[0]
            pixels = image.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
            drawn[number] = pixels.permute(1, 2, 0).cpu().numpy()
        return drawn

    def apart(self) -> PVA:
        """A network of its own in what PVA adds, which shares all frozen weights with this one: to be personalised."""
        own = set(self.added())
        shared = {id(value): value for name, value in self._tensors() if name not in own}
        return copy.deepcopy(self, shared)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.named_parameters()
        yield from self.named_buffers()

    def personalised(self, references: NDArray[np.uint8], *, seed: int | None = None) -> PVA:
        """A network that has learnt one person from (R, S, S, 3) uint8 RGB crops of her; see `training.personalise`."""
        from .training import personalise

        return personalise(self, references, seed=DEFAULT_SEED if seed is None else seed)
