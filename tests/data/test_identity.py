"""Identity crops: degradation and labels of people with several photos."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from facewright.data import identity
from facewright.data.detection import five_points
from facewright.data.identity import MARGIN, SIZE, labels_of_several, padded_crop
from facewright.geometry.templates import template_points

if TYPE_CHECKING:
    from pathlib import Path


def test_labels_number_people_with_several_photos_without_gaps() -> None:
    crops: Any = SimpleNamespace(subjects=np.array([4, 0, 4, 2, 1, 2]))
    assert labels_of_several(crops).tolist() == [1, -1, 1, 0, -1, 0]


def test_crop_puts_the_eyes_on_the_template() -> None:
    points = template_points("arcface", SIZE) + 40
    landmarks = np.zeros((68, 2))
    landmarks[36:42], landmarks[42:48] = points[0], points[1]
    landmarks[30], landmarks[48], landmarks[54] = points[2], points[3], points[4]
    photo = np.zeros((200, 200, 3), np.uint8)
    centre = np.rint(five_points(landmarks)[0]).astype(int)
    photo[centre[1] - 1 : centre[1] + 2, centre[0] - 1 : centre[0] + 2] = 255
    crop = padded_crop(photo, landmarks)
    assert crop.shape == (SIZE + 2 * MARGIN, SIZE + 2 * MARGIN, 3)
    y, x = np.unravel_index(crop[..., 0].argmax(), crop.shape[:2])
    assert np.hypot(*(np.array([x, y]) - template_points("arcface", SIZE)[0] - MARGIN)) < 2


def test_crops_are_cut_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "data_cache", lambda: tmp_path)

    class Collection:
        rows = np.array([4, 7])

        def __len__(self) -> int:
            return 2

        def read(self, row: int) -> np.ndarray:
            return np.full((9, 9, 3), row, np.uint8)

    cuts: list[int] = []

    def cut(image: np.ndarray, row: int) -> np.ndarray:
        cuts.append(row)
        return image[:5, :5]

    collection: Any = Collection()
    first, again = (identity.cached_crops("few", collection, 5, cut) for _ in range(2))
    assert cuts == [4, 7]
    assert first.shape == (2, 5, 5, 3)
    assert first[:, 0, 0, 0].tolist() == [4, 7]
    assert np.array_equal(first, again)
    assert [file.name for file in tmp_path.iterdir()] == ["few.npy"]
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0


def test_people_are_numbered_by_name() -> None:
    collection: Any = SimpleNamespace(labels={"subject": np.array(["Bo", "Al", "Cy", "Bo"])}, rows=np.array([0, 1, 3]))
    assert identity.people_numbers(collection).tolist() == [1, 0, 1]


@pytest.mark.parametrize("seed", range(6))
def test_degrading_is_seeded_and_loses_detail(seed: int, astronaut: np.ndarray) -> None:
    crop = np.ascontiguousarray(astronaut[60:172, 170:282])
    first = identity.degrade(crop, np.random.default_rng(seed))
    assert first.shape == crop.shape
    assert np.array_equal(first, identity.degrade(crop, np.random.default_rng(seed)))
    assert not np.array_equal(first, crop)


@pytest.fixture
def album(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Crops of six people with three, two, one, four, two and three photos."""
    subjects = np.repeat(np.arange(6), (3, 2, 1, 4, 2, 3))
    images = np.random.default_rng(0).integers(0, 256, (len(subjects), 128, 128, 3), dtype=np.uint8)
    monkeypatch.setattr(
        identity, "open_identities", lambda name, split, root: SimpleNamespace(images=images, subjects=subjects)
    )
    return images


def test_batches_are_people_with_several_pictures_each(album: np.ndarray) -> None:
    data = identity.PeopleCrops(people=3, pictures=2, augment=False)
    batch = [data[i] for i in range(12)]
    labels = np.array([int(item["label"]) for item in batch]).reshape(2, 3, 2)
    assert (labels[..., 0] == labels[..., 1]).all()
    assert set(labels.ravel().tolist()) == {0, 1, 2, 3, 4}  # who has one photo is not among them
    whose = {0: (0, 1, 2), 1: (3, 4), 2: (6, 7, 8, 9), 3: (10, 11), 4: (12, 13, 14)}
    for item in batch:
        seen = [i for i in range(len(album)) if np.array_equal(album[i, MARGIN:-MARGIN, MARGIN:-MARGIN], item["image"])]
        assert seen[0] in whose[int(item["label"])]


def test_items_of_people_are_functions_of_seed_and_index(album: np.ndarray) -> None:
    data, again = (identity.PeopleCrops(people=2, pictures=2, degraded=0.5, size=32, seed=3) for _ in range(2))
    forward = [data[i] for i in range(8)]
    backward = [again[i] for i in reversed(range(8))][::-1]
    assert all(np.array_equal(a["image"], b["image"]) and a["label"] == b["label"] for a, b in zip(forward, backward))
    assert forward[0]["image"].shape == (32, 32, 3)
    other = identity.PeopleCrops(people=2, pictures=2, degraded=0.5, size=32, seed=4)
    assert any(not np.array_equal(a["image"], other[i]["image"]) for i, a in enumerate(forward))
