"""ParseNet: published keys and shapes, and what a crop becomes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facewright.errors import WeightsError
from facewright.render.conventions import CELEBAMASK_19
from facewright.systems.parse.parsenet.convert import import_published
from facewright.systems.parse.parsenet.network import ParseNet, ParseNetConfig
from facewright.weights.published import recognise_tensors

SHAPES = dict[str, tuple[int, ...]]
BYTES_PUBLISHED = 85_331_193


def layer(key: str, c_in: int, c_out: int, *, norm: bool) -> SHAPES:
    found: SHAPES = {f"{key}.conv2d.weight": (c_out, c_in, 3, 3)}
    if not norm:
        return found | {f"{key}.conv2d.bias": (c_out,)}
    rest = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (c_out,))
    return found | {f"{key}.norm.norm.{k}": s for k, s in (rest | {"num_batches_tracked": ()}).items()}


def block(key: str, c_in: int, c_out: int, *, skip: bool) -> SHAPES:
    found = layer(f"{key}.conv1", c_in, c_out, norm=True) | layer(f"{key}.conv2", c_out, c_out, norm=True)
    return found | (layer(f"{key}.shortcut_func", c_in, c_out, norm=False) if skip else {})


def published_shapes() -> SHAPES:
    """The layout of facexlib's ParseNet for 512 px, written out from its layer table."""
    found = layer("encoder.0", 3, 64, norm=False)
    for number, (c_in, c_out) in enumerate(((64, 128), (128, 256), (256, 256), (256, 256)), 1):
        found |= block(f"encoder.{number}", c_in, c_out, skip=True)
    for number in range(10):
        found |= block(f"body.{number}", 256, 256, skip=False)
    for number, (c_in, c_out) in enumerate(((256, 256), (256, 256), (256, 128), (128, 64))):
        found |= block(f"decoder.{number}", c_in, c_out, skip=True)
    return found | layer("out_img_conv", 64, 3, norm=False) | layer("out_mask_conv", 64, 19, norm=False)


def test_published_layout_fits() -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in published_shapes().items()}
    with torch.device("meta"):
        model = import_published(state)
    assert model.config == ParseNetConfig()
    assert recognise_tensors(state).systems == ("parsenet",)
    size = 4 * sum(value.numel() for value in state.values())
    assert 0 < BYTES_PUBLISHED - size < 250 * len(state)


def test_incomplete_file_is_refused() -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in published_shapes().items()}
    del state["body.4.conv2.norm.norm.running_var"]
    with (
        torch.device("meta"),
        pytest.raises(WeightsError, match=r"missing \['net\.body\.4\.conv2\.norm\.running_var'\]"),
    ):
        import_published(state)


def test_padding_is_mirrored_and_sides_come_back() -> None:
    torch.manual_seed(0)
    model = ParseNet(ParseNetConfig.compact()).eval()
    flat = torch.full((1, 3, 128, 128), 0.4)
    with torch.inference_mode():
        logits = model(flat)
        assert logits.shape == (1, 19, 128, 128)
        assert torch.allclose(logits, logits[..., :1, :1].expand_as(logits), atol=1e-4)  # no border is seen
        assert model(torch.zeros(1, 3, 64, 96)).shape == (1, 19, 64, 96)


def test_crops_of_any_size_are_parsed() -> None:
    model = ParseNet(ParseNetConfig.compact()).eval()
    crops = np.random.default_rng(0).integers(0, 256, (2, 100, 100, 3), dtype=np.uint8)
    labels = model.parse(crops)
    assert labels.shape == (2, 100, 100)
    assert model.classes == CELEBAMASK_19
    np.testing.assert_allclose(model.probabilities(crops).sum(1), 1, atol=1e-4)
