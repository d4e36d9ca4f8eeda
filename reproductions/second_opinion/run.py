"""Fit the second opinion on half of the pictures and count, on the other half, what it spares and what it costs.

    python -m reproductions.second_opinion.run FACELESS_FOLDER [--scenes 300] [--write] \\
        [--fit src/facewright/pipelines/second_opinion.json]

FACELESS_FOLDER holds pictures without faces (textures, objects, animals); the faceless pictures of the labelled
collections (FACEWRIGHT_DATA) are added, and the half of them all that the verifier learned from is left out. Faces are
those of composed validation scenes, and of validation photos of LFW under every preset of `facewright.degrade` at 0.12
to 3 times their size. What is kept in `--work` goes on where it was.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from reproductions.second_opinion.finds import MOST_SIDE, SIZES, backgrounds, resized, teaches
from scipy.optimize import minimize

from facewright.data.detection import BOX, FACE, LABEL, Scenes, labelled_face
from facewright.data.faces import open_faces
from facewright.degrade import degrade_photo
from facewright.geometry.resample import crop_face
from facewright.io.image import read
from facewright.loading import load_detector, load_pipeline
from facewright.metrics.detection import box_iou
from facewright.pipelines.restore import GOOD_SSIM, MAX_YAW, MIN_EYE_DISTANCE
from facewright.pipelines.second_opinion import OpinionModel

from .. import common

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from facewright.face import Face

    Image = NDArray[np.uint8]
    Floats = NDArray[np.float64]
    Sample = tuple[str, Image, NDArray[np.float64]]

MIN_SCORE = 0.7
NEAR_MISS = 0.6  # finds from this score on teach, too
RIDGE = 0.1
LOST = 0.01  # share of the faces today restored that the second opinion may cost
PRESETS = ("clean", "mild", "gfpgan", "severe", "small", "far", "mixed", "compressed", "shaken", "old-photo")


def faceless(folder: Path) -> Iterator[tuple[str, Image]]:
    """Named pictures without faces at every size, of those that the verifier did not learn from."""
    pictures = [(f"sk/{path.stem}", read(path).rgb()) for path in sorted(folder.iterdir()) if path.is_file()]
    for name, picture in [*pictures, *backgrounds()]:
        if teaches(name):
            continue
        for size in SIZES:
            yield name, resized(picture, min(size, MOST_SIDE / max(picture.shape)))


def with_faces(scenes: int) -> Iterator[Sample]:
    """Named pictures and the boxes (K, 4) of their faces."""
    composed = Scenes("val", seed=3)
    for number in range(scenes):
        image, rows = composed.scene(number)
        yield f"scene-{number}", image, rows[rows[:, LABEL] == FACE][:, BOX].astype(np.float64)
    collection, rng = open_faces("lfw", "val"), np.random.default_rng(77)
    alone = collection.rows[collection.labels["faces_in_image"][collection.rows] == 1]
    for row in rng.permutation(alone)[:scenes]:
        face = labelled_face(collection, int(row))
        factor = float(np.exp(rng.uniform(np.log(0.12), np.log(3.0))))
        image, box = resized(face.image, factor), face.box * factor
        preset = PRESETS[rng.integers(len(PRESETS))]
        if preset != "clean":
            image, _ = degrade_photo(
                image, preset, int(rng.integers(1 << 30)), face_size=float(2.2 * (box[2] - box[0]))
            )
        yield f"lfw-{row}", np.ascontiguousarray(image), box[None]


def yaw_of(face: Face) -> float:
    return 0.0 if face.pose is None else abs(face.pose.yaw)


def measured(scenes: int, folder: Path) -> dict[str, NDArray[np.generic]]:
    """Signals (N, 2), whether a find is a face, whether it would be restored today, and its picture."""
    finder: Any = load_detector()
    pipeline: Any = load_pipeline()
    signals, faces, restored, names = [], [], [], []

    def add(name: str, image: Image, finds: list[Face], is_face: bool) -> None:
        if not finds:
            return
        signals.extend(finder.opinion.signals(image, finds))
        crops = [crop_face(image, f.points5, pipeline.restorer.preprocess.size).image for f in finds]
        for find, estimate in zip(finds, pipeline.assess(np.stack(crops))):
            faces.append(is_face)
            names.append(name)
            fit = find.score >= MIN_SCORE and find.eye_distance >= MIN_EYE_DISTANCE and yaw_of(find) <= MAX_YAW
            restored.append(fit and estimate.ssim < GOOD_SSIM)

    for name, image in faceless(folder):
        add(name, image, [f for f in finder.detector.detect(image) if f.score >= NEAR_MISS], False)
    for name, image, boxes in with_faces(scenes):
        finds = [f for f in finder.detector.detect(image) if f.score >= NEAR_MISS]
        if finds and len(boxes):
            overlap = box_iou(np.stack([f.box for f in finds]).astype(np.float64), boxes).max(1)
            add(name, image, [f for f, o in zip(finds, overlap) if o > 0.5], True)
    return {
        "signals": np.array(signals),
        "face": np.array(faces, bool),
        "restored": np.array(restored, bool),
        "name": np.array(names),
    }


def fit(signals: Floats, is_face: NDArray[np.bool_]) -> Floats:
    """Bias and weights of a logistic regression with a ridge on standardised signals."""
    mean, spread = signals.mean(0), signals.std(0)
    design = np.column_stack([np.ones(len(signals)), (signals - mean) / spread])
    sign = np.where(is_face, 1.0, -1.0)

    def loss(weights: Floats) -> float:
        return float(np.logaddexp(0, -sign * (design @ weights)).sum() + RIDGE / 2 * (weights[1:] ** 2).sum())

    positive = [(None, None), *[(0.0, None)] * signals.shape[1]]  # both speak for a face
    weights = minimize(loss, np.zeros(design.shape[1]), bounds=positive, method="L-BFGS-B").x
    scaled = weights[1:] / spread
    return np.concatenate([[weights[0] - scaled @ mean], scaled])


def cross_fitted(data: dict[str, NDArray[np.generic]]) -> Floats:
    """Log odds of every find by weights fitted on the other half of the pictures."""
    signals, is_face = np.asarray(data["signals"], np.float64), np.asarray(data["face"], bool)
    half = np.array([hashlib.sha256(str(name).encode()).digest()[0] & 1 for name in data["name"]], bool)
    odds = np.zeros(len(signals))
    for side in (False, True):
        weights = fit(signals[half == side], is_face[half == side])
        odds[half != side] = signals[half != side] @ weights[1:] + weights[0]
    return odds


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--work", type=Path, default=Path("runs/second-opinion.npz"))
    parser.add_argument("--fit", type=Path)
    options = parser.parse_args()
    common.begin(options)
    if not options.work.is_file():
        options.work.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(options.work, **measured(options.scenes, options.folder))  # type: ignore[arg-type]
    with np.load(options.work) as stored:
        data = {name: stored[name] for name in stored.files}
    lines, threshold = report(data)
    weights = fit(np.asarray(data["signals"], np.float64), np.asarray(data["face"], bool))
    model = OpinionModel(float(weights[0] - threshold), *(float(w) for w in weights[1:]))
    if options.fit:
        options.fit.write_text(model.to_json(), encoding="utf-8")
    text = ["# Things that are not faces", "", *lines]
    common.finish(options, "false-faces", text, ["mos", "faceverifier", "frgp"], given="FACELESS_FOLDER")


def report(data: dict[str, NDArray[np.generic]]) -> tuple[list[str], float]:
    """A table of what is spared and what is lost, and the log odds at which a share of `LOST` is."""
    odds, shown = cross_fitted(data), np.asarray(data["restored"], bool)
    faces, others = odds[shown & data["face"]], odds[shown & ~np.asarray(data["face"], bool)]
    lines = [
        f"{len(faces)} faces and {len(others)} other things that would be restored without a second opinion; judged by",
        "weights fitted on the other half of the pictures.",
        "",
        "| faces lost | other things still restored |",
        "| ---: | ---: |",
    ]
    for share in (0.0, 0.005, LOST, 0.02, 0.03, 0.05):
        at = np.sort(faces)[int(share * len(faces))]
        lines.append(f"| {share:.1%} | {(others >= at).mean():.0%} ({int((others >= at).sum())}) |")
    return lines, float(np.sort(faces)[int(LOST * len(faces))])


if __name__ == "__main__":
    main()
