"""Readers of the published recognition benchmarks, in the layouts their authors give out.

- LFW, XQLFW: a folder `<person>/<person>_0001.jpg` and a list of pairs (`pairs.txt` with ten folds, or view 1's
  `pairsDevTrain.txt` and `pairsDevTest.txt`);
- LFW, CFP-FP, AgeDB-30, CALFW, CPLFW as insightface packs them: a `.bin` pickle of JPEG bytes and labels;
- IJB-B, IJB-C: insightface's `meta/` lists beside `loose_crop/`;
- C-Zoo, C-Tai: annotation lines of chimpanzee faces.

All raise FacewrightError naming the file and the line. Pictures stay on the disk until they are asked for.
"""

from __future__ import annotations

import contextlib
import csv
import io
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np

from ..errors import FacewrightError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures, the people on them, whether it is one person, and the fold (from 0) the pair belongs to."""

    first: Path
    second: Path
    people: tuple[str, str]
    same: bool
    fold: int


@dataclass(frozen=True, slots=True, eq=False)
class PackedPairs:
    """Aligned pictures of pairs from one `.bin` file: pair i is picture 2i and 2i + 1; `same` is (pairs,).

    The order of the pairs is part of the protocol; who is on the pictures is not known.
    """

    source: Path
    encoded: tuple[bytes, ...]
    same: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.same)

    def read(self, index: int) -> Image:
        """Picture `index` (0 … 2·pairs − 1), (112, 112, 3) uint8 RGB in the published files."""
        bgr = cv2.imdecode(np.frombuffer(self.encoded[index], np.uint8), cv2.IMREAD_COLOR)
        if bgr is None:
            raise FacewrightError(f"{self.source}: picture {index} cannot be decoded; download the file again")
        return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class TemplateImages:
    """The N pictures of IJB-B or IJB-C, each in one template (what is compared) and one medium (a photo or a video).

    `points` (N, 5, 2) are eyes, nose tip and mouth corners in pixels, image-left first; `scores` (N,) the detector's;
    `templates`, `media` (N,).
    """

    paths: tuple[Path, ...]
    points: NDArray[np.float32]
    scores: NDArray[np.float32]
    templates: NDArray[np.int64]
    media: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class TemplatePairs:
    """Template ids of the comparisons of the 1:1 protocol and whether each is genuine; (P,) all."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class TemplateSubjects:
    """Templates of a gallery or of the probes of the 1:N protocol, ascending, and their subjects; (T,) both."""

    templates: NDArray[np.int64]
    subjects: NDArray[np.int64]


PRIMATE_POINTS = ("RightEye", "LeftEye", "MouthCenter", "LeftEarlobe", "RightEarlobe")


@dataclass(frozen=True, slots=True, eq=False)
class PrimateFace:
    """One cropped chimpanzee face; what is not known is None.

    `points` (5, 2) in pixels of the crop in the order of `PRIMATE_POINTS`, NaN where not visible. Right and left are
    the animal's. `name` is None for animals nobody could name.
    """

    path: Path
    name: str | None
    age: float | None
    age_group: str | None
    gender: str | None
    points: NDArray[np.float32]


def read_lfw_pairs(pairs: str | Path, images: str | Path) -> tuple[Pair, ...]:
    """Pairs of LFW or XQLFW in published order.

    The first line of `pairs` is "folds count" (view 2: "10 300") or "count" (view 1, one fold); every fold has `count`
    pairs of one person ("name n m"), then `count` of two ("name n other m"). Every picture must be there.
    """
    file = Path(pairs)
    lines = list(_lines(file))
    if not lines:
        raise FacewrightError(f"{file} is empty; download the list of pairs again")
    header = _integers(file, lines[0][0], lines[0][1].split())
    if len(header) not in (1, 2) or min(header) < 1:
        raise FacewrightError(f"{file} line {lines[0][0]}: expected the number of folds and of pairs, such as '10 300'")
    folds, count = header if len(header) == 2 else [1, *header]
    if len(lines) - 1 != 2 * folds * count:
        raise FacewrightError(f"{file} promises {2 * folds * count} pairs and has {len(lines) - 1}: it is incomplete")
    return tuple(
        _lfw_pair(file, number, text.split(), Path(images), same=i // count % 2 == 0, fold=i // (2 * count))
        for i, (number, text) in enumerate(lines[1:])
    )


def read_packed_pairs(path: str | Path) -> PackedPairs:
    """Pairs of a `.bin` file: lfw, cfp_fp, agedb_30, calfw, cplfw, … as insightface publishes them.

    The file is a pickle. It is read by an unpickler that knows lists, bytes, booleans and numpy arrays only; a file
    that names anything else is refused before any of it runs.
    """
    file = Path(path)
    content = _unpickle(file)
    if not isinstance(content, tuple | list) or len(content) != 2:
        raise FacewrightError(f"{file} is not a list of pictures and a list of labels; download the file again")
    encoded = tuple(_jpeg_bytes(file, i, item) for i, item in enumerate(content[0]))
    labels = list(content[1])
    if not all(isinstance(label, bool | np.bool_) for label in labels):
        raise FacewrightError(f"{file}: a label is neither true nor false; download the file again")
    if len(encoded) != 2 * len(labels) or not labels:
        raise FacewrightError(f"{file} has {len(encoded)} pictures for {len(labels)} pairs: it is damaged")
    return PackedPairs(file, encoded, np.array(labels, dtype=bool))


def read_ijb_images(root: str | Path, name: str) -> TemplateImages:
    """Pictures of IJB-B or IJB-C; `root` holds `meta/` and `loose_crop/`, `name` is "ijbb" or "ijbc".

    Both lists, `<name>_face_tid_mid.txt` (picture, template, medium) and `<name>_name_5pts_score.txt` (picture, ten
    coordinates, score), go through the pictures in one order; pictures themselves are not looked for.
    """
    meta = Path(root) / "meta"
    membership, landmarks = meta / f"{name}_face_tid_mid.txt", meta / f"{name}_name_5pts_score.txt"
    members, places = _rows(membership, 3), _rows(landmarks, 12)
    if len(members) != len(places):
        raise FacewrightError(
            f"{membership} lists {len(members)} pictures, {landmarks} {len(places)}: one is incomplete"
        )
    for (number, member), (_, place) in zip(members, places):
        if member[0] != place[0]:
            raise FacewrightError(f"{membership} line {number}: picture {member[0]} is {place[0]} in {landmarks}")
    ids = np.array([_integers(membership, number, row[1:]) for number, row in members], np.int64).reshape(-1, 2)
    numbers = np.array([_floats(landmarks, number, row[1:]) for number, row in places], np.float32).reshape(-1, 11)
    return TemplateImages(
        paths=tuple(Path(root) / "loose_crop" / row[0] for _, row in members),
        points=numbers[:, :10].reshape(-1, 5, 2),
        scores=numbers[:, 10],
        templates=ids[:, 0],
        media=ids[:, 1],
    )


def read_ijb_pairs(root: str | Path, name: str) -> TemplatePairs:
    """Comparisons of the 1:1 protocol from `meta/<name>_template_pair_label.txt` (template, template, 0 or 1)."""
    file = Path(root) / "meta" / f"{name}_template_pair_label.txt"
    table = _integer_table(file, 3)
    wrong = (table[:, 2] != 0) & (table[:, 2] != 1)
    if wrong.any():
        raise FacewrightError(f"{file} comparison {int(wrong.argmax()) + 1}: a label is 0 or 1")
    return TemplatePairs(table[:, 0], table[:, 1], table[:, 2] == 1)


def read_ijb_subjects(path: str | Path) -> TemplateSubjects:
    """Templates and subjects of a 1:N list such as `ijbc_1N_gallery_G1.csv` or `ijbc_1N_probe_mixed.csv`.

    The columns after template and subject (picture, sighting, box) are not needed; a template has a line per picture.
    """
    file = Path(path)
    subjects: dict[int, int] = {}
    for number, row in _csv_rows(file):
        template, subject = _integers(file, number, row[:2])
        if subjects.setdefault(template, subject) != subject:
            raise FacewrightError(f"{file} line {number}: template {template} belongs to two subjects")
    templates = np.array(sorted(subjects), np.int64)
    return TemplateSubjects(templates, np.array([subjects[t] for t in templates.tolist()], np.int64))


def read_primates(annotations: str | Path) -> tuple[PrimateFace, ...]:
    """Faces of C-Zoo (`annotations_czoo.txt`) or C-Tai (`annotations_ctai.txt`) by Freytag et al. (GCPR 2016).

    A line is "[Filename] picture Name n Age a Age_Group g Gender s RightEye x y …"; NaN, Inf and Unknown mean not
    known, as does C-Tai's name Adult. Pictures are named from the folder of the list.
    """
    file = Path(annotations)
    return tuple(_primate(file, number, text.split()) for number, text in _lines(file))


def _lfw_pair(file: Path, number: int, fields: Sequence[str], images: Path, *, same: bool, fold: int) -> Pair:
    if len(fields) != (3 if same else 4):
        kind = "one person (name, two numbers)" if same else "two people (name, number, name, number)"
        raise FacewrightError(f"{file} line {number}: expected a pair of {kind}, got {' '.join(fields)!r}")
    people = (fields[0], fields[0] if same else fields[2])
    paths = []
    for person, place in zip(people, _integers(file, number, [fields[1], fields[-1]])):
        paths.append(images / person / f"{person}_{place:04d}.jpg")
        if not paths[-1].is_file():
            raise FacewrightError(f"{file} line {number}: there is no picture {paths[-1]}")
    return Pair(paths[0], paths[1], people, same, fold)


def _primate(file: Path, number: int, fields: list[str]) -> PrimateFace:
    if fields[0] == "Filename":
        fields = fields[1:]
    rest = fields[1:]
    keys = ("name", "age", "age_group", "gender")
    if len(rest) != 23 or [key.lower() for key in rest[:8:2]] != list(keys) or tuple(rest[8::3]) != PRIMATE_POINTS:
        raise FacewrightError(f"{file} line {number}: expected picture, {', '.join(keys)} and five points")
    name, age, age_group, gender = (None if value in ("NaN", "Unknown") else value for value in rest[1:8:2])
    points = np.array(_floats(file, number, rest[9::3] + rest[10::3]), np.float32).reshape(2, 5).T
    return PrimateFace(
        path=file.parent / fields[0],
        name=None if name == "Adult" else name,
        age=None if age is None else _floats(file, number, [age])[0],
        age_group=age_group,
        gender=gender,
        points=np.where(np.isfinite(points), points, np.float32(np.nan)),
    )


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FacewrightError(f"{file} cannot be read ({error})") from error


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines that hold something, numbered from 1."""
    for number, line in enumerate(_text(file).splitlines(), start=1):
        if line.strip():
            yield number, line


def _rows(file: Path, fields: int) -> list[tuple[int, list[str]]]:
    rows = [(number, line.split()) for number, line in _lines(file)]
    for number, row in rows:
        if len(row) != fields:
            raise FacewrightError(f"{file} line {number}: expected {fields} fields, got {len(row)}")
    return rows


def _csv_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    rows = csv.reader(io.StringIO(_text(file)))
    next(rows, None)
    for row in rows:
        if len(row) < 2:
            raise FacewrightError(f"{file} line {rows.line_num}: expected template and subject")
        yield rows.line_num, row


def _integer_table(file: Path, columns: int) -> NDArray[np.int64]:
    """A large table of integers read at once; only a damaged one is gone through line by line to name the line."""
    with warnings.catch_warnings(), contextlib.suppress(OSError, ValueError, UserWarning):
        warnings.simplefilter("error")  # numpy only warns of an empty file
        table = np.loadtxt(file, dtype=np.int64, ndmin=2)
        if table.shape[1] == columns:
            return np.asarray(table)
    for number, row in _rows(file, columns):
        _integers(file, number, row)
    raise FacewrightError(f"{file} holds no comparisons; download it again")


def _integers(file: Path, number: int, fields: Sequence[str]) -> list[int]:
    return _numbers(int, "whole number", file, number, fields)


def _floats(file: Path, number: int, fields: Sequence[str]) -> list[float]:
    return _numbers(float, "number", file, number, fields)


def _numbers(
    kind: Callable[[str], _Number], what: str, file: Path, number: int, fields: Sequence[str]
) -> list[_Number]:
    try:
        return [kind(field) for field in fields]
    except ValueError:
        raise FacewrightError(f"{file} line {number}: expected a {what} in {' '.join(fields)!r}") from None


def _jpeg_bytes(file: Path, index: int, item: Any) -> bytes:
    if isinstance(item, np.ndarray) and item.dtype == np.uint8:
        return item.tobytes()
    if not isinstance(item, bytes):
        raise FacewrightError(f"{file}: picture {index} is not an encoded picture but {type(item).__name__}")
    return item


def _unpickle(file: Path) -> Any:
    try:
        with open(file, "rb") as stream:
            # files written by Python 2 hold their pictures as its str
            return _PairsUnpickler(stream, encoding="bytes").load()
    except _ForbiddenGlobal as error:
        raise FacewrightError(
            f"{file} wants {error}, which a set of pairs does not need, and was not opened: get it from its publisher"
        ) from None
    except Exception as error:  # damaged pickles fail in every way there is
        raise FacewrightError(f"{file} is not a readable set of pairs ({error})") from error


class _ForbiddenGlobal(Exception):
    """A pickle names something outside the list."""


class _PairsUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # numpy 2 calls numpy.core numpy._core
        allowed = _ALLOWED.get((module.replace("numpy._core", "numpy.core"), name))
        if allowed is None:
            raise _ForbiddenGlobal(f"{module}.{name}")
        return allowed


def _plain_array(data: bytes | bytearray, dtype: np.dtype[Any], shape: tuple[int, ...], order: str) -> NDArray[Any]:
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")


def _plain_scalar(dtype: np.dtype[Any], data: bytes) -> Any:
    return np.frombuffer(data, dtype, count=1)[0]


def _latin_bytes(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in the old pickle protocols."""
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"bytes written as {encoding!r}")
    return text.encode("latin1")


def _array_shell(subtype: type, shape: Any, dtype: Any) -> NDArray[Any]:
    """What an array's state is read into."""
    return np.ndarray.__new__(np.ndarray, (0,), np.uint8)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _array_shell,
    ("numpy.core.multiarray", "scalar"): _plain_scalar,
    ("numpy.core.numeric", "_frombuffer"): _plain_array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin_bytes,
}
