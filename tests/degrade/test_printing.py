"""Grain, printing screens and sharpening: numbers of each, and that records remember them."""

from __future__ import annotations

import numpy as np
import pytest

from facewright.degrade import PRESETS, Chain, Degradation, Grain, Halftone, Sharpening, apply, sample
from facewright.degrade.printing import add_grain, screen, sharpen

ORDER = ("blur", "down", "noise", "jpeg", "up")


def flat(level: float, side: int = 96) -> np.ndarray:
    return np.full((side, side, 3), level, np.float32)


def test_grain_is_grey_strongest_in_the_middle_and_clumped() -> None:
    grain = Grain(sigma=10, size=1.0, seed=3)
    middle, dark = add_grain(flat(0.5), grain) - 0.5, add_grain(flat(0.06), grain) - 0.06
    assert np.array_equal(middle[..., 0], middle[..., 2])
    assert 255 * middle.std() == pytest.approx(10, rel=0.02)
    assert 255 * dark.std() == pytest.approx(10 * (0.5 + 2 * 0.06 * 0.94), rel=0.02)
    neighbours = float(np.corrcoef(middle[:, :-1, 0].ravel(), middle[:, 1:, 0].ravel())[0, 1])
    assert neighbours == pytest.approx(np.exp(-1 / 4), abs=0.06)  # of a Gaussian of σ 1: exp(−d²/4σ²)
    assert np.array_equal(add_grain(flat(0.5), grain), add_grain(flat(0.5), grain))


@pytest.mark.parametrize("level", [0.3, 0.5, 0.7])
def test_dots_have_their_pitch_and_keep_the_tone(level: float) -> None:
    dots = screen(flat(level), Halftone(pitch=8, angle=0.0, ink=1.0, grey=True))[..., 0]
    assert dots.mean() == pytest.approx(level, abs=0.07)  # a little harder than the picture
    assert dots.max() - dots.min() > 0.9
    assert np.allclose(dots[:, 8:], dots[:, :-8], atol=1e-4)
    assert np.allclose(dots[8:], dots[:-8], atol=1e-4)
    assert not np.allclose(dots[:, 3:], dots[:, :-3], atol=0.2)


def test_ink_blends_and_a_tinted_print_stays_tinted() -> None:
    tinted = flat(0.5) + np.array([0.1, 0.0, -0.1], np.float32)
    half = screen(tinted, Halftone(6, 0.4, 0.5, grey=True))
    full = screen(tinted, Halftone(6, 0.4, 1.0, grey=True))
    assert np.allclose(half, (tinted + full) / 2, atol=1e-6)
    assert full[..., 0].mean() > full[..., 2].mean() + 0.1
    assert np.array_equal(screen(tinted, Halftone(6, 0.4, 0.0)), tinted)


def test_sharpening_overshoots_at_edges_alone() -> None:
    image = flat(0.3)
    image[:, 48:] = 0.6
    sharp = sharpen(image, Sharpening(1.0, 1.0))
    assert sharp[:, 48].mean() > 0.65
    assert sharp[:, 47].mean() < 0.25
    assert np.allclose(sharp[:, :40], 0.3, atol=1e-3)


def test_records_remember_and_old_ones_still_load() -> None:
    chain = Chain(ORDER, grain=Grain(5, 0.8, 1), halftone=Halftone(4, 0.2, 0.4), sharpening=Sharpening(1, 1))
    record = Degradation("soft", (64, 64), chain)
    assert Degradation.from_json(record.to_json()) == record
    old = record.to_dict()
    for key in ("grain", "halftone", "sharpening"):
        del old["chain"][key]
    assert Degradation.from_dict(old).chain == Chain(ORDER)


def test_print_comes_before_shrinking_and_sharpening_after_noise() -> None:
    image = np.repeat(np.random.default_rng(0).integers(0, 256, (64, 64, 1), dtype=np.uint8), 3, 2)
    plain = Degradation("x", (64, 64), Chain(ORDER, factor=8, interpolation="area"))
    printed = Degradation("x", (64, 64), Chain(ORDER, factor=8, interpolation="area", halftone=Halftone(2, 0, 1.0)))
    sharpened = Degradation(
        "x", (64, 64), Chain(ORDER, factor=8, interpolation="area", sharpening=Sharpening(2.0, 1.0))
    )
    base = apply(image, plain).astype(float)
    assert apply(image, printed).astype(float).std() < 3 * base.std()  # dots finer than the small picture are gone
    assert apply(image, sharpened).astype(float).std() > 1.5 * base.std()


def test_soft_preset_draws_every_damage_and_portraits_their_size() -> None:
    drawn = [sample("soft", seed, 512).chain for seed in range(200)]
    shares = {key: sum(bool(getattr(c, key)) for c in drawn) / 200 for key in ("grain", "halftone", "sharpening")}
    for key, wanted in {"grain": 0.25, "halftone": 0.08, "sharpening": 0.25}.items():
        assert abs(shares[key] - wanted) < 0.1, key
    assert 12 < max(c.factor for c in drawn) <= 16
    assert {c.enlarging for c in drawn} >= {"linear", "cubic", "lanczos"}
    for name, factor in (("half", 2), ("quarter", 4), ("eighth", 8)):
        assert {sample(name, seed, 512).chain.factor for seed in range(5)} == {factor}


def test_lengths_follow_the_size_of_the_crop() -> None:
    rules = PRESETS["soft"]
    pitches = [c.halftone.pitch for c in (sample("soft", s, 1024, scaled=True).chain for s in range(300)) if c.halftone]
    assert max(pitches) > rules.screen_pitch[1]
    assert max(pitches) <= 2 * rules.screen_pitch[1]
