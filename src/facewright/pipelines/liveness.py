"""Whether each face of a photo is live, with the reason where it cannot be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .order import reading_order
from .second_opinion import believable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ..face import Face
    from ..geometry.crop import CropSpec
    from ..io.image import Photo
    from ..tasks.declare import NetworkChoice, Networks, Task
    from ..tasks.liveness import LivenessEstimator, LivenessOptions

Decision = Literal["live", "attack", "cannot tell"]

_TOGETHER = {"minifasnet": ("v2", "v1se")}
"""Systems whose published networks vote together, with the names of their weights."""
_SURROUNDINGS = 0.5  # of the wanted crop's side that must be there: without the surroundings a screen has no edge
_SPLIT = 0.05  # votes so near the threshold are no decision


@dataclass(frozen=True, slots=True)
class JudgedFace:
    """A face of a photo and what was decided about it; `vote` is no probability."""

    face: Face
    decision: Decision
    reason: str
    vote: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words, ready for JSON."""
        said = {"decision": self.decision, "reason": self.reason, "vote": round(self.vote, 4)}
        return self.face.to_dict() | said

    def line(self) -> str:
        """One line for people."""
        x0, y0, x1, y1 = (round(float(v)) for v in self.face.box)
        why = f" ({self.reason})" if self.reason else ""
        return f"box {x0},{y0},{x1},{y1}: {self.decision}{why}, vote {self.vote:.2f}"


def load(session: Networks, task: Task, choice: NetworkChoice) -> Callable[[Photo, LivenessOptions], list[JudgedFace]]:
    """Detector and estimators as a callable of photos."""
    slug = task.card(choice.model).slug
    names = _TOGETHER.get(slug, (None,)) if choice.weights is None else (choice.weights,)
    estimators = [session.network(slug, name, choice.device) for name in names]
    detector = session.detector(choice)

    def judge(photo: Photo, options: LivenessOptions) -> list[JudgedFace]:
        rgb = photo.rgb()
        faces = [face for face in reading_order(detector.detect(rgb)) if believable(face)]
        return judged(rgb, faces, estimators, options.least_vote)

    return judge


def judged(
    rgb: NDArray[np.uint8], faces: Sequence[Face], estimators: Sequence[LivenessEstimator], least_vote: float = 0.5
) -> list[JudgedFace]:
    """The faces of an (H, W, 3) uint8 RGB photo with the mean vote of the estimators, and what it says."""
    votes = np.mean([estimator.live(rgb, faces) for estimator in estimators], axis=0)
    crops = [estimator.preprocess.crop for estimator in estimators]  # type: ignore[attr-defined]
    found = []
    for face, vote in zip(faces, votes):
        reason = _obstacle(face, rgb.shape[1], rgb.shape[0], crops)
        if not reason and abs(vote - least_vote) < _SPLIT:
            reason = "the votes are split"
        decision: Decision = "cannot tell" if reason else "live" if vote >= least_vote else "attack"
        found.append(JudgedFace(face, decision, reason, float(vote)))
    return found


def _obstacle(face: Face, width: int, height: int, crops: Sequence[CropSpec]) -> str:
    """Why the networks do not see of a face what they were taught on, "" where they do."""
    for crop in crops:
        if crop.kind != "framed":
            continue
        x0, y0, x1, y1 = crop.frame(face.box, width, height)
        if max(x1 - x0, y1 - y0) < crop.size:
            return "the face is too small"
        if min((x1 - x0) / face.width, (y1 - y0) / face.height) < _SURROUNDINGS * (1 + 2 * crop.margin):
            return "too little of what is around the face is in the photo"
    return ""
