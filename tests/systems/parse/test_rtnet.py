"""RTNet: parity with the published networks, padding and views of its blocks, photos in and labels out."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from facewright.errors import UsageError, WeightsError
from facewright.face import Face
from facewright.systems.parse.rtnet import convert
from facewright.systems.parse.rtnet.network import DeepLabHead, HybridBlock, MixedPad, ResNetTrunk, RTNet, RTNetConfig

if TYPE_CHECKING:
    from pathlib import Path

TINY = RTNetConfig(size=65, width=8)


def build(config: RTNetConfig = TINY) -> RTNet:
    torch.manual_seed(0)
    model = RTNet(config).eval()
    for module in model.modules():
        if isinstance(module, HybridBlock):
            torch.nn.init.ones_(module.expand[1].weight)  # type: ignore[arg-type]
    return model


@pytest.mark.shared
@pytest.mark.parametrize(("name", "trunk"), [("rtnet", "rtnet50"), ("rtnet-resnet50-deeplab", "resnet50")])
@torch.inference_mode()
def test_equals_published(parity, name: str, trunk: str) -> None:
    arrays, state, _ = parity(name)
    model = convert.import_published({"state_dict": state | {"aux_head.0.weight": torch.zeros(1)}})
    assert (model.config.trunk, model.config.classes) == (trunk, 14)
    image = torch.from_numpy(arrays["in_image"])
    boxes = torch.from_numpy(arrays.get("in_rois", np.array([[0, 0, 30, 40]], np.float32)))
    logits = model(image, boxes)
    for ours, key in ((logits[..., ::5, ::5], "out_logits"), (model.head(model.trunk(image, boxes)), "out_logits_low")):
        expected = torch.from_numpy(arrays[key])
        assert ours.shape == expected.shape
        assert (ours - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    ("config", "stored", "published"),
    [
        (RTNetConfig(), 27_330_123, 109_700_795),
        (RTNetConfig.rtnet101(), None, 166_000_231),
        (RTNetConfig(trunk="resnet50", classes=14), None, 132_138_923),
        (RTNetConfig.baseline(), 39_761_872, 159_399_765),
    ],
)
def test_sizes_of_the_published_files(config: RTNetConfig, stored: int | None, published: int) -> None:
    """The published files are float32 tensors and less than a per cent of names."""
    with torch.device("meta"):
        model = RTNet(config)
    assert stored in (None, sum(p.numel() for p in model.parameters()))
    assert 4 * sum(v.numel() for v in model.state_dict().values()) == pytest.approx(published, rel=0.01)


def test_padding_goes_round_in_angle_and_repeats_in_radius() -> None:
    x = torch.arange(12.0).view(1, 1, 3, 4)
    padded = MixedPad(1)(x)[0, 0]
    assert padded[0].tolist() == [8, 8, 9, 10, 11, 11]
    assert padded[-1].tolist() == [0, 0, 1, 2, 3, 3]
    assert padded[2].tolist() == [4, 4, 5, 6, 7, 7]


@torch.inference_mode()
def test_polar_half_of_a_block_turns_with_its_input() -> None:
    """Rolling the rows rolls the output where only the polar half speaks, and nowhere else."""
    torch.manual_seed(0)
    block = HybridBlock(16, 8, hybrid=True).eval()
    block.expand[1].weight.fill_(1)  # type: ignore[operator]
    x, boxes = torch.randn(1, 16, 24, 24), torch.tensor([[0.0, 0, 20, 30]])
    whole = block(x.roll(5, 2), boxes) - block(x, boxes).roll(5, 2)
    assert whole.abs().max() > 1e-3
    block.expand[0].weight[:, 4:] = 0  # type: ignore[operator]
    polar = block(x.roll(5, 2), boxes) - block(x, boxes).roll(5, 2)
    assert polar.abs().max() < 1e-5


@torch.inference_mode()
def test_only_the_ratio_of_the_box_matters_and_it_does() -> None:
    model = build()
    x = torch.randn(1, 3, 65, 65)
    torch.testing.assert_close(model(x), model(x, torch.tensor([[3.0, 5, 13, 15]])), atol=1e-3, rtol=1e-3)
    a = model(x, torch.tensor([[0.0, 0, 20, 30]]))
    b = model(x, torch.tensor([[5.0, 50, 45, 110]]))
    c = model(x, torch.tensor([[0.0, 0, 30, 20]]))
    assert (a - b).abs().max() < 0.02 * a.abs().max() < (a - c).abs().max()


def test_strides_and_gradients() -> None:
    model = build().train()
    maps = model.trunk(torch.randn(2, 3, 65, 65), torch.tensor([[0.0, 0, 20, 30]] * 2))
    assert [tuple(m.shape[1:]) for m in maps] == [(32, 17, 17), (64, 9, 9), (128, 9, 9), (256, 9, 9)]
    model.head(maps).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    dilations = [stage[0].cartesian[0].dilation[0] for stage in model.trunk.stages]  # type: ignore[union-attr]
    later = [stage[1].cartesian[0].dilation[0] for stage in list(model.trunk.stages)[1:]]  # type: ignore[arg-type]
    assert (dilations, later) == ([1, 1, 1, 2], [1, 2, 4])


@torch.inference_mode()
def test_dilated_resnet_keeps_stride_8() -> None:
    maps = ResNetTrunk().eval()(torch.zeros(1, 3, 65, 65))
    assert [m.shape[2] for m in maps] == [17, 9, 9, 9]
    head = DeepLabHead((256, 512, 1024, 2048), 11).eval()
    assert head(maps).shape == (1, 11, 17, 17)


def in_box(box: Any) -> Face:
    """A face with that box; RTNet asks for nothing else."""
    return Face(np.asarray(box, np.float32), 1.0, np.zeros((5, 2), np.float32))


def predicting(model: RTNet, column: int) -> RTNet:
    """Its logits say skin in the first columns of the view, which is the face, and background beyond."""

    def forward(views: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        logits = torch.full((len(views), len(model.classes), *views.shape[2:]), -20.0)
        logits[:, 1, :, :column] = 20
        logits[:, 0, :, column:] = 20
        return logits

    model.forward = forward  # type: ignore[assignment, method-assign]
    return model


def test_labels_lie_in_the_photo_where_the_box_is() -> None:
    """Columns up to tanh(1) of the view are the ellipse with the area of the box."""
    model = predicting(build(dataclasses.replace(TINY, size=257)), round(np.tanh(1) * 257))
    photo = np.zeros((120, 160, 3), np.uint8)
    boxes = np.array([[30.0, 20, 60, 70], [90, 50, 120, 80]])
    photos, faces = np.stack([photo, photo]), [in_box(box) for box in boxes]
    labels = model.parse(photos, faces=faces)
    assert labels.shape == (2, 120, 160)
    assert labels.dtype == np.uint8
    for box, found in zip(boxes, labels):
        y, x = np.nonzero(found == 1)
        area = (box[2] - box[0]) * (box[3] - box[1])
        assert len(x) == pytest.approx(area, rel=0.04)
        np.testing.assert_allclose([x.mean(), y.mean()], (box[:2] + box[2:]) / 2, atol=0.5)
    probabilities = model.probabilities(photos, faces=faces)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-4)
    assert probabilities[1, 0, :10].min() > 0.99


def test_far_from_the_box_is_background_and_a_box_may_leave_the_photo() -> None:
    model = predicting(build(), 65)
    labels = model.parse(np.zeros((1, 300, 300, 3), np.uint8), faces=[in_box([-10.0, -10, 20, 20])])
    assert labels[0, 0, 0] == 1
    assert not labels[0, 80:].any()
    assert model.parse(np.zeros((0, 30, 40, 3), np.uint8)).shape == (0, 30, 40)


def test_a_crop_cut_by_the_record_has_its_face_in_the_middle() -> None:
    """What the network is fed of such a crop is what it is fed of the photo, for a square box of any size."""
    model = build()
    seen: list[torch.Tensor] = []
    logits = torch.zeros(1, 11, 65, 65)
    model.forward = lambda views, boxes: (seen.append(views), logits)[1]  # type: ignore[assignment, func-returns-value, method-assign, misc]
    ys, xs = np.mgrid[:400, :400]
    waves = np.stack([np.sin(xs / 30), np.cos(ys / 40), np.sin((xs + ys) / 50)], -1)
    photo = np.rint(127.5 + 100 * waves).astype(np.uint8)
    face = in_box([150.0, 120, 250, 220])
    crop = model.preprocess.crop.cut(photo, face)
    assert crop.image.shape == (130, 130, 3)
    model.parse(photo[None], faces=[face])
    model.parse(crop.image[None])
    model.parse(crop.image[None], faces=[face.moved(crop.matrix)])
    assert (seen[1] - seen[0])[..., :58].abs().max() < 0.1  # of 2; beyond, the view shows what no crop holds
    torch.testing.assert_close(seen[2], seen[1], atol=0.02, rtol=0)


def test_weights_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """They called the picture they are fed a whole photo."""
    folder = build().save_pretrained(tmp_path / "rtnet")
    file = folder / "config.json"
    data = json.loads(file.read_text())
    data["preprocess"]["crop"] = {"kind": "whole", "size": 65}
    with safe_open(folder / "model.safetensors", "pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    save_file(tensors, folder / "model.safetensors")
    file.write_text(json.dumps(data))
    assert RTNet.from_pretrained(folder).preprocess.crop.kind == "box"


def test_view_of_the_photo_is_bgr_in_minus_1_to_1() -> None:
    model = build()
    seen: list[torch.Tensor] = []
    logits = torch.zeros(1, 11, 65, 65)
    model.forward = lambda views, boxes: (seen.append(views), logits)[1]  # type: ignore[assignment, func-returns-value, method-assign, misc]
    photo = np.full((80, 80, 3), (255, 128, 0), np.uint8)
    model.parse(photo[None], faces=[in_box([20.0, 20, 60, 60])])
    middle = seen[0][0, :, :, :30].mean((1, 2))
    torch.testing.assert_close(middle, torch.tensor([-1.0, 0.004, 1.0]), atol=1e-2, rtol=0)


def test_wrong_input_is_refused() -> None:
    model = build()
    photo = np.zeros((20, 20, 3), np.uint8)
    with pytest.raises(UsageError, match="x0 < x1"):
        model.parse(photo[None], faces=[in_box([5.0, 5, 5, 9])])
    with pytest.raises(UsageError, match="as many faces, not 0"):
        model.parse(photo[None], faces=[])
    with pytest.raises(UsageError, match="uint8 pictures"):
        model.parse(photo)
    with pytest.raises(UsageError, match=r"takes \(N, 3, S, S\)"):
        model(torch.zeros(1, 3, 65, 65), torch.zeros(2, 4))
    with pytest.raises(UsageError, match="12 classes"):
        RTNet(RTNetConfig(classes=12))
    with pytest.raises(WeightsError, match="classification layer"):
        convert.import_published({"conv1.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="not a complete checkpoint"):
        convert.import_published({"decoder.4.weight": torch.zeros(11, 512, 1, 1)})
