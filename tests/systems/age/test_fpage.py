"""FP-Age: parity with the published network, attention by parts, mirrored looks, intervals, losses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from facewright.errors import UsageError, WeightsError
from facewright.face import Face
from facewright.systems.age.fpage import convert
from facewright.systems.age.fpage.network import (
    FPAge,
    FPAgeConfig,
    ParsingAttention,
    coverage,
    interval,
    mirrored_boxes,
    softmax,
)
from facewright.systems.age.fpage.training import FPAgeTraining, age_distribution, age_loss

SMALL = dataclasses.replace(FPAgeConfig.compact_polar(), size=65, crop=96, width=16, hidden=8, blocks=1)
FLAT = dataclasses.replace(FPAgeConfig.compact(), size=64, crop=64, width=16, hidden=8, blocks=1)


def build(config: FPAgeConfig = SMALL) -> FPAge:
    torch.manual_seed(0)
    return FPAge(config).eval()


@pytest.mark.shared
@torch.inference_mode()
def test_equals_published(parity) -> None:
    arrays, state, _ = parity("fpage")
    model = convert.import_published(state)
    logits, parsing = model(torch.from_numpy(arrays["in_image"]), return_aux=True)
    low, high, _ = model.parser(torch.from_numpy(arrays["in_image"]))
    found = {
        "out_age_logits": logits,
        "out_parser_logits": parsing,
        "out_age": model.expected(logits),
        "out_feat_c2": low[..., ::5, ::5],
        "out_feat_high": high[..., ::5, ::5],
        "out_feat_se": model.age_net.attention(high, parsing)[..., ::5, ::5],
    }
    for key, ours in found.items():
        expected = torch.from_numpy(arrays[key])
        assert ours.shape == expected.shape
        assert (ours - expected).abs().max() < 1e-4 * expected.abs().max(), key


@pytest.mark.shared
def test_age_network_alone_needs_its_parser(parity) -> None:
    _, state, _ = parity("fpage")
    own = {key.removeprefix("age_estimator."): v for key, v in state.items() if key.startswith("age_estimator.")}
    parser = {key.removeprefix("face_parser."): v for key, v in state.items() if key.startswith("face_parser.")}
    with pytest.raises(WeightsError, match="without its parser"):
        convert.import_published({"state_dict": own})
    model = convert.import_published({"state_dict": own}, parser={"state_dict": parser})
    assert torch.equal(model.get_parameter("parser.head.4.bias"), parser["decoder.4.bias"])
    with pytest.raises(WeightsError, match="tells the ages is missing"):
        convert.import_published(parser)


def test_size_of_the_published_network() -> None:
    with torch.device("meta"):
        model = FPAge()
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2_206_272
    assert sum(p.numel() for p in model.parameters()) == 35_159_694


def test_with_one_class_only_its_channels_survive() -> None:
    """Channel j·C + c belongs to class c."""
    torch.manual_seed(0)
    attention = ParsingAttention(24, 5)
    logits = torch.full((1, 5, 3, 3), -60.0)
    logits[:, 2] = 60
    seen = attention(torch.randn(1, 24, 3, 3), logits)[0]
    alive = seen.abs().sum((1, 2)) > 0
    assert alive.nonzero().flatten().tolist() == [2, 7, 12, 17]


def test_a_gate_weighs_all_channels_of_its_class() -> None:
    torch.manual_seed(0)
    attention = ParsingAttention(32, 2)
    high, logits = torch.randn(1, 32, 4, 4), torch.zeros(1, 2, 4, 4)
    before = attention(high, logits)
    with torch.no_grad():
        attention.get_parameter("gate.2.weight").zero_()
        attention.get_parameter("gate.2.bias").copy_(torch.tensor([60.0, -60.0]))
    after = attention(high, logits)
    plain = attention.project(high) / 2
    torch.testing.assert_close(after[:, 0::2], plain[:, 0::2])
    assert after[:, 1::2].abs().max() < 1e-6 < before[:, 1::2].abs().max()


def test_boxes_of_the_mirrored_picture() -> None:
    boxes = np.array([[10, 20, 30, 60]], np.float32)
    assert mirrored_boxes(boxes, 100).tolist() == [[69, 20, 89, 60]]
    # what the published helper gives: y mirrored about the width, x as it was
    assert mirrored_boxes(boxes, 100, parity=True).tolist() == [[10, 40, 30, 80]]
    twice = mirrored_boxes(mirrored_boxes(boxes, 100), 100)
    assert twice.tolist() == boxes.tolist()


def test_looking_at_the_mirror_image_of_a_symmetric_face_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    half = rng.integers(0, 256, (80, 40, 3), dtype=np.uint8)
    photo = np.concatenate([half, half[:, ::-1]], 1)
    points = np.array([[30, 30], [49, 30], [39.5, 45], [32, 58], [47, 58]], np.float32)
    face = Face(np.array([20, 15, 59, 70], np.float32), 0.9, points)
    flat = dataclasses.replace(FLAT, trunk="mobilenet")  # the recogniser's template is not symmetric
    for config in (SMALL, dataclasses.replace(SMALL, crop=0), flat):
        once = build(config)
        twice = FPAge(dataclasses.replace(once.config, mirror=True)).eval()
        twice.load_state_dict(once.state_dict())
        once.precision = twice.precision = "fp32"
        a, b = once.estimate(photo, [face])[0], twice.estimate(photo, [face])[0]
        assert a.age == pytest.approx(b.age, abs=0.02)
        assert (a.low, a.high) == (None, None)
    assert build().estimate(photo, []) == []


def test_a_frozen_parser_stays_as_it_is() -> None:
    with torch.device("meta"):
        model = FPAge(dataclasses.replace(SMALL, frozen=True)).train()
    assert not model.parser.training
    assert model.age_net.training
    assert not any(p.requires_grad for p in model.parser.parameters())


def test_intervals_hold_what_they_say() -> None:
    """A uniform distribution over 0 … 9 is spread from −0.5 to 9.5: its middle 80 % is 0.5 … 8.5."""
    low, high = interval(np.full((1, 10), 0.1))
    np.testing.assert_allclose([low[0], high[0]], [0.5, 8.5])
    certain = np.zeros((1, 10))
    certain[0, 4] = 1
    np.testing.assert_allclose(np.ravel(interval(certain)), [3.6, 4.4])
    assert coverage(np.full((2, 10), 0.1), np.array([1.0, 9.0])) == 0.5


def test_calibration_brings_the_coverage_to_four_of_five() -> None:
    rng = np.random.default_rng(0)
    middle = rng.uniform(20, 70, 4000)
    years = np.arange(97)
    logits = -((years - middle[:, None]) ** 2) / (2 * 3.0**2)  # as sure as if its errors were 3 years
    ages = middle + rng.normal(0, 6, 4000)
    model = build()
    scale = model.calibrate(logits, ages)
    assert scale == pytest.approx(4, rel=0.1)  # twice the spread is four times the temperature
    told = model.read(logits)
    inside = np.mean([age.low <= true <= age.high for age, true in zip(told, ages)])
    assert inside == pytest.approx(0.8, abs=0.02)
    assert [age.age for age in told[:5]] == pytest.approx(list(softmax(logits[:5]) @ years))
    newborn = model.read(-((years - 0.0) ** 2)[None])[0]
    assert newborn.low == 0
    assert newborn.high is not None
    assert newborn.high >= newborn.age


def test_loss_of_a_perfect_answer_and_of_a_wrong_one() -> None:
    wanted = age_distribution(torch.tensor([30.0]), 97)
    assert float(wanted.sum()) == pytest.approx(1)
    assert float(wanted[0, 30] / wanted[0, 32]) == pytest.approx(np.exp(0.5))
    years = torch.arange(97.0)
    right, shifted = (-((years - age)[None] ** 2) / (2 * 2.0**2) for age in (30, 35))
    assert float(age_loss(right, torch.tensor([30.0]))) == pytest.approx(0, abs=1e-4)
    # a normal distribution five years off: KL = 5² / (2 · 2²), and the means differ by 5
    assert float(age_loss(shifted, torch.tensor([30.0]))) == pytest.approx(25 / 8 + 5, rel=1e-3)
    assert torch.isfinite(age_loss(shifted, torch.tensor([120.0])))


def test_training_lowers_the_loss_and_labels_lie_where_the_view_looks() -> None:
    model = build().train()
    training = FPAgeTraining(model, lr=3e-3)
    labels = torch.zeros(4, 96, 96, dtype=torch.uint8)
    labels[:, :, 48:] = 3
    batch = {
        "image": torch.randint(0, 256, (4, 96, 96, 3), dtype=torch.uint8),
        "age": torch.tensor([5.0, 20.0, 40.0, 70.0]),
        "labels": labels,
    }
    _, parsing = model(torch.zeros(4, 3, 96, 96), return_aux=True)
    seen = training.labels_in_view(labels, parsing)[0, :, 1:]  # without the middle, which has no direction
    rows = len(seen)
    assert (seen[: rows // 8][seen[: rows // 8] != 255] == 3).all()  # row 0 looks to the right
    assert (seen[rows // 2][seen[rows // 2] != 255] == 0).all()
    optimiser = training.optimisers()["model"]
    losses = []

    def update(name: str, loss: torch.Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))

    for _ in range(15):
        training.step(batch, update, 0.0)
    assert losses[-1] < 0.85 * losses[0]
    assert set(training.validate(batch)) == {"mae", "cs5", "parsed"}


def test_other_shapes_and_parsers_are_refused() -> None:
    with pytest.raises(UsageError, match="takes images"):
        build()(torch.zeros(1, 3, 64, 64))
    with pytest.raises(UsageError, match="takes images"):
        build(FLAT)(torch.zeros(1, 3, 96, 96))
    with pytest.raises(UsageError, match="the same side"):
        FPAge(dataclasses.replace(FLAT, crop=96))
    with pytest.raises(UsageError, match="no parser"):
        FPAge(dataclasses.replace(SMALL, trunk="vgg"))  # type: ignore[arg-type]
