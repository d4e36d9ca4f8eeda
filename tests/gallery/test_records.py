from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from facewright.errors import UsageError
from facewright.gallery.records import Sample, check_sample, check_vectors, fuse


def test_fusing_weighs_by_quality() -> None:
    x, y = np.eye(2, dtype=np.float32)
    np.testing.assert_allclose(fuse(np.stack([x, y]), np.array([3.0, 4.0])), [0.6, 0.8], atol=1e-7)
    np.testing.assert_array_equal(fuse(x[None], np.array([0.01])), x)


def test_fusing_depends_on_relative_quality_alone(unit: Any) -> None:
    vectors, qualities = unit(0, 5), np.array([1.0, 2.0, 0.5, 0.1, 4.0])
    fused = fuse(vectors, qualities)
    np.testing.assert_allclose(fuse(vectors[::-1], qualities[::-1] / 7), fused, atol=1e-6)
    assert np.linalg.norm(fused) == pytest.approx(1, abs=1e-6)


def test_opposite_vectors_are_nobody(unit: Any) -> None:
    v = unit(0)
    with pytest.raises(UsageError, match="cancel"):
        fuse(np.stack([v, -v]), np.ones(2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"person": "  "}, "not a usable name"),
        ({"person": "a\nb"}, "not a usable name"),
        ({"person": "a" * 501}, "not a usable name"),
        ({"vector": np.ones(32, np.float32)}, "unit length"),
        ({"vector": np.full(32, np.nan, np.float32)}, "unit length"),
        ({"vector": np.eye(31, dtype=np.float32)[0]}, "vectors of 32"),
        ({"vector": np.eye(32, dtype=np.float32)[:1]}, "one vector"),
        ({"quality": 0.0}, "quality"),
        ({"quality": float("nan")}, "quality"),
        ({"thumbnail": b"GIF89a"}, "not a JPEG"),
        ({"metadata": {"a": object()}}, "metadata"),
    ],
)
def test_samples_that_cannot_be(change: dict[str, Any], said: str, unit: Any) -> None:
    fields: dict[str, Any] = {"person": "Ada", "vector": unit(0)}
    check_sample(Sample(**fields), 32)
    with pytest.raises(UsageError, match=said):
        check_sample(Sample(**fields | change), 32)


def test_probes_are_checked_row_by_row(unit: Any) -> None:
    vectors = unit(0, 3)
    check_vectors(vectors, 32, "the probe")
    vectors[1] *= 1.01
    with pytest.raises(UsageError, match="the probe: a vector is not of unit length"):
        check_vectors(vectors, 32, "the probe")
