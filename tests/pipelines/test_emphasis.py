"""The change of a restorer is taken further where it draws structure, and nowhere else."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from facewright.pipelines.emphasis import emphasised

SIDE = 128


def edge(softness: float, low: int = 60, high: int = 190) -> np.ndarray:
    """A vertical edge in the middle, as soft as a Gaussian of that σ in pixels makes it."""
    picture = np.full((SIDE, SIDE, 3), low, np.float32)
    picture[:, SIDE // 2 :] = high
    return cv2.GaussianBlur(picture, (0, 0), softness).round().astype(np.uint8)


def steepness(picture: np.ndarray) -> int:
    return int(np.abs(np.diff(picture[SIDE // 2, :, 1].astype(int))).max())


def test_an_edge_that_became_sharper_gets_sharper_still() -> None:
    before, after = edge(4), edge(2.5)
    out = emphasised(before, after)
    assert steepness(before) < steepness(after) < steepness(out)
    assert np.array_equal(out[:, :8], after[:, :8])  # where nothing changed, nothing does


def test_the_more_gain_the_more_of_the_change() -> None:
    before, after = edge(4), edge(2.5)
    found = [steepness(emphasised(before, after, gain)) for gain in (0, 0.5, 1, 1.5)]
    assert found == sorted(found)
    assert len(set(found)) == 4
    assert emphasised(before, after, 0) is after


def test_noise_that_was_taken_away_is_not_put_back() -> None:
    clean = edge(2.5)
    noisy = np.clip(clean + np.random.default_rng(0).normal(0, 12, clean.shape), 0, 255).astype(np.uint8)
    apart = np.abs(emphasised(noisy, clean).astype(int) - clean)
    assert apart.max() <= 1


def test_skin_gets_no_blotches() -> None:
    rng = np.random.default_rng(1)
    before = np.full((SIDE, SIDE, 3), 150, np.uint8)
    blotches = cv2.GaussianBlur(rng.normal(0, 1, (SIDE, SIDE)).astype(np.float32), (0, 0), 1.5)
    after = (before + (blotches * 2.5 / blotches.std())[..., None]).round().astype(np.uint8)
    grown = emphasised(before, after).astype(float) - before
    assert grown.std() == pytest.approx((after.astype(float) - before).std(), rel=0.12)


def test_what_is_equal_stays() -> None:
    picture = edge(2)
    assert np.array_equal(emphasised(picture, picture), picture)
