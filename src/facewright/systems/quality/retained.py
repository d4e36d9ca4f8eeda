"""How much of a face is left, from 0 to 1, judged without the undamaged picture: of a damaged one, of a restored one.

What is left is the structure that is left (SSIM of the luma) times the identity that is left (a recogniser's cosine),
both against the undamaged face: a sharp face of somebody else and the right face behind fog are both bad pictures. It
is estimated from a restorer's estimate of the damage by logistic models, whose weights `reproductions/quality` fits.
"""

from __future__ import annotations

import json
from dataclasses import asdict, astuple, dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from ...face import DegradationEstimate

WEIGHTS_FILE = "retained.json"


@dataclass(frozen=True, slots=True)
class RetainedModel:
    """A logistic model: `bias`, and weights of the four `signals`, none of which may count the wrong way."""

    bias: float
    ssim: float
    blur: float
    downscale: float
    compression: float

    def __call__(self, signals: ArrayLike) -> NDArray[np.float64]:
        """(..., 4) signals to the share of the face that is left, (...), in [0, 1]."""
        evidence = np.asarray(signals, np.float64) @ np.array(astuple(self)[1:]) + self.bias
        return np.asarray(1 / (1 + np.exp(-evidence)))


@dataclass(frozen=True, slots=True)
class RetainedModels:
    """From the signals of a damaged face: what is left of it as it is (`damaged`), and when restored (`restored`).

    A restored face looks whole, as what was lost is painted in; the damage before decides how much of it is true.
    """

    damaged: RetainedModel
    restored: RetainedModel

    def after(self, signals: ArrayLike, signals_of_output: ArrayLike) -> NDArray[np.float64]:
        """(..., 4) signals of damaged faces and of the restored ones to the share, (...), that is left in the latter.

        Never more than what the output would have if it were a photo: a restorer can also spoil a face.
        """
        return np.minimum(self.restored(signals), self.damaged(signals_of_output))

    def to_json(self) -> str:
        """The content of `retained.json`."""
        rounded = {
            kind: {name: round(value, 4) for name, value in weights.items()} for kind, weights in asdict(self).items()
        }
        return json.dumps(rounded, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The models of what `to_json` wrote."""
        return cls(**{kind: RetainedModel(**weights) for kind, weights in json.loads(text).items()})


def signals(
    blur_sigma: ArrayLike, downscale: ArrayLike, jpeg_quality: ArrayLike, ssim: ArrayLike
) -> NDArray[np.float64]:
    """Estimates in the units of `DegradationEstimate` to the (..., 4) signals of a `RetainedModel`; more is better."""
    blur = -np.log1p(np.asarray(blur_sigma, np.float64))
    shrunk = -np.log2(np.asarray(downscale, np.float64))
    compressed = (np.asarray(jpeg_quality, np.float64) - 100) / 50
    return np.stack([np.asarray(ssim, np.float64), blur, shrunk, compressed], axis=-1)


def retained_fraction(estimate: DegradationEstimate) -> float:
    """The share of a face, 0 to 1, that is left after the estimated damage."""
    return float(_shipped().damaged(_signals_of(estimate)))


def retained_after(before: DegradationEstimate, after: DegradationEstimate) -> float:
    """The share of the true face, 0 to 1, in a restored one, from the estimates of the input and of the output.

    Fitted on the embedded restorer at full fidelity; for another one it says what this one would have left.
    """
    return float(_shipped().after(_signals_of(before), _signals_of(after)))


def _signals_of(estimate: DegradationEstimate) -> NDArray[np.float64]:
    return signals(estimate.blur_sigma, estimate.downscale, estimate.jpeg_quality, estimate.ssim)


@lru_cache(maxsize=1)
def _shipped() -> RetainedModels:
    return RetainedModels.from_json(files(__package__).joinpath(WEIGHTS_FILE).read_text(encoding="utf-8"))
