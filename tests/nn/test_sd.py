"""The U-Net of Stable Diffusion: published sizes and names, attention to tokens, and agreement with diffusers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from facewright.errors import UsageError
from facewright.nn.kl import KLAutoencoder, kl_layout
from facewright.nn.sd import Condition, JointAttention, SDLayout, SDUNet, TextAttention, from_diffusers

TINY = SDLayout(4, 4, 32, (1, 2), 1, (0,), heads=2, tokens=24)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(layout: SDLayout = TINY, asking: type[TextAttention] = TextAttention) -> SDUNet:
    torch.manual_seed(0)
    return SDUNet(layout, asking).eval()


@pytest.mark.parametrize(
    ("layout", "parameters"),
    [(SDLayout.sd1(), 859_520_964), (SDLayout.sd2(), 865_910_724), (SDLayout.sd2(9), 865_925_124)],
    ids=["SD 1", "SD 2", "SD 2 inpainting"],
)
def test_published_sizes(layout: SDLayout, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in SDUNet(layout).parameters()) == parameters


def test_published_names_and_shapes() -> None:
    """Of LDM's checkpoints, at the corners of the table."""
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in SDUNet(SDLayout.sd1()).state_dict().items()}
    assert len(shapes) == 686
    expected = {
        "time_embed.2.weight": (1280, 1280),
        "input_blocks.0.0.weight": (320, 4, 3, 3),
        "input_blocks.1.1.proj_in.weight": (320, 320, 1, 1),
        "input_blocks.1.1.transformer_blocks.0.attn1.to_out.0.bias": (320,),
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "input_blocks.1.1.transformer_blocks.0.ff.net.0.proj.weight": (2560, 320),
        "input_blocks.1.1.transformer_blocks.0.ff.net.2.weight": (320, 1280),
        "input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        "input_blocks.11.0.emb_layers.1.weight": (1280, 1280),
        "middle_block.1.transformer_blocks.0.norm3.weight": (1280,),
        "output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.11.0.in_layers.2.weight": (320, 640, 3, 3),
        "out.2.weight": (4, 320, 3, 3),
    }
    assert {key: shapes.get(key) for key in expected} == expected
    assert "input_blocks.10.1.norm.weight" not in shapes


def test_the_autoencoder_has_its_published_size() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in KLAutoencoder(kl_layout()).parameters()) == 83_653_863


@torch.no_grad()
def test_latents_are_drawn_around_their_means() -> None:
    torch.manual_seed(0)
    model = KLAutoencoder(kl_layout(32, 32, (1, 2))).eval()
    image = drawn(1, 3, 32, 32)
    mean = model.encode(image)
    assert mean.shape == (1, 4, 16, 16)
    draws = torch.cat([model.encode(image, torch.Generator().manual_seed(seed)) for seed in range(60)])
    assert (draws.mean(0) - mean[0]).abs().mean() < 0.25 * draws.std(0).mean()
    assert model(image).shape == image.shape


@torch.no_grad()
def test_the_joint_softmax_is_one_softmax() -> None:
    layer = JointAttention(16, 12, 2)
    x, text, picture = drawn(2, 5, 16), drawn(2, 7, 12, seed=1), drawn(2, 3, 12, seed=2)
    both = layer(x, Condition(text, picture))
    # with copied projections it is attention to all tokens in a row
    expected = TextAttention.forward(layer, x, Condition(torch.cat([text, picture], 1)))
    assert torch.allclose(both, expected, atol=1e-6)
    assert torch.allclose(layer(x, Condition(text)), TextAttention.forward(layer, x, Condition(text)))
    layer.to_visual_k.weight.mul_(3)
    assert not torch.allclose(layer(x, Condition(text, picture)), expected, atol=1e-4)
    assert torch.allclose(layer(x, Condition(text, picture.flip(1))), layer(x, Condition(text, picture)), atol=1e-6)


@torch.no_grad()
def test_calls_do_not_disturb_each_other() -> None:
    model, x, time = network(), drawn(1, 4, 8, 8), torch.tensor([5])
    first, second = Condition(drawn(1, 7, 24)), Condition(drawn(1, 7, 24, seed=1))
    before = model(x, time, first)
    assert not torch.equal(model(x, time, second), before)
    assert torch.equal(model(x, time, first), before)


def test_maps_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="multiple of 2"):
        network()(drawn(1, 4, 7, 8), torch.tensor([1]), Condition(drawn(1, 7, 24)))
    with pytest.raises(UsageError, match="not both"):
        SDLayout(heads=8, head_width=64)


@pytest.mark.parametrize("linear", [False, True], ids=["SD 1", "SD 2"])
@torch.no_grad()
def test_same_as_diffusers(linear: bool) -> None:
    """U-Net with the same weights under diffusers' names: equal outputs."""
    diffusers: Any = pytest.importorskip("diffusers", reason="diffusers is not installed")
    layout = SDLayout(4, 4, 32, (1, 2, 2), 2, (0, 1), heads=2, tokens=24, linear=linear)
    theirs = diffusers.UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64, 64),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=24,
        use_linear_projection=linear,
        norm_num_groups=32,
    ).eval()
    own = network(layout)
    own.load_state_dict(from_diffusers(theirs.state_dict(), layout))
    x, time, text = drawn(2, 4, 16, 16), torch.tensor([7, 731]), drawn(2, 9, 24, seed=1)
    expected = theirs(x, time, text).sample
    assert torch.allclose(own(x, time, Condition(text)), expected, atol=2e-5)
