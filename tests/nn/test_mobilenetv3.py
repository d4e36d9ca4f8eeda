"""MobileNetV3: the published network's taps, and the blocks' rules."""

from __future__ import annotations

import pytest
import torch

from facewright.errors import UsageError
from facewright.nn.inference import folded_copy
from facewright.nn.mobilenetv3 import InvertedResidual, MobileNetV3, Row, SqueezeExcite, multiple_of_8, trunk_state


@pytest.mark.shared
@torch.inference_mode()
def test_taps_equal_published(parity) -> None:
    arrays, state, _ = parity("segface-mobilenet")
    network = MobileNetV3().eval()
    trunk = {k.replace("backbone.", "features."): v for k, v in state.items() if k.startswith("backbone.")}
    network.load_state_dict(trunk_state(trunk | {"classifier.0.weight": torch.zeros(1)}))
    for index, features in enumerate(network(torch.from_numpy(arrays["in_image"]))):
        expected = torch.from_numpy(arrays[f"out_tap_{index}"])
        assert features.shape == expected.shape
        assert (features - expected).abs().max() < 1e-4 * expected.abs().max()


def test_published_size_and_widths() -> None:
    network = MobileNetV3()
    assert sum(p.numel() for p in network.parameters()) == 2_971_952  # torchvision's features
    assert network.widths == (24, 40, 112, 960)
    assert [tuple(m.shape[2:]) for m in network.eval()(torch.zeros(1, 3, 64, 96))] == [
        (16, 24),
        (8, 12),
        (4, 6),
        (2, 3),
    ]


def test_input_is_added_only_where_it_fits() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 16, 8, 8)
    for row, added in ((Row(3, 32, 16, True, "relu", 1), True), (Row(3, 32, 24, False, "hardswish", 1), False)):
        block = InvertedResidual(16, row).eval()
        torch.nn.init.zeros_(block.block[-1][1].weight)  # type: ignore[index]
        expected = x if added else torch.zeros(1, row.out, 8, 8)
        torch.testing.assert_close(block(x), expected)


def test_squeeze_and_excite_weighs_channels() -> None:
    layer = SqueezeExcite(4, 8)
    torch.nn.init.zeros_(layer.fc2.weight)
    layer.fc2.bias.data = torch.tensor([3.0, -3.0, 0.0, 1.5])
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(layer(x), x * torch.tensor([1, 0, 0.5, 0.75])[:, None, None])


@pytest.mark.parametrize(("value", "expected"), [(18, 24), (30, 32), (4, 8), (168, 168), (240, 240), (11, 16)])
def test_widths_are_multiples_of_8(value: float, expected: int) -> None:
    assert multiple_of_8(value) == expected


@torch.inference_mode()
def test_folded_form_is_the_same_function() -> None:
    torch.manual_seed(0)
    network = MobileNetV3((Row(3, 16, 16, True, "relu", 2),), last=0, taps=(0, 1))
    network(torch.randn(4, 3, 32, 32))
    network.eval()
    x = torch.randn(1, 3, 32, 32)
    for ours, folded in zip(network(x), folded_copy(network, torch.float32)(x)):
        torch.testing.assert_close(folded, ours, atol=1e-5, rtol=1e-4)


def test_taps_beyond_the_end_are_refused() -> None:
    with pytest.raises(UsageError, match="modules 0 to 16"):
        MobileNetV3(taps=(3, 17))
