"""The operating room as a target domain, made by code: masks, caps, side views and a dim ceiling camera.

Real operating rooms cannot be shown. What makes them hard for a detector trained on press photos can: faces of the
labelled collections get a surgical mask and a cap painted on by their 68 landmarks, rendered heads add side views and
views from above, and the composed scene is seen by a cold, dim, blurred camera. Labels exist, for scoring only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .detection import (
    BOX,
    BOX_ONLY,
    COLUMNS,
    FACE,
    IGNORED,
    LABEL,
    MIRRORED_POINTS,
    POINTS,
    POSE,
    FaceSource,
    LabelledFace,
    Scenes,
    labelled_face,
    photograph,
    visible_share,
)
from .faces import data_cache

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.random import Generator
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Floats = NDArray[np.float64]
    Labelled = tuple[Image, NDArray[np.float32]]

Half = Literal["adapt", "test"]

FABRICS = ((150, 200, 215), (120, 175, 165), (95, 150, 185), (225, 232, 235), (80, 130, 120))  # RGB
MASKED, CAPPED = 0.75, 0.7  # shares of the faces
SIDE_YAW, SIDE_SHARE = 20.0, 0.4
CAP_YAW = 50.0  # degrees up to which the landmarks tell where the skull is
RENDERED_SHARE = 0.3  # of the heads
HEAD_SIZE = 160
MASK_OUTLINE = [*range(2, 15), 29]  # cheek, jaw, cheek, bridge of the nose
# How far the collections' boxes reach beyond the 68 landmarks' bounds, as shares of these: left, top, right, bottom
BOX_MARGINS = np.array([0.0, -0.38, -0.03, -0.02])


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A face with its 68 landmarks (iBUG order, pixels of its picture)."""

    face: LabelledFace
    landmarks: Floats


def wear_mask(image: Image, landmarks: Floats, rng: Generator) -> Image:
    """A copy of an RGB photo whose face (68, 2) wears a surgical mask over nose, mouth and chin, with two cords."""
    cover = np.zeros(image.shape[:2], np.float32)
    outline = landmarks[MASK_OUTLINE].copy()
    outline[-1] += rng.uniform(-0.3, 0.3) * (landmarks[30] - landmarks[27])
    _fill(cover, outline)
    width = max(1, round(0.02 * float(np.ptp(landmarks[:17, 0]))))
    for cheek, ear in ((2, 0), (14, 16)):
        first, last = (tuple(int(v) for v in np.rint(landmarks[i])) for i in (cheek, ear))
        cv2.line(cover, first, last, 1.0, width)
    return _dye(image, cover, _fabric(rng))


def wear_cap(image: Image, landmarks: Floats, rng: Generator) -> Image:
    """A copy of an RGB photo whose face (68, 2) wears a theatre cap from above the brows over all hair."""
    up = landmarks[[19, 24]].mean(0) - landmarks[8]
    across = landmarks[16] - landmarks[0]
    brim = landmarks[17:27] + rng.uniform(0.08, 0.2) * up
    turn = np.linspace(0, np.pi, 24)[:, None]
    temples = landmarks[[0, 16]].mean(0) + 0.35 * up
    dome = temples + 0.62 * np.cos(turn) * across + rng.uniform(0.75, 0.95) * np.sin(turn) * up
    cover = np.zeros(image.shape[:2], np.float32)
    _fill(cover, np.concatenate([brim, dome]))
    return _dye(image, cover, _fabric(rng))


def _fabric(rng: Generator) -> Floats:
    return np.asarray(FABRICS[rng.integers(len(FABRICS))] + rng.uniform(-15, 15, 3))


def _fill(cover: NDArray[np.float32], outline: Floats) -> None:
    fraction = 4  # binary digits of sub-pixel position
    points = np.rint(outline * 2**fraction).astype(np.int32)
    cv2.fillPoly(cover, [points], 1.0, cv2.LINE_8, fraction)


def _dye(image: Image, cover: NDArray[np.float32], colour: Floats) -> Image:
    """Fabric where `cover` is 1, lit as what it hides: the face's own light and shade, smoothed."""
    sigma = max(0.6, 0.01 * image.shape[0])
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)
    shade = cv2.GaussianBlur(grey, (0, 0), 4 * sigma)[..., None] / 160
    alpha = cv2.GaussianBlur(cover, (0, 0), sigma)[..., None]
    return np.asarray(np.clip(image + (colour * (0.35 + 0.65 * shade) - image) * alpha, 0, 255), np.uint8)


def ceiling_camera(image: Image, rng: Generator) -> tuple[Image, float]:
    """What a dim, cold, cheap camera under the ceiling makes of an RGB picture.

    Returns the picture and the share of its resolution that is left.
    """
    light = rng.uniform(0.35, 0.85) * np.array([rng.uniform(0.75, 0.95), 1.0, rng.uniform(1.0, 1.15)])
    x = np.asarray(image / 255 * light, np.float32)
    sharpness = 1.0
    if rng.random() < 0.4:
        length = int(rng.integers(2, 5))
        x, sharpness = _smear(x, length, rng.uniform(0, np.pi)), 1.5 / (1 + length)
    elif rng.random() < 0.6:
        sigma = rng.uniform(0.5, 1.2)
        x, sharpness = np.asarray(cv2.GaussianBlur(x, (0, 0), sigma), np.float32), 1 / max(1.0, 1.3 * sigma)
    x = x + rng.standard_normal(x.shape, dtype=np.float32) * np.sqrt(np.clip(x, 0.01, 1)) * rng.uniform(0.01, 0.05)
    out = (np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8)
    _, data = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 85))])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8), sharpness


def _smear(x: NDArray[np.float32], length: int, angle: float) -> NDArray[np.float32]:
    """Motion blur along a line of that length in pixels."""
    side = length | 1
    kernel = np.zeros((side, side), np.float32)
    reach = length / 2 * np.array([np.cos(angle), np.sin(angle)])
    ends = [tuple(int(v) for v in np.rint(side // 2 + sign * reach).clip(0, side - 1)) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0)
    return np.asarray(cv2.filter2D(x, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT), np.float32)


def render_heads(count: int, seed: int = 0, model: str = "coarse") -> list[Head]:
    """Rendered heads seen from the side and from above, (160, 160, 3); yaw to ±90°, pitch to −40°.

    `model` is "coarse" or a file or folder of ICT-FaceKit. Prepared once (a third of a second each) and kept in the
    cache of prepared data; the heads show nobody.
    """
    from pathlib import Path

    path = data_cache() / f"operating-room-heads-{Path(model).stem}-{seed}-{count}.npz"
    if not path.exists():
        _render(count, seed, model, path)
    with np.load(path) as file:
        images, landmarks, poses = file["images"], file["landmarks"], file["poses"]
    return [
        Head(LabelledFace(image, box_of_landmarks(marks), five_points_of(marks), pose), marks)
        for image, marks, pose in zip(images, landmarks, poses)
    ]


def _render(count: int, seed: int, model: str, path: Path) -> None:
    from ..render.jobs import load_model
    from ..render.renderer import Renderer
    from ..render.scene import SceneSampler

    data = load_model(model)
    sampler, renderer = SceneSampler(data, seed, size=HEAD_SIZE, effects=False), Renderer(data, cast=False)
    images, landmarks, poses = [], [], []
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        pose = (float(rng.uniform(-90, 90)), float(rng.uniform(-40, 10)), float(rng.normal(0, 8)))
        rendered = renderer.render(replace(sampler.scene(index), pose=pose))
        images.append(rendered.clean)
        landmarks.append(rendered.landmarks68.xy.astype(np.float64))
        poses.append(pose)
    temporary = path.with_suffix(".tmp.npz")
    np.savez(temporary, images=np.stack(images), landmarks=np.stack(landmarks), poses=np.array(poses))
    temporary.replace(path)


def box_of_landmarks(landmarks: Floats) -> Floats:
    """The box (4,) that the labelled collections would give a face with these landmarks (68, 2)."""
    low, high = landmarks.min(0), landmarks.max(0)
    return np.asarray(np.concatenate([low, high]) + BOX_MARGINS * np.tile(high - low, 2))


def five_points_of(landmarks: Floats) -> Floats:
    """Eye centres, nose tip, mouth corners (5, 2) of exact landmarks (68, 2)."""
    eyes = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    return np.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]])


def half_of(subject: str) -> Half:
    """Which half of the validation people somebody belongs to (by hash): those adapted to, or those tested on."""
    return "adapt" if hashlib.sha256(f"operating room {subject}".encode()).digest()[0] % 2 else "test"


class DressedFaces(FaceSource):
    """Faces of one half of the validation people in theatre clothes, mixed with rendered heads."""

    def __init__(self, half: Half, root: str | Path | None = None, heads: Sequence[Head] = ()) -> None:
        super().__init__("val", root)
        self.heads = heads
        self.rows = [
            rows[[half_of(str(c.labels["subject"][row])) == half for row in rows]]
            for c, rows in zip(self.collections, self.rows)
        ]
        yaws = [np.abs(c.labels["pose_yaw_pitch_roll_deg"][rows, 0]) for c, rows in zip(self.collections, self.rows)]
        self.turned = [rows[yaw > SIDE_YAW] for rows, yaw in zip(self.rows, yaws)]

    def any(self, rng: Generator) -> LabelledFace:
        """A photo of either collection, or a rendered head."""
        if len(self.heads) and rng.random() < RENDERED_SHARE:
            return self._dressed(self.heads[int(rng.integers(len(self.heads)))], rng)
        return super().any(rng)

    def _face(self, which: int, rng: Generator) -> LabelledFace:
        rows = self.turned[which] if rng.random() < SIDE_SHARE else self.rows[which]
        row = int(rows[rng.integers(len(rows))])
        collection = self.collections[which]
        marks = np.asarray(collection.labels["landmarks68"][row], np.float64)
        return self._dressed(Head(labelled_face(collection, row), marks), rng)

    def _dressed(self, head: Head, rng: Generator) -> LabelledFace:
        image = head.face.image
        if rng.random() < MASKED:
            image = wear_mask(image, head.landmarks, rng)
        if rng.random() < CAPPED and abs(head.face.pose[0]) < CAP_YAW:
            image = wear_cap(image, head.landmarks, rng)
        face = replace(head.face, image=image)
        return face.mirrored() if rng.random() < 0.5 else face


class OperatingRoomScenes(Scenes):
    """`data.detection.Scenes` of dressed people under a ceiling camera; the two halves share no person.

    Items and collation are those of `Scenes`. Faces are `smallest` to `largest` pixels large.
    """

    def __init__(
        self,
        half: Half,
        root: str | Path | None = None,
        *,
        seed: int = 0,
        size: int = 256,
        smallest: float = 14,
        largest: float = 72,
        heads: Sequence[Head] = (),
        length: int = 1_000_000,
    ) -> None:
        super().__init__("val", root, seed=seed, size=size, smallest=smallest, largest=largest, length=length)
        self.half = half
        self.source = DressedFaces(half, root, heads)

    def scene(self, index: int) -> Labelled:
        """Picture (size, size, 3) RGB and label rows (M, 18) of scene `index`."""
        image, rows = super().scene(index)
        rng = np.random.default_rng((self.seed, 7, int(self.half == "test"), index))
        seen, sharpness = ceiling_camera(image, rng)
        return seen, self._judged(list(rows), sharpness)


class MixedScenes(Dataset[dict[str, Tensor]]):
    """Training scenes, half of them labelled source scenes, half pictures of another domain with labels of any kind.

    Item i is a function of (seed, i): an even one is a source scene, an odd one a random part of a labelled picture
    (image (H, W, 3) uint8 RGB, rows (M, 18)), zoomed, mirrored, and photographed again. `collate` is that of `Scenes`.
    """

    collate = staticmethod(Scenes.collate)

    def __init__(
        self, source: Scenes, labelled: Sequence[Labelled], *, seed: int = 0, size: int = 256, length: int = 1_000_000
    ) -> None:
        self.source, self.labelled = source, labelled
        self.seed, self.size, self.length = seed, size, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if index % 2 == 0 or not self.labelled:
            return self.source[self.seed * self.length + index]
        rng = np.random.default_rng((self.seed, index))
        picture, labels = self.labelled[int(rng.integers(len(self.labelled)))]
        image, rows = zoomed(picture, labels, self.size, rng)
        image, _ = photograph(image, rng)
        return {"image": torch.from_numpy(image).permute(2, 0, 1).contiguous(), "faces": torch.from_numpy(rows)}


def zoomed(image: Image, rows: NDArray[np.float32], size: int, rng: Generator) -> Labelled:
    """A (size, size, 3) part of a labelled picture, scaled by 0.75 to 1.4 and perhaps mirrored, and its rows (M, 18).

    Faces cut by the border by more than 30 % are ignored; those outside are left out.
    """
    scale = float(np.exp(rng.uniform(np.log(0.75), np.log(1.4)))) * size / min(image.shape[:2])
    width, height = (scale * side for side in image.shape[1::-1])
    shift = rng.uniform(np.minimum(0, (size - width, size - height)), np.maximum(0, (size - width, size - height)))
    matrix = np.array([[scale, 0, shift[0] + 0.5 * scale - 0.5], [0, scale, shift[1] + 0.5 * scale - 0.5]])
    flags = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    out = np.asarray(cv2.warpAffine(image, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT), np.uint8)
    moved = rows.copy()
    for part, count in ((BOX, 2), (POINTS, 5)):
        moved[:, part] = rows[:, part] * scale + np.tile(matrix[:, 2], count)
    if rng.random() < 0.5:
        out, moved = np.ascontiguousarray(out[:, ::-1]), mirrored_rows(moved, size)
    visible = np.array([visible_share(row[BOX], (0, 0, size, size)) for row in moved])
    moved[(visible < 0.7) & np.isin(moved[:, LABEL], (FACE, BOX_ONLY)), LABEL] = IGNORED
    return out, moved[visible > 0.05]


def mirrored_rows(rows: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Label rows (M, 18) in the mirror image of a picture `size` pixels wide."""
    out = np.empty((len(rows), COLUMNS), np.float32)
    x0, y0, x1, y1 = rows[:, BOX].T
    out[:, BOX] = np.stack([size - 1 - x1, y0, size - 1 - x0, y1], 1)
    points = rows[:, POINTS].reshape(-1, 5, 2)[:, MIRRORED_POINTS] * (-1, 1) + (size - 1, 0)
    out[:, POINTS] = points.reshape(-1, 10)
    out[:, POSE] = rows[:, POSE] * (-1, 1, -1)
    out[:, LABEL] = rows[:, LABEL]
    return out
