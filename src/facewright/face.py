"""The records every stage reads and extends: a face in a photo, and the crop a network sees of it.

All coordinates are pixels of the photo, x to the right and y down, with pixel *centres* at integer positions
(OpenCV's convention). "Left" and "right" mean the picture's left and right, seen with the face upright.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
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
