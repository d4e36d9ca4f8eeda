"""Landmark forest: face quality from landmarks alone, as a gate in front of a verifier.

Paper: "A Lightweight Face Quality Assessment Framework to Improve Face Verification in Real-Time Screening" (arXiv
2507.15961, 2025): normalised facial landmarks and a random-forest regressor, for resolution and pose. No code, data or
readable method section is public, so the features beside the landmarks, the size of the forest, its targets and its
file are this project's. No pixels are looked at: blur and light change the score only where they move landmarks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from ....errors import MissingDependencyError, UsageError, WeightsError
from ....face import FaceQuality
from ....geometry.crop import CropSpec
from ....tasks.card import Preprocess
from ...base import System
from ..reasons import QUANTILES, Factors, Geometry, explain, geometry, percentiles, reference_quantiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from ....face import Face

    Floats = NDArray[np.float64]

Normalisation = Literal["similarity", "box"]

FEATURE_VERSION = 1
MEASURES = (
    "log2_eye_distance",
    "log2_box_width",
    "log2_box_height",
    "yaw_ratio",
    "nose_ratio",
    "pitch_ratio",
    "roll",
    "detector_score",
    "box_inside",
)

# Whole numbers, so that features, cuts and scores are the same in every storage type and on every machine.
_FEATURE_UNIT = 1 << 16
_FEATURE_LIMIT = float(1 << 14)
_VALUE_UNIT = (1 << 15) - 1
_NEVER_ABOVE = np.iinfo(np.int32).max
_UNFITTED = 0.5


@dataclass(frozen=True, slots=True)
class LandmarkForestConfig:
    """Shape of the forest; the defaults are the full size on 68 landmarks.

    landmarks: 5 or 68 (iBUG order). normalisation: of the landmarks; `similarity` puts the eyes' middle at 0 and the
        eyes on a line of length 1, `box` divides by the detector's box and so belongs to one detector.
    trees, depth, leaf: number of trees, deepest level, fewest samples in a leaf.
    threshold: the least score that is accepted. labels: what the scores were learned from.
    nodes: of all trees together, 0 before fitting. features: the features the forest was grown on.
    """

    landmarks: int = 68
    normalisation: Normalisation = "similarity"
    trees: int = 200
    depth: int = 12
    leaf: int = 5
    threshold: float = 0.5
    labels: str = ""
    nodes: int = 0
    features: str = ""

    @classmethod
    def compact(cls) -> Self:
        """For the five points of `Face`: half the trees, and leaves large enough for noisy targets."""
        return cls(landmarks=5, trees=100, depth=10, leaf=20)


def feature_names(landmarks: int = 68, normalisation: Normalisation = "similarity") -> list[str]:
    """The names of the features in their order: x and y of every landmark, then `MEASURES`."""
    points = [f"{normalisation}_{axis}{i}" for i in range(landmarks) for axis in "xy"]
    return [*points, *MEASURES]


def feature_spec(config: LandmarkForestConfig) -> str:
    """The name under which a forest's features are stored; another name means another meaning of the numbers."""
    return f"{config.landmarks}-{config.normalisation}-v{FEATURE_VERSION}"


def face_features(
    points: NDArray[np.floating],
    box: ArrayLike,
    score: float,
    frame: tuple[int, int],
    *,
    normalisation: Normalisation = "similarity",
) -> Floats:
    """The features (2L + 9,) of one face.

    `points` (L, 2), L = 5 in the order of `Face.points5` or 68 in iBUG order, and `box` (x0, y0, x1, y1) are in pixels
    of the photo, whose (height, width) is `frame`; `score` is the detector's.
    """
    pixels = np.asarray(points, np.float64)
    shape = geometry(_five(pixels))
    x0, y0, x1, y1 = np.asarray(box, np.float64).tolist()
    width, height = max(x1 - x0, 1.0), max(y1 - y0, 1.0)
    if normalisation == "box":
        relative = (pixels - (x0, y0)) / (width, height)
    else:
        relative = _on_eye_line(pixels, shape)
    measures = (
        math.log2(max(shape.eye_distance, 1.0)),
        math.log2(width),
        math.log2(height),
        shape.yaw_ratio,
        shape.nose_ratio,
        shape.pitch_ratio,
        shape.roll / 90,
        score,
        box_inside((x0, y0, x1, y1), frame),
    )
    return np.concatenate([relative.ravel(), measures])


def box_inside(box: tuple[float, float, float, float], frame: tuple[int, int]) -> float:
    """Share of a box (x0, y0, x1, y1) that lies in a photo of (height, width) `frame`."""
    x0, y0, x1, y1 = box
    across = min(x1, frame[1] - 0.5) - max(x0, -0.5)
    down = min(y1, frame[0] - 0.5) - max(y0, -0.5)
    return max(across, 0.0) * max(down, 0.0) / (max(x1 - x0, 1e-6) * max(y1 - y0, 1e-6))


def _five(points: Floats) -> Floats:
    if len(points) == 5:
        return points
    if len(points) != 68:
        raise UsageError(f"the landmark forest knows 5 or 68 landmarks, not {len(points)}")
    return np.stack([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])


def _on_eye_line(points: Floats, shape: Geometry) -> Floats:
    five = _five(points)
    turn = math.radians(shape.roll)
    cos, sin = math.cos(turn), math.sin(turn)
    centred = points - (five[0] + five[1]) / 2
    return np.asarray(centred @ np.array([[cos, -sin], [sin, cos]]) / max(shape.eye_distance, 1e-6))


class LandmarkForest(System):
    """Quality in [0, 1] and a reason from the landmarks of a detected face (arXiv 2507.15961; much is reconstructed).

    forward: features (N, F) of `face_features` to scores (N,), float32 in [0, 1]. A tensor in, a tensor out, but no
    gradient: a forest is a step function. `threshold` of the configuration says from which score on to accept.

    The trees lie one after the other in four arrays of `nodes` entries: from node i go to node `child[i]` if feature
    `feature[i]` is at most `cut[i]`, else to node `child[i]` + 1; a leaf is its own child. `lowest` and `highest` (F,)
    bound the features seen in training. All are whole numbers, in steps of 2⁻¹⁶ (features) and 1/32767 (`value`).
    """

    slug: ClassVar[str] = "landmark_forest"
    Config: ClassVar[type[LandmarkForestConfig]] = LandmarkForestConfig
    config: LandmarkForestConfig
    feature: Tensor
    cut: Tensor
    child: Tensor
    value: Tensor
    roots: Tensor
    lowest: Tensor
    highest: Tensor
    reference: Tensor

    def __init__(self, config: LandmarkForestConfig | None = None) -> None:
        super().__init__(config)
        self.config = _checked(self.config)
        c = self.config
        nodes = np.arange(c.nodes or c.trees, dtype=np.int32)
        self.register_buffer("feature", torch.zeros(len(nodes), dtype=torch.int16))
        self.register_buffer("cut", torch.full((len(nodes),), _NEVER_ABOVE, dtype=torch.int32))
        self.register_buffer("child", torch.from_numpy(nodes))
        self.register_buffer("value", torch.full((len(nodes),), round(_UNFITTED * _VALUE_UNIT), dtype=torch.int16))
        self.register_buffer("roots", torch.arange(c.trees, dtype=torch.int32))
        self.register_buffer("lowest", torch.zeros(self.features, dtype=torch.int32))
        self.register_buffer("highest", torch.zeros(self.features, dtype=torch.int32))
        self.register_buffer("reference", torch.zeros(QUANTILES, dtype=torch.int32))

    @classmethod
    def preprocess_for(cls, config: Any) -> Preprocess:
        return Preprocess(CropSpec.whole())

    @property
    def features(self) -> int:
        """The number of features."""
        return 2 * self.config.landmarks + len(MEASURES)

    def forward(self, features: Tensor) -> Tensor:
        return torch.from_numpy(self.score(features.detach().cpu().numpy())).to(features.device)

    def score(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """(N, F) features to scores (N,) in [0, 1]: the mean of the leaves."""
        numbers = self._numbers(features)
        feature, cut, child, value = (b.numpy() for b in (self.feature, self.cut, self.child, self.value))
        node = np.broadcast_to(self.roots.numpy(), (len(numbers), self.config.trees))
        row = np.arange(len(numbers))[:, None]
        for _ in range(self.config.depth):
            node = child[node] + (numbers[row, feature[node]] > cut[node])
        return np.asarray(value[node].mean(1) / _VALUE_UNIT, np.float32)

    def is_familiar(self, features: NDArray[np.floating]) -> NDArray[np.bool_]:
        """(N,) whether all features lie in the range of the training; a forest cannot extrapolate beyond it."""
        numbers = self._numbers(features)
        inside = (numbers >= self.lowest.numpy()) & (numbers <= self.highest.numpy())
        return np.asarray(inside.all(1))

    def _numbers(self, features: NDArray[np.floating]) -> NDArray[np.int32]:
        values = np.asarray(features, np.float64)
        if values.ndim != 2 or values.shape[1] != self.features:
            raise UsageError(f"this landmark forest takes features (N, {self.features}), not {values.shape}")
        return as_numbers(values)

    def rate(self, photo: NDArray[np.uint8], faces: Sequence[Face]) -> list[FaceQuality]:
        """Score, percentile and reasons (size, pose, cut off) of each face found in an (H, W, 3) photo.

        Raises UsageError when the forest was never calibrated, or wants 68 landmarks, which a `Face` does not have.
        """
        if self.config.landmarks != 5:
            raise UsageError("a Face has five landmarks; give face_features of all 68 to score instead")
        frame = (photo.shape[0], photo.shape[1])
        rows = [face_features(f.points5, f.box, f.score, frame, normalisation=self.config.normalisation) for f in faces]
        if not rows:
            return []
        scores = self.score(np.stack(rows))
        ranks = percentiles(scores, self.reference.numpy())
        return [
            FaceQuality(float(score), float(rank), tuple(explain(landmark_factors(face, frame))))
            for score, rank, face in zip(scores, ranks, faces)
        ]

    def accepts(self, quality: FaceQuality) -> bool:
        """Whether a face is good enough to be verified."""
        return quality.score >= self.config.threshold

    def calibrate(self, scores: NDArray[np.floating]) -> None:
        """Take scores (N,) of a reference set as the scale of percentiles; saved with the forest."""
        self.reference.copy_(torch.from_numpy(reference_quantiles(scores)))

    @classmethod
    def fit(
        cls,
        features: NDArray[np.floating],
        targets: NDArray[np.floating],
        *,
        config: LandmarkForestConfig | None = None,
        weights: NDArray[np.floating] | None = None,
        seed: int = 0,
    ) -> Self:
        """Grow a forest on features (N, F) and targets (N,) in [0, 1], by squared error; needs scikit-learn.

        `weights` (N,) are those of the samples. Every split looks at √F random features; every tree at a bootstrap
        sample.
        """
        try:
            from sklearn.ensemble import RandomForestRegressor
        except ImportError as error:
            raise MissingDependencyError(
                "training a landmark forest needs scikit-learn: pip install 'facewright[train]'"
            ) from error
        chosen = _checked(config or cls.Config())
        numbers = as_numbers(np.asarray(features, np.float64))
        regressor = RandomForestRegressor(
            n_estimators=chosen.trees,
            max_depth=chosen.depth,
            min_samples_leaf=chosen.leaf,
            max_features="sqrt",
            random_state=seed,
        )
        regressor.fit(numbers / _FEATURE_UNIT, np.clip(targets, 0, 1), weights)
        grown = [_adjacent(tree.tree_) for tree in regressor.estimators_]
        sizes = [len(tree["child"]) for tree in grown]
        forest = cls(replace(chosen, nodes=sum(sizes)))
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
        for tree, start in zip(grown, starts):
            tree["child"] += start
        arrays = {name: np.concatenate([tree[name] for tree in grown]) for name in grown[0]}
        arrays |= {"roots": starts, "lowest": numbers.min(0), "highest": numbers.max(0)}
        forest.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()} | {"reference": forest.reference})
        return forest


def _checked(c: LandmarkForestConfig) -> LandmarkForestConfig:
    if c.landmarks not in (5, 68):
        raise UsageError(f"the landmark forest knows 5 or 68 landmarks, not {c.landmarks}")
    if c.normalisation not in get_args(Normalisation):
        raise UsageError(f"normalisation {c.normalisation!r}: choose one of {', '.join(get_args(Normalisation))}")
    spec = feature_spec(c)
    if c.features not in ("", spec):
        raise WeightsError(
            f"this landmark forest was trained on features {c.features!r}, but this version computes {spec!r}: "
            "train it again"
        )
    return replace(c, features=spec)


def as_numbers(features: Floats) -> NDArray[np.int32]:
    """Features in steps of 2⁻¹⁶, within ±16384; what is not a number becomes 0."""
    bounded = np.clip(np.nan_to_num(features, nan=0.0), -_FEATURE_LIMIT, _FEATURE_LIMIT)
    return np.asarray(np.floor(bounded * _FEATURE_UNIT), np.int32)


def _adjacent(tree: Any) -> dict[str, NDArray[Any]]:
    """A scikit-learn tree's nodes in order of breadth, so that the two children of a node are neighbours."""
    order = [0]
    child: list[int] = []
    for node in order:  # grows while it is walked
        left = int(tree.children_left[node])
        child.append(len(order) if left >= 0 else len(child))
        if left >= 0:
            order += [left, int(tree.children_right[node])]
    nodes = np.array(order)
    leaf = tree.children_left[nodes] < 0
    cuts = np.floor(tree.threshold[nodes] * _FEATURE_UNIT)
    return {
        "feature": np.where(leaf, 0, tree.feature[nodes]).astype(np.int16),
        "cut": np.where(leaf, _NEVER_ABOVE, cuts).astype(np.int32),
        "child": np.array(child, np.int32),
        "value": np.rint(tree.value[nodes, 0, 0] * _VALUE_UNIT).astype(np.int16),
    }


def landmark_factors(face: Face, frame: tuple[int, int]) -> Factors:
    """What can be said of a face without its pixels: size, pose and how much of its box is in the photo."""
    shape = geometry(face.points5)
    x0, y0, x1, y1 = (float(v) for v in face.box)
    return Factors(
        eye_distance=shape.eye_distance,
        yaw=shape.yaw if face.pose is None else face.pose.yaw,
        pitch=shape.pitch if face.pose is None else face.pose.pitch,
        outside=1 - box_inside((x0, y0, x1, y1), frame),
    )


# Targets and the choice of a threshold


def comparison_target(mated: ArrayLike, *, genuine: float, impostor: float) -> Floats:
    """Targets (N,) in [0, 1] from the cosine of each picture to its person's best other pictures.

    0 is the mean cosine of impostors, 1 that of genuine pairs; all cosines are of one recogniser.
    """
    return np.clip((np.asarray(mated, np.float64) - impostor) / (genuine - impostor), 0, 1)


def pose_target(yaw: ArrayLike, pitch: ArrayLike) -> Floats:
    """Targets (N,) in (0, 1] that fall with the head's turn (degrees) as a Gaussian of 35° and 30°."""
    return np.asarray(np.exp(-((np.asarray(yaw, float) / 35) ** 2) - (np.asarray(pitch, float) / 30) ** 2))


def size_target(eye_distance: ArrayLike) -> Floats:
    """Targets (N,) in (0, 1) that rise with the eye distance in pixels: a logistic in its log2, 0.5 at 24 px."""
    return np.asarray(1 / (1 + np.exp(-3 * (np.log2(np.maximum(eye_distance, 1e-6)) - np.log2(24)))))


def balanced_weights(yaw: ArrayLike, eye_distance: ArrayLike) -> Floats:
    """Weights (N,) of mean 1 that give every occupied cell of |yaw| (15°) by log2 eye distance the same say."""
    turn = (np.abs(np.asarray(yaw, float)) // 15).astype(int)
    size = np.floor(np.log2(np.maximum(np.asarray(eye_distance, float), 1))).astype(int)
    _, cell, count = np.unique(np.stack([turn, size]), axis=1, return_inverse=True, return_counts=True)
    weights = 1 / count[cell.ravel()]
    return np.asarray(weights / weights.mean())


def best_threshold(scores: ArrayLike, good: ArrayLike) -> float:
    """The score (accepted from it on) with the best balanced accuracy for (N,) bool `good`; the lowest of several.

    Raises UsageError when all pictures are good, or none.
    """
    s, y = np.asarray(scores, np.float64), np.asarray(good, bool)
    if y.all() or not y.any():
        raise UsageError("a threshold needs pictures to accept and pictures to refuse; one kind is missing")
    candidates = np.unique(s)
    accepted = 1 - np.searchsorted(np.sort(s[y]), candidates) / y.sum()
    refused = np.searchsorted(np.sort(s[~y]), candidates) / (~y).sum()
    return float(candidates[np.argmax(accepted + refused)])
