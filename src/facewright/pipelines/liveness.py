"""Whether each face of a photo or video is live, with the reason, and where it cannot be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from ..errors import UsageError, VideoError
from ..geometry.similarity import invert
from ..tasks.liveness import LivenessEvidence, LivenessExaminer
from .order import reading_order
from .second_opinion import believable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ..face import Face
    from ..geometry.crop import CropSpec
    from ..io.image import Photo
    from ..tasks.declare import NetworkChoice, Networks, Task
    from ..tasks.detect import Detector
    from ..tasks.liveness import LivenessEstimator, LivenessOptions

    Image = NDArray[np.uint8]

Decision = Literal["live", "attack", "cannot tell"]

_TOGETHER = {"minifasnet": ("v2", "v1se")}
"""Systems whose published networks vote together, with the names of their weights."""
_SURROUNDINGS = 0.5  # of the wanted crop's side that must be there: without the surroundings a screen has no edge
_SPLIT = 0.05  # votes so near the threshold are no decision
_UNSURE = 0.15  # nor are probabilities
_MOST_ENLARGED = 1.5  # a crop made of fewer pixels than that shows the enlarging, and not the face
_DARK, _BRIGHT = 40.0, 225.0  # mean grey level of a crop
_PLAIN = 8.0  # least deviation of its grey levels
_SOFT = 3.0  # least mean size of its Laplacian: less detail is left where a face of about 20 px was enlarged
_BLOCKY = 1.7  # steps between JPEG's blocks against those inside: quality 20 and less; webcams stay below 1.5
_BLOCK = 8
_KINDS = {"print": "a print", "replay": "a screen", "mask": "a mask"}

FRAMES_A_SECOND, MOST_FRAMES = 2.0, 40
LEAST_FRAMES = 3
_AGREED = 0.7  # share of a person's decided frames that must say the same
_SAME = 0.3  # overlap (IoU) of one person's boxes in two frames looked at


@dataclass(frozen=True, slots=True, eq=False)
class JudgedFace:
    """A face of a photo and what was decided about it.

    vote: 0 for an attack to 1 for live; a calibrated probability where `calibrated`. kind: of the attack ("print",
    "replay", "mask"), where the system knows kinds and decided for one. reason: why nothing can be told. evidence: what
    speaks for the decision, in words. seconds: when the face was seen in a video, first and last.
    """

    face: Face
    decision: Decision
    reason: str
    vote: float
    calibrated: bool = False
    kind: str = ""
    evidence: str = ""
    seconds: tuple[float, float] | None = None
    where: LivenessEvidence | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words, ready for JSON."""
        said: dict[str, Any] = {"decision": self.decision, "reason": self.reason, "vote": round(self.vote, 4)}
        said |= {"calibrated": self.calibrated, "kind": self.kind, "evidence": self.evidence}
        said["seconds"] = None if self.seconds is None else [round(t, 3) for t in self.seconds]
        return self.face.to_dict() | said

    def line(self) -> str:
        """One line for people."""
        x0, y0, x1, y1 = (round(float(v)) for v in self.face.box)
        when = "" if self.seconds is None else f" ({self.seconds[0]:.1f}–{self.seconds[1]:.1f} s)"
        number = f"probability of live {self.vote:.1%}" if self.calibrated else f"vote {self.vote:.2f}"
        words = "; ".join(part for part in (self.reason, self.evidence) if part)
        why = f" ({words})" if words else ""
        return f"box {x0},{y0},{x1},{y1}{when}: {self.decision}{why}, {number}"


def load(session: Networks, task: Task, choice: NetworkChoice) -> Callable[[Photo, LivenessOptions], list[JudgedFace]]:
    """Detector and estimators as a callable of photos."""
    estimators, detector = _networks(session, task, choice)

    def judge(photo: Photo, options: LivenessOptions) -> list[JudgedFace]:
        rgb = photo.rgb()
        faces = [face for face in reading_order(detector.detect(rgb)) if believable(face)]
        return judged(rgb, faces, estimators, options.least_vote)

    return judge


def watch(
    session: Networks, task: Task, choice: NetworkChoice, path: Path, options: LivenessOptions
) -> list[JudgedFace]:
    """The people of a video, each judged by the frames it is seen in; raises VideoError for what is none."""
    estimators, detector = _networks(session, task, choice)
    people: list[_Person] = []
    for time, rgb in sampled_frames(path):
        faces = [face for face in reading_order(detector.detect(rgb)) if believable(face)]
        for one in judged(rgb, faces, estimators, options.least_vote):
            _person_of(one, people).add(time, one)
    return [person.summary(options.least_vote) for person in people]


def _networks(session: Networks, task: Task, choice: NetworkChoice) -> tuple[list[LivenessEstimator], Detector]:
    slug = task.card(choice.model).slug
    names = _TOGETHER.get(slug, (None,)) if choice.weights is None else (choice.weights,)
    return [session.network(slug, name, choice.device) for name in names], session.detector(choice)


def judged(
    rgb: Image, faces: Sequence[Face], estimators: Sequence[LivenessEstimator], least_vote: float = 0.5
) -> list[JudgedFace]:
    """The faces of an (H, W, 3) uint8 RGB photo with the mean vote of the estimators, and what it says."""
    crops = [estimator.preprocess.crop for estimator in estimators]  # type: ignore[attr-defined]
    reasons = [_obstacle(face, rgb, crops) for face in faces]
    if len(estimators) == 1 and isinstance(estimators[0], LivenessExaminer):
        seen = estimators[0].examine(rgb, faces)
        return [_examined(face, one, why, least_vote) for face, one, why in zip(faces, seen, reasons)]
    votes = np.mean([estimator.live(rgb, faces) for estimator in estimators], axis=0)
    found = []
    for face, vote, why in zip(faces, votes, reasons):
        reason = why or ("the votes are split" if abs(vote - least_vote) < _SPLIT else "")
        decision: Decision = "cannot tell" if reason else "live" if vote >= least_vote else "attack"
        found.append(JudgedFace(face, decision, reason, float(vote)))
    return found


def _examined(face: Face, seen: LivenessEvidence, why: str, least: float) -> JudgedFace:
    """The decision about one face by a calibrated network that knows kinds and places."""
    reason = why or ("it could be either" if abs(seen.live - least) < _UNSURE else "")
    decision: Decision = "cannot tell" if reason else "live" if seen.live >= least else "attack"
    if decision != "attack":
        return JudgedFace(face, decision, reason, seen.live, calibrated=True, where=seen)
    words = in_words(seen)
    return JudgedFace(face, decision, reason, seen.live, calibrated=True, kind=seen.kind, evidence=words, where=seen)


def in_words(seen: LivenessEvidence) -> str:
    """What a face that is taken for an attack looks like, and where."""
    share = float((seen.map > 0.5).mean())
    thirds = [float(part.mean()) for part in np.array_split(seen.map, 3)]
    place = ("its upper part", "its middle", "its lower part")[int(np.argmax(thirds))]
    clearly = f", most clearly in {place}" if max(thirds) - min(thirds) > 0.1 else ""
    words = f"looks like {_KINDS.get(seen.kind, seen.kind)} in {share:.0%} of the face{clearly}"
    return f"{words}; a photo of a photo looks the same" if seen.kind == "print" else words


def _obstacle(face: Face, rgb: Image, crops: Sequence[CropSpec]) -> str:
    """Why the networks do not see of a face what they were taught on, "" where they do."""
    height, width = rgb.shape[:2]
    for crop in crops:
        if crop.kind == "framed":
            x0, y0, x1, y1 = crop.frame(face.box, width, height)
            if max(x1 - x0, y1 - y0) < crop.size:
                return "the face is too small"
            if min((x1 - x0) / face.width, (y1 - y0) / face.height) < _SURROUNDINGS * (1 + 2 * crop.margin):
                return "too little of what is around the face is in the photo"
            continue
        cut = crop.cut(rgb, face)
        if np.hypot(cut.matrix[0, 0], cut.matrix[1, 0]) > _MOST_ENLARGED:
            return "the face is too small"
        if cut.valid.mean() < 0.75:
            return "too much of the face is outside the photo"
        if why := _unclear(cut.image):
            return why
        if blockiness(rgb, face.box) > _BLOCKY:
            return "the photo is compressed too strongly"
    return ""


def blockiness(rgb: Image, box: NDArray[np.floating]) -> float:
    """Mean grey step across the lines of JPEG's blocks around a face, over that between other neighbours; 1 for none.

    (H, W, 3) uint8 RGB as it was decoded: blocks of enlarged or cropped pictures lie elsewhere and are not seen.
    """
    height, width = rgb.shape[:2]
    x0, y0 = (max(0, int(v) // _BLOCK * _BLOCK) for v in box[:2])
    x1, y1 = min(width, max(int(box[2]), x0 + 1)), min(height, max(int(box[3]), y0 + 1))
    if min(x1 - x0, y1 - y0) < 3 * _BLOCK:
        return 1.0
    grey = cv2.cvtColor(np.ascontiguousarray(rgb[y0:y1, x0:x1]), cv2.COLOR_RGB2GRAY).astype(np.float32)
    ratios = []
    for lines in (grey, grey.T):
        steps = np.abs(np.diff(lines, axis=1)).mean(0)
        inside = np.delete(steps, np.s_[_BLOCK - 1 :: _BLOCK])
        ratios.append(float(steps[_BLOCK - 1 :: _BLOCK].mean() / max(float(inside.mean()), 1e-3)))
    return float(np.mean(ratios))


def _unclear(crop: Image) -> str:
    """What is wrong with the light or the detail of an (S, S, 3) crop, in words."""
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
    if grey.mean() < _DARK:
        return "the face is too dark"
    if grey.mean() > _BRIGHT or grey.std() < _PLAIN:
        return "the face is washed out"
    if np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean() < _SOFT:
        return "too little detail is left of the face"
    return ""


# --- videos


def sampled_frames(path: Path) -> Iterator[tuple[float, Image]]:
    """Times in seconds and (H, W, 3) uint8 RGB frames, `FRAMES_A_SECOND` and `MOST_FRAMES` at most, upright."""
    from ..io.video.colour import display_matrix, upright
    from ..io.video.read import frame_rate, open_input, read_shots, video_stream

    with open_input(path) as container:
        stream = video_stream(container, path)
        step, count = max(1, round(float(frame_rate(stream)) / FRAMES_A_SECOND)), 0
        base, rate = stream.time_base, float(frame_rate(stream))
        for index, shot in enumerate(read_shots(container, stream)):
            if index % step or shot.damaged:
                continue
            time = index / rate if shot.pts is None or base is None else float(shot.pts * base)
            pixels = upright(shot.frame.to_ndarray(format="rgb24"), display_matrix(shot.frame))
            yield time, np.ascontiguousarray(pixels, np.uint8)
            count += 1
            if count == MOST_FRAMES:
                return
        if count == 0:
            raise VideoError(f"{path} holds no readable frame")


class _Person:
    """The judged looks at one person of a video."""

    def __init__(self) -> None:
        self.looks: list[tuple[float, JudgedFace]] = []

    @property
    def box(self) -> NDArray[np.float32]:
        return self.looks[-1][1].face.box

    def add(self, time: float, look: JudgedFace) -> None:
        self.looks.append((time, look))

    def summary(self, least: float) -> JudgedFace:
        """One judgement of all looks: the median of the clear ones, if most of them agree.

        Frames of a video look alike, so that many of them are no more evidence than a few: nothing is multiplied.
        """
        times = [time for time, _ in self.looks]
        clear = [
            look for _, look in self.looks if look.decision != "cannot tell" or look.reason == "it could be either"
        ]
        seconds = (times[0], times[-1])
        best = max(clear or [look for _, look in self.looks], key=lambda look: look.face.width * look.face.height)
        if len(clear) < LEAST_FRAMES:
            reason = best.reason or f"the face is clear in {len(clear)} of {len(times)} frames"
            return JudgedFace(best.face, "cannot tell", reason, best.vote, best.calibrated, seconds=seconds)
        vote = float(np.median([look.vote for look in clear]))
        agreed = float(np.mean([(look.vote >= least) == (vote >= least) for look in clear]))
        margin = _UNSURE if best.calibrated else _SPLIT
        reason = (
            "the frames disagree" if agreed < _AGREED else "it could be either" if abs(vote - least) < margin else ""
        )
        decision: Decision = "cannot tell" if reason else "live" if vote >= least else "attack"
        kinds = [look.kind for look in clear if look.kind]
        kind = max(sorted(set(kinds)), key=kinds.count) if kinds and decision == "attack" else ""
        words = f"{agreed:.0%} of {len(clear)} clear frames agree"
        if kind:
            words = f"looks like {_KINDS.get(kind, kind)}; {words}"
        return JudgedFace(best.face, decision, reason, vote, best.calibrated, kind, words, seconds, best.where)


def _person_of(one: JudgedFace, people: list[_Person]) -> _Person:
    """Whose face it is: the person last seen where it is, or a new one."""
    near = [(_overlap(one.face.box, person.box), i) for i, person in enumerate(people)]
    best, index = max(near, default=(0.0, 0))
    if best >= _SAME:
        return people[index]
    people.append(_Person())
    return people[-1]


def _overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Intersection over union of two boxes."""
    across, down = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = max(float(across), 0.0) * max(float(down), 0.0)
    areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (a, b)]
    return shared / max(sum(areas) - shared, 1e-6)


# --- pictures

_COLOURS: dict[Decision, tuple[int, int, int]] = {
    "live": (40, 180, 80),
    "attack": (220, 50, 40),
    "cannot tell": (200, 160, 40),
}


def draw_liveness(image: Image, found: Sequence[JudgedFace]) -> Image:
    """A copy of an (H, W, 3) uint8 RGB photo with boxes, decisions, and red where a face looks like an attack."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UsageError(f"a picture to draw on is uint8 RGB, not {image.shape} {image.dtype}")
    canvas = np.ascontiguousarray(image.copy())
    for one in found:
        if one.where is not None:
            _tint(canvas, one.where)
    for number, one in enumerate(found):
        box = np.clip(one.face.box, -1, max(canvas.shape) + 1).round().astype(int)
        colour = _COLOURS[one.decision]
        stroke = int(np.clip(min(one.face.width, one.face.height) / 100, 1, 8))
        cv2.rectangle(canvas, box[:2].tolist(), box[2:].tolist(), colour, stroke)
        size = float(np.clip(one.face.width / 200, 0.4, 2.0))
        place = (int(box[0]), int(max(box[1] - 4, 12)))
        cv2.putText(
            canvas, f"{number}: {one.decision}", place, cv2.FONT_HERSHEY_SIMPLEX, size, colour, stroke, cv2.LINE_AA
        )
    return canvas


def _tint(canvas: Image, seen: LivenessEvidence) -> None:
    """Mix red into the picture by the map, in place."""
    crop = cv2.resize(seen.map, (seen.size, seen.size), interpolation=cv2.INTER_LINEAR)
    size = (canvas.shape[1], canvas.shape[0])
    strength = 0.5 * cv2.warpAffine(crop, invert(seen.matrix), size, flags=cv2.INTER_LINEAR)[..., None]
    canvas[:] = (canvas * (1 - strength) + np.array([255, 0, 0]) * strength).astype(np.uint8)
