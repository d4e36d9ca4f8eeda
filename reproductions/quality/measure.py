"""What the parts of the quality see in damaged versions of the same faces, and what the damage really was.

Photos are damaged whole, as users' photos are, with the labelled points kept; every version is measured by the
restorer's estimator, by ViT-FIQA, by the embedded recogniser and by plain image measures. Then it is restored, the
estimator is asked about the restorer's own output, and both are compared with the undamaged face. One photo of a
person; rows are kept on disk, so that a stopped run goes on where it was.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import numpy as np

from facewright.data.detection import five_points
from facewright.data.faces import FaceCollection, open_faces
from facewright.data.restoration import luma_ssim
from facewright.degrade import degrade_photo
from facewright.face import Face
from facewright.geometry.paste import face_mask
from facewright.geometry.resample import crop_face
from facewright.geometry.similarity import transform_points
from facewright.geometry.templates import template_points
from facewright.metrics import psnr
from facewright.systems.quality.reasons import measure
from facewright.systems.quality.vitfiqa.network import ViTFIQA
from facewright.systems.recognise.distilledface.network import DistilledFace
from facewright.systems.restore.frgp.network import FRGP

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from facewright.data.restoration import Name
    from facewright.data.split import Split

SIZE = 256
FACE = face_mask(template_points("ffhq", SIZE), SIZE) > 0.5


@dataclass(frozen=True, slots=True)
class Version:
    """A damage: the preset, and whether its ranges are scaled to the face or taken in pixels of the photo."""

    preset: str
    to_face: bool = True

    @property
    def name(self) -> str:
        return self.preset if self.to_face else f"{self.preset}, in photo pixels"


VERSIONS = (
    Version("clean"),
    Version("mild"),
    Version("far"),
    Version("mixed"),
    Version("vqfr"),
    Version("severe"),
    Version("old-photo"),
    Version("severe", to_face=False),
    Version("old-photo", to_face=False),
)
ESTIMATE = ("blur_sigma", "downscale", "noise_sigma", "jpeg_quality", "psnr", "ssim")
COLUMNS = (
    *ESTIMATE,  # of the input
    *("fiqa", "length", "eyes", "sharpness"),
    *("true_psnr", "true_ssim", "identity", "restored_psnr", "restored_ssim", "restored_identity"),
    *(f"after_{name}" for name in ESTIMATE),  # of the restored face
)
STORED = "v3"  # to be raised whenever a column or a version changes, so that rows on disk are measured again


@dataclass(frozen=True, slots=True, eq=False)
class Measurements:
    """`values` (photos, versions, columns) in the order of `VERSIONS` and `COLUMNS`."""

    values: NDArray[np.float64]

    def column(self, name: str) -> NDArray[np.float64]:
        """(photos, versions) of one column."""
        return self.values[..., COLUMNS.index(name)]


class Networks:
    """The shipped networks that are asked."""

    def __init__(self) -> None:
        self.restorer = FRGP.from_pretrained()
        self.quality = ViTFIQA.from_pretrained()
        self.recogniser = DistilledFace.from_pretrained()

    def measure(self, versions: list[NDArray[np.uint8]], points: NDArray[np.float32]) -> NDArray[np.float64]:
        """(versions, columns) of whole photos of one face, the undamaged one first."""
        wide = [crop_face(photo, points, SIZE) for photo in versions]
        large = np.stack([crop.image for crop in wide])
        small = [crop_face(photo, points, 112, "arcface") for photo in versions]
        crops = np.stack([crop.image for crop in small])
        face = Face(box=np.r_[points.min(0), points.max(0)].astype(np.float32), points5=points, score=1.0)
        factors = [measure(crop, face) for crop in small]
        raw = self.recogniser.embed_raw(crops)
        restored = self.restorer.restore(large)
        on_crop = transform_points(wide[0].matrix, points)
        again = self.recogniser.embed_raw(
            np.stack([crop_face(image, on_crop, 112, "arcface").image for image in restored])
        )
        return np.column_stack(
            [
                [astuple(estimate) for estimate in self.restorer.assess(large)],
                self.quality.score(crops),
                np.linalg.norm(raw, axis=1),
                [f.eye_distance for f in factors],
                [1 - f.blur for f in factors],
                [min(50.0, psnr(v, large[0], data_range=255, mask=FACE)) for v in large],
                [luma_ssim(v, large[0], FACE) for v in large],
                cosines(raw, raw[0]),
                [min(50.0, psnr(v, large[0], data_range=255, mask=FACE)) for v in restored],
                [luma_ssim(v, large[0], FACE) for v in restored],
                cosines(again, raw[0]),
                [astuple(estimate) for estimate in self.restorer.assess(restored)],
            ]
        )


def cosines(vectors: NDArray[np.float32], to: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosine similarity of (N, D) vectors to one (D,)."""
    return np.asarray(vectors @ to / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(to)), np.float32)


def chosen_rows(collection: FaceCollection, split: Split, count: int) -> NDArray[np.int64]:
    """One photo of `count` people. Of training people those with a single photo: ViT-FIQA was trained on the others."""
    names = np.asarray(collection.labels["subject"])[collection.rows]
    _, first, photos = np.unique(names, return_index=True, return_counts=True)
    if split == "train":
        first = first[photos == 1]
    return collection.rows[np.random.default_rng(0).permutation(first)[:count]]


def damaged(photo: NDArray[np.uint8], points: NDArray[np.float32], seed: int) -> list[NDArray[np.uint8]]:
    """All versions of a photo."""
    side = SIZE / crop_face(photo, points, SIZE).scale
    return [
        degrade_photo(photo, version.preset, seed, face_size=side if version.to_face else None)[0]
        for version in VERSIONS
    ]


def measured(name: Name, split: Split, count: int, work: Path) -> Measurements:
    """The measurements of `count` photos of a collection's split; those done before are read from `work`."""
    work.mkdir(parents=True, exist_ok=True)
    collection = open_faces(name, split)
    rows = chosen_rows(collection, split, count)
    files = [work / f"{name}-{split}-{row}-{STORED}.npy" for row in rows]
    _measure_missing(collection, zip(rows, files))
    return Measurements(np.stack([np.load(file) for file in files]))


def _measure_missing(collection: FaceCollection, wanted: Iterable[tuple[np.int64, Path]]) -> None:
    missing = [(int(row), file) for row, file in wanted if not file.exists()]
    if not missing:
        return
    networks = Networks()
    for number, (row, file) in enumerate(missing, start=1):
        points = five_points(np.asarray(collection.labels["landmarks68"][row], np.float64)).astype(np.float32)
        values = networks.measure(damaged(collection.read(row), points, seed=row), points)
        temporary = file.with_suffix(".tmp.npy")
        np.save(temporary, values)
        temporary.replace(file)
        if number % 10 == 0:
            print(f"    {number}/{len(missing)} photos", flush=True)
