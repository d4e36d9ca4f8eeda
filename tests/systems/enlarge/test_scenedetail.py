"""SceneDetail: pictures of any size, tiles that meet without a seam, no sense of place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facewright.systems.enlarge import tiles
from facewright.systems.enlarge.scenedetail.network import SceneDetail, SceneDetailConfig
from facewright.tasks.enlarge import Enlarger


def tiny() -> SceneDetail:
    torch.manual_seed(0)
    net = SceneDetail(SceneDetailConfig(size=64, widths=(8, 8), encoder=(1, 1), decoder=(1,), hidden=8))
    with torch.no_grad():
        net.out.weight.normal_(std=0.05)
    net.precision = "fp32"
    return net.eval()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (37, 90), (64, 64)])
def test_every_size_comes_back(height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    out = tiny().enlarge(image)
    assert out.shape == image.shape
    assert out.dtype == np.uint8


def test_it_is_an_enlarger_of_scale_one() -> None:
    net = tiny()
    assert isinstance(net, Enlarger)
    assert net.scale == 1


def test_what_it_draws_does_not_depend_on_the_place() -> None:
    net = tiny()
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    here = net(image, place=torch.tensor([[0.0, 0.0]]))
    there = net(image, place=torch.tensor([[32.0, 16.0]]))
    torch.testing.assert_close(here, there)


def test_tiles_meet_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    net = tiny()
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    whole = net.enlarge(image)
    monkeypatch.setattr(tiles, "TILE", 32)
    assert np.abs(net.enlarge(image).astype(int) - whole).max() <= 1
