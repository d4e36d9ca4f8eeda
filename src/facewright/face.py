"""The records every stage reads and extends: a face in a photo, the crop a network sees of it, and what it says.

All coordinates are pixels of the photo, x to the right and y down, with pixel *centres* at integer positions
(OpenCV's convention). "Left" and "right" mean the picture's left and right, seen with the face upright.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .deprecation import renamed_attribute

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Pose:
    """Head rotation in degrees; all zero looks straight into the camera.

    `yaw` > 0 turns the nose towards the picture's right, `pitch` > 0 up, `roll` > 0 leans the head clockwise
    as seen in the picture.
    """

    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face found in a photo.

    `box` is (x0, y0, x1, y1); `points5` is (5, 2): eye on the picture's left, eye on its right, nose tip,
    mouth corner left, mouth corner right; `score` in [0, 1]. `turn` is how far the face is turned clockwise in the
    photo, to the nearest quarter: 0, 90, 180 or 270 degrees (`pose.roll` says it exactly). `certainty` in [0, 1] is the
    probability of a second opinion that this is a face (`pipelines.second_opinion`); None where none was asked.
    """

    box: NDArray[np.float32]
    score: float
    points5: NDArray[np.float32]
    pose: Pose | None = None
    turn: int = 0
    certainty: float | None = None

    @property
    def width(self) -> float:
        return float(self.box[2] - self.box[0])

    @property
    def height(self) -> float:
        return float(self.box[3] - self.box[1])

    @property
    def centre(self) -> tuple[float, float]:
        return float(self.box[0] + self.box[2]) / 2, float(self.box[1] + self.box[3]) / 2

    @property
    def eye_distance(self) -> float:
        """Distance between the eye centres in pixels."""
        return float(np.hypot(*(self.points5[1] - self.points5[0])))

    def scaled(self, factor: float) -> Face:
        """The same face in a photo resized by `factor` (pixel centres at integers)."""

        def move(points: NDArray[np.float32]) -> NDArray[np.float32]:
            return ((points + 0.5) * factor - 0.5).astype(np.float32)

        return replace(self, box=move(self.box), points5=move(self.points5))

    def line(self) -> str:
        """One line for people."""
        x0, y0, x1, y1 = (round(float(v)) for v in self.box)
        pose = "" if self.pose is None else f", yaw {self.pose.yaw:.0f}, pitch {self.pose.pitch:.0f}"
        return f"box {x0},{y0},{x1},{y1}, score {self.score:.2f}{pose}"

    def moved(self, matrix: NDArray[np.floating]) -> Face:
        """The same face in a picture made by a (2, 3) similarity; its box is turned with it to the nearest quarter."""
        m = np.asarray(matrix, np.float64)
        scale = float(np.hypot(m[0, 0], m[1, 0]))
        sides = (self.width, self.height) if abs(m[0, 0]) >= abs(m[1, 0]) else (self.height, self.width)
        centre, half = m[:, :2] @ self.centre + m[:, 2], 0.5 * scale * np.array(sides)
        box = np.concatenate([centre - half, centre + half]).astype(np.float32)
        points: Any = self.points5 @ m[:, :2].T + m[:, 2]  # in double precision, so that a crop of a crop is exact
        return replace(self, box=box, points5=points)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return {
            "box": [round(float(v), 2) for v in self.box],
            "score": round(float(self.score), 4),
            "points5": [[round(float(x), 2), round(float(y), 2)] for x, y in self.points5],
            "eye_distance": round(self.eye_distance, 2),
            "turn": self.turn,
            "certainty": None if self.certainty is None else round(self.certainty, 4),
            "pose": None
            if self.pose is None
            else {"yaw": round(self.pose.yaw, 1), "pitch": round(self.pose.pitch, 1), "roll": round(self.pose.roll, 1)},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Face:
        """The face of what `to_dict` gives; raises KeyError, TypeError or ValueError for anything else."""
        pose = data.get("pose")
        return cls(
            box=np.asarray(data["box"], np.float32).reshape(4),
            score=float(data["score"]),
            points5=np.asarray(data["points5"], np.float32).reshape(5, 2),
            pose=None if pose is None else Pose(*(float(pose[angle]) for angle in ("yaw", "pitch", "roll"))),
            turn=int(data.get("turn", 0)),
            certainty=data.get("certainty"),
        )


@dataclass(frozen=True, slots=True, eq=False)
class FaceCrop:
    """A face resampled to a template.

    `image` is (S, S, 3) uint8 RGB in sRGB; `matrix` is the (2, 3) similarity that takes photo pixels to crop
    pixels; `valid` is (S, S) bool, false where the crop lies outside the photo.
    """

    image: NDArray[np.uint8]
    matrix: NDArray[np.float64]
    template: str
    valid: NDArray[np.bool_] = field(repr=False)

    @property
    def size(self) -> int:
        return int(self.image.shape[0])

    @property
    def scale(self) -> float:
        """Crop pixels per photo pixel."""
        return float(np.hypot(self.matrix[0, 0], self.matrix[1, 0]))


class Landmarks(NamedTuple):
    """The 68 landmarks of a face, or of several.

    `points` (..., 68, 2) in pixels, iBUG order. `confidence` (..., 68): the probability that a point lies within about
    a tenth of the eye distance of its true place.
    """

    points: NDArray[np.float32]
    confidence: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DegradationEstimate:
    """How a face crop was damaged, as a network sees it.

    blur_sigma: Gaussian blur in pixels of the crop. downscale: factor by which the face had been reduced, at least 1.
    noise_sigma: in grey levels of 255. jpeg_quality: 0–100. psnr (dB), ssim: of the input against the undamaged face.
    """

    blur_sigma: float
    downscale: float
    noise_sigma: float
    jpeg_quality: float
    psnr: float
    ssim: float


class Reason(StrEnum):
    """What keeps a picture from being useful; the values are what users and logs read."""

    TOO_SMALL = "too_small"
    YAW = "yaw"
    PITCH = "pitch"
    CUT_OFF = "cut_off"
    BLUR = "blur"
    DARK = "dark"
    OVEREXPOSED = "overexposed"
    UNEVEN_LIGHT = "uneven_light"
    OCCLUSION = "occlusion"
    COMPRESSION = "compression"


@dataclass(frozen=True, slots=True)
class FaceQuality:
    """Quality of one face.

    score: as the model gives it, higher is better; comparable only within one set of weights.
    percentile: in [0, 100], the share of the model's reference set that scores lower.
    reasons: what is wrong with the picture, worst first; may be empty.
    retained_fraction: in [0, 1], how much of the face its damage has left (`facewright.systems.quality.retained`);
        None where no network estimated the damage.
    """

    score: float
    percentile: float
    reasons: tuple[Reason, ...] = ()
    retained_fraction: float | None = None

    kept = renamed_attribute("retained_fraction")

    @property
    def number(self) -> float:
        """The quality as people read it, 0–100: what is left of the face, or the percentile where that is unknown."""
        return self.percentile if self.retained_fraction is None else 100 * self.retained_fraction


@dataclass(frozen=True, slots=True)
class AgeEstimate:
    """How old a face looks, in years.

    age: the mean of the estimated distribution. low, high: where the middle 80 % of it lies; None where the network was
    never calibrated.
    """

    age: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class ActionUnit:
    """One unit of the Facial Action Coding System on a face.

    intensity: 0 absent to 5 as strong as can be. probability: that it is present, 0…1.
    """

    intensity: float
    probability: float


@dataclass(frozen=True, slots=True)
class FaceActions:
    """What the muscles of a face do, and what that looks like.

    units: by name, such as "AU12". expressions: the probability of each basic expression, summing to 1; empty where the
    network tells none. calibrated: whether probabilities and intensities were fitted on people the network never saw;
    else they are scores.
    """

    units: dict[str, ActionUnit]
    expressions: dict[str, float]
    calibrated: bool = False


@dataclass(frozen=True, slots=True)
class FaceAttributes:
    """Statements about a face by name, such as "Eyeglasses", with the probability that each is true.

    calibrated: whether they were fitted on people the network never saw; else they are scores.
    """

    probabilities: dict[str, float]
    calibrated: bool = False
