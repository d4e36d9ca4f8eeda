"""The Basel Face Model 2009 as Deep3D prepares it (`BFM_model_front.mat` of `sicxu/Deep3DFaceRecon_pytorch`).

The 35,709 vertices of the front of the Basel model with its first 80 shape and 80 texture modes, and 64 expression
modes fitted to FaceWarehouse, all in standard deviations; lengths in decimetres. The model data are licensed to each
user for research by the University of Basel and are not part of this package.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.io
import torch
from scipy.io.matlab import MatReadError

from ..errors import UsageError, WeightsError
from .morphable import MorphableData

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

UNIT = 0.1  # metres
VERTICES = 35709
LAYOUT = {"identity": 80, "expression": 64, "albedo": 80, "angles": 3, "lighting": 27, "translation": 3}
"""The 257 coefficients of Deep3D in their order."""
_KEYS = ("meanshape", "meantex", "idBase", "exBase", "texBase", "tri", "keypoints", "skinmask")


class Deep3DCoefficients(NamedTuple):
    """`identity` (N, 80), `expression` (N, 64), `albedo` (N, 80) for the model; `angles` (N, 3) radians about x, y, z;
    `lighting` (N, 3, 9) for R, G, B without the ambient 0.8 (`lighting.deep3d_shading` adds it); `translation` (N, 3)
    decimetres."""

    identity: Tensor
    expression: Tensor
    albedo: Tensor
    angles: Tensor
    lighting: Tensor
    translation: Tensor


def split_coefficients(coefficients: Tensor) -> Deep3DCoefficients:
    """(N, 257) coefficients of Deep3D by name. Raises UsageError for another number."""
    total = sum(LAYOUT.values())
    if coefficients.ndim != 2 or coefficients.shape[1] != total:
        raise UsageError(f"Deep3D has {total} coefficients for each face, not an array {tuple(coefficients.shape)}")
    parts = dict(zip(LAYOUT, torch.split(coefficients, list(LAYOUT.values()), dim=1)))
    parts["lighting"] = parts["lighting"].reshape(-1, 3, 9)
    return Deep3DCoefficients(**parts)


def load_bfm(path: str | Path, *, vertices: int = VERTICES) -> MorphableData:
    """The model from Deep3D's .mat file, its mean moved to the origin as published.

    Parts are `skin`, by the published mask, and `other`. Raises WeightsError for a file that is missing, damaged,
    incomplete, or of another number of vertices (the full Basel model has 53,490).
    """
    arrays = _read(Path(path))
    mean = arrays["meanshape"].reshape(-1, 3).astype(np.float32)
    if len(mean) != vertices:
        raise WeightsError(
            f"{path}: Deep3D's face has {vertices} vertices, this one {len(mean)}; use BFM_model_front.mat"
        )
    mean -= mean.mean(0)
    identity, expression, albedo = (_basis(arrays[key], vertices, key, path) for key in ("idBase", "exBase", "texBase"))
    triangles = arrays["tri"].astype(np.int64) - 1
    skin = arrays["skinmask"].ravel() > 0
    vertex_part = np.where(skin, 0, 1)
    return MorphableData(
        name="bfm",
        unit=UNIT,
        mean=mean,
        identity=identity,
        expression=expression,
        expression_names=tuple(f"expression{k:02d}" for k in range(len(expression))),
        triangles=_counter_clockwise(mean, triangles),
        parts=("skin", "other"),
        vertex_part=vertex_part,
        triangle_part=vertex_part[triangles].max(1),
        landmarks68=arrays["keypoints"].ravel().astype(np.int64) - 1,
        albedo_mean=arrays["meantex"].reshape(-1, 3).astype(np.float32) / np.float32(255),
        albedo_basis=albedo / np.float32(255),
    )


def _read(path: Path) -> Mapping[str, NDArray[Any]]:
    if not path.is_file():
        raise WeightsError(
            f"{path} does not exist; make BFM_model_front.mat from your licensed copy of the Basel Face Model"
        )
    try:
        arrays: dict[str, NDArray[Any]] = scipy.io.loadmat(path, variable_names=_KEYS)
    except (MatReadError, ValueError, TypeError, OSError, NotImplementedError, zlib.error) as error:
        raise WeightsError(f"{path} is not a readable .mat file ({error})") from error
    missing = [key for key in _KEYS if key not in arrays]
    if missing:
        raise WeightsError(f"{path} is not Deep3D's face model: it lacks {', '.join(missing)}")
    return arrays


def _basis(columns: NDArray[Any], vertices: int, key: str, path: str | Path) -> NDArray[np.float32]:
    """(K, V, 3) modes of the published columns (3 V, K)."""
    if columns.ndim != 2 or len(columns) != 3 * vertices:
        raise WeightsError(f"{path}: {key} is {columns.shape} instead of ({3 * vertices}, modes)")
    return np.ascontiguousarray(columns.T.astype(np.float32)).reshape(-1, vertices, 3)


def _counter_clockwise(mean: NDArray[np.float32], triangles: NDArray[np.int64]) -> NDArray[np.int64]:
    """The triangles turned so that the face, an open surface before z, has its front outside."""
    a, b, c = mean[triangles].swapaxes(0, 1)
    return triangles if np.cross(b - a, c - a)[:, 2].sum() >= 0 else triangles[:, ::-1]
