"""What the reproductions of SUR-LID, FakeLocator and MADation measure and make."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
if not (ROOT / "reproductions" / "surlid").is_dir():
    pytest.skip("reproductions are not part of this installation", allow_module_level=True)


def module(name: str) -> Any:
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module(f"reproductions.{name}")
    finally:
        sys.path.remove(str(ROOT))


def test_forgetting_is_the_fall_from_the_best() -> None:
    table = [[0.9], [0.7, 0.8], [0.8, 0.9, 1.0]]
    assert module("surlid.run").forgetting(table) == pytest.approx((0.1 + 0.0) / 2)


def test_discrepancy_grows_with_distance() -> None:
    rng = np.random.default_rng(0)
    everything = rng.normal(size=(200, 8))
    measure = module("surlid.run").discrepancy
    assert measure(everything, everything) == pytest.approx(0, abs=1e-12)
    near, far = everything[:50], np.abs(everything[:50])
    assert 0 < measure(near, everything) < measure(far, everything)


@pytest.mark.parametrize("maker", range(5))
def test_every_maker_of_the_stream_changes_the_picture(maker: int) -> None:
    run, forged = module("surlid.run"), module("common.forged")
    faces = forged.Portraits(*portraits())
    made = run.forged(faces, 0, maker, np.random.default_rng(0))
    assert made.shape == faces.crops[0].shape
    assert np.abs(made.astype(int) - faces.crops[0]).mean() > 0.5
    again = run.forged(faces, 0, maker, np.random.default_rng(0))
    assert np.array_equal(made, again)


def test_parts_share_nobody_and_partners_are_others() -> None:
    faces = module("common.forged").Portraits(*portraits(7))
    parts = [faces.part(k, 3) for k in range(3)]
    names = [str(name) for part in parts for name in part.names]
    assert sorted(names) == sorted(map(str, faces.names))
    assert len(set(names)) == 7
    assert {faces.partner(2, np.random.default_rng(seed)) for seed in range(20)} <= {0, 1, 3, 4, 5, 6}


def portraits(count: int = 3) -> tuple[np.ndarray, ...]:
    """Noise with landmarks of a face in 64 px."""
    rng = np.random.default_rng(1)
    crops = rng.integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    angle = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    points = np.stack([32 + 14 * np.cos(angle), 32 + 14 * np.sin(angle)], 1)
    points += rng.normal(0, 0.3, points.shape)
    embeddings = np.eye(count, 8, dtype=np.float32)
    return (
        crops,
        np.repeat(points[None], count, 0).astype(np.float32),
        embeddings,
        np.array([f"p{k}" for k in range(count)]),
    )


def test_best_f1_by_hand() -> None:
    maps = np.array([[0.9, 0.8, 0.7, 0.1]])
    truth = np.array([[True, False, True, False]])
    assert module("fakelocator.run").best_f1(maps, truth) == pytest.approx(0.8)  # three said, two of two found


def test_a_perfect_map_is_perfectly_located() -> None:
    truth = np.random.default_rng(0).random((2, 32, 32)) * (np.arange(32) < 9)
    found = module("fakelocator.run").located(truth, truth)
    assert found["coss"] == pytest.approx(1)
    assert found["ssim"] == pytest.approx(1)
    assert found["f1"] == found["iou"] == 1
    other = module("fakelocator.run").located(truth[:, :, ::-1], truth)
    assert other["coss"] < 0.1
    assert other["f1"] < 0.6


def test_hidden_parts_are_grey() -> None:
    hidden = module("madation.run").hidden
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    hull = np.zeros((1, 8, 8), np.uint8)
    hull[:, 2:5, 2:5] = 1
    inside, outside = hidden(image, hull, True), hidden(image, hull, False)
    assert np.array_equal(inside[:, 2:5, 2:5], image[:, 2:5, 2:5])
    assert (inside[:, 5:] == 118).all()
    assert (outside[:, 2:5, 2:5] == 118).all()
    assert np.array_equal(outside[:, 5:], image[:, 5:])


def test_separated_scores_have_no_errors() -> None:
    judge = module("madation.run").judged
    apart = judge(np.linspace(0.1, 0.4, 10), np.linspace(0.6, 0.9, 10))
    assert (apart["auc"], apart["eer"]) == (1, 0)
    assert (apart["bpcer"], apart["at"]) == (pytest.approx(0), pytest.approx(0.1))
    mixed = judge(np.linspace(0, 1, 10), np.linspace(0, 1, 10))
    assert (mixed["auc"], mixed["eer"]) == (pytest.approx(0.5), pytest.approx(0.5))


def test_a_gain_over_people_has_an_interval_around_it() -> None:
    run = module("madation.run")
    rng = np.random.default_rng(0)
    arms = {
        name: [{"scores": {"": rng.normal(size=80).tolist(), "tool": (rng.normal(size=80) + shift).tolist()}}]
        for name, shift in (("good", 3.0), ("bad", 0.0))
    }
    mean, low, high = run.gain(arms, "good", "bad", ("tool",), draws=40)
    assert 0.25 < low < mean < high < 0.6
    assert run.gain(arms, "bad", "bad", ("tool",), draws=5) == (0, 0, 0)
