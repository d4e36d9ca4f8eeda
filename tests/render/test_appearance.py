"""Looks, and the textures, labels and layers that dressing a model makes of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from facewright.errors import UsageError
from facewright.render import Camera, MorphableModel, coarse_face, load_ict, place, rotation_from_pose, sample_texture
from facewright.render.appearance import RATES, Look, dress, sample_look
from facewright.render.conventions import CELEBAMASK_19
from facewright.render.rasteriser import rasterise

PLAIN = Look(hair="bald", seed=3)


def seen_on(data, look, yaw=0.0, size=160):
    """(H, W) labels and (H, W, 3) albedo of a face without its layers, and its projected landmarks."""
    model, worn = MorphableModel(data), dress(data, look)
    vertices = place(model.vertices(), rotation_from_pose(torch.tensor([[yaw, 0.0, 0.0]])))
    screen = Camera.from_fov(size, 24, 70.0).project(vertices)
    fragments = rasterise(screen, model.topology, size, size, cull=True)
    uv = fragments.interpolate(worn.uv, worn.triangles_uv)
    height, width = worn.labels.shape
    row, column = ((1 - uv[:, 1]) * height).long(), (uv[:, 0] * width).long()
    labels = fragments.image(worn.labels[row.clamp(0, height - 1), column.clamp(0, width - 1)][:, None].float())
    albedo = fragments.image(sample_texture(worn.albedo.permute(2, 0, 1)[None], uv, fragments))
    return labels[0, 0].numpy().astype(int), albedo[0].permute(1, 2, 0).numpy(), screen.xy[0, data.landmarks68].numpy()


def label_at(labels, point):
    return CELEBAMASK_19[labels[round(float(point[1])), round(float(point[0]))]]


@pytest.fixture(scope="module")
def coarse():
    return coarse_face()


@pytest.fixture(scope="module")
def ict(shared_dir):
    return load_ict(shared_dir / "data" / "ict_facekit.npz")


def test_looks_survive_json():
    for seed in range(20):
        look = sample_look(np.random.default_rng(seed))
        assert Look.from_json(json.loads(json.dumps(look.to_json()))) == look


def test_looks_are_seeded_and_differ():
    looks = [sample_look(np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert looks[0] == looks[1] != looks[2]


def test_rates_are_kept():
    rng = np.random.default_rng(0)
    looks = [sample_look(rng) for _ in range(1500)]

    def share(chosen):
        return np.mean([chosen(look) for look in looks])

    assert share(lambda look: look.hat != "none") == pytest.approx(RATES["hat"], abs=0.03)
    assert share(lambda look: look.glasses != "none") == pytest.approx(RATES["glasses"], abs=0.04)
    assert share(lambda look: look.occluder != "none") == pytest.approx(RATES["occluder"], abs=0.025)
    assert share(lambda look: look.lipstick > 0) == pytest.approx(RATES["lipstick"] / 2, abs=0.03)
    worn = [look.glasses_tint > 0 for look in looks if look.glasses != "none"]
    assert np.mean(worn) == pytest.approx(RATES["sunglasses"], abs=0.07)
    ages, grey = np.array([(look.age, look.grey) for look in looks]).T
    assert np.corrcoef(ages, grey)[0, 1] > 0.6
    light = [look.hair_colour[0] for look in looks if look.tone[0] > 0.7]
    dark = [look.hair_colour[0] for look in looks if look.tone[0] < -0.7]
    assert np.mean(light) > 2 * np.mean(dark)


def test_rates_can_be_set():
    rng = np.random.default_rng(0)
    nothing = dict.fromkeys(RATES, 0.0)
    for look in (sample_look(rng, rates=nothing) for _ in range(30)):
        assert (look.hat, look.glasses, look.beard, look.occluder, look.earrings) == ("none",) * 5
        assert look.lipstick == look.freckles == 0
    assert sample_look(rng, rates={"glasses": 1.0, "sunglasses": 1.0}).glasses_tint > 0
    with pytest.raises(UsageError, match="monocle"):
        sample_look(rng, rates={"monocle": 1.0})


WRONG = [{"hair": "mohawk"}, {"beard": "x"}, {"age": 1.5}, {"grey": -0.1}, {"skin": (0.0,) * 99}]


@pytest.mark.parametrize("wrong", WRONG)
def test_impossible_looks_are_refused(wrong):
    with pytest.raises(UsageError):
        Look(**wrong)


def test_unknown_names_in_json_are_refused():
    with pytest.raises(UsageError, match="tattoo"):
        Look.from_json({"tattoo": True})


def test_models_without_texture_coordinates_are_refused(coarse):
    with pytest.raises(UsageError, match="texture coordinates"):
        dress(replace(coarse, uv=None, triangles_uv=None), PLAIN)


def test_textures_are_sound_and_repeat(coarse):
    first, again = dress(coarse, PLAIN), dress(coarse, PLAIN)
    height, width = first.labels.shape
    assert first.albedo.shape == (height, width, 3)
    assert first.gloss.shape == first.roughness.shape == (height, width)
    assert first.labels.dtype == torch.uint8
    assert int(first.labels.max()) < len(CELEBAMASK_19)
    assert float(first.albedo.min()) > 0
    assert float(first.albedo.max()) < 1
    assert 0 < float(first.roughness.min()) <= float(first.roughness.max()) <= 1
    assert float(first.gloss.min()) >= 0
    assert 0 <= float(first.uv.min()) <= float(first.uv.max()) <= 1
    assert torch.equal(first.albedo, again.albedo)
    assert not torch.equal(first.albedo, dress(coarse, replace(PLAIN, seed=4)).albedo)


def test_no_part_paints_over_another(coarse):
    worn = dress(coarse, PLAIN)
    height, width = worn.labels.shape
    corners = (worn.uv * torch.tensor([width, height]))[worn.triangles_uv]
    boxes = []
    for part in np.unique(coarse.triangle_part):
        points = corners[torch.from_numpy(coarse.triangle_part == part)].reshape(-1, 2)
        boxes.append((points.amin(0), points.amax(0)))
    for i, (low, high) in enumerate(boxes):
        for other_low, other_high in boxes[:i]:
            assert ((low >= other_high) | (high <= other_low)).any()


@pytest.mark.parametrize("kind", ["coarse", pytest.param("ict", marks=pytest.mark.shared)])
def test_labels_lie_at_the_landmarks(kind, request):
    labels, _, at = seen_on(request.getfixturevalue(kind), PLAIN)
    assert label_at(labels, at[30]) == "nose"
    assert label_at(labels, (at[19] + at[20]) / 2 + [0, 1]) == "r_brow"
    assert label_at(labels, (at[23] + at[24]) / 2 + [0, 1]) == "l_brow"
    assert label_at(labels, at[36:42].mean(0)) == "r_eye"
    assert label_at(labels, at[42:48].mean(0)) == "l_eye"
    assert label_at(labels, (at[51] + at[62]) / 2) == "u_lip"
    assert label_at(labels, (at[57] + at[66]) / 2) == "l_lip"
    assert label_at(labels, (at[8] + at[57]) / 2) == "skin"
    assert label_at(labels, at[27] - [0, 3 * (at[33, 1] - at[27, 1]) / 4]) == "skin"
    assert label_at(labels, [at[8, 0], at[8, 1] + 0.35 * (at[8, 1] - at[33, 1])]) in ("neck", "background", "cloth")


@pytest.mark.shared
def test_ears_neck_cloth_and_hair_of_the_scanned_head(ict):
    labels, _, _ = seen_on(ict, replace(PLAIN, hair="buzz"), yaw=60.0)
    found = {CELEBAMASK_19[k] for k in np.unique(labels)}
    assert {"hair", "neck", "cloth", "nose", "skin"} <= found
    assert len(found & {"l_ear", "r_ear"}) == 1
    front, _, _ = seen_on(ict, PLAIN)
    rows = {name: np.argwhere(front == CELEBAMASK_19.index(name))[:, 0].mean() for name in ("skin", "neck", "cloth")}
    assert rows["skin"] < rows["neck"] < rows["cloth"]
    left = np.argwhere(front == CELEBAMASK_19.index("l_ear"))[:, 1].mean()
    assert left > np.argwhere(front == CELEBAMASK_19.index("r_ear"))[:, 1].mean()  # the subject's left


def test_iris_and_pupil_are_round_and_coloured(coarse):
    look = replace(PLAIN, iris=(0.05, 0.1, 0.4))
    worn = dress(coarse, look)
    eye = worn.labels == CELEBAMASK_19.index("l_eye")
    colours = worn.albedo[eye]
    blue = (colours[:, 2] > 1.3 * colours[:, 0]) & (colours[:, 2] > 0.1)
    white = colours.amin(1) > 0.3
    dark = colours.amax(1) < 0.02
    assert blue.float().mean() > 0.01
    assert dark.float().mean() > 0.003
    assert white.float().mean() > 0.5


def test_make_up_changes_what_it_is_put_on(coarse):
    _, plain, at = seen_on(coarse, PLAIN)
    labels, lips, _ = seen_on(coarse, replace(PLAIN, lipstick=1.0, lipstick_colour=(0.4, 0.02, 0.03)))
    mouth = (labels == CELEBAMASK_19.index("u_lip")) | (labels == CELEBAMASK_19.index("l_lip"))
    away = (labels == CELEBAMASK_19.index("nose")) | (labels == CELEBAMASK_19.index("l_brow"))
    assert lips[mouth].mean(0) == pytest.approx([0.4, 0.02, 0.03], abs=0.07)
    np.testing.assert_array_equal(lips[away], plain[away])
    _, blushed, _ = seen_on(coarse, replace(PLAIN, blush=1.0))
    row, column = round(float(at[33, 1])), round(float(at[36, 0]) - 2)
    assert blushed[row, column, 1] < plain[row, column, 1]


def test_beards_grow_below_the_nose_and_not_on_lips(coarse):
    labels, plain, at = seen_on(coarse, PLAIN)
    still, bearded, _ = seen_on(coarse, replace(PLAIN, beard="full", beard_density=1.0))
    np.testing.assert_array_equal(still, labels)  # a beard is skin
    darker = plain.sum(-1) - bearded.sum(-1) > 0.1
    assert darker[: int(at[30, 1])][:, int(at[36, 0]) : int(at[45, 0])].sum() == 0
    chin = (at[8] + at[57]) / 2
    assert darker[round(float(chin[1])), round(float(chin[0]))]
    assert darker[labels == CELEBAMASK_19.index("u_lip")].mean() < 0.5


def test_a_beard_greys_hair_by_hair(coarse):
    own = replace(PLAIN, beard="full", beard_density=1.0, hair_colour=(0.02, 0.015, 0.01))
    labels, black, at = seen_on(coarse, own)
    _, mixed, white = (seen_on(coarse, replace(own, grey=grey))[1] for grey in (0.0, 0.5, 1.0))
    rows, columns = np.mgrid[: len(labels), : len(labels)]
    chin = (labels == CELEBAMASK_19.index("skin")) & (rows > at[57, 1] + 3) & (np.abs(columns - at[8, 0]) < 8)
    assert black[chin].mean() < 0.5 * mixed[chin].mean() < 0.5 * white[chin].mean()
    assert mixed[chin].std() > 1.3 * max(black[chin].std(), white[chin].std())


def test_grey_hair_and_dark_skin(coarse):
    young, old = (dress(coarse, replace(PLAIN, hair="buzz", grey=grey)) for grey in (0.0, 1.0))
    hair = young.labels == CELEBAMASK_19.index("hair")
    assert old.albedo[hair].mean() > 2 * young.albedo[hair].mean()
    dark, light = (dress(coarse, replace(PLAIN, tone=(tone, 0.0, 0.0))) for tone in (-1.5, 1.0))
    skin = dark.labels == CELEBAMASK_19.index("skin")
    assert 2 * dark.albedo[skin].mean() < light.albedo[skin].mean()


def test_what_is_worn_becomes_layers(coarse):
    full = Look(hair="long", hat="cap", glasses="round", earrings="hoop", necklace=True, occluder="hand")
    layers = dress(coarse, full).layers
    assert {layer.part for layer in layers} == {"hair", "hat", "eye_g", "ear_r", "occluder"}  # this model has no neck
    assert [layer.part for layer in layers if layer.alpha < 1] == ["eye_g"]
    assert dress(coarse, PLAIN).layers == ()


@pytest.mark.shared
def test_the_scanned_head_has_a_neck_to_dress(ict):
    parts = [layer.part for layer in dress(ict, replace(PLAIN, necklace=True)).layers]
    assert parts == ["cloth", "neck_l"]
    assert all(part in CELEBAMASK_19 for part in parts)
