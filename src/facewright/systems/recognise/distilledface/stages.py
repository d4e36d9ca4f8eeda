"""The first stages of the compact recogniser, from which other systems of this project read what a face says.

They see a face once, however many systems ask within `seeing_once`.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from ....errors import WeightsError
from ....geometry.crop import CropSpec
from ....nn.inference import folded_copy
from ....nn.iresnet import IBasicBlock, IResNetStages
from ....tasks.card import Preprocess
from .network import SPREAD, DistilledFace, DistilledFaceConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

_COMPACT = DistilledFaceConfig.compact()
_STAGES = 3


class FirstStages(IResNetStages):
    """Crops (N, 3, S, S) of the recogniser in [−1, 1] to the map (N, 96, S/8, S/8) of its third stage of four."""

    width: ClassVar[int] = _COMPACT.widths[_STAGES - 1]
    next_width: ClassVar[int] = _COMPACT.widths[_STAGES]

    def __init__(self) -> None:
        super().__init__(_COMPACT.blocks[:_STAGES], _COMPACT.widths[:_STAGES], patch=2)

    @staticmethod
    def preprocess(size: int) -> Preprocess:
        """The recogniser's input contract, for crops of that side."""
        return Preprocess(CropSpec.aligned(size, "arcface"), scale=1.0, mean=(SPREAD,) * 3, std=(SPREAD,) * 3)

    def digest(self) -> str:
        """A name for the weights: stages of the same name see the same."""
        found = hashlib.sha256()
        for value in self.state_dict().values():
            found.update(value.detach().cpu().numpy().tobytes())
        return found.hexdigest()


def fourth_stage() -> IBasicBlock:
    """A block as the recogniser's fourth stage begins with, to train on: (N, 96, h, w) to (N, 192, h/2, w/2)."""
    return IBasicBlock(FirstStages.width, FirstStages.next_width, 2, 1e-5)


def begin_as_recogniser(stages: FirstStages, deeper: Sequence[IBasicBlock] = ()) -> None:
    """Fill stages, and blocks on top of them, with the weights of the embedded recogniser; the stages will not learn.

    Raises WeightsError where these do not fit.
    """
    state = DistilledFace.from_pretrained().backbone.state_dict()
    wanted = set(stages.state_dict())
    first = f"layer{_STAGES + 1}.0."
    block = {key.removeprefix(first): value for key, value in state.items() if key.startswith(first)}
    try:
        stages.load_state_dict({key: value for key, value in state.items() if key in wanted})
        for part in deeper:
            part.load_state_dict(block)
    except RuntimeError as error:
        raise WeightsError(f"the embedded recogniser has other stages: {error}".replace("\n", " ")) from error
    stages.requires_grad_(False)


# --- seeing a face once -----------------------------------------------------------------------------------------------

_seen: ContextVar[dict[tuple[str, bytes], Tensor] | None] = ContextVar("faces_seen_once", default=None)


@contextmanager
def seeing_once() -> Iterator[None]:
    """Within this, stages of the same weights look at the same crops once; what they saw is forgotten at the end."""
    token = _seen.set({})
    try:
        yield
    finally:
        _seen.reset(token)


class SeenOnce(nn.Module):
    """First stages in their form for inference, which within `seeing_once` do not look again at what was seen."""

    def __init__(self, stages: FirstStages, dtype: torch.dtype) -> None:
        super().__init__()
        self.form = folded_copy(stages, dtype)
        self.weights = f"{stages.digest()} {dtype}"

    def forward(self, crops: Tensor) -> Tensor:
        seen = _seen.get()
        if seen is None:
            return self._look(crops)
        pixels = crops.detach().permute(0, 2, 3, 1).contiguous().float().cpu().numpy()
        key = self.weights, hashlib.blake2b(pixels.tobytes()).digest()
        if key not in seen:
            seen[key] = self._look(crops)
        return seen[key]

    def _look(self, crops: Tensor) -> Tensor:
        found: Tensor = self.form(crops)
        return found
