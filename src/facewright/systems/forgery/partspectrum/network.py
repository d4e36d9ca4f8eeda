"""PartSpectrum: signs of editing, generation and morphing, read off the spectrum of the parts of a face.

This project's own design; there is no paper. A few hundred edits by hand are too few to teach a network of many
layers. So nothing is learned but linear readouts: of the local spectrum of each part of the face, of what the embedded
parser sees there, and of how far the spectra of parts that belong together differ: both eyes, nose and cheeks, mouth
and chin. A part that was put in from another photo, enlarged, blurred at its seam or drawn by a generator differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.batching import padded
from ....nn.inference import folded_copy, plain_copy
from ....tasks.card import Preprocess
from ....tasks.forensics import Examination
from ...base import System, batches
from ..features import SPECTRUM, FixedFeatures

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE, CELL = 256, 8
ZOOM, CENTRE = 1.3, (0.5, 0.55)
KINDS = ("manipulated", "generated", "morphed")
PARTS = ("left eye", "right eye", "nose", "mouth")
WINDOWS: dict[str, tuple[int, int, int, int]] = {
    "left eye": (10, 16, 8, 14),
    "right eye": (10, 16, 18, 24),
    "nose": (15, 21, 13, 19),
    "mouth": (21, 27, 12, 20),
    "forehead": (3, 8, 10, 22),
    "left cheek": (17, 22, 6, 11),
    "right cheek": (17, 22, 21, 26),
    "chin": (27, 32, 12, 20),
    "all": (0, 32, 0, 32),
}
"""Rows and columns of the crop's 32×32 cells, ends exclusive; left and right are the picture's."""
PAIRS = (
    ("left eye", "right eye"),
    ("left eye", "left cheek"),
    ("right eye", "right cheek"),
    ("nose", "left cheek"),
    ("nose", "right cheek"),
    ("mouth", "left cheek"),
    ("mouth", "chin"),
    ("forehead", "left cheek"),
)
"""Parts whose spectra should be alike, as far as skin and focus go."""
SHADES = 9.0
"""Standard deviation, in pixels, of the edge of a part as it is drawn in the map."""
BATCH = 16


@dataclass(frozen=True, slots=True)
class PartSpectrumConfig:
    """What is described beside the means of each part: how its spectrum spreads (`spread`), how its maps of the parser
    do (`parser_spread`), and how far the spectra of parts differ (`differences`)."""

    spread: bool = True
    parser_spread: bool = True
    differences: bool = True

    @classmethod
    def compact(cls) -> Self:
        """What ships."""
        return cls(parser_spread=False)


class Readout(NamedTuple):
    """Logits against "real": `kinds` (N, 3), `parts` (N, 4); `map` (N, 1, S, S), those of the parts where they lie."""

    kinds: Tensor
    parts: Tensor
    map: Tensor


class PartSpectrum(System):
    """Linear readouts of a face's description; see the module's text.

    forward: (N, 3, 256, 256) RGB in [−1, 1] to a `Readout`.
    """

    slug: ClassVar[str] = "partspectrum"
    Config: ClassVar[type[PartSpectrumConfig]] = PartSpectrumConfig
    config: PartSpectrumConfig

    def __init__(self, config: PartSpectrumConfig | None = None) -> None:
        super().__init__(config)
        self.fixed = FixedFeatures()
        width = description_width(self.config)
        self.centre: Tensor
        self.scale: Tensor
        self.shapes: Tensor
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("shapes", part_shapes(), persistent=False)
        self.kinds = nn.Linear(width, len(KINDS))
        self.parts = nn.Linear(width, len(PARTS))

    @classmethod
    def preprocess_for(cls, config: PartSpectrumConfig) -> Preprocess:
        """The face from the forehead to below the chin, on FFHQ's template."""
        return Preprocess(CropSpec.aligned(SIZE, "ffhq", zoom=ZOOM, centre=CENTRE))

    def forward(self, image: Tensor) -> Readout:
        return self.read(self.fixed(image))

    def read(self, fixed: list[Tensor]) -> Readout:
        """The readouts of fixed features, always in float32."""
        with torch.autocast(fixed[0].device.type, enabled=False):
            seen = (describe(fixed, self.config) - self.centre.float()) / self.scale.float()
            kinds = nn.functional.linear(seen, self.kinds.weight.float(), self.kinds.bias.float())
            parts = nn.functional.linear(seen, self.parts.weight.float(), self.parts.bias.float())
            drawn = torch.einsum("np,phw->nphw", parts.sigmoid(), self.shapes).amax(1, keepdim=True)
            return Readout(kinds, parts, torch.logit(drawn, 1e-4))

    @torch.inference_mode()
    def described(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, 256, 256, 3) uint8 RGB crops to descriptions (N, D), from which readouts are fitted."""
        network: Any = self.inference()
        rows = []
        for part in batches(crops, BATCH):
            x = padded(self.normalise(np.asarray(part))).contiguous(memory_format=torch.channels_last)
            rows.append(describe(network.fixed(x), self.config)[: len(part)].cpu().numpy())
        return np.concatenate(rows) if rows else np.zeros((0, description_width(self.config)), np.float32)

    @torch.inference_mode()
    def examine(self, crops: NDArray[np.uint8]) -> Examination:
        """(N, 256, 256, 3) uint8 RGB crops to shares of the three kinds and maps."""
        if crops.ndim != 4 or crops.shape[1:] != (SIZE, SIZE, 3) or crops.dtype != np.uint8:
            raise UsageError(f"{self.slug} takes uint8 crops (N, {SIZE}, {SIZE}, 3), not {crops.shape} {crops.dtype}")
        network = self.inference()
        kinds, maps = [np.zeros((0, len(KINDS)))], [np.zeros((0, SIZE, SIZE), np.float32)]
        for part in batches(crops, BATCH):
            x = padded(self.normalise(np.asarray(part))).contiguous(memory_format=torch.channels_last)
            found = network(x)
            kinds.append(found[0].sigmoid()[: len(part)].double().cpu().numpy())
            maps.append(found[2].sigmoid()[: len(part), 0].float().cpu().numpy())
        shares = np.concatenate(kinds)
        return Examination({name: shares[:, i] for i, name in enumerate(KINDS)}, np.concatenate(maps))

    def _inference_form(self, dtype: torch.dtype) -> nn.Module:
        form: Any = plain_copy(self, torch.float32)
        form.fixed.trunk = folded_copy(self.fixed.trunk, dtype)
        return form  # type: ignore[no-any-return]


def description_width(config: PartSpectrumConfig) -> int:
    """D, the numbers of a description."""
    near, far = FixedFeatures.channels
    each = near + far + (SPECTRUM if config.spread else 0) + (near - SPECTRUM if config.parser_spread else 0)
    return len(WINDOWS) * each + (len(PAIRS) * SPECTRUM if config.differences else 0)


def describe(fixed: list[Tensor], config: PartSpectrumConfig) -> Tensor:
    """Fixed features (N, C, 32, 32) and (N, D, 16, 16) to one row of numbers a face, in float32."""
    near, far = (part.float() for part in fixed)
    found, means = [], {}
    for name, (top, bottom, left, right) in WINDOWS.items():
        window = near[:, :, top:bottom, left:right].flatten(2)
        means[name] = window.mean(2)
        found.append(means[name])
        if config.spread:
            found.append(window[:, :SPECTRUM].std(2, correction=0))
        if config.parser_spread:
            found.append(window[:, SPECTRUM:].std(2, correction=0))
        found.append(far[:, :, top // 2 : (bottom + 1) // 2, left // 2 : (right + 1) // 2].mean((2, 3)))
    if config.differences:
        found += [(means[a] - means[b])[:, :SPECTRUM].abs() for a, b in PAIRS]
    return torch.cat(found, 1)


def part_shapes() -> Tensor:
    """(4, 256, 256): where the parts lie in a crop, soft at the edge, 1 in the middle."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    shapes = []
    for name in PARTS:
        top, bottom, left, right = (CELL * edge for edge in WINDOWS[name])
        away = torch.stack([top - y, y - bottom + 1, left - x, x - right + 1]).amax(0).clamp_min(0)
        middle = ((y - (top + bottom) / 2) ** 2 + (x - (left + right) / 2) ** 2) / (2 * SIZE**2)
        shapes.append(torch.exp(-(away**2) / (2 * SHADES**2)) * torch.exp(-middle))
    return torch.stack(shapes)
