"""ReF-LDM's auto-encoder: published keys and shapes, latents and back, codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facewright.errors import WeightsError
from facewright.nn.vq import VQAutoencoder, from_taming
from facewright.systems.latents.refldm_vqgan.convert import import_published
from facewright.systems.latents.refldm_vqgan.network import RefLDMVQGAN, RefLDMVQGANConfig
from facewright.weights.published import recognise_tensors

SHAPES = dict[str, tuple[int, ...]]
WIDTHS = (128, 128, 256, 512)


def conv(key: str, c_in: int, c_out: int, kernel: int = 3) -> SHAPES:
    return {f"{key}.weight": (c_out, c_in, kernel, kernel), f"{key}.bias": (c_out,)}


def norm(key: str, width: int) -> SHAPES:
    return {f"{key}.weight": (width,), f"{key}.bias": (width,)}


def block(key: str, c_in: int, c_out: int) -> SHAPES:
    found = norm(f"{key}.norm1", c_in) | conv(f"{key}.conv1", c_in, c_out)
    found |= norm(f"{key}.norm2", c_out) | conv(f"{key}.conv2", c_out, c_out)
    return found | (conv(f"{key}.nin_shortcut", c_in, c_out, 1) if c_in != c_out else {})


def middle(key: str, width: int) -> SHAPES:
    found = block(f"{key}.mid.block_1", width, width) | block(f"{key}.mid.block_2", width, width)
    found |= norm(f"{key}.mid.attn_1.norm", width)
    for name in ("q", "k", "v", "proj_out"):
        found |= conv(f"{key}.mid.attn_1.{name}", width, width, 1)
    return found


def published_shapes() -> SHAPES:
    """The layout of latent-diffusion's VQModel with ReF-LDM's configuration, written out from its layer table."""
    found = conv("encoder.conv_in", 3, 128) | middle("encoder", 512)
    c_in = 128
    for level, width in enumerate(WIDTHS):
        for number in range(2):
            found |= block(f"encoder.down.{level}.block.{number}", c_in, width)
            c_in = width
        if level < 3:
            found |= conv(f"encoder.down.{level}.downsample.conv", width, width)
    found |= norm("encoder.norm_out", 512) | conv("encoder.conv_out", 512, 8)
    found |= conv("decoder.conv_in", 8, 512) | middle("decoder", 512)
    for level in range(3, -1, -1):
        for number in range(3):
            found |= block(f"decoder.up.{level}.block.{number}", c_in, WIDTHS[level])
            c_in = WIDTHS[level]
        if level:
            found |= conv(f"decoder.up.{level}.upsample.conv", c_in, c_in)
    found |= norm("decoder.norm_out", 128) | conv("decoder.conv_out", 128, 3)
    found |= {"quantize.embedding.weight": (8192, 8)}
    return found | conv("quant_conv", 8, 8, 1) | conv("post_quant_conv", 8, 8, 1)


def test_published_layout_fits() -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in published_shapes().items()}
    state["loss.discriminator.main.0.weight"] = torch.empty(64, 3, 4, 4, device="meta")
    with torch.device("meta"):
        model = import_published(state)
    assert model.config == RefLDMVQGANConfig()
    assert model.config.layout.stride == 8
    assert recognise_tensors(state).systems == ("refldm_vqgan",)
    del state["decoder.up.1.upsample.conv.bias"]
    with torch.device("meta"), pytest.raises(WeightsError, match="1 tensors missing"):
        import_published(state)


@pytest.fixture
def model() -> RefLDMVQGAN:
    torch.manual_seed(0)
    made = RefLDMVQGAN(RefLDMVQGANConfig.compact()).eval()
    with torch.no_grad():
        made.net.quantiser.codebook.normal_(std=0.5)
    return made


@torch.inference_mode()
def test_latents_and_back_are_the_network(model: RefLDMVQGAN) -> None:
    model.precision = "fp32"
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    latents = model.encode(pictures)
    assert (latents.shape, latents.dtype) == ((2, 4, 16, 16), np.float32)
    image, quantised = model(model.normalise(pictures))
    wanted = image.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.abs(model.decode(latents).astype(int) - wanted).max() <= 1
    assert len(quantised.indices.unique()) > 1


@torch.inference_mode()
def test_decoding_looks_codes_up(model: RefLDMVQGAN) -> None:
    """Latents next to their codes decode to the same picture as the codes themselves."""
    codes = model.net.quantiser.codebook[torch.arange(16).view(1, 4, 4)].permute(0, 3, 1, 2).numpy()
    nearby = codes + np.random.default_rng(0).normal(0, 1e-3, codes.shape).astype(np.float32)
    assert model.decode(codes).shape == (1, 16, 16, 3)
    assert np.array_equal(model.decode(nearby), model.decode(codes))


def test_nothing_in_nothing_out(model: RefLDMVQGAN) -> None:
    assert model.encode(np.zeros((0, 64, 64, 3), np.uint8)).shape == (0, 4, 16, 16)
    assert model.decode(np.zeros((0, 4, 16, 16), np.float32)).shape == (0, 64, 64, 3)


# --- the published code of latent-diffusion's auto-encoders, recorded at a smaller size


@pytest.mark.shared
@torch.inference_mode()
def test_latent_diffusions_autoencoder_computes_the_same(parity) -> None:
    """IDiff-Face's VQ-f4 is this network with three levels instead of four."""
    arrays, state, _ = parity("idiffface-vqf4")
    layout = RefLDMVQGANConfig(size=64, multipliers=(1, 2, 4), code_dim=3).layout
    net = VQAutoencoder(layout).eval()
    net.load_state_dict(from_taming(state, layout))

    def deviation(ours: torch.Tensor, name: str) -> float:
        theirs = torch.from_numpy(arrays[name])
        return float((ours - theirs).abs().max() / theirs.abs().max())

    latent = torch.from_numpy(arrays["in_latent"])
    assert deviation(net.encode(torch.from_numpy(arrays["in_image"]))[0], "out_encoded") < 1e-4
    codes = net.quantiser(latent)
    assert np.array_equal(codes.indices.flatten().numpy(), arrays["out_indices"])
    assert deviation(codes.features, "out_quantised") < 1e-4
    assert deviation(net.decode(codes.features), "out_decoded") < 1e-4
    assert deviation(net.decode(latent), "out_decoded_unquantised") < 1e-4
