"""SegFace: parity with the published networks, tokens, pictures in and labels out, checkpoints, training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from facewright.errors import UsageError, WeightsError
from facewright.geometry.crop import template_face
from facewright.systems.parse.segface import convert
from facewright.systems.parse.segface import network as sf
from facewright.systems.parse.segface.network import SegFace, SegFaceConfig, SegFaceNet
from facewright.systems.parse.segface.training import SegFaceTraining
from facewright.systems.parse.taxonomy import CELEBAMASK_19, mirrored
from facewright.training.trainer import Recipe, Trainer, build_config

COMPACT = SegFaceConfig.compact()
ORDER = {labels: [sf.LABELS[labels].index(name) for name in sf.PUBLISHED_ORDER[labels]] for labels in sf.LABELS}


def build(config: SegFaceConfig = COMPACT, seed: int = 0) -> SegFace:
    torch.manual_seed(seed)
    return SegFace(config).eval()


def crops(count: int = 1, size: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def deviation(ours: torch.Tensor, published) -> float:
    published = torch.as_tensor(published)
    assert ours.shape == published.shape
    return float((ours - published).abs().max() / published.abs().max())


# --- the published networks


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "backbone", "step"),
    [
        ("segface-swin-b", "swin_b", 3),
        ("segface-mobilenet", "mobilenet_v3_l", 3),
        ("segface-lapa", "mobilenet_v3_l", 5),
    ],
)
@torch.inference_mode()
def test_equals_published(parity, name: str, backbone: str, step: int) -> None:
    arrays, state, _ = parity(name)
    model = convert.import_published(
        {"epoch": 299, "state_dict_backbone": {f"module.{k}": v for k, v in state.items()}}
    )
    assert model.config.backbone == backbone
    assert model.config.warp == ("in_landmarks" in arrays)
    points = [torch.from_numpy(arrays["in_landmarks"])] if model.config.warp else []
    logits = model(torch.from_numpy(arrays["in_image"]), *points)[:, ORDER[model.config.labels]]
    assert deviation(logits[..., ::step, ::step], arrays["out_logits"]) < 1e-4


@pytest.mark.shared
@torch.inference_mode()
def test_decoder_of_a_wide_picture_equals_published(parity) -> None:
    arrays, state, _ = parity("segface")
    with torch.device("meta"):
        net = SegFaceNet(SegFaceConfig())
    net.backbone = torch.nn.Identity()
    tokens = torch.cat([state[f"face_decoder.{token}_token.weight"] for token in sf._TOKENS_CELEBAMASK])
    rest = {convert._renamed(k): v for k, v in state.items() if not k.endswith("_token.weight")}
    net.load_state_dict(rest | {"decoder.tokens": tokens}, assign=True)
    fused = net.fused([torch.from_numpy(arrays[f"in_feature_{i}"]) for i in range(4)])
    assert deviation(fused[..., ::5, ::5], arrays["out_feat_linear_fuse"]) < 1e-4
    assert deviation(net.decoder(fused)[..., ::5, ::5], arrays["out_logits"]) < 1e-4


@pytest.mark.shared
def test_landmark_warp_equals_published(parity) -> None:
    arrays, _, _ = parity("segface-lapa")
    size = torch.Size((128, 128))
    matrix = sf.lapa_alignment(torch.from_numpy(arrays["in_landmarks"]), size)
    assert deviation(matrix, arrays["out_matrix"]) < 1e-5
    assert deviation(sf.bending_grid(matrix, size)[:, ::5, ::5], arrays["out_grid"]) < 1e-5
    assert deviation(sf.straightening_grid(matrix, size)[:, ::5, ::5], arrays["out_inverse_grid"]) < 1e-5


@pytest.mark.parametrize(
    ("backbone", "millions"),
    [("swin_b", 91.0), ("swin_v2_b", 91.2), ("resnet101", 47.3), ("efficientnet_v2_m", 57.0), ("mobilenet_v3_l", 7.0)],
)
def test_sizes_of_the_paper(backbone: str, millions: float) -> None:
    with torch.device("meta"):
        model = SegFace(SegFaceConfig(backbone=backbone))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def published_keys(config: SegFaceConfig) -> dict[str, torch.Tensor]:
    """The state dict of a network in the published names, by undoing the key map."""
    with torch.device("meta"):
        own = SegFace(config).state_dict()
        decoder = SegFace(dataclasses.replace(config, backbone="compact")).state_dict()
    prefix = {"resnet101": "net.backbone.trunk.", "mobilenet_v3_l": "net.backbone.features."}
    chain = {"efficientnet_v2_m": "net.backbone.features."} | prefix
    state = {}
    for key, value in own.items():
        if not key.startswith("net.backbone."):
            continue
        name = key.removeprefix(chain.get(config.backbone, "net.backbone.features."))
        if config.backbone == "resnet101":
            child, _, rest = name.partition(".")
            name = f"{next(k for k, v in convert._RESNET_CHILDREN.items() if v == child)}.{rest}"
        elif config.backbone not in chain:
            name = f"0.{name}".replace(".attn.position.", ".attn.")
        state[f"backbone.{name}"] = value
    for token in sf._TOKENS[config.labels]:
        state[f"face_decoder.{token}_token.weight"] = torch.zeros(1, config.width)
    state["pe_layer.positional_encoding_gaussian_matrix"] = decoder["net.decoder.frequencies"]
    return state


@pytest.mark.parametrize("backbone", [b for b in sf.BACKBONES if b != "compact"])
@pytest.mark.parametrize("labels", ["celebamask", "lapa"])
def test_every_backbone_is_recognised_and_all_its_tensors_find_their_place(backbone: str, labels) -> None:
    config = SegFaceConfig(backbone=backbone, labels=labels, warp=labels == "lapa")
    state = published_keys(config)
    assert convert.published_config(state) == config
    with torch.device("meta"):
        own = SegFace(config).state_dict()
    converted = convert.convert_published(state)
    assert {k for k in own if ".backbone." in k} == {k for k in converted if ".backbone." in k}
    assert all(converted[k].shape == own[k].shape for k in converted)


SUBJECTS_SIDE = {
    "rightear": "l_ear", "leftear": "r_ear", "rightbro": "l_brow", "leftbro": "r_brow",
    "righteye": "l_eye", "lefteye": "r_eye",
}  # fmt: skip


def test_published_tokens_named_by_the_pictures_side_are_the_subjects() -> None:
    """CelebAMask-HQ's labels, which the published networks learnt in this order, are named by the subject's side."""
    logits = ["background", "neck", "skin", "cloth", "l_ear", "r_ear", "l_brow", "r_brow", "l_eye", "r_eye", "nose"]
    assert list(sf.PUBLISHED_ORDER["celebamask"][:11]) == logits
    state = published_keys(SegFaceConfig(backbone="mobilenet_v3_l"))
    for number, token in enumerate(sf._TOKENS_CELEBAMASK):
        state[f"face_decoder.{token}_token.weight"] = torch.full((1, 256), float(number))
    rows = convert.convert_published(state)["net.decoder.tokens"][:, 0].tolist()
    tokens = list(sf._TOKENS_CELEBAMASK)
    for token, name in SUBJECTS_SIDE.items():
        assert rows[sf.LABELS["celebamask"].index(name)] == tokens.index(token)


def test_wrong_checkpoints_are_refused() -> None:
    with pytest.raises(WeightsError, match="none of the paper"):
        convert.import_published({"conv1.weight": torch.zeros(1)})
    state = published_keys(SegFaceConfig(backbone="mobilenet_v3_l"))
    with pytest.raises(WeightsError, match="not a complete checkpoint"):
        convert.import_published(state)
    del state["face_decoder.hat_token.weight"]
    with pytest.raises(WeightsError, match="hat_token"):
        convert.import_published(state)


# --- the network


@torch.inference_mode()
def test_permuting_tokens_permutes_logits() -> None:
    model = build()
    x = torch.randn(1, 3, 64, 64)
    before = model(x)
    order = torch.randperm(19)
    model.net.decoder.tokens.data = model.net.decoder.tokens[order]
    torch.testing.assert_close(model(x), before[:, order], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_mixing_before_enlarging_is_the_papers_fusion() -> None:
    net = build().net
    maps = net.backbone(torch.randn(2, 3, 64, 96))
    stacked = []
    for features, project in zip(maps, net.project):
        narrow = project(features.movedim(1, 3)).movedim(3, 1)
        stacked.append(torch.nn.functional.interpolate(narrow, size=maps[0].shape[2:], mode="bilinear"))
    torch.testing.assert_close(net.fused(maps), net.fuse(torch.cat(stacked[::-1], 1)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (96, 128)])
def test_logits_have_the_size_of_the_picture_and_every_weight_learns(size) -> None:
    model = build().train()
    logits = model(torch.randn(2, 3, *size))
    assert logits.shape == (2, 19, *size)
    logits.square().mean().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().any()]
    # a bias shared by all keys of an attention cannot change it
    assert [n for n in silent if not n.endswith(".k.bias")] == []


def test_bending_is_undone_by_straightening() -> None:
    points = torch.tensor([[[50.0, 52], [80, 55], [64, 70], [54, 85], [76, 86]]])
    size = torch.Size((128, 128))
    matrix = sf.lapa_alignment(points, size)
    y, x = torch.meshgrid(torch.arange(128) / 10.0, torch.arange(128) / 12.0, indexing="ij")
    image = (x.sin() + y.cos())[None, None]
    bent = torch.nn.functional.grid_sample(image, sf.bending_grid(matrix, size), align_corners=False)
    back = torch.nn.functional.grid_sample(bent, sf.straightening_grid(matrix, size), align_corners=False)
    # published coordinates are half a pixel off each time, so a straightened picture is shifted by about one
    assert (back[..., :-1, :-1] - image[..., 1:, 1:])[..., 45:90, 45:90].abs().mean() < 0.15
    eyes = torch.einsum("ij,j->i", matrix[0, :2, :2], points[0, 0]) + matrix[0, :2, 2]
    assert (eyes - torch.tensor([196.0, 226.0]) / 512 * 127).norm() < 5


def test_compact_is_compact() -> None:
    model = build()
    assert sum(p.numel() for p in model.parameters()) <= 2_000_000
    assert all(m.kernel_size in ((1, 1), (2, 2), (3, 3)) for m in model.modules() if isinstance(m, torch.nn.Conv2d))
    assert (model.preprocess.size, model.preprocess.crop.template) == (256, "ffhq")


def test_wrong_input_is_refused() -> None:
    model = build()
    with pytest.raises(UsageError, match="4 times n"):
        model(torch.zeros(1, 3, 62, 64))
    with pytest.raises(UsageError, match="take none"):
        model(torch.zeros(1, 3, 64, 64), torch.zeros(1, 5, 2))
    with pytest.raises(UsageError, match="2 crops need as many faces, not 1"):
        model.parse(crops(2), faces=[template_face(64)])
    with pytest.raises(UsageError, match="needs five points"):
        build(dataclasses.replace(COMPACT, size=64, labels="lapa", warp=True)).parse(crops())
    with pytest.raises(UsageError, match="uint8 crops"):
        model.parse(crops()[0])
    with pytest.raises(UsageError, match="no backbone 'vgg'"):
        SegFace(SegFaceConfig(backbone="vgg"))


# --- pictures in, labels out


def small() -> SegFace:
    return build(dataclasses.replace(COMPACT, size=64))


def test_labels_are_the_most_likely_classes() -> None:
    model = small()
    model.precision = "fp32"
    pixels = crops(2)
    with torch.inference_mode():
        expected = model(model.normalise(pixels))
    probabilities = model.probabilities(pixels)
    np.testing.assert_allclose(probabilities, expected.softmax(1).numpy(), atol=1e-4)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    labels = model.parse(pixels)
    assert labels.dtype == np.uint8
    assert (labels == expected.argmax(1).numpy()).mean() > 0.999
    model.precision = "bf16"
    assert np.abs(model.probabilities(pixels) - probabilities).mean() < 0.01


def test_flip_makes_labels_of_mirrored_pictures_mirrored_labels() -> None:
    model = small()
    model.precision = "fp32"
    pixels = crops()
    there = model.probabilities(pixels, flip=True)
    back = model.probabilities(np.ascontiguousarray(pixels[:, :, ::-1]), flip=True)
    np.testing.assert_allclose(back, there[..., ::-1][:, mirrored(CELEBAMASK_19)], atol=1e-5)
    assert np.abs(there - model.probabilities(pixels)).max() > 1e-3


def test_crops_of_other_sizes_come_back_at_their_own_size() -> None:
    model = small()
    assert model.parse(crops(2, 100)).shape == (2, 100, 100)
    assert model.probabilities(np.zeros((0, 40, 30, 3), np.uint8)).shape == (0, 19, 40, 30)
    assert model.parse(np.zeros((0, 40, 30, 3), np.uint8)).dtype == np.uint8


def test_points_follow_the_crop_when_it_is_scaled_and_mirrored() -> None:
    """A network that returns its picture: aligned by points, crop and twice as large crop show the same."""
    model = build(dataclasses.replace(COMPACT, size=64, labels="lapa", warp=True))
    model.precision = "fp32"
    seen: list[torch.Tensor] = []
    model._logits = lambda network, image, points: (seen.append(points), torch.zeros(1, 11, 64, 64))[1]  # type: ignore[func-returns-value, method-assign]
    points = np.array([[20.0, 25], [40, 26], [30, 35], [22, 45], [38, 46]], np.float32)
    face = dataclasses.replace(template_face(64), points5=points)
    model.parse(crops(), faces=[face], flip=True)
    model.parse(crops(1, 128), faces=[face.scaled(2)])
    torch.testing.assert_close(seen[0], torch.from_numpy(points)[None])
    torch.testing.assert_close(seen[2], seen[0])
    torch.testing.assert_close(seen[1][0, 0], torch.tensor([63 - 40.0, 26.0]))
    torch.testing.assert_close(seen[1][0, 3], torch.tensor([63 - 38.0, 46.0]))


def test_changed_weights_reach_the_fast_copy() -> None:
    model = small()
    before = model.probabilities(crops())
    model.load_state_dict(build(dataclasses.replace(COMPACT, size=64), seed=5).state_dict())
    assert not np.allclose(before, model.probabilities(crops()), atol=1e-3)


def test_folded_backbone_is_the_same_function() -> None:
    model = small().train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(4, 3, 64, 64))
    model.eval()
    model.precision = "fp32"
    with torch.inference_mode():
        expected = model(model.normalise(crops())).softmax(1).numpy()
    np.testing.assert_allclose(model.probabilities(crops()), expected, atol=1e-4)


# --- training


def test_training_learns_two_regions() -> None:
    torch.manual_seed(0)
    training = SegFaceTraining(SegFace(dataclasses.replace(COMPACT, size=64)), lr=2e-3)
    optimiser = training.optimisers()["model"]
    image = np.full((2, 64, 64, 3), 40, np.uint8)
    image[:, :, 32:] = 210
    labels = np.zeros((2, 64, 64), np.uint8)
    labels[:, :, 32:] = CELEBAMASK_19.index("hat")
    labels[:, :4] = 255
    batch = {"image": torch.from_numpy(image), "labels": torch.from_numpy(labels)}

    def update(name: str, loss: torch.Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    first = training.step(batch, update, 0.0)["loss"]
    for _ in range(18):
        last = training.step(batch, update, 0.0)["loss"]
    assert last < 0.7 * first
    with torch.no_grad():
        scores = training.validate(batch)
        sheet = training.sample(batch)
    assert set(scores) == {"loss", "f1", "f1_rare"}
    assert scores["f1_rare"] > 0.5
    assert sheet.shape == (128, 192, 3)
    assert np.array_equal(sheet[:64, :64], image[0])


def test_recipe_fits_and_runs(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    recipe = Recipe.load(Path(__file__).parents[3] / "recipes" / "segface-compact-start.yaml")
    assert build_config(SegFace, recipe.config) == COMPACT
    data = {"entry": "facewright.data.parsing:RenderedParsing", "options": {"size": 64}}
    validation = {"presets": {"clean": 1.0}, "jitter": 0.0, "flip": False}
    tiny = dataclasses.replace(
        recipe, data=data, validation=validation, batch_size=2, workers=0, steps=2, validation_batches=1
    )
    folder = Trainer(tiny, tmp_path).run()
    assert (folder / "model.safetensors").exists()
    assert (tmp_path / "samples" / "0000002.png").exists()
