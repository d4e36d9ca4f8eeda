"""RoI tanh warps: parity with the published ones, geometry, and that restoring gives the picture back."""

from __future__ import annotations

import math

import pytest
import torch

from facewright.errors import UsageError
from facewright.nn import tanh_polar as tp

BOX = torch.tensor([[30.0, 22.0, 66.0, 70.0]])


def smooth(height: int = 96, width: int = 96) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height) / 9.0, torch.arange(width) / 11.0, indexing="ij")
    return torch.stack([x.sin() * y.cos(), (x + y).cos(), (0.5 * x - y).sin()])[None] * 100 + 128


@pytest.mark.shared
def test_equals_published(parity) -> None:
    arrays, _, _ = parity("roi-tanh-warp")
    image, boxes, angles = (torch.from_numpy(arrays[f"in_{k}"]) for k in ("image", "rois", "angles"))
    polar = tp.polar_warp(image, boxes, 65, 65)
    circle = tp.polar_warp(image, boxes, 48, 64, keep_aspect=False)
    cartesian = tp.cartesian_warp(image, boxes, 48, 64)
    flat = tp.polar_to_cartesian(polar, boxes, 65, 65)
    maps = {
        "polar_keep": polar,
        "polar": circle,
        "polar_keep_rotated": tp.polar_warp(image, boxes, 65, 65, angles=angles),
        "polar_keep_restored": tp.polar_restore(polar, boxes, 96, 128),
        "polar_restored": tp.polar_restore(circle, boxes, 96, 128, keep_aspect=False),
        "cartesian": cartesian,
        "cartesian_restored": tp.cartesian_restore(cartesian, boxes, 96, 128),
        "polar_to_cartesian": flat,
        "cartesian_to_polar": tp.cartesian_to_polar(flat, boxes, 65, 65),
        "circular_keep": tp.circular_warp(image, boxes, 64, 64),
    }
    results = {name: value[..., ::3, ::3] for name, value in maps.items()}
    results["grid_polar_keep"] = tp.polar_grid(boxes, 65, 65, image.shape[2:])[:, ::3, ::3]
    results["grid_polar_keep_restored"] = tp.polar_restore_grid(boxes, 96, 128, polar.shape[2:])[:, ::5, ::5]
    for name, value in results.items():
        expected = torch.from_numpy(arrays[f"out_{name}"])
        assert value.shape == expected.shape
        assert (value - expected).abs().max() < 1e-4 * expected.abs().max(), name


def test_ellipse_has_the_area_of_the_box_and_ends_at_tanh_1() -> None:
    """Column tanh(1) of the view is the ellipse with semi-axes width/√π and height/√π."""
    steps = 1000
    column = round(math.tanh(1) * steps)
    grid = tp.polar_grid(BOX, 360, steps, torch.Size((97, 97)))[0, :, column]
    edge = (grid + 1) / 2 * 96 - torch.tensor([48.0, 46.0])
    axes = torch.tensor([36.0, 48.0]) / math.pi**0.5
    torch.testing.assert_close((edge / axes).norm(dim=1), torch.ones(360), atol=3e-3, rtol=0)
    torch.testing.assert_close(edge[0], torch.tensor([float(axes[0]), 0.0]), atol=0.05, rtol=0)
    torch.testing.assert_close(edge[90], torch.tensor([0.0, float(axes[1])]), atol=0.05, rtol=0)
    area = 0.5 * (edge[:, 0] * edge.roll(-1, 0)[:, 1] - edge[:, 1] * edge.roll(-1, 0)[:, 0]).sum().abs()
    assert float(area) == pytest.approx(36 * 48, rel=0.01)


@pytest.mark.parametrize("keep_aspect", [True, False])
def test_restoring_gives_the_face_back(keep_aspect: bool) -> None:
    image = smooth()
    view = tp.polar_warp(image, BOX, 257, 257, keep_aspect=keep_aspect)
    back = tp.polar_restore(view, BOX, 96, 96, keep_aspect=keep_aspect)
    error = (back - image)[..., 26:66, 34:62]
    assert 20 * math.log10(255 / float(error.square().mean().sqrt())) > 40
    flat = tp.cartesian_restore(tp.cartesian_warp(image, BOX, 257, 257), BOX, 96, 96)
    assert (flat - image)[..., 26:66, 34:62].abs().max() < 1


def test_polar_and_cartesian_views_turn_into_each_other() -> None:
    polar = tp.polar_warp(smooth(), BOX, 257, 257)
    there = tp.polar_to_cartesian(polar, BOX, 257, 257)
    direct = tp.cartesian_warp(smooth(), BOX, 257, 257)
    inside = (..., slice(80, 177), slice(80, 177))
    assert (there - direct)[inside].abs().max() < 2
    shifted = BOX * 2 + 7  # only the ratio of the sides matters
    torch.testing.assert_close(tp.polar_to_cartesian(polar, shifted, 257, 257), there, atol=0.02, rtol=0)


def test_turning_the_view_is_rolling_its_rows() -> None:
    square = torch.tensor([[30.0, 30.0, 66.0, 66.0]])
    plain = tp.polar_warp(smooth(), square, 64, 65)
    turned = tp.polar_warp(smooth(), square, 64, 65, angles=torch.tensor([2 * math.pi * 5 / 64]))
    torch.testing.assert_close(turned, plain.roll(-5, 2), atol=1e-2, rtol=0)
    back = tp.polar_restore(turned, square, 96, 96, angles=torch.tensor([2 * math.pi * 5 / 64]))
    assert (back - tp.polar_restore(plain, square, 96, 96))[..., 34:62, 34:62].abs().mean() < 1


def test_outside_is_zero_and_gradients_flow() -> None:
    image = torch.ones(1, 1, 40, 40, requires_grad=True)
    view = tp.polar_warp(image, torch.tensor([[10.0, 10.0, 30.0, 30.0]]), 32, 201)
    assert view[..., -1].abs().max() == 0
    torch.testing.assert_close(view[..., 0], torch.ones(1, 1, 32))
    view.sum().backward()
    assert image.grad.abs().sum() > 0


def test_wrong_boxes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\(N, 4\)"):
        tp.polar_warp(smooth(), torch.zeros(1, 5), 8, 8)


@pytest.mark.parametrize("keep_aspect", [True, False])
def test_circular_view_of_an_odd_side_has_a_middle(keep_aspect: bool) -> None:
    picture = torch.arange(81.0).view(1, 1, 9, 9)
    view = tp.circular_warp(picture, torch.tensor([[1.0, 2.0, 7.0, 6.0]]), 5, 5, keep_aspect=keep_aspect)
    assert torch.isfinite(view).all()
    assert view[0, 0, 2, 2] == picture[0, 0, 4, 4]
