"""Finding the faces of a picture that may lie on its side or upside down, each with a second opinion.

A detector knows upright faces. Shown a sideways scan it misses them, takes something else for a face, or lays the
points of an upright face on an inverted one; a second opinion is then unsure of what it found. Only in such a case are
the other three quarter turns tried, too, so ordinary photos cost one look.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..geometry.turns import TURNS, turned_face, upright
from ..tasks.detect import Follower
from .likeness import Likeness
from .second_opinion import SecondOpinion, believable, log_odds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..face import Face, FaceCrop
    from ..tasks.declare import Networks
    from ..tasks.detect import Detector

    Image = NDArray[np.uint8]

logger = logging.getLogger(__name__)

SURE = 0.95
"""Certainty from which a face says that it was looked at the right way up; see docs/results/false-faces.md."""
LIKELY, CLEARLY = 0.9, 2.0  # certainty of a face that may turn a picture by itself, and its lead in log odds
MOST_LEAN = 60.0  # degrees of roll; faces found leaning further say that the picture should be turned
_SAME = 0.3  # overlap (IoU) of two finds of one face


class Opinion(Protocol):
    """Says how likely each find is to be a face."""

    def certainties(self, image: Image, faces: Sequence[Face]) -> list[float]:
        """(H, W, 3) uint8 RGB and faces found in it to the probability, 0 to 1, that each is one, in their order."""
        ...

    def of_crop(self, crop: FaceCrop, face: Face) -> float:
        """The same for one face by what is in its crop."""
        ...


def finder_of(session: Networks, detector: Detector, device: str) -> FaceFinder:
    """A detector with the networks of the second opinion."""
    from ..systems.detect.mos.refiner import look_at

    landmarker, refiner = session.network("facewarp", None, device), session.network("mos", None, device).refiner
    likeness = Likeness(partial(landmarker.locate, mirror=False), partial(look_at, refiner))
    return FaceFinder(detector, SecondOpinion(session.network("faceverifier", None, device), likeness))


class FaceFinder:
    """A `Detector` that tries the four turns when it has to, and asks a second opinion of every find."""

    def __init__(self, detector: Detector, opinion: Opinion) -> None:
        self.detector, self.opinion = detector, opinion

    @property
    def slug(self) -> str:
        """That of the detector."""
        return str(getattr(self.detector, "slug", type(self.detector).__name__))

    def detect(self, image: Image) -> list[Face]:
        """(H, W, 3) uint8 RGB to faces in its coordinates at any turn, best score first.

        The turn with the most evidence gives all its finds; other turns only faces that are beyond doubt and that it
        did not see, as on an album page with prints lying both ways.
        """
        found = self.look(image, 0)
        if _settled(found):
            return found
        logger.debug("the upright look leaves a doubt; trying the other quarter turns")
        return _combined([found, *(self.look(image, turn) for turn in TURNS[1:])])

    def turn_of(self, image: Image) -> int | None:
        """How far the content of a picture is turned: 0, 90, 180 or 270; None where no face says so beyond doubt."""
        found = self.look(image, 0)
        if _settled(found):
            return 0
        views = [found, *(self.look(image, turn) for turn in TURNS[1:])]
        best = int(np.argmax([_evidence(view) for view in views]))
        return TURNS[best] if _evidence(views[best]) else None

    def look(self, image: Image, turn: int) -> list[Face]:
        """The faces of a picture turned by `turn`, in its own coordinates, with a second opinion on each."""
        view = upright(image, turn)
        faces = self.detector.detect(view)
        certainties = self.opinion.certainties(view, faces)
        return [turned_face(replace(f, certainty=c), turn, view.shape[:2]) for f, c in zip(faces, certainties)]


class SceneFinder:
    """A `Detector` for the frames of a video, which looks for the turn once in a scene and then keeps to it.

    Until a face beyond doubt was seen the turn is looked for again, once in `AGAIN` looks; frames are then taken for
    upright. No second opinion is asked of single frames: a video has many looks at a face. Finds below `min_score` are
    left out.
    """

    AGAIN = 12

    def __init__(self, detector: Detector, min_score: float) -> None:
        self.finder = detector if isinstance(detector, FaceFinder) else None
        self.detector, self.min_score = self.finder.detector if self.finder else detector, min_score
        self.begin_scene()

    @property
    def opinion(self) -> Opinion | None:
        """What is asked about single faces; None where the detector is no `FaceFinder`."""
        return self.finder.opinion if self.finder else None

    def begin_scene(self) -> None:
        """Forget the turn of the scene before."""
        self._turn: int | None = None
        self._looks = 0

    def detect(self, image: Image) -> list[Face]:
        """(H, W, 3) uint8 RGB to faces in its coordinates, best score first."""
        if self.finder and self._turn is None and self._looks % self.AGAIN == 0:
            self._turn = self.finder.turn_of(image)
        self._looks += 1
        turn = self._turn or 0
        view = upright(image, turn)
        found = [face for face in self.detector.detect(view) if face.score >= self.min_score]
        return [turned_face(face, turn, view.shape[:2]) for face in found]

    def follow(self, image: Image, faces: Sequence[Face]) -> list[Face] | None:
        """Where faces of the frame before are in this one, at any turn; None where the detector cannot say."""
        return self.detector.follow(image, faces) if isinstance(self.detector, Follower) else None


def _is_sure(face: Face) -> bool:
    lean = 0.0 if face.pose is None else abs((face.pose.roll - face.turn + 180) % 360 - 180)
    return face.certainty is not None and face.certainty >= SURE and lean <= MOST_LEAN


def _settled(faces: Sequence[Face]) -> bool:
    """Whether a look leaves no doubt that the picture is the right way up: at least half of the faces are sure."""
    sure = sum(_is_sure(face) for face in faces)
    return sure > 0 and 2 * sure >= sum(believable(face) for face in faces)


def _evidence(faces: Sequence[Face]) -> float:
    """How much the finds speak for their turn."""
    return sum(face.score for face in faces if _is_sure(face))


def _combined(views: Sequence[list[Face]]) -> list[Face]:
    main = _main(views)
    finds = list(views[main])
    rivals = [face for number, view in enumerate(views) if number != main for face in view if _is_sure(face)]
    for rival in sorted(rivals, key=lambda face: -face.score):
        met = [face for face in finds if _overlap(face, rival) > _SAME]
        if all(_worth(face) < _worth(rival) for face in met):
            finds = [face for face in finds if not any(face is other for other in met)] + [rival]
    return sorted(finds, key=lambda face: -face.score)


def _main(views: Sequence[Sequence[Face]]) -> int:
    """The view to go by: the one with the most sure faces; without any, another than the unturned one only where it has
    a likely face and that one nothing nearly as likely."""
    evidence = [_evidence(view) for view in views]
    if max(evidence) > 0:
        return int(np.argmax(evidence))
    odds = [max((float(log_odds(_certainty(face))) for face in view), default=-np.inf) for view in views]
    best = int(np.argmax(odds))
    return best if odds[best] >= log_odds(LIKELY) and odds[best] - odds[0] >= CLEARLY else 0


def _certainty(face: Face) -> float:
    return float(np.clip(face.certainty or 0.0, 1e-6, 1 - 1e-6))


def _worth(face: Face) -> float:
    return face.score * (face.certainty or 0.0)


def _overlap(a: Face, b: Face) -> float:
    """Intersection over union of two boxes."""
    sides = np.minimum(a.box[2:], b.box[2:]) - np.maximum(a.box[:2], b.box[:2])
    if sides.min() <= 0:
        return 0.0
    common = float(sides.prod())
    return common / (a.width * a.height + b.width * b.height - common)
