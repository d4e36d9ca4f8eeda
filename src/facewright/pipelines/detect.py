"""Faces of a photo in reading order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .finding import finder_of
from .order import reading_order

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..face import Face
    from ..io.image import Photo
    from ..tasks.declare import NetworkChoice, Networks, Task
    from ..tasks.detect import DetectOptions


def load(session: Networks, task: Task, choice: NetworkChoice) -> Callable[[Photo, DetectOptions], list[Face]]:
    """The detector as a callable of photos."""
    detector = finder_of(session, session.chosen(task, choice), choice.device)

    def detect(photo: Photo, options: DetectOptions) -> list[Face]:
        return reading_order(detector.detect(photo.rgb()))

    return detect
