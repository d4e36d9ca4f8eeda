"""ICT-FaceKit Light (Li et al., Learning Formation of Physically-Based Face Attributes, CVPR 2020; MIT licence).

26,719 vertices, 100 identity modes with unit variance, 53 expressions named as in ARKit and split into left and right,
in centimetres. Read from the published folder `FaceXModel` (github.com/USC-ICT/ICT-FaceKit: a .obj file for each shape,
and `vertex_indices.json`) or from one file of arrays. jawOpen moves the lower teeth, gums and tongue as published;
no expression moves the eyeballs, gaze does.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import WeightsError
from .morphable import MorphableData

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

VERTICES, POLYGONS = 26719, 26384
UNIT = 0.01  # metres
NEUTRAL, INDICES = "generic_neutral_mesh.obj", "vertex_indices.json"
_IDENTITY_FILE = re.compile(r"identity(\d{3})\.obj")


class _Range(NamedTuple):
    """First vertex and first polygon of a part; the next part begins where it ends."""

    vertex: int
    polygon: int


# as published in the README of the model; the iris is a second, inner ball
_RANGES = {
    "face": _Range(0, 0),
    "head": _Range(9409, 9230),
    "mouth_socket": _Range(11248, 11144),
    "eye_socket_L": _Range(13294, 13226),
    "eye_socket_R": _Range(13678, 13630),
    "gums": _Range(14062, 14034),
    "teeth": _Range(17039, 17006),
    "eyeball_L": _Range(21451, 21496),
    "eyeball_R": _Range(23021, 23094),
    "lacrimal": _Range(24591, 24692),
    "eye_blend": _Range(24999, 25018),
    "eye_occlusion": _Range(25047, 25048),
    "lashes": _Range(25351, 25304),
}
_SPLIT = {"teeth": ("teeth_upper", "teeth_lower", 19247)}
_SPLIT |= {"eyeball_L": ("eyeball_L", "iris_L", 22221), "eyeball_R": ("eyeball_R", "iris_R", 23791)}
PARTS = tuple(name for part in _RANGES for name in (_SPLIT[part][:2] if part in _SPLIT else (part,)))
EYEBALLS = (("eyeball_R", "iris_R"), ("eyeball_L", "iris_L"))
"""The picture's left eye first."""
OPAQUE = (
    *("face", "head", "mouth_socket", "eye_socket_L", "eye_socket_R", "gums", "teeth_upper", "teeth_lower"),
    *("eyeball_L", "eyeball_R"),
)
"""Parts a renderer without transparency draws: the outer eyeball stands for cornea, iris and sclera."""


def load_ict(source: str | Path, *, parts: Iterable[str] | None = OPAQUE) -> MorphableData:
    """The model from the published folder or an .npz file of arrays, reduced to `parts` (None: all of `PARTS`).

    Raises WeightsError for a missing, partial or damaged source.
    """
    path = Path(source)
    data = _from_folder(path) if path.is_dir() else _from_arrays(path)
    return data if parts is None else data.only(parts)


class _Mesh(NamedTuple):
    """What one .obj file holds: polygons have four corners, the last −1 for a triangle."""

    vertices: NDArray[np.float32]
    uv: NDArray[np.float32]
    polygons: NDArray[np.int64]
    polygons_uv: NDArray[np.int64]


def _from_folder(folder: Path) -> MorphableData:
    neutral = folder / NEUTRAL
    if not neutral.is_file() or not (folder / INDICES).is_file():
        raise WeightsError(
            f"{folder} is not ICT-FaceKit: it lacks {NEUTRAL} or {INDICES}; give the published folder FaceXModel"
        )
    mesh = _read_obj(neutral)
    listed = _read_indices((folder / INDICES).read_text(encoding="utf-8"), folder / INDICES)
    numbers = sorted(int(m[1]) for p in folder.iterdir() if (m := _IDENTITY_FILE.fullmatch(p.name)))
    if not numbers or numbers != list(range(len(numbers))):
        raise WeightsError(
            f"{folder} is incomplete: identity000.obj and those after it must all be there; copy it again"
        )
    shapes = [folder / f"identity{k:03d}.obj" for k in numbers]
    expressions = sorted({p.stem for p in folder.glob("*.obj")} - {p.stem for p in shapes} - {neutral.stem})
    missing = sorted(set(listed["expressions"]) - set(expressions))
    if missing:
        raise WeightsError(f"{folder} is incomplete: no file for {', '.join(missing)}; copy it again")
    identity = np.stack([_displacement(p, mesh) for p in shapes])
    expression = np.stack([_displacement(folder / f"{name}.obj", mesh) for name in expressions])
    return _assemble(mesh, identity, expression, expressions, listed, folder)


def _from_arrays(path: Path) -> MorphableData:
    if not path.is_file():
        raise WeightsError(f"{path} does not exist; give the folder FaceXModel of ICT-FaceKit or a file of its arrays")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mesh = _Mesh(
                arrays["vertices"].astype(np.float32),
                arrays["uv"].astype(np.float32),
                arrays["faces"].astype(np.int64),
                arrays["faces_uv"].astype(np.int64),
            )
            identity = arrays["identity_q"] * arrays["identity_scale"].astype(np.float32)[:, None, None]
            expression = arrays["expression_q"] * arrays["expression_scale"].astype(np.float32)[:, None, None]
            names = [str(n) for n in arrays["expression_names"]]
            listed = _read_indices(str(arrays["vertex_indices_json"]), path)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} is not a file of ICT-FaceKit's arrays ({error})") from error
    return _assemble(mesh, identity, expression, names, listed, path)


def _assemble(
    mesh: _Mesh,
    identity: NDArray[np.float32],
    expression: NDArray[np.float32],
    names: Sequence[str],
    listed: Mapping[str, Any],
    source: Path,
) -> MorphableData:
    if len(mesh.vertices) != VERTICES or len(mesh.polygons) != POLYGONS:
        raise WeightsError(
            f"{source}: ICT-FaceKit has {VERTICES} vertices and {POLYGONS} polygons, "
            f"this mesh {len(mesh.vertices)} and {len(mesh.polygons)}"
        )
    polygon_part = _part_of(np.arange(POLYGONS), [r.polygon for r in _RANGES.values()], mesh.polygons.max(1))
    vertex_part = _part_of(np.arange(VERTICES), [r.vertex for r in _RANGES.values()], np.arange(VERTICES))
    triangles, owner = _triangles(mesh.polygons)
    triangles_uv, _ = _triangles(mesh.polygons_uv)
    return MorphableData(
        name="ict",
        unit=UNIT,
        mean=mesh.vertices,
        identity=identity,
        expression=expression,
        expression_names=tuple(names),
        triangles=triangles,
        parts=PARTS,
        vertex_part=vertex_part,
        triangle_part=polygon_part[owner],
        uv=_without_tiles(mesh.uv, triangles_uv),
        triangles_uv=triangles_uv,
        landmarks68=np.asarray(listed["idx_to_landmark_verts"], np.int64),
        eyeballs=EYEBALLS,
    )


def _part_of(items: NDArray[np.int64], starts: Sequence[int], vertex: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index into `PARTS` of items that lie in ranges beginning at `starts`; `vertex` decides where parts are split."""
    coarse = np.searchsorted(starts, items, side="right") - 1
    part = np.empty_like(items)
    for number, name in enumerate(_RANGES):
        inside = coarse == number
        first, second, split = _SPLIT.get(name, (name, name, VERTICES))
        part[inside] = np.where(vertex[inside] < split, PARTS.index(first), PARTS.index(second))
    return part


def _triangles(polygons: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Triangles (F, 3) of polygons (Q, 4) in their order, and the polygon of each."""
    both = np.stack([polygons[:, [0, 1, 2]], polygons[:, [0, 2, 3]]], 1)
    kept = np.stack([np.ones(len(polygons), bool), polygons[:, 3] >= 0], 1)
    return both[kept], np.repeat(np.arange(len(polygons)), 2).reshape(-1, 2)[kept]


def _without_tiles(uv: NDArray[np.float32], triangles_uv: NDArray[np.int64]) -> NDArray[np.float32]:
    """Texture points within 0..1: the integer part of u only tells which texture a part has."""
    tile = np.zeros(len(uv), np.float32)
    tile[triangles_uv] = np.floor(uv[triangles_uv, 0].mean(1))[:, None]
    return np.stack([uv[:, 0] - tile, uv[:, 1]], 1)


def _displacement(path: Path, neutral: _Mesh) -> NDArray[np.float32]:
    vertices = _read_vertices(path)
    if vertices.shape != neutral.vertices.shape:
        raise WeightsError(f"{path} has {len(vertices)} vertices instead of {len(neutral.vertices)}; copy it again")
    return vertices - neutral.vertices


def _read_obj(path: Path) -> _Mesh:
    text = path.read_text(encoding="utf-8", errors="replace")
    uv = _numbers(path, [line[3:] for line in text.splitlines() if line.startswith("vt ")], 2)
    corners = [line[2:].split() for line in text.splitlines() if line.startswith("f ")]
    polygons = np.full((2, len(corners), 4), -1, np.int64)
    try:
        for row, polygon in enumerate(corners):
            pairs = [corner.split("/") for corner in polygon]
            polygons[0, row, : len(pairs)] = [int(p[0]) - 1 for p in pairs]
            polygons[1, row, : len(pairs)] = [int(p[1]) - 1 for p in pairs]
    except (ValueError, IndexError) as error:
        raise WeightsError(
            f"{path}: polygons need three or four corners of the form vertex/texture ({error})"
        ) from error
    return _Mesh(_read_vertices(path), uv, polygons[0], polygons[1])


def _read_vertices(path: Path) -> NDArray[np.float32]:
    text = path.read_text(encoding="utf-8", errors="replace")
    return _numbers(path, [line[2:] for line in text.splitlines() if line.startswith("v ")], 3)


def _numbers(path: Path, lines: list[str], columns: int) -> NDArray[np.float32]:
    try:
        values = np.array(" ".join(lines).split(), dtype=np.float64).reshape(len(lines), -1)
        return values[:, :columns].astype(np.float32)
    except (ValueError, IndexError) as error:
        raise WeightsError(f"{path} is not a readable .obj file ({error})") from error


def _read_indices(text: str, source: Path) -> dict[str, Any]:
    try:
        listed: dict[str, Any] = json.loads(text)
        landmarks, expressions = listed["idx_to_landmark_verts"], listed["expressions"]
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{source}: its vertex indices cannot be read ({error!r})") from error
    if len(landmarks) != 68 or not expressions:
        raise WeightsError(f"{source}: 68 landmarks and the names of expressions are needed, not {len(landmarks)}")
    return listed
