"""Template inversion: a face from a leaked template, to measure what a leak would give away.

Paper: Otroshi Shahreza and Marcel, "Face Reconstruction from Facial Templates by Learning Latent Space of a Generator
Network" (NeurIPS 2023).

Only a small mapping is trained: it takes a template and a little noise to the styles of a generator that stays as it
is. It is made for auditing a recogniser of one's own and for testing what protects templates; no trained inverter of
anybody's system ships with facewright, and pictures made with it are marked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec, template_face
from ....geometry.similarity import invert
from ....nn.sampling import exact, pixels, sample
from ....nn.stylegan2 import GAIN, EqualLinear, leaky
from ....tasks.card import Preprocess
from ...base import System, batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...latents.eigenfaces.network import Eigenfaces
    from ...recognise.recogniser import Recogniser
    from ...synthesise.stylegan2.network import StyleGAN2
    from .prior import Prior

EPS = 1e-8
BATCH = 16


@dataclass(frozen=True, slots=True)
class TemplateInversionConfig:
    """Size of the mapping; the defaults are the published ones.

    template_dim, noise_dim, style_dim: of what goes in and comes out. layers: after the template's embedding.
    lr_multiplier: of the equalised layers, which makes the published learning rate of 0.1 sane. styles: how many copies
    of the style the critic sees. critic: its width. signed: the last layer is linear, for generators whose styles are
    spread around 0, and not what a leaky ReLU leaves as StyleGAN's are.
    """

    template_dim: int = 512
    noise_dim: int = 8
    style_dim: int = 512
    layers: int = 2
    lr_multiplier: float = 0.01
    styles: int = 16
    critic: int = 256
    signed: bool = False

    @classmethod
    def compact(cls) -> Self:
        """For the embedded recogniser and generator."""
        return cls(template_dim=128, style_dim=256, styles=12, critic=128)

    @classmethod
    def for_prior(cls, prior: Prior, template_dim: int) -> Self:
        """For templates of `template_dim` numbers and a generator without layers of its own for copies of a style."""
        return cls(
            template_dim=template_dim,
            style_dim=prior.style_dim,
            styles=1,
            critic=128,
            signed=prior.signed,
        )


class Inverted(NamedTuple):
    """`style` (N, style_dim) in the generator's W, and the critic's opinion of it (N, 1): low is real."""

    style: Tensor
    opinion: Tensor


class TemplateInversion(System):
    """Mapping and critic; see the module's text.

    forward: templates (N, template_dim) as the recogniser gives them, not scaled to length 1, and noise (N, noise_dim),
    ones where none is given, to `Inverted`.
    """

    slug: ClassVar[str] = "template_inversion"
    Config: ClassVar[type[TemplateInversionConfig]] = TemplateInversionConfig
    config: TemplateInversionConfig

    def __init__(self, config: TemplateInversionConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        self.mapping = TemplateMapping(c)
        self.critic = critic_of(c)

    @classmethod
    def preprocess_for(cls, config: TemplateInversionConfig) -> Preprocess:
        """It takes no picture."""
        return Preprocess(CropSpec.whole())

    def forward(self, template: Tensor, noise: Tensor | None = None) -> Inverted:
        if template.dim() != 2 or template.shape[1] != self.config.template_dim:
            raise UsageError(
                f"this mapping takes templates (N, {self.config.template_dim}), not {tuple(template.shape)}"
            )
        if noise is None:
            noise = template.new_ones(len(template), self.config.noise_dim)
        style = self.mapping(template, noise)
        return Inverted(style, self.judge(style))

    def judge(self, style: Tensor) -> Tensor:
        """The critic's opinion (N, 1) of styles (N, style_dim)."""
        return self.critic(style.repeat(1, self.config.styles))  # type: ignore[no-any-return]

    @torch.inference_mode()
    def reconstruct(
        self, templates: NDArray[np.float32], generator: StyleGAN2 | Eigenfaces, *, seed: int = 0
    ) -> NDArray[np.uint8]:
        """Templates (N, D) to marked pictures (N, S, S, 3) uint8 RGB on the generator's template; `seed` draws the
        noise."""
        from .prior import paint, prior_of

        prior = prior_of(generator)
        random = torch.Generator().manual_seed(seed)
        given = torch.from_numpy(np.asarray(templates, np.float32))
        noise = torch.randn(len(given), self.config.noise_dim, generator=random)
        pictures = []
        for part in batches(range(len(given)), BATCH):
            rows = list(part)
            styles = self.mapping(given[rows].to(self.device), noise[rows].to(self.device))
            pictures.append(paint(prior, styles))
        return np.stack([marked(picture) for picture in np.concatenate(pictures)])

    def attack(
        self,
        crops: NDArray[np.uint8],
        recogniser: Recogniser,
        *,
        seed: int = 0,
        generator: StyleGAN2 | Eigenfaces | None = None,
    ) -> NDArray[np.uint8]:
        """(N, S, S, 3) uint8 RGB crops, as the recogniser wants them, to marked faces made from their templates alone.

        `generator` is the one this mapping was trained for, the paper's published one where none is given.
        """
        if generator is None:
            from ...synthesise.stylegan2.network import StyleGAN2

            generator = StyleGAN2.from_pretrained()
        return self.reconstruct(recogniser.embed_raw(crops), generator, seed=seed)


class TemplateMapping(nn.Module):
    """Noise and the embedded template, each of second moment 1, through equalised layers to a style."""

    def __init__(self, config: TemplateInversionConfig) -> None:
        super().__init__()
        self.signed = config.signed
        self.embed = EqualLinear(config.template_dim, config.style_dim)
        widths = [config.noise_dim + config.style_dim, *[config.style_dim] * config.layers]
        self.layers = nn.ModuleList(
            EqualLinear(c_in, c_out, lr_mul=config.lr_multiplier) for c_in, c_out in zip(widths, widths[1:])
        )

    def forward(self, template: Tensor, noise: Tensor) -> Tensor:
        x = torch.cat([second_moment_1(noise), second_moment_1(self.embed(template))], 1)
        *hidden, last = self.layers
        for layer in hidden:
            x = GAIN * leaky(layer(x))
        return last(x) if self.signed else GAIN * leaky(last(x))


def second_moment_1(x: Tensor) -> Tensor:
    """(N, D) scaled so that the mean of the squares of each row is 1."""
    return x * (x.square().mean(1, keepdim=True) + EPS).rsqrt()


def critic_of(config: TemplateInversionConfig) -> nn.Sequential:
    """Copies of a style in a row to an opinion of it."""
    widths = [config.styles * config.style_dim, config.critic, config.critic, config.critic]
    layers: list[nn.Module] = []
    for c_in, c_out in zip(widths, widths[1:]):
        layers += [nn.Linear(c_in, c_out), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(config.critic, 1))


ARCFACE = CropSpec.aligned(112, "arcface", robust=False)


def recut_crop(image: Tensor, spec: CropSpec = ARCFACE, source: str = "ffhq") -> Tensor:
    """Crops (N, C, S, S) aligned by the template `source` to (N, C, size, size) as `spec` cuts them, with gradients.

    Always the same part is cut: a detector in between would break the gradient. Reductions are averaged first.
    """
    matrix = _back(spec, image.shape[-1], source)
    factor = int(float(np.hypot(matrix[0, 0], matrix[1, 0])))
    if factor > 1:
        image = F.avg_pool2d(image, factor)
        matrix = _back(spec, image.shape[-1], source)
    return sample(image, _grid(image, torch.from_numpy(matrix), spec.size), align_corners=False)


def _back(spec: CropSpec, side: int, source: str) -> NDArray[np.float64]:
    """From pixels of the crop to those of an aligned picture of `side` pixels."""
    return invert(spec.matrix(template_face(side, source)))


@exact
def _grid(image: Tensor, matrix: Tensor, size: int) -> Tensor:
    there = pixels(size, size, image) @ matrix[:, :2].T.to(image) + matrix[:, 2].to(image)
    return ((there + 0.5) / image.shape[-1] * 2 - 1).expand(len(image), -1, -1, -1)


def marked(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture with facewright's invisible mark, where it is large enough for one."""
    from ....io.provenance import LEAST_MARKED, embed_watermark

    if picture.shape[0] < LEAST_MARKED:
        return picture
    return np.rint(embed_watermark(picture.astype(np.float32))).astype(np.uint8)
