from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from facewright.degrade import (
    PRESETS,
    Blur,
    Chain,
    ColourChange,
    Degradation,
    Noise,
    Patch,
    apply,
    change_colour,
    degrade,
    degrade_batch,
    degrade_photo,
    eased,
    get_preset,
    sample,
    target,
)
from facewright.errors import UsageError

ORDER = ("blur", "down", "noise", "jpeg", "up")


@pytest.fixture(scope="module")
def crop() -> np.ndarray:
    """A 256 px crop around a real (public-domain) face."""
    return cv2.resize(data.astronaut()[:300, 80:380], (256, 256), interpolation=cv2.INTER_AREA)


def record(image: np.ndarray, chain: Chain, **changes: Any) -> Degradation:
    return replace(Degradation("test", image.shape[:2], chain), **changes)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


# Reproducibility


@pytest.mark.parametrize("preset", PRESETS)
def test_a_seed_and_its_json_record_give_the_same_bytes(crop: np.ndarray, preset: str) -> None:
    for seed in range(4):
        low, drawn = degrade(crop, preset, seed)
        again, _ = degrade(crop, preset, seed)
        from_record = apply(crop, Degradation.from_json(drawn.to_json()))
        assert Degradation.from_json(drawn.to_json()) == drawn
        assert low.tobytes() == again.tobytes() == from_record.tobytes()


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "clean"])
def test_another_seed_gives_another_picture(crop: np.ndarray, preset: str) -> None:
    assert not np.array_equal(degrade(crop, preset, 0)[0], degrade(crop, preset, 1)[0])


def test_uint8_and_float_take_the_same_path(crop: np.ndarray) -> None:
    drawn = sample("gfpgan", 5, 256)
    as_float = apply((crop / np.float32(255)).astype(np.float32), drawn)
    assert as_float.dtype == np.float32
    np.testing.assert_array_equal(np.rint(as_float * 255).astype(np.uint8), apply(crop, drawn))


def test_the_input_is_not_changed(crop: np.ndarray) -> None:
    before = crop.copy()
    for preset in PRESETS:
        degrade(crop, preset, 3)
    np.testing.assert_array_equal(crop, before)


def test_a_broken_record_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="not a degradation record"):
        Degradation.from_json('{"preset": "gfpgan"}')
    with pytest.raises(UsageError, match="JSON"):
        Degradation.from_json("nonsense")


# Ranges


def within(value: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] <= value <= bounds[1]


@pytest.mark.parametrize("preset", ["gfpgan", "codeformer-large", "ref-ldm", "severe", "restoreformer++-paper"])
def test_draws_fill_the_published_ranges(preset: str) -> None:
    rules = get_preset(preset)
    chains = [sample(preset, seed, 512).chain for seed in range(600)]
    assert all(within(c.blur.sigma_x, rules.sigma) and within(c.factor, rules.down) for c in chains)
    assert all(within(c.noise.sigma, rules.noise) and within(c.jpeg, rules.jpeg) for c in chains)
    middle = [np.mean(bounds) for bounds in (rules.sigma, rules.down, rules.noise, rules.jpeg)]
    drawn = np.array([(c.blur.sigma_x, c.factor, c.noise.sigma, c.jpeg) for c in chains])
    widths = [np.ptp(bounds) for bounds in (rules.sigma, rules.down, rules.noise, rules.jpeg)]
    np.testing.assert_allclose(drawn.mean(0), middle, atol=0.06 * max(widths))
    assert np.mean([c.blur.kind == "iso" for c in chains]) == pytest.approx(0.5, abs=0.08)
    assert {c.blur.size for c in chains} == set(rules.kernel_sizes)


def test_published_numbers_of_the_presets() -> None:
    expected = {
        "gfpgan": ((0.1, 10), (0.8, 8), (0, 20), (60, 100)),
        "vqfr": ((0.1, 10), (0.8, 8), (0, 20), (60, 100)),
        "codeformer": ((0.1, 10), (1, 12), (0, 15), (60, 100)),
        "codeformer-large": ((1, 15), (4, 30), (0, 20), (30, 80)),
        "ref-ldm": ((0, 16), (1, 32), (0, 20), (30, 100)),
        "restoreformer++-paper": ((0.2, 10), (1, 8), (0, 20), (60, 100)),
        "severe": ((0.1, 10), (0.8, 16), (0, 20), (30, 100)),
    }
    for name, ranges in expected.items():
        rules = PRESETS[name]
        assert (rules.sigma, rules.down, rules.noise, rules.jpeg) == ranges, name


def test_dfdnet_leaves_steps_out_with_its_probabilities() -> None:
    chains = [sample("dfdnet", seed, 512).chain for seed in range(800)]
    assert np.mean([c.blur is not None for c in chains]) == pytest.approx(0.9, abs=0.04)
    assert np.mean([c.factor > 1 for c in chains]) == pytest.approx(0.95, abs=0.03)
    assert np.mean([c.noise is not None for c in chains]) == pytest.approx(0.9, abs=0.04)
    assert np.mean([c.jpeg is not None for c in chains]) == pytest.approx(0.6, abs=0.06)
    kinds = [c.blur.kind for c in chains if c.blur]
    assert kinds.count("motion") / len(kinds) == pytest.approx(0.35, abs=0.06)
    assert all(round(c.factor * 10, 6) == round(c.factor * 10) for c in chains)


def test_extended_model_fires_at_its_rates() -> None:
    drawn = [sample("restoreformer++", seed, 512) for seed in range(1500)]
    assert np.mean([d.patch is not None for d in drawn]) == pytest.approx(0.1, abs=0.03)
    assert np.mean([d.shift != (0, 0) for d in drawn]) == pytest.approx(0.2, abs=0.04)
    assert 0 < np.mean([d.chain.haze < 1 for d in drawn]) < 0.02
    assert 0 < np.mean([d.colour.grey for d in drawn]) < 0.02
    assert all(128 <= d.patch.side <= 256 for d in drawn if d.patch)
    assert max(abs(v) for d in drawn for v in d.shift) == 32


def test_scaled_ranges_keep_their_size_relative_to_the_face() -> None:
    chains = [sample("gfpgan", seed, 128, scaled=True).chain for seed in range(400)]
    assert 2.3 < max(c.blur.sigma_x for c in chains) <= 10 / 4
    assert 1.9 < max(c.factor for c in chains) <= 8 / 4
    assert min(c.factor for c in chains) >= 0.8
    assert {c.blur.size for c in chains} == {11}
    assert max(sample("gfpgan", seed, 128).chain.factor for seed in range(400)) > 7


def test_scaled_degradation_loses_the_same_detail_at_any_crop_size() -> None:
    large = data.astronaut()
    small = cv2.resize(large, (256, 256), interpolation=cv2.INTER_AREA)
    rules = replace(PRESETS["vqfr"], noise=(0, 0), jpeg=(100, 100))
    for seed in range(6):
        of_large = degrade(large, rules, seed, scaled=True)[0]
        of_small = degrade(small, rules, seed, scaled=True)[0]
        shrunk = cv2.resize(of_large, (256, 256), interpolation=cv2.INTER_AREA)
        assert psnr(shrunk, of_small) > psnr(of_small, small) + 3


def test_easing_runs_from_nothing_to_the_full_preset(crop: np.ndarray) -> None:
    values = [psnr(degrade(crop, eased("vqfr", k), 2)[0], crop) for k in (0.0, 0.3, 0.6, 1.0)]
    assert values[0] > 38
    assert values == sorted(values, reverse=True)
    assert eased("severe", 1.0) == PRESETS["severe"]


def test_presets_are_ordered_by_severity() -> None:
    pictures = [data.astronaut(), data.coffee()[:400, :400], data.chelsea()[:300, :300], data.rocket()[:400, 100:500]]
    crops = [np.ascontiguousarray(p) for p in pictures]
    sizes = [cv2.resize(c, (512, 512), interpolation=cv2.INTER_AREA) for c in crops]

    def mean(preset: str) -> float:
        return float(np.mean([psnr(degrade(sizes[i % 4], preset, i)[0], sizes[i % 4]) for i in range(24)]))  # type: ignore[type-var]

    mild, vqfr, ref_ldm, large = (mean(p) for p in ("mild", "vqfr", "ref-ldm", "codeformer-large"))
    assert mild > vqfr + 1 > ref_ldm + 2
    assert ref_ldm > large


# Single steps


def test_far_faces_shrink_by_any_ratio_and_any_filter() -> None:
    rng = np.random.default_rng(0)
    drawn = [sample("far", rng, 256).chain for _ in range(2000)]
    ratios = np.log([chain.factor for chain in drawn])
    assert ratios.min() >= np.log(1.5)
    assert ratios.max() <= np.log(12)
    shares = np.histogram(ratios, 4, (np.log(1.5), np.log(12)))[0] / len(drawn)
    assert np.abs(shares - 0.25).max() < 0.03
    shrinking = [chain.interpolation for chain in drawn]
    enlarging = [chain.enlarging for chain in drawn]
    assert {name: round(shrinking.count(name) / 2000, 1) for name in set(shrinking)} == {
        "area": 0.4,
        "linear": 0.2,
        "cubic": 0.2,
        "lanczos": 0.2,
    }
    assert set(enlarging) == {"linear", "cubic", "lanczos"}


def test_mixed_damage_is_any_subset() -> None:
    rng = np.random.default_rng(0)
    chains = [sample("mixed", rng, 256).chain for _ in range(3000)]
    steps = np.array([[c.blur is not None, c.factor > 1, c.noise is not None, c.jpeg is not None] for c in chains])
    assert np.abs(steps.mean(0) - [0.35, 0.35, 0.35, 0.6]).max() < 0.03
    subsets = np.unique(steps, axis=0, return_counts=True)[1] / len(steps)
    assert len(subsets) == 16
    assert subsets.min() > 0.01
    kinds = [c.blur.kind for c in chains if c.blur is not None]
    assert kinds.count("motion") / len(kinds) == pytest.approx(0.2, abs=0.03)


def test_compressed_is_jpeg_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    chains = [sample("compressed", rng, 256).chain for _ in range(500)]
    assert all(c.blur is None and c.factor == 1 and c.noise is None for c in chains)
    qualities = [c.jpeg for c in chains if c.jpeg is not None]
    assert len(qualities) == 500
    assert (min(qualities), max(qualities)) == (5, 80)


def test_shaken_is_mostly_motion_at_full_size() -> None:
    rng = np.random.default_rng(0)
    chains = [sample("shaken", rng, 256).chain for _ in range(1000)]
    blurs = [c.blur for c in chains if c.blur is not None]
    assert len(blurs) == 1000
    assert all(c.factor == 1 for c in chains)
    lengths = np.array([b.length for b in blurs if b.kind == "motion"])
    assert len(lengths) / 1000 == pytest.approx(0.9, abs=0.03)
    assert 4 <= lengths.min() < 5
    assert 23 < lengths.max() <= 24


def test_a_filter_of_its_own_brings_the_picture_back(crop: np.ndarray) -> None:
    chain = Chain(("blur", "down", "noise", "jpeg", "up"), factor=4.0, interpolation="area", enlarging="lanczos")
    side = crop.shape[0]
    small = cv2.resize(crop.astype(np.float32) / 255, (side // 4, side // 4), interpolation=cv2.INTER_AREA)
    expected = cv2.resize(small, (side, side), interpolation=cv2.INTER_LANCZOS4).clip(0, 1)
    found = apply(crop, Degradation("by hand", (side, side), chain))
    assert np.abs(found - 255 * expected).max() <= 0.51


def test_records_from_before_the_enlarging_filter_still_read(crop: np.ndarray) -> None:
    record = sample("small", 3, crop.shape[0])
    older = record.to_dict()
    del older["chain"]["enlarging"]
    assert Degradation.from_dict(older) == record


def test_clean_changes_nothing(crop: np.ndarray) -> None:
    np.testing.assert_array_equal(degrade(crop, "clean", 0)[0], crop)


def test_the_chain_is_the_published_formula(crop: np.ndarray) -> None:
    """Blur, bilinear shrink to int(side // r), noise, clip, JPEG, bilinear enlarge, round."""
    chain = Chain(ORDER, Blur("iso", 41, 2.0, 2.0), factor=3.3, noise=Noise(12.0, seed=4), jpeg=71)
    x = cv2.GaussianBlur(crop.astype(np.float64) / 255, (41, 41), 2.0, borderType=cv2.BORDER_REFLECT_101)
    x = cv2.resize(x.astype(np.float32), (77, 77), interpolation=cv2.INTER_LINEAR)
    x = x + np.random.default_rng(4).standard_normal(x.shape, dtype=np.float32) * 12 / 255
    stream = io.BytesIO()
    Image.fromarray(np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)).save(stream, "JPEG", quality=71)
    x = np.asarray(Image.open(stream)).astype(np.float32) / 255
    x = np.rint(cv2.resize(x, (256, 256), interpolation=cv2.INTER_LINEAR) * 255)
    difference = np.abs(x - apply(crop, record(crop, chain)))
    assert difference.mean() < 0.3
    assert np.percentile(difference, 99.5) <= 3


def test_jpeg_keeps_red_red() -> None:
    """Swapped channels would blur saturated red like blue, and change its tone."""
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 230
    low = apply(red, record(red, Chain(ORDER, jpeg=60)))
    assert np.abs(low.astype(int) - red).max() <= 3
    stream = io.BytesIO()
    checks = np.random.default_rng(0).integers(0, 2, (32, 32, 3)).repeat(2, 0).repeat(2, 1).astype(np.uint8) * 200
    Image.fromarray(checks).save(stream, "JPEG", quality=60)
    ours = apply(checks, record(checks, Chain(ORDER, jpeg=60))).astype(int)
    assert np.abs(ours - np.asarray(Image.open(stream))).mean() < 1


def test_noise_has_the_drawn_standard_deviation() -> None:
    flat = np.full((256, 256, 3), 128, np.uint8)
    coloured = apply(flat, record(flat, Chain(ORDER, noise=Noise(15.0, 1)))).astype(float)
    grey = apply(flat, record(flat, Chain(ORDER, noise=Noise(15.0, 1, grey=True)))).astype(float)
    assert coloured.std() == pytest.approx(15, rel=0.02)
    assert grey.std() == pytest.approx(15, rel=0.02)
    assert np.array_equal(grey[..., 0], grey[..., 2])
    assert abs(np.corrcoef(coloured[..., 0].ravel(), coloured[..., 1].ravel())[0, 1]) < 0.02


def test_a_factor_below_one_enlarges_before_compression(crop: np.ndarray) -> None:
    drawn = replace(record(crop, Chain(ORDER, factor=0.85, jpeg=80)), keep_small=True)
    assert apply(crop, drawn).shape == (301, 301, 3)


def test_extreme_factors_leave_at_least_one_pixel() -> None:
    tiny = np.full((9, 7, 3), 90, np.uint8)
    low = apply(tiny, record(tiny, Chain(ORDER, factor=32.0, jpeg=90)))
    assert low.shape == tiny.shape
    assert np.ptp(low) == 0


def test_haze_blends_with_white() -> None:
    flat = np.full((8, 8, 3), 100, np.uint8)
    low = apply(flat, record(flat, Chain(ORDER, haze=0.8)))
    assert (low == round(100 * 0.8 + 255 * 0.2)).all()


def test_a_patch_changes_only_its_square(crop: np.ndarray) -> None:
    base = record(crop, Chain(ORDER))
    patched = replace(base, patch=Patch(40, 70, 100, Chain(ORDER, Blur("iso", 41, 8.0, 8.0))))
    changed = (apply(crop, patched) != apply(crop, base)).any(2)
    assert changed[70:170, 40:140].mean() > 0.8
    changed[70:170, 40:140] = False
    assert not changed.any()


def test_shift_moves_picture_and_target_alike(crop: np.ndarray) -> None:
    drawn = record(crop, Chain(ORDER), shift=(9, -5))
    moved = target(crop, drawn)
    np.testing.assert_array_equal(moved[:-5, 9:], crop[5:, :-9])
    np.testing.assert_array_equal(apply(crop, drawn), moved)


def test_colour_hits_the_target_only_where_the_system_does_so(crop: np.ndarray) -> None:
    grey = record(crop, Chain(ORDER), colour=ColourChange(grey=True))
    np.testing.assert_array_equal(target(crop, grey), crop)
    on_target = target(crop, replace(grey, colour_on_target=True))
    assert np.array_equal(on_target[..., 0], on_target[..., 1])
    assert PRESETS["restoreformer++"].colour_on_target
    assert not PRESETS["gfpgan"].colour_on_target


def test_order_of_steps(crop: np.ndarray) -> None:
    rules = replace(PRESETS["vqfr"], noise=(20, 20), sigma=(4, 4), p_iso=1.0)
    default = degrade(crop, rules, 1)[0].astype(float)
    noise_first = degrade(crop, rules, 1, order=("noise", "jpeg", "blur", "down", "up"))[0].astype(float)

    def roughness(image: np.ndarray) -> float:
        return float(np.abs(np.diff(image, axis=0)).mean())

    assert roughness(noise_first) < roughness(default)
    orders = {sample("vqfr", seed, 64, order="shuffle").chain.order for seed in range(300)}
    assert len(orders) == 24
    assert all(order[-1] == "up" for order in orders)


@pytest.mark.parametrize("order", ["random", ("blur", "down"), ("up", "blur", "down", "noise", "jpeg")])
def test_impossible_orders_are_refused(order: object) -> None:
    with pytest.raises(UsageError, match="order"):
        sample("vqfr", 0, 64, order=order)  # type: ignore[arg-type]


def test_bad_input_is_refused(crop: np.ndarray) -> None:
    with pytest.raises(UsageError, match="unknown degradation preset"):
        sample("gpfgan", 0, 64)
    with pytest.raises(UsageError, match="drawn for 64×64"):
        apply(crop, sample("vqfr", 0, 64))
    with pytest.raises(UsageError, match="uint8 or float32"):
        apply(crop.astype(np.float64), sample("vqfr", 0, 256))  # type: ignore[type-var]
    with pytest.raises(UsageError, match="uint8 or float32"):
        apply(crop[..., 0], sample("vqfr", 0, 256))


# Colour


def test_jitter_by_hand() -> None:
    pixel = np.array([[[0.2, 0.4, 0.6], [0.4, 0.4, 0.4]]], dtype=np.float32)
    grey = 0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.6
    bright = change_colour(pixel, ColourChange(steps=("brightness",), brightness=1.5))
    np.testing.assert_allclose(bright[0, 0], [0.3, 0.6, 0.9], atol=1e-6)
    plain = change_colour(pixel, ColourChange(steps=("saturation",), saturation=0.0))
    np.testing.assert_allclose(plain[0, 0], grey, atol=1e-6)
    flat = change_colour(pixel, ColourChange(steps=("contrast",), contrast=0.0))
    np.testing.assert_allclose(flat, (grey + 0.4) / 2, atol=1e-6)
    turned = change_colour(pixel, ColourChange(steps=("hue",), hue=1 / 3))
    np.testing.assert_allclose(turned[0, 0], [0.6, 0.2, 0.4], atol=1e-5)
    shifted = change_colour(pixel, ColourChange(shift=(0.1, 0.0, 0.5)))
    np.testing.assert_allclose(shifted[0, 0], [0.3, 0.4, 1.0], atol=1e-6)


# Photos and batches


def test_photo_of_any_size_and_its_small_version() -> None:
    photo = data.coffee()[:201, :333]
    low, drawn = degrade_photo(photo, "severe", seed=1)
    small, record_small = degrade_photo(photo, "severe", seed=1, keep_small=True)
    assert low.shape == photo.shape
    assert low.dtype == np.uint8
    assert small.shape[:2] == (int(201 // drawn.chain.factor), int(333 // drawn.chain.factor))
    np.testing.assert_array_equal(apply(photo, Degradation.from_json(record_small.to_json())), small)


def test_photo_degradation_follows_the_face_size() -> None:
    photo = data.astronaut()
    fine = [degrade_photo(photo, "vqfr", s, face_size=100)[1].chain.blur.sigma_x for s in range(40)]
    coarse = [degrade_photo(photo, "vqfr", s)[1].chain.blur.sigma_x for s in range(40)]
    np.testing.assert_allclose(np.array(fine) / np.array(coarse), 100 / 512, rtol=0.01)


def test_old_photo_is_toned_faded_and_marked() -> None:
    photo = data.astronaut()
    aged, drawn = degrade_photo(photo, "old-photo", seed=2)
    assert aged.mean((0, 1))[0] > aged.mean((0, 1))[1] > aged.mean((0, 1))[2]
    assert np.percentile(aged, 98) - np.percentile(aged, 2) < np.percentile(photo, 98) - np.percentile(photo, 2)
    unmarked = replace(drawn, ageing=replace(drawn.ageing, scratches=0, dust=0))
    changed = (np.abs(aged.astype(int) - apply(photo, unmarked)) > 15).any(2).mean()
    assert 0.0005 < changed < 0.2


def test_batch_equals_single_pictures() -> None:
    images = torch.rand(3, 3, 48, 40, generator=torch.Generator().manual_seed(0))
    low, records = degrade_batch(images, "gfpgan", 7)
    assert low.shape == images.shape
    assert low.dtype == torch.float32
    assert len(set(records)) == 3
    for i, drawn in enumerate(records):
        alone = apply(images[i].permute(1, 2, 0).contiguous().numpy(), drawn)
        np.testing.assert_array_equal(low[i].permute(1, 2, 0).numpy(), alone)
