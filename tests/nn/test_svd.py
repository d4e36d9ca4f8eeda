"""Stable Video Diffusion's networks: published sizes, time and places, and agreement with diffusers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from facewright.errors import UsageError
from facewright.nn.kl import KLAutoencoder, from_diffusers_kl, kl_layout
from facewright.nn.sd import SDLayout, from_diffusers
from facewright.nn.svd import FilmAutoencoder, Mixer, SVDUNet, from_diffusers_decoder

TINY = SDLayout(8, 4, 32, (1, 2), 1, (0,), heads=0, head_width=16, tokens=24, linear=True)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def heard(module: Any) -> Any:
    """With weights large enough that every part counts."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
            elif parameter.numel() == 1:
                parameter.fill_(0.3)
    return module.eval()


def test_published_sizes() -> None:
    with torch.device("meta"):
        unet, films = SVDUNet(SDLayout.sd2(8)), FilmAutoencoder(kl_layout())
    assert sum(p.numel() for p in unet.parameters()) == 1_524_623_082
    assert sum(p.numel() for p in films.parameters()) == 97_742_847


def test_a_mixer_mixes_as_published() -> None:
    a, b = torch.zeros(1), torch.ones(1)
    share = float(torch.sigmoid(torch.tensor(0.5)))
    assert Mixer(0.5)(a, b).item() == pytest.approx(1 - share)
    assert Mixer(0.5, turned=True)(a, b).item() == pytest.approx(share)


@torch.no_grad()
def test_frames_hear_their_neighbours_and_films_do_not() -> None:
    model = heard(SVDUNet(TINY))
    film, tokens = drawn(2, 4, 8, 8, 8), drawn(2, 4, 5, 24, seed=1)
    time, flags = torch.tensor([0.3, 1.0]), torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    both = model(film, time, tokens, flags)
    assert both.answer.shape == (2, 4, 4, 8, 8)
    assert both.middle.shape == (2, 4, 64, 4, 4)
    alone = model(film[1:], time[1:], tokens[1:], flags[1:])
    assert torch.allclose(both.answer[1:], alone.answer, atol=1e-4)
    changed = film.clone()
    changed[0, 3] += 1
    off = (model(changed, time, tokens, flags).answer - both.answer).abs().amax((2, 3, 4))
    assert (off[0] > 1e-4).all()
    assert off[1].max() < 1e-4
    for name, other in {
        "flags": (film, time, tokens, flags.roll(1, 1)),
        "time": (film, time + 1, tokens, flags),
        "tokens": (film, time, tokens.flip(3), flags),
    }.items():
        assert (model(*other).answer - both.answer).abs().max() > 1e-4, name
    with pytest.raises(UsageError, match="flags a film"):
        model(film, time, tokens, flags[:, :2])


BLOCK = "BlockSpatioTemporal"


def theirs_unet(diffusers: Any) -> Any:
    return diffusers.UNetSpatioTemporalConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=4,
        down_block_types=(
            "CrossAttnDownBlockSpatioTemporal",
            "CrossAttnDownBlockSpatioTemporal",
            "DownBlockSpatioTemporal",
        ),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        block_out_channels=(32, 64, 64),
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=768,
        layers_per_block=2,
        cross_attention_dim=24,
        num_attention_heads=(2, 4, 4),
    ).eval()


@torch.no_grad()
def test_unet_is_that_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers, with which this is compared, is not installed")
    layout = SDLayout(8, 4, 32, (1, 2, 2), 2, (0, 1), heads=0, head_width=16, tokens=24, linear=True)
    theirs, own = heard(theirs_unet(diffusers)), SVDUNet(layout).eval()
    own.load_state_dict(from_diffusers(theirs.state_dict(), layout))
    for key, norm in theirs.named_modules():
        if isinstance(norm, nn.GroupNorm):
            (name,) = from_diffusers({f"{key}.weight": torch.zeros(0)}, layout)
            own_norm = own.get_submodule(name.removesuffix(".weight"))
            assert isinstance(own_norm, nn.GroupNorm)
            assert own_norm.eps == norm.eps, key
    film, flags = drawn(2, 3, 8, 16, 16), torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    tokens = drawn(2, 5, 24, seed=1)  # one set a film is what theirs takes
    found = own(film, torch.tensor([0.4, 0.4]), tokens[:, None].expand(-1, 3, -1, -1), flags).answer
    expected = theirs(film, 0.4, tokens, flags).sample
    assert expected.std() > 0.1
    assert torch.allclose(found, expected, atol=2e-4 * float(expected.std()), rtol=1e-4)


@torch.no_grad()
def test_autoencoders_are_those_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers, with which this is compared, is not installed")
    layout, image = kl_layout(32, 32, (1, 2, 2)), drawn(6, 3, 32, 32).clamp(-1, 1)
    sizes: dict[str, Any] = {"block_out_channels": (32, 64, 64), "layers_per_block": 2, "latent_channels": 4}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    theirs = heard(diffusers.AutoencoderKL(norm_num_groups=32, **sizes, **blocks))
    own = KLAutoencoder(layout).eval()
    own.load_state_dict(from_diffusers_kl(theirs.state_dict()))
    mean = theirs.encode(image).latent_dist.mode()
    assert torch.allclose(own.encode(image) / 0.18215, mean, atol=1e-3 * float(mean.std()), rtol=1e-4)
    expected = theirs.decode(mean).sample
    assert torch.allclose(own.decode(mean * 0.18215), expected, atol=1e-3 * float(expected.std()), rtol=1e-4)

    theirs = heard(diffusers.AutoencoderKLTemporalDecoder(down_block_types=blocks["down_block_types"], **sizes))
    films = FilmAutoencoder(layout).eval()
    films.load_state_dict(from_diffusers_decoder(theirs.state_dict()))
    mean = theirs.encode(image).latent_dist.mode()
    assert torch.allclose(films.encode(image), mean, atol=1e-3 * float(mean.std()), rtol=1e-4)
    expected = theirs.decode(mean, num_frames=3).sample
    assert torch.allclose(films.decode(mean, 3), expected, atol=1e-3 * float(expected.std()), rtol=1e-4)
    assert films(image.unflatten(0, (2, 3))).shape == (2, 3, 3, 32, 32)
