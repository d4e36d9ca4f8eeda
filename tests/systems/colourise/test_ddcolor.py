"""DDColor: published keys and shapes, spectral norms divided out, the mixing of colours, lightness kept."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from facewright.errors import UsageError, WeightsError
from facewright.systems.colourise.ddcolor.convert import import_published, without_spectral_norm
from facewright.systems.colourise.ddcolor.network import Attention, DDColor, DDColorConfig, Shuffle, wave_positions
from facewright.weights.published import recognise_tensors

SHAPES = dict[str, tuple[int, ...]]
LARGE = ((192, 384, 768, 1536), (3, 3, 27, 3), DDColorConfig())
TINY = ((96, 192, 384, 768), (3, 3, 9, 3), DDColorConfig.tiny())


def both(key: str, weight: tuple[int, ...], bias: int | None = None) -> SHAPES:
    return {f"{key}.weight": weight, f"{key}.bias": (bias or weight[0],)}


def spectral(key: str, c_out: int, c_in: int, kernel: int, *, bias: bool = False) -> SHAPES:
    found: SHAPES = {
        f"{key}.weight_orig": (c_out, c_in, kernel, kernel),
        f"{key}.weight_u": (c_out,),
        f"{key}.weight_v": (c_in * kernel**2,),
    }
    return found | ({f"{key}.bias": (c_out,)} if bias else {})


def norm(key: str, width: int) -> SHAPES:
    return {f"{key}.{name}": (width,) for name in ("weight", "bias", "running_mean", "running_var")} | {
        f"{key}.num_batches_tracked": ()
    }


def trunk(widths: tuple[int, ...], blocks: tuple[int, ...]) -> SHAPES:
    arch = "encoder.arch"
    found = both(f"{arch}.downsample_layers.0.0", (widths[0], 3, 4, 4))
    found |= both(f"{arch}.downsample_layers.0.1", (widths[0],))
    for stage, (a, b) in enumerate(zip(widths, widths[1:]), 1):
        found |= both(f"{arch}.downsample_layers.{stage}.0", (a,))
        found |= both(f"{arch}.downsample_layers.{stage}.1", (b, a, 2, 2))
    for stage, (width, count) in enumerate(zip(widths, blocks)):
        for number in range(count):
            key = f"{arch}.stages.{stage}.{number}"
            found |= (
                {f"{key}.gamma": (width,)} | both(f"{key}.dwconv", (width, 1, 7, 7)) | both(f"{key}.norm", (width,))
            )
            found |= both(f"{key}.pwconv1", (4 * width, width)) | both(f"{key}.pwconv2", (width, 4 * width))
        found |= both(f"{arch}.norm{stage}", (width,))
    return found | both(f"{arch}.norm", (widths[-1],))


def pixel_decoder(widths: tuple[int, ...]) -> SHAPES:
    found: SHAPES = {}
    c_in = widths[3]
    for number, (skip, c_out) in enumerate(zip(widths[2::-1], (512, 512, 256))):
        key = f"decoder.layers.{number}"
        found |= spectral(f"{key}.shuf.conv.0", 4 * c_out, c_in, 1) | norm(f"{key}.shuf.conv.1", 4 * c_out)
        found |= norm(f"{key}.bn", skip)
        found |= spectral(f"{key}.conv.0", c_out, c_out + skip, 3) | norm(f"{key}.conv.2", c_out)
        c_in = c_out
    return found | spectral("decoder.last_shuf.conv.0", 4096, 256, 1, bias=True)


def colour_decoder() -> SHAPES:
    key = "decoder.color_decoder"
    found: SHAPES = {
        f"{key}.query_feat.weight": (100, 256),
        f"{key}.query_embed.weight": (100, 256),
        f"{key}.level_embed.weight": (3, 256),
    }
    for number in range(9):
        for kind, name in (("cross", "multihead_attn"), ("self", "self_attn")):
            layer = f"{key}.transformer_{kind}_attention_layers.{number}"
            found |= {f"{layer}.{name}.in_proj_weight": (768, 256), f"{layer}.{name}.in_proj_bias": (768,)}
            found |= both(f"{layer}.{name}.out_proj", (256, 256)) | both(f"{layer}.norm", (256,))
        layer = f"{key}.transformer_ffn_layers.{number}"
        found |= both(f"{layer}.linear1", (2048, 256)) | both(f"{layer}.linear2", (256, 2048))
        found |= both(f"{layer}.norm", (256,))
    for number, width in enumerate((512, 512, 256)):
        found |= both(f"{key}.input_proj.{number}", (256, width, 1, 1))
    for number in range(3):
        found |= both(f"{key}.color_embed.layers.{number}", (256, 256))
    return found | both(f"{key}.decoder_norm", (256,))


def published_shapes(widths: tuple[int, ...], blocks: tuple[int, ...]) -> SHAPES:
    """The layout of piddnad/DDColor, written out from its layer tables."""
    found = trunk(widths, blocks) | pixel_decoder(widths) | colour_decoder()
    return found | spectral("refine_net.0.0", 2, 103, 1, bias=True)


@pytest.mark.parametrize(
    ("widths", "blocks", "config", "published"),
    [(*LARGE, 911_950_059), (*TINY, 220_393_145)],
    ids=["large", "tiny"],
)
def test_published_layouts_fit(
    widths: tuple[int, ...], blocks: tuple[int, ...], config: DDColorConfig, published: int
) -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in published_shapes(widths, blocks).items()}
    with torch.device("meta"):
        assert import_published(state).config == config
    assert recognise_tensors(state).systems == ("ddcolor",)
    size = 4 * sum(value.numel() for value in state.values())
    assert 0 < published - size < 450 * len(state)
    del state["decoder.layers.1.bn.running_var"]
    with torch.device("meta"), pytest.raises(WeightsError, match=r"missing \['ups\.1\.norm_skip\.running_var'\]"):
        import_published(state)


@torch.no_grad()
def test_spectral_norms_are_divided_out() -> None:
    """Against torch's own, which made the published files."""
    torch.manual_seed(0)
    conv = nn.utils.spectral_norm(nn.Conv2d(3, 5, 3, bias=False), n_power_iterations=4)
    x = torch.randn(1, 3, 6, 6)
    expected = conv.eval()(x)
    plain = without_spectral_norm({f"a.{key}": value for key, value in conv.state_dict().items()})
    assert list(plain) == ["a.weight"]
    torch.testing.assert_close(F.conv2d(x, plain["a.weight"]), expected)


@torch.inference_mode()
def test_attention_is_torchs_with_the_published_names() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(16, 4).eval(), nn.MultiheadAttention(16, 4, batch_first=True).eval()
    ours.load_state_dict({
        "qkv.weight": theirs.in_proj_weight, "qkv.bias": theirs.in_proj_bias,
        "out.weight": theirs.out_proj.weight, "out.bias": theirs.out_proj.bias,
    })  # fmt: skip
    q, k, v = torch.randn(2, 5, 16), torch.randn(2, 9, 16), torch.randn(2, 9, 16)
    torch.testing.assert_close(ours(q, k, v), theirs(q, k, v, need_weights=False)[0], atol=1e-5, rtol=1e-5)


def test_positions_are_waves_of_rows_then_columns() -> None:
    found = wave_positions(3, 5, 8, torch.device("cpu")).view(3, 5, 8)
    assert torch.equal(found[:, 0, :4], found[:, 4, :4])  # rows do not depend on the column
    assert torch.equal(found[0, :, 4:], found[2, :, 4:])
    row = torch.tensor(2 / 3 * 2 * np.pi)  # the second of three
    wanted = torch.stack((row.sin(), row.cos(), (row / 100).sin(), (row / 100).cos()))
    torch.testing.assert_close(found[1, 0, :4], wanted.float(), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_enlarging_averages_with_above_and_left() -> None:
    torch.manual_seed(0)
    shuffle = Shuffle(4, 2, 2, norm=False).eval()
    x = torch.randn(1, 4, 3, 3)
    y = F.pixel_shuffle(F.relu(shuffle.conv(x)), 2)
    found = shuffle(x)
    assert found.shape == (1, 2, 6, 6)
    torch.testing.assert_close(found[..., 3, 4], y[..., 2:4, 3:5].mean((2, 3)))
    torch.testing.assert_close(found[..., 0, 0], y[..., 0, 0])


@pytest.fixture
def model() -> DDColor:
    torch.manual_seed(0)
    return DDColor(DDColorConfig.compact()).eval()


@torch.inference_mode()
def test_colours_are_mixed_as_published(model: DDColor) -> None:
    """The published form asks every pixel how much of each of the colours it wants, then mixes a hundred maps."""
    image, features = torch.randn(2, 3, 8, 8), torch.randn(2, 32, 8, 8)
    colours = torch.randn(2, 12, 32)
    asked = torch.einsum("nqc,nchw->nqhw", colours, features)
    expected = model.mix(torch.cat((asked, image), 1))
    torch.testing.assert_close(model._mixed(image, features, colours), expected, atol=1e-4, rtol=1e-4)


def test_lightness_stays_and_colours_of_the_input_do_not_count(model: DDColor) -> None:
    with torch.no_grad():
        model.mix.bias.copy_(torch.tensor([8.0, -12.0]))
    rng = np.random.default_rng(0)
    grey = np.asarray(cv2.GaussianBlur(rng.integers(60, 190, (90, 70), dtype=np.uint8), (0, 0), 3), np.uint8)
    image = np.repeat(grey[..., None], 3, 2)
    coloured = model.colourise(image)
    assert (coloured.shape, coloured.dtype) == (image.shape, np.uint8)
    lab, before = (cv2.cvtColor(x.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for x in (coloured, image))
    assert np.abs(lab[..., 0] - before[..., 0]).mean() < 0.5
    assert np.abs(lab[..., 1:]).mean() > 3
    again = model.colourise(coloured)
    assert np.abs(again.astype(int) - coloured).mean() < 1


def test_refusals(model: DDColor) -> None:
    with pytest.raises(UsageError, match="sides of 32 times n"):
        model(torch.zeros(1, 3, 33, 64))
    with pytest.raises(UsageError, match=r"\(H, W, 3\) uint8"):
        model.colourise(np.zeros((4, 4), np.uint8))
    with pytest.raises(UsageError, match="divisible by 32"):
        DDColor(DDColorConfig(size=500))
