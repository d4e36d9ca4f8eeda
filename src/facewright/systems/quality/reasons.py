"""Why a picture of a face is of little use, in words, and how its score ranks among other pictures.

A quality score says how much, not why. Here ten things that can be measured in an aligned crop, its landmarks and,
where there is one, a restorer's estimate of the damage are held against limits; what is beyond its limit is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ...errors import UsageError
from ...face import Reason
from ...geometry.paste import face_mask
from ...geometry.similarity import transform_points
from ...geometry.templates import template_points

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...face import DegradationEstimate, Face, FaceCrop

QUANTILES = 101
_MILLIONTHS = 1_000_000

_REBLUR = 9  # px, of crops whose eyes are about 35 px apart
_FINEST_MEASURED = 24  # px; a smaller crop has no texture to measure
_CLIPPED = 250
_BLACK_DIFFERENCE = 25.0
_PATCH = 0.1  # half side in eye distances
# in eye distances from the middle of the mouth-eye line: cheeks, bridge of the nose, both sides of the upper lip
_SKIN = ((-0.45, 0.05), (0.45, 0.05), (0.0, -0.35), (-0.18, 0.28), (0.18, 0.28))


def reference_quantiles(scores: NDArray[np.floating]) -> NDArray[np.int32]:
    """The 101 percentiles of a reference set's scores (N,), in millionths.

    Whole numbers, so that storing weights in half precision leaves them as they are. Raises UsageError for fewer
    scores than quantiles.
    """
    values = np.asarray(scores, np.float64).ravel()
    if len(values) < QUANTILES or not np.isfinite(values).all():
        raise UsageError(f"calibration needs at least {QUANTILES} finite scores, got {np.isfinite(values).sum()}")
    return np.rint(np.percentile(values, np.arange(QUANTILES)) * _MILLIONTHS).astype(np.int32)


def percentiles(scores: NDArray[np.floating], reference: NDArray[np.integer]) -> NDArray[np.float64]:
    """(N,) raw scores to [0, 100] by `reference_quantiles`; raises UsageError when these were never set."""
    if not np.any(reference):
        raise UsageError("these quality weights were never calibrated; call calibrate with scores of a reference set")
    return np.interp(np.asarray(scores, np.float64) * _MILLIONTHS, reference, np.arange(QUANTILES))


@dataclass(frozen=True, slots=True)
class Geometry:
    """What five landmarks say of size and pose.

    eye_distance: pixels. yaw_ratio: nose tip beside the middle of the eyes, along the eye line, in eye distances.
    pitch_ratio: where the nose tip lies between eye line (0) and mouth line (1). roll: of the eye line, degrees.
    nose_ratio: log of the nose's distances to the left and the right eye.
    """

    eye_distance: float
    yaw_ratio: float
    pitch_ratio: float
    roll: float
    nose_ratio: float

    # fitted to a pose network on LFW (within 35°); the nose tip stands about 0.55 eye distances before the eyes
    @property
    def yaw(self) -> float:
        """A rough yaw in degrees, in the sense of `Pose`."""
        return float(np.degrees(np.arctan(self.yaw_ratio / _NOSE_DEPTH)))

    @property
    def pitch(self) -> float:
        """A rough pitch in degrees, in the sense of `Pose`."""
        return float(np.degrees(np.arctan((_LEVEL_NOSE - self.pitch_ratio) / _NOSE_TILT)))


_NOSE_DEPTH = 0.55
_LEVEL_NOSE = 0.454
_NOSE_TILT = 0.648
_LEAST_LENGTH = 1e-6


def geometry(points5: NDArray[np.floating]) -> Geometry:
    """Measure five landmarks (5, 2) in the order of `Face.points5`; degenerate ones give zeros, not errors."""
    (x0, y0), (x1, y1), (nx, ny), left, right = np.asarray(points5, np.float64).tolist()
    dx, dy = x1 - x0, y1 - y0
    distance = float(np.hypot(dx, dy))
    unit = max(distance, _LEAST_LENGTH)
    ux, uy = dx / unit, dy / unit
    px, py = nx - (x0 + x1) / 2, ny - (y0 + y1) / 2
    mx, my = (left[0] + right[0] - x0 - x1) / 2, (left[1] + right[1] - y0 - y1) / 2
    mouth = mx * -uy + my * ux
    to_left, to_right = np.hypot(nx - x0, ny - y0), np.hypot(nx - x1, ny - y1)
    return Geometry(
        eye_distance=distance,
        yaw_ratio=(px * ux + py * uy) / unit,
        pitch_ratio=(px * -uy + py * ux) / mouth if abs(mouth) > _LEAST_LENGTH else 0.0,
        roll=float(np.degrees(np.arctan2(dy, dx))),
        nose_ratio=float(np.log(max(to_left, _LEAST_LENGTH) / max(to_right, _LEAST_LENGTH))),
    )


@dataclass(frozen=True, slots=True)
class Factors:
    """What was measured in a picture of a face.

    eye_distance: pixels of the photo. yaw, pitch: degrees, of `Face.pose`, else roughly from the landmarks.
    outside: share of the face beyond the photo's border. blur: 0 sharp to 1 blurred (Crété-Roffet et al., "The blur
    effect", SPIE 2007), at the photo's own resolution. highlights: 90th percentile of the luma, 0–255; unlike the mean
    it depends little on the tone of the skin. clipped: share of the face at white. unevenness: difference of the two
    sides' mean luma over their sum. skin_difference: how far a patch of the face is from the median patch, in chroma
    (Lab) or, at 25 for black, in darkness. jpeg_quality, blur_sigma: of the estimate, None without one. What was not
    measured has a value without fault.
    """

    eye_distance: float
    yaw: float
    pitch: float
    outside: float
    blur: float = 0.0
    highlights: float = 255.0
    clipped: float = 0.0
    unevenness: float = 0.0
    skin_difference: float = 0.0
    jpeg_quality: float | None = None
    blur_sigma: float | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Up to where each factor is no reason to complain; see `Factors` for units.

    On 500 pictures of LFW, most of them good, blur, uneven light and occlusion are each named in about one of
    a hundred, and bad exposure in none. `blur_sigma` is meant for the estimate of a 256 px crop.
    """

    eye_distance: float = 24.0
    yaw: float = 35.0
    pitch: float = 30.0
    outside: float = 0.1
    blur: float = 0.65
    highlights: float = 70.0
    clipped: float = 0.15
    unevenness: float = 0.35
    skin_difference: float = 20.0
    jpeg_quality: float = 40.0
    blur_sigma: float = 4.0


def find_reasons(
    crop: FaceCrop, face: Face, estimate: DegradationEstimate | None = None, *, limits: Limits | None = None
) -> list[Reason]:
    """What is wrong with a face, worst first; `crop` as `crop_face(photo, face.points5, 112, "arcface")` cuts it."""
    return explain(measure(crop, face, estimate), limits)


def explain(factors: Factors, limits: Limits | None = None) -> list[Reason]:
    """The reasons whose factor is beyond its limit, by how many times it is, worst first.

    Compression is only named with an estimate: in a crop the blocks of a JPEG no longer lie on a known grid.
    """
    f, at = factors, limits or Limits()
    excess = {
        Reason.TOO_SMALL: _ratio(at.eye_distance, f.eye_distance),
        Reason.YAW: abs(f.yaw) / at.yaw,
        Reason.PITCH: abs(f.pitch) / at.pitch,
        Reason.CUT_OFF: f.outside / at.outside,
        Reason.BLUR: max(f.blur / at.blur, (f.blur_sigma or 0.0) / at.blur_sigma),
        Reason.DARK: _ratio(at.highlights, f.highlights),
        Reason.OVEREXPOSED: f.clipped / at.clipped,
        Reason.UNEVEN_LIGHT: f.unevenness / at.unevenness,
        Reason.OCCLUSION: f.skin_difference / at.skin_difference,
        Reason.COMPRESSION: 0.0 if f.jpeg_quality is None else _ratio(at.jpeg_quality, f.jpeg_quality),
    }
    named = [reason for reason, times in excess.items() if times > 1]
    return sorted(named, key=lambda reason: -excess[reason])


def _ratio(limit: float, value: float) -> float:
    return limit / max(value, _LEAST_LENGTH)


def measure(crop: FaceCrop, face: Face, estimate: DegradationEstimate | None = None) -> Factors:
    """Measure everything `explain` judges; see `Factors`."""
    points = transform_points(crop.matrix, face.points5)
    oval = face_mask(template_points(crop.template, crop.size), crop.size) > 0.5
    luma = cv2.cvtColor(crop.image, cv2.COLOR_RGB2GRAY)
    seen = luma[oval & crop.valid] if (oval & crop.valid).any() else luma.ravel()
    shape = geometry(face.points5)
    return Factors(
        eye_distance=shape.eye_distance,
        yaw=shape.yaw if face.pose is None else face.pose.yaw,
        pitch=shape.pitch if face.pose is None else face.pose.pitch,
        outside=float(1 - crop.valid[oval].mean()),
        blur=_blur(luma, crop.scale),
        highlights=float(np.percentile(seen, 90)),
        clipped=float((seen >= _CLIPPED).mean()),
        unevenness=_unevenness(luma, oval & crop.valid),
        skin_difference=_skin_difference(crop, points),
        jpeg_quality=None if estimate is None else estimate.jpeg_quality,
        blur_sigma=None if estimate is None else estimate.blur_sigma,
    )


def _blur(luma: NDArray[Any], scale: float) -> float:
    """The blur effect of the crop, taken back to the photo's size where the crop had enlarged it."""
    from skimage.measure import blur_effect

    if scale > 1:
        side = max(_FINEST_MEASURED, round(luma.shape[0] / scale))
        luma = cv2.resize(luma, (side, side), interpolation=cv2.INTER_AREA)
    if luma.min() == luma.max():
        return 1.0
    return float(blur_effect(luma, h_size=_REBLUR))  # type: ignore[no-untyped-call]


def _unevenness(luma: NDArray[Any], region: NDArray[np.bool_]) -> float:
    half = luma.shape[1] // 2
    sides = [luma[:, :half][region[:, :half]], luma[:, half:][region[:, half:]]]
    if min(len(side) for side in sides) == 0:
        return 0.0
    left, right = (float(side.mean()) for side in sides)
    return abs(left - right) / max(left + right, 1.0)


def _skin_difference(crop: FaceCrop, points: NDArray[np.float64]) -> float:
    lab = cv2.cvtColor(crop.image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    across = points[1] - points[0]
    down = np.array([-across[1], across[0]])
    centre, half = (eyes + mouth) / 2, max(1.0, _PATCH * float(np.hypot(*across)))
    colours = [_patch(lab, centre + x * across + y * down, half) for x, y in _SKIN]
    seen = np.array([colour for colour in colours if colour is not None])
    if len(seen) < 3:
        return 0.0
    usual = np.median(seen, axis=0)
    chroma = np.linalg.norm(seen[:, 1:] - usual[1:], axis=1)
    darkness = _BLACK_DIFFERENCE * (1 - seen[:, 0] / max(float(usual[0]), 1.0))
    return float(np.maximum(chroma, darkness).max())


def _patch(lab: NDArray[Any], centre: NDArray[np.float64], half: float) -> NDArray[Any] | None:
    """Median colour of a square, None when it lies outside the crop."""
    x0, y0 = (max(0, int(v)) for v in centre - half)
    x1, y1 = (max(0, int(v) + 1) for v in centre + half)
    patch = lab[y0:y1, x0:x1].reshape(-1, 3)
    return np.median(patch, axis=0) if len(patch) else None
