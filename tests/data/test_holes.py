"""Holes lie where their names say, and are the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from facewright.data.holes import HOLES, draw_hole
from facewright.errors import UsageError
from facewright.geometry.templates import template_points

SIDE = 128


def drawn(kind: str, count: int = 30) -> np.ndarray:
    return np.stack([draw_hole(kind, np.random.default_rng(seed), SIDE) for seed in range(count)])


@pytest.mark.parametrize("kind", HOLES)
def test_holes_are_holes(kind: str) -> None:
    holes = drawn(kind)
    assert holes.shape == (30, SIDE, SIDE)
    assert holes.dtype == bool
    shares = holes.mean((1, 2))
    assert (shares > 0).all()
    assert np.median(shares) < 0.4
    assert len({hole.tobytes() for hole in holes}) > 25
    assert np.array_equal(holes, drawn(kind))


@pytest.mark.parametrize(("kind", "points"), [("eyes", (0, 1)), ("nose", (2,)), ("mouth", (3, 4)), ("glasses", (0, 1))])
def test_features_are_covered(kind: str, points: tuple[int, ...]) -> None:
    holes = drawn(kind)
    places = template_points("ffhq", SIDE)
    for point in places[list(points)].round().astype(int):
        assert holes[:, point[1], point[0]].mean() > (0.6 if kind == "glasses" else 0.75)
    others = [place for number, place in enumerate(places) if number not in points and kind != "glasses"]
    for point in np.round(others).astype(int).reshape(-1, 2):
        assert holes[:, point[1], point[0]].mean() < 0.75


def test_an_eye_is_one_and_a_half_is_one_side() -> None:
    left, right = template_points("ffhq", SIDE)[:2].round().astype(int)
    for kind in ("eye", "half"):
        holes = drawn(kind)
        seen = holes[:, left[1], left[0]].astype(int) + holes[:, right[1], right[0]]
        assert (seen == 1).mean() > 0.9


def test_unknown_holes_are_refused() -> None:
    with pytest.raises(UsageError, match="no hole 'pocket'; there are eye"):
        draw_hole("pocket", np.random.default_rng(0), SIDE)
