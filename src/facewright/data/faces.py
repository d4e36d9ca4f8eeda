"""Readers of the labelled face collections: pictures, labels, and one side of the split (`data.split`).

The collections are folders with `<name>.tar` and `<name>_labels.npz`. They are looked for in the given root, or else in
`$FACEWRIGHT_DATA`, `../shared/data` and `data`. They show real people and are never part of the package.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from ..errors import FacewrightError
from ..io.sources import note
from ..weights.store import cache_dir
from .split import shipped_split

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .split import Split


def data_root(root: str | Path | None = None) -> Path:
    """The folder of the collections; raises FacewrightError telling how to name it."""
    candidates = [root] if root else [os.environ.get("FACEWRIGHT_DATA"), Path("../shared/data"), Path("data")]
    for candidate in candidates:
        if candidate and (Path(candidate) / "lfw.tar").exists():
            return Path(candidate).resolve()
    where = f" in {root}" if root else ""
    raise FacewrightError(f"the labelled face collections were not found{where}; set FACEWRIGHT_DATA to their folder")


@dataclass(frozen=True, slots=True, eq=False)
class FaceCollection:
    """Pictures of one collection and their labels.

    `rows` are the indices into `labels` of the chosen split; `labels` maps a column to its array. `read(row)` gives the
    (H, W, 3) uint8 RGB picture.
    """

    name: str
    rows: NDArray[np.int64]
    labels: dict[str, NDArray[np.generic]]
    archive: Path
    offsets: dict[str, tuple[int, int]]

    def __len__(self) -> int:
        return len(self.rows)

    def encoded(self, row: int) -> bytes:
        """The JPEG bytes of a row of `labels`."""
        offset, size = self.offsets[str(self.labels["filename"][row])]
        with open(self.archive, "rb") as stream:
            stream.seek(offset)
            return stream.read(size)

    def read(self, row: int) -> NDArray[np.uint8]:
        """The picture of a row of `labels`."""
        bgr = cv2.imdecode(np.frombuffer(self.encoded(row), np.uint8), cv2.IMREAD_COLOR)
        if bgr is None:
            raise FacewrightError(f"{self.archive}: picture {self.labels['filename'][row]} cannot be decoded")
        return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)


def open_faces(
    name: Literal["lfw", "utkface"], split: Split | None = None, root: str | Path | None = None
) -> FaceCollection:
    """A collection, whole or one side of the split that no person crosses; rows without a detected face are left out.

    A few people are on neither side, because other sets show them too.
    """
    folder = data_root(root)
    with np.load(folder / f"{name}_labels.npz", allow_pickle=False) as file:
        labels = {key: file[key] for key in file.files}
    usable = np.array(labels["detected"], bool)
    if split is not None:
        pictures, subjects = (labels[key].astype(str).tolist() for key in ("filename", "subject"))
        usable &= shipped_split().sides(name, pictures, subjects) == split
    archive = folder / f"{name}.tar"
    note(archive, folder / f"{name}_labels.npz")
    return FaceCollection(name, np.flatnonzero(usable), labels, archive, tar_offsets(archive))


def tar_offsets(archive: Path) -> dict[str, tuple[int, int]]:
    """Byte offset and size of every file of a tar by its base name, so that pictures are read without unpacking."""
    with tarfile.open(archive) as tar:
        return {Path(m.name).name: (m.offset_data, m.size) for m in tar if m.isfile()}


def rows_key(rows: NDArray[np.int64]) -> str:
    """A short name for a choice of rows, so that prepared data of another choice are not taken for it."""
    return hashlib.sha256(np.ascontiguousarray(rows, np.int64).tobytes()).hexdigest()[:8]


def data_cache() -> Path:
    """Folder for prepared training data."""
    folder = cache_dir() / "data"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
