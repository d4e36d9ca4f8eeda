"""RestoreFormer: parity with the published networks, the dictionary, the dial, training and foreign checkpoints."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from facewright.errors import UsageError, WeightsError
from facewright.nn.mmrb import MMRB
from facewright.systems.restore.restoreformer import convert
from facewright.systems.restore.restoreformer.network import RestoreFormer, RestoreFormerConfig
from facewright.systems.restore.restoreformer.training import DictionaryTraining, RestorationTraining
from facewright.weights.published import load_converted

TINY = RestoreFormerConfig(
    size=32, width=32, multipliers=(1, 1, 2), attention_at=(8,), cross_at=(16, 8), codes=16, code_dim=32
)
TINY_DICTIONARY = dataclasses.replace(TINY, cross_at=())
VECTORS = {"rohqd": "restoreformer-rohqd", "restoreformer++": "restoreformer", "restoreformer": "restoreformer-v1"}
IDLE_NORMS = {"rohqd": 7, "restoreformer++": 3, "restoreformer": 3}  # of 512 channels, in self-attention


def build(config: RestoreFormerConfig = TINY, seed: int = 0) -> RestoreFormer:
    torch.manual_seed(seed)
    model = RestoreFormer(config)
    with torch.no_grad():
        model.net.quantiser.codebook.normal_()
    return model.eval()


def crops(count: int = 2, size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def deviation(ours: torch.Tensor, published) -> float:
    published = torch.as_tensor(published)
    assert ours.shape == published.shape
    return float((ours - published).abs().max() / published.abs().max())


def stand_ins(shared_dir, name: str) -> dict[str, torch.Tensor]:
    """Tensors without values in the shapes of a published state dict."""
    with np.load(shared_dir / "parity" / f"{name}.npz") as archive:
        manifest = json.loads(str(archive["manifest"]))
    return {key: torch.empty(entry["shape"], device="meta") for key, entry in manifest.items()}


# --- the published networks


@pytest.mark.slow
@pytest.mark.shared
@torch.no_grad()
@pytest.mark.parametrize("variant", VECTORS)
def test_output_equals_published(parity, variant):
    arrays, state, _ = parity(VECTORS[variant])
    model = convert.import_published({"state_dict": {f"vqvae.{k}": v for k, v in state.items()}}, variant)
    out, aux = model(torch.from_numpy(arrays["in_image"]), return_aux=True)
    assert np.array_equal(aux["codes"].flatten().numpy(), arrays["out_codes"])
    assert deviation(out[..., ::7, ::7], arrays["out_image"]) < 1e-4
    assert deviation(aux["code_loss"][None], arrays["out_codebook_loss"]) < 1e-4


@pytest.mark.shared
@pytest.mark.parametrize("variant", VECTORS)
def test_every_published_tensor_has_its_place(shared_dir, variant):
    published = stand_ins(shared_dir, VECTORS[variant])
    converted = convert.convert_published(published, variant)
    with torch.device("meta"):
        own = RestoreFormer(convert._VARIANTS[variant]).state_dict()
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in own.items()}
    assert len(published) - len(converted) == 2 * IDLE_NORMS[variant]


def test_full_sizes_have_the_counted_parameters():
    published = {"rohqd": 72_680_003, "restoreformer++": 73_472_579, "restoreformer": 72_680_003}
    for variant, count in published.items():
        with torch.device("meta"):
            own = sum(p.numel() for p in RestoreFormer(convert._VARIANTS[variant]).parameters())
        assert own == count - IDLE_NORMS[variant] * 2 * 512, variant


def keys_of(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(1) for name in names}


def test_variant_is_told_by_keys_and_by_what_was_saved_along():
    plain = keys_of("vqvae.decoder.up.5.attn.0.q.weight")
    assert convert.published_variant(plain | keys_of("vqvae.decoder.up.4.attn.0.q.weight")) == "restoreformer++"
    assert convert.published_variant(plain) == "restoreformer"
    assert convert.published_variant({"state_dict": plain | keys_of("loss.discriminator.main.0.weight")}) == "rohqd"
    components = keys_of("loss.discriminator.main.0.weight", "loss.net_d_mouth.conv1.0.weight")
    assert convert.published_variant({"state_dict": plain | components}) == "restoreformer"


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (("ft_layers.0.norm1.weight", "encoder.blocks.0.weight"), "CodeFormer"),
        (("generator.blocks.0.weight",), "CodeFormer's auto-encoder"),
        (("stylegan_decoder.constant_input.weight",), "GFPGAN"),
        (("vqvae.decoder.up.4.attn.0.q.weight", "vqvae.quantize.embedding.weight"), "RestoreFormer++"),
        (("encoder.down.5.attn.0.norm2.weight",), "RestoreFormer or its dictionary"),
        (("quantize.embedding.weight",), "a VQGAN"),
        (("conv1.weight",), "no network known here"),
    ],
)
def test_foreign_checkpoints_are_refused_by_name(monkeypatch, keys, name):
    monkeypatch.setattr(convert, "_VARIANTS", dict.fromkeys(convert._VARIANTS, TINY))
    with pytest.raises(WeightsError) as failure:
        convert.import_published(keys_of(*keys))
    assert f"is closest to {name}:" in str(failure.value)
    assert "tensors missing ['net.after.bias', 'net.after.weight'" in str(failure.value)


def test_partial_and_misshapen_checkpoints_say_what_is_wrong():
    model = build()
    state = model.state_dict()
    with pytest.raises(WeightsError, match=r"1 tensors missing \['net.before.bias'\], 0 unknown"):
        load_converted(model, {k: v for k, v in state.items() if k != "net.before.bias"}, {}, "y")
    with pytest.raises(WeightsError, match=r"1 unknown \['more'\], 1 of another shape \['net.quantiser.codebook'\]"):
        load_converted(model, state | keys_of("net.quantiser.codebook", "more"), {}, "y")


# --- the network


@torch.no_grad()
def test_picture_enters_through_codes_and_queries_alone():
    model = build()
    a, b = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    _, taps = model.net.encode(a)
    _, other = model.net.encode(b)
    codes = model.net.quantiser(model.net.encode(a)[0]).features
    asked_by_a, asked_by_b = model.net.decode(codes, taps), model.net.decode(codes, other)
    assert (asked_by_a - asked_by_b).abs().max() > 1e-4
    torch.testing.assert_close(model.net.decode(codes, taps, 0.0), model.net.decode(codes, other, 0.0))


@torch.no_grad()
def test_fidelity_zero_lets_the_codes_alone_decide():
    model = build()
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    published = model(x)
    torch.testing.assert_close(model(x, fidelity=1.0), published, rtol=0, atol=0)
    moved = [(model(x, fidelity=f) - published).norm().item() for f in (1.0, 0.6, 0.0)]
    assert moved[0] == 0 < moved[1] < moved[2]
    dictionary = build(TINY_DICTIONARY)
    assert torch.equal(dictionary(x, fidelity=0.0), dictionary(x))


def test_restorers_keep_their_dictionary_and_dictionaries_learn_theirs():
    for config, learns in ((TINY, False), (TINY_DICTIONARY, True)):
        model = build(config).train()
        out, aux = model(torch.rand(2, 3, 32, 32) * 2 - 1, return_aux=True)
        (out.square().mean() + aux["code_loss"]).backward()
        assert (model.net.quantiser.codebook.grad is not None) == learns
        silent = [k for k, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
        assert silent == []


def test_mmrb_takes_the_place_of_the_encoders_blocks():
    plain, model = build(), build(dataclasses.replace(TINY, encoder_block="mmrb"))
    blocks = [block for level in model.net.encoder.levels for block in level.blocks]  # type: ignore[union-attr]
    assert len(blocks) == 2 * len(TINY.multipliers)
    assert all(isinstance(block, MMRB) for block in blocks)
    own, published = model.state_dict(), plain.state_dict()
    assert {k for k in published if not (k.startswith("net.encoder.levels") and ".blocks." in k)} <= set(own)
    x = torch.randn(2, 32, 16, 16)
    change = blocks[0](x) - x
    assert 0 < change.std() < 0.1 * x.std()
    out, aux = model(torch.rand(2, 3, 32, 32) * 2 - 1, return_aux=True)
    (out.square().mean() + aux["code_loss"]).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for b in blocks for p in b.parameters())


@torch.no_grad()
def test_mmrb_restores_and_is_saved_with_its_name(tmp_path):
    model = build(dataclasses.replace(TINY, encoder_block="mmrb"))
    model.save_pretrained(tmp_path)
    again = RestoreFormer.from_pretrained(tmp_path)
    assert again.config.encoder_block == "mmrb"
    assert np.array_equal(again.restore(crops()), model.restore(crops()))


def test_mmrb_makes_the_encoder_lighter():
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in RestoreFormer(RestoreFormerConfig(encoder_block=block)).net.encoder.parameters())
            for block in ("residual", "mmrb")
        ]
    assert [count / 1e6 for count in counts] == pytest.approx([29.416, 27.386], abs=1e-3)
    with pytest.raises(UsageError, match="residual, mmrb"):
        RestoreFormer(dataclasses.replace(TINY, encoder_block="dense"))  # type: ignore[arg-type]


@torch.no_grad()
def test_dictionary_starts_the_restorer():
    dictionary, model = build(TINY_DICTIONARY, seed=1), build(seed=2)
    model.load_dictionary(dictionary)
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    a, b = (m(x, return_aux=True)[1]["codes"] for m in (dictionary, model))
    assert torch.equal(a, b)
    assert torch.equal(model.net.decoder.conv_out.weight, dictionary.net.decoder.conv_out.weight)
    with pytest.raises(WeightsError, match="another size"):
        model.load_dictionary(build(dataclasses.replace(TINY_DICTIONARY, codes=32)))


@torch.no_grad()
def test_restore_is_the_network_in_pixels():
    model = build()
    pixels = crops()
    model.precision = "fp32"
    expected = model(model.normalise(pixels)).add(1).mul(127.5).round().clamp(0, 255)
    restored = model.restore(pixels)
    assert np.abs(restored.astype(float) - expected.permute(0, 2, 3, 1).numpy()).max() <= 1
    assert np.array_equal(restored[1:], model.restore(pixels[1:]))
    model.precision = "bf16"
    rough = np.square(model.restore(pixels).astype(float) - restored).mean()
    assert 0 < rough < 255**2 / 10**3


def test_changed_weights_reach_the_fast_copy():
    model = build()
    before = model.restore(crops())
    model.load_state_dict(build(seed=5).state_dict())
    after = model.restore(crops())
    assert not np.array_equal(before, after)
    assert np.array_equal(after, build(seed=5).restore(crops()))


def test_wrong_input_is_refused():
    model = build()
    with pytest.raises(UsageError, match="sides of 4 times n"):
        model(torch.zeros(1, 3, 30, 32))
    with pytest.raises(UsageError, match="fidelity"):
        model.restore(crops(), fidelity=1.5)


# --- training


def batch() -> dict[str, torch.Tensor]:
    yy, xx = np.mgrid[:32, :32]
    hq = np.stack([np.uint8(127 + 100 * np.sin((xx + k * yy) / 5)) for k in range(4)])[..., None].repeat(3, 3)
    lq = np.clip(hq + np.random.default_rng(0).normal(0, 30, hq.shape), 0, 255).astype(np.uint8)
    return {"hq": torch.from_numpy(hq), "lq": torch.from_numpy(lq), "mask": torch.ones(4, 1, 32, 32, dtype=torch.bool)}


def run(training, steps: int, progress: float) -> list[dict[str, float]]:
    optimisers = training.optimisers()

    def update(name, loss):
        optimisers[name].zero_grad()
        loss.backward()
        optimisers[name].step()

    training.model.train()
    return [{k: float(v) for k, v in training.step(batch(), update, progress).items()} for _ in range(steps)]


def test_dictionary_learns_to_reconstruct():
    logs = run(DictionaryTraining(build(TINY_DICTIONARY), lr=2e-3, discriminator_width=8), 18, 0.0)
    assert logs[-1]["reconstruction"] < 0.8 * logs[0]["reconstruction"]
    assert "gan" not in logs[0]


def test_restorer_starts_from_its_dictionary_and_fights_a_discriminator(tmp_path):
    build(TINY_DICTIONARY, seed=3).save_pretrained(tmp_path)
    training = RestorationTraining(build(), dictionary=tmp_path, gan_from=0.5, lr=1e-4, discriminator_width=8)
    codebook = training.model.net.quantiser.codebook.clone()
    assert torch.equal(codebook, build(TINY_DICTIONARY, seed=3).net.quantiser.codebook)
    rates = {id(p): g.get("lr", training.lr) for g in training.groups() for p in g["params"]}  # type: ignore[attr-defined]
    assert rates[id(training.model.net.decoder.middle.attention.q.weight)] == pytest.approx(1e-3)
    assert rates[id(training.model.net.encoder.middle.attention.q.weight)] == pytest.approx(1e-4)
    logs = run(training, 2, 0.9)
    assert {"gan", "d"} <= set(logs[0])
    assert torch.equal(codebook, training.model.net.quantiser.codebook)


def test_stages_want_their_networks():
    with pytest.raises(UsageError, match="without cross-attention"):
        DictionaryTraining(build())
    with pytest.raises(UsageError, match="cross_at"):
        RestorationTraining(build(TINY_DICTIONARY), dictionary="nowhere")
