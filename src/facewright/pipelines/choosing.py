"""Which of a detector's finds count: those beyond doubt, and the one that a picture is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UsageError
from .second_opinion import NO_FACE, believable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..face import Face

MIN_SCORE = 0.7
"""Least score of a find that counts, where a task does not say otherwise."""
CROWDED = 0.5
"""From this share of the largest face's size on, another face could be meant, too."""


def doubt(face: Face, min_score: float = MIN_SCORE) -> str:
    """Why a find may be no face at all, in words; empty where neither detector nor second opinion doubts it."""
    if face.score < min_score:
        return f"low confidence, score {face.score:.2f}"
    return "" if believable(face) else f"{NO_FACE}, certainty {face.certainty:.2f}"


def sure_faces(finds: Sequence[Face], min_score: float = MIN_SCORE) -> list[Face]:
    """The finds that nobody doubts, in their order. Raises UsageError for a score outside [0, 1]."""
    if not 0 <= min_score <= 1:
        raise UsageError(f"min_score {min_score} is outside 0…1")
    return [face for face in finds if not doubt(face, min_score)]


def largest_face(faces: Sequence[Face]) -> Face | None:
    """The face with the widest eyes; None among none."""
    return max(faces, key=lambda face: face.eye_distance, default=None)


def rivals(faces: Sequence[Face]) -> list[Face]:
    """The largest face and those that are large enough beside it to be meant as well."""
    largest = largest_face(faces)
    return [] if largest is None else [f for f in faces if f.eye_distance >= CROWDED * largest.eye_distance]
