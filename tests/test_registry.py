"""What must hold for every registered system; new ones are tested here without a line of test code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from facewright.systems.base import System, system_class
from facewright.systems.graph import GraphSystem
from facewright.tasks.action_units import ActionReader
from facewright.tasks.age import AgeEstimator
from facewright.tasks.analyse import Landmarker, Parser, PoseEstimator
from facewright.tasks.attack import Attack
from facewright.tasks.attributes import AttributeReader
from facewright.tasks.card import Card, Preprocess, cards, upgraded_record
from facewright.tasks.colourise import Colouriser
from facewright.tasks.detect import Detector, Verifier
from facewright.tasks.enlarge import Enlarger
from facewright.tasks.features import Autoencoder, FeatureExtractor
from facewright.tasks.forensics import ForgeryDetector, MorphDetector
from facewright.tasks.inpaint import Filler
from facewright.tasks.liveness import LivenessEstimator
from facewright.tasks.quality import QualityEstimator
from facewright.tasks.recognise import Embedder
from facewright.tasks.restore import DamageFinder, Restorer
from facewright.tasks.synthesise import Generator
from facewright.weights.store import fetch, load_file

ROOT = Path(__file__).parents[1]
SLUGS = list(cards())
TASKS = {
    "action_units": ActionReader,
    "age": AgeEstimator,
    "attack": Attack,
    "attributes": AttributeReader,
    "detect": Detector,
    "forgery": ForgeryDetector,
    "morph": MorphDetector,
    "landmarks": Landmarker,
    "parse": Parser,
    "restore": Restorer,
    "recognise": Embedder,
    "quality": QualityEstimator,
    "synthesise": Generator,
    "enlarge": Enlarger,
    "opinion": Verifier,
    "damage": DamageFinder,
    "colourise": Colouriser,
    "features": FeatureExtractor,
    "inpaint": Filler,
    "latents": Autoencoder,
    "liveness": LivenessEstimator,
    "pose": PoseEstimator,
}

EXTRA_OUTPUTS: dict[str, dict[str, Any]] = {
    "dle": {"return_aux": True},
    "dlif": {"return_aux": True},
    "fpage": {"return_aux": True},
    "iadg": {"return_aux": True},
    "lnet_anet": {"return_aux": True},
    "mlcr": {"return_aux": True},
    "facedetail": {"return_aux": True},
    "frgp": {"return_aux": True},
    "codeformer": {"return_aux": True, "adain": False},  # AdaIN on flipping codes of fresh weights is chaotic
    "gfpgan": {"return_pyramid": True},
    "multibatch": {"with_threshold": True},
    "pfid": {"with_logits": True},
    "bisenet": {"return_aux": True},
    "clip": {"captions": torch.tensor([[1, 5, 99, 0], [1, 99, 0, 0]])},
    "clipc8": {"captions": torch.tensor([[1, 5, 99, 0], [1, 99, 0, 0]])},
}
"""Arguments with which a system also returns what only its losses see."""

UNTRAINED: dict[str, tuple[str, ...]] = {
    # the second matrix of every low-rank product begins as zeros
    "madation": tuple(f"tower.blocks.{i}.attention.qkv.{name}_a" for i in range(4) for name in "qv"),
    # attention to the one thing there is in a first layer
    "facewarp": (
        "relation.layers.0.self_attn.in_proj_weight",
        "relation.layers.0.self_attn.out_proj.weight",
        "relation.layers.0.norm1.weight",
        "relation.layers.0.norm2.weight",
    ),
    # a picture is a sequence of one, with nothing before it
    "dle": (
        "bilstm.rnn.weight_hh_l0",
        "bilstm.rnn.weight_hh_l0_reverse",
        "gru.rnn.weight_hh_l0",
        "lstm.rnn.weight_hh_l0",
        "meta.rnn.weight_hh_l0",
    ),
    "arcface": ("backbone.pool.1.bias",),  # a constant shift in front of a batch norm
    "distilledface": ("backbone.bn2.bias", "backbone.pool.1.bias"),  # the same
    "sface": ("backbone.pool.1.bias", "backbone.project.bias"),  # the same
    # only the estimate of the damage passes them, which the picture does not need
    "scenedetail": ("look.weight", "look.bias", "estimate.weight", "estimate.bias"),
    "vitfiqa": ("vit.head.1.bias",),  # the same
}
"""Parameters that get no gradient at the start, with the reason as a comment."""

INSTEAD_OF_PICTURES = {"stylegan2": "style_dim", "template_inversion": "template_dim"}
"""Systems that take rows of numbers, to the entry of their configuration that says how many."""

WITHOUT_GRADIENTS = {"landmark_forest": "a forest is a step function of landmarks, fitted without gradients"}


@pytest.fixture(params=SLUGS)
def slug(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def card(slug: str) -> Card:
    return cards()[slug]


_built: dict[str, System] = {}


@pytest.fixture
def model(slug: str) -> System:
    """The shipped size with fresh weights, built once, in training mode."""
    if slug not in _built:
        torch.manual_seed(0)
        cls = system_class(slug)
        _built[slug] = cls(cls.preset("compact"))
    return _built[slug].train()


def batch(model: System, count: int = 2) -> Tensor:
    """Random pictures through the input contract; odd sizes where any size goes. Numbers for what takes no picture."""
    if model.slug in INSTEAD_OF_PICTURES:
        width = getattr(model.config, INSTEAD_OF_PICTURES[model.slug])
        return torch.randn(count, width, generator=torch.Generator().manual_seed(0))
    record = model.preprocess
    shape = (record.size, record.size) if record.size else (97, 131)
    pixels = np.random.default_rng(0).integers(0, 256, (count, *shape, 3), dtype=np.uint8)
    return model.normalise(pixels)


def tensors(value: Any) -> list[Tensor]:
    """All floating tensors of a nested output."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = list(value.values())
    return [t for part in value for t in tensors(part)] if isinstance(value, list | tuple) else []


def outputs(model: System, x: Tensor) -> list[Tensor]:
    return tensors(model(x, **EXTRA_OUTPUTS.get(model.slug, {})))


def test_card_is_complete(card: Card) -> None:
    for field in ("name", "task", "title", "authors", "url", "summary", "faithful", "bias"):
        assert getattr(card, field).strip(), field
    assert card.limits
    assert card.url.startswith("https://")
    assert 1990 < card.year < 2100
    for checkpoint in card.checkpoints:
        assert len(checkpoint.sha256) == 64
        assert checkpoint.size_bytes > 0
        assert checkpoint.licence
        assert checkpoint.training_data
        assert bool(checkpoint.file) != bool(checkpoint.repo_id)


def test_class_is_the_cards(slug: str) -> None:
    cls = system_class(slug)
    assert cls.slug == slug
    assert cls.card() is cards()[slug]


@pytest.fixture
def network(slug: str, model: System) -> System:
    """As `model`, of systems that learn by gradients."""
    if slug in WITHOUT_GRADIENTS:
        pytest.skip(WITHOUT_GRADIENTS[slug])
    if isinstance(model, GraphSystem):
        pytest.skip("its network is a published ONNX graph")
    return model


def test_task_protocol_is_kept(card: Card, model: System) -> None:
    assert isinstance(model, TASKS[card.task])


def test_full_size_can_be_built(slug: str, network: System) -> None:
    with torch.device("meta"):
        full = system_class(slug)()
    assert sum(p.numel() for p in full.parameters()) > sum(p.numel() for p in network.parameters())


def test_configuration_survives_json(model: System) -> None:
    import json

    described = json.loads(json.dumps(model.describe()))
    with torch.device("meta"):
        assert type(model).from_config(described["config"]).config == model.config


def test_every_parameter_gets_a_gradient(network: System) -> None:
    network.zero_grad()
    loss = torch.stack([(t - 0.3).square().mean() for t in outputs(network, batch(network))]).sum()
    assert torch.isfinite(loss)
    loss.backward()
    allowed = UNTRAINED.get(network.slug, ())
    silent = [
        name
        for name, p in network.named_parameters()
        if p.requires_grad and name not in allowed and (p.grad is None or not p.grad.any())
    ]
    network.zero_grad()
    assert silent == []


def test_bfloat16_stays_finite_and_near(network: System) -> None:
    network.eval()
    x = batch(network, 1)
    with torch.inference_mode():
        exact = outputs(network, x)
        with torch.autocast("cpu", torch.bfloat16):
            rough = outputs(network, x)
    for a, b in zip(exact, rough):
        assert torch.isfinite(b).all()
        assert (a - b.float()).abs().mean() < 0.1 * (a.abs().mean() + 1)


def test_batch_equals_single_pictures(network: System) -> None:
    network.eval()
    x = batch(network, 2)
    with torch.inference_mode():
        together, alone = outputs(network, x), outputs(network, x[1:])
    for a, b in zip(together, alone):
        if a.dim() and len(a) == 2:
            assert (a[1:] - b).abs().max() < 1e-4 * max(1.0, float(b.abs().max()))


def test_saved_and_loaded_network_is_the_same(model: System, tmp_path: Path) -> None:
    if isinstance(model, GraphSystem):
        pytest.skip("its network is a published ONNX graph")
    loaded = type(model).from_pretrained(model.save_pretrained(tmp_path / "m"))
    assert loaded.config == model.config
    state = loaded.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_embedded_weights_load(card: Card) -> None:
    if not card.checkpoints:
        pytest.skip("no trained weights in this checkout")
    for checkpoint in card.checkpoints:
        model = system_class(card.slug).from_pretrained(checkpoint.name)
        assert model.weights_sha256 == checkpoint.sha256
        learned = sum(p.numel() for p in model.parameters()) or sum(b.numel() for b in model.buffers())
        assert learned == checkpoint.parameters
        assert model.preprocess == checkpoint.preprocess
        assert all(torch.isfinite(v).all() for v in model.state_dict().values() if v.is_floating_point())


def test_embedded_files_of_the_first_version_keep_their_record_and_get_the_crop(card: Card) -> None:
    """Their hashes stay, and so what they say of the crop: size and template alone."""
    cls = system_class(card.slug)
    for checkpoint in card.checkpoints:
        _, meta = load_file(fetch(checkpoint))
        record = meta["preprocess"]
        crop = cls.preprocess_for(cls.config_from(meta["config"])).crop
        assert Preprocess.from_dict(upgraded_record(record, crop)) == checkpoint.preprocess
        if "crop" not in record:
            assert (record["size"], record["template"]) == (crop.size, crop.template)


# --- proof


def test_there_is_a_test_file(card: Card) -> None:
    shared = {"adaface": "published", "arcface": "published", "magface": "published"}
    shared |= {"insight68": "regression", "pfld": "regression"}
    assert (ROOT / "tests" / "systems" / card.task / f"test_{shared.get(card.slug, card.slug)}.py").is_file()


def test_parity_with_published_code_or_a_reason(card: Card) -> None:
    assert card.parity or "not public" in card.faithful or "No vector of the published code" in card.faithful


@pytest.mark.shared
def test_parity_vectors_exist(card: Card, shared_dir: Path) -> None:
    for name in card.parity:
        assert (shared_dir / "parity" / f"{name.removesuffix('.npz')}.npz").is_file(), name


def test_reproduction_or_a_reason(card: Card) -> None:
    if not (ROOT / "reproductions").is_dir():
        pytest.skip("reproductions are not part of this installation")
    if card.reproduction:
        assert any((ROOT / card.reproduction).iterdir())
    else:
        assert "not public" in card.faithful or any("No reproduction" in limit for limit in card.limits)


def test_recipe_of_every_checkpoint_is_there(card: Card) -> None:
    if not (ROOT / "recipes").is_dir():
        pytest.skip("recipes are not part of this installation")
    for checkpoint in card.checkpoints:
        assert (ROOT / checkpoint.recipe).is_file()
