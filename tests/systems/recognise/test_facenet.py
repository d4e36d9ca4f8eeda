"""FaceNet: input contract, the published layout and numbers of the published code, refusals."""

from __future__ import annotations

import zlib
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from facewright.errors import UsageError, WeightsError
from facewright.nn.inception_resnet import from_facenet_pytorch
from facewright.systems.recognise.facenet.convert import import_published
from facewright.systems.recognise.facenet.network import FaceNet, FaceNetConfig
from facewright.weights import published

if TYPE_CHECKING:
    from pathlib import Path

Branch = tuple[tuple[int, int, int], ...]  # (width, height and width of the kernel) of its convolutions

STEM = {"1a": (3, 32, 3), "2a": (32, 32, 3), "2b": (32, 64, 3), "3b": (64, 80, 1), "4a": (80, 192, 3)}
STEM |= {"4b": (192, 256, 3)}
BLOCK35: tuple[Branch, ...] = (((32, 1, 1),), ((32, 1, 1), (32, 3, 3)), ((32, 1, 1), (32, 3, 3), (32, 3, 3)))
BLOCK17: tuple[Branch, ...] = (((128, 1, 1),), ((128, 1, 1), (128, 1, 7), (128, 7, 1)))
BLOCK8: tuple[Branch, ...] = (((192, 1, 1),), ((192, 1, 1), (192, 1, 3), (192, 3, 1)))
MIXED_6A: tuple[Branch, ...] = (((384, 3, 3),), ((192, 1, 1), (192, 3, 3), (256, 3, 3)))
MIXED_7A: tuple[Branch, ...] = (
    ((256, 1, 1), (384, 3, 3)),
    ((256, 1, 1), (256, 3, 3)),
    ((256, 1, 1), (256, 3, 3), (256, 3, 3)),
)

Shapes = dict[str, tuple[int, ...]]


def norm(name: str, width: int) -> Shapes:
    shapes: Shapes = {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {f"{name}.num_batches_tracked": ()}


def unit(name: str, cin: int, cout: int, height: int, width: int) -> Shapes:
    return {f"{name}.conv.weight": (cout, cin, height, width)} | norm(f"{name}.bn", cout)


def branches(name: str, cin: int, layout: tuple[Branch, ...]) -> Shapes:
    shapes: Shapes = {}
    for i, branch in enumerate(layout):
        inputs = [cin] + [width for width, _, _ in branch]
        for j, (width, h, w) in enumerate(branch):
            place = f"{name}.branch{i}.{j}" if len(branch) > 1 else f"{name}.branch{i}"
            shapes |= unit(place, inputs[j], width, h, w)
    return shapes


def block(name: str, width: int, layout: tuple[Branch, ...]) -> Shapes:
    joined = sum(branch[-1][0] for branch in layout)
    ends: Shapes = {f"{name}.conv2d.weight": (width, joined, 1, 1), f"{name}.conv2d.bias": (width,)}
    return branches(name, width, layout) | ends


def published_shapes() -> Shapes:
    """Names and shapes of facenet-pytorch's network without its classifier."""
    shapes: Shapes = {}
    for name, (cin, cout, side) in STEM.items():
        shapes |= unit(f"conv2d_{name}", cin, cout, side, side)
    for i in range(5):
        shapes |= block(f"repeat_1.{i}", 256, BLOCK35)
        shapes |= block(f"repeat_3.{i}", 1792, BLOCK8)
    for i in range(10):
        shapes |= block(f"repeat_2.{i}", 896, BLOCK17)
    shapes |= branches("mixed_6a", 256, MIXED_6A) | branches("mixed_7a", 896, MIXED_7A)
    return shapes | block("block8", 1792, BLOCK8) | {"last_linear.weight": (512, 1792)} | norm("last_bn", 512)


def made_up(shapes: Shapes) -> dict[str, Tensor]:
    """Weights that follow from the names alone and keep activations in range."""
    state = {}
    for key, shape in shapes.items():
        u = np.random.default_rng(zlib.crc32(key.encode())).random(shape)
        if not shape:
            state[key] = torch.tensor(0)
            continue
        if len(shape) > 1:
            u = (u - 0.5) * (24 / np.prod(shape[1:])) ** 0.5
        elif key.endswith(("bn.weight", "running_var")):
            u = 0.8 + 0.4 * u
        else:
            u = 0.2 * (u - 0.5)
        state[key] = torch.from_numpy(np.asarray(u, np.float32))
    return state


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return made_up(published_shapes())


@pytest.fixture(scope="module")
def system(state: dict[str, Tensor]) -> FaceNet:
    classifier = {"logits.weight": torch.zeros(8631, 512), "logits.bias": torch.zeros(8631)}
    return import_published(state | classifier)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """(1, 160, 160, 3), with structure at many scales."""
    y, x = np.mgrid[:160, :160]
    channels = [(3 * y + x) % 256, (5 * x + y * y // 7) % 256, (x * y // 9) % 256]
    return np.stack(channels, -1).astype(np.uint8)[None]


# --- input


def test_pixels_are_fed_as_published():
    record = FaceNet.preprocess_for(FaceNetConfig())
    assert (record.size, record.crop.template) == (160, "")
    bare = SimpleNamespace(preprocess=record, device=torch.device("cpu"))
    x = FaceNet.normalise(bare, np.full((1, 160, 160, 3), (255, 51, 0), np.uint8))  # type: ignore[arg-type]
    assert x[0, :, 5, 7].tolist() == [127.5 / 128, -76.5 / 128, -127.5 / 128]


def test_crop_is_the_box_with_its_margin_and_level_eyes(fakes, astronaut):
    face = fakes.face_at((226.0, 117.0), 45.0, angle=20.0)
    crop = FaceNet.preprocess_for(FaceNetConfig()).crop.cut(astronaut, face)
    assert crop.image.shape == (160, 160, 3)
    assert crop.scale == pytest.approx(160 / (1.3 * 2 * 1.4 * 45.0))
    np.testing.assert_allclose(crop.matrix @ [226.0, 117.0, 1.0], [79.5, 79.5], atol=1e-3)
    eyes = np.column_stack([face.points5[:2], np.ones(2)]) @ crop.matrix.T
    assert eyes[0, 1] == pytest.approx(eyes[1, 1], abs=1e-3)


def test_crops_of_another_size_are_refused(system):
    with pytest.raises(UsageError, match=r"facenet takes crops \(N, 160, 160, 3\)"):
        system.embed(np.zeros((1, 112, 112, 3), np.uint8))
    with pytest.raises(UsageError, match=r"facenet takes crops \(N, 3, 160, 160\)"):
        system(torch.zeros(1, 3, 112, 112))


# --- the published layout


def test_parameters_counted_from_the_published_shapes():
    trained = [shape for key, shape in published_shapes().items() if shape and "running" not in key]
    with torch.device("meta"):
        network = FaceNet()
    own = sum(p.numel() for p in network.parameters())
    assert own == sum(int(np.prod(shape)) for shape in trained) == 23_482_624


def test_published_names_are_ours_one_to_one():
    theirs = published_shapes()
    with torch.device("meta"):
        own = {key: tuple(value.shape) for key, value in FaceNet().backbone.state_dict().items()}
        converted = from_facenet_pytorch({key: torch.zeros(shape) for key, shape in theirs.items()})
    assert len(converted) == len(theirs) == 714
    assert {key: tuple(value.shape) for key, value in converted.items()} == own


def test_imported_tensors_are_the_files(system, state):
    own = system.backbone.state_dict()
    assert torch.equal(own["stem.0.0.weight"], state["conv2d_1a.conv.weight"])
    assert torch.equal(own["last.project.bias"], state["block8.conv2d.bias"])
    assert torch.equal(own["norm.running_var"], state["last_bn.running_var"])
    assert all(torch.equal(own[key], value) for key, value in from_facenet_pytorch(state).items())
    assert system.config == FaceNetConfig()
    assert not system.training


# What timesler/facenet-pytorch computes for `picture` with these weights: the first and the last four of 512 numbers.
PUBLISHED_CODE = (-0.007701, -0.130166, -0.064767, -0.042566, -0.001653, -0.011980, -0.043772, 0.018085)


def test_numbers_are_those_of_the_published_code(system, picture):
    with torch.inference_mode():
        embedding = nn.functional.normalize(system(system.normalise(picture)))[0]
    np.testing.assert_allclose(torch.cat([embedding[:4], embedding[-4:]]), PUBLISHED_CODE, atol=1e-5)


def test_embeddings_have_length_one_and_add_the_mirror_image(system, picture, monkeypatch):
    monkeypatch.setattr(system, "precision", "fp32")
    embedding = system.embed(picture)
    x = system.normalise(picture)
    with torch.inference_mode():
        plain, mirrored = system(x), system(x.flip(3))
    assert embedding.shape == (1, system.dim) == (1, 512)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(embedding, nn.functional.normalize(plain + mirrored), atol=1e-5)
    monkeypatch.setattr(system, "mirror", False)
    np.testing.assert_allclose(system.embed(picture), nn.functional.normalize(plain), atol=1e-5)


# --- refusals


def test_foreign_checkpoint_is_refused_naming_what_does_not_fit():
    foreign = {"layer1.0.prelu.weight": torch.zeros(64), "conv1.weight": torch.zeros(64, 3, 3, 3)}
    with torch.device("meta"), pytest.raises(WeightsError) as failure:
        import_published(foreign)
    said = str(failure.value)
    assert "not a complete checkpoint of FaceNet but is closest to a recogniser (IResNet)" in said
    assert "714 tensors missing ['blocks_a.0.branches.0.0.0.weight'" in said
    assert "2 unknown ['conv1.weight', 'layer1.0.prelu.weight']" in said


def test_incomplete_and_narrower_checkpoints_are_refused():
    with torch.device("meta"):
        state = {key: torch.zeros(shape) for key, shape in published_shapes().items()}
        del state["last_linear.weight"]
        with pytest.raises(WeightsError, match=r"1 tensors missing \['embed\.weight'\], 0 unknown"):
            import_published(state)
        with pytest.raises(WeightsError, match=r"0 unknown \[\], 1 of another shape \['embed\.weight'\]"):
            import_published(state | {"last_linear.weight": torch.zeros(128, 1792)})


def test_refusal_names_the_file(tmp_path: Path):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "a.pt")
    with (
        torch.device("meta"),
        pytest.raises(WeightsError, match=r"a\.pt: this is not a complete checkpoint"),
    ):
        published.import_checkpoint("facenet", tmp_path / "a.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- card


def test_card_names_the_class_the_files_and_what_is_not_proven():
    card = FaceNet.card()
    assert card.entry == f"{FaceNet.__module__}:{FaceNet.__name__}"
    assert tuple(one.file for one in card.published) == (
        "20180402-114759-vggface2.pt",
        "20180408-102900-casia-webface.pt",
    )
    assert card.checkpoints == ()
    assert "no reference vector" in card.faithful
