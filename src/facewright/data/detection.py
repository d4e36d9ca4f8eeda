"""Scenes for training face detectors: labelled faces composed over backgrounds at every size, angle and quality.

A scene is made of whole photos (natural context), cut-out heads (any context) and, so that a seam or a feathered edge
never betrays a face, of non-face patches pasted the same way. Box, points and pose of every face follow its transform.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..geometry.resample import crop_by_matrix
from ..geometry.similarity import scale_source
from ..io.sources import note
from ..systems.detect.mos import refiner
from .faces import FaceCollection, data_root, open_faces
from .split import Split, is_validation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray

    from ..face import Face

    Image = NDArray[np.uint8]
    Floats = NDArray[np.float64]

# columns of a row of `faces`
BOX, POINTS, POSE, LABEL = slice(0, 4), slice(4, 14), slice(14, 17), 17
COLUMNS = 18
FACE, BOX_ONLY, IGNORED, PADDING = 1.0, -1.0, 0.0, -2.0

LANDMARK_OFFSET = 0.045
MIRRORED_POINTS = [1, 0, 2, 4, 3]


@dataclass(frozen=True, slots=True, eq=False)
class LabelledFace:
    """A photo and its face: `box` (x0, y0, x1, y1), `points` (5, 2), `pose` (yaw, pitch, roll) as in `face.Pose`."""

    image: Image
    box: Floats
    points: Floats
    pose: Floats

    @property
    def size(self) -> float:
        """Geometric mean of the box sides in pixels: what "face size" means everywhere in detection."""
        return box_size(self.box)

    def mirrored(self) -> LabelledFace:
        """The mirror image: points swap sides, yaw and roll change sign."""
        last = self.image.shape[1] - 1
        x0, y0, x1, y1 = self.box
        points = self.points[MIRRORED_POINTS] * (-1, 1) + (last, 0)
        box = np.array([last - x1, y0, last - x0, y1])
        return replace(self, image=self.image[:, ::-1], box=box, points=points, pose=self.pose * (-1, 1, -1))


@dataclass(frozen=True, slots=True)
class Placement:
    """Similarity that puts a face at `centre` of the scene, `scale`d and turned clockwise by `angle` degrees."""

    centre: tuple[float, float]
    scale: float
    angle: float

    def matrix(self, face_centre: Floats) -> Floats:
        """The (2, 3) photo→scene matrix."""
        turn = np.radians(self.angle)
        linear = self.scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        return np.column_stack([linear, np.asarray(self.centre) - linear @ face_centre])


def box_size(box: Floats) -> float:
    """Geometric mean of the sides of (x0, y0, x1, y1)."""
    return float(np.sqrt(max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])))


def box_centre(box: Floats) -> Floats:
    return (box[:2] + box[2:]) / 2


def placed_row(face: LabelledFace, placement: Placement) -> NDArray[np.float32]:
    """The label row of a face after its placement.

    The box becomes the bounds of the turned ellipse inscribed in it (the bounds of the turned box would grow with the
    angle, a head does not). In-plane rotation adds to roll.
    """
    centre = box_centre(face.box)
    matrix = placement.matrix(centre)
    width, height = (face.box[2:] - face.box[:2]) * placement.scale / 2
    turn = np.radians(placement.angle)
    half = np.hypot([width * np.cos(turn), width * np.sin(turn)], [height * np.sin(turn), height * np.cos(turn)])
    row = np.empty(COLUMNS, np.float32)
    row[BOX] = np.concatenate([placement.centre - half, placement.centre + half])
    row[POINTS] = (face.points @ matrix[:, :2].T + matrix[:, 2]).ravel()
    row[POSE] = face.pose + np.array([0, 0, placement.angle])
    row[LABEL] = FACE
    return row


class FaceSource:
    """Single faces of the labelled collections, by number."""

    def __init__(self, split: Split, root: str | Path | None = None) -> None:
        self.collections = [open_faces(name, split, root) for name in ("lfw", "utkface")]
        self.rows = [c.rows[c.labels["faces_in_image"][c.rows] == 1] for c in self.collections]

    def lfw(self, rng: Generator) -> LabelledFace:
        """A press photo with shoulders and background around the face."""
        return self._face(0, rng)

    def any(self, rng: Generator) -> LabelledFace:
        """A face of either collection (UTKFace is cropped tightly)."""
        return self._face(int(rng.random() < 0.5), rng)

    def _face(self, which: int, rng: Generator) -> LabelledFace:
        rows = self.rows[which]
        face = labelled_face(self.collections[which], int(rows[rng.integers(len(rows))]))
        return face.mirrored() if rng.random() < 0.5 else face


def labelled_face(collection: FaceCollection, row: int) -> LabelledFace:
    """A row of a collection; its pitch (down) and roll (counter-clockwise) change sign to `face.Pose`'s.

    The five points come from the 68 (iBUG order): eye centres, nose tip, mouth corners. The collections' own five
    points are off by up to a tenth of the eye distance.
    """
    labels = collection.labels
    x, y, width, height = np.asarray(labels["box_xywh"][row], np.float64)
    yaw, pitch, roll = np.asarray(labels["pose_yaw_pitch_roll_deg"][row], np.float64)
    points = five_points(np.asarray(labels["landmarks68"][row], np.float64))
    pose = np.array([yaw, -pitch, -roll])
    return LabelledFace(collection.read(row), np.array([x, y, x + width, y + height]), points, pose)


def five_points(landmarks68: Floats) -> Floats:
    """Eye centres, nose tip and mouth corners (5, 2) of 68 landmarks in iBUG order, without the labels' common offset.

    The collections' landmarks sit `LANDMARK_OFFSET` eye distances too far right and too low: a network trained on
    pictures and mirror images alike misses them by just that much, always to the left, and eyes show it in both axes.
    """
    eyes = landmarks68[36:42].mean(0), landmarks68[42:48].mean(0)
    points = np.stack([*eyes, landmarks68[30], landmarks68[48], landmarks68[54]])
    return np.asarray(points - LANDMARK_OFFSET * np.hypot(*(eyes[1] - eyes[0])), np.float64)


def load_backgrounds(split: Split, root: str | Path | None = None) -> list[Image]:
    """The faceless pictures of a split ((H, W, 3) RGB), split by hash of their names."""
    pictures = []
    archive = data_root(root) / "backgrounds.tar"
    note(archive)
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.isfile() or is_validation(Path(member.name).stem) != (split == "val"):
                continue
            stream = tar.extractfile(member)
            assert stream is not None
            bgr = np.asarray(cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_COLOR), np.uint8)
            pictures.append(np.ascontiguousarray(bgr[..., ::-1]))
    return pictures


class Scenes(Dataset[dict[str, Tensor]]):
    """Composed scenes; scene i is a function of (seed, split, i) alone.

    An item holds `image` (3, size, size) uint8 RGB and `faces` (M, 18): box, points, pose (degrees, `face.Pose`'s
    convention) and label (1 face, 0 ignored: too small, too large or hardly visible). Face sizes (geometric mean of
    the box sides) are log-uniform between `smallest` and `largest` pixels.
    """

    def __init__(
        self,
        split: Split,
        root: str | Path | None = None,
        *,
        seed: int = 0,
        size: int = 256,
        smallest: float = 10,
        largest: float = 220,
        empty: float = 0.1,
        length: int = 1_000_000,
    ) -> None:
        self.split, self.seed, self.size, self.length = split, seed, size, length
        self.smallest, self.largest, self.empty = smallest, largest, empty
        self.source = FaceSource(split, root)
        self.backgrounds = load_backgrounds(split, root)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image, faces = self.scene(index)
        return {"image": torch.from_numpy(image).permute(2, 0, 1).contiguous(), "faces": torch.from_numpy(faces)}

    @staticmethod
    def collate(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Stack scenes; `faces` (N, M, 18) is filled up with rows labelled −2."""
        most = max(1, *(len(item["faces"]) for item in items))
        faces = torch.zeros(len(items), most, COLUMNS)
        faces[..., LABEL] = PADDING
        for row, item in zip(faces, items):
            row[: len(item["faces"])] = item["faces"]
        return {"image": torch.stack([item["image"] for item in items]), "faces": faces}

    def scene(self, index: int) -> tuple[Image, NDArray[np.float32]]:
        """Picture (size, size, 3) RGB and label rows (M, 18) of scene `index`."""
        rng = np.random.default_rng((self.seed, int(self.split == "val"), index))
        canvas = self._background(rng)
        rows: list[NDArray[np.float32]] = []
        if rng.random() >= self.empty:
            style = rng.random()
            if style < 0.65:
                rows += self._add_photos(canvas, rng)
            if style > 0.4:
                rows += self._add_heads(canvas, rows, rng)
        for _ in range(rng.integers(0, 4)):
            self._add_decoy(canvas, rows, rng)
        for row in rows:
            if rng.random() < 0.15:
                self.occlude(canvas, row, rng)
        canvas, sharpness = photograph(canvas, rng)
        return canvas, self._judged(rows, sharpness)

    def _judged(self, rows: list[NDArray[np.float32]], sharpness: float) -> NDArray[np.float32]:
        """Rows with those nobody should be judged by marked as ignored, and invisible ones left out."""
        kept = []
        for row in rows:
            visible = visible_share(row[BOX], (0, 0, self.size, self.size))
            size = box_size(row[BOX].astype(np.float64))
            if visible < 0.05:
                continue
            if visible < 0.7 or size * sharpness < 0.95 * self.smallest or size > 1.1 * self.largest:
                row[LABEL] = IGNORED
            kept.append(row)
        return np.stack(kept) if kept else np.zeros((0, COLUMNS), np.float32)

    def _face_size(self, rng: Generator, low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(max(low, self.smallest)), np.log(min(high, self.largest)))))

    def _background(self, rng: Generator) -> Image:
        """A crop of a faceless picture, of the lower part of a press photo, or a plain gradient."""
        draw = rng.random()
        if draw < 0.1:
            low, high = rng.uniform(0, 255, (2, 3))
            ramp = np.linspace(0, 1, self.size)[:, None, None] * np.ones((1, self.size, 1))
            plain = low + (high - low) * (ramp if rng.random() < 0.5 else ramp.transpose(1, 0, 2))
            return np.asarray(plain, np.uint8)
        return self.patch(rng, self.size, self.size)

    def patch(self, rng: Generator, height: int, width: int) -> Image:
        """A faceless patch of the asked size."""
        picture = self._below_face(rng) if rng.random() < 0.3 else None
        if picture is None:
            picture = self.backgrounds[rng.integers(len(self.backgrounds))]
        share = rng.uniform(0.35, 1.0)
        rows, columns = (max(8, int(share * side)) for side in picture.shape[:2])
        y, x = rng.integers(picture.shape[0] - rows + 1), rng.integers(picture.shape[1] - columns + 1)
        crop = picture[y : y + rows, x : x + columns]
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        return np.array(cv2.resize(crop, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)

    def _below_face(self, rng: Generator) -> Image | None:
        """Clothes, hands, microphones: the part of a press photo under the chin."""
        face = self.source.lfw(rng)
        top = int(face.box[3]) + 6
        return face.image[top:] if top < face.image.shape[0] - 40 else None

    def _add_photos(self, canvas: Image, rng: Generator) -> list[NDArray[np.float32]]:
        """Fill the scene with a grid of one to thirty-six whole photos, each cropped by its cell."""
        cells = int(rng.choice([1, 1, 1, 2, 2, 3, 4, 6]))
        edges = np.linspace(0, self.size, cells + 1).astype(int)
        rows = []
        for top, bottom in zip(edges, edges[1:]):
            for left, right in zip(edges, edges[1:]):
                if cells > 1 and rng.random() < 0.15:
                    continue
                cell = (int(left), int(top), int(right), int(bottom))
                rows.append(self._add_photo(canvas, cell, rng))
        return [row for row in rows if row is not None]

    def _add_photo(self, canvas: Image, cell: tuple[int, int, int, int], rng: Generator) -> NDArray[np.float32] | None:
        left, top, right, bottom = cell
        side = right - left
        face = self.source.lfw(rng)
        target = self._face_size(rng, 0.16 * side, 0.8 * side)
        if side == self.size and rng.random() < 0.12:
            target = rng.uniform(1.0, 2.6) * side
        jitter = max(0.05, 0.5 - 0.45 * target / side) * side
        centre = np.array([(left + right) / 2, (top + bottom) / 2]) + rng.uniform(-jitter, jitter, 2)
        placement = Placement((float(centre[0]), float(centre[1])), target / face.size, draw_angle(rng))
        draw(canvas, face.image, placement.matrix(box_centre(face.box)), None, cell)
        row = placed_row(face, placement)
        visible = visible_share(row[BOX], cell)
        if visible < 0.7:
            row[LABEL] = IGNORED
        return row if visible > 0.05 else None

    def _add_heads(self, canvas: Image, rows: list[NDArray[np.float32]], rng: Generator) -> list[NDArray[np.float32]]:
        """Paste one to eight cut-out heads where they hide no other face."""
        added: list[NDArray[np.float32]] = []
        for _ in range(rng.integers(1, 9)):
            target = self._face_size(rng, self.smallest, self.largest)
            centre = rng.uniform(0.25 * target, self.size - 0.25 * target, 2)
            reach = 0.75 * target
            if any(_near(row[BOX], centre, reach) for row in rows + added):
                continue
            face = self.source.any(rng)
            placement = Placement((float(centre[0]), float(centre[1])), target / face.size, draw_angle(rng))
            draw_over(canvas, face, placement, head_mask(face, rng), rows + added)
            added.append(placed_row(face, placement))
        return added

    def _add_decoy(self, canvas: Image, rows: list[NDArray[np.float32]], rng: Generator) -> None:
        """Paste a faceless patch with the same mask a head would have."""
        target = self._face_size(rng, self.smallest, 0.6 * self.largest)
        centre = rng.uniform(0, self.size, 2)
        if any(_near(row[BOX], centre, 0.75 * target) for row in rows):
            return
        side = 160
        patch = self.patch(rng, side, side)
        box = np.array([side * 0.25, side * 0.2, side * 0.75, side * 0.85])
        decoy = LabelledFace(patch, box, np.zeros((5, 2)), np.zeros(3))
        placement = Placement((float(centre[0]), float(centre[1])), target / decoy.size, draw_angle(rng))
        draw_over(canvas, decoy, placement, head_mask(decoy, rng), rows)

    def occlude(self, canvas: Image, row: NDArray[np.float32], rng: Generator) -> None:
        """Cover one side of a face: a hand, a scarf, a hat, the edge of something."""
        x0, y0, x1, y1 = row[BOX]
        depth = rng.uniform(0.1, 0.33)
        side = rng.integers(4)
        if side == 0:
            x1 = x0 + depth * (x1 - x0)
        elif side == 1:
            x0 = x1 - depth * (x1 - x0)
        elif side == 2:
            y1 = y0 + depth * (y1 - y0)
        else:
            y0 = y1 - depth * (y1 - y0)
        left, top = max(0, int(x0)), max(0, int(y0))
        right, bottom = min(self.size, int(x1)), min(self.size, int(y1))
        if right - left > 1 and bottom - top > 1:
            canvas[top:bottom, left:right] = self.patch(rng, bottom - top, right - left)


class Crops(Dataset[dict[str, Tensor]]):
    """Upright face crops as a detector's coarse points would cut them, and crops of something else.

    Item i, a function of (seed, split, i) alone, holds `image` (3, 64, 64) uint8 RGB, `face` (0 or 1), `points` (5, 2)
    as offsets from the template in template eye distances, `angles` (3) in 30°; see `systems.detect.refiner`.
    `negatives` is the share of crops without a whole face.
    """

    def __init__(
        self,
        split: Split,
        root: str | Path | None = None,
        *,
        seed: int = 0,
        negatives: float = 0.5,
        length: int = 10_000_000,
    ) -> None:
        self.scenes = Scenes(split, root, seed=seed)
        self.split, self.seed, self.negatives, self.length = split, seed, negatives, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, 2 + int(self.split == "val"), index))
        is_face = rng.random() >= self.negatives
        face = self.scenes.source.any(rng)
        matrix = refiner.CROP.align(_coarse(face.points, rng, wrong=not is_face))
        if is_face or rng.random() < 0.25:
            crop = self._cut(face, matrix, rng)
        else:
            crop = self._window(face, rng) if rng.random() < 0.85 else _ball(rng)
        crop, _ = photograph(crop, rng)
        points = (face.points @ matrix[:, :2].T + matrix[:, 2] - refiner.TEMPLATE) / refiner.EYE_DISTANCE
        angles = (face.pose + np.array([0, 0, refiner.rotation(matrix)])) / refiner.ANGLE_UNIT
        return {
            "image": torch.from_numpy(crop).permute(2, 0, 1).contiguous(),
            "face": torch.tensor(float(is_face)),
            "points": torch.from_numpy(points.astype(np.float32)),
            "angles": torch.from_numpy(angles.astype(np.float32)),
        }

    def _window(self, face: LabelledFace, rng: Generator) -> Image:
        """Part of a faceless picture, from a few pixels to all of it; or a piece of a photo too small to hold its face.

        Pieces of faces, hair, clothes and lettering, enlarged, are what a detector mistakes for faces in large photos.
        """
        backgrounds = self.scenes.backgrounds
        picture, smallest = backgrounds[rng.integers(len(backgrounds))], 12.0
        largest = float(min(picture.shape[:2]))
        if rng.random() < 0.6:
            picture, smallest, largest = face.image, 8.0, 0.5 * face.size
        side = float(np.exp(rng.uniform(np.log(smallest), np.log(largest))))
        centre = rng.uniform((0, 0), picture.shape[1::-1])
        turn = np.radians(rng.normal(0, 12))
        linear = refiner.SIZE / side * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        matrix = np.column_stack([linear, np.full(2, refiner.SIZE / 2) - linear @ centre])
        return crop_by_matrix(picture, matrix, refiner.SIZE, "arcface").image.copy()

    def _cut(self, face: LabelledFace, matrix: Floats, rng: Generator) -> Image:
        """The crop with something else beyond the photo's border, coarser for faces that were small, partly hidden."""
        whole = crop_by_matrix(face.image, matrix, refiner.SIZE, "arcface")
        crop = whole.image.copy()
        if rng.random() < 0.7:
            crop[~whole.valid] = self.scenes.patch(rng, refiner.SIZE, refiner.SIZE)[~whole.valid]
        if rng.random() < 0.2:
            row = np.zeros(COLUMNS, np.float32)
            row[BOX] = (6, 2, 58, 62)
            self.scenes.occlude(crop, row, rng)
        if rng.random() < 0.5:
            side = int(np.exp(rng.uniform(np.log(14), np.log(refiner.SIZE))))
            small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
            crop = np.asarray(cv2.resize(small, (refiner.SIZE, refiner.SIZE), interpolation=cv2.INTER_LINEAR), np.uint8)
        return crop


def _ball(rng: Generator) -> Image:
    """A round shaded thing without features: what a detector takes for a face most readily."""
    size = refiner.SIZE
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    turn = rng.uniform(0, np.pi)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    distance = np.hypot(u / rng.uniform(0.25, 0.6), v / rng.uniform(0.25, 0.6))
    alpha = np.clip((1 - distance) / rng.uniform(0.05, 0.8), 0, 1)[..., None]
    shade = np.clip(1 + rng.uniform(-1.2, 1.2) * x + rng.uniform(-1.2, 1.2) * y, 0.1, 2)[..., None]
    colour, around = rng.uniform(40, 255, 3), rng.uniform(0, 255, 3) * rng.uniform(0, 1)
    return np.asarray(np.clip(alpha * shade * colour + (1 - alpha) * around, 0, 255), np.uint8)


def _coarse(points: Floats, rng: Generator, *, wrong: bool) -> Floats:
    """Points as a detector gives them; `wrong` ones, shifted or scaled so far that the crop shows no whole face."""
    eye_distance = max(1.0, float(np.hypot(*(points[1] - points[0]))), 0.6 * float(np.hypot(*(points[3] - points[0]))))
    spread = 0.04 if rng.random() < 0.5 else 0.12
    centre = points.mean(0)
    turn, scale = np.radians(rng.normal(0, 60 * spread)), np.exp(rng.normal(0, spread))
    shift = rng.normal(0, 0.8 * spread * eye_distance, 2)
    if wrong and rng.random() < 0.5:
        scale *= rng.choice([rng.uniform(0.25, 0.5), rng.uniform(2.2, 4.0)])
    elif wrong:
        direction = rng.uniform(0, 2 * np.pi)
        shift = rng.uniform(1.2, 2.5) * eye_distance * np.array([np.cos(direction), np.sin(direction)])
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    noise = rng.normal(0, spread * eye_distance, (5, 2))
    return np.asarray((points - centre) @ linear.T + centre + shift + noise, np.float64)


def visible_share(box: NDArray[np.floating], frame: tuple[float, float, float, float]) -> float:
    """Share of a box that lies inside a frame."""
    width = min(box[2], frame[2]) - max(box[0], frame[0])
    height = min(box[3], frame[3]) - max(box[1], frame[1])
    return float(max(0, width) * max(0, height) / max(1e-9, (box[2] - box[0]) * (box[3] - box[1])))


def _near(box: NDArray[np.floating], centre: Floats, reach: float) -> bool:
    return bool(box[0] - reach < centre[0] < box[2] + reach and box[1] - 1.2 * reach < centre[1] < box[3] + 1.2 * reach)


def draw_angle(rng: Generator) -> float:
    """In-plane rotation in degrees: mostly a slight lean, often up to ±30, rarely up to ±60."""
    style = rng.random()
    if style < 0.55:
        return float(rng.normal(0, 6))
    return float(rng.uniform(-30, 30) if style < 0.94 else rng.uniform(-60, 60))


def head_mask(face: LabelledFace, rng: Generator) -> NDArray[np.float32]:
    """Soft mask (H, W) in [0, 1] of a head in its photo: an ellipse, a box or the whole photo, feathered or hard."""
    height, width = face.image.shape[:2]
    style = rng.random()
    if style < 0.15:
        return np.ones((height, width), np.float32)
    half = (face.box[2:] - face.box[:2]) / 2 * rng.uniform(1.0, 1.6, 2)
    centre = box_centre(face.box) - (0, 0.08 * (face.box[3] - face.box[1]))
    x = np.abs(np.arange(width) - centre[0])[None] / half[0]
    y = np.abs(np.arange(height) - centre[1])[:, None] / half[1]
    distance = np.maximum(x, y) if style < 0.3 else np.sqrt(x * x + y * y)
    feather = rng.uniform(0.02, 0.3)
    return np.asarray(np.clip((1 - distance) / feather + 0.5, 0, 1), np.float32)


def draw_over(
    canvas: Image,
    face: LabelledFace,
    placement: Placement,
    mask: NDArray[np.float32],
    rows: list[NDArray[np.float32]],
) -> None:
    """`draw` a face in place; label rows of faces it hides by a fifth or more become ignored."""
    matrix = placement.matrix(box_centre(face.box))
    draw(canvas, face.image, matrix, mask)
    hidden = np.asarray(cv2.warpAffine(mask, matrix, canvas.shape[1::-1], flags=cv2.INTER_NEAREST))
    for row in rows:
        x0, y0, x1, y1 = np.maximum(row[BOX], 0).astype(int)
        part = hidden[y0:y1, x0:x1]
        if part.size and part.mean() > 0.2:
            row[LABEL] = IGNORED


def draw(
    canvas: Image,
    image: Image,
    matrix: Floats,
    mask: NDArray[np.float32] | None,
    region: tuple[int, int, int, int] | None = None,
) -> None:
    """Blend a photo into the canvas, in place, through a (2, 3) photo→canvas matrix.

    `mask` (H, W) is of the photo; without one it is drawn whole. Only `region` (x0, y0, x1, y1) of the canvas changes.
    The photo is halved by averaging first as often as it shrinks.
    """
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    left, top, right, bottom = _reach(canvas, image, matrix) if region is None else region
    if right <= left or bottom <= top:
        return
    while scale < 0.6 and min(image.shape[:2]) > 8:
        image, matrix, scale = _halved(image), scale_source(matrix, 0.5), 2 * scale
        mask = None if mask is None else _halved(mask)
    if mask is None:
        mask = np.ones(image.shape[:2], np.float32)
    matrix = matrix - [[0, 0, left], [0, 0, top]]
    size = (right - left, bottom - top)
    colour = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_LINEAR)[..., None]
    target = canvas[top:bottom, left:right]
    target[...] = (target + (colour.astype(np.float32) - target) * alpha + 0.5).astype(np.uint8)


def _halved(image: NDArray[Any]) -> NDArray[Any]:
    rows, columns = image.shape[0] // 2, image.shape[1] // 2
    return np.asarray(cv2.resize(image[: 2 * rows, : 2 * columns], (columns, rows), interpolation=cv2.INTER_AREA))


def _reach(canvas: Image, image: Image, matrix: Floats) -> tuple[int, int, int, int]:
    """The part of the canvas a photo can cover."""
    height, width = image.shape[:2]
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) @ matrix[:, :2].T + matrix[:, 2]
    low, high = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int) + 1
    return (
        max(0, int(low[0])),
        max(0, int(low[1])),
        min(canvas.shape[1], int(high[0])),
        min(canvas.shape[0], int(high[1])),
    )


def photograph(image: Image, rng: Generator) -> tuple[Image, float]:
    """What light, lens, film, scanner and compression do to a picture.

    Returns the picture and the share of its resolution that is left (faces below the smallest size by that measure
    cannot be asked for).
    """
    sharpness = 1.0
    x = _colour(_light(image.astype(np.float32) / np.float32(255), rng), rng)
    if rng.random() < 0.15:
        factor = rng.uniform(1.2, 2.5)
        small = cv2.resize(x, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
        x = np.asarray(cv2.resize(small, (x.shape[1], x.shape[0]), interpolation=cv2.INTER_LINEAR), np.float32)
        sharpness = 1 / factor
    elif rng.random() < 0.25:
        sigma = rng.uniform(0.4, 1.4)
        x = np.asarray(cv2.GaussianBlur(x, (0, 0), sigma), np.float32)
        sharpness = 1 / max(1.0, 1.3 * sigma)
    if rng.random() < 0.3:
        x = x + rng.standard_normal(x.shape, dtype=np.float32) * rng.uniform(0.01, 0.08)
    out = (np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8)
    if rng.random() < 0.45:
        quality = int(rng.integers(25, 96))
        _, data = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, quality])
        out = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return out, sharpness


def _light(x: NDArray[np.float32], rng: Generator) -> NDArray[np.float32]:
    """Exposure, contrast and gamma; sometimes a dark room or a faded print."""
    style = rng.random()
    if style < 0.2:
        return x
    if style < 0.3:
        return x ** np.float32(rng.uniform(1, 1.5)) * np.float32(rng.uniform(0.3, 0.7))
    if style < 0.4:
        low, high = rng.uniform(0.05, 0.35), rng.uniform(0.55, 1.0)
        return low + x * np.float32(high - low)
    gain, shift, gamma = rng.uniform(0.6, 1.5), rng.uniform(-0.15, 0.15), np.exp(rng.uniform(-0.4, 0.4))
    return np.asarray(np.clip((x - 0.5) * gain + 0.5 + shift, 0, 1) ** gamma, np.float32)


def _colour(x: NDArray[np.float32], rng: Generator) -> NDArray[np.float32]:
    """Black and white, sepia, colour cast or another saturation."""
    style = rng.random()
    if style > 0.6:
        return x
    grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
    grey = grey[..., None]
    if style < 0.16:
        return np.repeat(grey, 3, axis=2)
    if style < 0.24:
        return grey * np.array([1.0, rng.uniform(0.8, 0.95), rng.uniform(0.5, 0.8)], np.float32)
    mixed = grey + (x - grey) * np.float32(rng.uniform(0.2, 1.6))
    return np.asarray(mixed * rng.uniform(0.75, 1.2, 3).astype(np.float32), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """Detections of one scene against its labels.

    `sizes` (F,) of the labelled faces and `found` (F,) whether each was; `false_alarms` the number of detections on
    nothing; per found face `point_error` (mean distance / eye distance), `eye_distance` and `pose_error` (3,) degrees.
    `yaws` (F,) in degrees of the labelled faces.
    """

    sizes: Floats
    yaws: Floats
    found: NDArray[np.bool_]
    false_alarms: int
    point_error: Floats
    eye_distance: Floats
    pose_error: Floats


def tally(faces: Sequence[Face], rows: NDArray[np.float32], *, overlap: float = 0.4) -> Tally:
    """Match detections (best score first) to label rows by IoU ≥ `overlap`, each label once.

    Detections on ignored labels, or lying mostly inside one, count neither way.
    """
    wanted = rows[rows[:, LABEL] == FACE].astype(np.float64)
    ignored = rows[rows[:, LABEL] == IGNORED].astype(np.float64)
    found = np.zeros(len(wanted), bool)
    false_alarms = 0
    errors: list[tuple[float, float, Floats]] = []
    for face in faces:
        box = face.box.astype(np.float64)
        overlaps = np.array([_iou(box, row[BOX]) for row in wanted]) * ~found
        if len(wanted) and overlaps.max() >= overlap:
            best = int(overlaps.argmax())
            found[best] = True
            errors.append(_errors(face, wanted[best]))
        elif not any(_iou(box, row[BOX]) > 0.2 or visible_share(box, tuple(row[BOX])) > 0.5 for row in ignored):
            false_alarms += 1
    sizes = np.array([box_size(row[BOX]) for row in wanted])
    point_error, eye_distance = (np.array([e[k] for e in errors], np.float64) for k in (0, 1))
    pose_error = np.array([e[2] for e in errors], np.float64).reshape(-1, 3)
    return Tally(sizes, wanted[:, POSE][:, 0], found, false_alarms, point_error, eye_distance, pose_error)


def _iou(a: Floats, b: Floats) -> float:
    shared = visible_share(a, (b[0], b[1], b[2], b[3])) * box_size(a) ** 2
    return shared / (box_size(a) ** 2 + box_size(b) ** 2 - shared)


def _errors(face: Face, row: Floats) -> tuple[float, float, Floats]:
    truth = row[POINTS].reshape(5, 2)
    eye_distance = float(np.hypot(*(truth[1] - truth[0])))
    point_error = float(np.hypot(*(face.points5 - truth).T).mean()) / max(eye_distance, 1e-6)
    assert face.pose is not None
    pose = np.array([face.pose.yaw, face.pose.pitch, face.pose.roll])
    return point_error, eye_distance, np.abs(pose - row[POSE])
