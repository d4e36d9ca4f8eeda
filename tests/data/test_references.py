"""Damaged faces with references: who is chosen, and what an item holds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from facewright.data import references
from facewright.data.references import PHOTOS, TARGETS, ReferencePairs, SeenFaces
from facewright.errors import UsageError

SUBJECTS = ["a"] * 7 + ["b"] * 2 + ["c"] + ["d"] * 3


class Crops:
    """Photos whose every pixel is their number; the left half is not part of them."""

    rows = np.arange(len(SUBJECTS))
    collection = SimpleNamespace(labels={"subject": np.array(SUBJECTS)})

    def crop(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        mask = np.ones((256, 256), bool)
        mask[:, :128] = False
        return np.full((256, 256, 3), index, np.uint8), mask


@pytest.fixture
def seen() -> SeenFaces:
    crops: Any = Crops()
    entries, people, target = references._chosen(crops)
    count = int(target.max()) + 1
    arrays: dict[str, Any] = {
        "damaged": np.zeros((count, 256, 256, 3), np.uint8),
        "restored": np.repeat(np.arange(count, dtype=np.uint8), 256 * 256 * 3).reshape(count, 256, 256, 3),
        "coarse": np.zeros((count, 8, 16, 16), np.float16),
        "fine": np.zeros((count, 4, 32, 32), np.float16),
        "taps_coarse": np.zeros((len(entries), 8, 16, 16), np.float16) + entries[:, None, None, None],
        "taps_fine": np.zeros((len(entries), 4, 32, 32), np.float16),
        "identity": np.zeros((len(entries), 6), np.float32),
    }
    return SeenFaces(crops, entries, people, target, arrays)


@pytest.fixture
def pairs(seen: SeenFaces, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(references, "open_seen", lambda split, root=None: seen)
    return lambda **options: ReferencePairs("train", 1, **options)


def test_only_people_with_two_photos_and_not_too_many_of_each(seen: SeenFaces) -> None:
    names = np.array(SUBJECTS)[seen.entries]
    assert set(names) == {"a", "b", "d"}
    assert (names == "a").sum() == PHOTOS
    for person in np.unique(seen.people):
        assert len(set(names[seen.people == person])) == 1
        assert (seen.target[seen.people == person] >= 0).sum() == TARGETS
    assert sorted(seen.target[seen.target >= 0]) == list(range(3 * TARGETS))


def test_references_are_other_photos_of_the_same_person(pairs: Any, seen: SeenFaces) -> None:
    data = pairs()
    counts = set()
    for index in range(40):
        item = data[index]
        photo = int(item["hq"][0, 0, 0])
        shown = item["ref_coarse"][item["present"]][:, 0, 0, 0].int().tolist()
        counts.add(len(shown))
        assert len(set(shown)) == len(shown) >= 1
        assert photo not in shown
        assert {SUBJECTS[i] for i in shown} == {SUBJECTS[photo]}
        assert not item["ref_coarse"][~item["present"]].any()
    assert counts == {1, 2, 3, 4}


def test_a_stranger_is_somebody_else(pairs: Any) -> None:
    data = pairs(stranger=True)
    for index in range(20):
        item = data[index]
        shown = item["ref_coarse"][item["present"]][:, 0, 0, 0].int().tolist()
        assert {SUBJECTS[i] for i in shown}.isdisjoint({SUBJECTS[int(item["hq"][0, 0, 0])]})


def test_every_round_shows_every_target_once_and_items_depend_on_their_number_alone(pairs: Any) -> None:
    data, again = pairs(), pairs()
    count = 3 * TARGETS
    rounds = [[int(data[i]["restored"][0, 0, 0]) for i in range(start, start + count)] for start in (0, count)]
    assert sorted(rounds[0]) == sorted(rounds[1]) == list(range(count))
    assert all((data[5][k] == again[5][k]).all() for k in data[5])


def test_all_of_them_where_most_is_set(pairs: Any) -> None:
    data = pairs(most=True)
    for index in range(3 * TARGETS):
        item = data[index]
        own = SUBJECTS.count(SUBJECTS[int(item["hq"][0, 0, 0])])
        assert int(item["present"].sum()) == min(own, PHOTOS) - 1


def test_a_number_of_references_that_cannot_be_is_refused(pairs: Any) -> None:
    with pytest.raises(UsageError, match="references can be drawn"):
        pairs(references=PHOTOS)
