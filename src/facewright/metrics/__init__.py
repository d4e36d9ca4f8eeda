"""Measures of restored faces: against the truth, between sets, by identity and landmarks, and without a reference.

`facewright.metrics.lpips.LPIPS` is not re-exported: it needs torch, everything here does not.
"""

from .detection import average_precision
from .frechet import FeatureStatistics, frechet_distance, frechet_from_features, frechet_from_statistics
from .full_reference import detail_ratio, gmsd, psnr, psnr_y, ssim, ssim_map
from .identity import cosine, identity_degrees, identity_radians, identity_similarity
from .landmarks import cumulative_error_auc, failure_rate, interocular, landmark_distance, nme
from .segmentation import SegmentationScores

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
