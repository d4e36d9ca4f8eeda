"""Losses by which a restorer learns from itself: from an averaged teacher that sees the true picture, and from a second
damaged view of the same face.

Sources of the ideas: the mean teacher (Tarvainen and Valpola, NeurIPS 2017, arXiv 1703.01780); agreement of two views
with cosine similarity (Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021). That they are
combined for a restorer with a generative prior is this project's reading of the self-supervised strategy that FRGP
(arXiv 2205.14377) names in its abstract.

Losses are scalars in float32 at least, whatever autocast says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from ..nn.averaging import RunningMean

if TYPE_CHECKING:
    from collections.abc import Sequence

M = TypeVar("M", bound=nn.Module)


class MeanTeacher(Generic[M]):
    """A copy of a network whose weights follow it as a running mean; it never trains itself.

    `network` is the copy, for saving with a checkpoint. `update` moves it to `decay` · itself + (1 − decay) · student;
    call it after the student's step. UsageError for a decay outside [0, 1).
    """

    def __init__(self, student: M, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise UsageError(f"the teacher's decay must be in [0, 1), not {decay}")
        self._mean = RunningMean(student, lambda count: decay)
        self.network = cast("M", self._mean.module)

    def update(self, student: nn.Module) -> None:
        """Follow the student by one step; what is not a floating tensor is copied."""
        self._mean.update_parameters(student)


def feature_alignment(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean over the levels of the L1 between feature maps (N, C, H, W) brought to length 1 at every position.

    The teacher's maps are constants. In [0, 2/√C]; 0 for maps that differ by a positive factor per position only.
    """
    levels = [
        (F.normalize(_wide(own), dim=1) - F.normalize(_wide(wanted.detach()), dim=1)).abs().mean()
        for own, wanted in zip(student, teacher, strict=True)
    ]
    return torch.stack(levels).mean()


def latent_alignment(student: Tensor, teacher: Tensor) -> Tensor:
    """L1 between latents of any one shape; the teacher's are constants."""
    return (_wide(student) - _wide(teacher.detach())).abs().mean()


def latent_disagreement(first: Tensor, second: Tensor) -> Tensor:
    """Mean 1 − cosine between the latents (N, D) or (N, L, D) of two views; both views get a gradient."""
    return 1 - F.cosine_similarity(_wide(first), _wide(second), dim=-1).mean()


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
