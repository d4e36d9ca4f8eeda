"""What a face is like: its box, 5 and 68 landmarks, pose, and which pixel belongs to which part of it.

Everything comes in photo pixels, whatever crops the networks looked at. Networks run on batches of faces, and masks are
cut to their face, so that a picture of a thousand faces needs little more memory than one of thirty-two.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from ..errors import UsageError
from ..face import Pose
from ..geometry.similarity import invert, transform_points
from ..geometry.turns import turned_by, upright
from ..systems.base import batches
from .choosing import MIN_SCORE, sure_faces
from .order import reading_order
from .traits import Traits, reader_for, traits_dict, traits_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ..face import Face
    from ..io.image import Photo
    from ..tasks.analyse import AnalyseOptions, Landmarker, Parser, PoseEstimator
    from ..tasks.declare import NetworkChoice, Networks, Task
    from ..tasks.detect import Detector

    Floats = NDArray[np.float64]
    Box = tuple[int, int, int, int]

BATCH = 32

# of the 68 points, those that hardly move with the expression
_RIGID = (27, 28, 29, 30, 31, 33, 35, 36, 39, 42, 45)
_VIEWING_DISTANCE = 6.0  # focal length assumed for the pose, in diagonals of the landmarks
_LINES = ((0, 17), (17, 22), (22, 27), (27, 31), (31, 36), (36, 42), (42, 48), (48, 60), (60, 68))
_CLOSED = ((36, 42), (42, 48), (48, 60), (60, 68))


@dataclass(frozen=True, slots=True, eq=False)
class FaceMask:
    """Classes of the pixels of a face.

    `labels` (h, w) uint8 are those of the photo's part `box` (x0, y0, x1, y1), right and lower edge exclusive; 0 is
    background, as is everything outside the box. `classes` names the numbers, where known.
    """

    box: Box
    labels: NDArray[np.uint8]
    classes: tuple[str, ...] = ()

    def in_photo(self, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """The same for a whole photo of `shape` (height, width)."""
        whole = np.zeros(shape, np.uint8)
        x0, y0, x1, y1 = self.box
        whole[y0:y1, x0:x1] = self.labels
        return whole

    def to_dict(self) -> dict[str, Any]:
        """The box, and how many pixels of the photo each class that occurs has."""
        numbers, counts = np.unique(self.labels, return_counts=True)
        names = [self.classes[n] if n < len(self.classes) else str(n) for n in numbers]
        return {"box": list(self.box), "pixels": dict(zip(names, counts.tolist()))}


@dataclass(frozen=True, slots=True, eq=False)
class FaceAnalysis:
    """What is known about one face of a photo, in photo pixels.

    `points68` (68, 2) are in iBUG order; `confidence` (68,) is the probability that each lies within about a tenth of
    the eye distance of its true place, with the landmarker FAN the height of a heat map's peak. `pose` comes from the
    network that was chosen for it, else from the detector or, where it has none, from the 68 points; `pose_from` says
    so. `traits` is what else was asked of it, `asked` names the fields of the record it fills.
    """

    index: int
    face: Face
    points68: NDArray[np.float32]
    confidence: NDArray[np.float32]
    pose: Pose
    pose_from: Literal["detector", "landmarks", "network"]
    mask: FaceMask | None = None
    traits: Traits | None = None
    asked: tuple[str, ...] = ()

    def line(self) -> str:
        """One line for people."""
        box = ",".join(str(round(float(v))) for v in self.face.box)
        pose = f"yaw {self.pose.yaw:.0f}, pitch {self.pose.pitch:.0f}, roll {self.pose.roll:.0f}"
        parts = "" if self.mask is None else f"; {', '.join(self.mask.to_dict()['pixels'])}"
        said = "" if self.traits is None else f"; {traits_line(self.traits, self.asked)}"
        return f"box {box}, {pose}, landmarks {self.confidence.mean():.0%} sure{parts}{said}"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words, ready for JSON."""
        face = replace(self.face, pose=self.pose).to_dict()
        return {
            "index": self.index,
            **face,
            "pose_from": self.pose_from,
            "points68": [[round(float(x), 2), round(float(y), 2)] for x, y in self.points68],
            "confidence": [round(float(c), 3) for c in self.confidence],
            "mask": None if self.mask is None else self.mask.to_dict(),
            **({} if self.traits is None else traits_dict(self.traits, self.asked)),
        }


def load(session: Networks, task: Task, choice: NetworkChoice) -> Callable[[Photo, AnalyseOptions], list[FaceAnalysis]]:
    """The analyser as a callable of photos; the networks of traits are loaded when they are first asked for."""
    analyser = load_analyser(session, task, choice)

    def analyse(photo: Photo, options: AnalyseOptions) -> list[FaceAnalysis]:
        found = analyser(photo, min_score=options.min_score)
        reader, asked = reader_for(session, choice, options)
        if not asked:
            return found
        faces = [replace(analysis.face, pose=analysis.pose) for analysis in found]
        traits = reader.read(photo.rgb(), faces)
        return [replace(analysis, traits=said, asked=asked) for analysis, said in zip(found, traits)]

    return analyse


def load_analyser(session: Networks, task: Task, choice: NetworkChoice) -> Analyser:
    """Detector, landmarker, parser and estimator of pose of a choice of networks."""
    landmarker = session.of_task("landmarks", choice.landmarker or "facewarp", choice.device)
    poses = session.of_task("pose", choice.head_pose, choice.device) if choice.head_pose else None
    return Analyser(session.detector(choice), landmarker, session.chosen(task, choice), poses)


class Analyser:
    """Detector, landmarker and perhaps parser and estimator of pose, loaded once and used on many photos."""

    def __init__(
        self,
        detector: Detector,
        landmarker: Landmarker,
        parser: Parser | None = None,
        pose_estimator: PoseEstimator | None = None,
    ) -> None:
        self.detector, self.landmarker, self.parser = detector, landmarker, parser
        self.pose_estimator = pose_estimator

    def __call__(self, photo: Photo, *, min_score: float = MIN_SCORE) -> list[FaceAnalysis]:
        """The faces of a photo in reading order; empty where there are none.

        Photos may be grey or have an alpha channel. Detections below `min_score`, without an area or with no part of
        them in the picture are left out.
        """
        rgb = photo.rgb()
        found = sure_faces(self.detector.detect(rgb), min_score)
        return self.of_faces(rgb, reading_order([face for face in found if is_in_picture(face, rgb.shape[:2])]))

    def of_faces(self, image: NDArray[np.uint8], faces: Sequence[Face]) -> list[FaceAnalysis]:
        """The analysis of given faces of an (H, W, 3) uint8 RGB photo, in their order.

        Raises UsageError for a face without an area or outside the picture.
        """
        for number, face in enumerate(faces):
            if not is_in_picture(face, image.shape[:2]):
                raise UsageError(f"face {number} has no area inside the picture of {image.shape[1]} x {image.shape[0]}")
        analyses = [
            FaceAnalysis(number, face, points, sure, *_pose_of(face, points))
            for number, (face, (points, sure)) in enumerate(zip(faces, self.landmarker.locate(image, faces)))
        ]
        if self.pose_estimator is not None:
            poses = self.pose_estimator.poses(image, faces)
            analyses = [replace(found, pose=pose, pose_from="network") for found, pose in zip(analyses, poses)]
        if self.parser is None:
            return analyses
        masks = self._masks(image, faces)
        return [replace(analysis, mask=mask) for analysis, mask in zip(analyses, masks)]

    def _masks(self, image: NDArray[np.uint8], faces: Sequence[Face]) -> list[FaceMask]:
        assert self.parser is not None
        crop, shape = self.parser.preprocess.crop, image.shape[:2]
        if crop.kind == "whole":
            return self._parts_of_whole(image, faces)
        found = []
        for group in batches(faces, BATCH):
            crops = [crop.cut(image, face) for face in group]
            there = [face.moved(cut.matrix) for face, cut in zip(group, crops)]
            for cut, labels in zip(crops, self.parser.parse(np.stack([cut.image for cut in crops]), faces=there)):
                found.append(FaceMask(*_mask_in_photo(labels, cut.matrix, shape), self.parser.classes))
        return found

    def _parts_of_whole(self, image: NDArray[np.uint8], faces: Sequence[Face]) -> list[FaceMask]:
        """What a parser of whole photos says around each face, with room for hair and neck."""
        assert self.parser is not None
        if not faces:
            return []
        turn = max(faces, key=lambda face: face.eye_distance).turn
        labels = turned_by(self.parser.parse(upright(image, turn)[None])[0], turn)
        boxes = [_surroundings(face, image.shape) for face in faces]
        return [FaceMask(box, labels[box[1] : box[3], box[0] : box[2]].copy(), self.parser.classes) for box in boxes]


def is_in_picture(face: Face, shape: tuple[int, ...]) -> bool:
    """Whether a face has an area and a part of it lies in a picture of `shape` (height, width)."""
    if not (np.isfinite(face.box).all() and np.isfinite(face.points5).all()):
        return False
    x0, y0, x1, y1 = (float(v) for v in face.box)
    return x1 > x0 and y1 > y0 and x1 > 0 and y1 > 0 and x0 < shape[1] and y0 < shape[0]


def _pose_of(face: Face, points68: NDArray[np.floating]) -> tuple[Pose, Literal["detector", "landmarks"]]:
    if face.pose is not None:
        return face.pose, "detector"
    return pose_from_landmarks(points68), "landmarks"


def pose_from_landmarks(points68: NDArray[np.floating]) -> Pose:
    """The head's pose from 68 landmarks (68, 2), in any unit: a rigid average face is fitted to brow, eyes and nose.

    Angles are relative to the line of sight, seen from about six face lengths away; accurate to some degrees, as the
    face is not the average one. Coinciding points give a pose of zeros.
    """
    points = np.asarray(points68, np.float64)
    diagonal = float(np.linalg.norm(np.ptp(points, axis=0)))
    if not np.isfinite(diagonal) or diagonal < 1e-6:
        return Pose(0.0, 0.0, 0.0)
    focal, centre = _VIEWING_DISTANCE * diagonal, points.mean(0)
    camera = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
    model = _rigid_face()
    _, turn, _ = cv2.solvePnP(model, points[list(_RIGID)], camera, np.zeros(4), flags=cv2.SOLVEPNP_SQPNP)
    rotation = np.asarray(cv2.Rodrigues(turn)[0], np.float64)
    flip = np.diag([1.0, -1.0, -1.0])  # OpenCV's camera looks along +z with y down, the face model's along −z with y up
    return _as_pose(flip @ rotation @ flip)


def _as_pose(rotation: Floats) -> Pose:
    import torch

    from ..render.camera import pose_of_rotation

    yaw, pitch, roll = pose_of_rotation(torch.from_numpy(rotation)[None])[0].tolist()
    return Pose(yaw, pitch, roll)


@lru_cache(maxsize=1)
def _rigid_face() -> Floats:
    """The rigid points (11, 3) of the average face in OpenCV's axes: x right, y down, z away from the viewer."""
    from ..render.coarse import coarse_face

    data = coarse_face()
    assert data.landmarks68 is not None
    points = np.asarray(data.mean, np.float64)[data.landmarks68]
    return np.ascontiguousarray((points[list(_RIGID)] - points.mean(0)) * (1, -1, -1))


def _surroundings(face: Face, shape: tuple[int, ...]) -> Box:
    """The part of a photo of `shape` around a face: a square twice as long as the longer side of its box."""
    half = max(face.width, face.height)
    (x, y), (height, width) = face.centre, shape[:2]
    x0, y0 = (int(max(0, np.floor(v - half))) for v in (x, y))
    return x0, y0, int(min(width, np.ceil(x + half))), int(min(height, np.ceil(y + half)))


def _mask_in_photo(labels: NDArray[np.uint8], matrix: Floats, shape: tuple[int, ...]) -> tuple[Box, NDArray[np.uint8]]:
    """The part of the photo a crop's labels cover, and the labels there; nearest, so that no class is made up."""
    rows, columns = np.nonzero(labels)
    if len(rows) == 0:
        return (0, 0, 0, 0), np.zeros((0, 0), np.uint8)
    low, high = (columns.min() - 1, rows.min() - 1), (columns.max() + 1, rows.max() + 1)
    corners = np.array([[low[0], low[1]], [high[0], low[1]], [low[0], high[1]], [high[0], high[1]]], np.float64)
    placed = transform_points(invert(matrix), corners)
    x0, y0 = (int(max(0, v)) for v in np.floor(placed.min(0)))
    x1, y1 = (int(min(side, v)) for side, v in zip(shape[1::-1], np.ceil(placed.max(0)) + 1))
    if x1 <= x0 or y1 <= y0:
        return (0, 0, 0, 0), np.zeros((0, 0), np.uint8)
    to_box = invert(matrix)
    to_box[:, 2] -= (x0, y0)
    return (x0, y0, x1, y1), np.asarray(
        cv2.warpAffine(labels, to_box, (x1 - x0, y1 - y0), flags=cv2.INTER_NEAREST), np.uint8
    )


def to_json(analyses: Sequence[FaceAnalysis], photo: Photo | None = None) -> str:
    """The faces as JSON, with the photo's name and size where it is given."""
    faces: dict[str, Any] = {"faces": [analysis.to_dict() for analysis in analyses]}
    if photo is not None:
        faces = {"source": Path(photo.source).name, "size": [photo.width, photo.height]} | faces
    return json.dumps(faces, indent=2, ensure_ascii=False)


def draw_analysis(image: NDArray[np.uint8], analyses: Sequence[FaceAnalysis]) -> NDArray[np.uint8]:
    """A copy of a photo, (H, W), (H, W, 3) or (H, W, 4) uint8 RGB, as (H, W, 3) with the faces drawn on it.

    Landmarks go from red (not sure) to green (sure); parts of a mask are tinted; the caption is the number and pose.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        raise UsageError(f"a picture to draw on is uint8 grey, RGB or RGBA, not {image.shape} {image.dtype}")
    grey = image.ndim == 2 or image.shape[2] == 1
    canvas = np.repeat(image.reshape(*image.shape[:2], 1), 3, 2) if grey else image[..., :3].copy()
    canvas = np.ascontiguousarray(canvas)
    for analysis in analyses:
        if analysis.mask is not None:
            _tint(canvas, analysis.mask)
    for analysis in analyses:
        _draw_face(canvas, analysis)
    return canvas


def _tint(canvas: NDArray[np.uint8], mask: FaceMask) -> None:
    """Mix each class's colour into the picture, in place; neighbours in number differ in hue."""
    hues = (np.arange(256) * 67 % 180).astype(np.uint8)
    colours = cv2.cvtColor(
        np.stack([hues, np.full(256, 200), np.full(256, 255)], 1).astype(np.uint8)[None], cv2.COLOR_HSV2RGB
    )[0]
    x0, y0, x1, y1 = mask.box
    part, shown = canvas[y0:y1, x0:x1], mask.labels > 0
    part[shown] = (0.65 * part[shown] + 0.35 * np.asarray(colours)[mask.labels[shown]]).astype(np.uint8)


def _draw_face(canvas: NDArray[np.uint8], analysis: FaceAnalysis) -> None:
    """Box, lines between neighbouring points, points and caption, in place; sizes follow the face's."""
    face = analysis.face
    stroke = int(np.clip(min(face.width, face.height) / 150, 1, 8))
    box = np.clip(face.box, -1, max(canvas.shape) + 1).round().astype(int)
    cv2.rectangle(canvas, box[:2].tolist(), box[2:].tolist(), (40, 200, 80), stroke)
    points = np.clip(analysis.points68, -1e4, 1e6)
    for start, end in _LINES:
        line = (points[start:end] * 16).round().astype(np.int32)
        closed = (start, end) in _CLOSED
        cv2.polylines(canvas, [line], closed, (250, 250, 250), 1, cv2.LINE_AA, shift=4)
    for (x, y), sure in zip(points, analysis.confidence):
        colour = (round(255 * (1 - float(sure))), round(220 * float(sure)), 40)
        cv2.circle(canvas, (round(float(x) * 16), round(float(y) * 16)), 16 * stroke, colour, -1, cv2.LINE_AA, shift=4)
    pose = analysis.pose
    text = f"{analysis.index}: {pose.yaw:.0f} {pose.pitch:.0f} {pose.roll:.0f}"
    place = (int(max(0, box[0])), int(max(12, box[1] - 4)))
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * stroke, (40, 200, 80), stroke, cv2.LINE_AA)
