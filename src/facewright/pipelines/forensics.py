"""Whether a face shows signs of having been edited, generated or morphed, where, and what that is worth.

A detector finds what it was taught to find. So every answer says on what it was tried, "no sign found" is not "real",
and a face that the detector cannot see well is not judged at all. What facewright itself made or restored is recognised
by its record or its invisible mark and not by its looks: a restored face has traces of its own, which say nothing of
whether the photo was forged before.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from ..errors import VideoError, WeightsError
from ..geometry.similarity import invert
from ..systems.quality.sharpness import SHARP, sharpness_of
from .choosing import sure_faces
from .order import reading_order
from .sheets import draw_faces
from .traits import LIMITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ..face import Face, FaceCrop
    from ..io.image import Photo
    from ..tasks.card import Card
    from ..tasks.declare import NetworkChoice, Networks, Task
    from ..tasks.forensics import ForensicsOptions, ForgeryDetector

    Image = NDArray[np.uint8]
    Map = NDArray[np.float32]

Kind = Literal["manipulated", "generated", "morphed"]
Decision = Literal["morphed", "manipulated", "generated", "no sign found", "cannot tell"]

LEAST_EYE_DISTANCE = 40.0
"""Faces with fewer pixels between the eyes are enlarged so much for the detector that traces are lost."""
MOST_YAW = 45.0
LEAST_INSIDE = 0.7
"""Share of the crop that must lie in the photo."""
KINDS: tuple[Kind, ...] = ("manipulated", "generated", "morphed")
_BATCH = 8
_HOT = 0.5  # of a map's maximum: what is drawn as the region
_ODDS = 1e-6


@dataclass(frozen=True, slots=True)
class Judge:
    """How the score of one kind is read.

    `slope` and `bias` make its log odds the probability of a picture that is, beforehand, as likely of this kind as
    real. From `alarm` on the kind is named, below `clear` it is not thought of.
    """

    slope: float
    bias: float
    clear: float
    alarm: float

    def probability(self, share: float) -> float:
        """The calibrated probability of a raw share in [0, 1]."""
        kept = min(max(share, _ODDS), 1 - _ODDS)
        odds = self.slope * float(np.log(kept / (1 - kept))) + self.bias
        return float(1 / (1 + np.exp(-odds)))


@dataclass(frozen=True, slots=True)
class ForensicCalibration:
    """What was measured of one set of weights: how to read each kind, and on what it was tried."""

    sha256: str
    judges: dict[Kind, Judge]
    tried_on: tuple[str, ...]

    @classmethod
    def load(cls, path: Path) -> ForensicCalibration:
        """Read it; raises WeightsError when it is none."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            judges = {name: Judge(**values) for name, values in data["judges"].items()}
            return cls(data["sha256"], judges, tuple(data["tried_on"]))
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise WeightsError(f"{path} is no calibration of a forgery detector ({error}); measure it again") from error

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        judges = {name: {k: round(getattr(j, k), 4) for k in Judge.__slots__} for name, j in self.judges.items()}
        data = {"sha256": self.sha256, "judges": judges, "tried_on": list(self.tried_on)}
        path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True, eq=False)
class ForensicFace:
    """A face and what was found.

    decision, reason: in words. probability: that the face is of the likeliest kind, had it been as likely real
    beforehand; a raw share where the weights were never calibrated, None where nothing was judged. kinds: the same for
    every kind that was looked for. heat: (S, S) where the crop looks changed, None where nothing was judged; matrix:
    (2, 3) from the photo to that crop. mark: whether facewright's invisible mark was found. tried_on: what the detector
    was tried on. seconds: time in the video of the frame that is shown, None for a photo. soft: whether it lacks the
    detail of a face of its size, as morphs do.
    """

    face: Face
    decision: Decision
    reason: str
    probability: float | None = None
    kinds: dict[Kind, float] | None = None
    heat: Map | None = None
    matrix: NDArray[np.float64] | None = None
    mark: bool = False
    tried_on: tuple[str, ...] = ()
    seconds: float | None = None
    frames: int = 1
    soft: bool = False

    @property
    def region(self) -> list[int] | None:
        """The box (x0, y0, x1, y1) of the hottest part in photo pixels, for manipulated faces."""
        if self.heat is None or self.matrix is None or self.decision != "manipulated":
            return None
        hot = self.heat >= _HOT * float(self.heat.max())
        count, labels = cv2.connectedComponents(hot.astype(np.uint8))
        peak = labels[np.unravel_index(int(self.heat.argmax()), self.heat.shape)]
        ys, xs = np.nonzero(labels == peak) if count > 1 else np.nonzero(hot)
        corners = np.array([[xs.min(), ys.min()], [xs.max(), ys.min()], [xs.min(), ys.max()], [xs.max(), ys.max()]])
        back = invert(self.matrix)
        there = corners @ back[:, :2].T + back[:, 2]
        return [round(float(v)) for v in (*there.min(0), *there.max(0))]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words, ready for JSON."""
        return self.face.to_dict() | {
            "decision": self.decision,
            "reason": self.reason,
            "probability": None if self.probability is None else round(self.probability, 4),
            "kinds": None if self.kinds is None else {name: round(value, 4) for name, value in self.kinds.items()},
            "region": self.region,
            "mark": self.mark,
            "tried_on": list(self.tried_on),
            "seconds": None if self.seconds is None else round(self.seconds, 3),
            "frames": self.frames,
        }

    def line(self) -> str:
        """One line for people."""
        box = ",".join(str(round(float(v))) for v in self.face.box)
        where = f" around {','.join(map(str, self.region))}" if self.region else ""
        chance = "" if self.probability is None else f", {self.probability:.0%}"
        time = "" if self.seconds is None else f" at {self.seconds:.1f} s"
        return f"box {box}{time}: {self.decision}{where} ({self.reason}){chance}"


def load(
    session: Networks, task: Task, choice: NetworkChoice
) -> Callable[[Photo, ForensicsOptions], list[ForensicFace]]:
    """Detector of faces and examiner as a callable of photos."""
    detector, examiner = session.detector(choice), Examiner.of(session, task, choice)

    def judge(photo: Photo, options: ForensicsOptions) -> list[ForensicFace]:
        rgb = photo.rgb()
        faces = reading_order(sure_faces(detector.detect(rgb)))
        return examiner.judge(rgb, faces, made_by_record(photo))

    return judge


class Examiner:
    """The networks and how their answers are read."""

    def __init__(self, forgery: ForgeryDetector, calibration: ForensicCalibration | None) -> None:
        self.forgery = forgery
        self.judges: dict[Kind, Judge] = {} if calibration is None else calibration.judges
        self.tried_on = () if calibration is None else calibration.tried_on

    @classmethod
    def of(cls, session: Networks, task: Task, choice: NetworkChoice) -> Examiner:
        """The chosen detector, with what was measured of its weights."""
        forgery = session.chosen(task, choice)
        return cls(forgery, calibration_of(task.card(choice.model), forgery))

    def judge(self, rgb: Image, faces: Sequence[Face], record: Decision | None = None) -> list[ForensicFace]:
        """The faces of an (H, W, 3) uint8 RGB photo; `record` is what its own record says, if anything."""
        spec = self.forgery.preprocess.crop
        cuts = [spec.cut(rgb, face) for face in faces]
        found = []
        for face, cut in zip(faces, cuts):
            mark = carries_mark(rgb, face)
            reason = MARKED if mark or record == "cannot tell" else obstacle(face, cut)
            decision: Decision = "cannot tell"
            if record == "generated":
                decision, reason = "generated", "its record says that facewright made it"
            soft = not reason and sharpness_of(rgb, face) < SHARP
            found.append(ForensicFace(face, decision, reason, mark=mark, tried_on=self.tried_on, soft=soft))
        open_rows = [row for row, each in enumerate(found) if not each.reason]
        for start in range(0, len(open_rows), _BATCH):
            rows = open_rows[start : start + _BATCH]
            for row, judged in zip(rows, self._examined([cuts[row] for row in rows], [found[row] for row in rows])):
                found[row] = judged
        return found

    def _examined(self, cuts: Sequence[FaceCrop], faces: Sequence[ForensicFace]) -> Iterator[ForensicFace]:
        crops = np.stack([cut.image for cut in cuts])
        seen = self.forgery.examine(crops)
        for row, (cut, face) in enumerate(zip(cuts, faces)):
            shares = {kind: float(seen.shares[kind][row]) for kind in KINDS if kind in seen.shares}
            judged = replace(face, heat=seen.maps[row], matrix=cut.matrix)
            yield self.decide(judged, shares)

    def decide(self, face: ForensicFace, shares: dict[Kind, float]) -> ForensicFace:
        """What raw shares of the kinds mean for a face that could be examined."""
        known = {kind: self.judges[kind] for kind in shares if kind in self.judges}
        if not known:
            top = max(shares, key=lambda kind: shares[kind])
            reason = "these weights were never calibrated, so that a score is no probability"
            return replace(face, decision="cannot tell", reason=reason, probability=shares[top], kinds=dict(shares))
        return self.name(face, {kind: judge.probability(shares[kind]) for kind, judge in known.items()})

    def name(self, face: ForensicFace, kinds: dict[Kind, float]) -> ForensicFace:
        """What calibrated probabilities of the kinds mean."""
        judges = self.judges
        named = [kind for kind in kinds if kinds[kind] >= judges[kind].alarm]
        top = max(named or kinds, key=lambda kind: kinds[kind])
        decision: Decision = top
        reason = f"it looks more like the {PLURAL[top]} faces it was tried on than like real ones"
        if not named:
            clear = all(kinds[kind] < judges[kind].clear for kind in kinds)
            decision = "no sign found" if clear else "cannot tell"
            reason = "which does not mean that it is real" if clear else "the signs are weak"
        if decision == "morphed" and face.soft:
            decision, reason = "cannot tell", "it is soft or compressed, which looks like a morph"
        return replace(face, decision=decision, reason=reason, probability=kinds[top], kinds=dict(kinds))


PLURAL: dict[Kind, str] = {"manipulated": "edited", "generated": "generated", "morphed": "morphed"}
MARKED = "it was restored or altered by facewright, as its mark says: traces of that hide all others"


def made_by_record(photo: Photo) -> Decision | None:
    """What facewright's own record in the file says: made, altered ("cannot tell"), or nothing."""
    from ..io.provenance import read_provenance

    record = read_provenance(photo)
    if record is None:
        return None
    return "generated" if record.action == "synthesised" else "cannot tell"


def carries_mark(rgb: Image, face: Face) -> bool:
    """Whether facewright's invisible mark is in a face."""
    from ..io.provenance import detect_face_watermark

    try:
        return detect_face_watermark(rgb, face.points5).present
    except ValueError:  # its five points coincide
        return False


def obstacle(face: Face, cut: FaceCrop) -> str:
    """Why a face cannot be examined, "" where it can."""
    from ..systems.quality.reasons import Limits, find_reasons

    if face.eye_distance < LEAST_EYE_DISTANCE:
        return f"the face is too small: {face.eye_distance:.0f} of {LEAST_EYE_DISTANCE:.0f} px between the eyes"
    if float(cut.valid.mean()) < LEAST_INSIDE:
        return "too much of the face lies outside the photo"
    limits = Limits(**{**LIMITS, "yaw": MOST_YAW})
    return ", ".join(map(str, find_reasons(cut, face, limits=limits)))


def calibration_of(card: Card, network: Any) -> ForensicCalibration | None:
    """What was measured of a network's weights; None where nothing was."""
    return _calibrations(card.slug).get(getattr(network, "weights_sha256", None) or "")


@cache
def _calibrations(slug: str) -> dict[str, ForensicCalibration]:
    from ..tasks.card import card_path

    found = [ForensicCalibration.load(path) for path in sorted(card_path(slug).parent.glob("*.calibration.json"))]
    return {each.sha256: each for each in found}


# --- videos -----------------------------------------------------------------------------------------------------------


def video_records(
    session: Networks, task: Task, choice: NetworkChoice, source: Path, options: ForensicsOptions
) -> list[ForensicFace]:
    """One record of the most prominent face of a video: the mean over evenly spread frames, shown at its worst frame.

    In every frame the faces at least half as large as the largest count, and of these the most suspicious one. A video
    in which no face can be examined gives the first frame's reason, one without a face nothing.
    """
    detector, examiner = session.detector(choice), Examiner.of(session, task, choice)
    shown: list[ForensicFace] = []
    withheld: list[ForensicFace] = []
    for seconds, rgb in spread_frames(source, options.frames):
        faces = sure_faces(detector.detect(rgb))
        largest = max((face.eye_distance for face in faces), default=0.0)
        judged = examiner.judge(rgb, [face for face in faces if face.eye_distance >= largest / 2])
        timed = [replace(each, seconds=seconds) for each in judged]
        examined = [each for each in timed if each.kinds is not None]
        if examined:
            shown.append(max(examined, key=lambda each: each.probability or 0.0))
        else:
            withheld += timed[:1]
    if not shown:
        return withheld[:1]
    return [summed(examiner, shown)]


def summed(examiner: Examiner, frames: Sequence[ForensicFace]) -> ForensicFace:
    """The frames of a video as one answer: log odds are averaged, the worst frame is shown."""
    names = list(frames[0].kinds or {})
    values = np.array([[(each.kinds or {})[name] for name in names] for each in frames]).clip(_ODDS, 1 - _ODDS)
    mean = 1 / (1 + np.exp(-np.log(values / (1 - values)).mean(0)))
    kinds = {name: float(value) for name, value in zip(names, mean)}
    worst = max(frames, key=lambda each: each.probability or 0.0)
    return replace(examiner.name(worst, kinds), frames=len(frames))


def spread_frames(source: Path, count: int) -> Iterator[tuple[float, Image]]:
    """(seconds, RGB picture) of at most `count` frames, evenly spread over a video; VideoError if it cannot be read."""
    from ..io.video.read import open_input, read_shots, stream_seconds, video_stream

    with open_input(source) as container:
        stream = video_stream(container, source)
        total = stream_seconds(stream)
        wanted = [total * (i + 0.5) / count for i in range(count)] if total > 0 else [0.0]
        given = 0
        for shot in read_shots(container, stream):
            seconds = float((shot.pts or 0) * (stream.time_base or 0))
            if given < len(wanted) and seconds >= wanted[given]:
                given += 1
                while given < len(wanted) and seconds >= wanted[given]:
                    given += 1
                yield seconds, np.ascontiguousarray(shot.frame.to_ndarray(format="rgb24"))
    if not given:
        raise VideoError(f"{source} has no frame that can be decoded")


# --- drawing ----------------------------------------------------------------------------------------------------------


def draw(rgb: Image, found: Sequence[ForensicFace]) -> Image:
    """A copy of the photo with boxes, and the heat maps of faces that were examined over it."""
    out = rgb.astype(np.float32)
    for each in found:
        if each.heat is None or each.matrix is None:
            continue
        size = (rgb.shape[1], rgb.shape[0])
        heat = cv2.warpAffine(each.heat, each.matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        weight = (0.6 * heat)[..., None]
        colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
        out = out * (1 - weight) + colours * weight
    picture = np.asarray((out + 0.5).clip(0, 255), np.uint8)
    return draw_faces(picture, [each.face for each in found])
