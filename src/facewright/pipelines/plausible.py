"""Never a monster: how much of a restoration is shown, decided by what networks that know faces say before and after.

Where little of a face is left, a restorer can draw noise as if it were features, and the result is crisp and wrong. A
restoration is shown as it is when it looks no less like a face than its input, and the landmark detector is as sure of
it as of a real face seen from that side. Else, in this order: where little is left, a restoration of the input
without its finest structure, in which there is less to be misled by, if of that it is sure; the restoration all the
same, if it is surely a face and the detector is no less sure than before, for faces in shadow, with glasses or looking
down never make it sure; the restoration without detail, where all the input's detail was noise; half of the
restoration; nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ..face import Face, FaceCrop
    from .likeness import Likeness, Verdict

    Image = NDArray[np.uint8]

INVENTED_BELOW = 0.6  # of the face left: a restorer has to fill in the rest
SMALL_EYES = 20.0  # px: below, a restoration can go wrong although much of the face seems to be left
WORSE_BY, SURE_ODDS = 1.0, 3.0  # log odds of being a face: a fall that counts, and from where it does not
LEAST_SURE = 2.45  # mean log odds of the inner landmarks of a face seen from the front; real ones have less in 1 of 50
SURELY_A_FACE, LESS_SURE = 4.5, 0.2  # log odds of being a face; a fall of the landmarks' sureness that counts
LITTLE_LEFT = 0.72  # estimated SSIM below which the finest structure is rather noise than face
NOISY = 0.6  # share of the input's fine energy in the output below which what was there was noise
FRONTAL, PROFILE = 15.0, 55.0  # degrees of yaw: up to here as from the front; from here on nothing is expected
SMOOTH, SMOOTH_COLOUR = 0.027, 0.047  # of the crop's side: σ of what is taken out of the luma and of the colours
COARSE = 0.02  # of the crop's side: σ of the detail that a restoration without detail lacks


class Treatment(StrEnum):
    """What is shown of a restoration; the values are what reports and logs read."""

    FULL = "full"
    SMOOTHED = "smoothed"
    HALF = "half"
    DENOISED = "denoised"
    NONE = "none"

    @property
    def warning(self) -> str:
        """What a viewer should know; empty where all is shown."""
        return _WARNINGS.get(self, "")


_WARNINGS = {
    Treatment.SMOOTHED: "its noise looked like features: it was smoothed before it was restored",
    Treatment.HALF: "restored at half strength: at full strength it looked less like a face",
    Treatment.DENOISED: "only denoised: with more detail it did not look like a face",
}


@dataclass(frozen=True, slots=True)
class Plausibility:
    """Chooses the treatment of faces by the networks of a `Likeness`."""

    likeness: Likeness

    def treat(
        self, crop: FaceCrop, face: Face, output: Image, restore: Callable[[Image], Image], ssim: float
    ) -> tuple[Treatment, Image]:
        """The treatment of a restoration `output` (S, S, 3) of a crop, and what is then shown.

        `restore` restores another crop of the same face; `ssim` is the estimated one of the crop.
        """
        before = self.likeness.judge(crop, face)

        def judged(image: Image) -> Verdict:
            return self.likeness.judge(replace(crop, image=image), face)

        full = judged(output)
        holds = _holds(full, before)
        if holds and _convinces(full, face):
            return Treatment.FULL, output
        if ssim < LITTLE_LEFT:
            calm = restore(smoothed(crop.image))
            verdict = judged(calm)
            if _holds(verdict, before) and _convinces(verdict, face):
                return Treatment.SMOOTHED, calm
        if holds and full.odds >= SURELY_A_FACE and full.sureness >= before.sureness - LESS_SURE:
            return Treatment.FULL, output
        weaker = [(Treatment.HALF, mixed(crop.image, output, 0.5))]
        if fine_energy(output) < NOISY * fine_energy(crop.image):
            weaker.insert(0, (Treatment.DENOISED, without_detail(output)))
        for treatment, shown in weaker:
            if _holds(judged(shown), before):
                return treatment, shown
        return Treatment.NONE, crop.image


def treated(treatment: Treatment, crop: Image, output: Image, restore: Callable[[Image], Image]) -> Image:
    """What is shown of a restoration under a treatment that was chosen for another frame of the same face."""
    match treatment:
        case Treatment.FULL:
            return output
        case Treatment.SMOOTHED:
            return restore(smoothed(crop))
        case Treatment.HALF:
            return mixed(crop, output, 0.5)
        case Treatment.DENOISED:
            return without_detail(output)
        case _:
            return crop


def _holds(after: Verdict, before: Verdict) -> bool:
    """Whether a picture looks no less like a face than the one before, or is beyond doubt."""
    return after.odds >= min(before.odds - WORSE_BY, SURE_ODDS)


def _convinces(verdict: Verdict, face: Face) -> bool:
    """Whether the landmarks are as sure as those of a real face seen from that side."""
    yaw = 0.0 if face.pose is None else abs(face.pose.yaw)
    expected = float(np.clip((PROFILE - yaw) / (PROFILE - FRONTAL), 0, 1))
    return expected == 0 or verdict.sureness >= LEAST_SURE * expected


def smoothed(crop: Image) -> Image:
    """An (S, S, 3) crop without its finest structure, in colour even less, as coarse noise is colourful."""
    side = len(crop)
    planes = cv2.cvtColor(crop, cv2.COLOR_RGB2YCrCb)
    planes[..., 1:] = cv2.GaussianBlur(planes, (0, 0), SMOOTH_COLOUR * side)[..., 1:]
    return np.asarray(cv2.GaussianBlur(cv2.cvtColor(planes, cv2.COLOR_YCrCb2RGB), (0, 0), SMOOTH * side), np.uint8)


def without_detail(output: Image) -> Image:
    """The coarse part of a restored crop."""
    return np.asarray(cv2.GaussianBlur(output, (0, 0), COARSE * len(output)), np.uint8)


def fine_energy(image: Image) -> float:
    """The energy of the detail of an (S, S, 3) crop that `without_detail` takes away, in squared grey levels."""
    return float(np.square(image.astype(np.float32) - without_detail(image)).mean())


def mixed(before: Image, after: Image, share: float) -> Image:
    """`share` of `after` over `before`."""
    if share == 1:
        return after
    return np.asarray(cv2.addWeighted(after, share, before, 1 - share, 0), np.uint8)
