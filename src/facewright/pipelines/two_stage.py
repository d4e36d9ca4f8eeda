"""Restoring in two stages: what a face of 256 px can show, then the detail of 512.

The first network knows heavy damage: noise, compression, a few pixels between the eyes. The second draws the fine
detail that soft and small faces lack; what it draws is taken further (see `emphasis`). A face that would lose more by
the first than it gains goes straight to the second: a logistic model on the first one's estimate of the damage says
which does (`reproductions/stages`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..geometry.resample import resampled
from .emphasis import GAIN, emphasised
from .logistic import LogisticModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..face import DegradationEstimate
    from ..tasks.card import Preprocess

WEIGHTS_FILE = "two_stage.json"
UNDAMAGED = 0.96
"""Estimated SSIM from which the first stage is not worth its time, whatever the model says."""


@dataclass(frozen=True, slots=True)
class StageModel(LogisticModel):
    """Log odds that the first stage does a face good, from the six signals of `stage_signals`."""

    blur: float
    downscale: float
    noise: float
    jpeg: float
    psnr: float
    ssim: float


def stage_signals(estimate: DegradationEstimate) -> NDArray[np.float64]:
    """(6,) of an estimated damage, each of about the size of 1."""
    return np.array(
        [
            np.log(max(estimate.blur_sigma, 0.0) + 0.1),
            np.log(max(estimate.downscale, 1.0)),
            np.log1p(max(estimate.noise_sigma, 0.0)),
            estimate.jpeg_quality / 100,
            estimate.psnr / 50,
            estimate.ssim,
        ]
    )


@cache
def shipped_model() -> StageModel:
    """The fitted model of this package."""
    return StageModel.from_json((files(__package__ or "") / WEIGHTS_FILE).read_text(encoding="utf-8"))


class TwoStageRestorer:
    """A `Restorer` of 512 px crops and a `DegradationEstimator`, from one network for structure and one for detail."""

    def __init__(
        self,
        structure: Any,
        detail: Any,
        model: StageModel | None = None,
        undamaged: float = UNDAMAGED,
        emphasis: float = GAIN,
    ) -> None:
        self.structure, self.detail, self.emphasis = structure, detail, emphasis
        self.model, self.undamaged = model or shipped_model(), undamaged

    @property
    def slug(self) -> str:
        """Slugs of both networks."""
        return f"{self.structure.slug}+{self.detail.slug}"

    @property
    def weights_sha256(self) -> str | None:
        """That of the second network's weights."""
        found: str | None = self.detail.weights_sha256
        return found

    @property
    def preprocess(self) -> Preprocess:
        """What the second network wants: crops of 512 px."""
        record: Preprocess = self.detail.preprocess
        return record

    def assess(self, crops: NDArray[np.uint8]) -> list[DegradationEstimate]:
        """The damage of (N, S, S, 3) uint8 RGB crops that shows at 256 px."""
        found: list[DegradationEstimate] = self.structure.assess(self._small(crops))
        return found

    def restore(
        self,
        crops: NDArray[np.uint8],
        *,
        fidelity: float = 1.0,
        seed: int | None = None,
        estimates: Sequence[DegradationEstimate] | None = None,
    ) -> NDArray[np.uint8]:
        """(N, S, S, 3) uint8 RGB crops to restored crops of the same shape.

        `seed` is for the first stage's noise; `estimates` are what `assess` says of the crops, where it is known.
        """
        small = self._small(crops)
        estimates = self.structure.assess(small) if estimates is None else estimates
        # a seed asks for other noise, which only the first stage draws
        chosen = [n for n, found in enumerate(estimates) if seed is not None or self._helps(found)]
        prepared = crops
        if chosen:
            restored = self.structure.restore(small[chosen], fidelity=fidelity, seed=seed)
            prepared = crops.copy()
            for number, after in zip(chosen, restored):
                prepared[number] = _with_change(crops[number], small[number], after)
        drawn: NDArray[np.uint8] = self.detail.restore(prepared, fidelity=fidelity)
        return np.stack([emphasised(before, after, self.emphasis) for before, after in zip(prepared, drawn)])

    def _helps(self, estimate: DegradationEstimate) -> bool:
        """Whether the first stage does such a face good."""
        return estimate.ssim < self.undamaged and bool(self.model(stage_signals(estimate)) > 0)

    def _small(self, crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.stack([resampled(crop, self.structure.preprocess.size) for crop in crops])


def _with_change(crop: NDArray[np.uint8], small: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A crop with what the first stage changed at its smaller size; damage finer than that is smoothed away."""
    side = len(crop)
    rough = cv2.resize(after, (side, side), interpolation=cv2.INTER_CUBIC)
    before = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    finer = crop.astype(np.float32) - before
    # what was noise to the first stage is noise at the finer scale, too
    changed = np.abs(after.astype(np.float32) - small).mean()
    keep = float(np.clip(1 - changed / _LARGE_CHANGE, 0, 1))
    return np.asarray(np.rint(rough + keep * finer).clip(0, 255), np.uint8)


_LARGE_CHANGE = 4.0  # grey levels changed on average, from which nothing finer is kept
