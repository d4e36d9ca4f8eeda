"""Faces with landmarks: readers of the public layouts, crops for training a landmarker, and stylised faces.

Training crops come from the labelled collections (68 points of a small network, better inside than on the contour) and
from rendered faces, whose points are exact at any turn of the head. Coordinates are pixels with their centres at
integers. Points are in iBUG's order (68), WFLW's (98) or COFW's (29).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import FacewrightError, MissingDependencyError
from ..face import Pose
from ..geometry.resample import crop_by_matrix
from ..geometry.similarity import transform_points
from ..metrics.landmarks import interocular
from ..systems.landmarks.facewarp.network import MIRROR_68, POINTS, aligned_crop, mirrored, warp
from .detection import LANDMARK_OFFSET, load_backgrounds, photograph
from .faces import FaceCollection, data_root, open_faces
from .renders import prepared_renders

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.random import Generator
    from numpy.typing import ArrayLike, NDArray

    from .split import Split

    Image = NDArray[np.uint8]
    Floats = NDArray[np.float64]

PICTURES = (".jpg", ".jpeg", ".png", ".bmp")
WFLW_POINTS, COFW_POINTS = 98, 29
WFLW_ATTRIBUTES = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")
CONTOUR = slice(0, 17)
PARTS = {
    "contour": CONTOUR,
    "brows": slice(17, 27),
    "nose": slice(27, 36),
    "eyes": slice(36, 48),
    "mouth": slice(48, 68),
}
"""Of the 68 points."""

# training crops
CONTOUR_WEIGHT = 0.5  # the collections' contour points are rough
HIDDEN_WEIGHT = 0.5  # points of renders that something hides have to be guessed
RENDERS: Mapping[Split, tuple[int, int]] = {"train": (11, 800), "val": (12, 160)}  # seed and number of renders
RENDER_SIZE = 224
LEAST_EYE_SHARE = 0.4  # of the diagonal of the landmarks: the least eye distance, as turned heads have hardly any

Style = Literal["cartoon", "painting", "drawing"]
STYLES: tuple[Style, ...] = ("cartoon", "painting", "drawing")


# --- readers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedFace:
    """A face of a published set: `points` (K, 2) and whether each is `visible` (K,) bool, where the set says so.

    The picture is a file (`path`) or was inside the annotation (`pixels`, RGB or grey). `box` is (x0, y0, x1, y1).
    `attributes` are the set's own words.
    """

    name: str
    points: Floats
    visible: NDArray[np.bool_]
    path: Path | None = None
    pixels: Image | None = None
    box: Floats | None = None
    pose: Pose | None = None
    attributes: tuple[str, ...] = ()

    def image(self) -> Image:
        """The picture, (H, W, 3) uint8 RGB. Raises FacewrightError when its file cannot be read."""
        if self.pixels is not None:
            return self.pixels if self.pixels.ndim == 3 else np.repeat(self.pixels[..., None], 3, 2)
        bgr = cv2.imread(str(self.path), cv2.IMREAD_COLOR)
        if bgr is None:
            raise FacewrightError(f"{self.path}: the picture of this annotation is missing or cannot be decoded")
        return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)


def read_pts(path: str | Path) -> Floats:
    """The points (K, 2) of a .pts file of 300-W; its coordinates count from one. FacewrightError when it is damaged."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
        head, _, rest = text.partition("{")
        numbers = [float(word) for word in rest.partition("}")[0].split()]
        count = int(head.split("n_points:")[1].split()[0])
        return np.array(numbers, np.float64).reshape(count, 2) - 1
    except (OSError, ValueError, IndexError) as error:
        raise FacewrightError(f"{path} is not a .pts file of 300-W ({error}); download it again") from error


def read_300w(folder: str | Path) -> list[AnnotatedFace]:
    """300-W (Sagonas et al., 2013): every .pts file below `folder` with the picture of its name beside it."""
    faces = []
    for path in sorted(Path(folder).rglob("*.pts")):
        points = read_pts(path)
        faces.append(AnnotatedFace(path.stem, points, np.ones(len(points), bool), _picture_of(path)))
    return _some(faces, folder, ".pts files")


def _picture_of(annotation: Path) -> Path:
    for suffix in PICTURES:
        if annotation.with_suffix(suffix).exists():
            return annotation.with_suffix(suffix)
    raise FacewrightError(f"{annotation}: there is no picture of that name beside it")


def _some(faces: list[AnnotatedFace], folder: str | Path, what: str) -> list[AnnotatedFace]:
    if not faces:
        raise FacewrightError(f"{folder} holds no {what}; give the folder of the unpacked set")
    return faces


def read_wflw(annotation: str | Path, images: str | Path) -> list[AnnotatedFace]:
    """WFLW (Wu et al., CVPR 2018): a list of lines with 98 points, a box, six attributes, a picture's name."""
    faces = []
    for number, line in enumerate(Path(annotation).read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 * WFLW_POINTS + 4 + len(WFLW_ATTRIBUTES) + 1:
            raise FacewrightError(f"{annotation}, line {number}: {len(words)} entries where a WFLW list has 207")
        values = np.array(words[:-1], np.float64)
        points, box, flags = np.split(values, [2 * WFLW_POINTS, 2 * WFLW_POINTS + 4])
        faces.append(
            AnnotatedFace(
                words[-1],
                points.reshape(-1, 2),
                np.ones(WFLW_POINTS, bool),
                Path(images) / words[-1],
                box=box,
                attributes=tuple(name for name, flag in zip(WFLW_ATTRIBUTES, flags) if flag),
            )
        )
    return _some(faces, annotation, "lines")


def read_cofw(path: str | Path) -> list[AnnotatedFace]:
    """COFW (Burgos-Artizzu et al., ICCV 2013): `COFW_train*.mat` or `COFW_test*.mat` with pictures and 29 points each.

    The colour files are MATLAB 7.3, for which h5py is needed (MissingDependencyError).
    """
    data = _load_mat(Path(path), ("IsTr", "phisTr", "bboxesTr"), ("IsT", "phisT", "bboxesT"))
    faces = []
    for number, (picture, row, box) in enumerate(zip(*data)):
        xs, ys, hidden = np.asarray(row, np.float64).reshape(3, COFW_POINTS)
        x, y, width, height = np.asarray(box, np.float64)[:4] - (1, 1, 0, 0)
        faces.append(
            AnnotatedFace(
                f"{number:04d}",
                np.stack([xs, ys], 1) - 1,
                hidden == 0,
                pixels=np.ascontiguousarray(picture, np.uint8),
                box=np.array([x, y, x + width, y + height]),
            )
        )
    return _some(faces, path, "faces")


def _load_mat(path: Path, *choices: Sequence[str]) -> list[list[NDArray[Any]]]:
    """The rows of three variables (pictures in cells, two tables), whichever of the choices the file has."""
    if _is_hdf5(path):
        return _load_hdf5(path, choices)
    data = _read_mat(path)
    pictures, points, boxes = (data[name] for name in _names_in(data, choices, path))
    return [list(pictures.ravel()), list(points), list(boxes)]


def _is_hdf5(path: Path) -> bool:
    try:
        with open(path, "rb") as stream:
            return b"MATLAB 7.3" in stream.read(64)
    except OSError as error:
        raise FacewrightError(f"{path} cannot be read ({error}); give the .mat file of the unpacked set") from error


def _read_mat(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        data: dict[str, Any] = loadmat(path)
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise FacewrightError(f"{path} cannot be read as a MATLAB file ({error}); download it again") from error
    return data


def _load_hdf5(path: Path, choices: Sequence[Sequence[str]]) -> list[list[NDArray[Any]]]:
    try:
        h5py = importlib.import_module("h5py")
    except ImportError as error:
        raise MissingDependencyError(f"{path} is a MATLAB 7.3 file; to read it: pip install h5py") from error
    with h5py.File(path, "r") as file:  # arrays are transposed there, and cells are references
        pictures, points, boxes = (file[name] for name in _names_in(file, choices, path))
        cells = [np.asarray(file[reference]).T for reference in np.asarray(pictures).ravel()]
        return [cells, list(np.asarray(points).T), list(np.asarray(boxes).T)]


def _names_in(data: Any, choices: Sequence[Sequence[str]], path: Path) -> Sequence[str]:
    for names in choices:
        if all(name in data for name in names):
            return names
    raise FacewrightError(f"{path} lacks {' or '.join(', '.join(names) for names in choices)}: another set?")


def read_aflw2000(folder: str | Path) -> list[AnnotatedFace]:
    """AFLW2000-3D (Zhu et al., CVPR 2016): .mat files with 68 points (of a fitted 3-D face) and pose, pictures beside.

    The file's pitch, yaw and roll are radians; yaw changes sign to `Pose`'s.
    """
    faces = []
    for path in sorted(Path(folder).rglob("*.mat")):
        data = _read_mat(path)
        try:
            points = np.asarray(data["pt3d_68"], np.float64)[:2].T
            pitch, yaw, roll = np.degrees(np.asarray(data["Pose_Para"], np.float64).ravel()[:3])
        except (ValueError, KeyError) as error:
            raise FacewrightError(f"{path} is not an annotation of AFLW2000-3D ({error!r})") from error
        pose = Pose(float(-yaw), float(pitch), float(roll))
        faces.append(AnnotatedFace(path.stem, points, np.ones(len(points), bool), _picture_of(path), pose=pose))
    return _some(faces, folder, ".mat files")


# --- faces to cut crops from ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class PointedFace:
    """A picture with 68 landmarks: `points` (68, 2), their `weights` (68,) in a loss, and the yaw in degrees."""

    image: Image
    points: Floats
    weights: NDArray[np.float32]
    yaw: float
    rendered: bool


def eye_distance(points68: ArrayLike) -> float:
    """Distance between the eyes' middles."""
    points = np.asarray(points68, np.float64)
    return float(np.hypot(*(points[42:48].mean(0) - points[36:42].mean(0))))


def five_of(points68: Floats) -> Floats:
    """Eye centres, nose tip and mouth corners (5, 2) of 68 landmarks."""
    eyes = points68[36:42].mean(0), points68[42:48].mean(0)
    return np.stack([*eyes, points68[30], points68[48], points68[54]])


def face_length(points68: ArrayLike) -> NDArray[np.float64]:
    """The length that normalises errors in training, for (..., 68, 2) points.

    The distance of the outer eye corners, but at least 0.4 of the diagonal of the landmarks: a turned head would count
    for too much otherwise.
    """
    points = np.asarray(points68, np.float64)
    diagonal = np.linalg.norm(np.ptp(points, axis=-2), axis=-1)
    return np.asarray(np.maximum(interocular(points), LEAST_EYE_SHARE * diagonal))


class RealFaces:
    """The labelled collections' faces of a split, half of them from each; their common offset is taken out."""

    def __init__(self, split: Split, root: str | Path | None = None) -> None:
        self.collections = [open_faces(name, split, root) for name in ("lfw", "utkface")]

    def __len__(self) -> int:
        return sum(len(c) for c in self.collections)

    def draw(self, rng: Generator) -> PointedFace:
        collection = self.collections[int(rng.integers(len(self.collections)))]
        return self.face(collection, int(collection.rows[rng.integers(len(collection))]))

    def face(self, collection: FaceCollection, row: int) -> PointedFace:
        points = np.asarray(collection.labels["landmarks68"][row], np.float64)
        weights = np.ones(POINTS, np.float32)
        weights[CONTOUR] = CONTOUR_WEIGHT
        yaw = float(np.asarray(collection.labels["pose_yaw_pitch_roll_deg"][row], np.float64)[0])
        points = points - LANDMARK_OFFSET * eye_distance(points)
        return PointedFace(collection.read(row), points, weights, yaw, rendered=False)


class RenderedFaces:
    """Rendered faces of a split, made on first use and kept; see `data.renders`.

    Yaw reaches ±90°; hidden points count half. The face model is ICT-FaceKit where its file lies with the collections,
    else our coarse one.
    """

    def __init__(self, split: Split, root: str | Path | None = None) -> None:
        seed, count = RENDERS[split]
        self.shards = prepared_renders("renders", data_root(root), seed=seed, count=count, size=RENDER_SIZE)

    def __len__(self) -> int:
        return len(self.shards)

    def draw(self, rng: Generator) -> PointedFace:
        return self.face(int(rng.integers(len(self))))

    def face(self, index: int) -> PointedFace:
        truth = self.truth(index)
        shown = np.asarray(truth["landmarks68"]["visible"], bool)
        weights = np.where(shown, 1.0, HIDDEN_WEIGHT).astype(np.float32)
        points = np.asarray(truth["landmarks68"]["xy"], np.float64)
        return PointedFace(self.shards.picture(index), points, weights, float(truth["pose"]["yaw"]), rendered=True)

    def truth(self, index: int) -> dict[str, Any]:
        """Everything known about a render, as `facewright render` writes it; 98 points are among it."""
        return self.shards.truth(index)


# --- crops ---------------------------------------------------------------------------------------------------------


class LandmarkCrops(Dataset[dict[str, Tensor]]):
    """Aligned crops with landmarks; item i is a function of (seed, split, i) alone.

    An item has `image` (S, S, 3) uint8 RGB, `points` (68, 2) in crop pixels, `weights` (68,), `length` (the face's
    length in crop pixels, see `face_length`), `yaw` in degrees and `rendered` (0 or 1). With `wflw` it has `points98`
    (98, 2) as well, NaN for real faces. `renders` and `styled` are the shares of rendered and stylised pictures.
    """

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        *,
        size: int = 128,
        length: int = 1 << 40,
        renders: float = 0.25,
        styled: float = 0.15,
        augment: bool = True,
        wflw: bool = False,
        root: str | Path | None = None,
    ) -> None:
        self.split, self.seed, self.size, self.length = split, seed, size, length
        self.renders, self.styled, self.augment, self.wflw = renders, styled, augment, wflw
        self.real = RealFaces(split, root)
        self.rendered = RenderedFaces(split, root) if renders > 0 else None
        self.backgrounds = load_backgrounds(split, root)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, int(self.split == "val"), index))
        points98 = np.full((WFLW_POINTS, 2), np.nan)
        if self.rendered is not None and rng.random() < self.renders:
            number = int(rng.integers(len(self.rendered)))
            face = self.rendered.face(number)
            if self.wflw:
                points98 = np.asarray(self.rendered.truth(number)["landmarks98"]["xy"], np.float64)
        else:
            face = self.real.draw(rng)
        matrix = aligned_crop(self.size).align(self._coarse(face.points, rng))
        whole = crop_by_matrix(face.image, matrix, self.size)
        points, weights = transform_points(matrix, face.points), face.weights
        image, yaw = whole.image, face.yaw
        points98 = transform_points(matrix, points98)
        if self.augment:
            image = self._vary(image.copy(), whole.valid, rng)
            if rng.random() < 0.5:
                image, points, weights, yaw = image[:, ::-1], mirror(points, self.size), weights[MIRROR_68], -yaw
                points98 = mirror(points98, self.size)
        item = {
            "image": torch.from_numpy(np.ascontiguousarray(image)),
            "points": torch.from_numpy(points.astype(np.float32)),
            "weights": torch.from_numpy(np.ascontiguousarray(weights)),
            "length": torch.tensor(float(face_length(points))),
            "yaw": torch.tensor(yaw),
            "rendered": torch.tensor(float(face.rendered)),
        }
        return item | ({"points98": torch.from_numpy(points98.astype(np.float32))} if self.wflw else {})

    def _coarse(self, points: Floats, rng: Generator) -> Floats:
        """The five points as a detector gives them: each a little off, and sometimes all of them together."""
        five = five_of(points)
        if not self.augment:
            return five
        size = float(np.linalg.norm(np.ptp(points, axis=0))) / 3  # about the eye distance of a frontal face
        spread = 0.03 if rng.random() < 0.7 else 0.08
        five = five + rng.normal(0, spread * size, (5, 2)) + rng.normal(0, spread * size, 2)
        turn, scale = np.radians(rng.normal(0, 200 * spread)), np.exp(rng.normal(0, spread))
        linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        return np.asarray((five - five.mean(0)) @ linear.T + five.mean(0))

    def _vary(self, image: Image, valid: NDArray[np.bool_], rng: Generator) -> Image:
        """Something else beyond the photo's border, another style, something in front, another camera."""
        if rng.random() < 0.6:
            image[~valid] = self._patch(rng, self.size, self.size)[~valid]
        if rng.random() < self.styled:
            image = stylise(image, STYLES[int(rng.integers(len(STYLES)))], rng)
        if rng.random() < 0.25:
            self._occlude(image, rng)
        if rng.random() < 0.25:
            side = int(np.exp(rng.uniform(np.log(20), np.log(0.7 * self.size))))
            small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
            image = np.asarray(cv2.resize(small, (self.size, self.size), interpolation=cv2.INTER_LINEAR), np.uint8)
        return photograph(image, rng)[0]

    def _patch(self, rng: Generator, height: int, width: int) -> Image:
        """A faceless patch of the asked size."""
        picture = self.backgrounds[int(rng.integers(len(self.backgrounds)))]
        share = rng.uniform(0.2, 1.0)
        rows, columns = (max(8, int(share * side)) for side in picture.shape[:2])
        y, x = rng.integers(picture.shape[0] - rows + 1), rng.integers(picture.shape[1] - columns + 1)
        return np.asarray(cv2.resize(picture[y : y + rows, x : x + columns], (width, height)), np.uint8)

    def _occlude(self, image: Image, rng: Generator) -> None:
        """Cover an ellipse or a box of up to 45 % of each side, in place."""
        height, width = (rng.uniform(0.1, 0.45, 2) * self.size).astype(int)
        top, left = rng.integers(0, self.size - height), rng.integers(0, self.size - width)
        region = image[top : top + height, left : left + width]
        if rng.random() < 0.5:
            y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
            mask = x * x + y * y <= 1
        else:
            mask = np.ones((height, width), bool)
        region[mask] = self._patch(rng, height, width)[mask] if rng.random() < 0.7 else rng.integers(0, 256, 3)


class WarpPairs(Dataset[dict[str, Tensor]]):
    """Labelled real crops, each with a stylised crop of somebody else: what FaceWarp's alternation is trained on.

    As `LandmarkCrops` without renders, and with `styled` (S, S, 3) uint8 RGB, exaggerated and stylised; `styled_points`
    (68, 2) are its true landmarks, for judging only. Faces are exaggerated by `exaggeration` (0: not at all).
    """

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        *,
        size: int = 128,
        length: int = 1 << 40,
        augment: bool = True,
        exaggeration: float = 1.0,
        root: str | Path | None = None,
    ) -> None:
        self.crops = LandmarkCrops(
            split, seed, size=size, length=length, renders=0.0, styled=0.0, augment=augment, root=root
        )
        self.exaggeration = exaggeration

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        crops = self.crops
        rng = np.random.default_rng((crops.seed, 2 + int(crops.split == "val"), index))
        face = crops.real.draw(rng)
        matrix = aligned_crop(crops.size).align(five_of(face.points))
        image = crop_by_matrix(face.image, matrix, crops.size).image
        image, points = exaggerate(image, transform_points(matrix, face.points), rng, self.exaggeration)
        styled = stylise(image, STYLES[int(rng.integers(len(STYLES)))], rng)
        return crops[index] | {
            "styled": torch.from_numpy(styled),
            "styled_points": torch.from_numpy(points.astype(np.float32)),
        }


def mirror(points: Floats, size: int) -> Floats:
    """Points (68 or 98, 2) of a crop in its mirror image."""
    return np.asarray(mirrored(torch.from_numpy(points), size).numpy(), np.float64)


# --- stylised faces ------------------------------------------------------------------------------------------------


def exaggerate(image: Image, points68: Floats, rng: Generator, strength: float = 1.0) -> tuple[Image, Floats]:
    """A caricature: parts of the face grow, shrink and move, and the picture bends with them.

    Returns picture and the points (68, 2) where they came to lie. At strength 1 a part changes its size by about a
    fifth and moves by a twentieth of the eye distance.
    """
    unit = eye_distance(points68)
    wanted = points68.copy()
    for part in PARTS.values():
        centre = points68[part].mean(0)
        grow = np.exp(rng.normal(0, 0.18 * strength, 2))
        wanted[part] = centre + (points68[part] - centre) * grow + rng.normal(0, 0.05 * strength * unit, 2)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    source, target = (torch.from_numpy(p)[None].float() for p in (points68, wanted))
    bent = warp(pixels, source, target)[0].permute(1, 2, 0)
    return np.asarray(bent.round().clamp(0, 255).to(torch.uint8).numpy()), wanted


def stylise(image: Image, style: Style, rng: Generator) -> Image:
    """A crop (H, W, 3) as cartoon, painting or line drawing; what is where does not change."""
    return _STYLISERS[style](image, rng)


def _cartoon(image: Image, rng: Generator) -> Image:
    """Flat colours in few steps with dark outlines."""
    flat = image
    for _ in range(2):
        flat = np.asarray(cv2.bilateralFilter(flat, 7, rng.uniform(30, 80), 5), np.uint8)
    step = 255 / rng.integers(4, 9)
    flat = np.asarray(np.clip((np.floor(flat / step) + 0.5) * step, 0, 255), np.uint8)
    grey = cv2.medianBlur(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)), 3)
    lines = cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, 9, rng.uniform(3, 7))
    return np.asarray(np.where(np.asarray(lines)[..., None] > 0, flat, flat // 4), np.uint8)


def _painting(image: Image, rng: Generator) -> Image:
    """Brush strokes: the commonest brightness of a neighbourhood, warm or cool, on canvas."""
    radius = int(rng.integers(1, 4))
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)).astype(np.int32) * 8 // 256
    window = (2 * radius + 1, 2 * radius + 1)
    counts = np.stack([cv2.boxFilter((grey == level).astype(np.float32), -1, window) for level in range(8)])
    sums = np.stack(
        [cv2.boxFilter(image.astype(np.float32) * (grey == level)[..., None], -1, window) for level in range(8)]
    )
    commonest = counts.argmax(0)[None]
    colour = (
        np.take_along_axis(sums, commonest[..., None], 0)[0] / np.take_along_axis(counts, commonest, 0)[0][..., None]
    )
    canvas = cv2.GaussianBlur(rng.normal(0, 1, image.shape[:2]).astype(np.float32), (0, 0), 1.0)[..., None]
    return np.asarray(np.clip(colour * rng.uniform(0.85, 1.15, 3) + 30 * canvas, 0, 255), np.uint8)


def _drawing(image: Image, rng: Generator) -> Image:
    """Pencil on paper: dark where the picture is darker than its surroundings, with a little shading."""
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)).astype(np.float32)
    around = cv2.GaussianBlur(grey, (0, 0), rng.uniform(2, 5))
    lines = np.clip(grey / np.maximum(around, 1), 0, 1) ** rng.uniform(2, 5)
    shade = 1 - rng.uniform(0, 0.35) * (1 - around / 255)
    paper = rng.uniform(200, 255) * np.array([1, rng.uniform(0.92, 1), rng.uniform(0.8, 1)])
    ink = rng.uniform(0, 70)
    tone = (lines * shade)[..., None]
    return np.asarray(np.clip(ink + (paper - ink) * tone, 0, 255), np.uint8)


_STYLISERS: Mapping[Style, Callable[[Image, Generator], Image]] = {
    "cartoon": _cartoon,
    "painting": _painting,
    "drawing": _drawing,
}
