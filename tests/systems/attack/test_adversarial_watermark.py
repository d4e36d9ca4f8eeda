"""HiDDeN against its usual version, and the attack that sleeps until a picture is marked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facewright.errors import UsageError
from facewright.systems.attack.adversarial_watermark.attack import (
    PgdOptions,
    alarm_threshold,
    alarmed,
    compare,
    marked,
    objective,
    perturb,
    to_8_bits,
)
from facewright.systems.attack.adversarial_watermark.convert import import_published
from facewright.systems.attack.adversarial_watermark.network import (
    Hidden,
    HiddenConfig,
    jpeg_masked,
    quantised,
    zigzag,
)
from facewright.systems.attack.adversarial_watermark.training import HiddenTraining, critic_loss, hiding_terms

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = HiddenConfig(size=32, bits=4, width=8, encoder_blocks=2, decoder_blocks=2, discriminator_blocks=1)


@pytest.mark.shared
def test_networks_agree_with_the_published_ones(parity: Callable[[str], Any]) -> None:
    arrays, state, _ = parity("hidden")
    counters = {f"{key.rpartition('.')[0]}.num_batches_tracked" for key in state if key.endswith("running_mean")}
    model = import_published(state | {key: torch.tensor(0) for key in counters})
    assert model.config == HiddenConfig()
    assert sum(p.numel() for p in model.parameters()) == 488_000
    image, message = (torch.from_numpy(arrays[f"in_{name}"]) for name in ("image", "message"))
    with torch.inference_mode():
        encoded = model.encoder(image, message)
        found = {
            "encoded": encoded,
            "decoded_from_encoded": model.decoder(encoded),
            "decoded_from_cover": model.decoder(image),
            "discriminator_cover": model.discriminator(image),
            "discriminator_encoded": model.discriminator(encoded),
            "jpeg": jpeg_masked(image),
            "jpeg_61x52": jpeg_masked(image[:, :, :61, :52]),
            "quantised": quantised(image),
        }
    for name, value in found.items():
        assert (value - torch.from_numpy(arrays[f"out_{name}"])).abs().max() < 2e-6, name


def test_zigzag_is_jpegs() -> None:
    assert zigzag(6) == [(0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2)]
    assert len(set(zigzag(64))) == 64


def test_the_stand_in_for_jpeg_keeps_flat_pictures() -> None:
    flat = torch.full((1, 3, 16, 16), 0.25)
    assert torch.allclose(jpeg_masked(flat), flat, atol=1e-4)


def test_losses_by_hand() -> None:
    image = torch.zeros(1, 3, 2, 2)
    terms = hiding_terms(image, image + 0.5, torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.0]]), torch.zeros(1, 1))
    assert float(terms["image"]) == pytest.approx(0.25)
    assert float(terms["message"]) == pytest.approx(0.125)
    assert float(terms["adversarial"]) == pytest.approx(np.log(2))
    assert float(critic_loss(torch.zeros(1, 1), torch.zeros(1, 1))) == pytest.approx(2 * np.log(2))


def test_training_teaches_to_read_what_was_hidden() -> None:
    torch.manual_seed(0)
    model = Hidden(SMALL)
    training = HiddenTraining(model, lr=5e-3)
    optimisers = training.optimisers()
    rng = np.random.default_rng(0)
    batch = {"image": torch.from_numpy(rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8))}

    def update(name: str, loss: Tensor) -> None:
        optimisers[name].zero_grad()
        loss.backward()
        optimisers[name].step()

    losses = [float(training.step(batch, update, 0.0)["message"]) for _ in range(60)]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    found = training.validate(batch)
    assert 0 <= found["bits"] <= 1


def test_messages_are_checked_and_pictures_keep_their_size() -> None:
    torch.manual_seed(0)
    model = Hidden(SMALL).eval()
    crops = np.random.default_rng(0).integers(0, 256, (3, 40, 24, 3), dtype=np.uint8)  # any size
    bits = np.array([[0, 1, 0, 1]] * 3)
    assert model.mark(crops, bits).shape == crops.shape
    assert set(np.unique(model.read(crops))) <= {0, 1}
    for wrong in (bits[:, :3], bits + 1, bits[:2]):
        with pytest.raises(UsageError, match="message"):
            model.mark(crops, wrong)


# --- the attack -----------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """A recogniser whose embedding is a fixed linear function of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.randn(6, 3 * 16 * 16, generator=torch.Generator().manual_seed(1))

    def forward(self, image: Tensor) -> Tensor:
        return F.linear(image.flatten(1) - 0.5, self.weight)


@pytest.fixture
def scene() -> dict[str, Any]:
    torch.manual_seed(0)
    hidden = Hidden(SMALL).eval().requires_grad_(False)
    with torch.no_grad():  # a mark that changes the picture visibly and follows it
        hidden.encoder.paint.weight.mul_(0.5)
    image = to_8_bits(torch.rand(3, 3, 16, 16) * 0.6 + 0.2)
    embed = Linear()
    return {
        "hidden": hidden,
        "image": image,
        "embed": embed,
        "reference": embed(image),
        "message": torch.randint(0, 2, (3, 4)).float(),
    }


@pytest.mark.parametrize("known", [True, False])
def test_the_change_stays_small_and_lowers_the_objective(scene: dict[str, Any], known: bool) -> None:
    options = PgdOptions(epsilon=8 / 255, steps=10, messages=2)
    message = scene["message"] if known else None
    delta = perturb(
        scene["image"],
        scene["reference"],
        scene["hidden"],
        scene["embed"],
        message=message,
        options=options,
    )
    assert delta.abs().max() <= 8 / 255 + 1e-6
    assert (scene["image"] + delta).min() >= 0
    assert (scene["image"] + delta).max() <= 1
    args = (scene["reference"], scene["message"][None], scene["hidden"], scene["embed"], options)
    start = objective(scene["image"], torch.zeros_like(delta), *args)
    assert (objective(scene["image"], delta, *args) < start).all()


def test_without_stealth_it_is_an_ordinary_adversarial_example(scene: dict[str, Any]) -> None:
    def similarity(stealth: float) -> Tensor:
        options = PgdOptions(epsilon=16 / 255, steps=10, stealth=stealth)
        keys = ("image", "reference", "hidden", "embed")
        delta = perturb(*(scene[key] for key in keys), message=scene["message"], options=options)
        return F.cosine_similarity(scene["embed"](scene["image"] + delta), scene["reference"])

    assert (similarity(1.0) > similarity(0.0)).all()


def test_conditions_are_measured_on_what_is_stored(scene: dict[str, Any]) -> None:
    delta = torch.full_like(scene["image"], 2 / 255)
    found = compare(scene["image"], delta, scene["reference"], scene["message"], scene["hidden"], scene["embed"])
    assert np.allclose(found.clean, 1)
    assert found.psnr == pytest.approx(-20 * np.log10(2 / 255), abs=0.01)
    shown = marked(scene["hidden"], scene["image"], scene["message"], rounded=True)
    assert torch.allclose(shown * 255, (shown * 255).round())
    expected = F.cosine_similarity(scene["embed"](shown), scene["reference"]).numpy()
    assert np.allclose(found.marked, expected, atol=1e-6)
    assert np.allclose(found.consistency_honest, expected, atol=1e-6)  # the reference is the clean picture here
    assert 0 <= found.bits <= 1


def test_the_alarm_lets_honest_pictures_pass() -> None:
    honest = np.linspace(0.8, 1.0, 101)
    kappa = alarm_threshold(honest, 0.01)
    assert alarmed(honest, kappa).mean() <= 0.01
    assert alarmed([0.2, 0.79, 0.9], kappa).tolist() == [True, True, False]


def test_what_the_attack_refuses(scene: dict[str, Any]) -> None:
    for wrong in ({"epsilon": 0.0}, {"steps": 0}, {"step": 0.0}, {"messages": 0}):
        with pytest.raises(UsageError, match="no attack"):
            PgdOptions(**wrong)
    scene["hidden"].train()
    with pytest.raises(UsageError, match="training mode"):
        perturb(scene["image"], scene["reference"], scene["hidden"], scene["embed"])
