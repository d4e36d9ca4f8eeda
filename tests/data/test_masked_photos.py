"""CelebA-HQ photos with label maps: pairs, splits, borrowed glasses, moved crops."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from facewright.data import masked_photos
from facewright.data.masked_photos import MaskedPhotos, MixedParsing, laid_over, moved_pair, whole_pair
from facewright.data.parsing import ANYTHING
from facewright.errors import FacewrightError, ImageReadError, UsageError
from facewright.geometry.templates import template_points
from facewright.systems.parse.taxonomy import CELEBAMASK_19

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 64
GLASSES, SKIN = CELEBAMASK_19.index("eye_g"), CELEBAMASK_19.index("skin")


@pytest.fixture
def celebahq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three photos for training, the last with glasses, and one for validation."""
    names = [f"images/{n}.jpg" for n in range(4)]
    (tmp_path / "celebahq/images").mkdir(parents=True)
    (tmp_path / "celebahq/masks").mkdir()
    for number in range(4):
        Image.fromarray(np.full((SIDE, SIDE, 3), 40 * number + 20, np.uint8)).save(
            tmp_path / "celebahq" / names[number]
        )
        labels = np.full((SIDE, SIDE), SKIN, np.uint8)
        if number == 2:
            labels[24:32, 16:48] = GLASSES
        Image.fromarray(labels).save(tmp_path / f"celebahq/masks/{number}.png")
    points = np.tile(template_points("ffhq", SIDE), (4, 1, 1)).astype(np.float32)
    found = SimpleNamespace(names=np.array(names), points5=points)
    monkeypatch.setattr(masked_photos, "FoundFaces", SimpleNamespace(load=lambda path: found))
    split = {"train": names[:3], "val": names[3:]}
    monkeypatch.setattr(masked_photos, "pictures_of", lambda name, side: split[side])
    return tmp_path


def test_photos_of_one_side_with_their_masks(celebahq: Path) -> None:
    photos = MaskedPhotos(celebahq, "found.npz", "train")
    assert [photos[i].name for i in range(len(photos))] == ["images/0.jpg", "images/1.jpg", "images/2.jpg"]
    assert (photos[2].labels == GLASSES).sum() == 8 * 32
    assert photos.pixel_counts()[2, GLASSES] == 8 * 32
    assert len(MaskedPhotos(celebahq, "found.npz", "val")) == 1


def test_broken_sets_are_refused(celebahq: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = MaskedPhotos(celebahq, "found.npz", "train")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(celebahq / "celebahq/masks/0.png")
    with pytest.raises(ImageReadError, match="not a pair"):
        photos[0]
    Image.fromarray(np.full((SIDE, SIDE), 19, np.uint8)).save(celebahq / "celebahq/masks/1.png")
    with pytest.raises(ImageReadError, match="above 18"):
        photos[1]
    monkeypatch.setattr(masked_photos, "pictures_of", lambda name, side: [])
    with pytest.raises(FacewrightError, match="train split"):
        MaskedPhotos(celebahq, "found.npz", "train")


def test_rare_classes_are_drawn_more_often_and_borrowed(celebahq: Path) -> None:
    options: dict[str, Any] = {"celebahq": str(celebahq), "found": "found.npz", "size": SIDE, "masks": 1.0}
    data = MixedParsing(**options, borrow=1.0)
    assert data.chances[2] == pytest.approx(5 / 7)
    assert data.donors["eye_g"].tolist() == [2]
    assert len(data.donors["hat"]) == 0
    items = [data[i] for i in range(40)]
    glasses = sum(bool((item["labels"] == GLASSES).any()) for item in items)
    plain = MixedParsing(**options, borrow=0.0)
    without = sum(bool((plain[i]["labels"] == GLASSES).any()) for i in range(40))
    assert glasses > without > 20
    assert all((item["allowed"] == ANYTHING).all() for item in items)
    assert all(np.array_equal(data[3][key], items[3][key]) for key in items[3])
    exact = MixedParsing("val", **options, augment=False)
    assert (exact[0]["labels"] == SKIN).all()
    with pytest.raises(UsageError, match="shares"):
        MixedParsing(**{**options, "masks": 1.2})


def test_only_the_class_is_laid_over() -> None:
    image, labels = np.full((16, 16, 3), 100, np.uint8), np.full((16, 16), SKIN, np.uint8)
    other, classes = np.full((16, 16, 3), 200, np.uint8), labels.copy()
    classes[4:8, 4:12] = GLASSES
    labels[:, 10:] = 255
    mixed, known = laid_over(image, labels, other, classes, "eye_g")
    assert (known[4:8, 4:10] == GLASSES).all()
    assert (known == GLASSES).sum() == 4 * 6  # nothing becomes known where nothing was
    assert mixed[6, 8, 0] > 190
    assert (mixed[12:] == 100).all()


def test_moved_pairs_stay_pairs_and_know_where_the_photo_ends() -> None:
    rng = np.random.default_rng(1)
    labels = np.full((64, 64), SKIN, np.uint8)
    labels[20:40, 20:40] = GLASSES
    image = np.where(labels[..., None] == GLASSES, 250, 10).astype(np.uint8).repeat(3, 2)
    moved, cut = moved_pair(image, labels, rng)
    inside = cut == GLASSES
    assert 200 < inside.sum() < 700
    assert moved[inside].mean() > 200
    assert moved[cut == SKIN].mean() < 40
    assert (cut == 255).any()
    small, kept = whole_pair(image, labels, 32)
    assert small.shape == (32, 32, 3)
    assert (kept == GLASSES).sum() == 100
