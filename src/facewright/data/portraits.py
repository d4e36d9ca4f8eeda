"""Whole labelled pictures for parsers that take them as they are, and the tanh-polar views of faces in them.

Pictures come from a data set in its published folder, or are rendered where none is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import UsageError
from ..nn.sampling import sample
from ..nn.tanh_polar import polar_grid
from ..systems.parse.taxonomy import CELEBAMASK_19, EASYPORTRAIT_9, IBUG_11, IGNORED, conversion, mirrored
from .faces import data_root
from .parsing import EasyPortraitFolder, IBugMask, mirror_pair, parsing_renders

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.random import Generator
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Box = NDArray[np.float64]

Split = Literal["train", "val"]
_IBUG_MIRROR = np.arange(256, dtype=np.uint8)
_IBUG_MIRROR[: len(IBUG_11)] = mirrored(IBUG_11)
_RENDERED_FACE = conversion(CELEBAMASK_19, IBUG_11)
_RENDERED_PORTRAIT = conversion(CELEBAMASK_19, EASYPORTRAIT_9)
_RENDERED_PORTRAIT[CELEBAMASK_19.index("mouth")] = IGNORED


class Portraits(Dataset[dict[str, Tensor]]):
    """Pictures padded to squares, with EasyPortrait's nine classes; no mirroring, for sides are classes.

    An item, a function of (seed, split, index) alone, has `image` (S, S, 3) uint8 RGB, black beyond the picture, and
    `labels` (S, S) uint8, 255 there. `folder` is EasyPortrait in its published layout; rendered faces without it, in
    which the inside of the mouth does not count because its teeth are not labelled. `distort` jitters as published:
    brightness, contrast, saturation and hue, each with probability ½.
    """

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        *,
        size: int = 384,
        folder: str = "",
        distort: bool = True,
        length: int = 1 << 40,
        root: str | Path | None = None,
    ) -> None:
        self.pictures = EasyPortraitFolder(folder, split) if folder else None
        self.renders = None if folder else parsing_renders(split, data_root(root))
        self.split, self.seed, self.size, self.distort, self.length = split, seed, size, distort, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, int(self.split == "val"), index))
        image, labels = padded(*self._pair(rng), self.size)
        if self.distort:
            image = distorted(image, rng)
        return {"image": torch.from_numpy(image), "labels": torch.from_numpy(labels)}

    def _pair(self, rng: Generator) -> tuple[Image, Image]:
        if self.pictures is not None:
            found = self.pictures[int(rng.integers(len(self.pictures)))]
            return found.image, found.labels
        assert self.renders is not None
        number = int(rng.integers(len(self.renders)))
        return self.renders.picture(number), _RENDERED_PORTRAIT[self.renders.mask(number)]


class PolarFaces(Dataset[dict[str, Tensor]]):
    """Tanh-polar views of the face in a box, with iBugMask's eleven classes.

    An item has `image` (S, S, 3) uint8 RGB and `labels` (S, S) uint8, the views, and `box` (4,) float32, of which
    the network needs the ratio of the sides. `folder` is iBugMask in its published layout, rendered faces without it;
    the box is that of the labelled face without hair. `augment` moves the box by up to a tenth of its sides, scales it
    by 0.8 to 1.3, turns the view by any angle (a shift of its rows) and mirrors every second picture.
    """

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        *,
        size: int = 513,
        folder: str = "",
        augment: bool = True,
        length: int = 1 << 40,
        root: str | Path | None = None,
    ) -> None:
        self.pictures = IBugMask(folder, "train" if split == "train" else "test") if folder else None
        self.renders = None if folder else parsing_renders(split, data_root(root))
        self.split, self.seed, self.size, self.augment, self.length = split, seed, size, augment, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, int(self.split == "val"), index))
        image, labels, box = self._face(rng)
        angle = 0.0
        if self.augment:
            box = wrong_box(box, rng)
            angle = float(rng.uniform(-np.pi, np.pi)) if rng.random() < 0.3 else float(rng.normal(0, 0.3))
            image = distorted(image, rng)
        view, seen = polar_pair(image, labels, box, self.size, angle)
        return {"image": view, "labels": seen, "box": torch.from_numpy(box.astype(np.float32))}

    def _face(self, rng: Generator) -> tuple[Image, Image, Box]:
        """A picture, its labels, and the box of its face."""
        if self.pictures is not None:
            found = self.pictures[int(rng.integers(len(self.pictures)))]
            image, labels, table = found.image, found.labels, np.arange(256, dtype=np.uint8)
        else:
            assert self.renders is not None
            number = int(rng.integers(len(self.renders)))
            image, labels, table = self.renders.picture(number), self.renders.mask(number), _RENDERED_FACE
        if self.augment and rng.random() < 0.5:
            image, labels = mirrored_pair(image, labels, rendered=self.pictures is None)
        labels = table[labels]
        return image, labels, face_box(labels)


def padded(image: Image, labels: Image, size: int) -> tuple[Image, Image]:
    """A picture (H, W, 3) and its labels in the middle of a square that is then resized to `size`."""
    height, width = labels.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    canvas, known = np.zeros((side, side, 3), np.uint8), np.full((side, side), IGNORED, np.uint8)
    canvas[top : top + height, left : left + width] = image
    known[top : top + height, left : left + width] = labels
    way = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return (
        np.asarray(cv2.resize(canvas, (size, size), interpolation=way), np.uint8),
        np.asarray(cv2.resize(known, (size, size), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8),
    )


def distorted(image: Image, rng: Generator) -> Image:
    """Brightness ±16, contrast and saturation × 0.5 to 1, hue ±10°, each with probability ½ (EasyPortrait, v2)."""
    x = image.astype(np.float32)
    if rng.random() < 0.5:
        x = x + np.float32(rng.uniform(-16, 16))
    if rng.random() < 0.5:
        x = x * np.float32(rng.uniform(0.5, 1.0))
    hsv = np.asarray(cv2.cvtColor(np.clip(x, 0, 255) / np.float32(255), cv2.COLOR_RGB2HSV))
    if rng.random() < 0.5:
        hsv[..., 1] = hsv[..., 1] * np.float32(rng.uniform(0.5, 1.0))
    if rng.random() < 0.5:
        hsv[..., 0] = (hsv[..., 0] + np.float32(rng.uniform(-10, 10))) % 360
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255 + 0.5, np.uint8)


def face_box(labels: Image) -> Box:
    """x0, y0, x1, y1 around all pixels (H, W) that are neither background nor hair; UsageError without any."""
    face = (labels != IBUG_11.index("background")) & (labels != IBUG_11.index("hair")) & (labels != IGNORED)
    rows, columns = np.flatnonzero(face.any(1)), np.flatnonzero(face.any(0))
    if not len(rows):
        raise UsageError("a label map shows no face")
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


def wrong_box(box: Box, rng: Generator) -> Box:
    """A box as a detector might give it: moved by up to a tenth of its sides and scaled by 0.8 to 1.3."""
    sides = box[2:] - box[:2]
    middle = (box[:2] + box[2:]) / 2 + rng.uniform(-0.1, 0.1, 2) * sides
    half = sides / 2 * rng.uniform(0.8, 1.3)
    return np.concatenate([middle - half, middle + half])


def polar_pair(image: Image, labels: Image, box: Box, size: int, angle: float = 0.0) -> tuple[Tensor, Tensor]:
    """The views (S, S, 3) and (S, S) uint8 of a picture and its labels, turned by `angle` radians.

    What lies beyond the picture is black, and its label does not count.
    """
    boxes = torch.from_numpy(box[None]).float()
    grid = polar_grid(boxes, size, size, torch.Size(labels.shape), angles=torch.tensor([angle]))
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    known = torch.from_numpy(np.ascontiguousarray(labels))[None, None].float() - IGNORED  # beyond: 0
    view = sample(pixels, grid, align_corners=True)[0].permute(1, 2, 0).round().byte()
    seen = (sample(known, grid, mode="nearest", align_corners=True)[0, 0] + IGNORED).round().byte()
    return view, seen


def mirrored_pair(image: Image, labels: Image, *, rendered: bool) -> tuple[Image, Image]:
    """The mirror image; classes of the two sides change places."""
    if rendered:
        return mirror_pair(image, labels)
    return np.ascontiguousarray(image[:, ::-1]), _IBUG_MIRROR[np.ascontiguousarray(labels[:, ::-1])]
