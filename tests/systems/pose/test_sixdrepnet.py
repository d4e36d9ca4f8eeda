"""6DRepNet: published keys in both forms, joined branches, rotations of six numbers, our angles."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from facewright.errors import UsageError, WeightsError
from facewright.systems.pose.sixdrepnet.convert import import_published, joined
from facewright.systems.pose.sixdrepnet.network import SixDRepNet, SixDRepNetConfig, angles, rotations
from facewright.weights.published import recognise_tensors

if TYPE_CHECKING:
    from types import SimpleNamespace

SHAPES = dict[str, tuple[int, ...]]
STAGES = ((64, 128, 4), (128, 256, 6), (256, 512, 16), (512, 2048, 1))
BYTES_PUBLISHED = 157e6  # about, as listed


def norm(key: str, width: int) -> SHAPES:
    return {f"{key}.{name}": (width,) for name in ("weight", "bias", "running_mean", "running_var")} | {
        f"{key}.num_batches_tracked": ()
    }


def branches(key: str, c_in: int, c_out: int, groups: int, *, identity: bool) -> SHAPES:
    found: SHAPES = {
        f"{key}.rbr_dense.conv.weight": (c_out, c_in // groups, 3, 3),
        f"{key}.rbr_1x1.conv.weight": (c_out, c_in // groups, 1, 1),
    }
    found |= norm(f"{key}.rbr_dense.bn", c_out) | norm(f"{key}.rbr_1x1.bn", c_out)
    return found | (norm(f"{key}.rbr_identity", c_in) if identity else {})


def one(key: str, c_in: int, c_out: int, groups: int, *, identity: bool) -> SHAPES:
    return {f"{key}.rbr_reparam.weight": (c_out, c_in // groups, 3, 3), f"{key}.rbr_reparam.bias": (c_out,)}


def published_shapes(block) -> SHAPES:
    """The layout of thohemp/6DRepNet on RepVGG-B1g2: every second layer has two groups."""
    found: SHAPES = block("layer0", 3, 64, 1, identity=False)
    layer = 1
    for stage, (before, width, count) in enumerate(STAGES, 1):
        for number in range(count):
            c_in = width if number else before
            groups = 2 if layer % 2 == 0 else 1
            found |= block(f"layer{stage}.{number}", c_in, width, groups, identity=number > 0)
            layer += 1
    return found | {"linear_reg.weight": (6, 2048), "linear_reg.bias": (6,)}


@pytest.mark.parametrize("block", [one, branches])
def test_published_layouts_fit(block) -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in published_shapes(block).items()}
    with torch.device("meta"):
        assert import_published(state).config == SixDRepNetConfig()
    assert recognise_tensors(state).systems == ("sixdrepnet",)
    if block is one:
        assert abs(4 * sum(value.numel() for value in state.values()) / BYTES_PUBLISHED - 1) < 0.01
        del state["layer3.7.rbr_reparam.bias"]
        with torch.device("meta"), pytest.raises(WeightsError, match=r"missing \['stages\.2\.7\.bias'\]"):
            import_published(state)


class Branches(nn.Module):
    """A RepVGG block as it is trained."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.rbr_dense = nn.Sequential()
        self.rbr_dense.add_module("conv", nn.Conv2d(width, width, 3, padding=1, groups=groups, bias=False))
        self.rbr_dense.add_module("bn", nn.BatchNorm2d(width))
        self.rbr_1x1 = nn.Sequential()
        self.rbr_1x1.add_module("conv", nn.Conv2d(width, width, 1, groups=groups, bias=False))
        self.rbr_1x1.add_module("bn", nn.BatchNorm2d(width))
        self.rbr_identity = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.rbr_dense(x) + self.rbr_1x1(x) + self.rbr_identity(x)
        return total


@torch.no_grad()
@pytest.mark.parametrize("groups", [1, 2])
def test_joined_branches_compute_the_same(groups: int) -> None:
    torch.manual_seed(0)
    block = Branches(8, groups)
    for _ in range(3):
        block(torch.randn(4, 8, 6, 6) * 2 + 1)  # norms that have seen something
    for norm_ in (block.rbr_dense.bn, block.rbr_1x1.bn, block.rbr_identity):
        norm_.weight.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
        norm_.bias.normal_()  # type: ignore[union-attr, operator]
    state = joined({f"layer1.1.{key}": value for key, value in block.eval().state_dict().items()})
    assert sorted(state) == ["layer1.1.bias", "layer1.1.weight"]
    x = torch.randn(2, 8, 7, 9)
    found = nn.functional.conv2d(x, state["layer1.1.weight"], state["layer1.1.bias"], padding=1, groups=groups)
    torch.testing.assert_close(found, block(x), atol=1e-5, rtol=1e-5)


def test_six_numbers_always_make_a_rotation() -> None:
    torch.manual_seed(0)
    six = torch.randn(200, 6) * 5
    matrices = rotations(six)
    torch.testing.assert_close(matrices @ matrices.transpose(1, 2), torch.eye(3).expand(200, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(200))
    x, y = six[:, :3], six[:, 3:]
    torch.testing.assert_close(matrices[:, :, 0], x / x.norm(dim=1, keepdim=True))
    assert ((matrices[:, :, 1] * y).sum(1) > 0).all()  # in the plane of both, on the side of the second
    assert (matrices[:, :, 2] * y).sum(1).abs().max() < 1e-4


def turned(pitch: float, yaw: float, roll: float) -> Tensor:
    """The published rotation of angles in degrees: about x, then y, then z."""
    a, b, c = np.radians([pitch, yaw, roll])
    about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    about_y = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    about_z = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    return torch.from_numpy(np.array(about_z) @ about_y @ about_x)[None]


@pytest.mark.parametrize("pitch", [-60.0, 0.0, 25.0])
@pytest.mark.parametrize("yaw", [-85.0, -10.0, 0.0, 70.0])
@pytest.mark.parametrize("roll", [-120.0, 0.0, 15.0])
def test_angles_come_back(pitch: float, yaw: float, roll: float) -> None:
    """The published yaw is positive towards the picture's left, ours towards its right."""
    torch.testing.assert_close(angles(turned(pitch, yaw, roll))[0].tolist(), [-yaw, pitch, roll], atol=1e-6, rtol=0)


@pytest.mark.parametrize("yaw", [-90.0, 90.0])
def test_at_a_right_angle_the_rotation_still_comes_back(yaw: float) -> None:
    matrix = turned(20.0, yaw, 35.0)
    ours_yaw, pitch, roll = angles(matrix)[0].tolist()
    assert roll == 0
    torch.testing.assert_close(turned(pitch, -ours_yaw, roll), matrix, atol=1e-6, rtol=0)


@pytest.fixture
def model() -> SixDRepNet:
    torch.manual_seed(0)
    return SixDRepNet(SixDRepNetConfig.compact()).eval()


def test_poses_of_a_photo(model: SixDRepNet, fakes: SimpleNamespace) -> None:
    model.precision = "fp32"
    photo = fakes.textured(200, 240)
    face, other = fakes.face_at((90, 80), 20.0), fakes.face_at((160, 120), 24.0)
    first, second = model.poses(photo, [face, other])
    crop = model.preprocess.crop.cut(photo, other).image
    with torch.inference_mode():
        yaw, pitch, roll = angles(model(model.normalise(crop[None])).double())[0].tolist()
    assert (second.yaw, second.pitch, second.roll) == pytest.approx((yaw, pitch, roll), abs=1e-3)
    assert (first.yaw, first.pitch) != (second.yaw, second.pitch)
    assert model.poses(photo, []) == []


def test_a_face_that_lies_in_the_photo_rolls_by_a_quarter_more(model: SixDRepNet, fakes: SimpleNamespace) -> None:
    """Such a face is looked at upright, and its turn is added."""
    model.precision = "fp32"
    photo = fakes.textured(200, 200)
    face = fakes.face_at((100, 100), 20.0)
    upright = model.poses(photo, [face])[0]
    lying = replace(face, turn=90)
    crop = model.preprocess.crop.cut(photo, lying)
    looked = model.preprocess.crop.cut(photo, face)
    assert not np.array_equal(crop.image, looked.image)
    with torch.inference_mode():
        roll = float(angles(model(model.normalise(crop.image[None])).double())[0, 2])
    found = model.poses(photo, [lying])[0].roll
    assert (found - roll - 90) % 360 == pytest.approx(0, abs=1e-3) or (found - roll - 90) % 360 > 359.99
    assert -180 <= found < 180
    assert found != upright.roll


def test_refusals(model: SixDRepNet) -> None:
    with pytest.raises(UsageError, match=r"\(N, 3, 64, 64\)"):
        model(torch.zeros(1, 3, 224, 224))
    with pytest.raises(UsageError, match="four stages"):
        SixDRepNet(SixDRepNetConfig(widths=(8, 8, 8), blocks=(1, 1, 1)))
