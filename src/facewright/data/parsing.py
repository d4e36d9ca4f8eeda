"""Labelled pictures for face parsing: readers of public data sets in their published folders, and rendered faces.

Left and right. CelebAMask-HQ names sides by the subject: in the label maps published with it (MaskGAN_demo/samples of
github.com/switchablenorms/CelebAMask-HQ, 512 px) `l_eye` lies at x ≈ 320 and `r_eye` at x ≈ 193, so `l_` is the
picture's right; brows and ears agree. LaPa, iBugMask and EasyPortrait do not say whose left they mean; their labels are
passed on as they are. Rendered faces get the convention of CelebAMask-HQ here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..align import align_matrix, crop_by_matrix
from ..degrade import apply, sample
from ..errors import FacewrightError, ImageReadError
from ..io.image import read
from ..render import Backgrounds, Renderer, SceneSampler
from ..render.jobs import load_model
from ..systems.parse.taxonomy import CELEBAMASK_19, EASYPORTRAIT_9, IBUG_11, IGNORED, LAPA_11, mirrored

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ..render import Scene

Split = Literal["train", "val", "test"]
_PARTITIONS = {"train": "0", "val": "1", "test": "2"}
_LAPA_FIVE = ((74, 104), (83, 105), (54, 54), (84, 84), (90, 90))
_MOST_YAW = 60.0
_VALIDATION_SEED = 1_000_003


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
        masks = {part: _channel(path) for part, path in parts.items() if path.exists()}
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
        image, labels = read(self.images[index]).rgb(), _channel(path)
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
        raise FacewrightError(f"{path} is no folder; give the root of the unpacked data set")
    return Path(path)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FacewrightError(f"{path} cannot be read ({error}); it belongs to the data set") from error


def _channel(path: Path) -> NDArray[np.uint8]:
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
        labels = subject_sides(shown.parsing19)
        points = shown.points5.xy + rng.normal(0, self.jitter, (5, 2)) * np.ptp(shown.points5.xy, 0).max()
        image, labels = aligned_pair(shown.rgb, labels, points, self.size)
        if self.flip and rng.random() < 0.5:
            image, labels = mirror_pair(image, labels)
        preset = self.presets[int(rng.choice(len(self.presets), p=self.shares))]
        worn = apply(image, sample(preset, rng, self.size, scaled=True))
        return {"image": torch.from_numpy(worn), "labels": torch.from_numpy(np.ascontiguousarray(labels))}

    def _scene(self, index: int) -> Scene:
        """The first of an item's scenes in which the head is not turned too far."""
        tried = (self.sampler.scene(index + attempt * self.length) for attempt in count())
        return next(scene for scene in tried if abs(scene.pose[0]) <= _MOST_YAW)


def subject_sides(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Labels of the renderer, which names sides by the picture, with the sides of CelebAMask-HQ, and the reverse."""
    return np.asarray(mirrored(CELEBAMASK_19), np.uint8)[labels]


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
