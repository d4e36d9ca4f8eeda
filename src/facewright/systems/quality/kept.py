"""How much of a face its damage has left, from 0 to 1, judged without the undamaged picture.

What is left is the structure that is left (SSIM of the luma) times the identity that is left (a recogniser's cosine),
both against the undamaged face: a sharp face of somebody else and the right face behind fog are both bad pictures. It
is estimated from a restorer's estimate of the damage by a logistic model, whose weights `reproductions/quality` fits.
"""

from __future__ import annotations

import json
from dataclasses import asdict, astuple, dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

WEIGHTS_FILE = "kept.json"


class DamageEstimate(Protocol):
    """What is used of a restorer's estimate; `facewright.systems.restore.frgp.DegradationEstimate` says the units."""

    @property
    def blur_sigma(self) -> float: ...

    @property
    def downscale(self) -> float: ...

    @property
    def jpeg_quality(self) -> float: ...

    @property
    def ssim(self) -> float: ...


@dataclass(frozen=True, slots=True)
class KeptModel:
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

    def to_json(self) -> str:
        """The content of `kept.json`."""
        return json.dumps({name: round(value, 4) for name, value in asdict(self).items()}, indent=2) + "\n"


def signals(
    blur_sigma: ArrayLike, downscale: ArrayLike, jpeg_quality: ArrayLike, ssim: ArrayLike
) -> NDArray[np.float64]:
    """Estimates in the units of `DegradationEstimate` to the (..., 4) signals of a `KeptModel`; more is better."""
    blur = -np.log1p(np.asarray(blur_sigma, np.float64))
    shrunk = -np.log2(np.asarray(downscale, np.float64))
    compressed = (np.asarray(jpeg_quality, np.float64) - 100) / 50
    return np.stack([np.asarray(ssim, np.float64), blur, shrunk, compressed], axis=-1)


def kept(estimate: DamageEstimate) -> float:
    """The share of a face, 0 to 1, that is left after the estimated damage."""
    e = estimate
    return float(_shipped()(signals(e.blur_sigma, e.downscale, e.jpeg_quality, e.ssim)))


@lru_cache(maxsize=1)
def _shipped() -> KeptModel:
    return KeptModel(**json.loads(files(__package__).joinpath(WEIGHTS_FILE).read_text(encoding="utf-8")))
