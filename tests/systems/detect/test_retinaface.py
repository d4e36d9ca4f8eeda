"""RetinaFace: published keys and shapes, decoding, and photos of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facewright.errors import UsageError, WeightsError
from facewright.systems.detect.retinaface.convert import convert_published, import_published
from facewright.systems.detect.retinaface.network import RetinaFace, RetinaFaceConfig
from facewright.weights.published import recognise_tensors

SHAPES = dict[str, tuple[int, ...]]


def norm(key: str, width: int) -> SHAPES:
    return {f"{key}.{name}": (width,) for name in ("weight", "bias", "running_mean", "running_var")} | {
        f"{key}.num_batches_tracked": ()
    }


def conv_norm(key: str, c_in: int, c_out: int, kernel: int, at: int = 0) -> SHAPES:
    return {f"{key}.{at}.weight": (c_out, c_in, kernel, kernel)} | norm(f"{key}.{at + 1}", c_out)


def published_shapes(body: str) -> SHAPES:
    """The layout of biubug6/Pytorch_Retinaface, written out from its layer tables."""
    found: SHAPES = {}
    if body == "mobilenet":
        found |= conv_norm("body.stage1.0", 3, 8, 3)
        rows = {1: (8, 16, 32, 32, 64, 64), 2: (64, *[128] * 6), 3: (128, 256, 256)}
        for stage, widths in rows.items():
            for number, (c_in, c_out) in enumerate(zip(widths, widths[1:]), 1 if stage == 1 else 0):
                key = f"body.stage{stage}.{number}"
                found |= conv_norm(key, 1, c_in, 3) | conv_norm(key, c_in, c_out, 1, at=3)
        widths, width = (64, 128, 256), 64
    else:
        found |= {"body.conv1.weight": (64, 3, 7, 7)} | norm("body.bn1", 64)
        c_in = 64
        for stage, (count, inner) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512)), 1):
            for number in range(count):
                key = f"body.layer{stage}.{number}"
                for i, shape in enumerate(((inner, c_in, 1, 1), (inner, inner, 3, 3), (4 * inner, inner, 1, 1)), 1):
                    found |= {f"{key}.conv{i}.weight": shape} | norm(f"{key}.bn{i}", shape[0])
                if number == 0:
                    found |= conv_norm(f"{key}.downsample", c_in, 4 * inner, 1)
                c_in = 4 * inner
        widths, width = (512, 1024, 2048), 256
    for level, c_in in enumerate(widths, 1):
        found |= conv_norm(f"fpn.output{level}", c_in, width, 1)
        ssh = f"ssh{level}"
        found |= conv_norm(f"{ssh}.conv3X3", width, width // 2, 3) | conv_norm(f"{ssh}.conv5X5_1", width, width // 4, 3)
        for name in ("conv5X5_2", "conv7X7_2", "conv7x7_3"):
            found |= conv_norm(f"{ssh}.{name}", width // 4, width // 4, 3)
        for name, count in (("ClassHead", 4), ("BboxHead", 8), ("LandmarkHead", 20)):
            head = f"{name}.{level - 1}.conv1x1"
            found |= {f"{head}.weight": (count, width, 1, 1), f"{head}.bias": (count,)}
    return found | conv_norm("fpn.merge1", width, width, 3) | conv_norm("fpn.merge2", width, width, 3)


def published(body: str, device: str = "cpu") -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {f"module.{k}": 0.02 * torch.randn(s, device=device) for k, s in published_shapes(body).items()}


@pytest.mark.parametrize(("body", "bytes_published"), [("mobilenet", 1_789_735), ("resnet50", 109_497_761)])
def test_published_layout_fits(body: str, bytes_published: int) -> None:
    state = published(body, "meta")
    with torch.device("meta"):
        model = import_published(state)
    assert model.config.body == body
    plain = {key.removeprefix("module."): value for key, value in state.items()}
    assert set(convert_published(plain)) == set(model.state_dict())
    assert recognise_tensors(plain).systems == ("retinaface",)
    size = 4 * sum(value.numel() for value in state.values())
    assert 0 < bytes_published - size < 250 * len(state)  # the rest is names, shapes and the container's own


def test_tensors_go_where_their_names_say() -> None:
    state = published("mobilenet")
    model = import_published(state)
    assert torch.equal(model.context[1].trunk5[0].weight, state["module.ssh2.conv5X5_1.0.weight"])  # type: ignore[index, union-attr]
    assert torch.equal(model.get_submodule("points.2").bias, state["module.LandmarkHead.2.conv1x1.bias"])  # type: ignore[arg-type]
    assert torch.equal(model.get_submodule("body.stage2.3").get_submodule("3").weight,  # type: ignore[arg-type]
                       state["module.body.stage2.3.3.weight"])  # fmt: skip


def test_other_checkpoints_are_refused() -> None:
    state = published("mobilenet", "meta")
    del state["module.fpn.merge2.0.weight"]
    with torch.device("meta"), pytest.raises(WeightsError, match=r"1 tensors missing \['fpn\.merge2\.0\.weight'\]"):
        import_published(state)


class Scripted(RetinaFace):
    """Gives one face: at the cell (row 3, column 5) of the finest level, with its second anchor."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        columns = -(-image.shape[3] // 8)
        count = sum(2 * -(-image.shape[2] // s) * -(-image.shape[3] // s) for s in (8, 16, 32))
        classes, boxes, points = torch.zeros(1, count, 2), torch.zeros(1, count, 4), torch.zeros(1, count, 10)
        classes[..., 0] = 5
        at = 2 * (3 * columns + 5) + 1
        classes[0, at] = torch.tensor([0.0, 3.0])
        boxes[0, at] = torch.tensor([1.0, -1.0, 0.0, np.log(2) / 0.2])
        points[0, at] = torch.arange(10.0)
        return classes, boxes, points


def test_decoding_by_hand() -> None:
    """Centre (44, 28), side 32; variances 0.1 and 0.2: 3.2 px right, 3.2 px up, twice as high."""
    faces = Scripted(RetinaFaceConfig.compact()).detect(np.zeros((128, 160, 3), np.uint8))
    assert len(faces) == 1
    assert faces[0].score == pytest.approx(1 / (1 + np.exp(-3)))
    np.testing.assert_allclose(faces[0].box, [47.2 - 16, 24.8 - 32, 47.2 + 16, 24.8 + 32], atol=1e-4)
    expected = np.array([44, 28]) + 3.2 * np.arange(10).reshape(5, 2)
    np.testing.assert_allclose(faces[0].points5, expected, atol=1e-4)
    assert faces[0].pose is None


def test_faces_of_a_large_photo_are_in_its_pixels() -> None:
    model = Scripted(RetinaFaceConfig.compact())
    small = model.detect(np.zeros((128, 160, 3), np.uint8))[0]
    large = model.detect(np.zeros((1280, 1600, 3), np.uint8), max_side=160)[0]
    np.testing.assert_allclose(large.box, (small.box + 0.5) * 10 - 0.5, rtol=1e-5)


def test_sides_that_fit_no_stride_and_thresholds() -> None:
    model = Scripted(RetinaFaceConfig.compact())
    black = np.zeros((101, 135, 3), np.uint8)
    assert len(model.detect(black)) == 1
    assert model.detect(black, threshold=0.96) == []
    assert model.detect(black, min_size=60) == []
    with pytest.raises(UsageError, match="detect needs"):
        model.detect(black[..., 0])


def test_network_looks_at_bgr_less_the_mean() -> None:
    model = RetinaFace(RetinaFaceConfig.compact())
    fed = model.normalise(np.full((1, 32, 32, 3), (10, 20, 30), np.uint8))
    assert fed[0, :, 0, 0].tolist() == [30 - 104, 20 - 117, 10 - 123]
