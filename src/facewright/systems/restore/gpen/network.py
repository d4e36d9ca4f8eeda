"""GPEN: a StyleGAN2 of faces whose noise inputs are the features of the damaged picture.

Paper: Yang, Ren, Xie, Zhang, "GAN Prior Embedded Network for Blind Face Restoration in the Wild" (CVPR 2021, arXiv
2105.06070). A plain encoder halves the picture down to 4×4; what it ends with is the style code, and its features go
beside the generator's at every size, where StyleGAN2 adds noise (section 3.2).

Two runtimes have one name: PyTorch for the authors' checkpoints, onnxruntime for the ONNX files that others made of
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from ....errors import UsageError
from ....geometry.crop import CropSpec
from ....nn.inference import AutocastCopy
from ....nn.stylegan2 import GAIN, EqualConv, EqualLinear, Generator, ModulatedConv, channel_widths, leaky, resolutions
from ....tasks.card import Preprocess
from ...base import System, refuse_seed
from ...graph import GraphSystem, RunsGraphs
from ..runs import restored_in_runs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ....weights.graphs import GraphSketch


_PARAMETERS = {256: 18_879_010, 512: 71_005_223, 1024: 71_210_540, 2048: 71_294_769}
_SPARE = 0.03  # of the numbers of an ONNX file: filters, shapes, folded constants


@dataclass(frozen=True)
class GPENConfig:
    """Shape of a GPEN; the defaults are the published one for 512 px (71.0 M parameters).

    channel_multiplier, narrow: StyleGAN2's width rule, for the encoder, too. mapping_layers: of the mapping network.
    """

    size: int = 512
    channel_multiplier: float = 2
    narrow: float = 1.0
    style_dim: int = 512
    mapping_layers: int = 8

    @classmethod
    def bfr_256(cls) -> Self:
        """For 256 px, with half the channels."""
        return cls(size=256, channel_multiplier=1, narrow=0.5)

    @classmethod
    def bfr_512(cls) -> Self:
        """For 512 px."""
        return cls()

    @classmethod
    def bfr_1024(cls) -> Self:
        """For 1024 px."""
        return cls(size=1024)

    @classmethod
    def bfr_2048(cls) -> Self:
        """For 2048 px."""
        return cls(size=2048)

    @classmethod
    def compact(cls) -> Self:
        """64 px crops and a sixteenth of the widths, for experiments."""
        return cls(size=64, channel_multiplier=1, narrow=0.0625, style_dim=32, mapping_layers=2)


class _Restores:
    """What both runtimes share."""

    slug: ClassVar[str] = "gpen"
    Config: ClassVar[type[GPENConfig]] = GPENConfig
    config: GPENConfig

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(config.size))

    def _check(self, fidelity: float, seed: int | None) -> None:
        if fidelity != 1:
            raise UsageError("gpen has no control of fidelity; blend with the input instead (strength)")
        refuse_seed(self.slug, seed)


class GPEN(_Restores, RunsGraphs, System):
    """Face restoration by a GAN prior embedded in an encoder and decoder (arXiv 2105.06070).

    forward: image (N, 3, S, S) RGB in [−1, 1], aligned by the `ffhq` template, to the restored image of the same
    shape, unclamped. Raises UsageError for another shape.
    """

    mapped = True

    def __init__(self, config: GPENConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        width = channel_widths(c.size, c.channel_multiplier, c.narrow)
        falling = resolutions(c.size)[::-1]
        self.stem = EqualConv(3, width[c.size], 1)
        self.downs = nn.ModuleList(EqualConv(width[a], width[b], 3, down=True) for a, b in zip(falling, falling[1:]))
        self.to_style = EqualLinear(width[4] * 16, c.style_dim)
        self.generator = Generator(
            c.size,
            style_dim=c.style_dim,
            channel_multiplier=c.channel_multiplier,
            narrow=c.narrow,
            mapping_layers=c.mapping_layers,
            injection="noise_concat",
        )

    def forward(self, image: Tensor) -> Tensor:
        side = self.config.size
        if image.dim() != 4 or tuple(image.shape[1:]) != (3, side, side):
            raise UsageError(f"this GPEN takes images (N, 3, {side}, {side}), not {tuple(image.shape)}")
        features = [self.stem(image)]
        for down in self.downs:
            features.append(down(features[-1]))
        style = leaky(self.to_style(features[-1].flatten(1).float())) * GAIN
        latent = self.generator.mapping(style)
        restored: Tensor = self.generator(latent, features[::-1])
        return restored

    def restore(self, crops: NDArray[np.uint8], *, fidelity: float = 1.0, seed: int | None = None) -> NDArray[np.uint8]:
        """(N, S, S, 3) uint8 RGB crops to restored crops of the same shape.

        The network has no control of fidelity and draws no noise: a value other than 1, or a seed, is a UsageError.
        """
        self._check(fidelity, seed)
        return restored_in_runs(self, crops)

    def _inference_form(self, dtype: torch.dtype) -> nn.Module:
        return AutocastCopy(self, dtype, (EqualConv, ModulatedConv), self._been_read)


class GPENGraph(_Restores, GraphSystem):
    """The same, run from an ONNX file by onnxruntime in float32."""

    @classmethod
    def accepts(cls, graph: GraphSketch) -> bool:
        """One square picture in, one of that side out, about as many numbers, and none of what GPEN does without."""
        if graph.side not in _PARAMETERS or [list(shape[1:]) for shape in graph.outputs.values()] != [
            graph.picture[1:]
        ]:
            return False
        numbers = _PARAMETERS[graph.side]
        foreign = {"InstanceNormalization", "BatchNormalization", "LayerNormalization", "Softmax", "Gather", "ArgMin"}
        return abs(graph.parameters - numbers) < _SPARE * numbers and not foreign & set(graph.operators)

    @classmethod
    def config_of(cls, graph: GraphSketch) -> GPENConfig:
        config: GPENConfig = getattr(GPENConfig, f"bfr_{graph.side}")()
        return config

    @torch.inference_mode()
    def restore(self, crops: NDArray[np.uint8], *, fidelity: float = 1.0, seed: int | None = None) -> NDArray[np.uint8]:
        """(N, S, S, 3) uint8 RGB crops to restored crops of the same shape; see `GPEN.restore`."""
        self._check(fidelity, seed)
        restored = np.empty_like(crops)
        for index, crop in enumerate(crops):  # these graphs take one picture at a time
            image = self.run(self.normalise(crop[None]).contiguous())[0][0]
            restored[index] = np.rint((image + 1) * 127.5).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        return restored


GPEN.Graph = GPENGraph
