"""BiSeNet: published keys and shapes, and its own order of the classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facewright.errors import WeightsError
from facewright.render.truth import CELEBAMASK_19
from facewright.systems.parse.bisenet.convert import import_published
from facewright.systems.parse.bisenet.network import BiSeNet, BiSeNetConfig
from facewright.systems.parse.taxonomy import mirrored
from facewright.weights.published import recognise_tensors

SHAPES = dict[str, tuple[int, ...]]
BYTES_PUBLISHED = 53_289_463


def norm(key: str, width: int) -> SHAPES:
    return {f"{key}.{name}": (width,) for name in ("weight", "bias", "running_mean", "running_var")} | {
        f"{key}.num_batches_tracked": ()
    }


def conv(key: str, c_in: int, c_out: int, kernel: int) -> SHAPES:
    return {f"{key}.conv.weight": (c_out, c_in, kernel, kernel)} | norm(f"{key}.bn", c_out)


def published_shapes() -> SHAPES:
    """The layout of zllrunning/face-parsing.PyTorch, written out from its layer tables."""
    found: SHAPES = {"cp.resnet.conv1.weight": (64, 3, 7, 7)} | norm("cp.resnet.bn1", 64)
    c_in = 64
    for stage, width in enumerate((64, 128, 256, 512), 1):
        for number in range(2):
            key = f"cp.resnet.layer{stage}.{number}"
            found |= {f"{key}.conv1.weight": (width, c_in, 3, 3), f"{key}.conv2.weight": (width, width, 3, 3)}
            found |= norm(f"{key}.bn1", width) | norm(f"{key}.bn2", width)
            if c_in != width:
                found |= {f"{key}.downsample.0.weight": (width, c_in, 1, 1)} | norm(f"{key}.downsample.1", width)
            c_in = width
    for name, c_in in (("arm16", 256), ("arm32", 512)):
        found |= conv(f"cp.{name}.conv", c_in, 128, 3) | norm(f"cp.{name}.bn_atten", 128)
        found |= {f"cp.{name}.conv_atten.weight": (128, 128, 1, 1)}
    found |= (
        conv("cp.conv_head32", 128, 128, 3) | conv("cp.conv_head16", 128, 128, 3) | conv("cp.conv_avg", 512, 128, 1)
    )
    found |= conv("ffm.convblk", 256, 256, 1)
    found |= {"ffm.conv1.weight": (64, 256, 1, 1), "ffm.conv2.weight": (256, 64, 1, 1)}
    for name, c_in, width in (("conv_out", 256, 256), ("conv_out16", 128, 64), ("conv_out32", 128, 64)):
        found |= conv(f"{name}.conv", c_in, width, 3) | {f"{name}.conv_out.weight": (19, width, 1, 1)}
    return found


def test_published_layout_fits() -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in published_shapes().items()}
    with torch.device("meta"):
        model = import_published(state)
    assert model.config == BiSeNetConfig()
    assert recognise_tensors(state).systems == ("bisenet",)
    size = 4 * sum(value.numel() for value in state.values())
    assert 0 < BYTES_PUBLISHED - size < 250 * len(state)


def test_incomplete_file_is_refused() -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in published_shapes().items()}
    del state["ffm.conv2.weight"]
    with torch.device("meta"), pytest.raises(WeightsError, match=r"missing \['net\.ffm\.conv2\.weight'\]"):
        import_published(state)


def test_classes_are_celebamask_hqs_in_another_order() -> None:
    model = BiSeNet(BiSeNetConfig.compact())
    assert sorted(model.classes) == sorted(CELEBAMASK_19)
    assert model.classes != CELEBAMASK_19
    swapped = mirrored(model.classes)
    assert [model.classes[swapped[i]] for i in (2, 3, 10)] == ["r_brow", "l_brow", "nose"]


def test_side_outputs_have_the_size_of_the_picture() -> None:
    model = BiSeNet(BiSeNetConfig.compact()).eval()
    with torch.inference_mode():
        x = torch.randn(1, 3, 96, 128)
        main, *sides = model(x, return_aux=True)
        assert torch.equal(main, model(x))
    assert {part.shape for part in (main, *sides)} == {(1, 19, 96, 128)}
    crops = np.zeros((1, 64, 64, 3), np.uint8)
    assert model.parse(crops).shape == (1, 64, 64)
