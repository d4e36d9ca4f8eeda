"""Two stages: the first sees what is damaged at its size, the second everything."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from facewright.face import DegradationEstimate
from facewright.geometry.crop import CropSpec
from facewright.pipelines.two_stage import StageModel, TwoStageRestorer, shipped_model, stage_signals
from facewright.tasks.card import Preprocess
from facewright.tasks.quality import DegradationEstimator
from facewright.tasks.restore import Restorer


class Structure:
    """Sees damage in dark crops and makes them lighter by 40."""

    slug = "first"
    preprocess = Preprocess(CropSpec.aligned(64))

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def assess(self, crops: np.ndarray) -> list[DegradationEstimate]:
        return [DegradationEstimate(0, 1, 0, 100, 30, 0.5 if crop.mean() < 100 else 0.95) for crop in crops]

    def restore(self, crops: np.ndarray, *, fidelity: float = 1.0, seed: int | None = None) -> np.ndarray:
        self.seen.append((crops.shape, fidelity, seed))
        return crops + 40


class Detail:
    """Adds 1, and the more the less fidelity is wanted."""

    slug, weights_sha256 = "second", "abc"
    preprocess = Preprocess(CropSpec.aligned(128))

    def restore(self, crops: np.ndarray, *, fidelity: float = 1.0, seed: int | None = None) -> np.ndarray:
        assert seed is None
        return crops + 1 + round(100 * (1 - fidelity))


@pytest.fixture
def stages() -> SimpleNamespace:
    first = Structure()
    below = StageModel(0.9, 0, 0, 0, 0, 0, -1)  # an SSIM below 0.9
    return SimpleNamespace(first=first, both=TwoStageRestorer(first, Detail(), below))


def test_only_damaged_crops_go_through_the_first_stage(stages: SimpleNamespace) -> None:
    crops = np.stack([np.full((128, 128, 3), level, np.uint8) for level in (60, 180)])
    before = crops.copy()
    out = stages.both.restore(crops, fidelity=0.7)
    assert stages.first.seen == [((1, 64, 64, 3), 0.7, None)]
    assert (out[0] == 131).all()
    assert (out[1] == 211).all()
    assert np.array_equal(crops, before)


def test_every_crop_gets_its_own_change(stages: SimpleNamespace) -> None:
    crops = np.stack([np.full((128, 128, 3), level, np.uint8) for level in (180, 60, 200, 40)])
    assert stages.both.restore(crops)[:, 0, 0, 0].tolist() == [181, 101, 201, 81]


def test_the_shipped_model_sends_what_is_damaged_at_its_size_to_the_first_stage() -> None:
    """By medians of what the embedded network says of validation faces."""
    noisy, tiny = (
        DegradationEstimate(2.69, 1.98, 13.7, 82, 27, 0.71),
        DegradationEstimate(0.13, 3.81, 1.2, 82, 30, 0.89),
    )
    half, quarter = DegradationEstimate(0, 1, 0.14, 45, 34.8, 0.94), DegradationEstimate(0, 1.02, 0.2, 57, 36.9, 0.96)
    odds = [float(shipped_model()(stage_signals(e))) for e in (noisy, tiny, half, quarter)]
    assert min(odds[:2]) > 0 > max(odds[2:])


def test_what_shows_no_damage_skips_the_first_stage() -> None:
    always = StageModel(1, 0, 0, 0, 0, 0, 0)
    first = Structure()
    first.assess = lambda crops: [DegradationEstimate(0, 1, 0, 100, 40, 0.97)] * len(crops)  # type: ignore[method-assign]
    TwoStageRestorer(first, Detail(), always).restore(np.full((1, 128, 128, 3), 60, np.uint8))
    assert first.seen == []
    TwoStageRestorer(first, Detail(), always, undamaged=1).restore(np.full((1, 128, 128, 3), 60, np.uint8))
    assert len(first.seen) == 1


def test_a_seed_reaches_every_crop(stages: SimpleNamespace) -> None:
    stages.both.restore(np.full((2, 128, 128, 3), 180, np.uint8), seed=5)
    assert stages.first.seen == [((2, 64, 64, 3), 1.0, 5)]


def test_both_names_and_the_protocols(stages: SimpleNamespace) -> None:
    both = stages.both
    assert (both.slug, both.weights_sha256, both.preprocess.size) == ("first+second", "abc", 128)
    assert isinstance(both, Restorer)
    assert isinstance(both, DegradationEstimator)


def test_a_batch_equals_single_crops(stages: SimpleNamespace) -> None:
    crops = np.random.default_rng(0).integers(0, 200, (4, 128, 128, 3), dtype=np.uint8)
    single = np.concatenate([stages.both.restore(crop[None]) for crop in crops])
    np.testing.assert_array_equal(stages.both.restore(crops), single)


def test_detail_finer_than_the_first_stage_stays_where_it_changes_little() -> None:
    class Gentle(Structure):
        def restore(self, crops: np.ndarray, *, fidelity: float = 1.0, seed: int | None = None) -> np.ndarray:
            return crops

    fine = np.indices((128, 128)).sum(0) % 2 * 40 + 40
    crop = np.repeat(fine[..., None], 3, 2).astype(np.uint8)[None]
    out = TwoStageRestorer(Gentle(), Detail()).restore(crop).astype(int) - 1
    assert np.abs(out - crop).max() <= 1


def test_what_is_finer_than_a_large_change_is_smoothed_away(stages: SimpleNamespace) -> None:
    """Noise that the first stage takes out at its size is noise at the finer one, too."""
    noise = np.random.default_rng(0).integers(-30, 31, (128, 128, 1)).repeat(3, 2)
    crop = (70 + noise).astype(np.uint8)
    out = stages.both.restore(crop[None])[0].astype(int) - 1
    small = stages.both._small(crop[None])[0]
    expected = cv2.resize(small + 40, (128, 128), interpolation=cv2.INTER_CUBIC)
    assert np.abs(out - expected).max() <= 1
