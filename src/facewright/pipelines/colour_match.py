"""A restored face keeps the light and the tint of its picture, whatever light and colours a restorer believes in.

Otherwise the face of a faded print would come out brighter than the print around it, and that of a black-and-white one
in colour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..deprecation import renamed_names
from .two_stage import TwoStageRestorer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..face import DegradationEstimate
    from ..tasks.restore import Restorer

if not TYPE_CHECKING:
    __getattr__ = renamed_names(
        __name__, {"in_light": ":match_illumination", "tone_of": ":fit_tint", "in_tone": ":apply_tint"}
    )

MAX_TINT_ERROR = (
    2.5  # grey levels between a face's colours and its tint; faces in colour have 2.8 and more, tinted ones mostly 1–2
)
_SIDE = 64  # pixels in which tint and light are measured: small enough that noise is averaged out
_LIGHT = 1 / 6  # of the crop: σ below which changes of brightness are detail, not light


def restore_crops(
    restorer: Restorer,
    crops: NDArray[np.uint8],
    fidelity: float,
    *,
    relight: bool = False,
    seed: int | None = None,
    estimates: Sequence[DegradationEstimate] | None = None,
) -> NDArray[np.uint8]:
    """Restored (N, S, S, 3) uint8 RGB crops in the light and, where it is tinted, in the tint of their inputs.

    With `relight` in the light that the restorer sees; `seed` draws its noise anew; `estimates` are what it has said
    of the crops' damage already.
    """
    if isinstance(restorer, TwoStageRestorer):
        outputs = restorer.restore(crops, fidelity=fidelity, seed=seed, estimates=estimates)
    else:
        outputs = restorer.restore(crops, fidelity=fidelity, seed=seed)
    if not relight:
        outputs = np.stack([match_illumination(output, crop) for output, crop in zip(outputs, crops)])
    tints = [fit_tint(crop) for crop in crops]
    return np.stack([output if tint is None else apply_tint(output, tint) for output, tint in zip(outputs, tints)])


def match_illumination(image: NDArray[np.uint8], light: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An (S, S, 3) uint8 RGB picture with the large-scale brightness and colour of another of its size."""
    shift = cv2.GaussianBlur(_small(cv2.subtract(light, image, dtype=cv2.CV_32F)), (0, 0), _LIGHT * _SIDE)
    shift = cv2.resize(shift, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.add(image, shift, dtype=cv2.CV_8U), np.uint8)


def _small(picture: Any) -> NDArray[np.float32]:
    reduced = cv2.resize(np.asarray(picture, np.float32), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(reduced, np.float32)


def fit_tint(crop: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """The colours of a tinted (S, S, 3) crop: Cr and Cb as quadratic functions of the luma, (3, 2); None for others."""
    small = _small(crop) / 255
    luma, *differences = cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb).reshape(-1, 3).T.astype(np.float64)
    wanted = np.stack(differences, 1)
    powers = np.vander(luma, 3)
    tint = np.asarray(np.linalg.lstsq(powers, wanted, rcond=None)[0], np.float64)
    apart = 255 * np.sqrt(((powers @ tint - wanted) ** 2).mean(0)).max()
    return tint if apart < MAX_TINT_ERROR else None


def apply_tint(image: NDArray[np.uint8], tint: NDArray[np.float64]) -> NDArray[np.uint8]:
    """An (S, S, 3) uint8 RGB picture with its own luma in the colours of a tint (see `fit_tint`)."""
    luma = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2YCrCb)[..., 0]
    differences = np.vander(luma.ravel().astype(np.float64), 3) @ tint
    tinted = np.dstack([luma, differences.reshape(*luma.shape, 2)]).astype(np.float32)
    return np.rint(255 * cv2.cvtColor(tinted, cv2.COLOR_YCrCb2RGB)).clip(0, 255).astype(np.uint8)
