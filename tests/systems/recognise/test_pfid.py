"""PFID: trunks, posteriors, ImageNet weights, box crops, galleries, and what the pairwise term does to posteriors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError, WeightsError
from facewright.geometry.crop import CropSpec
from facewright.geometry.similarity import transform_points
from facewright.losses.pairs import posterior_kl, posterior_pair_loss
from facewright.nn.resnet import BasicBlock, ResNet
from facewright.systems.recognise.pfid.network import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PFID,
    UNKNOWN,
    PFIDConfig,
    Posteriors,
    gallery_templates,
    identify,
)

TINY = PFIDConfig(backbone="thin", size=32, individuals=5, width=8)


def tiny() -> PFID:
    torch.manual_seed(0)
    model = PFID(TINY).eval()
    model.precision = "fp32"
    return model


def crops(count: int, size: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("config", "features", "parameters"),
    [
        (PFIDConfig(individuals=24), 512, 11_176_512 + 513 * 24),
        (PFIDConfig.densenet(), 1024, 6_953_856 + 1025 * 24),
    ],
)
def test_published_trunks(config, features, parameters):
    with torch.device("meta"):
        model = PFID(config)
    assert model.fc.in_features == features
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_input_is_imagenet_normalised():
    model = tiny()
    grey = np.full((1, 32, 32, 3), 128, np.uint8)
    expected = (128 / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    np.testing.assert_allclose(model.normalise(grey)[0, :, 0, 0].numpy(), expected, rtol=1e-5)
    assert PFIDConfig().size == 224
    assert model.preprocess.crop.template == ""


@torch.no_grad()
def test_posteriors_belong_to_the_features():
    model = tiny()
    x = model.normalise(crops(3))
    out = model(x, with_logits=True)
    assert isinstance(out, Posteriors)
    assert torch.equal(out.features, model(x))
    torch.testing.assert_close(out.logits, out.features @ model.fc.weight.T + model.fc.bias)


@torch.no_grad()
def test_classification_uses_picture_and_mirror():
    model = tiny()
    pictures = crops(3)
    x = model.normalise(pictures)
    mean = (model(x) + model(x.flip(3))) / 2
    found = model.classify(pictures)
    np.testing.assert_allclose(found, model.fc(mean).softmax(1).numpy(), atol=1e-4)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    model.mirror = False
    np.testing.assert_allclose(model.classify(pictures), model.fc(model(x)).softmax(1).numpy(), atol=1e-4)


@torch.no_grad()
def test_imagenet_weights_of_torchvision_load():
    torch.manual_seed(1)
    published = ResNet(BasicBlock, (1, 1, 1, 1), width=8, classes=1000).eval()
    model = tiny()
    before = model.fc.weight.clone()
    model.load_imagenet(published.state_dict())
    x = model.normalise(crops(2))
    torch.testing.assert_close(published.fc(model(x)), published(x))
    assert torch.equal(model.fc.weight, before)
    with pytest.raises(WeightsError, match="not torchvision weights of thin"):
        model.load_imagenet({"layer1.0.conv1.weight": torch.zeros(3)})


def test_names_travel_with_the_weights(tmp_path):
    named = PFIDConfig("thin", 32, individuals=2, names=("Frodo", "Fifi"), width=8)
    loaded = PFID.from_pretrained(PFID(named).save_pretrained(tmp_path))
    assert loaded.config == named
    with pytest.raises(UsageError, match="2 names were given for 5"):
        PFID(PFIDConfig("thin", 32, individuals=5, names=("Frodo", "Fifi"), width=8))
    with pytest.raises(UsageError, match="densenet121"):
        PFID(PFIDConfig("vgg16"))


def test_the_pairwise_term_pulls_one_individual_together_and_pushes_two_apart():
    torch.manual_seed(0)
    labels = torch.arange(5).repeat_interleave(3)
    logits = torch.randn(15, 5, requires_grad=True)
    same = (labels[:, None] == labels) & ~torch.eye(15, dtype=torch.bool)
    different = labels[:, None] != labels

    def apart() -> tuple[float, float]:
        divergence = posterior_kl(logits.detach())
        return float(divergence[same].mean()), float(divergence[different].mean())

    near, far = apart()
    for _ in range(300):
        (grad,) = torch.autograd.grad(posterior_pair_loss(logits, labels), logits)
        logits.data -= 0.5 * grad
    nearer, farther = apart()
    assert nearer < near / 3
    assert farther > far
    assert farther > 1.5  # of a reachable log 5 = 1.61


# --- crops


def test_crops_are_levelled_boxes_or_the_template(fakes):
    face = fakes.face_at((224, 130), 60.0, angle=20.0)
    boxed = tiny().preprocess.crop.cut(np.zeros((300, 400, 3), np.uint8), face)
    assert boxed.image.shape == (32, 32, 3)
    eyes = transform_points(boxed.matrix, face.points5)[:2]
    assert abs(eyes[0, 1] - eyes[1, 1]) < 1e-3
    assert boxed.scale == pytest.approx(32 / (1.3 * face.height), rel=1e-3)
    of_people = PFID.preprocess_for(PFIDConfig("thin", 112, "arcface"))
    assert of_people.crop == CropSpec.aligned(112, "arcface")


def test_no_crops_give_no_embeddings():
    assert tiny().embed(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, tiny().fc.in_features)


# --- galleries


def test_templates_average_directions_not_lengths():
    embeddings = np.array([[100.0, 0.0], [0.0, 1.0], [-3.0, 0.0]])
    templates, individuals = gallery_templates(embeddings, np.array([7, 7, 2]))
    assert individuals.tolist() == [2, 7]
    np.testing.assert_allclose(templates, [[-1, 0], [np.sqrt(0.5), np.sqrt(0.5)]], atol=1e-6)


def test_identification_open_and_closed():
    templates, individuals = np.eye(3), np.array([10, 20, 30])
    probes = np.array([[5.0, 0.1, 0.0], [1.0, 1.2, 1.1], [0.0, 0.0, 0.3]])
    closed, cosines = identify(probes, templates, individuals, threshold=-1)
    assert closed.tolist() == [10, 20, 30]
    np.testing.assert_allclose(cosines, [5 / np.hypot(5, 0.1), 1.2 / np.sqrt(1 + 1.44 + 1.21), 1.0])
    assert identify(probes, templates, individuals, threshold=0.9)[0].tolist() == [10, UNKNOWN, 30]


def test_loss_of_the_paper_reaches_every_parameter():
    model = tiny().train()
    out = model(model.normalise(crops(10)), with_logits=True)
    labels = torch.arange(5).repeat_interleave(2)
    (F.cross_entropy(out.logits, labels) + posterior_pair_loss(out.logits, labels)).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
