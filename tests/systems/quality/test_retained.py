"""What damage leaves of a face and what restoring makes of it: known values, never better for more damage."""

from __future__ import annotations

import re
from dataclasses import astuple, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from facewright.face import DegradationEstimate, FaceQuality
from facewright.pipelines.restore import GOOD_SSIM
from facewright.systems.quality.retained import (
    RetainedModel,
    RetainedModels,
    retained_after,
    retained_fraction,
    signals,
)

CLEAN = DegradationEstimate(blur_sigma=0.0, downscale=1.0, noise_sigma=0.0, jpeg_quality=100.0, psnr=45.0, ssim=0.98)
SEVERE = DegradationEstimate(2.0, 5.3, 9.9, 75.0, 25.0, 0.75)
RUINED = DegradationEstimate(6.0, 9.0, 8.0, 68.0, 21.0, 0.67)


def test_signals_are_zero_without_damage_and_have_known_values() -> None:
    assert signals(0.0, 1.0, 100.0, 1.0).tolist() == [1.0, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(signals(np.e - 1, 4.0, 50.0, 0.7), [0.7, -1.0, -2.0, -1.0])
    assert signals(np.zeros((2, 3)), np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 3))).shape == (2, 3, 4)


def test_the_model_is_a_logistic_of_a_weighted_sum() -> None:
    model = RetainedModel(bias=-1.0, ssim=2.0, blur=1.0, downscale=0.5, compression=3.0)
    assert model([1.0, 0.0, 0.0, 0.0]) == pytest.approx(1 / (1 + np.exp(-1)))
    assert model([0.5, -1.0, -2.0, -1.0]) == pytest.approx(1 / (1 + np.exp(5)))


def test_a_restored_face_has_what_its_input_leaves_but_never_more_than_its_output_shows() -> None:
    models = RetainedModels(
        damaged=RetainedModel(bias=-3.0, ssim=4.0, blur=1.0, downscale=1.0, compression=1.0),
        restored=RetainedModel(bias=-2.0, ssim=3.0, blur=0.0, downscale=0.5, compression=0.0),
    )
    fine, poor = [1.0, 0.0, 0.0, 0.0], [0.5, -1.0, -1.0, -1.0]
    from_input, from_output = 1 / (1 + np.exp(1)), 1 / (1 + np.exp(4))
    found = models.after([poor, fine, fine], [fine, poor, fine])
    np.testing.assert_allclose(found, [from_input, from_output, 1 / (1 + np.exp(-1))])


def test_json_gives_the_models_back() -> None:
    models = RetainedModels(RetainedModel(-3.8, 7.4, 0.12, 0.19, 2.64), RetainedModel(-1.3, 4.9, 0.16, 0.3, 2.5))
    assert RetainedModels.from_json(models.to_json()) == models


def shipped() -> RetainedModels:
    text = files("facewright.systems.quality").joinpath("retained.json").read_text(encoding="utf-8")
    return RetainedModels.from_json(text)


def test_no_shipped_weight_counts_the_wrong_way() -> None:
    for model in (shipped().damaged, shipped().restored):
        weights = astuple(model)[1:]
        assert min(weights) >= 0
        assert max(weights) > 1


def test_the_numbers_in_the_code_are_those_of_the_results_page() -> None:
    page = (Path(__file__).parents[3] / "docs" / "results" / "quality.md").read_text(encoding="utf-8")
    assert f"**{GOOD_SSIM:.2f}**" in page
    pattern = ", ".join(rf"{name} (-?\d+\.?\d*)" for name in RetainedModel.__slots__)
    printed = {RetainedModel(*map(float, numbers)) for numbers in re.findall(pattern, page)}
    assert shipped().damaged in printed
    assert printed <= {shipped().damaged, shipped().restored}


@pytest.mark.parametrize(
    "worse",
    [{"blur_sigma": 6.0}, {"downscale": 8.0}, {"jpeg_quality": 40.0}, {"ssim": 0.7}],
    ids=lambda w: next(iter(w)),
)
def test_more_damage_leaves_less_before_and_after_restoring(worse: dict[str, float]) -> None:
    damaged = replace(CLEAN, **worse)
    assert retained_fraction(damaged) < retained_fraction(CLEAN)
    assert retained_after(damaged, CLEAN) < retained_after(CLEAN, CLEAN)
    assert retained_after(damaged, damaged) <= retained_after(damaged, CLEAN)


def test_a_clean_face_is_nearly_whole_and_a_ruined_one_is_not() -> None:
    assert retained_fraction(CLEAN) > 0.9
    assert retained_fraction(RUINED) < 0.35


def test_a_spotless_output_does_not_bring_back_what_the_input_had_lost() -> None:
    assert retained_after(RUINED, CLEAN) < 0.45
    assert retained_after(SEVERE, CLEAN) < 0.75
    assert retained_after(CLEAN, CLEAN) > 0.9


def test_restoring_adds_something_to_a_damaged_face_but_less_than_it_seems() -> None:
    assert retained_fraction(SEVERE) + 0.01 < retained_after(SEVERE, CLEAN) < retained_fraction(SEVERE) + 0.15
    assert retained_after(RUINED, CLEAN) == pytest.approx(
        retained_fraction(RUINED), abs=0.05
    )  # hardly anything to build on


def test_a_restorer_that_spoils_a_face_is_not_credited_with_the_input() -> None:
    assert retained_after(CLEAN, RUINED) == retained_fraction(RUINED)


def test_people_read_what_is_left_and_else_the_percentile() -> None:
    assert FaceQuality(0.4, 82.0, retained_fraction=0.53).number == pytest.approx(53)
    assert FaceQuality(0.4, 82.0).number == 82.0
