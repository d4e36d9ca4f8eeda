"""Scenes and crops for detectors with faces at any turn of the head.

Press photos hardly show anybody beyond 45° of yaw. Rendered heads do, with exact points and pose, so some of the heads
pasted into a scene are rendered, and profiles are drawn as often as frontal faces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..deprecation import renamed_names
from .detection import Crops, FaceSource, LabelledFace, Scenes
from .faces import data_root
from .operating_room import box_of_landmarks, five_points_of
from .parsing import parsing_renders

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.random import Generator

    from .split import Split

if not TYPE_CHECKING:
    __getattr__ = renamed_names(
        __name__,
        {"TurnedFaces": ":LargePoseFaces", "TurnedScenes": ":LargePoseScenes", "TurnedCrops": ":LargePoseCrops"},
    )

YAW_EDGES = (30.0, 60.0)  # degrees; each of the three ranges of yaw they make is drawn equally often
RENDERED = 0.4


class LargePoseFaces(FaceSource):
    """Faces of the labelled collections, and for a share of `rendered` of `any` rendered ones up to ±90° of yaw."""

    def __init__(self, split: Split, root: str | Path | None = None, *, rendered: float = RENDERED) -> None:
        super().__init__(split, root)
        self.rendered = rendered
        self.shards = parsing_renders(split, data_root(root))
        yaws = [abs(float(self.shards.truth(i)["pose"]["yaw"])) for i in range(len(self.shards))]
        bins = np.digitize(yaws, YAW_EDGES)
        self.by_turn = [np.flatnonzero(bins == k) for k in np.unique(bins)]

    def any(self, rng: Generator) -> LabelledFace:
        if rng.random() >= self.rendered:
            return super().any(rng)
        numbers = self.by_turn[int(rng.integers(len(self.by_turn)))]
        face = self.render(int(numbers[rng.integers(len(numbers))]))
        return face.mirrored() if rng.random() < 0.5 else face

    def render(self, number: int) -> LabelledFace:
        """A rendered face; the box is what the collections would give a face with its 68 landmarks."""
        truth = self.shards.truth(number)
        landmarks = np.asarray(truth["landmarks68"]["xy"], np.float64)
        pose = np.array([float(truth["pose"][angle]) for angle in ("yaw", "pitch", "roll")])
        picture = self.shards.picture(number)
        return LabelledFace(picture, box_of_landmarks(landmarks), five_points_of(landmarks), pose)


class LargePoseScenes(Scenes):
    """`Scenes` whose pasted heads come from `LargePoseFaces`."""

    def __init__(
        self,
        split: Split,
        root: str | Path | None = None,
        *,
        seed: int = 0,
        size: int = 256,
        smallest: float = 10,
        largest: float = 220,
        rendered: float = RENDERED,
    ) -> None:
        super().__init__(split, root, seed=seed, size=size, smallest=smallest, largest=largest)
        self.source = LargePoseFaces(split, root, rendered=rendered)


class LargePoseCrops(Crops):
    """`Crops` of faces from `LargePoseFaces`."""

    def __init__(
        self,
        split: Split,
        root: str | Path | None = None,
        *,
        seed: int = 0,
        negatives: float = 0.5,
        rendered: float = RENDERED,
    ) -> None:
        super().__init__(split, root, seed=seed, negatives=negatives)
        self.scenes.source = LargePoseFaces(split, root, rendered=rendered)
