"""Labelled pictures for face parsing: readers of public data sets in their published folders, and rendered faces.

Photos without label maps teach as well: their landmarks tell for some pixels which few classes they can show.

Left and right. CelebAMask-HQ names sides by the subject: in the label maps published with it (MaskGAN_demo/samples of
github.com/switchablenorms/CelebAMask-HQ, 512 px) `l_eye` lies at x ≈ 320 and `r_eye` at x ≈ 193, so `l_` is the
picture's right; brows and ears agree. LaPa, iBugMask and EasyPortrait do not say whose left they mean; their labels are
passed on as they are. Rendered faces follow CelebAMask-HQ.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..degrade import apply, sample
from ..errors import FacewrightError, ImageReadError
from ..geometry.crop import align_matrix
from ..geometry.resample import crop_by_matrix
from ..geometry.similarity import transform_points
from ..io.image import read
from ..io.sources import note
from ..render import Backgrounds, Renderer, SceneSampler
from ..render.jobs import load_model
from ..systems.landmarks.facewarp.network import MIRROR_68
from ..systems.parse.taxonomy import CELEBAMASK_19, EASYPORTRAIT_9, IBUG_11, IGNORED, LAPA_11, mirrored
from .detection import LANDMARK_OFFSET, five_points, photograph
from .faces import data_root
from .landmarks import eye_distance
from .renders import RenderShards, prepared_renders
from .restoration import CropCache, open_crops

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray

    from ..render import Scene

Split = Literal["train", "val", "test"]
_PARTITIONS = {"train": "0", "val": "1", "test": "2"}
_LAPA_FIVE = ((74, 104), (83, 105), (54, 54), (84, 84), (90, 90))
_MOST_YAW = 60.0
_VALIDATION_SEED = 1_000_003

# crops of photos and kept renders
RENDERS: Mapping[str, tuple[int, int]] = {"train": (21, 2000), "val": (22, 160)}  # seed and number of renders
RENDER_SIZE = 288
RATES = {"glasses": 0.35, "hat": 0.2, "earrings": 0.35, "necklace": 0.3, "occluder": 0.06}
ANYTHING = (1 << len(CELEBAMASK_19)) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """`image` (H, W, 3) uint8 RGB and `labels` (H, W) uint8, 255 where a pixel does not count."""

    name: str
    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]


class CelebAMaskHQ:
    """CelebAMask-HQ: 30,000 portraits of 512 px with 19 classes (Lee et al., MaskGAN, CVPR 2020).

    `root` holds `CelebA-HQ-img/<n>.jpg` and `CelebAMask-HQ-mask-anno/<n // 2000>/<nnnnn>_<part>.png`, one picture per
    part, absent where the part is not seen. Parts are painted in the published `order`, later ones over earlier ones;
    SegFace paints in the order of `systems.parse.segface.PUBLISHED_ORDER`. Splits are those of CelebA, by
    `CelebA-HQ-to-CelebA-mapping.txt` and `list_eval_partition.txt` in `root`; without `split` these are not needed.

    Raises FacewrightError where a folder or file is missing, ImageReadError where one cannot be read.
    """

    classes = CELEBAMASK_19

    def __init__(self, root: str | Path, split: Split | None = None, *, order: Sequence[str] = CELEBAMASK_19) -> None:
        self.root = _folder(root)
        self.order = [name for name in order if name != "background"]
        numbers = {int(path.stem) for path in _folder(self.root / "CelebA-HQ-img").glob("*.jpg")}
        if split is not None:
            numbers &= _numbers_of(self.root, split)
        self.numbers = sorted(numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Labelled:
        number = self.numbers[index]
        image = read(self.root / "CelebA-HQ-img" / f"{number}.jpg").rgb()
        stem = self.root / "CelebAMask-HQ-mask-anno" / str(number // 2000) / f"{number:05d}"
        parts = {part: stem.with_name(f"{stem.name}_{part}.png") for part in self.order}
        masks = {part: read_labels(path) for part, path in parts.items() if path.exists()}
        if not masks:
            raise ImageReadError(f"there is no part of picture {number} at {stem}_*.png; unpack the annotations")
        height, width = next(iter(masks.values())).shape
        labels = np.zeros((height, width), np.uint8)
        for part, mask in masks.items():
            labels[mask > 0] = self.classes.index(part)
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        return Labelled(str(number), np.asarray(small, np.uint8), labels)


def _numbers_of(root: Path, split: Split) -> set[int]:
    """Numbers in CelebA-HQ of the pictures in a split of CelebA."""
    mapping = (line.split() for line in _lines(root / "CelebA-HQ-to-CelebA-mapping.txt"))
    original = {row[2]: int(row[0]) for row in mapping if len(row) == 3 and row[0].isdigit()}
    partition = (line.split() for line in _lines(root / "list_eval_partition.txt"))
    return {
        original[row[0]] for row in partition if len(row) == 2 and row[1] == _PARTITIONS[split] and row[0] in original
    }


class _Pairs:
    """Pictures and label maps of the same name in two folders."""

    classes: tuple[str, ...]

    def __init__(self, images: Path, labels: Path) -> None:
        names = sorted(path.stem for path in _folder(images).glob("*.jpg"))
        self.images = [images / f"{name}.jpg" for name in names]
        self.labels = [labels / f"{name}.png" for name in names]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Labelled:
        path = self.labels[index]
        image, labels = read(self.images[index]).rgb(), read_labels(path)
        if labels.shape != image.shape[:2]:
            raise ImageReadError(f"{path} is {labels.shape}, but its picture {image.shape[:2]}: not a pair")
        if ((labels >= len(self.classes)) & (labels != IGNORED)).any():
            raise ImageReadError(f"{path} holds labels above {len(self.classes) - 1}: of another data set?")
        return Labelled(path.stem, image, labels)


class LaPa(_Pairs):
    """LaPa: 22,000 faces with 11 classes (Liu et al., AAAI 2020) in `<split>/images`, `/labels` and `/landmarks`."""

    classes = LAPA_11

    def __init__(self, root: str | Path, split: Split = "train") -> None:
        self.folder = _folder(root) / split
        super().__init__(self.folder / "images", self.folder / "labels")

    def points5(self, index: int) -> NDArray[np.float32]:
        """(5, 2) eyes, nose tip and corners of the mouth in pixels, from the picture's left, out of 106 landmarks."""
        path = self.folder / "landmarks" / f"{self.images[index].stem}.txt"
        try:
            values = np.array(" ".join(_lines(path)).split(), np.float32)
            points = values[1:].reshape(106, 2)
        except ValueError as error:
            raise ImageReadError(f"{path} does not hold 106 landmarks ({error})") from error
        return np.stack([points[list(pair)].mean(0) for pair in _LAPA_FIVE])


class IBugMask(_Pairs):
    """iBugMask: faces in the wild with 11 classes (Lin et al., 2021), `<split>/<name>.jpg` beside `<name>.png`."""

    classes = IBUG_11

    def __init__(self, root: str | Path, split: Literal["train", "test"] = "train") -> None:
        folder = _folder(root) / split
        super().__init__(folder, folder)


class EasyPortraitFolder(_Pairs):
    """EasyPortrait: selfies with 9 classes (Kvanchiani et al., 2023), `images/<split>` and `annotations/<split>`."""

    classes = EASYPORTRAIT_9

    def __init__(self, root: str | Path, split: Split = "train") -> None:
        base = _folder(root)
        super().__init__(base / "images" / split, base / "annotations" / split)


def _folder(path: str | Path) -> Path:
    if not Path(path).is_dir():
        raise FacewrightError(f"{path} is not a folder; give the root of the unpacked data set")
    note(Path(path))
    return Path(path)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FacewrightError(f"{path} cannot be read ({error}); it belongs to the data set") from error


def read_labels(path: Path) -> NDArray[np.uint8]:
    """(H, W) label numbers, or the first channel where a mask was saved in colour."""
    try:
        with Image.open(path) as picture:
            values = np.asarray(picture)
    except (OSError, ValueError) as error:
        raise ImageReadError(f"{path} cannot be read as a label map ({error})") from error
    return np.asarray(values if values.ndim == 2 else values[..., 0], np.uint8)


class RenderedParsing(Dataset[dict[str, Tensor]]):
    """Rendered faces cut to the FFHQ template, worn by the camera and by what happens to photos, with exact labels.

    An item has `image` (S, S, 3) uint8 RGB and `labels` (S, S) uint8 of CelebAMask-HQ's 19 classes, 255 outside the
    rendered picture, and depends on (seed, index) alone. `model` is "coarse" or the path of an ICT-FaceKit file,
    `backgrounds` a folder or .tar of pictures. `rates` are those of `render.appearance.sample_look`; `presets` maps a
    degradation preset to its share. Heads turned further than 60° are left out, for the restorer's crops have no such.
    The splits have different people; `val` differs from `train` in all that is drawn.
    """

    def __init__(
        self,
        split: Literal["train", "val"] = "train",
        seed: int = 0,
        *,
        size: int = 256,
        length: int = 1 << 40,
        model: str = "coarse",
        backgrounds: str | None = None,
        rates: Mapping[str, float] | None = None,
        presets: Mapping[str, float] | None = None,
        jitter: float = 0.02,
        flip: bool = True,
    ) -> None:
        data = load_model(model)
        behind = None if backgrounds is None else Backgrounds(backgrounds)
        start = seed + (_VALIDATION_SEED if split == "val" else 0)
        self.sampler = SceneSampler(data, start, size=round(1.25 * size), backgrounds=behind, rates=rates)
        self.renderer = Renderer(data, backgrounds=behind)
        shares = dict(presets or {"clean": 0.5, "mild": 0.3, "vqfr": 0.2})
        self.presets, self.shares = list(shares), np.array(list(shares.values())) / sum(shares.values())
        self.seed, self.size, self.length, self.jitter, self.flip = start, size, length, jitter, flip

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, 2, index))
        with torch.autocast("cpu", enabled=False):  # a trainer that validates in low precision must not render in it
            shown = self.renderer.render(self._scene(index))
        points = shown.points5.xy + rng.normal(0, self.jitter, (5, 2)) * np.ptp(shown.points5.xy, 0).max()
        image, labels = aligned_pair(shown.rgb, shown.parsing19, points, self.size)
        if self.flip and rng.random() < 0.5:
            image, labels = mirror_pair(image, labels)
        preset = self.presets[int(rng.choice(len(self.presets), p=self.shares))]
        worn = apply(image, sample(preset, rng, self.size, scaled=True))
        return {"image": torch.from_numpy(worn), "labels": torch.from_numpy(np.ascontiguousarray(labels))}

    def _scene(self, index: int) -> Scene:
        """The first of an item's scenes in which the head is not turned too far."""
        tried = (self.sampler.scene(index + attempt * self.length) for attempt in count())
        return next(scene for scene in tried if abs(scene.pose[0]) <= _MOST_YAW)


def aligned_pair(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], points5: NDArray[np.floating[Any]], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Picture and labels cut to the FFHQ template; labels are 255 where the crop lies outside the picture."""
    matrix = align_matrix(points5, size)
    crop = crop_by_matrix(image, matrix, size)
    cut = cv2.warpAffine(labels, matrix, (size, size), flags=cv2.INTER_NEAREST, borderValue=IGNORED)
    return crop.image, np.where(crop.valid, np.asarray(cut, np.uint8), np.uint8(IGNORED))


def mirror_pair(image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The mirrored picture, and its labels with left and right swapped."""
    table = np.arange(256, dtype=np.uint8)
    table[: len(CELEBAMASK_19)] = mirrored(CELEBAMASK_19)
    return np.ascontiguousarray(image[:, ::-1]), table[labels[:, ::-1]]


# --- photos whose landmarks say a part of what is where ------------------------------------------------------------


def set_of(*names: str) -> int:
    """Classes of CelebAMask-HQ as bits of one number."""
    return sum(1 << CELEBAMASK_19.index(name) for name in names)


_EYES: Mapping[str, slice | list[int]] = {"r_eye": slice(36, 42), "l_eye": slice(42, 48)}
_BROWS = {"r_brow": slice(17, 22), "l_brow": slice(22, 27)}
_NOSE = [27, 31, 32, 33, 34, 35]
_LIPS: Mapping[str, slice | list[int]] = {
    "u_lip": [*range(48, 55), *range(64, 59, -1)],
    "l_lip": [*range(54, 60), 48, 60, *range(67, 63, -1)],
    "mouth": list(range(60, 68)),
}
_FEATURES = ("nose", "l_eye", "r_eye", "l_brow", "r_brow", "u_lip", "l_lip", "mouth")
_ON_FACE = set_of("skin", "hair", "eye_g", "hat", *_FEATURES)
_OFF_FACE = ANYTHING & ~set_of(*_FEATURES)
_GLASSES_REACH = 0.42  # eye distances around the middle of an eye
_CROWN, _BESIDE = 1.25, 1.65  # eye distances above the brows, and to the sides of the face's middle
_HAIRLINE = 1.0  # eye distances above the brows: hair from there on in most people
_MARGIN, _SHARP_MARGIN = 0.12, 0.05  # eye distances around brows and nose, eyes and mouth that may belong to them
_HAT_HEIGHT = 0.2  # eye distances above the line through the eyes
_LEAST_OPENING = 0.02  # of the eye distance: mouths and eyes less open than that show nothing for certain


class Evidence(NamedTuple):
    """What landmarks tell of the pixels of a crop: `allowed` (S, S) int32 holds the classes each can show as bits, all
    bits where nothing is known; `expected` (S, S) uint8 the one it shows if nothing lies before the face, or 255."""

    allowed: NDArray[np.int32]
    expected: NDArray[np.uint8]

    @classmethod
    def nothing(cls, size: int) -> Evidence:
        """That nothing is known of any pixel."""
        return cls(np.full((size, size), ANYTHING, np.int32), np.full((size, size), IGNORED, np.uint8))


class Crop(NamedTuple):
    """A crop (S, S, 3) uint8 RGB, its labels (S, S) uint8, 255 where not known, and what landmarks tell of it."""

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    evidence: Evidence


def classes_by_landmarks(points68: NDArray[np.floating[Any]], size: int) -> Evidence:
    """Evidence from the 68 landmarks (68, 2) of a crop, in iBUG order.

    Inside eyes, brows, nose and lips that part is expected, elsewhere on the face skin; around the eyes glasses, over
    skin and brows hair, and above the eyes a hat may lie before it. Well outside the face nothing is a part of the
    face. Above the brows there is skin, hair or a hat, high above them most likely hair, below the chin most likely
    neck, and far to the sides most likely background. Near the borders of all that nothing is known.
    """
    unit = eye_distance(points68)
    allowed, expected = np.full((size, size), ANYTHING, np.int32), np.full((size, size), IGNORED, np.uint8)
    hull = np.asarray(cv2.convexHull(points68.astype(np.float32)), np.float64)[:, 0]
    face = outlined(hull, size)
    allowed[~grown(face, 0.2 * unit)] = _OFF_FACE
    for mask, classes, likely in _around_the_face(points68, size, unit):
        allowed[mask & ~face] = set_of(*classes)
        if likely:
            expected[mask & ~face] = CELEBAMASK_19.index(likely)
    inside = shrunk(face, 0.06 * unit)
    allowed[inside] = _ON_FACE
    parts = _parts(points68, size, unit)
    near = np.zeros((size, size), bool)
    for name, mask in parts.items():
        near |= grown(mask, (_MARGIN if name in _BROWS or name == "nose" else _SHARP_MARGIN) * unit)
    for name, mask in {"skin": inside & ~near, **parts}.items():
        covers = ("hair",) if name == "skin" or name in _BROWS else ()
        allowed[mask], expected[mask] = set_of(name, *covers), CELEBAMASK_19.index(name)
    known = expected != IGNORED
    allowed[known & _around_eyes(points68, size, unit)] |= set_of("eye_g")
    allowed[known & _above_eyes(points68, size)] |= set_of("hat", "hair")
    return Evidence(allowed, expected)


def _around_the_face(
    points68: NDArray[np.floating[Any]], size: int, unit: float
) -> Iterator[tuple[NDArray[np.bool_], tuple[str, ...], str]]:
    """Crown, neck and sides: masks, the classes they can show, and what is expected there if anything."""
    brows, chin = points68[17:27].mean(0), points68[8]
    up = (brows - chin) / max(float(np.hypot(*(brows - chin))), 1e-6)
    across = np.array([-up[1], up[0]])
    ys, xs = np.mgrid[:size, :size]
    places = np.stack([xs, ys], -1)
    side = np.abs((places - brows) @ across) / unit
    above_brows, below_chin = (places - brows) @ up / unit, (places - chin) @ -up / unit
    half = 0.4 * float(np.abs((points68[16] - points68[0]) @ across)) / unit
    crown = (above_brows > 0.25) & ((side / half) ** 2 + (above_brows / _CROWN) ** 2 < 1)
    yield crown, ("skin", "hair", "hat"), ""
    yield crown & (above_brows > _HAIRLINE), ("skin", "hair", "hat"), "hair"
    neck = (below_chin > 0.2) & (below_chin < 0.45) & (side < 0.3)
    yield neck, ("neck", "cloth", "hair", "neck_l"), "neck"
    beside = (side > _BESIDE) & (below_chin < 0)
    yield beside, ("background", "hair", "hat", "cloth"), "background"


def _around_eyes(points68: NDArray[np.floating[Any]], size: int, unit: float) -> NDArray[np.bool_]:
    """Where glasses may sit."""
    canvas = np.zeros((size, size), np.uint8)
    for eye in _EYES.values():
        x, y = np.rint(points68[eye].mean(0)).astype(int)
        cv2.circle(canvas, (int(x), int(y)), round(_GLASSES_REACH * unit), 1, -1)
    return canvas > 0


def _above_eyes(points68: NDArray[np.floating[Any]], size: int) -> NDArray[np.bool_]:
    """Where hats and fringes may reach: from the brows upwards."""
    (x0, y0), (x1, y1) = points68[36:42].mean(0), points68[42:48].mean(0)
    ys, xs = np.mgrid[:size, :size]
    area = (x1 - x0) * (ys - y0) - (y1 - y0) * (xs - x0)
    return np.asarray(area < -_HAT_HEIGHT * ((x1 - x0) ** 2 + (y1 - y0) ** 2))


def _parts(points68: NDArray[np.floating[Any]], size: int, unit: float) -> dict[str, NDArray[np.bool_]]:
    """Where, in all likelihood, the parts of the face are."""
    certain = max(1.0, 0.01 * unit)
    parts = {name: line(points68[where], size, 0.04 * unit) for name, where in _BROWS.items()}
    parts["nose"] = shrunk(outlined(points68[_NOSE], size), certain)
    for name, where in (*_EYES.items(), *_LIPS.items()):
        outline = points68[where]
        if name in _EYES and np.ptp(outline[:, 1]) < 2 * _LEAST_OPENING * unit:
            continue
        parts[name] = shrunk(outlined(outline, size), certain)
    return parts


def outlined(outline: NDArray[np.floating[Any]], size: int) -> NDArray[np.bool_]:
    """(S, S) what the polygon (K, 2) encloses."""
    canvas = np.zeros((size, size), np.uint8)
    cv2.fillPoly(canvas, [np.rint(outline * 16).astype(np.int32)], 1, shift=4)
    return canvas > 0


def line(points: NDArray[np.floating[Any]], size: int, width: float) -> NDArray[np.bool_]:
    """(S, S) what a pen of that width draws through the points (K, 2)."""
    canvas = np.zeros((size, size), np.uint8)
    corners = np.rint(points * 16).astype(np.int32)
    cv2.polylines(canvas, [corners], False, 1, max(1, round(width)), shift=4)
    return canvas > 0


def grown(mask: NDArray[np.bool_], by: float) -> NDArray[np.bool_]:
    """The mask with everything `by` pixels around it, at least one."""
    return np.asarray(cv2.dilate(mask.astype(np.uint8), _disc(by)) > 0)


def shrunk(mask: NDArray[np.bool_], by: float) -> NDArray[np.bool_]:
    """The mask without what lies within `by` pixels of its edge, at least one."""
    return np.asarray(cv2.erode(mask.astype(np.uint8), _disc(by)) > 0)


def _disc(radius: float) -> NDArray[np.uint8]:
    side = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def parsing_renders(split: Literal["train", "val"], root: Path, count: int | None = None) -> RenderShards:
    """The rendered faces with exact masks of a split, at any turn of the head; made on first use and kept.

    At least `count` of them are there, or as many as `RENDERS` says.
    """
    seed, usual = RENDERS[split]
    return prepared_renders(
        "parsing",
        root,
        seed=seed,
        count=usual if count is None else count,
        size=RENDER_SIZE,
        what=("rgb", "mask"),
        rates=RATES,
    )


class ParsingCrops(Dataset[dict[str, Tensor]]):
    """FFHQ crops for a parser: rendered faces with exact labels, and photos with what their landmarks say.

    An item has `image` (S, S, 3) uint8 RGB, `labels` (S, S) uint8 as in `RenderedParsing`, 255 all over a photo, and
    `allowed` (S, S) int32 and `expected` (S, S) uint8 as in `Evidence`, which know nothing where labels are exact. It
    depends on (seed, split, index) alone. `renders` is the share of rendered faces; they are made on first use and
    kept, `rendered` of them for training if given. Needs the labelled collections.
    """

    def __init__(
        self,
        split: Literal["train", "val"] = "train",
        seed: int = 0,
        *,
        size: int = 256,
        length: int = 1 << 40,
        renders: float = 0.6,
        rendered: int | None = None,
        presets: Mapping[str, float] | None = None,
        augment: bool = True,
        root: str | Path | None = None,
    ) -> None:
        shares = dict(presets or {"clean": 1.0})
        self.presets, self.shares = list(shares), np.array(list(shares.values())) / sum(shares.values())
        self.split: Literal["train", "val"] = split
        self.seed, self.size, self.length = seed, size, length
        self.renders, self.rendered = renders, rendered if split == "train" else None
        self.augment, self.root = augment, root

    @cached_property
    def shards(self) -> RenderShards:
        """The rendered faces."""
        return parsing_renders(self.split, data_root(self.root), self.rendered)

    @cached_property
    def photos(self) -> list[CropCache]:
        """The crops of both collections."""
        return [open_crops(name, self.split, self.size, self.root) for name in ("lfw", "utkface")]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, int(self.split == "val"), index))
        image, labels, evidence = self._drawn(rng)
        if self.augment:
            image = photograph(image, rng)[0] if rng.random() < 0.5 else image
        preset = self.presets[int(rng.choice(len(self.presets), p=self.shares))]
        worn = apply(np.ascontiguousarray(image), sample(preset, rng, self.size, scaled=True))
        return {
            "image": torch.from_numpy(worn),
            "labels": torch.from_numpy(np.ascontiguousarray(labels)),
            "allowed": torch.from_numpy(np.ascontiguousarray(evidence.allowed)),
            "expected": torch.from_numpy(np.ascontiguousarray(evidence.expected)),
        }

    def _drawn(self, rng: Generator) -> Crop:
        return self._render(rng) if rng.random() < self.renders else self._photo(rng)

    def _render(self, rng: Generator) -> Crop:
        """A rendered crop; heads turned too far are drawn again."""
        number, turned = 0, True
        while turned:
            number = int(rng.integers(self.rendered or len(self.shards)))
            truth = self.shards.truth(number)
            turned = abs(float(truth["pose"]["yaw"])) > _MOST_YAW
        points = np.asarray(truth["points5"]["xy"], np.float64)
        if self.augment:
            points = displaced(points, rng)
        image, labels = aligned_pair(self.shards.picture(number), self.shards.mask(number), points, self.size)
        if self.augment and rng.random() < 0.5:
            image, labels = mirror_pair(image, labels)
        return Crop(image, labels, Evidence.nothing(self.size))

    def _photo(self, rng: Generator) -> Crop:
        """A crop of a photo, its labels unknown, with what its landmarks say."""
        cache = self.photos[int(rng.integers(len(self.photos)))]
        entry = int(rng.integers(len(cache.rows)))
        image, shown = cache.crop(entry)
        points = crop_landmarks(cache.collection.labels["landmarks68"][cache.rows[entry]], self.size)
        if self.augment:
            five = five_points(points)
            matrix = align_matrix(displaced(five, rng), self.size) if rng.random() < 0.7 else np.eye(2, 3)
            moved = crop_by_matrix(image, matrix, self.size)
            kept = cv2.warpAffine(shown.astype(np.uint8), matrix, (self.size, self.size), flags=cv2.INTER_NEAREST) > 0
            image, shown, points = moved.image, kept & moved.valid, transform_points(matrix, points)
            if rng.random() < 0.5:
                image, shown = image[:, ::-1], shown[:, ::-1]
                points = (points * (-1, 1) + (self.size - 1, 0))[MIRROR_68]
        evidence = classes_by_landmarks(points, self.size)
        evidence.allowed[~shown] = ANYTHING
        return Crop(image, np.full(image.shape[:2], IGNORED, np.uint8), evidence)


def crop_landmarks(landmarks68: NDArray[np.floating[Any]], size: int) -> NDArray[np.float64]:
    """A collection's landmarks (68, 2), without their common offset, in the FFHQ crop `aligned_truth` makes."""
    points = np.asarray(landmarks68, np.float64)
    matrix = align_matrix(five_points(points), size)
    return np.asarray(transform_points(matrix, points - LANDMARK_OFFSET * eye_distance(points)), np.float64)


def displaced(points5: NDArray[np.float64], rng: Generator) -> NDArray[np.float64]:
    """Five points as a detector might give them: off by some percent, the whole turned and scaled a little."""
    unit = float(np.hypot(*np.ptp(points5, 0))) / 2
    middle = points5.mean(0)
    angle, scale = np.radians(rng.normal(0, 5)), np.exp(rng.normal(0, 0.05))
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = rng.normal(0, 0.04 * unit, 2)
    return np.asarray((points5 - middle) @ turn.T + middle + shift + rng.normal(0, 0.02 * unit, (5, 2)))
