"""FaceFill: what lies in the hole has no influence, the mirrored picture has, and it learns to fill."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from facewright.errors import UsageError
from facewright.systems.inpaint.facefill.network import FaceFill, FaceFillConfig
from facewright.systems.inpaint.facefill.training import FaceFillTraining
from facewright.training.trainer import Recipe

TINY = FaceFillConfig(size=64, patch=4, widths=(8, 16), encoder=(0, 1), decoder=(1,), heads=2, head_width=8)


def model(**changes: Any) -> FaceFill:
    torch.manual_seed(0)
    return FaceFill(FaceFillConfig(**(asdict(TINY) | changes))).eval()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)


def hole(rows: slice = slice(20, 40), columns: slice = slice(36, 56)) -> Tensor:
    found = torch.zeros(1, 1, 64, 64)
    found[..., rows, columns] = 1
    return found


def test_sizes() -> None:
    with torch.device("meta"):
        full, compact = FaceFill(), FaceFill(FaceFillConfig.compact())
    counts = [sum(p.numel() for p in network.parameters()) for network in (full, compact)]
    assert counts[0] > 8e6
    assert counts[1] == 1_868_828
    assert FaceFillConfig.compact().stride == 32


@torch.no_grad()
def test_what_the_hole_hides_has_no_influence() -> None:
    network, image = model(), drawn(1, 3, 64, 64)
    other = torch.where(hole() > 0, drawn(1, 3, 64, 64, seed=1), image)
    assert torch.equal(network(image, hole()), network(other, hole()))
    assert not torch.equal(network(image, hole()), network(image, torch.zeros_like(hole())))


@torch.no_grad()
def test_the_other_half_of_the_face_is_seen_where_it_is_mirrored() -> None:
    """A change at the hole's mirror image changes what is drawn in it, though convolutions do not reach there."""
    network = model(widths=(8, 16), encoder=(0, 0), decoder=(0,))
    network.attention.write.weight.zero_()
    image, change = drawn(1, 3, 64, 64), drawn(1, 3, 64, 64, seed=1)
    mirrored = hole(columns=slice(8, 28)) > 0
    moved = torch.where(mirrored, change, image)
    difference = (network(moved, hole()) - network(image, hole())).abs()
    inside = hole() > 0
    assert difference[inside.expand_as(difference)].mean() > 1e-4
    nowhere_near = torch.where(hole(slice(20, 40), slice(29, 35)) > 0, change, image)
    assert (network(nowhere_near, hole()) - network(image, hole())).abs()[..., 26:34, 48:54].mean() < 1e-6


@torch.no_grad()
def test_attention_looks_at_what_the_hole_leaves() -> None:
    network = model()
    layer = network.attention
    x, known = drawn(1, 8, 4, 4), torch.ones(1, 1, 4, 4)
    known[..., :2] = 0
    spoiled = x.clone()
    spoiled[..., :2] += 5 * drawn(1, 8, 4, 2, seed=2)
    layer.norm = torch.nn.Identity()  # type: ignore[assignment]
    change = (layer(spoiled, known) - layer(x, known))[..., 2:].abs().max()
    seen = (layer(spoiled, torch.ones_like(known)) - layer(x, torch.ones_like(known)))[..., 2:].abs().max()
    assert change < 0.02 * seen


def test_pictures_of_other_sizes_are_refused() -> None:
    network = model()
    with pytest.raises(UsageError, match="divisible by 8"):
        network(torch.zeros(1, 3, 60, 64), torch.zeros(1, 1, 60, 64))
    with pytest.raises(UsageError, match="one hole"):
        network(torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 32, 32))
    with pytest.raises(UsageError, match="encoder count"):
        FaceFillConfig(encoder=(1,))


def test_crops_are_drawn_whole() -> None:
    network = model()
    network.precision = "fp32"
    crops = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    holes = np.repeat(hole()[0].numpy() > 0, 2, 0)
    out = network.fill(crops, holes)
    assert (out.shape, out.dtype) == (crops.shape, np.uint8)
    with torch.no_grad():
        expected = network(network.normalise(crops), torch.from_numpy(holes)[:, None].float())
    assert np.abs(out.astype(float) - ((expected + 1) * 127.5).clamp(0, 255).permute(0, 2, 3, 1).numpy()).max() < 0.51


# --- training


def batch(count: int = 4) -> dict[str, Tensor]:
    """Pictures of one colour each, with a hole."""
    colours = np.random.default_rng(0).integers(30, 220, (count, 1, 1, 3))
    images = np.broadcast_to(colours, (count, 64, 64, 3)).astype(np.uint8)
    return {
        "image": torch.from_numpy(images.copy()),
        "hole": (hole() > 0).expand(count, -1, -1, -1).clone(),
        "mask": torch.ones(count, 1, 64, 64, dtype=torch.bool),
    }


def trained(steps: int, progress: float, **options: Any) -> tuple[FaceFillTraining, list[dict[str, float]]]:
    torch.manual_seed(0)
    training = FaceFillTraining(model(), lr=4e-3, features_weight=0.0, discriminator_width=8, **options)
    optimisers = training.optimisers()

    def update(name: str, loss: Tensor) -> None:
        optimisers[name].zero_grad()
        loss.backward()
        optimisers[name].step()

    return training, [
        {key: float(value) for key, value in training.step(batch(), update, progress).items()} for _ in range(steps)
    ]


def test_a_hole_in_an_even_picture_is_learnt() -> None:
    training, logs = trained(60, 0.0)
    assert logs[-1]["pixel"] < 0.35 * logs[0]["pixel"]
    assert training.validate(batch())["psnr_hole"] > 18
    assert training.sample(batch()).shape[2] == 3


def test_the_adversary_takes_part_later() -> None:
    _, early = trained(1, 0.1, gan_from=0.5)
    _, late = trained(2, 0.6, gan_from=0.5)
    assert "discriminator" not in early[0]
    assert {"adversarial", "matching", "discriminator"} < set(late[0])
    assert late[0]["discriminator"] == pytest.approx(1, abs=0.2)


def test_pixels_that_are_not_real_do_not_count() -> None:
    torch.manual_seed(0)
    training = FaceFillTraining(model(), features_weight=0.0)
    cut = batch()
    cut["mask"][..., 32:] = False
    seen: list[float] = []
    for spoil in (0, 90):
        changed = cut | {"image": cut["image"].clone()}
        changed["image"][:, :, 60:] = spoil
        with torch.no_grad():
            seen.append(float(training.step(changed, lambda name, loss: None, 0.0)["edge"]))
    assert seen[0] == pytest.approx(seen[1], rel=1e-2)


def test_the_recipe_is_of_this_system() -> None:
    recipe = Recipe.load(Path(__file__).parents[3] / "recipes" / "facefill-compact.yaml")
    assert recipe.system == "facefill"
