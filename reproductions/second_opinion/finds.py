"""Gather what the detector finds, faces and other things, as crops that the face verifier learns from.

    python -m reproductions.second_opinion.finds OUT.npz [--draws 1000] [--part 0] \\
        [--faces [SET=]FOLDER ...] [--masked CELEBA_HQ_FOLDER] [--faceless FOLDER] \\
        [--quick COUNT | --scenes COUNT | --whole]

Pictures are composed scenes, damaged and enlarged portraits of the labelled collections (FACEWRIGHT_DATA, training
people) and of `--faces` (training people where SET is one of `facewright.data.split`), and pieces of faceless pictures
at every size and turn, from the half of them that `teaches` says. `--masked` holds `images/` and `masks/` with
CelebAMask-HQ's classes: pieces without skin (hair, cloth, background) are taken. Parts with different `--part` are
different draws. Three kinds need no detector, or more of it: `--quick` gathers so many crops of labelled faces and
windows of faceless pictures, `--scenes` the labelled faces of so many composed scenes and as many damaged portraits,
and `--whole` what is found in the whole teaching half of the faceless pictures at every size.
"""

from __future__ import annotations

import argparse
import hashlib
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from facewright.data.detection import BOX, FACE, LABEL, POINTS, Scenes, labelled_face, photograph
from facewright.data.faces import data_root, open_faces
from facewright.data.split import pictures_of
from facewright.degrade import degrade_photo
from facewright.face import Face
from facewright.geometry.resample import crop_by_matrix
from facewright.geometry.turns import TURNS, turned_by, turned_points
from facewright.metrics.detection import box_iou
from facewright.runtime.session import default_session
from facewright.systems.opinion.faceverifier.network import CROP

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Floats = NDArray[np.float64]
    Named = tuple[str, Image]

LEAST_SCORE, LEAST_DOUBT = 0.3, 0.15  # of finds in pictures with and without faces
PICTURES = (".jpg", ".jpeg", ".png")
PRESETS = ("clean", "mild", "gfpgan", "severe", "small", "far", "mixed", "compressed", "shaken", "old-photo")
FACE_PARTS = range(1, 13)  # of CelebAMask-HQ's classes: skin, nose, glasses, eyes, brows, ears, mouth, lips
OTHER, A_FACE, UNCLEAR = 0, 1, -1
SIZES, MOST_SIDE = (0.5, 1.0, 2.0, 4.0, 8.0, 20.0), 8000
NEAR_MISS = 0.5  # finds in whole pictures from this score on
CANVAS = 320  # one size for all pictures: a new one costs the detector time


def teaches(name: str) -> bool:
    """Whether a faceless picture is of the half that teaches; the other half judges."""
    return hashlib.md5(name.encode()).digest()[0] & 1 == 0


def backgrounds() -> list[Named]:
    """All faceless pictures of the collections as (name, (H, W, 3) RGB)."""
    pictures = []
    with tarfile.open(data_root() / "backgrounds.tar") as tar:
        for member in tar:
            if member.isfile():
                stream = tar.extractfile(member)
                assert stream is not None
                bgr = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_COLOR)
                assert bgr is not None
                pictures.append((f"bsds/{Path(member.name).stem}", np.ascontiguousarray(bgr[..., ::-1], np.uint8)))
    return pictures


def procedural(rng: Generator) -> Image:
    """A picture of nothing: coloured noise, discs, gratings, lettering, bricks or cobbles."""
    height, width = (int(v) for v in rng.integers(120, 400, 2))
    kind = rng.integers(6)
    if kind == 0:
        return _noise(height, width, rng)
    if kind == 1:
        return _discs(height, width, rng)
    if kind == 2:
        return _grating(height, width, rng)
    if kind == 3:
        return _lettering(height, width, rng)
    return _cells(height, width, rng, regular=kind == 4)


def _stretched(field: Floats) -> Image:
    low, high = field.min(), field.max()
    grey = (255 * (field - low) / max(high - low, 1e-9)).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(grey[..., None], 3, 2) if grey.ndim == 2 else grey)


def _noise(height: int, width: int, rng: Generator) -> Image:
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]) + 1 / max(height, width)
    spectrum = np.fft.fft2(rng.normal(size=(3, height, width))) / frequency ** rng.uniform(0.8, 2.2)
    field = np.moveaxis(np.fft.ifft2(spectrum).real, 0, -1)
    return _stretched(0.8 * field.mean(-1, keepdims=True) + 0.2 * field)


def _discs(height: int, width: int, rng: Generator) -> Image:
    picture = np.full((height, width, 3), rng.integers(0, 255, 3), np.uint8)
    for _ in range(int(rng.integers(20, 200))):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.circle(picture, centre, int(rng.integers(3, 40)), rng.integers(0, 255, 3).tolist(), -1, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 3)), np.uint8)


def _grating(height: int, width: int, rng: Generator) -> Image:
    y, x = np.mgrid[0:height, 0:width]
    period, angle = rng.uniform(6, 60), rng.uniform(0, np.pi)
    u, v = x * np.cos(angle) + y * np.sin(angle), x * np.sin(angle) - y * np.cos(angle)
    waves = np.sin(2 * np.pi * u / period) + np.sin(2 * np.pi * v / (period * rng.uniform(0.7, 1.4)))
    return _stretched(waves + rng.normal(0, 0.3, waves.shape))


def _lettering(height: int, width: int, rng: Generator) -> Image:
    picture = np.full((height, width, 3), int(rng.integers(160, 256)), np.uint8)
    for _ in range(int(rng.integers(5, 60))):
        text = "".join(chr(int(c)) for c in rng.integers(33, 126, 8))
        where = (int(rng.integers(-20, width)), int(rng.integers(height)))
        font, size, colour = int(rng.integers(8)), rng.uniform(0.4, 2.5), rng.integers(0, 200, 3).tolist()
        cv2.putText(picture, text, where, font, size, colour, int(rng.integers(1, 4)), cv2.LINE_AA)
    return picture


def _cells(height: int, width: int, rng: Generator, *, regular: bool) -> Image:
    """Shaded cells around seeds: pebbles, or bricks where the seeds stand in rows."""
    side = rng.uniform(12, 60)
    rows, columns = np.mgrid[0 : height / side + 1, 0 : width / side + 1]
    seeds = np.stack([rows + 0.5, columns + 0.5 * (rows % 2)], -1).reshape(-1, 2) * side
    seeds += rng.normal(0, 0.05 if regular else 0.35, seeds.shape) * side
    y, x = np.mgrid[0:height, 0:width]
    distances = np.hypot(y[..., None] - seeds[:, 0], x[..., None] - seeds[:, 1])
    nearest = np.partition(distances, 1, -1)
    owner = distances.argmin(-1)
    edge = np.clip((nearest[..., 1] - nearest[..., 0]) / (0.3 * side), 0, 1)
    light = 1 + 0.5 * ((x - seeds[owner, 1]) * rng.uniform(-1, 1) + (y - seeds[owner, 0]) * rng.uniform(-1, 1)) / side
    grey = edge * light * rng.uniform(0.4, 1, len(seeds))[owner] + rng.normal(0, 0.03, edge.shape)
    return _stretched(cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.4, 2)))


def without_skin(folder: Path, rng: Generator) -> Named | None:
    """A piece of hair, cloth or background of a random masked portrait, or None where the draw holds a face part."""
    files = sorted((folder / "images").iterdir())
    path = files[rng.integers(len(files))]
    if not teaches(f"piece/{path.name}"):
        return None
    mask = cv2.imread(str(folder / "masks" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
    picture = cv2.imread(str(path))
    if mask is None or picture is None:
        return None
    mask = mask[..., 0] if mask.ndim == 3 else mask
    if mask.shape != picture.shape[:2]:
        mask = cv2.resize(mask, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    for _ in range(20):
        side = int(np.exp(rng.uniform(np.log(60), np.log(220))))
        y, x = rng.integers(picture.shape[0] - side), rng.integers(picture.shape[1] - side)
        if not np.isin(mask[y : y + side, x : x + side], FACE_PARTS).any():
            return f"piece/{path.name}", np.ascontiguousarray(picture[y : y + side, x : x + side, ::-1])
    return None


def portraits_of(place: str) -> list[Path]:
    """The pictures below a folder; of SET=FOLDER those of training people."""
    name, _, folder = place.rpartition("=")
    if name:
        return [Path(folder) / picture for picture in pictures_of(name, "train")]
    return [path for path in sorted(Path(folder).rglob("*")) if path.suffix.lower() in PICTURES]


class Finds:
    """Draws pictures, looks for faces in them and says of every find what it is."""

    def __init__(self, part: int, faces: Sequence[str], masked: Path | None, faceless: Path | None) -> None:
        self.rng = np.random.default_rng((71, part))
        self.detector = default_session().component("detect", "")  # as it is, without a second opinion
        pictures = backgrounds()
        if faceless:
            pictures += [(f"sk/{p.stem}", _read(p)) for p in sorted(faceless.iterdir())]
        self.pictures = [(name, picture) for name, picture in pictures if teaches(name)]
        self.scenes = Scenes("train", seed=71 + part)
        self.scenes.backgrounds = [picture for _, picture in self.pictures]
        self.masked = masked
        self.portraits = [path for place in faces for path in portraits_of(place)]
        self.collections = [open_faces(name, "train") for name in ("lfw", "utkface")]
        self.number = 0

    def draw(self) -> tuple[str, Image, list[Face], list[int]]:
        """The source, a picture, the finds in it and what each is."""
        self.number += 1
        kind = self.rng.random()
        if kind < 0.13:
            return self._scene()
        return self._portrait() if kind < 0.38 else self._faceless()

    def _scene(self) -> tuple[str, Image, list[Face], list[int]]:
        image, rows = self.scenes.scene(self.number)
        image = self._resized(image, float(np.exp(self.rng.uniform(np.log(0.6), np.log(CANVAS / self.scenes.size)))))
        rows[:, :14] *= image.shape[0] / self.scenes.size
        image = self._on_canvas(image)
        turn = int(self.rng.choice(TURNS[1:])) if self.rng.random() < 0.25 else 0
        image, boxes, points = _turned(image, rows[:, BOX], rows[:, POINTS].reshape(-1, 5, 2), turn)
        faces = self.detector.detect(image, threshold=LEAST_SCORE)
        return "scene", image, faces, [_judged(f, boxes, points, rows[:, LABEL]) for f in faces]

    def _portrait(self) -> tuple[str, Image, list[Face], list[int]]:
        rng = self.rng
        if self.portraits and rng.random() < 0.4:
            path = self.portraits[rng.integers(len(self.portraits))]
            image, name = _read(path), path.parts[-3]
            size = CANVAS / max(image.shape)
            found = self.detector.detect(self._on_canvas(self._resized(image, size)))
            if not found or found[0].score < 0.9:
                return name, image, [], []
            box, points = found[0].box / size, found[0].points5 / size
        else:
            collection = self.collections[int(rng.random() < 0.5)]
            face = labelled_face(collection, int(rng.choice(collection.rows)))
            image, box, points, name = face.image, face.box, face.points, collection.name
        reach = 0.5 * max(box[2:] - box[:2]) * rng.uniform(1.3, 2.5)
        centre = (box[:2] + box[2:]) / 2 + rng.uniform(-0.3, 0.3, 2) * (box[2:] - box[:2])
        x0, y0 = np.maximum(centre - reach, 0).astype(int)
        x1, y1 = np.minimum(centre + reach, image.shape[1::-1]).astype(int)
        image, box, points = image[y0:y1, x0:x1], box - (x0, y0, x0, y0), points - (x0, y0)
        eyes = float(np.exp(rng.uniform(np.log(4.5), np.log(70))))
        factor = min(2.0, eyes / max(1.0, float(np.hypot(*(points[1] - points[0])))))
        image = self._resized(image, max(factor, 16 / min(image.shape[:2])))
        factor = image.shape[1] / (x1 - x0)
        preset = PRESETS[rng.integers(len(PRESETS))]
        image = _damaged(image, preset, 2.2 * factor * (box[2] - box[0]), rng)
        if rng.random() < 0.35:  # enlarged by its owner
            more = min(CANVAS / max(image.shape), float(np.exp(rng.uniform(0, np.log(8)))))
            image = self._resized(image, max(more, 1.0))
            factor = image.shape[1] / (x1 - x0)
        image = self._on_canvas(image)
        turn = int(rng.choice(TURNS[1:])) if rng.random() < 0.2 else 0
        image, boxes, placed = _turned(image, box[None] * factor, points[None] * factor, turn)
        faces = self.detector.detect(image, threshold=LEAST_SCORE)
        known = [_judged(f, boxes, placed, np.array([FACE])) for f in faces]
        return name, image, faces, [UNCLEAR if k == OTHER and turn == 0 else k for k in known]

    def _faceless(self) -> tuple[str, Image, list[Face], list[int]]:
        rng = self.rng
        kind = rng.random()
        named = without_skin(self.masked, rng) if self.masked and kind < 0.25 else None
        if named is None and kind < 0.4:
            named = "procedural", procedural(rng)
        name, picture = named or self.pictures[rng.integers(len(self.pictures))]
        rows, columns = picture.shape[:2]
        side = min(rows, columns, int(np.exp(rng.uniform(np.log(20), np.log(480)))))
        y, x = rng.integers(rows - side + 1), rng.integers(columns - side + 1)
        piece = np.rot90(picture[y : y + side, x : x + side], int(rng.integers(4)) if rng.random() < 0.4 else 0)
        piece = np.ascontiguousarray(piece[:, ::-1] if rng.random() < 0.5 else piece)
        if rng.random() < 0.15:  # a pattern of it
            piece = np.ascontiguousarray(np.tile(np.hstack([piece, piece[:, ::-1]]), (2, 1, 1)))
        image = np.ascontiguousarray(self._resized(piece, CANVAS / min(piece.shape[:2]))[:CANVAS, :CANVAS])
        if rng.random() < 0.25:
            image = _damaged(image, PRESETS[rng.integers(len(PRESETS))], CANVAS * rng.uniform(0.3, 1.2), rng)
        faces = self.detector.detect(image, threshold=LEAST_DOUBT)
        return name.split("/")[0], image, faces, [OTHER] * len(faces)

    def quick(self) -> tuple[str, Image, int]:
        """A crop that needs no detector: a labelled face by points as a detector gives them, or a window of a faceless
        picture."""
        rng = self.rng
        if rng.random() < 0.5:
            name, picture = self.pictures[rng.integers(len(self.pictures))]
            side = float(np.exp(rng.uniform(np.log(12), np.log(min(picture.shape[:2])))))
            turn, centre = rng.uniform(0, 2 * np.pi), rng.uniform((0, 0), picture.shape[1::-1])
            linear = CROP.size / side * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            matrix = np.column_stack([linear, CROP.size / 2 - linear @ centre])
            return name.split("/")[0], crop_by_matrix(picture, matrix, CROP.size).image, OTHER
        return "portrait", photograph(self.portrait("clean"), rng)[0], A_FACE

    def portrait(self, preset: str) -> Image:
        """The crop of a labelled face at 4.5 to 60 px between the eyes, damaged by a preset."""
        rng = self.rng
        collection = self.collections[int(rng.random() < 0.4)]
        face = labelled_face(collection, int(rng.choice(collection.rows)))
        eyes = float(np.hypot(*(face.points[1] - face.points[0])))
        factor = min(1.0, float(np.exp(rng.uniform(np.log(4.5), np.log(60)))) / max(eyes, 1.0))
        small = self._resized(face.image, factor)
        factor = small.shape[1] / face.image.shape[1]
        small = _damaged(small, preset, 2.2 * factor * float(face.box[2] - face.box[0]), rng)
        points = face.points * factor + rng.normal(0, 0.05 * factor * eyes, face.points.shape)
        return CROP.cut(small, replace(_PLACEHOLDER, points5=points.astype(np.float32))).image

    def composed(self, number: int) -> list[Image]:
        """Crops of the labelled faces of a composed scene, by points as a detector gives them, and a damaged portrait
        for each."""
        image, rows = self.scenes.scene(number)
        crops = []
        for row in rows[rows[:, LABEL] == FACE]:
            points = row[POINTS].reshape(5, 2)
            spread = self.rng.uniform(0.02, 0.09) * float(np.hypot(*(points[1] - points[0])))
            points = points + self.rng.normal(0, spread, points.shape)
            crops.append(CROP.cut(image, replace(_PLACEHOLDER, points5=points.astype(np.float32))).image)
        return crops + [self.portrait(PRESETS[self.rng.integers(1, len(PRESETS))]) for _ in crops]

    def whole(self) -> Iterator[tuple[str, Image]]:
        """Crops of what is found in whole faceless pictures at every size."""
        for name, picture in self.pictures:
            for size in SIZES:
                image = resized(picture, min(size, MOST_SIDE / max(picture.shape)))
                for face in self.detector.detect(image, threshold=NEAR_MISS):
                    yield name.split("/")[0], CROP.cut(image, face).image

    def _on_canvas(self, image: Image) -> Image:
        """A picture in the upper left corner of a canvas; the rest is faceless."""
        whole = self.scenes.patch(self.rng, CANVAS, CANVAS)
        rows, columns = (min(CANVAS, side) for side in image.shape[:2])
        whole[:rows, :columns] = image[:rows, :columns]
        return whole

    def _resized(self, image: Image, factor: float) -> Image:
        size = [max(16, round(side * factor)) for side in image.shape[1::-1]]
        how = [cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4][self.rng.integers(3)]
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else how), np.uint8)


_PLACEHOLDER = Face(np.array([0, 0, 1, 1], np.float32), 1.0, np.zeros((5, 2), np.float32))


def resized(picture: Image, factor: float) -> Image:
    """A picture at another size, averaged when it shrinks and bicubic when it grows."""
    if factor == 1:
        return picture
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, None, fx=factor, fy=factor, interpolation=how), np.uint8)


def _read(path: Path) -> Image:
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert bgr is not None, path
    return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)


def _damaged(image: Image, preset: str, face_size: float, rng: Generator) -> Image:
    if preset == "clean":
        return image
    damaged, _ = degrade_photo(image, preset, int(rng.integers(1 << 30)), face_size=float(face_size))
    return np.ascontiguousarray(damaged)


def _turned(
    image: Image, boxes: NDArray[np.floating], points: NDArray[np.floating], turn: int
) -> tuple[Image, Floats, Floats]:
    """A picture, boxes (K, 4) and points (K, 5, 2) turned clockwise."""
    shape = (image.shape[0], image.shape[1])
    corners = turned_points(boxes.reshape(-1, 2, 2), turn, shape).astype(np.float64)
    around = np.concatenate([corners.min(1), corners.max(1)], 1)
    return np.ascontiguousarray(turned_by(image, turn)), around, turned_points(points, turn, shape).astype(np.float64)


def _judged(face: Face, boxes: Floats, points: Floats, labels: NDArray[np.floating]) -> int:
    """A face where box and points agree with a labelled one; something else where nothing is near or where the points
    lie on a face quite wrongly (upside down); unclear in between and on faces nobody should be judged by."""
    if not len(boxes):
        return OTHER
    overlap = box_iou(face.box[None].astype(np.float64), boxes)[0]
    best = int(overlap.argmax())
    if overlap[best] < 0.05:
        return OTHER
    if overlap[best] < 0.45 or labels[best] != FACE:
        return UNCLEAR
    unit = 0.45 * float(np.sqrt(np.prod(boxes[best][2:] - boxes[best][:2])))  # an eye distance
    apart = np.hypot(*(face.points5 - points[best]).T).mean() / unit
    return A_FACE if apart < 0.35 else OTHER if apart > 0.7 else UNCLEAR


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--faces", nargs="*", default=[])
    parser.add_argument("--masked", type=Path)
    parser.add_argument("--faceless", type=Path)
    parser.add_argument("--quick", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=0)
    parser.add_argument("--whole", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    finds = Finds(options.part, options.faces, options.masked, options.faceless)
    crops: Any = []
    labels: Any = []
    scores: list[Any] = []
    eyes: list[Any] = []
    sources: Any = []
    if options.quick:
        sources, crops, labels = zip(*(finds.quick() for _ in range(options.quick)))
        np.savez_compressed(options.out, crop=np.stack(crops), face=labels, source=np.array(sources))
        return
    if options.scenes:
        crops = [crop for number in range(options.scenes) for crop in finds.composed(number)]
        np.savez_compressed(options.out, crop=np.stack(crops), face=np.ones(len(crops), int))
        return
    if options.whole:
        sources, crops = zip(*finds.whole())
        np.savez_compressed(options.out, crop=np.stack(crops), face=np.zeros(len(crops), int), source=np.array(sources))
        return
    for _ in range(options.draws):
        source, image, faces, known = finds.draw()
        for face, label in zip(faces, known):
            if label != UNCLEAR:
                crops.append(CROP.cut(image, face).image)
                labels.append(label)
                scores.append(face.score)
                eyes.append(face.eye_distance)
                sources.append(source)
    np.savez_compressed(
        options.out, crop=np.stack(crops), face=labels, score=scores, eyes=eyes, source=np.array(sources)
    )
    print(f"{len(labels)} finds, {sum(labels)} of them faces")


if __name__ == "__main__":
    main()
