"""Black-and-white, sepia and otherwise toned faces keep their tone, whatever colours a restorer believes in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..systems.base import Restorer

TONED = (
    2.5  # grey levels between a face's colours and its tone; faces in colour have 2.8 and more, toned ones mostly 1–2
)
_SIDE = 64  # pixels in which the tone is measured: small enough that noise is averaged out


def restore_crops(restorer: Restorer, crops: NDArray[np.uint8], fidelity: float) -> NDArray[np.uint8]:
    """Restored (N, S, S, 3) uint8 RGB crops; those whose input is toned get the tone of their input."""
    tones = [tone_of(crop) for crop in crops]
    outputs = restorer.restore(crops, fidelity=fidelity)
    return np.stack([output if tone is None else in_tone(output, tone) for output, tone in zip(outputs, tones)])


def tone_of(crop: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """The colours of a toned (S, S, 3) crop: Cr and Cb as quadratic functions of the luma, (3, 2); None for others."""
    small = cv2.resize(crop, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    luma, *differences = cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb).reshape(-1, 3).T.astype(np.float64)
    wanted = np.stack(differences, 1)
    powers = np.vander(luma, 3)
    tone = np.asarray(np.linalg.lstsq(powers, wanted, rcond=None)[0], np.float64)
    apart = 255 * np.sqrt(((powers @ tone - wanted) ** 2).mean(0)).max()
    return tone if apart < TONED else None


def in_tone(image: NDArray[np.uint8], tone: NDArray[np.float64]) -> NDArray[np.uint8]:
    """An (S, S, 3) uint8 RGB picture with its own luma in the colours of a tone (see `tone_of`)."""
    luma = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2YCrCb)[..., 0]
    differences = np.vander(luma.ravel().astype(np.float64), 3) @ tone
    toned = np.dstack([luma, differences.reshape(*luma.shape, 2)]).astype(np.float32)
    return np.rint(255 * cv2.cvtColor(toned, cv2.COLOR_YCrCb2RGB)).clip(0, 255).astype(np.uint8)
