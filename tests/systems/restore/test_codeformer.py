"""CodeFormer: parity with the published network, the dial, the colour transfer, gradients and foreign checkpoints."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from facewright.errors import UsageError, WeightsError
from facewright.systems.restore.codeformer import convert
from facewright.systems.restore.codeformer import network as cf
from facewright.systems.restore.codeformer.network import CodeFormer, CodeFormerConfig, adaptive_instance_norm

TINY = CodeFormerConfig(
    size=32,
    width=32,
    multipliers=(1, 1, 2),
    attention_at=(8,),
    codes=16,
    code_dim=32,
    layers=2,
    heads=2,
    dim=32,
    fuse_at=(16,),
)


def build(config: CodeFormerConfig = TINY, seed: int = 0) -> CodeFormer:
    torch.manual_seed(seed)
    model = CodeFormer(config)
    with torch.no_grad():
        model.net.quantiser.codebook.normal_()
    return model.eval()


def image(count: int = 1, seed: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def deviation(ours: torch.Tensor, published) -> float:
    published = torch.as_tensor(published)
    assert ours.shape == published.shape
    return float((ours - published).abs().max() / published.abs().max())


@pytest.mark.slow
@pytest.mark.shared
@torch.no_grad()
def test_output_equals_published(parity):
    arrays, state, _ = parity("codeformer")
    model = convert.import_published({"params_ema": state})
    x = torch.from_numpy(arrays["in_image"])
    out, aux = model(x, fidelity=0.5, return_aux=True)
    assert np.array_equal(aux["logits"].argmax(2).flatten().numpy(), arrays["out_codes"])
    assert deviation(aux["features"][..., ::3, ::3], arrays["out_feat_lq"]) < 1e-4
    assert deviation(aux["logits"][:, ::17], arrays["out_logits"]) < 1e-4
    assert deviation(out[..., ::7, ::7], arrays["out_image_w05_adain"]) < 1e-4
    assert deviation(model(x, fidelity=0.0, adain=False)[..., ::7, ::7], arrays["out_image_w0"]) < 1e-4


@pytest.mark.shared
def test_every_published_tensor_has_its_place(shared_dir):
    with np.load(shared_dir / "parity" / "codeformer.npz") as archive:
        manifest = json.loads(str(archive["manifest"]))
    published = {key: torch.empty(entry["shape"], device="meta") for key, entry in manifest.items()}
    with torch.device("meta"):
        own = CodeFormer().state_dict()
    converted = convert.convert_published({"params_ema": published})
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in own.items()}
    assert len(converted) == len(published)


def test_full_size_has_the_counted_parameters():
    with torch.device("meta"):
        assert sum(p.numel() for p in CodeFormer().parameters()) == 94_112_707


@torch.no_grad()
def test_fidelity_zero_paints_the_codes_alone_and_the_dial_is_linear_in_the_change():
    model = build()
    x = image()
    features, _ = model.net.encode(x)
    chosen = model(x, return_aux=True)[1]["logits"].argmax(2).view(1, 8, 8)
    painted = model.net.decoder(model.net.quantiser.lookup(chosen))
    torch.testing.assert_close(model(x, fidelity=0.0, adain=False), painted)
    coloured = model.net.decoder(adaptive_instance_norm(model.net.quantiser.lookup(chosen), features))
    torch.testing.assert_close(model(x, fidelity=0.0), coloured)
    block, (painted, picture) = model.transforms["16"], torch.randn(2, 1, 32, 16, 16)
    half, full = (block(painted, picture=picture, w=w) - painted for w in (0.5, 1.0))
    torch.testing.assert_close(2 * half, full)
    assert full.abs().max() > 1e-2


@torch.no_grad()
def test_only_the_named_sides_are_transformed():
    model, x = build(), image()
    _, taps = model.net.encode(x)
    assert list(model._transforms(taps, 1.0)) == [1]
    changed = model._transforms([torch.zeros_like(t) for t in taps], 1.0)[1]
    painted = torch.randn(1, 32, 16, 16)
    assert (changed(painted) - model._transforms(taps, 1.0)[1](painted)).abs().max() > 1e-3


def test_adaptive_instance_norm_gives_the_moments_of_the_style():
    content, style = 3 * torch.randn(2, 4, 8, 8) + 1, 0.5 * torch.randn(2, 4, 8, 8) - 2
    mixed = adaptive_instance_norm(content, style)
    torch.testing.assert_close(mixed.mean((2, 3)), style.mean((2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed.std((2, 3)), style.std((2, 3)), rtol=1e-3, atol=1e-4)
    order = content.flatten(2).argsort(2)
    assert torch.equal(mixed.flatten(2).argsort(2), order)


def test_learning_reaches_all_but_the_dictionary_and_the_painter():
    model = build().train()
    out, aux = model(image(2), return_aux=True)
    (out.square().mean() + aux["logits"].square().mean() + aux["features"].square().mean()).backward()
    silent = [k for k, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert silent == []
    frozen = {k.split(".")[1] for k, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"quantiser", "decoder"}
    model.zero_grad()
    model(image(2)).square().mean().backward()
    assert all(p.grad is None for p in model.transformer.parameters())  # codes pass no gradient on


def test_transforms_learn_from_constants_in_either_memory_format():
    block, (painted, picture) = cf.FeatureTransform(32), torch.randn(2, 1, 32, 16, 16)
    gradients = []
    for layout in (torch.contiguous_format, torch.channels_last):
        block.zero_grad()
        out = block(painted.contiguous(memory_format=layout), picture=picture.contiguous(memory_format=layout), w=1.0)
        out.square().mean().backward()
        gradients.append(block.join.conv1.weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)


@torch.no_grad()
def test_restore_is_the_network_in_pixels_with_both_switches():
    model = build()
    model.precision = "fp32"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    choices: tuple[dict[str, Any], ...] = ({"fidelity": 0.3}, {"fidelity": 0.3, "adain": False})
    for options in choices:
        expected = model(model.normalise(pixels), **options).add(1).mul(127.5).round().clamp(0, 255)
        error = model.restore(pixels, **options) - expected.permute(0, 2, 3, 1).numpy()
        assert np.abs(error).max() <= 1
    assert not np.array_equal(model.restore(pixels), model.restore(pixels, adain=False))


def test_foreign_and_partial_checkpoints_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(cf, "CodeFormer", build)
    with pytest.raises(WeightsError, match=r"is closest to RestoreFormer\+\+: \d+ tensors missing"):
        convert.import_published({"vqvae.decoder.up.4.attn.0.q.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"is closest to CodeFormer: \d+ tensors missing"):
        convert.import_published({"ft_layers.0.linear1.weight": torch.zeros(1)})


def test_wrong_input_is_refused():
    with pytest.raises(UsageError, match=r"\(N, 3, 32, 32\)"):
        build()(torch.zeros(1, 3, 64, 64))
    with pytest.raises(UsageError, match="fidelity"):
        build()(image(), fidelity=-0.1)
    with pytest.raises(UsageError, match=r"fuse_at \[8\]"):
        CodeFormer(dataclasses.replace(TINY, fuse_at=(8,)))
