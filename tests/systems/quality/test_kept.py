"""What damage leaves of a face: known values, never better for more damage, sound shipped weights."""

from __future__ import annotations

import json
from dataclasses import astuple, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from facewright.pipelines.restore import GOOD_SSIM
from facewright.systems.quality.kept import KeptModel, kept, signals
from facewright.systems.quality.reasons import FaceQuality
from facewright.systems.restore.frgp import DegradationEstimate

CLEAN = DegradationEstimate(blur_sigma=0.0, downscale=1.0, noise_sigma=0.0, jpeg_quality=100.0, psnr=45.0, ssim=0.98)


def test_signals_are_zero_without_damage_and_have_known_values() -> None:
    assert signals(0.0, 1.0, 100.0, 1.0).tolist() == [1.0, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(signals(np.e - 1, 4.0, 50.0, 0.7), [0.7, -1.0, -2.0, -1.0])
    assert signals(np.zeros((2, 3)), np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 3))).shape == (2, 3, 4)


def test_the_model_is_a_logistic_of_a_weighted_sum() -> None:
    model = KeptModel(bias=-1.0, ssim=2.0, blur=1.0, downscale=0.5, compression=3.0)
    assert model([1.0, 0.0, 0.0, 0.0]) == pytest.approx(1 / (1 + np.exp(-1)))
    assert model([0.5, -1.0, -2.0, -1.0]) == pytest.approx(1 / (1 + np.exp(5)))


def test_json_gives_the_model_back() -> None:
    model = KeptModel(-3.8, 7.4, 0.12, 0.19, 2.64)
    assert KeptModel(**json.loads(model.to_json())) == model


def test_no_shipped_weight_counts_the_wrong_way() -> None:
    text = files("facewright.systems.quality").joinpath("kept.json").read_text(encoding="utf-8")
    weights = astuple(KeptModel(**json.loads(text)))[1:]
    assert min(weights) >= 0
    assert max(weights) > 1


def test_the_numbers_in_the_code_are_those_of_the_results_page() -> None:
    page = (Path(__file__).parents[3] / "docs" / "results" / "quality.md").read_text(encoding="utf-8")
    text = files("facewright.systems.quality").joinpath("kept.json").read_text(encoding="utf-8")
    assert f"**{GOOD_SSIM:.2f}**" in page
    assert all(f"{name} {value:g}" in page for name, value in json.loads(text).items())


@pytest.mark.parametrize(
    "worse",
    [{"blur_sigma": 6.0}, {"downscale": 8.0}, {"jpeg_quality": 40.0}, {"ssim": 0.7}],
    ids=lambda w: next(iter(w)),
)
def test_more_damage_never_leaves_more(worse: dict[str, float]) -> None:
    assert kept(replace(CLEAN, **worse)) <= kept(CLEAN)


def test_a_clean_face_is_nearly_whole_and_a_ruined_one_is_not() -> None:
    ruined = DegradationEstimate(6.0, 9.0, 8.0, 68.0, 21.0, 0.67)
    assert kept(CLEAN) > 0.9
    assert kept(ruined) < 0.35


def test_people_read_what_is_left_and_else_the_percentile() -> None:
    assert FaceQuality(0.4, 82.0, kept=0.53).number == pytest.approx(53)
    assert FaceQuality(0.4, 82.0).number == 82.0
