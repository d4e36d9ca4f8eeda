"""Measures of restored faces: against the truth, between sets, by identity and landmarks, and without a reference.

`facewright.metrics.lpips.LPIPS` is not re-exported: it needs torch, everything here does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .detection import average_precision
    from .frechet import FeatureStatistics, frechet_distance, frechet_from_features, frechet_from_statistics
    from .full_reference import detail_ratio, gmsd, psnr, psnr_y, ssim, ssim_map
    from .identity import cosine, identity_degrees, identity_radians, identity_similarity
    from .landmarks import cumulative_error_auc, failure_rate, interocular, landmark_distance, nme
    from .segmentation import SegmentationScores

_HOMES = {
    "FeatureStatistics": "frechet",
    "SegmentationScores": "segmentation",
    "average_precision": "detection",
    "cosine": "identity",
    "cumulative_error_auc": "landmarks",
    "detail_ratio": "full_reference",
    "failure_rate": "landmarks",
    "frechet_distance": "frechet",
    "frechet_from_features": "frechet",
    "frechet_from_statistics": "frechet",
    "gmsd": "full_reference",
    "identity_degrees": "identity",
    "identity_radians": "identity",
    "identity_similarity": "identity",
    "interocular": "landmarks",
    "landmark_distance": "landmarks",
    "nme": "landmarks",
    "psnr": "full_reference",
    "psnr_y": "full_reference",
    "ssim": "full_reference",
    "ssim_map": "full_reference",
}

__all__ = [
    "FeatureStatistics",
    "SegmentationScores",
    "average_precision",
    "cosine",
    "cumulative_error_auc",
    "detail_ratio",
    "failure_rate",
    "frechet_distance",
    "frechet_from_features",
    "frechet_from_statistics",
    "gmsd",
    "identity_degrees",
    "identity_radians",
    "identity_similarity",
    "interocular",
    "landmark_distance",
    "nme",
    "psnr",
    "psnr_y",
    "ssim",
    "ssim_map",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: what asks for one measure does not load the libraries of the others."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
