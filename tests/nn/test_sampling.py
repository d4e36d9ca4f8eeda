"""Sampling at coordinates: float32 whatever the maps are, at sizes where 16-bit sampling is wrong or reads outside."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from facewright.errors import UsageError
from facewright.nn import tanh_polar
from facewright.nn.deform import ModulatedDeformConv3x3
from facewright.nn.inference import plain_copy
from facewright.nn.sampling import exact, pixels, sample
from facewright.nn.swin import PositionNetwork
from facewright.systems.landmarks.facewarp.network import patch_boxes, read_patches, warp
from facewright.systems.parse.segface.network import bending_grid, lapa_alignment, pixel_positions, straightening_grid

SIZES = [(24, 24), (97, 131), (192, 256)]  # the last has over 32,768 pixels a plane
NARROW = [torch.bfloat16, torch.float16]


def smooth(height: int, width: int, channels: int = 4) -> Tensor:
    """Maps (1, C, H, W) that vary over some pixels, so that a place off by a share of a pixel shows."""
    torch.manual_seed(0)
    return F.avg_pool2d(torch.randn(1, channels, height + 2, width + 2), 3, 1) * 3


def relative(rough: Tensor, expected: Tensor) -> float:
    return float((rough.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("size", SIZES)
def test_narrow_maps_are_sampled_in_float32(
    size: tuple[int, int], dtype: torch.dtype, layout: torch.memory_format
) -> None:
    maps = smooth(*size).to(dtype).contiguous(memory_format=layout)
    grid = torch.rand(1, 40, 40, 2) * 2.2 - 1.1
    read = sample(maps, grid, align_corners=False)
    expected = F.grid_sample(maps.float(), grid, align_corners=False)
    assert read.dtype == dtype
    assert torch.equal(read, expected.to(dtype))


def test_float64_stays_and_types_of_the_two_may_differ() -> None:
    maps, grid = smooth(9, 9).double(), torch.rand(1, 3, 3, 2)
    assert torch.equal(sample(maps, grid, align_corners=True), F.grid_sample(maps, grid.double(), align_corners=True))


@pytest.mark.parametrize("dtype", NARROW)
def test_a_rounded_grid_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(UsageError, match="compute them in float32"):
        sample(smooth(9, 9), torch.rand(1, 3, 3, 2).to(dtype), align_corners=True)


def test_exact_turns_autocast_off_and_widens() -> None:
    @exact
    def product(a: Tensor, *, b: Tensor) -> Tensor:
        return a @ b

    a, b = torch.rand(3, 3), torch.rand(3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(product(a, b=b), product(a, b=b).float())
        assert product(a, b=b).dtype == torch.float32
    assert product(a.bfloat16(), b=b).dtype == torch.float32


def test_pixels_are_counted_exactly() -> None:
    places = pixels(3, 700, torch.zeros(1, dtype=torch.bfloat16))
    assert places.dtype == torch.float32
    assert places[2, 699].tolist() == [699, 2]


@pytest.mark.parametrize("size", [(20, 20), (80, 80), (184, 184)])
def test_deformable_convolution(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = ModulatedDeformConv3x3(4, 8)
    torch.nn.init.normal_(layer.offset_mask.weight, std=0.2)
    x = smooth(*size)
    with torch.no_grad():
        expected = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            trained = layer(x)
        copied = plain_copy(layer, torch.bfloat16)(x.bfloat16())
    assert relative(trained, expected) < 0.01
    assert relative(copied, expected) < 0.01


WARPS = {
    "polar": tanh_polar.polar_warp,
    "from polar": tanh_polar.polar_restore,
    "cartesian": tanh_polar.cartesian_warp,
    "from cartesian": tanh_polar.cartesian_restore,
    "polar to cartesian": tanh_polar.polar_to_cartesian,
    "cartesian to polar": tanh_polar.cartesian_to_polar,
    "circular": tanh_polar.circular_warp,
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", WARPS)
def test_tanh_warps(name: str, size: tuple[int, int]) -> None:
    height, width = size
    maps = smooth(height, width)
    box = torch.tensor([[width / 4, height / 4, width / 2, height / 2]])
    expected = WARPS[name](maps, box, height, width)  # type: ignore[operator]
    rough = WARPS[name](maps.bfloat16(), box, height, width)  # type: ignore[operator]
    assert rough.dtype == torch.bfloat16
    assert relative(rough, expected) < 0.005
    with torch.autocast("cpu", torch.bfloat16):
        assert relative(WARPS[name](maps, box, height, width), expected) < 0.005  # type: ignore[operator]


@pytest.mark.parametrize("side", [64, 130, 512])
def test_landmark_alignment_of_a_parser(side: int) -> None:
    points = torch.tensor([[[0.3, 0.4], [0.6, 0.42], [0.46, 0.6], [0.33, 0.75], [0.6, 0.76]]]) * side
    size = torch.Size((side, side))

    def grids() -> tuple[Tensor, Tensor]:
        matrix = lapa_alignment(points, size)
        return bending_grid(matrix, size), straightening_grid(matrix, size)

    expected = grids()
    with torch.autocast("cpu", torch.bfloat16):
        for grid, wanted in zip(grids(), expected):
            assert (grid - wanted).abs().max() * side / 2 < 0.01  # pixels


@pytest.mark.parametrize("side", [16, 64, 160])
def test_reading_and_bending_by_landmarks(side: int) -> None:
    torch.manual_seed(0)
    points = torch.rand(1, 20, 2)
    wanted = points * 0.9 + 0.05 + torch.randn(1, 20, 2) * 0.005
    maps = smooth(side, side, 3)

    def results() -> tuple[Tensor, Tensor]:
        read = read_patches(maps, *patch_boxes(points, 0.1))
        return read, warp(maps, points * (side - 1), wanted * (side - 1))

    expected = results()
    with torch.autocast("cpu", torch.bfloat16):
        for found, exactly in zip(results(), expected):
            assert relative(found, exactly) < 1e-3


@pytest.mark.parametrize("side", [8, 33, 128])
def test_positions_of_pixels(side: int) -> None:
    frequencies = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    expected = pixel_positions(frequencies, side, side)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pixel_positions(frequencies, side, side), expected)


@torch.no_grad()
def test_position_biases_of_windows() -> None:
    network = PositionNetwork(8, 4)
    expected = network()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(), expected)
    twin = plain_copy(network, torch.bfloat16)
    assert torch.equal(twin.offsets, network.offsets)
    assert relative(twin(), expected) < 0.01
