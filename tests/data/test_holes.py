"""Holes lie where their names say, are the same for the same seed, and come with faces that vary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from facewright.data.holes import HOLES, HoledFaces, draw_hole
from facewright.errors import UsageError
from facewright.geometry.templates import template_points

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 128


def drawn(kind: str, count: int = 30) -> np.ndarray:
    return np.stack([draw_hole(kind, np.random.default_rng(seed), SIDE) for seed in range(count)])


@pytest.mark.parametrize("kind", HOLES)
def test_holes_are_holes(kind: str) -> None:
    holes = drawn(kind)
    assert holes.shape == (30, SIDE, SIDE)
    assert holes.dtype == bool
    shares = holes.mean((1, 2))
    assert (shares > 0).all()
    assert np.median(shares) < 0.4
    assert len({hole.tobytes() for hole in holes}) > 25
    assert np.array_equal(holes, drawn(kind))


@pytest.mark.parametrize(("kind", "points"), [("eyes", (0, 1)), ("nose", (2,)), ("mouth", (3, 4)), ("glasses", (0, 1))])
def test_features_are_covered(kind: str, points: tuple[int, ...]) -> None:
    holes = drawn(kind)
    places = template_points("ffhq", SIDE)
    for point in places[list(points)].round().astype(int):
        assert holes[:, point[1], point[0]].mean() > (0.6 if kind == "glasses" else 0.75)
    others = [place for number, place in enumerate(places) if number not in points and kind != "glasses"]
    for point in np.round(others).astype(int).reshape(-1, 2):
        assert holes[:, point[1], point[0]].mean() < 0.75


def test_an_eye_is_one_and_a_half_is_one_side() -> None:
    left, right = template_points("ffhq", SIDE)[:2].round().astype(int)
    for kind in ("eye", "half"):
        holes = drawn(kind)
        seen = holes[:, left[1], left[0]].astype(int) + holes[:, right[1], right[0]]
        assert (seen == 1).mean() > 0.9


def test_unknown_holes_are_refused() -> None:
    with pytest.raises(UsageError, match="no hole 'pocket'; there are eye"):
        draw_hole("pocket", np.random.default_rng(0), SIDE)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Two faces, one of them with nothing real in its right half."""
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(2):
        noise = cv2.GaussianBlur(rng.integers(0, 256, (512, 512, 3)).astype(np.float32), (0, 0), 9)
        picture = np.clip(128 + 12 * (noise - noise.mean()), 0, 255).astype(np.uint8)
        encoded.append(cv2.imencode(".webp", picture)[1].tobytes())
    real = np.ones((2, 64, 64), np.uint8)
    real[1, :, 32:] = 0
    arrays = {
        "data": np.frombuffer(b"".join(encoded), np.uint8),
        "offsets": np.cumsum([0, *map(len, encoded)]),
        "names": np.array(["celebahq/a.jpg", "celebahq/b.jpg"]),
        "bits": np.packbits(real.reshape(2, -1), axis=1),
    }
    path = tmp_path / "faces.npz"
    np.savez(path, **{f"{split}_{key}": value for split in ("train", "val") for key, value in arrays.items()})
    return path


def test_faces_with_holes(packed: Path) -> None:
    faces = HoledFaces(packed, side=64)
    item = faces[3]
    assert item["image"].shape == (64, 64, 3)
    assert item["hole"].shape == item["mask"].shape == (1, 64, 64)
    assert all((faces[3][key] == item[key]).all() for key in item)
    assert any((faces[4][key] != item[key]).any() for key in item)


def test_validation_does_not_vary(packed: Path) -> None:
    faces = HoledFaces(packed, "val", side=64, kinds={"mouth": 1.0, "eye": 1.0}, vary=False)
    whole, half = faces[0], faces[1]
    assert whole["mask"].all()
    assert half["mask"][0, :, :30].all()
    assert not half["mask"][0, :, 34:].any()
    assert (faces[2]["image"] == whole["image"]).all()
    mouth = template_points("ffhq", 64)[3:].mean(0).round().astype(int)
    assert whole["hole"][0, mouth[1], mouth[0]]
    assert not half["hole"][0, mouth[1], mouth[0]]
