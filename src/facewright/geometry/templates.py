"""Alignment templates: where five landmarks lie in a crop.

Templates are five points (picture's left eye, right eye, nose tip, left and right mouth corner) normalised to the
unit square of the crop, so one template serves every crop size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _template(size: float, points: list[tuple[float, float]]) -> NDArray[np.float64]:
    return np.asarray(points, dtype=np.float64) / size


TEMPLATES: dict[str, NDArray[np.float64]] = {
    # FFHQ geometry at 512, as used by GFPGAN, CodeFormer and RestoreFormer (facexlib)
    "ffhq": _template(
        512,
        [
            (192.98138, 239.94708),
            (318.90277, 240.1936),
            (256.63416, 314.01935),
            (201.26117, 371.41043),
            (313.08905, 371.15118),
        ],
    ),
    # ArcFace geometry at 112, as used by insightface, AdaFace, SFace
    "arcface": _template(
        112,
        [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)],
    ),
}


def template_points(name: str, size: int = 1) -> NDArray[np.float64]:
    """The (5, 2) points of a named template for a crop of `size` pixels."""
    if name not in TEMPLATES:
        raise UsageError(f"unknown alignment template {name!r}; known: {', '.join(sorted(TEMPLATES))}")
    return TEMPLATES[name] * size
