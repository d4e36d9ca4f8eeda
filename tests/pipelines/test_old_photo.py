"""Repairs of old photos: filled places look like their surroundings, intact pixels keep their bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from facewright.errors import UsageError
from facewright.pipelines.old_photo import (
    likely_marks,
    mend,
    plausible_damage,
    spread_tones,
    without_cast,
    without_features,
)

if TYPE_CHECKING:
    from types import SimpleNamespace


def photo(side: int = 128) -> np.ndarray:
    """Coloured hills, (S, S, 3) uint8."""
    ys, xs = np.mgrid[0:side, 0:side] / side
    planes = [120 + 90 * np.sin(5 * xs + k) * np.cos(4 * ys - k) for k in (0.0, 0.6, 1.3)]
    return np.clip(np.dstack(planes), 0, 255).astype(np.uint8)


def scratch(side: int = 128) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    cv2.line(mask, (10, 5), (110, 120), 1, 2)
    return mask.astype(bool)


def test_a_scratch_is_filled_and_the_rest_untouched() -> None:
    truth, lost = photo(), scratch()
    broken = truth.copy()
    broken[lost] = 255
    fixed = mend(broken, lost)
    near = cv2.dilate(lost.astype(np.uint8), np.ones((7, 7))) > 0
    assert np.array_equal(fixed[~near], broken[~near])
    before, after = (np.abs(p[lost].astype(float) - truth[lost]).mean() for p in (broken, fixed))
    assert after < before / 10


def test_fillings_carry_the_grain_of_the_picture() -> None:
    noise = np.random.default_rng(0).normal(0, 12, (128, 128, 1))
    lost = np.zeros((128, 128), bool)
    lost[40:80, 40:80] = True
    fixed = mend(np.clip(photo() + noise, 0, 255).astype(np.uint8), lost).astype(float)
    rest = fixed - cv2.GaussianBlur(fixed, (0, 0), 2)
    assert rest[45:75, 45:75].std() == pytest.approx(rest[90:, 90:].std(), rel=0.35)


def test_masks_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match="the picture 128 x 128"):
        mend(photo(), np.ones((4, 4), bool))
    with pytest.raises(UsageError, match="covers the whole"):
        mend(photo(), np.ones((128, 128), bool))
    assert mend(photo(), np.zeros((128, 128), bool)) is not None


def test_damage_nearly_everywhere_is_not_believed() -> None:
    assert not plausible_damage(np.full((20, 20), 0.9, np.float32)).any()
    shares = np.zeros((20, 20), np.float32)
    shares[3] = 0.9
    assert plausible_damage(shares).sum() == 20


def test_faded_tones_are_spread_and_full_ones_left() -> None:
    full = photo()
    full[:4], full[-4:] = 0, 255
    assert spread_tones(full)[1] == ""
    faded = (60 + full * 0.45).astype(np.uint8)
    spread, said = spread_tones(faded)
    assert "spread" in said
    assert np.ptp(spread) > 1.5 * np.ptp(faded)
    flat = np.full((64, 64, 3), 120, np.uint8)
    assert spread_tones(flat)[0] is flat


def test_tone_of_a_toned_print_stays() -> None:
    grey = cv2.cvtColor(photo(), cv2.COLOR_RGB2GRAY).astype(float)
    sepia = np.clip(grey[..., None] * (1.0, 0.85, 0.6), 0, 255).astype(np.uint8)
    assert without_cast(sepia)[0] is sepia


def test_a_cast_over_greys_is_taken_out() -> None:
    rng = np.random.default_rng(1)
    picture = np.repeat(rng.uniform(60, 200, (128, 128, 1)), 3, 2)
    picture[:40, :40] = (200, 40, 40)
    picture[-40:, -40:] = (40, 60, 200)
    soft = cv2.GaussianBlur(picture, (0, 0), 2)
    picture = np.clip(soft + np.array([18, -6, -18]), 0, 255).astype(np.uint8)
    done, said = without_cast(picture)
    assert "cast" in said

    def chroma(image: np.ndarray) -> float:
        lab = cv2.cvtColor(image[50:80, 50:80].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        return float(np.hypot(lab[..., 1], lab[..., 2]).mean())

    assert chroma(done) < 0.4 * chroma(picture)


def test_marks_within_the_eyes_are_spared_and_those_that_cross_them_are_not(fakes: SimpleNamespace) -> None:
    face = fakes.face_at((64, 64), 30, angle=10)
    left, right = face.points5[0], face.points5[1]
    rim, crack = np.zeros((128, 128), np.uint8), np.zeros((128, 128), np.uint8)
    cv2.circle(rim, tuple(int(v) for v in left), 8, 1, 1)
    cv2.line(crack, (2, int(right[1]) - 20), (126, int(right[1]) + 20), 1, 1)
    assert not without_features(rim > 0, [face]).any()
    assert np.array_equal(without_features(crack > 0, [face]), crack > 0)
    assert np.array_equal(without_features(rim > 0, []), rim > 0)


def test_light_thin_marks_and_torn_edges_count_and_dark_or_thick_shapes_do_not() -> None:
    picture = np.full((200, 200, 3), 120, np.uint8)
    shapes = {name: np.zeros((200, 200), np.uint8) for name in ("crack", "line", "tie", "corner")}
    cv2.line(shapes["crack"], (30, 40), (160, 60), 1, 2)
    cv2.line(shapes["line"], (30, 100), (160, 100), 1, 2)
    cv2.circle(shapes["tie"], (100, 150), 9, 1, -1)
    cv2.fillPoly(shapes["corner"], [np.array([(0, 0), (30, 0), (0, 30)], np.int32)], 1)
    masks = {name: mask > 0 for name, mask in shapes.items()}
    for name, mask in masks.items():
        picture[mask] = 20 if name == "line" else 240
    found = likely_marks(picture, np.logical_or.reduce(list(masks.values())))
    assert {name: bool(found[mask].all()) for name, mask in masks.items()} == {
        "crack": True,
        "line": False,
        "tie": False,
        "corner": True,
    }
