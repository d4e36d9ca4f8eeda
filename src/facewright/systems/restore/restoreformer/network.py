"""RestoreFormer and RestoreFormer++: damaged features ask, a dictionary of undamaged faces answers.

Papers: Wang, Zhang, Chen, Wang, Luo, "RestoreFormer: High-Quality Blind Face Restoration from Undegraded Key-Value
Pairs" (CVPR 2022) and "RestoreFormer++: Towards Real-World Blind Face Restoration from Undegraded Key-Value Pairs"
(TPAMI 2023, arXiv 2308.07228).

The picture's features are replaced by the nearest codes of a dictionary learnt on good faces (the
reconstruction-oriented high-quality dictionary, ROHQD). What the decoder makes of the codes gives keys, values and the
residual; the queries are the picture's own features, in RestoreFormer at the smallest side, in RestoreFormer++ also at
twice that side. Without any such side the network is the dictionary's auto-encoder itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

from ....errors import UsageError, WeightsError
from ....geometry.crop import CropSpec
from ....nn.mmrb import MMRB
from ....nn.vq import Encoder, Level, ResBlock, VQAutoencoder, VQLayout, inference_copy
from ....tasks.card import Preprocess
from ...base import System, refuse_seed
from ..runs import restored_in_runs

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

EncoderBlock = Literal["residual", "mmrb"]


class CodebookRestorer(System):
    """What restorers with a codebook share.

    `exact`: parts that compute in float32 whatever the precision, because a rounding there chooses another code.
    """

    mapped = True
    exact: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.aligned(config.size))

    def restore(self, crops: NDArray[np.uint8], *, fidelity: float = 1.0, seed: int | None = None) -> NDArray[np.uint8]:
        """(N, S, S, 3) uint8 RGB crops to restored crops of the same shape.

        The network draws no noise: a seed is a UsageError.
        """
        refuse_seed(self.slug, seed)
        return restored_in_runs(self, crops, fidelity=fidelity)

    def _inference_form(self, dtype: torch.dtype) -> nn.Module:
        return inference_copy(self, dtype, self.exact, self._been_read)


@dataclass(frozen=True)
class RestoreFormerConfig:
    """Shape of the network; the defaults are RestoreFormer++ (512 px, 73.5 M parameters).

    size: side of the crop, to which the sides below refer.
    width, multipliers: channels of level i are width · multipliers[i].
    attention_at: sides at which self-attention follows every residual block.
    cross_at: sides at which the decoder's attention asks with the picture's features; () is the dictionary.
    heads: of every attention.
    codes, code_dim: size of the dictionary.
    encoder_block: what the levels of the encoder are made of, the published residual blocks or the mixed multi-path
        ones of FRGP in their place.
    """

    size: int = 512
    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2, 4, 4, 8)
    attention_at: tuple[int, ...] = (16,)
    cross_at: tuple[int, ...] = (32, 16)
    heads: int = 4
    codes: int = 1024
    code_dim: int = 256
    encoder_block: EncoderBlock = "residual"

    @classmethod
    def v1(cls) -> Self:
        """RestoreFormer as first published: eight heads, queries from the picture at 16 px only."""
        return cls(cross_at=(16,), heads=8)

    @classmethod
    def dictionary(cls) -> Self:
        """ROHQD, the auto-encoder that the dictionary of RestoreFormer++ is trained with."""
        return cls(cross_at=())

    @classmethod
    def compact(cls) -> Self:
        """128 px crops on a processor: 8×8 codes."""
        return cls(
            size=128,
            width=32,
            multipliers=(1, 2, 2, 4, 4),
            attention_at=(8,),
            cross_at=(16, 8),
            codes=256,
            code_dim=64,
        )

    @property
    def layout(self) -> VQLayout:
        return VQLayout(
            size=self.size,
            width=self.width,
            multipliers=self.multipliers,
            attention_at=self.attention_at,
            cross_at=self.cross_at,
            heads=self.heads,
            codes=self.codes,
            code_dim=self.code_dim,
        )


class RestoreFormer(CodebookRestorer):
    """Face restoration by cross-attention between a picture and a dictionary (arXiv 2308.07228).

    forward: image (N, 3, H, W) RGB in [−1, 1], aligned by the `ffhq` template, H and W multiples of 32 (of
    2^(levels − 1)), to the restored image of the same shape, unclamped. `fidelity` in [0, 1] says who asks: 1, as
    published, the picture's features; 0 what the codes alone suggest; between, a mixture that no training has seen.
    With `return_aux` also a dict: `code_loss`, a scalar (its first term draws the features to their codes), and
    `codes` (N, h, w), the numbers of the chosen ones.

    A network that asks with the picture's features takes its dictionary as given: the codebook gets no gradient.
    """

    slug: ClassVar[str] = "restoreformer"
    Config: ClassVar[type[RestoreFormerConfig]] = RestoreFormerConfig
    config: RestoreFormerConfig

    def __init__(self, config: RestoreFormerConfig | None = None) -> None:
        super().__init__(config)
        self.net = VQAutoencoder(self.config.layout)
        if self.config.encoder_block not in get_args(EncoderBlock):
            known = ", ".join(get_args(EncoderBlock))
            raise UsageError(f"encoder_block {self.config.encoder_block!r}: choose one of {known}")
        if self.config.encoder_block == "mmrb":
            _use_mmrb(self.net.encoder)
        self.net.quantiser.codebook.requires_grad_(not self.config.cross_at)

    def forward(
        self, image: Tensor, *, fidelity: float = 1.0, return_aux: bool = False
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        stride = self.config.layout.stride
        if image.dim() != 4 or image.shape[1] != 3 or image.shape[2] % stride or image.shape[3] % stride:
            raise UsageError(
                f"RestoreFormer takes (N, 3, H, W) with sides of {stride} times n, not {tuple(image.shape)}"
            )
        if not 0 <= fidelity <= 1:
            raise UsageError(f"fidelity {fidelity} is outside 0…1")
        restored, quantised = self.net(image, fidelity)
        if not return_aux:
            return restored  # type: ignore[no-any-return]
        return restored, {"code_loss": quantised.loss, "codes": quantised.indices}

    @property
    def last_weight(self) -> Tensor:
        """Weight of the last convolution, where training balances its losses."""
        return self.net.decoder.conv_out.weight

    def load_dictionary(self, dictionary: RestoreFormer) -> None:
        """Start encoder, decoder and codebook from a trained dictionary; attention it does not have starts afresh.

        Raises WeightsError when the two differ in more than attention.
        """
        own, given = self.state_dict(), dictionary.state_dict()
        wrong = [key for key in given if key not in own or own[key].shape != given[key].shape]
        missing = [key for key in own if key not in given and ".attention" not in key]
        if wrong or missing:
            raise WeightsError(f"the dictionary is of another size than the network, see {(wrong + missing)[:3]}")
        self.load_state_dict(own | given)


def _use_mmrb(encoder: Encoder) -> None:
    """Put mixed multi-path residual blocks of the same widths in place of the levels' residual blocks."""
    for level in encoder.levels:
        assert isinstance(level, Level)
        for i, block in enumerate(level.blocks):
            assert isinstance(block, ResBlock)
            level.blocks[i] = MMRB(block.conv1.in_channels, block.conv1.out_channels)
