"""FAN: published keys, shapes and size, its blocks by the formula, peaks, crops and their way back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError, WeightsError
from facewright.systems.landmarks.fan.convert import import_published
from facewright.systems.landmarks.fan.network import FAN, FANConfig, HierarchicalBlock, Hourglass, peaks_of
from facewright.weights.published import recognise_tensors

if TYPE_CHECKING:
    from types import SimpleNamespace

SHAPES = dict[str, tuple[int, ...]]
BYTES_PUBLISHED = 96_316_515


def norm(key: str, width: int) -> SHAPES:
    return {f"{key}.{name}": (width,) for name in ("weight", "bias", "running_mean", "running_var")} | {
        f"{key}.num_batches_tracked": ()
    }


def conv(key: str, c_in: int, c_out: int, kernel: int = 1) -> SHAPES:
    return {f"{key}.weight": (c_out, c_in, kernel, kernel), f"{key}.bias": (c_out,)}


def block(key: str, c_in: int, c_out: int) -> SHAPES:
    half, quarter = c_out // 2, c_out // 4
    found: SHAPES = {}
    for number, (a, b) in enumerate(((c_in, half), (half, quarter), (quarter, quarter)), 1):
        found |= norm(f"{key}.bn{number}", a) | {f"{key}.conv{number}.weight": (b, a, 3, 3)}
    if c_in != c_out:
        found |= norm(f"{key}.downsample.0", c_in) | {f"{key}.downsample.2.weight": (c_out, c_in, 1, 1)}
    return found


def published_shapes() -> SHAPES:
    """The layout of 1adrianb/face-alignment with four hourglasses, written out from its layer table."""
    found = conv("conv1", 3, 64, 7) | norm("bn1", 64)
    found |= block("conv2", 64, 128) | block("conv3", 128, 128) | block("conv4", 128, 256)
    for number in range(4):
        for level in range(1, 5):
            for way in ("b1", "b2", "b3"):
                found |= block(f"m{number}.{way}_{level}", 256, 256)
        found |= block(f"m{number}.b2_plus_1", 256, 256) | block(f"top_m_{number}", 256, 256)
        found |= conv(f"conv_last{number}", 256, 256) | norm(f"bn_end{number}", 256) | conv(f"l{number}", 256, 68)
        if number < 3:
            found |= conv(f"bl{number}", 256, 256) | conv(f"al{number}", 68, 256)
    return found


def test_published_layout_fits() -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in published_shapes().items()}
    with torch.device("meta"):
        assert import_published(state).config == FANConfig()
    assert recognise_tensors(state).systems == ("fan",)
    size = 4 * sum(value.numel() for value in state.values())
    assert 0 < BYTES_PUBLISHED - size < 1000 * len(state)  # an archive of 1100 tensors and the network's code
    del state["m2.b2_plus_1.conv3.weight"]
    with torch.device("meta"), pytest.raises(WeightsError, match="1 tensors missing"):
        import_published(state)


def test_files_from_before_norms_counted_batches_fit_too() -> None:
    shapes = {key: shape for key, shape in published_shapes().items() if not key.endswith("num_batches_tracked")}
    with torch.device("meta"):
        assert import_published({key: torch.empty(shape) for key, shape in shapes.items()}).config.stacks == 4


@torch.inference_mode()
def test_block_by_the_formula() -> None:
    torch.manual_seed(0)
    unit = HierarchicalBlock(4, 8).eval()
    x = torch.randn(1, 4, 5, 6)
    gain = (1 + 1e-5) ** -0.5  # of a fresh norm
    first = F.conv2d(F.relu(gain * x), unit.conv1.weight, padding=1)
    second = F.conv2d(F.relu(gain * first), unit.conv2.weight, padding=1)
    third = F.conv2d(F.relu(gain * second), unit.conv3.weight, padding=1)
    skip = F.conv2d(F.relu(gain * x), unit.get_parameter("downsample.2.weight"))
    torch.testing.assert_close(unit(x), torch.cat((first, second, third), 1) + skip)


@torch.inference_mode()
def test_hourglass_is_the_sum_of_what_every_size_says() -> None:
    """With blocks that change nothing it adds the picture's means over 2, 4, 8 and 16 pixels to the picture."""
    hourglass = Hourglass(8).eval()
    for name, weight in hourglass.named_parameters():
        if ".conv" in name:
            weight.zero_()
    x = torch.randn(1, 8, 16, 32)
    expected = x.clone()
    for side in (2, 4, 8, 16):
        expected += F.interpolate(F.avg_pool2d(x, side), scale_factor=side)
    torch.testing.assert_close(hourglass(x), expected)


def test_peaks_lean_towards_the_higher_neighbour() -> None:
    heat = torch.zeros(1, 3, 8, 8)
    heat[0, 0, 3, 5], heat[0, 0, 3, 6], heat[0, 0, 2, 5] = 0.9, 0.5, 0.2
    heat[0, 1, 0, 4], heat[0, 1, 0, 5] = 0.7, 0.3  # at the edge nothing is moved
    heat[0, 2, 4, 4] = 0.4  # neighbours alike
    points, peaks = peaks_of(heat)
    middle = lambda column, row: [4 * (column + 0.5) - 0.5, 4 * (row + 0.5) - 0.5]  # noqa: E731
    assert points[0].tolist() == [middle(5.25, 2.75), middle(4, 0), middle(4, 4)]
    assert peaks[0].tolist() == pytest.approx([0.9, 0.7, 0.4])


@pytest.fixture
def model() -> FAN:
    torch.manual_seed(0)
    return FAN(FANConfig.compact()).eval()


def test_landmarks_of_a_photo_are_those_of_its_crops(model: FAN, fakes: SimpleNamespace) -> None:
    model.precision = "fp32"
    photo = fakes.textured(200, 240)
    faces = [fakes.face_at((90, 80), 20.0), fakes.face_at((160, 120), 24.0)]
    found = model.locate(photo, faces)
    assert [marks.points.shape for marks in found] == [(68, 2)] * 2
    crop = model.preprocess.crop.cut(photo, faces[1])
    inside = model.landmarks(crop.image[None])
    back = np.column_stack([found[1].points, np.ones(68)]) @ crop.matrix.T
    np.testing.assert_allclose(back, inside.points[0], atol=1e-3)
    assert ((found[0].confidence >= 0) & (found[0].confidence <= 1)).all()
    assert model.locate(photo, []) == []


def test_the_crop_is_the_published_one() -> None:
    """Its side is 200/195 of the sum of the box's, its middle 0.12 of the box's height above the box's."""
    box = np.array([100.0, 60.0, 180.0, 180.0])
    matrix = FAN.preprocess_for(FANConfig()).crop.around(box)
    side = 200 * (80 + 120) / 195
    assert matrix[0, 0] == pytest.approx(256 / side)
    np.testing.assert_allclose(matrix @ [140, 120 - 0.12 * 120, 1], [127.5, 127.5])


def test_refusals(model: FAN) -> None:
    with pytest.raises(UsageError, match=r"\(N, 3, 64, 64\)"):
        model(torch.zeros(1, 3, 256, 256))
    with pytest.raises(UsageError, match="64 px times n"):
        FAN(FANConfig(size=100))
    with pytest.raises(UsageError, match=r"\(H, W, 3\) uint8"):
        model.locate(np.zeros((4, 4), np.uint8), [])
