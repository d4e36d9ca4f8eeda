"""Uses of a parsed portrait: what changes, what keeps its bits, and by how much."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from facewright.errors import UsageError
from facewright.pipelines import portrait
from facewright.pipelines.portrait import PortraitMasks

SIZE = (120, 160)
CHANGES = {
    "smooth": lambda image, mask: portrait.smooth_skin(image, mask, strength=1.0),
    "whiten": lambda image, mask: portrait.whiten_teeth(image, mask, strength=1.0),
    "blur": lambda image, mask: portrait.blur_background(image, 1 - mask, strength=1.0),
    "replace": lambda image, mask: portrait.replace_background(image, 1 - mask, np.full((9, 9, 3), 3, np.uint8)),
}


@pytest.fixture
def image(fakes) -> np.ndarray:
    return fakes.textured(*SIZE)


@pytest.fixture
def mask() -> np.ndarray:
    """1 in a square, 0 far away, soft between."""
    hard = np.zeros(SIZE, np.float32)
    hard[40:90, 50:110] = 1
    return np.clip(cv2.GaussianBlur(hard, (0, 0), 3), 0, 1) * (cv2.dilate(hard, np.ones((21, 21))) > 0)


@pytest.mark.parametrize("name", CHANGES)
def test_pixels_outside_the_mask_keep_their_bits(name: str, image, mask) -> None:
    before = image.copy()
    changed = CHANGES[name](image, mask)
    assert changed.dtype == np.uint8
    assert np.array_equal(changed[mask == 0], image[mask == 0])
    assert (changed[mask > 0.99] != image[mask > 0.99]).mean() > 0.2
    assert np.array_equal(image, before)


@pytest.mark.parametrize("name", CHANGES)
def test_no_mask_is_no_change(name: str, image) -> None:
    assert np.array_equal(CHANGES[name](image, np.zeros(SIZE, np.float32)), image)


def test_strength_zero_is_no_change_and_half_is_half(image, mask) -> None:
    for change in (portrait.smooth_skin, portrait.whiten_teeth):
        assert np.array_equal(change(image, mask, strength=0.0), image)
        half, full = (change(image, mask, strength=s).astype(float) - image for s in (0.5, 1.0))
        assert np.abs(half - full / 2).max() <= 1
    assert np.array_equal(portrait.blur_background(image, mask, strength=0.0), image)


def test_mask_is_the_opacity_of_the_cut_out(image, mask) -> None:
    cut = portrait.remove_background(image, mask)
    assert cut.shape == (*SIZE, 4)
    assert np.array_equal(cut[..., :3], image)
    assert np.abs(cut[..., 3] / 255 - mask).max() <= 0.5 / 255 + 1e-6


def test_new_background_covers_from_its_middle(image) -> None:
    backdrop = np.zeros((60, 200, 3), np.uint8)
    backdrop[:, 56:144] = 200  # the middle 80 columns are shown, for the picture is too wide; 4 more for the filter
    nobody = np.zeros(SIZE, np.float32)
    result = portrait.replace_background(image, nobody, backdrop)
    assert (result == 200).all()
    half = portrait.replace_background(image, np.full(SIZE, 0.5, np.float32), backdrop)
    assert np.abs(half - (image.astype(float) + 200) / 2).max() <= 0.5


def test_blurred_background_has_no_halo_of_the_person() -> None:
    picture = np.full((*SIZE, 3), 60, np.uint8)
    picture[:, :80] = (250, 20, 20)
    person = np.zeros(SIZE, np.float32)
    person[:, :80] = 1
    blurred = portrait.blur_background(picture, person, strength=1.0)
    assert np.abs(blurred[:, 80:].astype(int) - 60).max() <= 1
    assert np.array_equal(blurred[:, :80], picture[:, :80])


def test_blur_takes_detail_out_of_the_background(image) -> None:
    person = np.zeros(SIZE, np.float32)
    spread = [portrait.blur_background(image, person, strength=s).std() for s in (0.1, 0.5, 1.0)]
    assert image.std() > spread[0] > spread[1] > spread[2]


def test_smoothing_takes_blemishes_and_leaves_edges() -> None:
    rng = np.random.default_rng(0)
    skin = np.full((*SIZE, 3), 180.0)
    skin[:, 80:] = 60
    noisy = np.clip(skin + rng.normal(0, 4, skin.shape), 0, 255).round().astype(np.uint8)
    calm = portrait.smooth_skin(noisy, np.ones(SIZE, np.float32), strength=1.0)
    flat = np.s_[10:-10, 10:60]
    assert calm[flat].std() < 0.5 * noisy[flat].std()
    assert abs(calm[flat].mean() - 180) < 1
    step = calm[:, 81].mean() - calm[:, 78].mean()
    assert step == pytest.approx(-120, abs=6)


def test_teeth_lose_yellow_and_shadow_stays() -> None:
    picture = np.zeros((*SIZE, 3), np.uint8)
    picture[:, :80] = (214, 196, 150)
    picture[:, 80:] = (45, 30, 25)
    whiter = portrait.whiten_teeth(picture, np.ones(SIZE, np.float32), strength=1.0)
    assert np.array_equal(whiter[:, 80:], picture[:, 80:])
    before, after = (
        cv2.cvtColor(p[:1, :1].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0, 0] for p in (picture, whiter)
    )
    assert after[2] == pytest.approx(0.3 * before[2], abs=1)
    assert after[0] - before[0] == pytest.approx(0.2 * (100 - before[0]), abs=1)
    bluish = np.full((*SIZE, 3), (200, 205, 215), np.uint8)
    kept = portrait.whiten_teeth(bluish, np.ones(SIZE, np.float32), strength=1.0)
    assert kept[0, 0, 2] >= kept[0, 0, 0]


def test_masks_of_probabilities() -> None:
    classes = ("background", "person", "skin", "teeth")
    probabilities = np.array([0.2, 0.3, 0.4, 0.1], np.float32)[:, None, None] * np.ones((1, 2, 3), np.float32)
    masks = PortraitMasks.of(probabilities, classes)
    for found, expected in ((masks.person, 0.8), (masks.skin, 0.4), (masks.teeth, 0.1)):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert PortraitMasks.of(probabilities[:3], classes[:3]).teeth.max() == 0
    np.testing.assert_allclose(portrait.class_mask(probabilities, classes, ("person", "skin")), 0.7, atol=1e-6)
    with pytest.raises(UsageError, match=r"\(4, H, W\)"):
        PortraitMasks.of(probabilities[:2], classes)


def test_impossible_input_is_refused(image, mask) -> None:
    with pytest.raises(UsageError, match="uint8"):
        portrait.smooth_skin(image.astype(float), mask)
    with pytest.raises(UsageError, match="mask must be float"):
        portrait.smooth_skin(image, mask[1:])
    with pytest.raises(UsageError, match="mask must be float"):
        portrait.whiten_teeth(image, mask > 0)
    with pytest.raises(UsageError, match=r"0\.\.1"):
        portrait.remove_background(image, mask * 2)
    with pytest.raises(UsageError, match=r"0\.\.1"):
        portrait.blur_background(image, mask, strength=1.5)
    with pytest.raises(UsageError, match="new background"):
        portrait.replace_background(image, mask, mask)


def test_things_of_the_same_colour_far_away_are_not_the_person() -> None:
    cut = np.zeros((6, 9), np.uint8)
    cut[1:5, 1:3] = 1
    cut[0:2, 6:8] = 1
    place = np.zeros((6, 9), bool)
    place[3:, :4] = True
    kept = cut * portrait._touching(cut, place)
    assert kept[:, :5].sum() == 8
    assert kept[:, 5:].sum() == 0
