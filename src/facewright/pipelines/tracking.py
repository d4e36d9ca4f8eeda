"""Faces over time: who is who from frame to frame, where exactly, and how strongly to treat them.

A detector looks at single frames: its points jitter, it misses a face now and then, and sees one where there is none.
The tracker gives each person a lasting number, smooths boxes and points, bridges short gaps by following the picture,
waits for a second sighting before it believes in a new face, and fades faces in and out instead of switching them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..geometry.crop import align_matrix
from ..geometry.resample import crop_by_matrix
from ..geometry.similarity import fit_similarity, transform_points

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ..face import Face

_FLOW_SIDE = 640
_NO_MATCH = 10.0
_DRIFT_WEIGHT = 0.3
_HIDING = 0.2  # IoU from which one face may hide another
_STILL_A_FACE = 0.3  # least score of a second look
_MOST_CORRECTED = 0.25  # eye distances; a larger correction is no correction


@dataclass(frozen=True, slots=True)
class TrackerOptions:
    """How faces are followed.

    `max_gap` is how many frames a face may go undetected, `confirm` how many detections make a new face believable,
    `fade` how many frames it takes to appear or vanish. `min_cutoff` (Hz) and `speed_gain` (Hz per eye distance per
    second) are the two knobs of the One-Euro filter: less of the first steadies resting faces, more of the second lets
    moving ones be followed more closely.
    """

    max_gap: int = 5
    confirm: int = 2
    fade: int = 6
    min_cutoff: float = 1.0
    speed_gain: float = 7.0


@dataclass(frozen=True, slots=True, eq=False)
class TrackedFace:
    """A face in the current frame: `id` stays with the person, `alpha` in [0, 1] is how far it has faded in.

    `age` counts the frames since the track began, 0 in its first.
    """

    id: int
    face: Face
    alpha: float
    age: int


class OneEuroFilter:
    """Adaptive low-pass of an array signal: steady at rest, quick in motion (Casiez, Roussel and Vogel, CHI 2012).

    The speed that opens the filter is the mean over the rows of the (N, 2) signal, which one jittering point moves
    less than a speed of its own would.
    """

    def __init__(self, min_cutoff: float, speed_gain: float, speed_cutoff: float = 1.0) -> None:
        self.min_cutoff, self.speed_gain, self.speed_cutoff = min_cutoff, speed_gain, speed_cutoff
        self.value: NDArray[np.float64] | None = None
        self.velocity: NDArray[np.float64] | None = None

    def __call__(self, signal: NDArray[np.float64], step: float, unit: float = 1.0) -> NDArray[np.float64]:
        """The filtered (N, 2) signal `step` seconds after the last; `unit` is the length that speed is measured in."""
        if self.value is None or self.velocity is None:
            self.value, self.velocity = signal, np.zeros_like(signal)
            return signal
        step = max(step, 1e-3)
        self.velocity = _blend(self.velocity, (signal - self.value) / step, _weight(self.speed_cutoff, step))
        speed = float(np.linalg.norm(self.velocity, axis=1).mean()) / unit
        self.value = _blend(self.value, signal, _weight(self.min_cutoff + self.speed_gain * speed, step))
        return self.value


def _weight(cutoff: float, step: float) -> float:
    """Weight of the newest sample in an exponential filter of that cutoff frequency."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * step))


def _blend(old: NDArray[np.float64], new: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    return old + weight * (new - old)


class SceneCuts:
    """Notices when a frame has nothing to do with the one before.

    A cut must change both the small picture (so that a pan over a similar scene is none) and the distribution of grey
    values (so that fast motion within a scene is none).
    """

    def __init__(self, difference: float = 22.0, overlap: float = 0.7) -> None:
        self.difference, self.overlap = difference, overlap
        self._last: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None

    def __call__(self, image: NDArray[np.uint8]) -> bool:
        """Whether (H, W, 3) `image` starts a new scene; the first image does."""
        small = cv2.resize(image, (64, 36), interpolation=cv2.INTER_AREA)
        thumbnail = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
        histogram = np.histogram(thumbnail, bins=32, range=(0, 256))[0].astype(np.float32)
        histogram = cv2.GaussianBlur(histogram[None] / histogram.sum(), (5, 1), 1)[0]  # a little light is no new scene
        last, self._last = self._last, (thumbnail, histogram)
        if last is None or last[0].shape != thumbnail.shape:
            return True
        changed = float(np.abs(thumbnail - last[0]).mean())
        common = float(np.minimum(histogram, last[1]).sum())
        return changed > self.difference and common < self.overlap


class _Track:
    def __init__(self, identity: int, face: Face, options: TrackerOptions, *, trusted: bool) -> None:
        self.id = identity
        self.options = options
        self.filter = OneEuroFilter(options.min_cutoff, options.speed_gain)
        self.hits, self.missed, self.age = 1, 0, 0
        self.trusted = trusted
        self.alpha = 1.0 if trusted else 0.0
        self.raw = face  # where the face was last seen or followed to, unsmoothed
        self.drift = np.zeros(2)  # pixels a second, of sightings
        self.hidden = False
        self.doubtful = False  # whether the face is still where it was followed to
        self.face = face
        self.filter(_outline(face), 0.0)

    @property
    def confirmed(self) -> bool:
        return self.trusted or self.hits >= self.options.confirm

    @property
    def lost(self) -> bool:
        return self.missed > self.options.max_gap or (self.missed > 0 and self.hits < self.options.confirm)

    def move(self, face: Face, step: float) -> None:
        self.raw = face
        outline = self.filter(_outline(face), step, unit=max(face.eye_distance, 1.0)).astype(np.float32)
        self.face = replace(face, points5=outline[:5], box=outline[5:].reshape(4))

    def sight(self, face: Face, step: float) -> None:
        """Take in a detection."""
        moved = (np.array(face.centre) - self.raw.centre) / step
        self.drift = _blend(self.drift, moved, _DRIFT_WEIGHT)
        self.hits, self.missed, self.hidden, self.doubtful = self.hits + 1, 0, False, False
        self.move(face, step)

    def coasted(self, step: float) -> Face:
        """Where the face would be had it kept its pace; flow would follow whoever hides it."""
        shift = (self.drift * step).astype(np.float32)
        return replace(self.raw, points5=self.raw.points5 + shift, box=self.raw.box + np.tile(shift, 2))

    def fade(self, direction: int) -> None:
        self.alpha = float(np.clip(self.alpha + direction / self.options.fade, 0, 1))


def _outline(face: Face) -> NDArray[np.float64]:
    """The five points and the box's two corners, (7, 2)."""
    return np.concatenate([face.points5, face.box.reshape(2, 2)]).astype(np.float64)


class FaceTracker:
    """Turns the detections of consecutive frames into steady, numbered faces."""

    def __init__(self, options: TrackerOptions | None = None) -> None:
        self.options = options or TrackerOptions()
        self._next_id = 0
        self._cuts = SceneCuts()
        self.reset()

    def reset(self) -> None:
        """Forget all faces, as at a scene cut. Numbers are not used again."""
        self._tracks: list[_Track] = []
        self._grey: NDArray[np.uint8] | None = None
        self._scale = 1.0
        self._time: float | None = None
        self._fresh = True

    def starts_scene(self, image: NDArray[np.uint8]) -> bool:
        """Show the next frame, (H, W, 3) uint8 RGB, before `update`; true (and all is reset) if it starts a scene."""
        cut = self._cuts(image)
        if cut:
            self.reset()
        return cut

    @property
    def unsettled(self) -> bool:
        """Whether the detector had better look at the next frame: a face is new, missed, or hard to follow."""
        return any(not track.confirmed or track.missed > 0 or track.doubtful for track in self._tracks)

    def update(
        self,
        image: NDArray[np.uint8],
        detections: list[Face] | None,
        time: float,
        look: Callable[[NDArray[np.uint8], list[Face]], list[Face] | None] | None = None,
    ) -> list[TrackedFace]:
        """Take in one frame at `time` seconds; returns its faces, the longest known first.

        `detections` is None when the detector did not look at this frame: faces are then followed by optical flow, and
        corrected by `look`, a detector's `follow`, where it is given. Faces of a scene's first frame are believed and
        shown at once: nothing can pop up there.
        """
        step = 1 / 25 if self._time is None else max(time - self._time, 1e-3)
        self._time = time
        before, self._grey = self._grey, self._shrink(image)
        predicted = [t.coasted(step) if t.hidden else self._follow(t, before) for t in self._tracks]
        if detections is None:
            predicted = self._corrected(image, predicted, look)
        matches = {} if detections is None else match_faces(predicted, detections)
        for i, track in enumerate(self._tracks):
            if detections and i not in matches and not track.hidden:
                track.hidden = any(_iou(track.raw.box, face.box) > _HIDING for face in detections)
                predicted[i] = track.coasted(step) if track.hidden else predicted[i]
            self._advance(track, predicted[i], matches.get(i), detections, step)
        for j, face in enumerate(detections or []):
            if j not in matches.values():
                self._tracks.append(self._begin(face))
        if detections is not None:
            self._fresh = False
        self._tracks = [track for track in self._tracks if not track.lost]
        return [TrackedFace(t.id, t.face, t.alpha, t.age) for t in self._tracks if t.confirmed]

    def _corrected(
        self,
        image: NDArray[np.uint8],
        predicted: list[Face],
        look: Callable[[NDArray[np.uint8], list[Face]], list[Face] | None] | None,
    ) -> list[Face]:
        """Where a second look sees the faces; one that it no longer takes for a face stays where flow has it."""
        seen = None if look is None or not predicted else look(image, predicted)
        if seen is None:
            return predicted
        corrected = []
        for track, before, after in zip(self._tracks, predicted, seen, strict=True):
            moved = float(np.linalg.norm(after.points5 - before.points5, axis=1).mean())
            believed = after.score >= _STILL_A_FACE and moved <= _MOST_CORRECTED * max(before.eye_distance, 1.0)
            track.doubtful = not believed
            use = believed and not track.hidden
            corrected.append(replace(after, score=before.score) if use else before)
        return corrected

    def _begin(self, face: Face) -> _Track:
        self._next_id += 1
        return _Track(self._next_id, face, self.options, trusted=self._fresh)

    def _advance(
        self, track: _Track, predicted: Face, match: int | None, detections: list[Face] | None, step: float
    ) -> None:
        track.age += 1
        if detections is None:
            track.move(predicted, step)
            if track.missed == 0 and track.confirmed:
                track.fade(+1)
        elif match is None:
            track.missed += 1
            track.move(predicted, step)
            track.fade(-1)
        else:
            track.sight(detections[match], step)
            if track.confirmed:
                track.fade(+1)

    def _shrink(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self._scale = min(1.0, _FLOW_SIDE / max(image.shape[:2]))
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if self._scale < 1:
            grey = cv2.resize(grey, None, fx=self._scale, fy=self._scale, interpolation=cv2.INTER_AREA)
        return np.asarray(grey, np.uint8)

    def _follow(self, track: _Track, before: NDArray[np.uint8] | None) -> Face:
        """Where the track's face moved since the last frame, by sparse optical flow under a similarity."""
        if before is None or self._grey is None or before.shape != self._grey.shape:
            return track.raw
        motion = face_motion(before, self._grey, track.raw.scaled(self._scale))
        if motion is None:
            track.doubtful = True
            return track.raw
        moved = transform_points(motion, _outline(track.raw.scaled(self._scale))).astype(np.float32)
        face = replace(track.raw, points5=moved[:5], box=moved[5:].reshape(4))
        return face.scaled(1 / self._scale)


def face_motion(before: NDArray[np.uint8], after: NDArray[np.uint8], face: Face) -> NDArray[np.float64] | None:
    """The (2, 3) similarity that takes a face of one (H, W) grey frame to the next; None if it cannot be followed.

    Pyramidal Lucas-Kanade flow on a grid over the face's box, robustly fitted (RANSAC).
    """
    x0, y0, x1, y1 = (float(v) for v in face.box)
    xs, ys = np.meshgrid(np.linspace(x0, x1, 9)[1:-1], np.linspace(y0, y1, 9)[1:-1])
    grid = np.stack([xs.ravel(), ys.ravel()], -1).astype(np.float32)
    height, width = before.shape
    grid = grid[(grid >= 0).all(1) & (grid[:, 0] < width) & (grid[:, 1] < height)]
    if len(grid) < 8:
        return None
    start: Any = grid[:, None]
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, after, start, start.copy(), winSize=(15, 15), maxLevel=3)
    kept = found.ravel() == 1
    if kept.sum() < 8:
        return None
    tolerance = max(0.5, 0.04 * face.eye_distance)
    motion, inliers = cv2.estimateAffinePartial2D(
        grid[kept], moved.reshape(-1, 2)[kept], method=cv2.RANSAC, ransacReprojThreshold=tolerance
    )
    if motion is None or inliers.sum() < 0.4 * kept.sum() or not 0.8 < np.hypot(motion[0, 0], motion[1, 0]) < 1.25:
        return None
    return np.asarray(motion, np.float64)


def match_faces(known: list[Face], seen: list[Face]) -> dict[int, int]:
    """Pair faces of two frames: index in `known` → index in `seen`, the pairing with the best overlap of all.

    The cost of a pair is one minus the boxes' IoU plus the points' mean distance in eye distances; pairs with neither
    a fair overlap nor near points are not made.
    """
    if not known or not seen:
        return {}
    from scipy.optimize import linear_sum_assignment

    cost = np.array([[_pair_cost(a, b) for b in seen] for a in known])
    rows, cols = linear_sum_assignment(cost)
    return {int(i): int(j) for i, j in zip(rows, cols) if cost[i, j] < _NO_MATCH}


def _pair_cost(a: Face, b: Face) -> float:
    overlap = _iou(a.box, b.box)
    unit = max(a.eye_distance, b.eye_distance, 1.0)
    distance = float(np.linalg.norm(a.points5 - b.points5, axis=1).mean()) / unit
    if overlap < 0.25 and distance > 0.5:
        return _NO_MATCH
    return 1 - overlap + distance


def _iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    if width <= 0 or height <= 0:
        return 0.0
    common = float(width * height)
    area = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]))
    return common / (area - common)


def warped_difference(
    previous: NDArray[np.uint8],
    following: NDArray[np.uint8],
    points_previous: NDArray[np.floating],
    points_following: NDArray[np.floating],
    *,
    size: int = 128,
) -> float:
    """Flicker of a face: mean absolute difference of two frames in its region, in grey levels, motion taken out.

    The face of the previous frame is cut out on a `size`² template crop; the following frame is cut along the same
    template after the similarity between the two (5, 2) point sets, so that only what changed *in* the face counts.
    """
    to_crop = align_matrix(points_previous, size)
    back = fit_similarity(points_following, points_previous)
    linear = to_crop[:, :2] @ back[:, :2]
    following_to_crop = np.column_stack([linear, to_crop[:, :2] @ back[:, 2] + to_crop[:, 2]])
    first = crop_by_matrix(previous, to_crop, size)
    second = crop_by_matrix(following, following_to_crop, size)
    both = first.valid & second.valid
    if not both.any():
        return 0.0
    difference = np.abs(first.image.astype(np.float32) - second.image.astype(np.float32)).mean(-1)
    return float(difference[both].mean())
