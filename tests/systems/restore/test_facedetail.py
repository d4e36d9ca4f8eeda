"""FaceDetail: starts from its input, knows where in the face it is, and is trained on detail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from facewright.errors import UsageError
from facewright.geometry.templates import template_points
from facewright.systems.restore.facedetail.network import FaceDetail, FaceDetailConfig, band_filters, decode_estimate
from facewright.systems.restore.facedetail.training import (
    FaceDetailTraining,
    _room,
    important_regions,
    laplacian,
    texture_energy_loss,
)
from facewright.training.trainer import Recipe, signed

TINY = FaceDetailConfig(size=64, widths=(8, 12), encoder=(1, 1), decoder=(1,), hidden=8)
RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*facedetail*.yaml"))


def model(**changes: Any) -> FaceDetail:
    torch.manual_seed(0)
    return FaceDetail(FaceDetailConfig(**(vars_of(TINY) | changes))).eval()


def vars_of(config: FaceDetailConfig) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(config)


def pictures(count: int = 2, side: int = 64) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    rng = np.random.default_rng(0)
    waves = [np.sin((x * a + y * b) / 3) for a, b in rng.uniform(-1, 1, (3 * count, 2))]
    stacked = (127 + 100 * np.stack(waves)).astype(np.uint8).reshape(count, 3, side, side)
    return np.ascontiguousarray(stacked.transpose(0, 2, 3, 1))


def batch(side: int = 64) -> dict[str, torch.Tensor]:
    truth = torch.from_numpy(pictures(side=side))
    noise = torch.randint(-30, 30, truth.shape, generator=torch.Generator().manual_seed(1))
    return {
        "hq": truth,
        "lq": (truth + noise).clamp(0, 255).to(torch.uint8),
        "mask": torch.ones(2, 1, side, side, dtype=torch.bool),
        "place": torch.zeros(2, 2),
        "damage": torch.rand(2, 5, generator=torch.Generator().manual_seed(2)),
    }


def test_sizes() -> None:
    with torch.device("meta"):
        compact, full = FaceDetail(FaceDetailConfig.compact()), FaceDetail()
    assert sum(p.numel() for p in compact.parameters()) == 2_679_429
    assert sum(p.numel() for p in full.parameters()) > 8_000_000
    assert compact.preprocess.size == 512
    assert compact.preprocess.crop.template == "ffhq"


def test_fresh_network_returns_its_input() -> None:
    crops = pictures()
    assert np.abs(model().restore(crops).astype(int) - crops).max() <= 2


def test_restored_crops_are_a_batch_of_singles() -> None:
    network, crops = model(), pictures()
    network.precision = "fp32"
    together = network.restore(crops).astype(int)
    alone = np.concatenate([network.restore(crop[None]) for crop in crops]).astype(int)
    assert np.abs(together - alone).max() <= 1


def test_a_part_is_restored_as_in_the_whole_when_nothing_steers_it() -> None:
    network = model(steered=False, size=256)
    with torch.no_grad():
        network.out.weight.mul_(200)
    image = network.normalise(pictures(1, 256))
    corner = torch.tensor([[64, 96]])
    with torch.inference_mode():
        whole = network(image)[..., 64:224, 96:256]
        part = network(image[..., 64:224, 96:256], place=corner)
        lost = network(image[..., 64:224, 96:256])
    inner = np.s_[..., 48:-48, 48:-48]
    assert (whole[inner] - image[..., 64:224, 96:256][inner]).abs().max() > 0.01
    assert torch.allclose(whole[inner], part[inner], atol=1e-4)
    assert not torch.allclose(whole[inner], lost[inner], atol=1e-4)


def test_fidelity_reaches_the_network() -> None:
    network = model()
    image = network.normalise(pictures())
    with torch.inference_mode():
        faithful, free = network(image), network(image, fidelity=torch.tensor([1.0, 0.0]))
    assert torch.equal(faithful[0], free[0])
    assert not torch.equal(faithful[1], free[1])


def test_bad_input_is_refused() -> None:
    with pytest.raises(UsageError, match="divisible by 8"):
        model()(torch.zeros(1, 3, 60, 64))
    with pytest.raises(UsageError, match="fidelity"):
        model().restore(pictures(), fidelity=1.5)
    with pytest.raises(UsageError, match="encoder counts"):
        FaceDetailConfig(encoder=(1, 2))
    with pytest.raises(UsageError, match="multiple of 32"):
        FaceDetailConfig(size=500)


def test_estimates_are_in_natural_units() -> None:
    raw = torch.tensor([[0.5, 1.2, 0.6, np.log1p(7) / 3, 0.5], [-1.0, 0.0, -1.0, -1.0, -1.0]])
    first, second = decode_estimate(raw)
    assert first.detail == pytest.approx(0.25)
    assert first.structure == 1
    assert first.psnr == pytest.approx(30)
    assert first.noise_sigma == pytest.approx(7, abs=1e-3)
    assert first.downscale == pytest.approx(4)
    assert (second.detail, second.psnr, second.noise_sigma, second.downscale) == (0, 0, 0, 1)


def test_assessing_is_what_restoring_says() -> None:
    network, crops = model(), pictures()
    _, estimates = network.restore_with_estimate(crops)
    for a, b in zip(network.assess_detail(crops), estimates):
        assert a.psnr == pytest.approx(b.psnr, abs=1e-3)
        assert a.detail == pytest.approx(b.detail, abs=1e-4)


def test_bands_are_differences_of_gaussians() -> None:
    """All gains −1 and nothing added leaves the picture smoothed by the widest Gaussian, cut at 4 to 7 pixels."""
    network = model()
    image = network.normalise(pictures())
    with torch.no_grad():
        network.out.weight.zero_()
        network.out.bias[:48], network.out.bias[48:] = 0, -0.25
    with torch.inference_mode():
        smooth = image + network._change(network._patches(image), torch.zeros(2, 8, 16, 16))
    wanted = np.stack([cv2.GaussianBlur(p, (0, 0), 3.2) for p in image.permute(0, 2, 3, 1).numpy()])
    apart = smooth.permute(0, 2, 3, 1).numpy()[:, 12:-12, 12:-12] - wanted[:, 12:-12, 12:-12]
    assert np.abs(apart).mean() < 0.1 * image.std()
    filters = band_filters(4)
    assert filters.shape == (48, 16, 3, 3)
    assert filters.sum((1, 2, 3)).abs().max() < 1e-6
    impulse = torch.zeros(1, 16, 3, 3)
    impulse[0, 5, 1, 1] = 1  # pixel (1, 1) of the middle patch
    near = torch.nn.functional.conv2d(impulse, filters).view(3, 16)[0]
    weights = np.exp(-0.5 * (np.arange(-4, 8) - 1) ** 2 / 0.8**2)
    assert float(near[5]) == pytest.approx(1 - (1 / weights.sum()) ** 2, abs=1e-4)
    assert int(near.argmax()) == 5


def test_training_lowers_the_losses() -> None:
    owner = FaceDetailTraining(model().train(), lr=3e-3, gan_from=0.5, discriminator_width=4)
    optimisers = owner.optimisers()
    data = batch()

    def update(name: str, loss: torch.Tensor) -> None:
        optimisers[name].zero_grad(set_to_none=True)
        loss.backward()
        optimisers[name].step()

    torch.manual_seed(3)
    logs = [{k: float(v) for k, v in owner.step(data, update, 0.0).items()} for _ in range(40)]
    assert logs[-1]["pixel"] < 0.8 * logs[0]["pixel"]
    assert logs[-1]["estimate"] < 0.5 * logs[0]["estimate"]
    assert "adversarial" not in logs[0]
    late = owner.step(data, update, 0.5)
    assert {"adversarial", "matching", "discriminator"} <= set(late)
    assert owner.sample(data).shape[0] == 4 * 64
    assert owner.validate(data)["psnr_input"] == pytest.approx(23.2, abs=1.5)


def test_pixels_outside_the_mask_do_not_teach() -> None:
    data = batch()
    data["mask"][..., 32:] = False
    changed = {**data, "hq": data["hq"].clone()}
    changed["hq"][:, :, 40:] = 255 - changed["hq"][:, :, 40:]

    def losses(items: dict[str, torch.Tensor]) -> dict[str, float]:
        owner = FaceDetailTraining(model().train(), discriminator_width=4, free_fidelity=0.0)
        return {k: float(v) for k, v in owner.step(items, lambda _, __: None, 1.0).items()}

    first, second = losses(data), losses(changed)
    for key in ("pixel", "edge", "energy", "adversarial"):
        assert first[key] == pytest.approx(second[key], rel=1e-4), key


class Judge(torch.nn.Module):
    """In place of the discriminator: a cell of 8 px is as real as it is bright, and black is half real."""

    def __init__(self) -> None:
        super().__init__()
        self.black = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return torch.nn.functional.avg_pool2d(image.mean(1, keepdim=True), 8) + self.black, [image]


def judged(**options: Any) -> FaceDetailTraining:
    owner = FaceDetailTraining(model().train(), discriminator_width=4, **options)
    owner.discriminator = Judge()  # type: ignore[assignment]
    return owner


def test_the_adversary_pulls_towards_what_looks_real_as_far_as_each_face_has_room() -> None:
    restored = torch.full((2, 3, 64, 64), 0.1)
    restored[1] = 0.3
    restored.requires_grad_()
    mask = torch.ones(2, 1, 64, 64)
    mask[..., 32:] = 0
    found = judged(gan_weight=0.5)._adversarial(restored, 0 * restored.detach(), mask, torch.tensor([1.0, 3.0]))
    assert float(found["adversarial"].detach()) == pytest.approx(-0.5 * (1 * 0.6 + 3 * 0.8) / 2)
    found["adversarial"].backward()
    assert restored.grad is not None
    assert (restored.grad[..., :32] < 0).all()  # brighter looks more real
    assert not restored.grad[..., 32:].any()


def test_the_discriminator_learns_inside_the_mask_alone() -> None:
    mask = torch.ones(1, 1, 64, 64)
    mask[..., 32:] = 0
    real, fake = torch.full((1, 3, 64, 64), 0.2), torch.full((1, 3, 64, 64), -0.4)
    losses: list[float] = []
    judged()._discriminate(fake, real, mask, lambda name, loss: losses.append(float(loss.detach())))
    assert losses == [pytest.approx(0.5 * ((1 - 0.7) + (1 + 0.1)))]  # of 0.7 for the real and 0.1 for the made picture


def test_an_adversary_has_room_where_much_is_missing() -> None:
    high = torch.zeros(4, 3, 8, 8)
    low = high + torch.tensor([0.001, 0.03, 0.06, 0.9]).view(4, 1, 1, 1)
    low[:, :, :, 4:] = 1
    mask = torch.ones(4, 1, 8, 8)
    mask[..., 4:] = 0
    assert _room(low, high, mask).tolist() == pytest.approx([0.2, 0.5, 1.0, 2.5])


def test_the_less_fidelity_is_wanted_the_more_the_adversary_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = judged(free_fidelity=1.0, freedom=3.0)
    asked: list[torch.Tensor] = []
    owner.model.register_forward_pre_hook(lambda _, __, given: asked.append(given["fidelity"]), with_kwargs=True)
    weights: list[torch.Tensor] = []

    def adversarial(*given: torch.Tensor) -> dict[str, torch.Tensor]:
        weights.append(given[3])
        return {}

    monkeypatch.setattr(owner, "_adversarial", adversarial)
    data = batch()
    owner.step(data, lambda _, __: None, 1.0)
    room = _room(signed(data["lq"]), signed(data["hq"]), data["mask"].float())
    torch.testing.assert_close(weights[0], (1 + 3 * (1 - asked[0])) * room)
    assert asked[0].unique().numel() == 2


def test_a_part_is_weighed_by_the_place_it_was_cut_from() -> None:
    owner = judged()
    owner.regions = torch.arange(64.0 * 64).view(64, 64)
    found = owner._weights(torch.tensor([[8, 16]]), torch.ones(1, 1, 4, 6))
    assert found.shape == (1, 1, 4, 6)
    torch.testing.assert_close(found[0, 0], owner.regions[8:12, 16:22])


def test_eyes_and_mouth_count_more() -> None:
    regions = important_regions(512)
    left, right, nose, *mouth = template_points("ffhq", 512).round().astype(int)
    centre = np.mean(mouth, 0).astype(int)
    assert regions[left[1], left[0]] > 0.95
    assert regions[right[1], right[0]] > 0.95
    assert regions[centre[1], centre[0]] > 0.95
    assert regions[nose[1], nose[0]] < 0.5
    assert regions[:60].max() < 0.01


def test_texture_energy_is_blind_to_place_but_not_to_strength() -> None:
    noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.1
    ones = torch.ones(1, 1, 64, 64)
    assert float(texture_energy_loss(noise, noise, ones)) == 0
    moved = float(texture_energy_loss(noise.roll(1, 3), noise, ones))
    weaker = float(texture_energy_loss(0.5 * noise, noise, ones))
    assert moved < 0.2 * weaker
    assert float(texture_energy_loss(noise, 0 * noise, 0 * ones)) == 0


def test_laplacian_of_a_quadratic_is_constant() -> None:
    x = torch.arange(16.0)
    image = (x**2).expand(1, 3, 16, 16)
    assert torch.allclose(laplacian(image)[..., 1:-1], torch.tensor(2.0), atol=1e-3)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipes_fit(path: Path) -> None:
    recipe = Recipe.load(path)
    assert recipe.system == "facedetail"
    options = recipe.training["options"]
    with torch.device("meta"):
        FaceDetailTraining(FaceDetail(TINY), **(options | {"features_weight": 0.0}))
