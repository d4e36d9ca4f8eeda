"""Colouring photos: grey ones become coloured ones of the same depth, strength blends, the file says what was done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from facewright.io.image import read
from facewright.io.provenance import read_provenance
from facewright.pipelines.colourise import Colourised, coloured
from facewright.tasks.colourise import ColouriseOptions

if TYPE_CHECKING:
    from pathlib import Path


class Reddens:
    """Adds 40 to red and takes 20 from blue."""

    def colourise(self, image: np.ndarray) -> np.ndarray:
        return np.clip(image.astype(int) + np.array([40, 0, -20]), 0, 255).astype(np.uint8)


@pytest.fixture
def grey() -> np.ndarray:
    return np.random.default_rng(0).integers(60, 190, (40, 50), dtype=np.uint8)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_grey_photo_gets_colours_by_strength(grey: np.ndarray, strength: float) -> None:
    photo = coloured(read(grey), Reddens(), strength)
    expected = np.repeat(grey[..., None], 3, 2).astype(int) + np.round(strength * np.array([40, 0, -20])).astype(int)
    assert photo.pixels.shape == (40, 50, 3)
    assert np.array_equal(photo.rgb(), expected)
    assert photo.is_grey == (strength == 0)


def test_three_equal_channels_are_coloured_too(grey: np.ndarray) -> None:
    photo = coloured(read(np.repeat(grey[..., None], 3, 2)), Reddens())
    assert np.array_equal(photo.rgb()[..., 0], grey.astype(int) + 40)


def test_sixteen_bits_stay(grey: np.ndarray) -> None:
    fine = grey.astype(np.uint16) * 257 + 31
    photo = coloured(read(fine), Reddens())
    assert photo.pixels.dtype == np.uint16
    wanted = np.repeat(fine[..., None].astype(int), 3, 2) + np.array([40, 0, -20]) * 257
    assert np.abs(photo.pixels.astype(int) - wanted).max() <= 2


def test_alpha_stays(grey: np.ndarray) -> None:
    alpha = np.arange(2000, dtype=np.uint32).reshape(40, 50).astype(np.uint8)
    photo = coloured(read(np.dstack([grey, grey, grey, alpha])), Reddens())
    assert photo.alpha is not None
    assert np.array_equal(photo.alpha, alpha)


def test_the_file_says_that_its_colours_are_made(grey: np.ndarray, tmp_path: Path) -> None:
    image = coloured(read(grey), Reddens(), 0.5)
    result = Colourised(image, "ddcolor", "ab" * 32, ColouriseOptions(0.5))
    path = result.save(tmp_path / "out.png")
    said = read_provenance(path)
    assert said is not None
    assert (said.action, said.models, said.parameters["strength"]) == ("coloured", ("ddcolor",), 0.5)
    assert read_provenance(result.save(tmp_path / "bare.png", provenance=False)) is None
    report = result.report(path)
    assert report["size"] == [50, 40]
    assert report["summary"] == "coloured by ddcolor; the colours are invented"
