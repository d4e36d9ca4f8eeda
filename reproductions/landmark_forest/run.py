"""Grow the landmark forest and judge it on people it never saw. Needs the labelled collections (FACEWRIGHT_DATA).

python -m reproductions.landmark_forest.run fit runs/landmark-forest      # about ten minutes, needs scikit-learn
python -m reproductions.landmark_forest.run judge [--weights runs/landmark-forest] [--judge vitfiqa]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from facewright.data.detection import LabelledFace, labelled_face
from facewright.data.faces import FaceCollection, open_faces
from facewright.data.pairs import Pairs, many_pairs
from facewright.data.split import Split, is_validation
from facewright.geometry.resample import crop_face
from facewright.systems.base import system_class
from facewright.systems.detect.mos.network import MOS
from facewright.systems.quality.landmark_forest import network as forest
from facewright.systems.quality.landmark_forest.network import LandmarkForest, LandmarkForestConfig

from ..vitfiqa.run import discard_table, laplacian_variance, spearman

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from facewright.face import Face

FACTORS = (1.0, 1.0, 1.5, 2.0, 3.0, 4.0)
LABELS = ("geometric", "comparison")
MIRRORED = [1, 0, 2, 4, 3]
HELD_BACK = ("first", "second")  # two tenths of the people set threshold and percentiles
GOOD = 0.5  # target from which on a picture should be accepted


@dataclass(frozen=True)
class Shot:
    """A photo reduced by a factor and the face the detector found in it."""

    row: int
    subject: str
    photo: NDArray[np.uint8]
    face: Face

    def features(self, *, mirror: bool = False) -> NDArray[np.float64]:
        height, width = self.photo.shape[:2]
        points, box = self.face.points5, self.face.box
        if mirror:
            points = points[MIRRORED] * (-1, 1) + (width - 1, 0)
            box = np.array([width - 1 - box[2], box[1], width - 1 - box[0], box[3]])
        return forest.face_features(points, box, self.face.score, (height, width))


def shots(split: Split, root: str | None, detector: MOS, seed: int, most: int) -> list[Shot]:
    """Photos of people with several, each reduced by a random factor and detected again; misses are left out."""
    collection = open_faces("lfw", split, root)
    names = np.asarray(collection.labels["subject"])[collection.rows]
    _, person, counts = np.unique(names, return_inverse=True, return_counts=True)
    rng = np.random.default_rng(seed)
    rows = rng.permutation(collection.rows[counts[person] >= 2])[:most]
    found = (shot(collection, int(row), float(rng.choice(FACTORS)), detector) for row in rows)
    return [s for s in found if s is not None]


def shot(collection: FaceCollection, row: int, factor: float, detector: MOS) -> Shot | None:
    """One reduced photo and its labelled face as the detector sees it; None when it does not."""
    known = labelled_face(collection, row)
    small = known.image
    if factor > 1:
        small = np.asarray(
            cv2.resize(known.image, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA), np.uint8
        )
    face = _nearest(detector.detect(small, min_size=8), known, factor)
    return None if face is None else Shot(row, str(collection.labels["subject"][row]), small, face)


def _nearest(faces: list[Face], known: LabelledFace, factor: float) -> Face | None:
    wanted = known.points.mean(0) / factor
    near = [f for f in faces if np.linalg.norm(f.points5.mean(0) - wanted) < 0.5 * f.eye_distance]
    return near[0] if near else None


def mated_cosines(rows: NDArray[np.int64], collection: FaceCollection) -> NDArray[np.float64]:
    """Cosine of each photo, as published, to the mean of the person's two most frontal other photos."""
    labels = collection.labels
    names = np.asarray(labels["subject"])
    embeddings = np.asarray(labels["embedding128"], np.float64)
    turn = np.abs(np.asarray(labels["pose_yaw_pitch_roll_deg"], np.float64))[:, :2].sum(1)
    by_name: dict[str, list[int]] = {}
    for row in collection.rows:
        by_name.setdefault(str(names[row]), []).append(int(row))
    cosines = []
    for row in rows:
        others = sorted((r for r in by_name[str(names[row])] if r != row), key=lambda r: turn[r])[:2]
        reference = embeddings[others].mean(0)
        cosines.append(float(embeddings[row] @ reference / np.linalg.norm(reference)))
    return np.array(cosines)


def impostor_mean(collection: FaceCollection, rng: np.random.Generator) -> float:
    names = np.asarray(collection.labels["subject"])
    a, b = rng.choice(collection.rows, (2, 20_000))
    embeddings = np.asarray(collection.labels["embedding128"], np.float64)
    return float((embeddings[a] * embeddings[b]).sum(1)[names[a] != names[b]].mean())


def targets(found: list[Shot], collection: FaceCollection, labels: str) -> NDArray[np.float64]:
    """Size target of what the detector found, times the pose or the comparison target of the photo as published."""
    size = forest.size_target([s.face.eye_distance for s in found])
    if labels == "geometric":
        return np.asarray(forest.pose_target(*angles(found, collection)) * size)
    mated = mated_cosines(np.array([s.row for s in found]), collection)
    impostor = impostor_mean(collection, np.random.default_rng(0))
    return np.asarray(forest.comparison_target(mated, genuine=float(mated.mean()), impostor=impostor) * size)


def angles(found: list[Shot], collection: FaceCollection) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Labelled |yaw| and |pitch| in degrees."""
    pose = np.abs(np.asarray(collection.labels["pose_yaw_pitch_roll_deg"], np.float64)[[s.row for s in found]])
    return pose[:, 0], pose[:, 1]


def fit(options: argparse.Namespace) -> None:
    """Grow on four fifths of the training people, set threshold and percentiles on the others, write the folder."""
    torch.set_num_threads(1)
    collection = open_faces("lfw", "train", options.root)
    found = shots("train", options.root, MOS.from_pretrained(), options.seed, options.photos)
    wanted = targets(found, collection, options.labels)
    held = np.array([any(is_validation(f"{salt} {s.subject}") for salt in HELD_BACK) for s in found])
    features = np.stack([s.features() for s in found])
    mirrored = np.stack([s.features(mirror=True) for s in found])
    sizes = np.array([s.face.eye_distance for s in found])
    weights = forest.balanced_weights(angles(found, collection)[0], sizes)
    config = replace(LandmarkForestConfig.compact(), labels=options.labels)
    grown = LandmarkForest.fit(
        np.concatenate([features[~held], mirrored[~held]]),
        np.tile(wanted[~held], 2),
        config=config,
        weights=np.tile(weights[~held], 2),
        seed=options.seed,
    )
    scores = grown.score(features[held])
    threshold = forest.best_threshold(scores, wanted[held] >= GOOD)
    model = LandmarkForest(replace(grown.config, threshold=threshold))
    model.load_state_dict(grown.state_dict())
    model.calibrate(scores)
    model.save_pretrained(options.output)
    good = wanted[held] >= GOOD
    accepted = scores >= threshold
    print(f"{len(found)} faces found, {held.sum()} of them held back; {grown.config.nodes} nodes")
    print(f"held back: Spearman {spearman(scores, wanted[held]):.3f}, threshold {threshold:.3f}, ", end="")
    print(f"balanced accuracy {(accepted[good].mean() + (~accepted[~good]).mean()) / 2:.4f}")


def judge(options: argparse.Namespace) -> None:
    """Error versus discard on validation people, by recognisers the forest knows nothing of."""
    torch.set_num_threads(1)
    model = LandmarkForest.from_pretrained(options.weights)
    collection = open_faces("lfw", "val", options.root)
    found = shots("val", options.root, MOS.from_pretrained(), 1, options.photos)
    features = np.stack([s.features() for s in found])
    scores = model.score(features)
    crops = np.stack([crop_face(s.photo, s.face.points5, 112, "arcface").image for s in found])
    sizes = np.array([s.face.eye_distance for s in found])
    yaw, _ = angles(found, collection)
    wanted = {labels: targets(found, collection, labels) for labels in LABELS}
    print(f"{len(found)} faces of {len({s.subject for s in found})} people, {model.config.nodes} nodes")
    qualities = {
        "landmark forest": scores,
        "eye distance": sizes,
        "Laplacian variance": laplacian_variance(crops),
        "random": np.random.default_rng(0).random(len(found)),
    }
    print("Spearman with the geometric target, the comparison target, and -|yaw|")
    for name, values in qualities.items():
        row = (*(spearman(values, wanted[labels]) for labels in LABELS), spearman(values, -yaw))
        print(f"  {name:22s}" + "  ".join(f"{v:6.3f}" for v in row))
    accepted = scores >= model.config.threshold
    good = wanted[model.config.labels] >= GOOD
    print(f"accuracy at the threshold {(accepted == good).mean():.4f}, ", end="")
    print(f"balanced {(accepted[good].mean() + (~accepted[~good]).mean()) / 2:.4f}, accepted {accepted.mean():.3f}")
    subjects = np.array([s.subject for s in found])
    pairs = many_pairs(subjects, seed=2)
    for slug in options.judge:
        print(gate_lines(slug, crops, pairs, qualities, accepted, options))
    print_speed(model, found[0])


def gate_lines(
    slug: str,
    crops: NDArray[np.uint8],
    pairs: Pairs,
    qualities: dict[str, NDArray[np.floating]],
    accepted: NDArray[np.bool_],
    options: argparse.Namespace,
) -> str:
    """The discard table of one recogniser, and its false rejections before and behind the gate."""
    recogniser: Any = system_class(slug).from_pretrained(options.recogniser.get(slug))
    embeddings = recogniser.embed(crops)
    cosines = (embeddings[pairs.first] * embeddings[pairs.second]).sum(1)
    table = discard_table(cosines, pairs, qualities, fmr=1e-2)
    threshold = np.quantile(cosines[~pairs.same], 0.99)
    genuine, kept = cosines[pairs.same], (accepted[pairs.first] & accepted[pairs.second])[pairs.same]
    before, after = (genuine < threshold).mean(), (genuine[kept] < threshold).mean()
    return (
        f"judged by {slug}, {len(genuine)} genuine and {(~pairs.same).sum()} impostor pairs\n{table}\n"
        f"  gate: FRR {before:.4f} -> {after:.4f} (relative {after / before - 1:+.1%}), {1 - kept.mean():.1%} "
        f"of genuine pairs discarded, mean genuine cosine {genuine.mean():.3f} -> {genuine[kept].mean():.3f}"
    )


def print_speed(model: LandmarkForest, example: Shot) -> None:
    """Time of features and score of one face."""
    rounds = 2000
    start = time.process_time()
    for _ in range(rounds):
        model.score(example.features()[None])
    print(f"{1000 * (time.process_time() - start) / rounds:.3f} ms a face, landmarks given")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of the labelled collections (else FACEWRIGHT_DATA)")
    commands = parser.add_subparsers(required=True)
    fitting = commands.add_parser("fit")
    fitting.add_argument("output")
    fitting.add_argument("--photos", type=int, default=10_000)
    fitting.add_argument("--seed", type=int, default=0)
    fitting.add_argument("--labels", choices=LABELS, default=LABELS[0])
    fitting.set_defaults(run=fit)
    judging = commands.add_parser("judge")
    judging.add_argument("--weights", help="folder, file or name; the shipped ones when left out")
    judging.add_argument("--photos", type=int, default=10_000)
    judging.add_argument("--judge", action="append", default=[], help="slug, or slug=folder, of a recogniser")
    judging.set_defaults(run=judge)
    options = parser.parse_args()
    if "judge" in options:
        options.recogniser = dict(entry.split("=", 1) for entry in options.judge if "=" in entry)
        options.judge = [entry.split("=")[0] for entry in options.judge] or ["distilledface"]
    options.run(options)


if __name__ == "__main__":
    main()
