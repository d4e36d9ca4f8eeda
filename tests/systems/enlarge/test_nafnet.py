"""NAFNet: published keys and shapes of all five files, start, sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facewright.errors import WeightsError
from facewright.systems.enlarge.nafnet.convert import convert_published, import_published
from facewright.systems.enlarge.nafnet.network import ChannelNorm, NAFNet, NAFNetConfig
from facewright.weights.published import recognise_tensors

SHAPES = dict[str, tuple[int, ...]]


def block(key: str, w: int) -> SHAPES:
    shapes: SHAPES = {f"{key}.beta": (1, w, 1, 1), f"{key}.gamma": (1, w, 1, 1)}
    for name, shape in (("conv1", (2 * w, w, 1, 1)), ("conv2", (2 * w, 1, 3, 3)), ("conv3", (w, w, 1, 1)),
                        ("sca.1", (w, w, 1, 1)), ("conv4", (2 * w, w, 1, 1)), ("conv5", (w, w, 1, 1)),
                        ("norm1", (w,)), ("norm2", (w,))):  # fmt: skip
        shapes |= {f"{key}.{name}.weight": shape, f"{key}.{name}.bias": shape[:1]}
    return shapes


def published_shapes(width: int, encoder: tuple[int, ...], middle: int, decoder: tuple[int, ...]) -> SHAPES:
    """The layout of megvii-research/NAFNet, written out from its layer table."""
    found: SHAPES = {"intro.weight": (width, 3, 3, 3), "intro.bias": (width,)}
    found |= {"ending.weight": (3, width, 3, 3), "ending.bias": (3,)}
    w = width
    for level, count in enumerate(encoder):
        for number in range(count):
            found |= block(f"encoders.{level}.{number}", w)
        found |= {f"downs.{level}.weight": (2 * w, w, 2, 2), f"downs.{level}.bias": (2 * w,)}
        w *= 2
    for number in range(middle):
        found |= block(f"middle_blks.{number}", w)
    for level, count in enumerate(decoder):
        found |= {f"ups.{level}.0.weight": (2 * w, w, 1, 1)}
        w //= 2
        for number in range(count):
            found |= block(f"decoders.{level}.{number}", w)
    return found


NOISE, BLUR = ((2, 2, 4, 8), 12, (2, 2, 2, 2)), ((1, 1, 1, 28), 1, (1, 1, 1, 1))
FILES = {
    "sidd-w32": (32, NOISE, NAFNetConfig(), 116_861_841),
    "sidd-w64": (64, NOISE, NAFNetConfig.sidd64(), 464_154_961),
    "gopro-w32": (32, BLUR, NAFNetConfig.gopro32(), 68_671_121),
    "gopro-w64": (64, BLUR, NAFNetConfig.gopro64(), 271_778_961),
    "reds-w64": (64, BLUR, NAFNetConfig.gopro64(), 271_756_689),
}


@pytest.mark.parametrize("name", FILES)
def test_published_layout_fits(name: str) -> None:
    width, blocks, config, bytes_published = FILES[name]
    state = {k: torch.empty(s, device="meta") for k, s in published_shapes(width, *blocks).items()}
    with torch.device("meta"):
        assert import_published(state).config == config
    assert recognise_tensors(state).systems == ("nafnet",)
    size = 4 * sum(value.numel() for value in state.values())
    assert 0 < bytes_published - size < 400 * len(state)


def test_incomplete_file_is_refused() -> None:
    state = {k: torch.empty(s, device="meta") for k, s in published_shapes(32, *NOISE).items()}
    del state["middle_blks.3.sca.1.bias"]
    with torch.device("meta"), pytest.raises(WeightsError, match=r"missing \['middle\.3\.attention\.bias'\]"):
        import_published(state)


def test_key_map_is_one_to_one() -> None:
    state = {k: torch.empty(s, device="meta") for k, s in published_shapes(32, *BLUR).items()}
    assert len(convert_published(state)) == len(state)


def test_norm_is_over_the_channels_of_a_pixel() -> None:
    x = torch.randn(1, 4, 2, 3) * torch.tensor([1.0, 10.0, 100.0]) + 7
    out = ChannelNorm(4)(x)
    assert torch.allclose(out.mean(1), torch.zeros(1, 2, 3), atol=1e-5)
    assert torch.allclose(out.var(1, unbiased=False), torch.ones(1, 2, 3), atol=1e-4)


def test_network_whose_last_layer_is_nothing_gives_the_picture() -> None:
    model = NAFNet(NAFNetConfig.compact())
    torch.nn.init.zeros_(model.ending.weight)
    torch.nn.init.zeros_(model.ending.bias)
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    assert np.array_equal(model.enlarge(image), image)
    assert model.scale == 1
