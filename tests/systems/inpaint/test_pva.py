"""PVA: published keys and shapes, references in any order and number, words, personalisation, and its traps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from facewright.errors import UsageError, WeightsError
from facewright.nn.sd import Condition, JointAttention
from facewright.systems.inpaint.pva.convert import from_base, import_published
from facewright.systems.inpaint.pva.network import PVA, PVAConfig
from facewright.systems.inpaint.pva.training import PVATraining, personalise, stratified
from facewright.tasks.inpaint import PersonalFiller
from facewright.weights.published import recognise_tensors

SHAPES = dict[str, tuple[int, ...]]


# --- published layout


def attention_places() -> dict[str, int]:
    """Where diffusers' names put the sixteen transformers of Stable Diffusion, and how wide they are."""
    widths = (320, 640, 1280)
    places = {f"down_blocks.{i}.attentions.{j}": w for i, w in enumerate(widths) for j in range(2)}
    places |= {f"up_blocks.{i}.attentions.{j}": w for i, w in zip((1, 2, 3), widths[::-1]) for j in range(3)}
    return places | {"mid_block.attentions.0": 1280}


def added_shapes() -> SHAPES:
    """What PVA's training adds, written out from the sheet's table."""
    found: SHAPES = {"modifier_vec": (1024,)}
    for place, width in attention_places().items():
        stem = f"unet.{place}.transformer_blocks.0.attn2.to_visual"
        found |= {f"{stem}_q.weight": (width, width)}
        found |= {f"{stem}_{name}.weight": (width, 1024) for name in "kv"}
    net: SHAPES = {"q_tokens": (10, 512), "pos_enc": (10, 1024), "0.weight": (1024, 512), "0.bias": (1024,)}
    for number in range(4):
        layer = f"1.layers.{number}"
        net |= {f"{layer}.self_attn.in_proj_weight": (3072, 1024), f"{layer}.self_attn.in_proj_bias": (3072,)}
        net |= {f"{layer}.self_attn.out_proj.weight": (1024, 1024), f"{layer}.self_attn.out_proj.bias": (1024,)}
        net |= {f"{layer}.linear1.weight": (2048, 1024), f"{layer}.linear1.bias": (2048,)}
        net |= {f"{layer}.linear2.weight": (1024, 2048), f"{layer}.linear2.bias": (1024,)}
        for name in ("norm1", "norm2"):
            net |= {f"{layer}.{name}.weight": (1024,), f"{layer}.{name}.bias": (1024,)}
    net |= {"1.norm.weight": (1024,), "1.norm.bias": (1024,)}
    return found | {f"transform_network.{key}": shape for key, shape in net.items()}


def base_state(model: PVA) -> dict[str, Tensor]:
    """Stable Diffusion's part and the recogniser's under their published names, empty."""
    from facewright.nn.kl import KLAutoencoder

    found = {f"model.diffusion_model.{k}": v for k, v in model.unet.state_dict().items() if ".to_visual_" not in k}
    found |= {f"face_net.{key}": value for key, value in model.recogniser.state_dict().items()}
    block = {"attn.in_proj_weight": (3072, 1024), "attn.in_proj_bias": (3072,), "attn.out_proj.weight": (1024, 1024)}
    block |= {"attn.out_proj.bias": (1024,), "mlp.c_fc.weight": (4096, 1024), "mlp.c_fc.bias": (4096,)}
    block |= {"mlp.c_proj.weight": (1024, 4096), "mlp.c_proj.bias": (1024,)}
    block |= {f"{n}.{k}": (1024,) for n in ("ln_1", "ln_2") for k in ("weight", "bias")}
    text: SHAPES = {"token_embedding.weight": (49408, 1024), "positional_embedding": (77, 1024)}
    text |= {"text_projection": (1024, 1024), "ln_final.weight": (1024,), "ln_final.bias": (1024,), "logit_scale": ()}
    text |= {f"transformer.resblocks.{i}.{key}": shape for i in range(24) for key, shape in block.items()}
    found |= {f"cond_stage_model.model.{key}": torch.empty(s, device="meta") for key, s in text.items()}
    first = published_first_stage()
    assert len(first) == len(KLAutoencoder(model.config.latents).state_dict())
    return found | {f"first_stage_model.{key}": torch.empty(s, device="meta") for key, s in first.items()}


def published_first_stage() -> SHAPES:
    """LDM's AutoencoderKL with Stable Diffusion's configuration, written out."""
    from tests.systems.latents.test_refldm_vqgan import block, conv, middle, norm

    widths = (128, 256, 512, 512)
    found = conv("encoder.conv_in", 3, 128) | middle("encoder", 512)
    c_in = 128
    for level, width in enumerate(widths):
        for number in range(2):
            found |= block(f"encoder.down.{level}.block.{number}", c_in, width)
            c_in = width
        if level < 3:
            found |= conv(f"encoder.down.{level}.downsample.conv", width, width)
    found |= norm("encoder.norm_out", 512) | conv("encoder.conv_out", 512, 8)
    found |= conv("decoder.conv_in", 4, 512) | middle("decoder", 512)
    for level in range(3, -1, -1):
        for number in range(3):
            found |= block(f"decoder.up.{level}.block.{number}", c_in, widths[level])
            c_in = widths[level]
        if level:
            found |= conv(f"decoder.up.{level}.upsample.conv", c_in, c_in)
    found |= norm("decoder.norm_out", 128) | conv("decoder.conv_out", 128, 3)
    return found | conv("quant_conv", 8, 8, 1) | conv("post_quant_conv", 4, 4, 1)


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    with torch.device("meta"):
        state = base_state(PVA())
    state |= {key: torch.empty(shape, device="meta") for key, shape in added_shapes().items()}
    state["betas"] = torch.empty(1000, device="meta")
    return state


def test_published_layout_fits(published: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        model = import_published(published)
    assert model.config == PVAConfig()
    assert sum(p.numel() for n, p in model.unet.named_parameters() if ".to_visual_" not in n) == 865_925_124
    assert len([name for name in model.added() if ".to_visual_" in name]) == 3 * 16
    assert recognise_tensors(published).systems == ("pva",)
    with torch.device("meta"), pytest.raises(WeightsError, match="1 tensors missing"):
        import_published({key: value for key, value in published.items() if key != "modifier_vec"})


def test_without_additions_training_can_start(published: dict[str, Tensor]) -> None:
    added = added_shapes()
    base = {key: value for key, value in published.items() if key not in added}
    with torch.device("meta"):
        assert from_base(base).config == PVAConfig()
        with pytest.raises(WeightsError, match="missing"):
            import_published(base)
    assert recognise_tensors(base).systems != ("pva",)


# --- the network


@pytest.fixture
def model() -> PVA:
    torch.manual_seed(0)
    made = PVA(PVAConfig.compact()).eval()
    with torch.no_grad():
        for parameter in made.unet.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.05)
        for module in made.modules():
            if isinstance(module, JointAttention):
                module.copy_text()
    made.precision = "fp32"
    return made


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)


def crops(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


HOLES = np.zeros((2, 64, 64), bool)
HOLES[:, 20:44, 16:48] = True


@torch.no_grad()
def test_tokens_do_not_depend_on_the_order_but_on_the_references(model: PVA) -> None:
    references = drawn(1, 3, 3, 64, 64)
    tokens = model.visual(references)
    assert tokens.shape == (1, 4, 32)
    assert torch.allclose(model.visual(references.flip(1)), tokens, atol=1e-5)
    assert not torch.allclose(model.visual(references[:, :2]), tokens, atol=1e-3)


@torch.no_grad()
def test_the_mask_is_one_in_the_hole_and_the_picture_grey(model: PVA) -> None:
    image, hole = drawn(1, 3, 64, 64), torch.from_numpy(HOLES[:1, None]).float()
    known = model.known(image, hole)
    assert known.shape == (1, 5, 16, 16)
    assert torch.equal(known[:, 0, 5:11, 4:12], torch.ones(1, 6, 8))
    assert known[:, 0].sum() == 48
    hidden = torch.where(hole > 0, drawn(1, 3, 64, 64, seed=1), image)
    assert torch.equal(model.known(hidden, hole), known)
    assert torch.allclose(model.known(torch.where(hole > 0, 0.0, image), hole * 0)[:, 1:], known[:, 1:])


@torch.no_grad()
def test_without_references_it_is_the_base_network(model: PVA) -> None:
    noisy, known, time = drawn(1, 4, 16, 16), drawn(1, 5, 16, 16, seed=1), torch.tensor([300])
    words = model.words("", anybody=True)
    before = model.predict(noisy, known, time, Condition(words))
    for name, parameter in model.added().items():
        if ".to_visual_" in name:
            parameter.mul_(7)
    assert torch.equal(model.predict(noisy, known, time, Condition(words)), before)
    assert not torch.equal(model.predict(noisy, known, time, Condition(words, drawn(1, 4, 32))), before)


def with_words(model: PVA) -> PVA:
    """The network with a vocabulary of two merges, of which few numbers fit into its small embedding."""
    text = b"#\ni l\nil e</w>\n"
    config = PVAConfig.compact()
    made = PVA(type(config)(**{**vars(config), "merges": len(text), "words": 600, "length": 12}))
    made.merges.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    return made.eval()


@torch.no_grad()
def test_a_prompt_follows_the_learnt_word(model: PVA) -> None:
    speaking = with_words(model)
    plain, smiling = speaking.words(""), speaking.words("smile")
    assert plain.shape == (1, 12, 32)
    # the text tower is causal: what stands before the prompt does not change
    assert torch.allclose(plain[:, :4], smiling[:, :4], atol=1e-6)
    assert not torch.allclose(plain[:, 4:8], smiling[:, 4:8], atol=1e-3)
    assert speaking._numbers("smile", anybody=False) == [598, 5, -1, 7, 267, 82, 76, 513, 599, 0, 0, 0]
    somebody = speaking.words("", anybody=True)
    speaking.modifier.copy_(drawn(32, seed=9))
    assert not torch.allclose(speaking.words(""), plain, atol=1e-3)
    assert torch.equal(speaking.words("", anybody=True), somebody)
    with pytest.raises(UsageError, match=r"the prompt has .* tokens, 10 fit"):
        speaking.words("smile smile smile")
    with pytest.raises(UsageError, match="came without a vocabulary"):
        model.words("smile")


def test_filling_is_reproducible_and_depends_on_person_words_and_seed(model: PVA) -> None:
    assert isinstance(model, PersonalFiller)
    speaking, pictures = with_words(model), crops(1)
    holes, mine, others = HOLES[:1], [crops(2, 1)], [crops(2, 2)]
    first = speaking.fill_by(pictures, holes, mine)
    assert (first.shape, first.dtype) == (pictures.shape, np.uint8)
    assert np.array_equal(first, speaking.fill_by(pictures, holes, mine))
    for changed in (
        speaking.fill_by(pictures, holes, others),
        speaking.fill_by(pictures, holes, mine, seed=1),
        speaking.fill_by(pictures, holes, mine, prompt="smile"),
        speaking.fill(pictures, holes),
    ):
        assert not np.array_equal(first, changed)
    with pytest.raises(UsageError, match="1 crops need as many"):
        speaking.fill_by(pictures, holes, [])


def test_guidance_goes_against_words_and_not_against_the_person(model: PVA, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Condition | None] = []
    sample = PVA.sample

    def watched(self: PVA, known: Tensor, wanted: Condition, against: Condition | None, generator: Any) -> Tensor:
        seen.extend([wanted, against])
        return sample(self, known, wanted, against, generator)

    monkeypatch.setattr(PVA, "sample", watched)
    speaking = with_words(model)
    speaking.fill_by(crops(1), HOLES[:1], [crops(1, 1)])
    assert seen[1] is None
    speaking.fill_by(crops(1), HOLES[:1], [crops(1, 1)], prompt="smile")
    wanted, against = seen[2:]
    assert wanted is not None
    assert against is not None
    assert wanted.picture is against.picture
    assert not torch.equal(wanted.text, against.text)


# --- training


def batch() -> dict[str, Tensor]:
    return {
        "image": torch.from_numpy(crops(2)),
        "references": torch.from_numpy(np.stack([crops(2, 1), crops(2, 2)])),
        "hole": torch.from_numpy(HOLES[:, None]),
    }


def test_times_are_of_all_parts_of_the_schedule() -> None:
    times = stratified(50, 4, 1000).view(4, 50)
    for part, drawn_times in enumerate(times):
        assert (drawn_times // 250 == part).all()


def test_only_what_is_added_learns_and_the_recogniser_keeps_its_norms(model: PVA) -> None:
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    running = {n: b.clone() for n, b in model.named_buffers() if "running" in n}
    training = PVATraining(model.train(), lr=1e-3, times=2)
    optimiser = training.optimisers()["model"]

    def update(name: str, loss: Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    before = {name: value.detach().clone() for name, value in model.added().items()}
    assert torch.isfinite(training.step(batch(), update, 0.0)["noise"])  # type: ignore[arg-type]
    assert all(not torch.equal(value, before[name]) for name, value in model.added().items())
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    assert all(torch.equal(parameters[name], value) for name, value in frozen.items())
    assert all(torch.equal(buffers[name], value) for name, value in running.items())
    second = PVATraining(model, stage="recogniser")
    assert model.recogniser.conv1.weight.requires_grad
    assert any(
        p is model.recogniser.conv1.weight for g in second.optimisers()["model"].param_groups for p in g["params"]
    )


def test_the_noise_is_learnt(model: PVA) -> None:
    training = PVATraining(model, lr=5e-3, transform_lr=5e-3, word_lr=5e-3, times=4)
    optimiser = training.optimisers()["model"]
    losses: list[float] = []
    for number in range(30):
        torch.manual_seed(number % 3)  # the same noise again

        def update(name: str, loss: Tensor) -> None:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

        losses.append(float(training.step(batch(), update, 0.0)["noise"]))
    assert np.mean(losses[-3:]) < 0.97 * np.mean(losses[:3])


def test_personalising_leaves_the_network_alone_and_shares_its_weights(model: PVA) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    own = personalise(model, crops(2), steps=2, lr=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    changed = {name for name, value in own.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in model.added() if ".to_visual_" in name or name == "modifier"}
    theirs, ours = dict(own.named_parameters()), dict(model.named_parameters())
    assert theirs["unet.out.2.weight"].data_ptr() == ours["unet.out.2.weight"].data_ptr()
    assert own.text.embedding.weight is model.text.embedding.weight
    again = personalise(model, crops(2), steps=2, lr=1e-2)
    assert torch.equal(own.modifier, again.modifier)
    with pytest.raises(UsageError, match="nobody to learn"):
        personalise(model, crops(0))


def test_configurations_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="a noisy latent, a mask"):
        PVAConfig(text_width=768)
