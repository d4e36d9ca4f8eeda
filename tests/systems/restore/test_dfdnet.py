"""DFDNet: parity, the choice of atoms, boxes, key map, dictionaries and their clustering; VGG's layers."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facewright.errors import UsageError, WeightsError
from facewright.geometry.templates import TEMPLATES
from facewright.nn.vgg import VGG
from facewright.systems.restore.dfdnet import network as dfdnet
from facewright.systems.restore.dfdnet.convert import convert_dictionaries, convert_published, import_published
from facewright.systems.restore.dfdnet.network import (
    FINGERPRINT,
    DFDNet,
    DFDNetConfig,
    best_atoms,
    build_dictionaries,
    component_boxes,
    fingerprint,
    kmeans,
    recolour,
    same_features,
    upright_boxes,
)
from facewright.weights.store import load_file, save_file

TINY = DFDNetConfig(size=128, features="sface", width=8, atoms=3, part_sizes=(16, 16, 10, 20))
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def tiny() -> DFDNet:
    torch.manual_seed(0)
    model = DFDNet(TINY).eval()
    model.dictionary.float()
    shapes = TINY.dictionary_shapes()
    model.load_dictionaries({name: torch.randn(shape) for name, shape in shapes.items()})
    return model


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(5)) * 2 - 1


def crops(count: int, size: int = 128) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


# --- the published network


@pytest.mark.slow
@pytest.mark.shared
@torch.inference_mode()
def test_full_size_equals_published(parity):
    arrays, state, _ = parity("dfdnet")
    fill_array = sys.modules["fill"].fill_array
    model = import_published(state)
    shapes = DFDNetConfig(atoms=6).dictionary_shapes()
    published = {
        f"{name}_center": torch.from_numpy(fill_array(f"{name}_center", shape, np.sqrt(np.prod(shape[1:]))))
        for name, shape in shapes.items()
    }
    model.dictionary.float()  # six digits, which the stored half precision has not
    model.load_dictionaries(convert_dictionaries(published, model.config))
    image = torch.from_numpy(arrays["in_image"])
    restored, atoms = model(image, arrays["in_boxes"][None], return_atoms=True)
    assert atoms.flatten().tolist() == arrays["out_atoms"].tolist()
    theirs = torch.from_numpy(arrays["out_image"])
    assert (restored[..., ::7, ::7] - theirs).abs().max() < TOLERANCE * theirs.abs().max()
    assert float(restored.std()) == pytest.approx(float(arrays["out_image_std"]), rel=1e-4)


@pytest.fixture(scope="module")
def full_size() -> DFDNet:
    with torch.device("meta"):
        return DFDNet()


def test_full_size_has_the_published_tensors(full_size):
    # the published 240.1 million without VGG's classifier (123.6 million), heads that are never used
    # (3.2 million) and the mean and deviation of ImageNet (6)
    classifier = 25088 * 4096 + 4096 + 4096**2 + 4096 + 4096 * 1000 + 1000
    heads = sum(9 * c * c + c + 27 * c + 3 for c in (512, 256, 128, 64))
    assert sum(p.numel() for p in full_size.parameters()) == 240_117_181 - classifier - heads - 6
    shapes = full_size.config.dictionary_shapes()
    assert shapes["nose_32"] == (512, 512, 3, 3)
    assert shapes["mouth_256"] == (512, 128, 55, 55)
    assert sum(np.prod(shape) for shape in shapes.values()) == pytest.approx(799e6, rel=1e-3)


def test_published_keys_are_renamed_one_by_one(full_size):
    spectral = "parametrizations.weight"
    expected = {
        "le_256.0.weight_orig": f"confidence.left_eye_256.0.{spectral}.original",
        "mo_32.2.weight_u": f"confidence.mouth_32.2.{spectral}.0._u",
        "MSDilate.conv1.0.weight_v": f"dilated.branches.0.0.{spectral}.0._v",
        "MSDilate.convi.bias": "dilated.merge.bias",
        "up0.conv1.1.weight_orig": f"ups.0.conv.{spectral}.original",
        "up3.ScaleModel1.0.bias": "ups.3.scale.0.bias",
        "up2.ShiftModel1.2.weight_u": f"ups.2.shift.2.{spectral}.0._u",
        "up1.convup.1.bias": "ups.1.expand.bias",
        "up4.0.weight_orig": f"head.0.{spectral}.original",
        "up4.2.Model.0.weight": "head.2.0.weight",
        "up4.4.bias": "head.4.bias",
        "VggExtract.model.features.34.bias": "extractor.network.features.34.bias",
    }
    surplus = ["to_rgb0.0.bias", "VggExtract.RGB_mean", "VggExtract.features.0.0.weight", "up0.conv1.0.weight_flip"]
    state = {key: torch.full((1,), float(i)) for i, key in enumerate([*expected, *surplus])}
    converted = convert_published(state)
    assert {key: float(value) for key, value in converted.items()} == {k: i for i, k in enumerate(expected.values())}
    assert set(expected.values()) <= set(full_size.state_dict())
    with pytest.raises(KeyError, match="generator"):
        convert_published({"generator.weight": torch.zeros(1)})


# --- transfer


def test_recoloured_atom_has_mean_and_deviation_of_the_query():
    torch.manual_seed(1)
    atom, query = torch.randn(2, 5, 6, 6) * 7 - 3, torch.randn(2, 5, 6, 6) * 2 + 1
    out = recolour(atom, query)
    torch.testing.assert_close(out.mean((2, 3)), query.mean((2, 3)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.std((2, 3)), query.std((2, 3)), atol=1e-5, rtol=1e-4)


def test_choice_equals_convolution_with_every_recoloured_atom():
    torch.manual_seed(2)
    query, atoms = torch.randn(9, 6, 5, 5) * 2 + 1, torch.randn(70, 6, 5, 5) * 3 - 1
    expected = [
        int(F.conv2d(q[None], recolour(atoms, q.expand(70, -1, -1, -1))).flatten().softmax(0).argmax()) for q in query
    ]
    assert best_atoms(query, atoms).tolist() == expected
    assert len(set(expected)) > 3


def test_input_that_is_a_recoloured_atom_selects_it():
    torch.manual_seed(3)
    atoms = torch.randn(40, 8, 6, 6)
    scale, shift = torch.rand(1, 8, 1, 1) + 0.5, torch.randn(1, 8, 1, 1)
    assert best_atoms(atoms * scale + shift, atoms).tolist() == list(range(40))


def test_transfer_equals_a_plain_loop(tiny):
    boxes = np.array([[[5, 10, 21, 26], [30, 9, 47, 26], [20, 25, 33, 38], [15, 36, 41, 62]]] * 2)
    boxes[1] += 3
    features = torch.randn(2, 24, 32, 32, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        ours, _ = tiny._transfer(features, 0, boxes)
        expected = features.clone()
        for n in range(2):
            for p, part in enumerate(dfdnet.PARTS):
                x0, y0, x1, y1 = boxes[n, p] // 2
                crop = features[n : n + 1, :, y0:y1, x0:x1]
                atoms = tiny.dictionary.get_buffer(f"{part}_64")
                small = F.interpolate(crop, atoms.shape[-2:], mode="bilinear", align_corners=False)
                coloured = recolour(atoms, small.expand(len(atoms), -1, -1, -1))
                best = coloured[int(F.conv2d(small, coloured).argmax())][None]
                swap = F.interpolate(best, crop.shape[-2:])
                expected[n : n + 1, :, y0:y1, x0:x1] = crop + tiny.confidence[f"{part}_64"](swap - crop) * swap
    torch.testing.assert_close(ours, expected)
    assert not torch.equal(ours, features)
    outside = torch.ones(32, 32, dtype=torch.bool)
    for box in boxes[0] // 2:
        outside[box[1] : box[3], box[0] : box[2]] = False
    assert torch.equal(ours[0][:, outside], features[0][:, outside])


def test_components_outside_the_picture_are_skipped(tiny, image):
    boxes = np.repeat(upright_boxes(128)[None], 2, 0)
    boxes[0, 3] = (-40, 10, -8, 42)
    with torch.no_grad():
        _, atoms = tiny(image, boxes, return_atoms=True)
    assert (atoms.view(4, 4, 2)[:, 3, 0] == -1).all()
    assert (atoms.view(4, 4, 2)[:, :3, 0] >= 0).all()
    assert (atoms.view(4, 4, 2)[:, :, 1] >= 0).all()


def test_pictures_of_a_batch_do_not_see_each_other(tiny, image):
    exact = copy.deepcopy(tiny).double()
    with torch.no_grad():
        torch.testing.assert_close(exact(image.double())[1:], exact(image[1:].double()))


def test_feature_network_is_frozen_and_stays_in_evaluation_mode(tiny, image):
    tiny.train()
    before = {k: v.clone() for k, v in tiny.extractor.state_dict().items()}
    tiny(image).square().mean().backward()
    assert not any(module.training for module in tiny.extractor.modules())
    assert tiny.confidence["nose_16"].training
    assert all(torch.equal(before[k], v) for k, v in tiny.extractor.state_dict().items())
    assert all(p.grad is None for p in tiny.extractor.parameters())
    tiny.zero_grad()
    tiny.eval()


# --- boxes


def test_boxes_follow_the_spread_of_the_points():
    points = np.zeros((68, 2))
    points[[*range(17, 22), *range(36, 42)]] = (200.0, 220.0)
    points[17], points[21] = (160.0, 220.0), (240.0, 220.0)
    points[48:68] = np.linspace((210, 380), (310, 380), 20)
    boxes = component_boxes(points)
    # middle 200, half the spread 40
    assert boxes[0].tolist() == [161, 181, 240, 260]
    assert boxes[3].tolist() == [211, 331, 310, 430]
    # all points in one place: the smallest box, 16 either way
    assert boxes[2].tolist() == [-15, -15, 16, 16]
    assert component_boxes(points / 2, 256)[0].tolist() == [81, 91, 120, 130]
    assert component_boxes(np.stack([points, points])).shape == (2, 4, 4)
    with pytest.raises(UsageError, match="68"):
        component_boxes(points[:5])


def test_upright_boxes_lie_around_the_points_of_the_template():
    boxes, points = upright_boxes(512), TEMPLATES["ffhq"] * 512
    for box, point in zip(boxes[[0, 1, 2, 3, 3]], points):
        assert (box[:2] < point).all()
        assert (point < box[2:]).all()
    assert np.array_equal(upright_boxes(256), np.rint(boxes / 2).astype(int))


# --- dictionaries


def test_kmeans_equals_scikit_learn_from_the_same_seeds():
    sklearn = pytest.importorskip("sklearn.cluster")
    points = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    tensor = torch.from_numpy(points)
    seeds = dfdnet._spread_seeds(tensor, 7, torch.Generator().manual_seed(3)).numpy()
    expected = sklearn.KMeans(7, init=seeds, n_init=1, max_iter=300, tol=0).fit(points).cluster_centers_
    np.testing.assert_allclose(kmeans(tensor, 7, iterations=300, seed=3), expected, atol=1e-4)


def test_kmeans_finds_separate_groups_and_refuses_too_few_points():
    rng = np.random.default_rng(1)
    truth = np.array([[0, 0], [50, 0], [0, 50], [50, 50]], float)
    points = torch.from_numpy(np.repeat(truth, 25, 0) + rng.normal(size=(100, 2))).half()
    centres = kmeans(points, 4).numpy()
    assert np.abs(np.sort(centres, 0) - np.sort(truth, 0)).max() < 1
    same = kmeans(torch.ones(5, 3), 3)
    torch.testing.assert_close(same, torch.ones(3, 3))
    with pytest.raises(UsageError, match="8 clusters"):
        kmeans(points[:7], 8)


def test_dictionary_of_as_many_atoms_as_faces_holds_their_components(tiny):
    faces = crops(4)
    boxes = np.repeat(upright_boxes(128)[None], 4, 0)
    built = build_dictionaries(tiny, [(faces[:3], boxes[:3]), (faces[3:], boxes[3:])], 4)
    features = tiny.component_features(faces, boxes)
    assert built.keys() == {*TINY.dictionary_shapes(), FINGERPRINT}
    for name in TINY.dictionary_shapes():
        atoms = built[name]
        assert atoms.shape == (4, *TINY.dictionary_shapes()[name][1:])
        assert atoms.dtype == torch.float16
        gap = torch.cdist(features[name].flatten(1), atoms.float().flatten(1))
        assert (gap.min(1).values < 2e-3 * features[name].flatten(1).norm(dim=1)).all()
        assert len(set(gap.argmin(1).tolist())) == 4


def test_loaded_dictionaries_set_the_number_of_atoms_and_survive_saving(tmp_path):
    torch.manual_seed(0)
    model = DFDNet(TINY).eval()
    built = build_dictionaries(model, [(crops(5), None)], 5)
    model.load_dictionaries(built)
    assert model.config.atoms == 5
    loaded = DFDNet.from_pretrained(model.save_pretrained(tmp_path / "m"))
    assert loaded.config == model.config
    for name in TINY.dictionary_shapes():
        assert torch.equal(loaded.dictionary.get_buffer(name), built[name])
    assert np.array_equal(loaded.restore(crops(2)), model.restore(crops(2)))


def test_published_dictionaries_are_reshaped_and_checked():
    shapes = TINY.dictionary_shapes()
    flat = {f"{name}_center.npy": torch.randn(shape).flatten(1) for name, shape in shapes.items()}
    converted = convert_dictionaries(flat, TINY)
    assert {name: tuple(v.shape) for name, v in converted.items()} == shapes
    assert torch.equal(converted["nose_16"].flatten(1), flat["nose_16_center.npy"])
    with pytest.raises(WeightsError, match=r"nose_16_center.npy is not a dictionary"):
        convert_dictionaries({"nose_16_center.npy": torch.randn(3, 7)}, TINY)
    with pytest.raises(WeightsError, match="chin_16"):
        convert_dictionaries({"chin_16": torch.randn(3, 7)}, TINY)


def test_missing_dictionaries_are_named(tiny):
    empty = DFDNet(DFDNetConfig(**{**TINY.__dict__, "atoms": 0})).eval()
    with pytest.raises(WeightsError, match="facewright dictionary"):
        empty.restore(crops(1))
    shapes = TINY.dictionary_shapes()
    built = {name: torch.zeros(shape) for name, shape in shapes.items() if name != "mouth_8"}
    with pytest.raises(WeightsError, match="mouth_8 is missing"):
        tiny.load_dictionaries(built)
    with pytest.raises(WeightsError, match="mouth_8 is"):
        tiny.load_dictionaries(built | {"mouth_8": torch.zeros(2, 48, 5, 5)})
    assert tiny.config.atoms == 3


# --- what dictionaries were made in


def with_features(seed: int) -> DFDNet:
    torch.manual_seed(seed)
    return DFDNet(TINY).eval()


def with_dictionaries(seed: int) -> DFDNet:
    model = with_features(seed)
    model.load_dictionaries(build_dictionaries(model, [(crops(3), None)], 3))
    return model


def test_fingerprint_tells_every_weight_and_its_place():
    model = with_features(0)
    first = fingerprint(model.extractor)
    assert len(bytes.fromhex(first)) == 16
    assert fingerprint(with_features(0).extractor) == first
    assert not same_features(fingerprint(with_features(1).extractor), first)
    layer = model.extractor.network.layer2[0].conv1.weight.data  # type: ignore[index, union-attr]
    assert layer[0, 0, 0, 0] != layer[0, 0, 0, 1]
    kept = layer.clone()
    layer[0, 0, 0, :2] = kept[0, 0, 0, :2].flip(0)
    assert not same_features(fingerprint(model.extractor), first)
    layer.copy_(kept)
    assert fingerprint(model.extractor) == first
    model.extractor.network.layer2[0].bn1.running_mean[3] += 1  # type: ignore[index, union-attr]
    assert not same_features(fingerprint(model.extractor), first)


def test_fingerprint_does_not_depend_on_layout_or_precision():
    extractor = with_features(0).extractor
    first = fingerprint(extractor)
    assert fingerprint(copy.deepcopy(extractor).to(memory_format=torch.contiguous_format)) == first  # type: ignore[call-overload]
    assert fingerprint(copy.deepcopy(extractor).double()) == first
    for dtype, kept in ((torch.bfloat16, slice(16)), (torch.float16, slice(16, 32))):
        rounded = fingerprint(copy.deepcopy(extractor).to(dtype).float())
        assert rounded[kept] == first[kept]
        assert rounded != first
        assert same_features(rounded, first)


def test_dictionaries_of_other_features_are_refused():
    model = with_dictionaries(0)
    kept = {name: atoms.clone() for name, atoms in model.dictionary.named_buffers()}
    other = build_dictionaries(with_features(1), [(crops(4), None)], 4)
    with pytest.raises(WeightsError, match=r"other features .* build new ones with this one"):
        model.load_dictionaries(other)
    assert model.config.atoms == 3
    assert model.config.dictionary_features == fingerprint(model.extractor)
    assert all(torch.equal(kept[name], atoms) for name, atoms in model.dictionary.named_buffers())
    # what does not say where it is from, as what was published, is bound to the network it is loaded into
    unknown = {name: atoms for name, atoms in other.items() if name != FINGERPRINT}
    model.load_dictionaries(convert_dictionaries(unknown, TINY))
    assert model.config.atoms == 4
    assert model.config.dictionary_features == fingerprint(model.extractor)


def test_dictionaries_of_a_packed_network_fit_the_original(tmp_path):
    model = with_dictionaries(0)
    for dtype in (torch.float16, torch.bfloat16):
        packed = DFDNet.from_pretrained(model.save_pretrained(tmp_path / str(dtype), dtype=dtype))
        assert packed.config.dictionary_features == fingerprint(packed.extractor)
        assert packed.config.dictionary_features != model.config.dictionary_features
        built = build_dictionaries(packed, [(crops(2), None)], 2)
        copy.deepcopy(model).load_dictionaries(built)
    # once more rounded, from the file that was rounded before
    again = packed.save_pretrained(tmp_path / "again", dtype=torch.float16)
    assert DFDNet.from_pretrained(again).config.atoms == 3


def test_features_replaced_under_the_dictionaries_are_refused_at_loading(tmp_path):
    model = with_dictionaries(0)
    model.extractor.load_state_dict(with_features(1).extractor.state_dict())
    for dtype in (None, torch.bfloat16):
        folder = model.save_pretrained(tmp_path / "m", dtype=dtype)
        with pytest.raises(WeightsError, match=r"other features .*'facewright dictionary build PHOTOS --model .*m'"):
            DFDNet.from_pretrained(folder)
    bare = DFDNet.from_pretrained(folder, dictionaries=False)
    assert (bare.config.atoms, bare.config.dictionary_features) == (0, "")
    bare.load_dictionaries(build_dictionaries(bare, [(crops(2), None)], 2))
    assert DFDNet.from_pretrained(bare.save_pretrained(tmp_path / "m")).config.atoms == 2


def test_files_from_before_fingerprints_still_load(tmp_path):
    model = with_dictionaries(0)
    folder = model.save_pretrained(tmp_path)
    state, meta = load_file(folder / "model.safetensors")
    del meta["config"]["dictionary_features"]
    save_file(state, folder / "model.safetensors", meta)
    loaded = DFDNet.from_pretrained(folder)
    assert loaded.config.dictionary_features == ""
    assert np.array_equal(loaded.restore(crops(1)), model.restore(crops(1)))


# --- use


def test_restore_is_forward_on_pixels_and_landmarks_move_the_boxes(tiny):
    tiny.precision = "fp32"
    pictures = crops(2)
    with torch.no_grad():
        expected = tiny(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1)
    restored = tiny.restore(pictures)
    assert np.abs(restored - ((expected + 1) * 127.5).permute(0, 2, 3, 1).numpy()).max() <= 0.51
    landmarks = np.random.default_rng(0).uniform(20, 108, (2, 68, 2))
    assert not np.array_equal(tiny.restore(pictures, landmarks=landmarks), restored)


def test_wrong_use_is_refused(tiny):
    with pytest.raises(UsageError, match="fidelity"):
        tiny.restore(crops(1), fidelity=0.5)
    with pytest.raises(UsageError, match="draws no noise"):
        tiny.restore(crops(1), seed=3)
    with pytest.raises(UsageError, match=r"\(N, 3, 128, 128\)"):
        tiny(torch.zeros(1, 3, 32, 32))
    with pytest.raises(UsageError, match=r"\(1, 4, 4\)"):
        tiny(torch.zeros(1, 3, 128, 128), np.zeros((1, 3, 4), int))
    with pytest.raises(UsageError, match="divisible"):
        DFDNet(DFDNetConfig(size=100))
    with pytest.raises(UsageError, match="vgg19, sface"):
        DFDNet(DFDNetConfig(features="resnet"))  # type: ignore[arg-type]


# --- VGG


def test_vgg_layers_have_torchvisions_numbers():
    with torch.device("meta"):
        network = VGG(19)
    kernels = {k: tuple(v.shape) for k, v in network.features.state_dict().items() if k.endswith("weight")}
    assert kernels["0.weight"] == (64, 3, 3, 3)
    assert kernels["10.weight"] == (256, 128, 3, 3)
    assert kernels["34.weight"] == (512, 512, 3, 3)
    assert sum(v.numel() for v in network.features.state_dict().values()) == 20_024_384
    with torch.device("meta"):
        assert sum(v.numel() for v in VGG(16).features.state_dict().values()) == 14_714_688


def test_vgg_stages_have_their_sizes_and_come_before_or_after_the_activation():
    torch.manual_seed(0)
    network = VGG(16, until="conv2_1")
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before, after, last = network(x, ("conv1_2", "relu1_2", "conv2_1"))
    assert [tuple(v.shape[1:]) for v in (before, after, last)] == [(64, 32, 32), (64, 32, 32), (128, 16, 16)]
    assert before.min() < 0
    assert torch.equal(after, before.relu())
    with torch.no_grad():
        mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
        (first,) = network(mean * 2 - 1, ("conv1_1",))
    # the mean colour of ImageNet is zero to the network, so that only the bias is left
    torch.testing.assert_close(first[0, :, 5, 5], network.features[0].bias)


def test_vgg_takes_torchvision_weights_and_names_what_is_wrong():
    torch.manual_seed(0)
    network = VGG(19, until="conv2_2")
    state = {f"features.{k}": torch.randn_like(v) for k, v in network.features.state_dict().items()}
    network.load_torchvision(state | {"classifier.0.weight": torch.zeros(1)})
    assert torch.equal(network.features[7].bias, state["features.7.bias"])  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match=r"features\.5\.weight is missing"):
        network.load_torchvision({k: v for k, v in state.items() if k != "features.5.weight"})
    with pytest.raises(UsageError, match="no layer 'conv9_1'"):
        VGG(19, until="conv9_1")
    with pytest.raises(UsageError, match="conv5_4"):
        network(torch.zeros(1, 3, 32, 32), ("conv5_4",))
    with pytest.raises(UsageError, match="VGG-11"):
        VGG(11)
