"""DRUNet: the published keys, shapes and size, strength of the noise, scaling, sides of any length."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facewright.errors import UsageError, WeightsError
from facewright.systems.enlarge.drunet.convert import import_published
from facewright.systems.enlarge.drunet.network import DRUNet, DRUNetConfig
from facewright.weights.published import recognise_tensors

SHAPES = dict[str, tuple[int, ...]]
BYTES_PUBLISHED = 130_579_305


def published_shapes() -> SHAPES:
    """The layout of KAIR's UNetRes for colour pictures, written out from its layer table."""
    found: SHAPES = {"m_head.weight": (64, 4, 3, 3), "m_tail.weight": (3, 64, 3, 3)}
    for level, width in enumerate((64, 128, 256), 1):
        for number in range(4):
            for i in (0, 2):
                found[f"m_down{level}.{number}.res.{i}.weight"] = (width, width, 3, 3)
                found[f"m_up{level}.{number + 1}.res.{i}.weight"] = (width, width, 3, 3)
        found[f"m_down{level}.4.weight"] = (2 * width, width, 2, 2)
        found[f"m_up{level}.0.weight"] = (2 * width, width, 2, 2)
    return found | {f"m_body.{number}.res.{i}.weight": (512, 512, 3, 3) for number in range(4) for i in (0, 2)}


def test_published_layout_fits() -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in published_shapes().items()}
    with torch.device("meta"):
        assert import_published(state).config == DRUNetConfig()
    assert recognise_tensors(state).systems == ("drunet",)
    size = 4 * sum(value.numel() for value in state.values())
    assert 0 < BYTES_PUBLISHED - size < 400 * len(state)
    del state["m_body.1.res.2.weight"]
    with torch.device("meta"), pytest.raises(WeightsError, match=r"missing \['body\.1\.change\.2\.weight'\]"):
        import_published(state)


@pytest.fixture
def model() -> DRUNet:
    torch.manual_seed(0)
    return DRUNet(DRUNetConfig.compact()).eval()


@torch.inference_mode()
def test_scaling_picture_and_noise_scales_the_answer(model: DRUNet) -> None:
    """No layer has a bias, so the network is homogeneous, which is why it serves noise it was not trained on."""
    image = torch.rand(1, 3, 24, 16)
    torch.testing.assert_close(model(0.5 * image, 10.0), 0.5 * model(image, 20.0))


@torch.inference_mode()
def test_noise_is_one_for_all_or_one_each(model: DRUNet) -> None:
    images = torch.rand(2, 3, 16, 16)
    each = model(images, torch.tensor([5.0, 40.0]))
    torch.testing.assert_close(each[1:], model(images[1:], 40.0))
    torch.testing.assert_close(model(images), model(images, model.config.noise))
    assert (each[:1] - model(images[:1], 40.0)).abs().max() > 1e-4


@pytest.mark.parametrize("noise", [-1.0, 60.0])
def test_other_noise_is_refused(model: DRUNet, noise: float) -> None:
    with pytest.raises(UsageError, match="0…50 grey levels"):
        model(torch.rand(1, 3, 16, 16), noise)


def test_sides_of_any_length(model: DRUNet) -> None:
    image = np.random.default_rng(0).integers(0, 256, (21, 35, 3), dtype=np.uint8)
    assert model.enlarge(image).shape == image.shape
