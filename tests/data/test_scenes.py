"""Pairs of scenes: the same for a seed, parts of the asked size, truth and damage that belong together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facewright.data import scenes
from facewright.data.scenes import ScenePairs
from facewright.errors import UsageError


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    made = [rng.integers(0, 256, (90, 120, 3), np.uint8), rng.integers(0, 256, (40, 300, 3), np.uint8)]
    monkeypatch.setattr(scenes, "load_backgrounds", lambda split, root: made)


@pytest.mark.usefixtures("pictures")
def test_an_item_is_that_of_the_face_pairs_and_depends_on_seed_and_index_alone() -> None:
    data = ScenePairs(side=64, presets={"half": 1.0})
    item = data[5]
    assert item["lq"].shape == item["hq"].shape == (64, 64, 3)
    assert item["mask"].all()
    assert item["damage"].shape == (5,)
    assert item["place"].tolist() == [0, 0]
    again = ScenePairs(side=64, presets={"half": 1.0})[5]
    assert all(torch.equal(item[key], again[key]) for key in item)
    assert not torch.equal(item["hq"], ScenePairs(side=64, seed=1, presets={"half": 1.0})[5]["hq"])


@pytest.mark.usefixtures("pictures")
def test_pictures_smaller_than_a_part_are_left_out() -> None:
    assert len(ScenePairs(side=64).pictures) == 1
    with pytest.raises(UsageError, match="smaller side"):
        ScenePairs(side=128)


@pytest.mark.usefixtures("pictures")
def test_clean_pictures_are_their_own_truth_and_the_middle_is_taken_for_validation() -> None:
    data = ScenePairs(side=64, presets={"clean": 1.0}, vary=False)
    item = data[0]
    np.testing.assert_array_equal(item["lq"], item["hq"])
    np.testing.assert_array_equal(item["hq"].numpy(), data.pictures[0][13:77, 28:92])
