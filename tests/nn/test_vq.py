"""The VQ auto-encoder: quantiser and losses against written-out formulas, trunk against its layer table, key maps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from scipy.stats import entropy

from facewright.errors import UsageError
from facewright.losses.vq import adaptive_weight, perplexity
from facewright.nn import vq
from facewright.nn.vq import vq_loss

SMALL = vq.VQLayout(
    size=32, width=32, multipliers=(1, 2, 2), attention_at=(8,), cross_at=(16, 8), heads=2, codes=16, code_dim=32
)


def small(**options) -> vq.VQAutoencoder:
    torch.manual_seed(0)
    return vq.VQAutoencoder(dataclasses.replace(SMALL, **options))


def deviation(ours: torch.Tensor, published) -> float:
    published = torch.as_tensor(published)
    assert ours.shape == published.shape
    return float((ours - published).abs().max() / published.abs().max())


# --- quantiser and losses


def book(codes: int = 20, dim: int = 6, **options) -> vq.VectorQuantiser:
    torch.manual_seed(1)
    quantiser = vq.VectorQuantiser(codes, dim, **options)
    with torch.no_grad():
        quantiser.codebook.normal_()
    return quantiser


def test_every_position_gets_its_nearest_code():
    quantiser, z = book(), torch.randn(2, 6, 4, 5)
    found = quantiser(z)
    _, nearest = cKDTree(quantiser.codebook.detach().numpy()).query(z.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(found.indices.numpy(), nearest)
    assert torch.equal(found.features.detach(), quantiser.lookup(found.indices).detach())


def test_gradient_passes_straight_through_and_the_loss_moves_both_sides():
    quantiser, z = book(beta=0.25), torch.randn(2, 6, 4, 5, requires_grad=True)
    found = quantiser(z)
    slope = torch.randn_like(z)
    (found.features * slope).sum().backward()
    torch.testing.assert_close(z.grad, slope)
    assert quantiser.codebook.grad is None

    z.grad = None
    found = quantiser(z)
    found.loss.backward()
    codes = quantiser.lookup(found.indices)
    torch.testing.assert_close(z.grad, 2 * (z - codes).detach() / z.numel())
    pulled = torch.zeros_like(quantiser.codebook).index_add_(
        0, found.indices.flatten(), (codes - z).detach().permute(0, 2, 3, 1).reshape(-1, 6)
    )
    torch.testing.assert_close(quantiser.codebook.grad, 0.25 * 2 * pulled / z.numel())


def test_distances_are_exact_under_autocast():
    quantiser, z = book(), torch.randn(2, 6, 4, 5)
    exact = quantiser(z).indices
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantiser(z).indices, exact)


def test_running_mean_finds_the_centres_of_clusters_and_revives_idle_codes():
    quantiser = book(codes=8, dim=2, ema=0.8)
    with torch.no_grad():
        quantiser.codebook.fill_(50.0)[0] = 0.0
        quantiser.sums.copy_(quantiser.codebook)
    centres = torch.tensor([[4.0, 0], [-4, 0], [0, 4], [0, -4]])
    for _ in range(60):
        points = centres[torch.randint(4, (256,))] + 0.05 * torch.randn(256, 2)
        quantiser(points.T.reshape(1, 2, 16, 16))
    assert torch.cdist(centres, quantiser.codebook.detach()).min(1).values.max() < 0.1
    before = quantiser.codebook.detach().clone()
    quantiser.eval()(torch.randn(1, 2, 16, 16))
    assert torch.equal(quantiser.codebook.detach(), before)
    assert not quantiser.codebook.requires_grad


def test_vq_loss_is_the_squared_error_once_for_each_side():
    a, b = torch.randn(2, 3, 5, requires_grad=True)
    loss = vq_loss(a, b, beta=0.3)
    assert float(loss.detach()) == pytest.approx(1.3 * float(F.mse_loss(a, b).detach()), rel=1e-6)


def test_perplexity_is_the_exponential_of_the_entropy():
    counts = np.array([5, 3, 0, 8])
    indices = torch.from_numpy(np.repeat(np.arange(4), counts))
    assert float(perplexity(indices, 4)) == pytest.approx(np.exp(entropy(counts)), rel=1e-6)
    assert float(perplexity(torch.zeros(9, dtype=torch.long), 4)) == pytest.approx(1)
    assert float(perplexity(torch.arange(4), 4)) == pytest.approx(4)


def test_adaptive_weight_balances_the_pull_on_the_last_layer():
    torch.manual_seed(0)
    last = torch.randn(3, 4, requires_grad=True)
    x = torch.randn(4)
    reconstruction, adversarial = (last @ x).square().sum(), 7 * (last @ x).sum()
    weight = adaptive_weight(reconstruction, adversarial, last, strength=0.8)
    pulls = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (reconstruction, adversarial)]
    assert float(weight * pulls[1]) == pytest.approx(0.8 * float(pulls[0]), rel=1e-3)
    assert not weight.requires_grad
    flat = adaptive_weight(1e9 * reconstruction, 0 * adversarial, last, strength=0.8)
    assert float(flat) == pytest.approx(0.8e4)


# --- trunk


def test_down_sampling_reads_beyond_the_right_and_the_bottom_only():
    down = vq.Downsample(1)
    with torch.no_grad():
        down.weight.zero_()[0, 0, 2, 2] = 1
        down.bias.zero_()
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert down(x)[0, 0].tolist() == [[10, 0], [0, 0]]


@torch.no_grad()
@pytest.mark.parametrize("shape", [(8, 8), (3, 6)])
def test_folded_up_sampling_is_the_same_function(shape):
    torch.manual_seed(0)
    layer, x = vq.Upsample(16), torch.randn(2, 16, *shape)
    torch.testing.assert_close(vq.FoldedUpsample(layer)(x), layer(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_inference_copy_agrees_and_leaves_the_network_alone():
    net = small().eval()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    exact, chosen = net(x)
    torch.testing.assert_close(vq.inference_copy(net, torch.float32)(x)[0], exact, rtol=1e-3, atol=1e-4)
    twin = vq.inference_copy(net, torch.bfloat16)
    assert twin.quantiser.codebook.dtype == torch.float32
    rough, _ = twin(x.bfloat16())
    assert (rough.float() - exact).abs().mean() < 0.05 * exact.abs().mean()
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert chosen.indices.shape == (1, 8, 8)


@torch.no_grad()
def test_taps_are_the_levels_and_the_middle():
    net = small().eval()
    latents, taps = net.encode(torch.randn(1, 3, 32, 32))
    assert [tuple(t.shape[1:]) for t in taps] == [(32, 32, 32), (64, 16, 16), (64, 8, 8), (64, 8, 8)]
    assert latents.shape == (1, 32, 8, 8)
    encoder = net.encoder
    torch.testing.assert_close(latents, net.before(encoder.conv_out(encoder.norm_out(taps[3]))))
    assert isinstance(encoder.norm_out[1], torch.nn.SiLU)
    assert len(small(swish_out=False).encoder.norm_out) == 1


@torch.no_grad()
def test_only_the_named_sides_ask_the_encoder():
    net = small().eval()
    codes, taps = torch.randn(1, 32, 8, 8), net.encode(torch.randn(1, 3, 32, 32))[1]
    plain = net.decode(codes, taps)
    for number, matters in enumerate([False, True, True, True]):
        changed = [t + (torch.randn_like(t) if i == number else 0) for i, t in enumerate(taps)]
        assert ((net.decode(codes, changed) - plain).abs().max() > 1e-5) == matters, number


def test_unknown_sides_are_refused():
    with pytest.raises(UsageError, match=r"\[24\]"):
        dataclasses.replace(SMALL, cross_at=(24,))


# --- published key layouts


def test_taming_keys_become_ours_without_the_idle_query_norms():
    net = small()
    ours = net.state_dict()
    published = {
        "encoder.conv_in.weight": "encoder.conv_in.weight",
        "encoder.down.1.block.0.nin_shortcut.weight": "encoder.levels.1.blocks.0.shortcut.weight",
        "encoder.down.0.downsample.conv.weight": "encoder.levels.0.resample.weight",
        "encoder.down.2.attn.1.norm1.weight": "encoder.levels.2.attentions.1.norm.weight",
        "encoder.mid.block_2.conv1.bias": "encoder.middle.second.conv1.bias",
        "decoder.mid.attn_1.norm2.weight": "decoder.middle.attention.norm_query.weight",
        "decoder.up.2.attn.2.proj_out.weight": "decoder.levels.0.attentions.2.out.weight",
        "decoder.up.0.block.0.nin_shortcut.bias": "decoder.levels.2.blocks.0.shortcut.bias",
        "decoder.up.2.upsample.conv.bias": "decoder.levels.0.resample.bias",
        "decoder.norm_out.weight": "decoder.norm_out.0.weight",
        "quantize.embedding.weight": "quantiser.codebook",
        "quant_conv.bias": "before.bias",
        "post_quant_conv.weight": "after.weight",
    }
    converted = vq.from_taming({key: ours[name] for key, name in published.items()}, SMALL)
    assert list(converted) == list(published.values())
    assert vq.from_taming({"encoder.mid.attn_1.norm2.bias": ours["before.bias"]}, SMALL) == {}
    assert list(vq.from_taming({"other.weight": ours["before.bias"]}, SMALL)) == ["other.weight"]


def test_flat_keys_follow_the_order_of_the_blocks():
    layout = dataclasses.replace(SMALL, cross_at=(), pointwise=False, decoder_blocks=2)
    value = torch.zeros(1)
    published = {
        "encoder.blocks.0.weight": "encoder.conv_in.weight",
        "encoder.blocks.3.conv.weight": "encoder.levels.0.resample.weight",
        "encoder.blocks.4.conv_out.weight": "encoder.levels.1.blocks.0.shortcut.weight",
        "encoder.blocks.8.proj_out.bias": "encoder.levels.2.attentions.0.out.bias",
        "encoder.blocks.15.bias": "encoder.conv_out.bias",
        "generator.blocks.2.norm.weight": "decoder.middle.attention.norm.weight",
        "generator.blocks.8.conv.bias": "decoder.levels.0.resample.bias",
        "generator.blocks.14.weight": "decoder.norm_out.0.weight",
    }
    assert list(vq.from_flat(dict.fromkeys(published, value), layout)) == list(published.values())


@pytest.mark.slow
@pytest.mark.shared
@torch.no_grad()
def test_flat_auto_encoder_equals_published(parity):
    arrays, state, _ = parity("codeformer-vq")
    layout = vq.VQLayout(decoder_blocks=2, pointwise=False, swish_out=False)
    net = vq.VQAutoencoder(layout)
    net.load_state_dict(vq.from_flat(state, layout))
    image, found = net(torch.from_numpy(arrays["in_image"]))
    assert np.array_equal(found.indices.flatten().numpy(), arrays["out_codes"])
    assert deviation(image[..., ::7, ::7], arrays["out_image"]) < 1e-4
    assert deviation(found.loss[None], arrays["out_codebook_loss"]) < 1e-4
