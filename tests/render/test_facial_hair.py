"""Beards and brows: where they grow, how they thin out, and that they run along the way hairs grow."""

from __future__ import annotations

import numpy as np
import pytest

from facewright.render.facial_hair import BEARDS, beard, beard_share, brows, may_have_beard
from facewright.render.skin import below_jaw, statistics


@pytest.fixture(scope="module")
def patch():
    """A function of the limits in x and y that returns places and points of a flat face, 0.03 cm apart."""

    def made(left, right, bottom, top):
        x, y = np.meshgrid(np.arange(left, right, 0.03), np.arange(bottom, top, 0.03))
        places = np.stack([x.ravel(), y.ravel()], -1).astype(np.float32)
        return places, np.c_[places, np.full(len(places), 9)].astype(np.float32), x.shape

    return made


def agreement(values, up, aside):
    """Correlation of a map, whose rows run up, with itself moved by that many texels."""
    rows, columns = values.shape
    left, right = max(0, -aside), max(0, aside)
    one, other = values[up:, right : columns - left], values[: rows - up, left : columns - right]
    return np.corrcoef(one.ravel(), other.ravel())[0, 1]


def test_styles_nest(patch):
    places, points, _ = patch(-9, 9, -9, 4)
    share = {style: beard_share(places, points, style) for style in BEARDS[1:]}
    assert (share["moustache"] <= share["goatee"] + 1e-6).all()
    assert share["moustache"].sum() < share["goatee"].sum() < share["full"].sum()
    np.testing.assert_array_equal(share["full"], share["stubble"])


def test_borders_are_soft_and_differ_from_man_to_man(patch):
    places, points, shape = patch(-9, 9, -9, 4)
    one, other = (beard_share(places, points, "full", seed).reshape(shape) for seed in (1, 2))
    assert max(np.abs(np.diff(one, axis=k)).max() for k in (0, 1)) < 0.12  # for each 0.03 cm
    assert 0.01 < np.abs(one - other).mean() < 0.1


def test_nothing_grows_on_nose_eyes_forehead_and_throat():
    points = statistics().landmarks
    bare = points[[27, 28, 29, 30, *range(36, 48), 19, 24]]
    assert beard_share(bare[:, :2], bare, "full").max() == 0
    throat = points[[6, 8, 10]] - np.array([0, 3.2, 2.0], np.float32)
    assert beard_share(throat[:, :2], throat, "full").max() == 0
    chin = (points[[8]] + points[[57]]) / 2
    assert beard_share(chin[:, :2], chin, "full").min() > 0.9  # type: ignore[arg-type]


def test_the_jaw_is_its_contour():
    contour = statistics().landmarks[8:15]
    np.testing.assert_allclose(below_jaw(contour), 0, atol=1e-5)
    mirrored = contour * np.array([-1, 1, 1], np.float32)
    np.testing.assert_allclose(below_jaw(mirrored - np.array([0, 1.5, 0], np.float32)), 1.5, atol=1e-5)


def test_hairs_fall_along_the_chin(patch):
    places, points, shape = patch(-2, 2, -8, -5)
    grown = beard(places, points, np.full(len(places), 0.6, np.float32), "full", 0.7, 3)
    cover = grown.cover.reshape(shape)
    assert agreement(cover, 7, 0) > agreement(cover, 0, 7) + 0.25
    assert cover.std() > 0.1
    assert grown.shade.min() > 0


def test_a_moustache_spreads_from_under_the_nose(patch):
    """Beside the mouth its hairs run outwards and down, so the pattern agrees along that diagonal alone."""
    places, points, shape = patch(0.9, 2.2, -2.4, -1.2)
    cover = beard(places, points, np.full(len(places), 0.6, np.float32), "moustache", 0.7, 5).cover.reshape(shape)
    assert agreement(cover, 4, -4) > 0.6 > 0.1 > agreement(cover, 4, 4)


@pytest.mark.parametrize("style", BEARDS[1:])
def test_cover_follows_share_and_density(patch, style):
    places, points, _ = patch(-2, 2, -8, -5)

    def covered(share, density):
        return beard(places, points, np.full(len(places), share, np.float32), style, density, 3).cover

    assert covered(0.0, 1.0).max() == 0
    means = [covered(share, 0.7).mean() for share in (0.2, 0.5, 1.0)]
    assert means[0] < means[1] < means[2]
    assert covered(1.0, 0.4).mean() < covered(1.0, 1.0).max() < 0.9701
    if style != "stubble":
        assert (
            covered(1.0, 1.0).mean() > 2 * beard(places, points, np.ones(len(places)), "stubble", 1.0, 3).cover.mean()  # type: ignore[arg-type]
        )
        few = covered(0.3, 0.7)
        assert (few > 0.6).mean() > 0.02  # single hairs, not a veil
        assert (few < 0.2).mean() > 0.3


def test_brows_are_steep_at_the_nose_and_level_at_the_temple(patch):
    def steeper(left, right):
        places, _, shape = patch(left, right, 5.3, 6.4)
        covers = [brows(places, np.full(len(places), 0.6, np.float32), 0.7, k).cover.reshape(shape) for k in range(4)]
        return np.mean([agreement(cover, 6, 4) - agreement(cover, 2, 7) for cover in covers])

    assert steeper(1.2, 2.2) > 0.1
    assert steeper(4.4, 5.6) < -0.1


def test_brows_are_dense_where_they_should_be(patch):
    places, _, _ = patch(1, 5, 5.3, 6.4)
    full, none = (brows(places, np.full(len(places), s, np.float32), 0.7, 1).cover for s in (1.0, 0.0))
    assert none.max() == 0
    assert 0.4 < full.mean() < 0.9
    thick = brows(places, np.ones(len(places), np.float32), 0.9, 1).cover
    assert thick.mean() > full.mean() + 0.05


def test_left_and_right_are_not_mirrored(patch):
    places, points, _ = patch(0.5, 3, -8, -5)
    flip = np.array([-1, 1], np.float32)
    share = np.full(len(places), 0.6, np.float32)
    left = beard(places * flip, points * np.array([-1, 1, 1], np.float32), share, "full", 0.7, 3)
    right = beard(places, points, share, "full", 0.7, 3)
    assert abs(np.corrcoef(left.cover, right.cover)[0, 1]) < 0.3


def test_no_beard_grows_where_none_may():
    points = np.random.default_rng(0).uniform([-9, -12, -8], [9, 12, 12], (20000, 3)).astype(np.float32)
    share = beard_share(points[:, :2], points, "full")
    assert share[~may_have_beard(points[:, :2], points)].max() == 0
    assert share.max() > 0.9
