"""Skin colour, wavelets and nearest neighbours: known values, invariances, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from facewright.errors import GalleryError, UsageError
from facewright.metrics.detection import box_iou
from facewright.systems.detect.lowcost_dwt.network import (
    SIDE,
    SkinDetector,
    WaveletFeatures,
    WaveletGallery,
    frontal_crop,
    to_lab,
)

if TYPE_CHECKING:
    from pathlib import Path

pywt = pytest.importorskip("pywt", reason="PyWavelets is not installed")

SKIN, WALL = (205, 150, 125), (110, 120, 130)


def drawn_face(
    size: tuple[int, int] = (240, 320), centre: tuple[int, int] = (160, 120), *, neck: int = 0
) -> np.ndarray:
    """A skin-coloured ellipse (80×110) with dark eyes and mouth before a grey-blue wall."""
    frame = np.full((*size, 3), WALL, np.uint8)
    x, y = centre
    if neck:
        cv2.rectangle(frame, (x - 18, y), (x + 18, y + 55 + neck), SKIN, -1)
    cv2.ellipse(frame, centre, (40, 55), 0, 0, 360, SKIN, -1)
    for eye in (-17, 17):
        cv2.ellipse(frame, (x + eye, y - 12), (8, 4), 0, 0, 360, (60, 40, 35), -1)
    cv2.ellipse(frame, (x, y + 28), (15, 5), 0, 0, 360, (110, 45, 45), -1)
    return frame


TRUE_BOX = np.array([[120, 65, 201, 176.0]])


def faces(seed: int = 0, count: int = 1) -> np.ndarray:
    """Random smooth grey pictures (count, 128, 128)."""
    noise = np.random.default_rng(seed).normal(0, 1, (count, SIDE, SIDE))
    return np.stack(
        [cv2.normalize(cv2.GaussianBlur(n, (0, 0), 6), None, 20, 235, cv2.NORM_MINMAX) for n in noise]
    ).astype(np.uint8)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((255, 255, 255), (100, 0, 0)),
        ((119, 119, 119), (50.03, 0, 0)),
    ],
)
def test_lab_of_known_colours(rgb: tuple[int, int, int], lab: tuple[float, float, float]) -> None:
    np.testing.assert_allclose(to_lab(np.full((1, 1, 3), rgb, np.uint8))[0, 0], lab, atol=0.2)


@pytest.mark.parametrize("rule", ["otsu", "box"])
@pytest.mark.parametrize("gain", [0.6, 1.0, 1.2])
def test_a_face_is_found_in_any_brightness(rule: str, gain: float) -> None:
    frame = np.clip(drawn_face() * gain, 0, 255).astype(np.uint8)
    best = SkinDetector(rule).detect(frame)[0]  # type: ignore[arg-type]
    assert box_iou(best.box[None], TRUE_BOX)[0, 0] > 0.8
    assert 0.5 < best.confidence <= 1
    assert best.mask[120, 160]
    assert not best.mask[10, 10]


def test_a_swap_of_red_and_blue_loses_the_face() -> None:
    assert SkinDetector("box").detect(drawn_face()[..., ::-1].copy()) == []


def test_the_neck_is_cut() -> None:
    best = SkinDetector().detect(drawn_face(neck=60))[0]
    assert best.box[3] < 190
    assert box_iou(best.box[None], TRUE_BOX)[0, 0] > 0.8


def test_what_is_long_or_small_is_no_face() -> None:
    arm = np.full((240, 320, 3), WALL, np.uint8)
    arm[100:130, 20:300] = SKIN
    speck = np.full((240, 320, 3), WALL, np.uint8)
    speck[100:115, 100:118] = SKIN
    assert SkinDetector().detect(arm) == []
    assert SkinDetector().detect(speck) == []


def test_frames_without_colour_or_contrast_have_no_skin() -> None:
    grey = cv2.cvtColor(cv2.cvtColor(drawn_face(), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    tinted = np.clip(np.random.default_rng(0).normal(WALL, (4, 1, 4), (90, 90, 3)), 0, 255).astype(np.uint8)
    for frame in (grey, tinted, np.zeros((50, 50, 3), np.uint8)):
        assert not SkinDetector().skin(frame).any()  # type: ignore[arg-type]
        assert SkinDetector().detect(frame) == []  # type: ignore[arg-type]


def test_a_robust_detector_takes_out_a_cast_that_defeats_fixed_limits() -> None:
    blue = np.clip(drawn_face() * [0.7, 0.95, 1.5], 0, 255).astype(np.uint8)
    assert SkinDetector("box").detect(blue) == []
    best = SkinDetector("box", robust=True).detect(blue)[0]
    assert box_iou(best.box[None], TRUE_BOX)[0, 0] > 0.8


def test_crop_is_grey_square_and_black_beyond_frame_and_mask() -> None:
    frame = np.full((100, 100, 3), 200, np.uint8)
    mask = np.zeros((100, 100), bool)
    mask[:, :50] = True
    crop = frontal_crop(frame, (0, 0, 100, 100), mask)
    assert crop.shape == (128, 128)
    assert crop[:, :60].min() == 200
    assert crop[:, 70:].max() == 0
    outside = frontal_crop(frame, (-50, 0, 50, 100))
    assert outside[:, :60].max() == 0
    assert outside[:, 70:].min() == 200
    with pytest.raises(UsageError, match="must have an area"):
        frontal_crop(frame, (10, 10, 10, 30))


def test_haar_approximation_is_the_block_mean_times_two_to_the_level() -> None:
    crop = faces()[0]
    for level in range(1, 6):
        block = 2**level
        means = crop.reshape(SIDE // block, block, SIDE // block, block).mean((1, 3))
        np.testing.assert_allclose(WaveletFeatures(level).extract(crop), means.ravel() * block, rtol=1e-5)


@pytest.mark.parametrize("wavelet", ["haar", "db4", "sym4"])
@pytest.mark.parametrize("level", [1, 4])
def test_all_coefficients_keep_energy_and_distance(wavelet: str, level: int) -> None:
    a, b = faces(count=2)
    features = WaveletFeatures(level, wavelet, "all")
    va, vb = features.extract(np.stack([a, b])).astype(np.float64)
    assert va.shape == (SIDE * SIDE,)
    assert np.linalg.norm(va) == pytest.approx(np.linalg.norm(a.astype(float)), rel=1e-5)
    assert np.linalg.norm(va - vb) == pytest.approx(np.linalg.norm(a.astype(float) - b), rel=1e-5)


def test_lengths_and_batches() -> None:
    crops = faces(count=3)
    for level, length in enumerate((4096, 1024, 256, 64, 16), start=1):
        together = WaveletFeatures(level).extract(crops)
        assert together.shape == (3, length)
        np.testing.assert_array_equal(together[1], WaveletFeatures(level).extract(crops[1]))


def test_normalised_features_ignore_brightness_and_contrast() -> None:
    crop = faces()[0]
    other = (crop * 0.5 + 40).astype(np.uint8)
    kind = WaveletFeatures(normalised=True)
    assert np.linalg.norm(kind.extract(crop)) == pytest.approx(1, rel=1e-5)
    assert kind.extract(crop).mean() == pytest.approx(0, abs=1e-6)
    assert np.linalg.norm(kind.extract(crop) - kind.extract(other)) < 0.02
    assert np.linalg.norm(WaveletFeatures().extract(crop) - WaveletFeatures().extract(other)) > 100


@pytest.mark.parametrize(
    "settings", [{"level": 0}, {"level": 8}, {"bands": "some"}, {"wavelet": "bior2.2"}, {"wavelet": "nonsense"}]
)
def test_impossible_features_are_refused(settings: dict) -> None:
    with pytest.raises(UsageError):
        WaveletFeatures(**settings).extract(faces()[0])


def filled_gallery() -> tuple[WaveletGallery, np.ndarray]:
    gallery, people = WaveletGallery(), faces(count=4)
    rng = np.random.default_rng(1)
    for name, person in zip("abcd", people):
        for _ in range(2):
            gallery.enrol(name, np.clip(person + rng.normal(0, 8, person.shape), 0, 255).astype(np.uint8))
    return gallery, people


def test_the_nearest_person_is_found_with_a_margin() -> None:
    gallery, people = filled_gallery()
    for name, person in zip("abcd", people):
        found = gallery.identify(person)
        assert found.identity == name
        assert found.margin > 2
        away = gallery.distances(person)
        assert found.margin == pytest.approx(sorted(away.values())[1] / found.distance)
    single = WaveletGallery()
    single.enrol("a", people[0])
    assert single.identify(people[0]).distance == 0
    assert single.identify(people[1]).margin == np.inf


def test_a_calibrated_threshold_parts_the_gallery() -> None:
    gallery, people = filled_gallery()
    with pytest.raises(GalleryError, match="calibrate"):
        gallery.verify(people[0], "a")
    assert gallery.calibrate() == pytest.approx(0, abs=1e-9)
    for name, person in zip("abcd", people):
        assert [gallery.verify(person, other) for other in "abcd"] == [name == other for other in "abcd"]
    with pytest.raises(GalleryError, match="not registered"):
        gallery.verify(people[0], "z")


def test_equal_error_rate_of_people_that_cannot_be_told_apart_is_a_half() -> None:
    gallery = WaveletGallery()
    for crop in faces(count=60):
        gallery.enrol("ab"[len(gallery.identities) % 2], crop)
    assert gallery.calibrate() == pytest.approx(0.5, abs=0.06)


def test_galleries_round_trip_and_refuse_other_features(tmp_path: Path) -> None:
    gallery, people = filled_gallery()
    gallery.calibrate()
    gallery.save(tmp_path / "people.npz")
    again = WaveletGallery.load(tmp_path / "people.npz", WaveletFeatures())
    assert again.distances(people[2]) == gallery.distances(people[2])
    assert again.threshold == gallery.threshold
    with pytest.raises(GalleryError, match="cannot be compared"):
        WaveletGallery.load(tmp_path / "people.npz", WaveletFeatures(level=2))
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "people.npz").read_bytes()[:200])
    for path in ("damaged.npz", "missing.npz"):
        with pytest.raises(GalleryError, match="damaged"):
            WaveletGallery.load(tmp_path / path)


def test_an_empty_gallery_and_one_person_are_said() -> None:
    with pytest.raises(GalleryError, match="nobody is registered"):
        WaveletGallery().identify(faces()[0])
    gallery = WaveletGallery()
    for crop in faces(count=2):
        gallery.enrol("a", crop)
    with pytest.raises(GalleryError, match="two people"):
        gallery.calibrate()


def test_frames_must_be_rgb_and_rules_known() -> None:
    with pytest.raises(UsageError, match="uint8 RGB"):
        SkinDetector().detect(np.zeros((10, 10), np.uint8))
    with pytest.raises(UsageError, match="choose otsu or box"):
        SkinDetector("red")  # type: ignore[arg-type]
