"""Real-ESRGAN: published keys and shapes of both forms, tiles, odd sides."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facewright.errors import UsageError, WeightsError
from facewright.systems.enlarge import tiles
from facewright.systems.enlarge.realesrgan.convert import import_published
from facewright.systems.enlarge.realesrgan.network import RealESRGAN, RealESRGANConfig
from facewright.weights.published import recognise_tensors

SHAPES = dict[str, tuple[int, ...]]


def conv(key: str, c_in: int, c_out: int) -> SHAPES:
    return {f"{key}.weight": (c_out, c_in, 3, 3), f"{key}.bias": (c_out,)}


def dense_shapes(scale: int) -> SHAPES:
    """BasicSR's RRDBNet, written out from its layer table."""
    found = conv("conv_first", 12 if scale == 2 else 3, 64)
    for number in range(23):
        for block in (1, 2, 3):
            for i in range(5):
                found |= conv(f"body.{number}.rdb{block}.conv{i + 1}", 64 + 32 * i, 64 if i == 4 else 32)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        found |= conv(name, 64, 64)
    return found | conv("conv_last", 64, 3)


def plain_shapes() -> SHAPES:
    """SRVGGNetCompact with 32 convolutions."""
    found = conv("body.0", 3, 64) | {"body.1.weight": (64,)}
    for number in range(1, 33):
        found |= conv(f"body.{2 * number}", 64, 64) | {f"body.{2 * number + 1}.weight": (64,)}
    return found | conv("body.66", 64, 48)


FILES = {
    "x4plus": (dense_shapes(4), RealESRGANConfig(), 67_040_989),
    "x2plus": (dense_shapes(2), RealESRGANConfig.x2(), 67_061_725),
    "general-x4v3": (plain_shapes(), RealESRGANConfig.general(), 4_885_111),
}


@pytest.mark.parametrize("name", FILES)
def test_published_layout_fits(name: str) -> None:
    shapes, config, bytes_published = FILES[name]
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    with torch.device("meta"):
        model = import_published(state)
    assert model.config == config
    assert recognise_tensors(state).systems == ("realesrgan",)
    size = 4 * sum(value.numel() for value in state.values())
    assert 0 < bytes_published - size < 400 * len(state)


def test_incomplete_file_is_refused() -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in plain_shapes().items()}
    del state["body.9.weight"]
    with torch.device("meta"), pytest.raises(WeightsError, match=r"missing \['net\.body\.9\.weight'\]"):
        import_published(state)


@pytest.mark.parametrize("config", [RealESRGANConfig.compact(), RealESRGANConfig("dense", 4, 8, 1),
                                    RealESRGANConfig("dense", 2, 8, 1)])  # fmt: skip
def test_sides_are_multiplied(config: RealESRGANConfig) -> None:
    torch.manual_seed(0)
    model = RealESRGAN(config).eval()
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    assert model.enlarge(image).shape == (37 * config.scale, 53 * config.scale, 3)


def test_tiles_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven convolutions see six pixels around them, less than a tile is drawn with."""
    torch.manual_seed(0)
    model = RealESRGAN(RealESRGANConfig.compact()).eval()
    image = np.random.default_rng(0).integers(0, 256, (90, 110, 3), dtype=np.uint8)
    whole = model.enlarge(image)
    monkeypatch.setattr(tiles, "TILE", 32)
    tiled = model.enlarge(image)
    assert np.abs(tiled.astype(int) - whole).max() <= 1


def test_plain_form_with_nothing_to_add_repeats_pixels() -> None:
    model = RealESRGAN(RealESRGANConfig.compact())
    torch.nn.init.zeros_(model.net.body[-1].weight)  # type: ignore[arg-type]
    torch.nn.init.zeros_(model.net.body[-1].bias)  # type: ignore[arg-type]
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    assert np.array_equal(model.enlarge(image), image.repeat(4, 0).repeat(4, 1))


def test_misuse() -> None:
    with pytest.raises(UsageError, match="2 or 4 times, not 3"):
        RealESRGAN(RealESRGANConfig(scale=3))
    with pytest.raises(UsageError, match="enlarge needs"):
        RealESRGAN(RealESRGANConfig.compact()).enlarge(np.zeros((4, 4), np.uint8))
