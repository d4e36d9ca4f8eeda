"""Colours of another picture: constant shifts, frequencies that stay, and what comes back with the input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from facewright.nn.colour import low_frequencies, recoloured


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("how", ["wavelet", "adain", "none"])
def test_a_picture_like_itself_stays(how: str) -> None:
    image = drawn(2, 3, 40, 36)
    assert torch.allclose(recoloured(image, image, how), image)  # type: ignore[arg-type]


@pytest.mark.parametrize(("how", "left"), [("wavelet", 0.0), ("adain", 0.0), ("none", 0.4)])
def test_a_cast_is_taken_away(how: str, left: float) -> None:
    image = drawn(1, 3, 40, 40)
    cast = image + torch.tensor([0.4, -0.4, 0.0], dtype=torch.float64).view(3, 1, 1)
    off = (recoloured(cast, image, how) - image).abs().amax((2, 3))[0]  # type: ignore[arg-type]
    assert off.tolist() == pytest.approx([left, left, 0], abs=1e-9)


def test_low_frequencies_of_known_pictures() -> None:
    flat = torch.full((1, 1, 20, 20), 0.3, dtype=torch.float64)
    assert torch.allclose(low_frequencies(flat), flat)
    point = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    point[..., 4, 4] = 16
    once = low_frequencies(point, 1)
    wanted = torch.tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]], dtype=torch.float64)
    assert torch.allclose(once[0, 0, 3:6, 3:6], wanted)
    # the second blur reaches two pixels on
    assert low_frequencies(point, 2)[0, 0, 4, 1:8].tolist() == pytest.approx([0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25])


def test_the_wavelet_brings_back_a_coloured_stain_and_adain_does_not() -> None:
    clean = 0.1 * drawn(1, 3, 64, 64)
    stained = clean.clone()
    stained[:, 0, 16:48, 16:48] += 1
    stain = (slice(None), 0, slice(24, 40), slice(24, 40))
    by_wavelet, by_adain = recoloured(clean, stained, "wavelet"), recoloured(clean, stained, "adain")
    assert float(by_wavelet[stain].mean() - clean[stain].mean()) > 0.5
    assert float(by_adain[stain].std()) == pytest.approx(float(by_adain[:, 0, :8].std()), rel=0.3)
