"""Never a monster: are restored faces as plausible as what they were made of?

    python -m reproductions.plausible.run [--faces 100] [--write]

Photos of LFW people that no network here was trained on are made bad in two ways: reduced until the eyes are 8 pixels
apart (and enlarged four times by the pipeline), and damaged by the preset `severe`. The whole pipeline restores them,
once as it is and once with the check of `facewright.pipelines.plausible` left out. Landmarks are found on the enlarged
input and on the result, and compared three ways:

- shape: how far the 68 points are from the shapes of real faces, in standard deviations of a linear model (PCA) of the
  labelled landmarks of other people (1 is a typical face). Less plausible: further away than the input's.
- sureness: the mean log odds that the landmark detector gives its inner points. Less plausible: lower.
- error: mean distance of the inner points from their labels, in percent of the eye distance. Worse: larger.

Each by more than two margins: one that is mostly noise, and one that can be seen.

Nothing else places 68 points here than the landmark detector that the check asks, too; shapes and labels are
independent of it. Needs the labelled face collections (FACEWRIGHT_DATA).
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

from facewright.data.faces import open_faces
from facewright.degrade import degrade_photo
from facewright.geometry.similarity import fit_similarity, transform_points
from facewright.io.image import read
from facewright.loading import load_pipeline
from facewright.metrics.uncertainty import bootstrap
from facewright.pipelines.restore import RestorePipeline
from facewright.tasks.restore import RestoreOptions

from .. import common

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from facewright.face import Face
    from facewright.pipelines.likeness import Landmarks

    Floats = NDArray[np.float64]
    Picture = NDArray[np.uint8]

EYES, UPSCALE = 8.0, 4
CASES = (f"{EYES:.0f} px between the eyes", "severe")
FACE = 4.1  # eye distances that a face crop is wide
SHAPE_BY, SURE_BY, ERROR_BY = (0.1, 0.25), (0.2, 0.5), (0.01, 0.03)
INNER = slice(17, 68)


class Shapes:
    """A linear model of the shapes of real faces, from labelled landmarks (N, 68, 2)."""

    def __init__(self, landmarks: Floats, explained: float = 0.95) -> None:
        self.mean = np.asarray(landmarks[0], np.float64)
        for _ in range(3):
            aligned = np.stack([self._placed(points) for points in landmarks])
            self.mean = aligned.mean(0)
        centred = (aligned - self.mean).reshape(len(aligned), -1)
        _, spread, axes = np.linalg.svd(centred, full_matrices=False)
        share = np.cumsum(spread**2) / np.sum(spread**2)
        count = int(np.searchsorted(share, explained)) + 1
        self.axes, self.spread = axes[:count], spread[:count] / np.sqrt(len(aligned))
        rest = centred - centred @ self.axes.T @ self.axes
        self.rest = float(np.sqrt((rest**2).sum(1).mean()))

    def _placed(self, points: NDArray[np.floating]) -> Floats:
        return transform_points(fit_similarity(np.asarray(points, np.float64), self.mean), points)

    def distance(self, points: NDArray[np.floating]) -> float:
        """How far 68 points (68, 2) are from the mean shape, 1 for a typical face."""
        apart = (self._placed(points) - self.mean).ravel()
        inside = apart @ self.axes.T
        rest = apart - inside @ self.axes
        total = ((inside / self.spread) ** 2).sum() + (rest**2).sum() / self.rest**2
        return float(np.sqrt(total / (len(self.spread) + 1)))


@dataclass(frozen=True)
class Look:
    """What the landmark detector sees in a picture: distance from real shapes, sureness, error in eye distances."""

    shape: float
    sureness: float
    error: float


@dataclass
class Tally:
    """What became of the faces of a case."""

    pairs: list[tuple[Look, Look]] = field(default_factory=list)
    treatments: Counter[str] = field(default_factory=Counter)

    def row(self, name: str) -> str:
        def share(rises: list[float], margins: tuple[float, float]) -> str:
            return " / ".join(f"{100 * np.mean(np.array(rises) > margin):.1f} %" for margin in margins)

        shapes = [after.shape - before.shape for before, after in self.pairs]
        doubts = [before.sureness - after.sureness for before, after in self.pairs]
        errors = [after.error - before.error for before, after in self.pairs]
        change = bootstrap(100 * np.array(errors))
        counts = ", ".join(f"{name} {count}" for name, count in self.treatments.most_common())
        cells = [share(shapes, SHAPE_BY), share(doubts, SURE_BY), share(errors, ERROR_BY), change.text(2, sign=True)]
        return f"| {name} | {len(self.pairs)} | {' | '.join(cells)} | {counts} |"


class Unchecked(RestorePipeline):
    """The pipeline without the check."""

    likeness = None


def pictures(photo: Picture, points: Floats, row: int) -> dict[str, tuple[Picture, int, float]]:
    """The bad photos of a good one by case: pixels, by how much to enlarge, and their size beside the good one's."""
    eyes = float(np.hypot(*(points[1] - points[0])))
    side = round(photo.shape[0] * EYES / eyes)
    small = np.asarray(cv2.resize(photo, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    damaged = degrade_photo(photo, "severe", row, face_size=round(FACE * eyes))[0]
    return {CASES[0]: (small, UPSCALE, side / photo.shape[0]), CASES[1]: (damaged, 1, 1.0)}


def look(locate: Landmarks, picture: Picture, face: Face, truth: Floats, shapes: Shapes) -> Look:
    ((marks, confidence),) = locate(picture, [face])
    odds = np.clip(confidence, 1e-3, 1 - 1e-3)
    eyes = float(np.hypot(*(truth[36:42].mean(0) - truth[42:48].mean(0))))
    error = float(np.linalg.norm(marks[INNER] - truth[INNER], axis=1).mean()) / eyes
    return Look(shapes.distance(marks), float(np.log(odds / (1 - odds))[INNER].mean()), error)


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False)
    parser.add_argument("--faces", type=int, default=100)
    options = parser.parse_args()
    common.begin(options)
    start = time.perf_counter()
    pipeline = load_pipeline()
    unchecked = Unchecked(
        pipeline.detector, pipeline.restorer, pipeline.recogniser, pipeline.calibration, pipeline.assessor,
        pipeline.parser,
    )  # fmt: skip
    assert pipeline.likeness is not None
    locate = pipeline.likeness.landmarks
    others, collection = open_faces("lfw", "train"), open_faces("lfw", "val")
    shapes = Shapes(np.stack([np.asarray(others.labels["landmarks68"][r], np.float64) for r in others.rows[:4000]]))
    chosen = np.random.default_rng(2).choice(collection.rows, options.faces, replace=False)
    tallies = {(case, kind): Tally() for case in CASES for kind in ("without the check", "with it")}
    missed: Counter[str] = Counter()
    for number, row in enumerate(chosen):
        photo = collection.read(int(row))
        points = np.asarray(collection.labels["keypoints5"][row], np.float64)
        truth = np.asarray(collection.labels["landmarks68"][row], np.float64)
        for case, (picture, upscale, factor) in pictures(photo, points, int(row)).items():
            there = (truth + 0.5) * factor * upscale - 0.5
            for kind, pipe in (("without the check", unchecked), ("with it", pipeline)):
                result = pipe(read(picture), RestoreOptions(upscale=upscale, watermark=False))  # type: ignore[arg-type]
                middle = ((points + 0.5) * factor - 0.5).mean(0)
                near = [f for f in result.faces if np.hypot(*(f.face.centre - middle)) < 0.7 * f.face.eye_distance]
                if not near:
                    missed[case] += 1
                    break
                face, tally = near[0], tallies[case, kind]
                scaled = face.face.scaled(upscale)
                before, after = result.base.rgb(), result.image.rgb()
                tally.pairs.append(
                    (look(locate, before, scaled, there, shapes), look(locate, after, scaled, there, shapes))
                )
                tally.treatments[face.treatment if face.restored else "left alone"] += 1
        if number % 10 == 9:
            print(f"{number + 1} of {len(chosen)}, {time.perf_counter() - start:.0f} s", flush=True)
    rows = [tally.row(f"{case}, {kind}") for (case, kind), tally in tallies.items()]
    lines = [
        "# Is a restored face as plausible as its input?",
        "",
        f"Made by `python -m reproductions.plausible.run --faces {options.faces}`, which says what is measured:",
        "landmarks of restored faces beside those of the enlarged input, whole pipeline, people no network has seen.",
        "",
        f"| case | faces | shape further by {SHAPE_BY[0]} / {SHAPE_BY[1]} | less sure by {SURE_BY[0]} / {SURE_BY[1]} "
        f"| error larger by {ERROR_BY[0]:.0%} / {ERROR_BY[1]:.0%} | change of the error, % | shown |",
        "|" + " --- |" * 7,
        *rows,
        "",
        f"Not found by the detector: {', '.join(f'{case}: {missed[case]}' for case in CASES)}.",
        "",
    ]
    systems = ["facedetail", "frgp", "facewarp"]
    common.finish(options, "plausible", lines, systems, given=f"--faces {options.faces}")


if __name__ == "__main__":
    main()
