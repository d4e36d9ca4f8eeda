"""Readers of published face detection sets, in the layouts their authors give out.

- WIDER FACE: pictures in `WIDER_<split>/images/<event>/`, faces in `wider_face_split/wider_face_<split>_bbx_gt.txt`,
  and which of them are easy, medium and hard in `wider_<difficulty>_val.mat` of its evaluation tools;
- the text annotations of RetinaFace (five points) and of MOS (also head pose), `label.txt` beside `images/`;
- detections as WIDER FACE's tools want them, one text file a picture.

All raise FacewrightError naming the file and the line. Pictures stay on the disk until they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from ..errors import FacewrightError, UsageError
from ..metrics.detection import Detections, GroundTruth
from .detection import BOX, BOX_ONLY, COLUMNS, FACE, IGNORED, LABEL, POINTS, POSE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

WiderSplit = Literal["train", "val"]
Difficulty = Literal["easy", "medium", "hard"]
Lines = list[tuple[int, str]]

# columns of a face in bbx_gt.txt after x, y, width, height
BLUR, EXPRESSION, ILLUMINATION, INVALID, OCCLUSION, UNUSUAL_POSE = range(4, 10)
FLAG_COUNTS = {BLUR: 3, EXPRESSION: 2, ILLUMINATION: 2, INVALID: 2, OCCLUSION: 3, UNUSUAL_POSE: 2}
POINT_COLUMNS = 19  # box, and x, y, flag of five points
POSE_COLUMNS = 23  # also confidence, pitch, yaw, roll


@dataclass(frozen=True, slots=True, eq=False)
class WiderPicture:
    """One picture of WIDER FACE and its F faces; pictures without a face have F = 0.

    `boxes` (F, 4) are x0, y0, x1, y1. `blur` and `occlusion` (F,) are 0 (none), 1 (some) or 2 (heavy); `expression`,
    `illumination` and `pose` 1 where unusual; faces that are `invalid` are too small or unclear to be asked for.
    """

    path: Path
    event: str
    boxes: NDArray[np.float64]
    blur: NDArray[np.int64]
    expression: NDArray[np.int64]
    illumination: NDArray[np.int64]
    invalid: NDArray[np.bool_]
    occlusion: NDArray[np.int64]
    pose: NDArray[np.int64]

    def read(self) -> Image:
        """(H, W, 3) uint8 RGB."""
        return _read_picture(self.path)

    def ground_truth(self) -> GroundTruth:
        """The faces as measures take them; invalid ones are ignored."""
        return GroundTruth(self.boxes, self.invalid)

    def rows(self) -> NDArray[np.float32]:
        """(F, 18) label rows of `data.detection`: boxes without points, invalid faces ignored."""
        rows = np.zeros((len(self.boxes), COLUMNS), np.float32)
        rows[:, BOX] = self.boxes
        rows[:, LABEL] = np.where(self.invalid, IGNORED, BOX_ONLY)
        return rows


@dataclass(frozen=True, slots=True, eq=False)
class PointPicture:
    """One picture of RetinaFace's or MOS's annotations and its F faces.

    `boxes` (F, 4); `points` (F, 5, 2) eyes, nose tip, mouth corners, image-left first, NaN where a face has none;
    `pose` (F, 3) yaw, pitch, roll in degrees as in `face.Pose`, NaN where the annotations have none.
    """

    path: Path
    boxes: NDArray[np.float64]
    points: NDArray[np.float64]
    pose: NDArray[np.float64]

    def read(self) -> Image:
        """(H, W, 3) uint8 RGB."""
        return _read_picture(self.path)

    def rows(self) -> NDArray[np.float32]:
        """(F, 18) label rows of `data.detection`; a face without points or pose teaches its box only."""
        rows = np.zeros((len(self.boxes), COLUMNS), np.float32)
        rows[:, BOX] = self.boxes
        rows[:, POINTS] = self.points.reshape(-1, 10)
        rows[:, POSE] = self.pose
        complete = np.isfinite(rows).all(1)
        rows[:, LABEL] = np.where(complete, FACE, BOX_ONLY)
        return np.nan_to_num(rows)


def read_wider_face(root: str | Path, split: WiderSplit) -> tuple[WiderPicture, ...]:
    """A split of WIDER FACE in published order; `root` holds `WIDER_<split>/` and `wider_face_split/`.

    Every picture of the list must be there.
    """
    folder = Path(root)
    listing = folder / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
    return read_wider_list(listing, folder / f"WIDER_{split}" / "images")


def read_wider_list(listing: str | Path, images: str | Path) -> tuple[WiderPicture, ...]:
    """Pictures and faces of a `bbx_gt.txt`: a path, the number of faces, and a line of ten numbers for each.

    A picture without faces says 0 and has one line of zeros all the same; lists without that line are read as well.
    """
    file = Path(listing)
    lines = _lines(file)
    pictures, at = [], 0
    while at < len(lines):
        picture, at = _wider_picture(file, lines, at, Path(images))
        pictures.append(picture)
    if not pictures:
        raise FacewrightError(f"{file} lists no pictures; download it again")
    return tuple(pictures)


def _wider_picture(file: Path, lines: Lines, at: int, images: Path) -> tuple[WiderPicture, int]:
    """The picture whose path is line `at`, and where the next begins."""
    number, name = lines[at]
    path = _picture(file, number, images / name)
    if at + 1 >= len(lines) or not lines[at + 1][1].isdigit():
        raise FacewrightError(f"{file} line {number}: the number of faces must follow {name!r}")
    count, at = int(lines[at + 1][1]), at + 2
    if len(lines) < at + count:
        raise FacewrightError(f"{file} line {number}: {name!r} has {count} faces, but the file ends: it is incomplete")
    table = _table(file, lines[at : at + count], 10)
    _check_flags(file, lines[at : at + count], table)
    at += count
    if count == 0 and at < len(lines) and set(lines[at][1].split()) == {"0"}:
        at += 1
    flags = table.astype(np.int64)
    return WiderPicture(
        path=path,
        event=Path(name).parent.name,
        boxes=_corners(table[:, :4]),
        blur=flags[:, BLUR],
        expression=flags[:, EXPRESSION],
        illumination=flags[:, ILLUMINATION],
        invalid=flags[:, INVALID] == 1,
        occlusion=flags[:, OCCLUSION],
        pose=flags[:, UNUSUAL_POSE],
    ), at


def _check_flags(file: Path, lines: Lines, table: NDArray[np.float64]) -> None:
    for column, count in FLAG_COUNTS.items():
        wrong = ~np.isin(table[:, column], range(count))
        if wrong.any():
            number, text = lines[int(wrong.argmax())]
            raise FacewrightError(f"{file} line {number}: flag {column - 3} is a number below {count} in {text!r}")


def read_wider_difficulty(
    tools: str | Path, difficulty: Difficulty, pictures: Sequence[WiderPicture]
) -> tuple[NDArray[np.int64], ...]:
    """Per picture of the validation split, the indices (from 0) of the faces of one difficulty.

    `tools` is the folder `ground_truth` of the published evaluation tools, with `wider_<difficulty>_val.mat`.
    """
    from scipy.io import loadmat

    file = Path(tools) / f"wider_{difficulty}_val.mat"
    if difficulty not in ("easy", "medium", "hard"):
        raise UsageError(f"unknown difficulty {difficulty!r} of WIDER FACE; choose easy, medium or hard")
    try:
        content = loadmat(file, variable_names=["file_list", "gt_list"])
        names = [str(name[0][0]) for event in content["file_list"].ravel() for name in event]
        kept = [face[0].ravel().astype(np.int64) - 1 for event in content["gt_list"].ravel() for face in event]
    except Exception as error:  # scipy's reader fails in many ways on damaged files
        raise FacewrightError(f"{file} is not a list from WIDER FACE's evaluation tools ({error})") from error
    by_name = dict(zip(names, kept))
    missing = [picture.path.stem for picture in pictures if picture.path.stem not in by_name]
    if missing:
        raise FacewrightError(f"{file} has no entry for picture {missing[0]}; it belongs to another split")
    chosen = tuple(by_name[picture.path.stem] for picture in pictures)
    for picture, faces in zip(pictures, chosen):
        if faces.size and not 0 <= faces.min() <= faces.max() < len(picture.boxes):
            raise FacewrightError(
                f"{file} names a face that {picture.path.name} does not have; it belongs to another edition"
            )
    return chosen


def read_point_labels(labels: str | Path, images: str | Path | None = None) -> tuple[PointPicture, ...]:
    """RetinaFace's or MOS's `label.txt`: "# path" and a line for each face of that picture.

    A face is x, y, width, height, then x, y and a flag for each of five points (all −1 where there are none), then
    perhaps a confidence, then perhaps pitch, yaw and roll in Hopenet's signs. `images` is the folder the paths start
    from, by default `images` beside the file.
    """
    file = Path(labels)
    folder = file.parent / "images" if images is None else Path(images)
    pictures: list[PointPicture] = []
    for (number, name), faces in _sections(file):
        pictures.append(_point_picture(file, _picture(file, number, folder / name), faces))
    if not pictures:
        raise FacewrightError(f"{file} lists no pictures; a picture starts with '# path'")
    return tuple(pictures)


def _sections(file: Path) -> Iterator[tuple[tuple[int, str], Lines]]:
    """Every "# path" with the lines that follow it."""
    head: tuple[int, str] | None = None
    faces: Lines = []
    for number, text in _lines(file):
        if text.startswith("#"):
            if head is not None:
                yield head, faces
            head, faces = (number, text[1:].strip()), []
        elif head is None:
            raise FacewrightError(f"{file} line {number}: a face comes before the first '# path'")
        else:
            faces.append((number, text))
    if head is not None:
        yield head, faces


def _point_picture(file: Path, path: Path, lines: Lines) -> PointPicture:
    table = np.full((len(lines), POSE_COLUMNS), np.nan)
    for row, (number, text) in zip(table, lines):
        values = _numbers(file, number, text)
        if len(values) not in (4, POINT_COLUMNS, POINT_COLUMNS + 1, POSE_COLUMNS):
            raise FacewrightError(
                f"{file} line {number}: a face has 4, 19, 20 or 23 numbers, this one {len(values)}: {text!r}"
            )
        row[: len(values)] = values
    points = table[:, 4:POINT_COLUMNS].reshape(-1, 5, 3)[..., :2]
    points[(points < 0).all((1, 2))] = np.nan
    pitch, yaw, roll = table[:, 20:].T
    return PointPicture(path, _corners(table[:, :4]), points, np.stack([-yaw, pitch, roll], 1))


def read_detections(folder: str | Path, pictures: Sequence[WiderPicture]) -> tuple[Detections, ...]:
    """Detections in the form WIDER FACE's tools want: `<event>/<picture>.txt` with name, count, and x y w h score."""
    return tuple(_read_detections(_detection_file(folder, picture)) for picture in pictures)


def _read_detections(file: Path) -> Detections:
    lines = _lines(file)
    if len(lines) < 2 or not lines[1][1].isdigit() or int(lines[1][1]) != len(lines) - 2:
        raise FacewrightError(f"{file} must hold a name, the number of detections and a line for each")
    table = _table(file, lines[2:], 5)
    return Detections(_corners(table[:, :4]), table[:, 4])


def write_detections(folder: str | Path, pictures: Sequence[WiderPicture], found: Sequence[Detections]) -> None:
    """Write what `read_detections` reads, best score first; folders are made."""
    if len(pictures) != len(found):
        raise UsageError(f"detections of {len(found)} pictures do not fit {len(pictures)} pictures")
    for picture, detections in zip(pictures, found):
        file = _detection_file(folder, picture)
        file.parent.mkdir(parents=True, exist_ok=True)
        best = detections.sorted()
        sides = best.boxes[:, 2:] - best.boxes[:, :2]
        rows = np.column_stack([best.boxes[:, :2], sides, best.scores])
        lines = [picture.path.stem, str(len(rows)), *(" ".join(f"{value:.6g}" for value in row) for row in rows)]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _detection_file(folder: str | Path, picture: WiderPicture) -> Path:
    return Path(folder) / picture.event / f"{picture.path.stem}.txt"


def _read_picture(path: Path) -> Image:
    """The pixels as stored: boxes were drawn before anybody looked at EXIF's orientation."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise FacewrightError(f"{path} cannot be read ({error})") from error
    bgr = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if data.size else None
    if bgr is None:
        raise FacewrightError(f"{path} cannot be decoded as a picture; download it again")
    return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)


def _lines(file: Path) -> Lines:
    """Lines that hold something, stripped, numbered from 1."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FacewrightError(f"{file} cannot be read ({error})") from error
    return [(n, line.strip()) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _picture(file: Path, number: int, path: Path) -> Path:
    if not path.is_file():
        raise FacewrightError(f"{file} line {number}: there is no picture {path}")
    return path


def _table(file: Path, lines: Lines, columns: int) -> NDArray[np.float64]:
    rows = [_numbers(file, number, text) for number, text in lines]
    for (number, text), row in zip(lines, rows):
        if len(row) != columns:
            raise FacewrightError(f"{file} line {number}: expected {columns} numbers, got {text!r}")
    return np.array(rows, np.float64).reshape(-1, columns)


def _numbers(file: Path, number: int, text: str) -> list[float]:
    try:
        return [float(value) for value in text.split()]
    except ValueError:
        raise FacewrightError(f"{file} line {number}: expected numbers, got {text!r}") from None


def _corners(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """x, y, width, height to x0, y0, x1, y1."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
