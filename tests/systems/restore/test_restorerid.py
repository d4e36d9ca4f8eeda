"""RestorerID: published keys and shapes, structure and identity in every block, the adaptive scale, and its traps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tests.systems.inpaint.test_pva import published_first_stage
from tests.systems.latents.test_refldm_vqgan import SHAPES, conv, norm
from torch import Tensor, nn

from facewright.errors import UsageError, WeightsError
from facewright.geometry.templates import template_points
from facewright.nn.clip import from_transformers
from facewright.systems.recognise.alignment import aligned
from facewright.systems.restore.restorerid.convert import TEXT_NUMBERS, import_published, text_states
from facewright.systems.restore.restorerid.network import (
    Modulation,
    Rebalancing,
    RestorerID,
    RestorerIDConfig,
)
from facewright.systems.restore.restorerid.training import RestorerIDTraining
from facewright.weights.published import recognise_tensors

if TYPE_CHECKING:
    from facewright.nn.sd import Condition

WIDTHS = (320, 640, 1280, 1280)


# --- published layout, written out from the sheet's tables


def linear(key: str, c_in: int, c_out: int, *, bias: bool = True) -> SHAPES:
    return {f"{key}.weight": (c_out, c_in)} | ({f"{key}.bias": (c_out,)} if bias else {})


def res_block(key: str, c_in: int, c_out: int, time: int) -> SHAPES:
    found = norm(f"{key}.in_layers.0", c_in) | conv(f"{key}.in_layers.2", c_in, c_out)
    found |= linear(f"{key}.emb_layers.1", time, c_out)
    found |= norm(f"{key}.out_layers.0", c_out) | conv(f"{key}.out_layers.3", c_out, c_out)
    return found | (conv(f"{key}.skip_connection", c_in, c_out, 1) if c_in != c_out else {})


def structured(key: str, c_in: int, c_out: int) -> SHAPES:
    found = res_block(key, c_in, c_out, 1280)
    for part in ("spade", "IDBalance"):
        found |= norm(f"{key}.{part}.param_free_norm", c_out) | conv(f"{key}.{part}.mlp_shared.0", 256, 128)
        found |= conv(f"{key}.{part}.mlp_gamma", 128, c_out) | conv(f"{key}.{part}.mlp_beta", 128, c_out)
    found |= norm(f"{key}.IDBalance.norm", 256)
    cross = f"{key}.IDBalance.crossattn"
    found |= linear(f"{cross}.to_q", 256, 256, bias=False) | linear(f"{cross}.to_out.0", 256, 256)
    return found | linear(f"{cross}.to_k", 768, 256, bias=False) | linear(f"{cross}.to_v", 768, 256, bias=False)


def low_rank(key: str, c_in: int, c_out: int) -> SHAPES:
    return {f"{key}_lora.down.weight": (128, c_in), f"{key}_lora.up.weight": (c_out, 128)}


def transformer(key: str, width: int) -> SHAPES:
    found = (
        norm(f"{key}.norm", width) | conv(f"{key}.proj_in", width, width, 1) | conv(f"{key}.proj_out", width, width, 1)
    )
    block = f"{key}.transformer_blocks.0"
    for name, tokens in (("attn1", width), ("attn2", 768)):
        for part, c_in in (("q", width), ("k", tokens), ("v", tokens)):
            found |= linear(f"{block}.{name}.to_{part}", c_in, width, bias=False)
            found |= low_rank(f"{block}.{name}.to_{part}", c_in, width)
        found |= linear(f"{block}.{name}.to_out.0", width, width) | low_rank(f"{block}.{name}.to_out", width, width)
    found |= {f"{block}.attn2.to_{part}_ip.weight": (width, 768) for part in "kv"}
    found |= linear(f"{block}.ff.net.0.proj", width, 8 * width) | linear(f"{block}.ff.net.2", 4 * width, width)
    for number in (1, 2, 3):
        found |= norm(f"{block}.norm{number}", width)
    return found


def published_unet() -> SHAPES:
    found = linear("time_embed.0", 320, 1280) | linear("time_embed.2", 1280, 1280) | conv("input_blocks.0.0", 4, 320)
    taps, channels, number = [320], 320, 1
    for level, width in enumerate(WIDTHS):
        for _ in range(2):
            found |= structured(f"input_blocks.{number}.0", channels, width)
            found |= transformer(f"input_blocks.{number}.1", width) if level < 3 else {}
            channels = width
            taps.append(width)
            number += 1
        if level < 3:
            found |= conv(f"input_blocks.{number}.0.op", width, width)
            taps.append(width)
            number += 1
    for name in ("0", "2"):
        found |= structured(f"middle_block.{name}", 1280, 1280)
    found |= transformer("middle_block.1", 1280)
    number = 0
    for level, width in reversed(list(enumerate(WIDTHS))):
        for last in (False, False, True):
            found |= structured(f"output_blocks.{number}.0", channels + taps.pop(), width)
            found |= transformer(f"output_blocks.{number}.1", width) if level < 3 else {}
            channels = width
            if last and level:
                found |= conv(f"output_blocks.{number}.{2 if level < 3 else 1}.conv", width, width)
            number += 1
    return found | norm("out.0", 320) | conv("out.2", 320, 4)


def published_structure() -> SHAPES:
    widths = (256, 256, 512, 512)

    def attention(key: str, width: int) -> SHAPES:
        found = norm(f"{key}.norm", width)
        for name, out in (("qkv", 3 * width), ("proj_out", width)):
            found |= {f"{key}.{name}.weight": (out, width, 1), f"{key}.{name}.bias": (out,)}
        return found

    found = linear("time_embed.0", 256, 1024) | linear("time_embed.2", 1024, 1024) | conv("input_blocks.0.0", 4, 256)
    channels, number = 256, 1
    for level, width in enumerate(widths):
        for _ in range(2):
            found |= res_block(f"input_blocks.{number}.0", channels, width, 1024)
            found |= attention(f"input_blocks.{number}.1", width) if level < 3 else {}
            channels = width
            number += 1
        if level < 3:
            found |= conv(f"input_blocks.{number}.0.op", width, width)
            number += 1
    found |= res_block("middle_block.0", 512, 512, 1024) | attention("middle_block.1", 512)
    found |= res_block("middle_block.2", 512, 512, 1024)
    for number, width in enumerate(widths):
        found |= res_block(f"fea_tran.{number}", width, 256, 1024)
    return found


def published_tower(width: int, layers: int) -> SHAPES:
    found: SHAPES = {}
    for number in range(layers):
        block = f"encoder.layers.{number}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= linear(f"{block}.self_attn.{part}", width, width)
        found |= linear(f"{block}.mlp.fc1", width, 4 * width) | linear(f"{block}.mlp.fc2", 4 * width, width)
        found |= norm(f"{block}.layer_norm1", width) | norm(f"{block}.layer_norm2", width)
    return found


def published_text(width: int = 768, layers: int = 12, words: int = 49_408) -> SHAPES:
    found = {f"text_model.{key}": shape for key, shape in published_tower(width, layers).items()}
    found |= {"text_model.embeddings.position_ids": (1, 77)}
    found |= {"text_model.embeddings.token_embedding.weight": (words, width)}
    found |= {"text_model.embeddings.position_embedding.weight": (77, width)}
    return found | norm("text_model.final_layer_norm", width)


def published_adapter() -> SHAPES:
    picture = published_tower(1280, 32)
    picture |= {"embeddings.class_embedding": (1280,), "embeddings.patch_embedding.weight": (1280, 3, 14, 14)}
    picture |= {"embeddings.position_embedding.weight": (257, 1280)}
    picture |= norm("pre_layrnorm", 1280) | norm("post_layernorm", 1280)
    found = {f"image_encoder.vision_model.{key}": shape for key, shape in picture.items()}
    found |= {"image_encoder.visual_projection.weight": (1024, 1280)}
    head = linear("proj.0", 512, 1024) | linear("proj.2", 1024, 4 * 768) | norm("norm", 768)
    resampler = "perceiver_resampler"
    head |= linear(f"{resampler}.proj_in", 1280, 768) | linear(f"{resampler}.proj_out", 768, 768)
    head |= norm(f"{resampler}.norm_out", 768)
    for number in range(4):
        layer = f"{resampler}.layers.{number}"
        head |= norm(f"{layer}.0.norm1", 768) | norm(f"{layer}.0.norm2", 768)
        head |= linear(f"{layer}.0.to_q", 768, 768, bias=False) | linear(f"{layer}.0.to_kv", 768, 1536, bias=False)
        head |= linear(f"{layer}.0.to_out", 768, 768, bias=False) | norm(f"{layer}.1.0", 768)
        head |= linear(f"{layer}.1.1", 768, 3072, bias=False) | linear(f"{layer}.1.3", 3072, 768, bias=False)
    return found | {f"image_proj_model.{key}": shape for key, shape in head.items()}


def published_file() -> SHAPES:
    parts = {
        "model.diffusion_model.": published_unet(),
        "structcond_stage_model.": published_structure(),
        "first_stage_model.": published_first_stage(),
        "cond_stage_model.transformer.": published_text(),
        "Adapter.": published_adapter(),
    }
    return {head + key: shape for head, shapes in parts.items() for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    state = {key: torch.empty(shape, device="meta") for key, shape in published_file().items()}
    return state | {"betas": torch.empty(1000, device="meta")}


def test_published_layout_fits(published: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        recogniser = RestorerID().recogniser.state_dict()
        model = import_published(published, recogniser=recogniser)
    assert model.config == RestorerIDConfig()
    plain = {n: p for n, p in model.unet.named_parameters() if not any(part in n for part in ADDED)}
    assert sum(p.numel() for p in plain.values()) == 859_520_964  # Stable Diffusion 1.5
    assert len([n for n in model.unet.state_dict() if n.endswith("crossattn.to_k.weight")]) == 22
    complete = published | {f"face_net.{key}": value for key, value in recogniser.items()}
    assert recognise_tensors(complete).systems == ("restorerid",)
    assert recognise_tensors(published).near[0] == "restorerid"
    with torch.device("meta"), pytest.raises(WeightsError, match=r"face_net.*recogniser"):
        import_published(published)
    lacking = {key: value for key, value in published.items() if "fea_tran.3" not in key}
    with torch.device("meta"), pytest.raises(WeightsError, match="missing"):
        import_published(lacking, recogniser=recogniser)


ADDED = (".spade.", ".IDBalance.", ".down.", ".up.", "_ip.")


def test_the_keys_of_the_sheet(published: dict[str, Tensor]) -> None:
    """As the sheet lists them, against the table above."""
    shapes = {key: tuple(value.shape) for key, value in published.items()}
    unet = "model.diffusion_model.input_blocks.1"
    expected = {
        f"{unet}.0.spade.mlp_shared.0.weight": (128, 256, 3, 3),
        f"{unet}.0.spade.mlp_gamma.weight": (320, 128, 3, 3),
        f"{unet}.0.IDBalance.crossattn.to_k.weight": (256, 768),
        f"{unet}.0.IDBalance.mlp_beta.weight": (320, 128, 3, 3),
        f"{unet}.1.transformer_blocks.0.attn2.to_k_ip.weight": (320, 768),
        f"{unet}.1.transformer_blocks.0.attn1.to_q_lora.down.weight": (128, 320),
        f"{unet}.1.transformer_blocks.0.attn1.to_q_lora.up.weight": (320, 128),
        "structcond_stage_model.input_blocks.0.0.weight": (256, 4, 3, 3),
    }
    assert {key: shapes.get(key) for key in expected} == expected


def test_texts_are_kept_as_states_of_their_tower() -> None:
    """In a small tower: every row begins and ends as CLIP's do, is padded by ends, and only its own words matter."""
    words = 25_600  # larger than any number of the texts

    generator = torch.Generator().manual_seed(0)
    state = {k: 0.2 * torch.randn(s, generator=generator) for k, s in published_text(24, 1, words).items()}
    tower = from_transformers(state)
    states = text_states(tower)
    assert states.shape == (3, 77, 24)
    assert torch.equal(states, text_states(tower))
    assert torch.allclose(states[0, 0], states[1, 0], atol=1e-6)  # causal: the beginning knows nothing
    assert not torch.allclose(states[0, 1], states[1, 1], atol=1e-3)
    changed = {k: v.clone() for k, v in tower.items()}
    changed["text.embedding.weight"][TEXT_NUMBERS[1][0]] *= -3
    moved = (text_states(changed) - states).abs().amax(2)
    assert not moved[0].any()
    assert not moved[1, 0]
    assert moved[1, 1] > 1e-2


# --- the network


def lively(model: RestorerID) -> RestorerID:
    """With weights large enough that every part is heard."""
    with torch.no_grad():
        for part in (model.unet, model.structure):
            for parameter in part.parameters():
                if parameter.dim() > 1:
                    nn.init.normal_(parameter, std=0.05)
    model.precision = "fp32"
    return model.eval()


@pytest.fixture
def model() -> RestorerID:
    torch.manual_seed(0)
    return lively(RestorerID(RestorerIDConfig.compact()))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TIME = torch.tensor([400])


def predicted(model: RestorerID, tokens: Tensor | None, strength: float = 0.75, given: int = 1) -> Tensor:
    noisy, latent = drawn(1, 4, 16, 16), drawn(1, 4, 16, 16, seed=given)
    return model.predict(noisy, latent, TIME, model.condition(1, 1, tokens, strength))


@torch.no_grad()
def test_structure_identity_and_strength_are_all_heard(model: RestorerID) -> None:
    tokens = drawn(1, 4, 32)
    base = predicted(model, tokens)
    assert (predicted(model, tokens, given=2) - base).abs().max() > 1e-3
    assert (predicted(model, drawn(1, 4, 32, seed=9)) - base).abs().max() > 1e-3
    assert (predicted(model, tokens, 0.1) - base).abs().max() > 1e-4
    assert torch.equal(predicted(model, tokens), base)


@torch.no_grad()
def test_strength_is_of_the_separate_attention_alone(model: RestorerID) -> None:
    """At 0 the tokens are still heard where structure asks them; low-rank products go on as well."""
    first, second = drawn(1, 4, 32), drawn(1, 4, 32, seed=9)
    nothing = predicted(model, first, 0.0)
    assert (predicted(model, second, 0.0) - nothing).abs().max() > 1e-5
    for name, parameter in model.unet.named_parameters():
        if name.endswith("_ip.weight"):
            parameter.mul_(5)
    assert torch.equal(predicted(model, first, 0.0), nothing)
    for name, parameter in model.unet.named_parameters():
        if ".up.weight" in name:
            parameter.mul_(2)
    assert not torch.allclose(predicted(model, first, 0.0), nothing, atol=1e-5)


@torch.no_grad()
def test_both_normal_forms() -> None:
    """SPADE: norm · (1 + γ) + β. Rebalancing: norm · γ + β, to be added."""
    config = RestorerIDConfig.compact()
    x, structure, tokens = drawn(1, 32, 4, 4), drawn(1, 32, 4, 4, seed=1), drawn(1, 3, 32, seed=2)
    normed = torch.nn.functional.group_norm(x, 32)
    spade, balance = Modulation(32, 32, 16), Rebalancing(32, config)
    for module in (spade, balance):
        for last in (module.mlp_gamma, module.mlp_beta):
            nn.init.zeros_(last.weight)
        assert module.mlp_gamma.bias is not None
        assert module.mlp_beta.bias is not None
        nn.init.constant_(module.mlp_gamma.bias, 0.5)
        nn.init.constant_(module.mlp_beta.bias, 0.25)
    assert torch.allclose(spade(x, structure), 1.5 * normed + 0.25, atol=1e-6)
    assert torch.allclose(balance.balance(x, structure, tokens), 0.5 * normed + 0.25, atol=1e-6)


@pytest.mark.parametrize(("paper_init", "learns"), [(False, True), (True, False)])
def test_a_dead_start_never_sees_its_reference(paper_init: bool, learns: bool) -> None:
    """With every convolution zero the shared one answers ReLU(0): after any number of steps nothing reaches it."""
    torch.manual_seed(0)
    balance = Rebalancing(32, replace(RestorerIDConfig.compact(), paper_init=paper_init))
    x, structure, tokens = drawn(2, 32, 4, 4), drawn(2, 32, 4, 4, seed=1), drawn(2, 3, 32, seed=2)
    assert balance.balance(x, structure, tokens).abs().max() < 1e-2  # either way next to nothing is changed at first
    optimiser = torch.optim.SGD(balance.parameters(), 0.1)
    for _ in range(3):
        optimiser.zero_grad()
        (balance.balance(x, structure, tokens) - drawn(2, 32, 4, 4, seed=3)).square().mean().backward()
        optimiser.step()
    gradient = balance.crossattn.to_k.weight.grad
    assert gradient is not None
    assert bool(gradient.abs().max() > 1e-9) is learns
    assert balance.mlp_beta.bias is not None
    assert balance.mlp_beta.bias.abs().max() > 1e-4  # only this learns


@torch.no_grad()
def test_without_tokens_it_is_the_base_network(model: RestorerID) -> None:
    before = predicted(model, None)
    for name, parameter in model.unet.named_parameters():
        if ".IDBalance." in name or name.endswith("_ip.weight"):
            parameter.add_(1)
    assert torch.equal(predicted(model, None), before)


@torch.no_grad()
def test_tokens_of_several_references_stand_side_by_side(model: RestorerID) -> None:
    references = drawn(2, 3, 3, 64, 64).clamp(-1, 1)
    tokens = model.identity(references)
    assert tokens.shape == (2, 12, 32)
    alone = model.identity(references[1:, 2:])
    assert torch.allclose(tokens[1:, 8:], alone, atol=1e-5)
    assert model.nobody(2, 3).shape == tokens.shape


@torch.no_grad()
def test_the_recogniser_sees_faces_on_its_own_template() -> None:
    """Points of the `ffhq` template land on ArcFace's, to a hundredth of a pixel of the fit."""
    points, target = template_points("ffhq", 512), template_points("arcface", 112)
    rows, columns = torch.meshgrid(torch.arange(512.0), torch.arange(512.0), indexing="ij")
    where = aligned(torch.stack([columns, rows, rows * 0])[None], 112)[0, :2]
    found = np.array([[float(where[axis, round(y), round(x)]) for axis in (0, 1)] for x, y in target])
    assert np.abs(found - points).max() < 512 / 112 * 3  # the templates are not quite similar
    middle = where[:, 55:57, 55:57].mean((1, 2)).numpy()
    from facewright.geometry.similarity import fit_similarity, transform_points

    assert transform_points(fit_similarity(target, points), np.array([55.5, 55.5])) == pytest.approx(middle, abs=1e-2)


def test_the_adaptive_scale_of_the_paper(model: RestorerID) -> None:
    wanted = {9.5: 1.0, 20: 0.35, 40: 0.047, 60: 0.006}
    for quality, scale in wanted.items():
        assert model.strength_for(quality) == pytest.approx(scale, rel=0.07)
    assert model.strength_for(0) == pytest.approx(math.exp(0.95))


def test_the_published_sampler_tells_later_times(model: RestorerID) -> None:
    full = RestorerIDConfig()
    times = model.schedule.spaced(full.steps, "uniform_leading")
    assert (times[0], times[1], times[-1]) == (980, 960, 0)
    told = model._told(times)
    assert (told[0], told[1], told[-2], told[-1]) == (999, 979, 20, 0)
    assert max(a - b for a, b in zip(told, times)) == 19
    own = RestorerID(replace(model.config, told="own"))
    assert own._told(times) == times


@torch.no_grad()
def test_guidance_goes_away_from_nobody_and_keeps_the_structure(
    model: RestorerID, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Condition, Tensor]] = []
    restore = model.unet.restore

    def watched(x: Tensor, time: Tensor, condition: Condition, structure: list[Tensor]) -> Tensor:
        seen.append((condition, structure[0]))
        return restore(x, time, condition, structure)

    monkeypatch.setattr(model.unet, "restore", watched)
    tokens = drawn(1, 4, 32)
    model.sample(drawn(1, 4, 16, 16), tokens, 0.3, torch.Generator().manual_seed(0))
    assert len(seen) == 2 * model.config.steps
    (wanted, first), (unwanted, second) = seen[:2]
    assert torch.equal(first, second)
    assert wanted.strength == unwanted.strength == 0.3
    assert torch.equal(wanted.text[0], model.texts[1])
    assert torch.equal(unwanted.text[0], model.texts[2])
    assert wanted.picture is not None
    assert unwanted.picture is not None
    assert torch.equal(wanted.picture, tokens)
    assert torch.equal(unwanted.picture, model.nobody(1))


def crops(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def rated(value: float) -> Any:
    return lambda crops: [value] * len(crops)


def test_restoring_is_repeatable_and_depends_on_seed_references_and_quality(model: RestorerID) -> None:
    pictures, own = crops(2), [crops(1, 1), crops(2, 2)]
    plain = model.restore(pictures)
    assert (plain.shape, plain.dtype) == (pictures.shape, np.uint8)
    assert np.array_equal(plain, model.restore(pictures, seed=42))
    assert np.array_equal(plain[1:], model.restore(pictures[1:]))
    assert not np.array_equal(plain, model.restore(pictures, seed=1))
    poor = model.restore_by(pictures, own, quality=rated(5))
    assert not np.array_equal(plain, poor)
    assert not np.array_equal(poor, model.restore_by(pictures, own, quality=rated(60)))
    with pytest.raises(UsageError, match="fidelity"):
        model.restore(pictures, fidelity=0.5)
    with pytest.raises(UsageError, match="2 crops need as many"):
        model.restore_by(pictures, own[:1])


def test_colours_come_back_from_the_input_as_chosen(model: RestorerID) -> None:
    grey = np.full((1, 64, 64, 3), (180, 90, 60), np.uint8)
    found = {}
    for how in ("wavelet", "adain", "none"):
        other = RestorerID(replace(model.config, colour_fix=how)).eval()
        other.precision = "fp32"
        other.load_state_dict(model.state_dict())
        found[how] = np.abs(other.restore(grey).mean((0, 1, 2)) - [180, 90, 60]).max()
    assert found["wavelet"] < 6  # what was clipped is lost
    assert found["adain"] < 6
    assert found["none"] > 10
    wrongs: list[dict[str, Any]] = [{"colour_fix": "lab"}, {"told": "later"}]
    for wrong in wrongs:
        with pytest.raises(UsageError, match="choose one of"):
            replace(model.config, **wrong)


# --- training


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return {
        "lq": torch.from_numpy(crops(2)),
        "hq": torch.from_numpy(crops(2, 1)),
        "references": torch.from_numpy(np.stack([crops(2, 2), crops(2, 3)])),
    }


@pytest.mark.parametrize(
    ("stage", "trained"), [("structure", ("structure.", ".spade.")), ("identity", (".IDBalance.",))]
)
def test_a_stage_trains_its_part_and_nothing_else(
    stage: Any, trained: tuple[str, ...], batch: dict[str, Tensor]
) -> None:
    torch.manual_seed(0)
    model = lively(RestorerID(RestorerIDConfig.compact()))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    training = RestorerIDTraining(model.train(), stage=stage, drop=0.0)
    optimiser = training.optimisers()["model"]

    def update(name: str, loss: Tensor) -> None:
        loss.backward()
        optimiser.step()

    assert float(training.step(batch, update, 0.0)["noise"]) > 0
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved
    assert all(any(part in name for part in trained) for name in moved)
    assert {name.split(".IDBalance.")[-1] for name in moved} >= {"crossattn.to_k.weight"} or stage == "structure"
    with pytest.raises(UsageError, match="stage"):
        RestorerIDTraining(model, stage="all")  # type: ignore[arg-type]


def test_dropped_references_are_nobody(model: RestorerID, batch: dict[str, Tensor]) -> None:
    everything = RestorerIDTraining(model, drop=1.0)._tokens(batch)
    nothing = RestorerIDTraining(model, drop=0.0)._tokens(batch)
    assert everything is not None
    assert nothing is not None
    assert torch.equal(everything, model.nobody(2, 2))
    assert not torch.allclose(nothing, everything, atol=1e-3)
    assert RestorerIDTraining(model, stage="structure")._tokens(batch) is None


def test_a_sheet_shows_damaged_restored_and_true(model: RestorerID, batch: dict[str, Tensor]) -> None:
    sheet = RestorerIDTraining(model.eval()).sample(batch)
    assert sheet.shape == (3 * 64, 2 * 64, 3)
    assert np.array_equal(sheet[:64, :64], batch["lq"][0].numpy())
    assert np.array_equal(sheet[128:, 64:], batch["hq"][1].numpy())
