"""MADation: low-rank matrices in CLIP's tower, its published keys, its loss, and what is fed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from facewright.errors import UsageError, WeightsError
from facewright.nn.clip import ImageTower, TowerShape
from facewright.systems.morph.madation.convert import convert_published, import_published
from facewright.systems.morph.madation.network import LowRankQkv, Madation, MadationConfig
from facewright.systems.morph.madation.training import MadationTraining, morph_loss

TINY = MadationConfig(size=32, patch=8, dim=16, width=64, layers=2, heads=1)


def published(config: MadationConfig = TINY, seed: int = 0) -> dict[str, Tensor]:
    """A state dict in the layout of the released files: a whole CLIP with split projections, and a header."""
    rng = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng) * 0.05

    width, dim = config.width, config.dim
    state = {
        "visual.conv1.weight": random(width, 3, config.patch, config.patch),
        "visual.class_embedding": random(width),
        "visual.positional_embedding": random((config.size // config.patch) ** 2 + 1, width),
        "visual.proj": random(width, dim),
        "transformer.resblocks.0.attn.in_proj_weight": random(6, 2),
        "token_embedding.weight": random(5, 2),
        "positional_embedding": random(3, 2),
        "text_projection": random(2, 2),
        "ln_final.weight": random(2),
        "logit_scale": random(),
        "linear.weight": random(2, dim),
        "linear.bias": random(2),
    }
    norms = ["visual.ln_pre", "visual.ln_post"]
    for number in range(config.layers):
        block = f"visual.transformer.resblocks.{number}"
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
        for name in ("q_proj", "k_proj", "v_proj", "proj"):
            state |= {f"{block}.attn.{name}.weight": random(width, width), f"{block}.attn.{name}.bias": random(width)}
        for name in ("q_proj", "v_proj"):
            state[f"{block}.attn.{name}.w_lora_A"] = random(config.rank, width)
            state[f"{block}.attn.{name}.w_lora_B"] = random(width, config.rank)
        for name, (a, b) in {"c_fc": (4 * width, width), "c_proj": (width, 4 * width)}.items():
            state |= {f"{block}.mlp.{name}.weight": random(a, b), f"{block}.mlp.{name}.bias": random(a)}
    for name in norms:
        state |= {f"{name}.weight": 1 + random(width), f"{name}.bias": random(width)}
    return state


def plain_logits(state: dict[str, Tensor], image: Tensor, config: MadationConfig = TINY) -> Tensor:
    """The answer by the formula: CLIP's own tower with W + γ·B·A put into its projections."""
    tower = ImageTower(TowerShape(config.width, config.layers, config.heads), config.dim, size=config.size, patch=8)
    converted = convert_published(state)
    for key in list(converted):
        if ".qkv." in key and not key.endswith(".base.weight") and not key.endswith(".base.bias"):
            del converted[key]
    own = {k.removeprefix("tower.").replace(".base.", "."): v for k, v in converted.items() if k.startswith("tower.")}
    for number in range(config.layers):
        attention = f"visual.transformer.resblocks.{number}.attn"
        q, k, v = own[f"blocks.{number}.qkv.weight"].chunk(3)
        add = [
            config.alpha / config.rank**0.5 * state[f"{attention}.{p}.w_lora_B"] @ state[f"{attention}.{p}.w_lora_A"]
            for p in ("q_proj", "v_proj")
        ]
        own[f"blocks.{number}.qkv.weight"] = torch.cat([q + add[0], k, v + add[1]])
    tower.load_state_dict(own)
    features = nn.functional.normalize(tower(image), dim=1)
    return nn.functional.linear(features, state["linear.weight"], state["linear.bias"])


@torch.inference_mode()
def test_a_published_checkpoint_computes_the_papers_formula() -> None:
    state = published()
    model = import_published(state)
    assert model.config == TINY
    image = torch.randn(2, 3, 32, 32)
    expected = plain_logits(state, image)
    assert torch.allclose(model(image), expected, atol=1e-5)
    assert torch.allclose(model.merged()(image), expected, atol=1e-5)


@torch.inference_mode()
def test_files_written_in_evaluation_mode_do_not_count_twice() -> None:
    """The released layers merge when evaluated and keep the matrices; such a file has them in its projections."""
    state = published()
    written = dict(state)
    for key, value in state.items():
        if key.endswith((".q_proj.weight", ".v_proj.weight")):
            a, b = (state[key.replace("weight", f"w_lora_{m}")] for m in "AB")
            written[key] = value + TINY.gamma * b @ a
    image = torch.randn(1, 3, 32, 32)
    right = import_published(state)(image)
    assert torch.allclose(import_published(written, merged=True)(image), right, atol=1e-5)
    assert not torch.allclose(import_published(written)(image), right, atol=1e-4)


def test_other_checkpoints_are_refused() -> None:
    state = published()
    del state["linear.bias"]
    with pytest.raises(WeightsError, match=r"head\.bias"):
        import_published(state)
    with pytest.raises(KeyError):
        convert_published({"backbone.weight": torch.zeros(1)})


def test_sizes_and_scale_are_the_papers() -> None:
    for config, matrices, head, gamma in (
        (MadationConfig(), 73_728, 1_026, 2.8284),
        (MadationConfig.vit_l_14(), 196_608, 1_538, 5.6569),
    ):
        with torch.device("meta"):
            model = Madation(config)
        assert sum(p.numel() for p in model.tower.parameters() if p.requires_grad) == matrices
        assert sum(p.numel() for p in model.head.parameters()) == head
        assert config.gamma == pytest.approx(gamma, abs=1e-4)
    assert MadationConfig(scaling="linear").gamma == 2.0


def test_the_low_rank_branch_alone_sees_dropout() -> None:
    torch.manual_seed(0)
    layer = LowRankQkv(nn.Linear(8, 24), 2, 2.0, 0.5)
    x = torch.randn(64, 8)
    layer.train()
    assert torch.equal(layer(x), layer.base(x))  # B is zero at first
    nn.init.normal_(layer.q_b)
    changed = (layer(x) - layer.base(x)).abs()
    assert changed[:, :8].max() > 0
    assert not changed[:, 8:].any()  # keys and values as they were
    layer.eval()
    assert torch.allclose(layer(x), layer.merged()(x), atol=1e-5)
    before = layer.base.weight.clone()
    layer.merged()
    assert torch.equal(layer.base.weight, before)


def test_pictures_are_fed_as_published() -> None:
    record = Madation.preprocess_for(MadationConfig())
    assert (record.colour, record.mean, record.std) == ("BGR", (0.5,) * 3, (0.5,) * 3)
    assert (record.crop.kind, record.crop.margin, record.size) == ("framed", 0.05, 224)
    model = import_published(published())
    crop = np.zeros((1, 32, 32, 3), np.uint8)
    crop[..., 0] = 255  # red comes last
    assert model.normalise(crop)[0, :, 0, 0].tolist() == [-1, -1, 1]
    training = MadationTraining(model)
    assert torch.equal(training._fed({"image": torch.from_numpy(crop)}), model.normalise(crop))


def test_the_loss_is_of_both_logits() -> None:
    logits = torch.tensor([[2.0, -1.0]])
    expected = (np.log1p(np.exp(-2)) + np.log1p(np.exp(-1))) / 2  # both say morph
    assert float(morph_loss(logits, torch.tensor([1.0]))) == pytest.approx(expected, rel=1e-5)
    worse = (np.log1p(np.exp(2)) + np.log1p(np.exp(1))) / 2
    assert float(morph_loss(logits, torch.tensor([0.0]))) == pytest.approx(worse, rel=1e-5)


@pytest.mark.parametrize(
    ("arm", "low", "rest"), [("low-rank", 1, 0), ("head", 0, 0), ("full", 0, 1), ("scratch", 0, 1)]
)
def test_arms_train_what_they_say(arm: str, low: int, rest: int) -> None:
    torch.manual_seed(0)
    model = Madation(MadationConfig.compact())
    MadationTraining(model, arm=arm, start_from="vitfiqa")  # type: ignore[arg-type]
    names = {name for name, p in model.tower.named_parameters() if p.requires_grad}
    assert any("q_a" in name for name in names) == bool(low)
    assert any("mlp" in name for name in names) == bool(rest)


def test_the_compact_tower_begins_as_the_embedded_transformer() -> None:
    from facewright.systems.base import system_class

    model = Madation(MadationConfig.compact()).eval()
    MadationTraining(model, start_from="vitfiqa")
    known = system_class("vitfiqa").from_pretrained()
    block = known.vit.blocks[0]  # type: ignore[union-attr, index]
    tokens = torch.randn(1, 5, 128)
    with torch.inference_mode():
        assert torch.allclose(model.tower.blocks[0](tokens), block(tokens), atol=1e-5)  # type: ignore[index, operator]


def test_scores_are_shares_of_morph() -> None:
    model = import_published(published())
    crops = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = model(model.normalise(crops)).softmax(1)[:, 0].numpy()
    model.precision = "fp32"
    assert np.allclose(model.morphed(crops), expected, atol=1e-5)
    assert model.morphed(crops[:0]).shape == (0,)
    with pytest.raises(UsageError, match="uint8 crops"):
        model.morphed(crops[:, :16])
