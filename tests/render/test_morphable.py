"""The interface of morphable models, on the coarse face; and the coarse face itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from facewright.errors import UsageError, WeightsError
from facewright.render import (
    Camera,
    MorphableModel,
    antialias,
    coarse_face,
    five_points,
    place,
    rasterise,
    rotation_from_pose,
    vertex_normals,
)


@pytest.fixture(scope="module")
def face() -> MorphableModel:
    return MorphableModel(coarse_face())


def moved(face: MorphableModel, part: str, **weights: float) -> torch.Tensor:
    """Displacements of a part's vertices by an expression."""
    change = face.vertices(expression=face.expression_weights(weights)) - face.vertices()
    return change[0, face.data.vertices_of([part])]


def test_vertices_are_linear_in_their_coefficients(face):
    a, b = torch.randn(3, 19), torch.rand(3, 46)
    expected = (
        face.mean + torch.einsum("nk,kva->nva", a, face.identity) + torch.einsum("nk,kva->nva", b, face.expression)
    )
    assert torch.allclose(face.vertices(a, b), expected, atol=1e-4)
    assert torch.allclose(face.vertices(a[:, :4]), face.vertices(a * (torch.arange(19) < 4)), atol=1e-5)
    assert torch.allclose(face.vertices(a[:1], b)[1:], face.vertices(a[:1], b[1:]), atol=1e-6)


def test_gaze_turns_each_eyeball_about_its_centre(face):
    identity = torch.randn(2, 19)
    straight = face.vertices(identity)
    gaze = torch.tensor([[[20.0, 10.0], [-5.0, 0.0]], [[0.0, 0.0], [0.0, -30.0]]])
    looking = face.vertices(identity, gaze=gaze)
    assert torch.allclose(face.eye_centres(looking), face.eye_centres(straight), atol=1e-4)
    eyes = [face.data.vertices_of([name]) for name in ("eyeball_R", "eyeball_L")]
    rest = np.setdiff1d(np.arange(len(face.mean)), np.concatenate(eyes))
    assert torch.equal(looking[:, rest], straight[:, rest])
    for k, eye in enumerate(eyes):
        centre = face.eye_centres(straight)[:, k, None]
        turned = place(straight[:, eye] - centre, rotation_from_pose(torch.nn.functional.pad(gaze[:, k], (0, 1))))
        assert torch.allclose(looking[:, eye] - centre, turned, atol=1e-4)
        pupil = (straight[:, eye] - centre)[..., 2].argmax(1)
        assert (looking[0, eye][pupil[0]] - straight[0, eye][pupil[0]])[0] * gaze[0, k, 0] > 0


def test_eyeballs_turn_about_the_centre_of_their_sphere(face):
    eye = face.data.vertices_of(["eyeball_L"])
    centre = face.eye_centres(face.vertices())[0, 1]
    radii = (face.mean[eye] - centre).norm(dim=1)
    assert torch.allclose(radii, radii.mean().expand_as(radii), atol=1e-3)


def test_projected_surface_points_fall_on_their_pixels(face):
    camera = Camera.from_fov(96, 22, distance=75)
    vertices = place(face.vertices(torch.randn(1, 19)), rotation_from_pose(torch.tensor([[25.0, -10, 8]])))
    screen = camera.project(vertices)
    seen = rasterise(screen, face.topology, 96, 96, cull=True)
    pixels = torch.stack([seen.pixel % 96, seen.pixel // 96], -1)
    back = camera.project(seen.interpolate(vertices)[None]).xy[0]
    assert (back - pixels).abs().max() < 0.1
    marks = camera.project(face.landmarks(vertices))
    column, row = marks.xy[0].round().long().unbind(-1)
    front = (seen.depth_map()[0, row, column] - marks.depth[0]).abs() < 0.4
    assert front.sum() > 40
    assert torch.equal(marks.xy, screen.xy[:, face.landmarks68])


def test_gradients_reach_identity_through_the_picture(face):
    camera = Camera.from_fov(48, 22, distance=75)
    model = MorphableModel(coarse_face()).double()
    width = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)

    def covered(coefficient: torch.Tensor) -> torch.Tensor:
        screen = camera.project(model.vertices(coefficient))
        seen = rasterise(screen, model.topology, 48, 48, cull=True)
        image = antialias(seen.image(torch.ones(len(seen.pixel), 1, dtype=torch.float64)), seen, screen)
        return image.sum()

    (gradient,) = torch.autograd.grad(covered(width), width)
    with torch.no_grad():
        expected = (covered(width + 1) - covered(width - 1)) / 2
    assert float(gradient) == pytest.approx(float(expected), rel=0.05)


def test_normals_are_unit_perpendicular_and_outward(face):
    vertices = face.vertices()
    normals = face.normals(vertices)
    used = torch.unique(face.triangles)
    assert torch.allclose(normals[:, used].norm(dim=-1), torch.ones(1, len(used)), atol=1e-4)
    a, b, c = vertices[0, face.triangles].unbind(1)
    skin = face.triangle_part <= 1
    volume = (a * torch.linalg.cross(b, c)).sum(-1)[skin].sum() / 6
    assert 3000 < float(volume) < 4500  # cm³, of an ellipsoid with these half axes about 3350
    flat = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, -1]]])
    sides = torch.tensor([[0, 1, 2], [0, 3, 1]])
    for weighting in ("area", "equal"):
        assert torch.allclose(vertex_normals(flat, sides, weighting=weighting)[0, 2], torch.tensor([0.0, 0, 1]))
    stretched = flat * torch.tensor([1.0, 1, 3])
    area = vertex_normals(stretched, sides)[0, 0]
    equal = vertex_normals(stretched, sides, weighting="equal")[0, 0]
    assert torch.allclose(area.abs(), torch.tensor([0.0, 3, 1]) / 10**0.5, atol=1e-6)
    assert torch.allclose(equal.abs(), torch.tensor([0.0, 1, 1]) / 2**0.5, atol=1e-6)


def test_decimation_keeps_landmarks_texture_and_the_meaning_of_coefficients(face):
    small = MorphableModel(face.data.decimated(1))
    assert len(small.mean) < 0.5 * len(face.mean)
    identity, expression = torch.randn(1, 19), torch.rand(1, 46) * 0.3
    full, reduced = (m.landmarks(m.vertices(identity, expression)) for m in (face, small))
    assert torch.allclose(full, reduced, atol=1e-5)
    camera = Camera.from_fov(96, 24, distance=75)
    pictures, texture = [], []
    for model in (face, small):
        seen = rasterise(camera.project(model.vertices(identity)), model.topology, 96, 96, cull=True)
        pictures.append(seen.depth_map()[0])
        texture.append(seen.image(seen.interpolate(model.uv, model.triangles_uv))[0])
    both = pictures[0].isfinite() & pictures[1].isfinite()
    assert both.sum() / (pictures[0].isfinite() | pictures[1].isfinite()).sum() > 0.96
    assert (pictures[0] - pictures[1])[both].abs().quantile(0.9) < 0.35  # cm
    assert (texture[0] - texture[1]).abs()[:, both].quantile(0.9) < 0.02
    assert len(face.data.decimated(2).mean) < len(small.mean)
    assert face.data.decimated(0) is face.data


def test_parts_can_be_taken_alone(face):
    data = face.data.only(["face", "head", "eyeball_L"])
    model = MorphableModel(data)
    assert set(data.triangle_part) == {data.parts.index(p) for p in ("face", "head", "eyeball_L")}
    assert data.eyeballs == (("eyeball_L",),)
    assert torch.equal(model.landmarks(model.vertices()), face.landmarks(face.vertices()))
    with pytest.raises(UsageError, match="68 landmarks"):
        face.data.only(["head"])
    with pytest.raises(UsageError, match="'eyeball_L'"):
        face.data.only(["eyebal_L"])


def test_another_unit_scales_everything(face):
    centre = face.data.mean.mean(0)
    decimetres = MorphableModel(face.data.rescaled(0.1, centre=centre))
    a, b = torch.randn(2, 19), torch.rand(2, 46)
    assert torch.allclose(decimetres.vertices(a, b), (face.vertices(a, b) - torch.from_numpy(centre)) / 10, atol=1e-4)


def test_five_points_of_the_landmarks(face):
    marks = face.landmarks(face.vertices())
    points = five_points(marks)[0]
    assert points[0, 0] < 0 < points[1, 0]
    assert torch.allclose(points[:2].abs()[0], points[:2].abs()[1], atol=1e-4)
    assert points[2, 2] == marks[0, :, 2].max()
    assert (points[3:, 1] < points[2, 1]).all()
    assert (points[2, 1] < points[:2, 1]).all()


def test_landmarks_are_in_ibug_order(face):
    marks = face.landmarks(face.vertices())[0]
    x, y, _ = marks.unbind(-1)
    assert (x[:17].diff() >= 0).all()
    assert (x[17:27].diff() > 0).all()
    assert (x[31:36].diff() > 0).all()
    assert y[8] == y.min()
    for upper, lower in ((37, 41), (38, 40), (43, 47), (44, 46), (61, 67), (62, 66), (63, 65), (51, 57)):
        assert x[upper] == x[lower]
        assert y[upper] >= y[lower]
    mirrored = [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), 45, 44, 43, 42, 47, 46]
    mirrored += [39, 38, 37, 36, 41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65]
    assert torch.allclose(marks, marks[mirrored] * torch.tensor([-1.0, 1, 1]), atol=1e-4)


def test_the_jaw_opens_the_mouth_and_takes_its_teeth_along(face):
    marks = face.landmarks(face.vertices(expression=face.expression_weights({"jawOpen": 1})))[0]
    gap = marks[62, 1] - marks[66, 1]
    assert 1.8 < float(gap) < 4.0  # cm
    assert moved(face, "teeth_upper", jawOpen=1).abs().max() == 0
    lower = moved(face, "teeth_lower", jawOpen=1)
    assert lower[:, 1].max() < -1
    distances = [torch.cdist(v, v) for v in (face.mean[face.data.vertices_of(["teeth_lower"])],)]
    after = face.mean[face.data.vertices_of(["teeth_lower"])] + lower
    assert torch.allclose(torch.cdist(after, after), distances[0], atol=1e-3)


def test_a_blink_closes_one_eye_and_leaves_the_eyeballs(face):
    marks = face.landmarks(face.vertices(expression=face.expression_weights({"eyeBlink_L": 1})))[0]
    still = face.landmarks(face.vertices())[0]
    assert marks[43, 1] - marks[47, 1] < 0.1 * (still[43, 1] - still[47, 1])
    assert torch.equal(marks[36:42], still[36:42])
    assert moved(face, "eyeball_L", eyeBlink_L=1).abs().max() == 0


def test_smiles_lift_the_corners_on_their_side(face):
    still = face.landmarks(face.vertices())[0]
    smile = face.landmarks(face.vertices(expression=face.expression_weights({"mouthSmile_L": 1})))[0]
    assert smile[54, 1] - still[54, 1] > 0.4
    assert smile[54, 0] > still[54, 0]
    assert (smile[48] - still[48]).norm() < 0.02


def test_left_and_right_expressions_mirror_each_other(face):
    mirrored = torch.cdist(face.mean * torch.tensor([-1.0, 1, 1]), face.mean).argmin(1)
    skin = torch.from_numpy(face.data.vertices_of(["face"]))
    skin = skin[(face.mean[mirrored[skin]] - face.mean[skin] * torch.tensor([-1.0, 1, 1])).norm(dim=1) < 1e-4]
    names = face.expression_names
    for name in names:
        if name.endswith("_L"):
            left, right = (face.expression[names.index(name[:-1] + s)] for s in "LR")
            flipped = right[mirrored[skin]] * torch.tensor([-1.0, 1, 1])
            close = (left[skin] - flipped).norm(dim=1) < 1e-4
            assert close.float().mean() > 0.97, name  # the two copies at a slit coincide and may be swapped


def test_colours(face):
    assert face.albedo().min() >= 0
    assert face.albedo().max() <= 1
    lighter = face.albedo(torch.tensor([[1.0, 0, 0]])) - face.albedo()
    skin = face.data.vertices_of(["face"])
    assert lighter[0, skin].max() > 0.05
    assert lighter[0, face.data.vertices_of(["eyeball_L"])].abs().max() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"identity": torch.full((1, 3), float("nan"))}, "identity coefficients must be finite"),
        ({"identity": torch.zeros(1, 20)}, "up to 19"),
        ({"identity": torch.zeros(2, 3), "expression": torch.zeros(3, 4)}, "different numbers of faces: 2, 3"),
        ({"expression": torch.zeros(46)}, r"\(46,\)"),
        ({"gaze": torch.zeros(1, 3)}, "gaze must be"),
        ({"gaze": torch.tensor([[float("inf"), 0.0]])}, "gaze coefficients must be finite"),
    ],
)
def test_wrong_coefficients_are_named(face, options, message):
    with pytest.raises(UsageError, match=message):
        face.vertices(**options)


def test_unknown_expressions_suggest_the_nearest(face):
    with pytest.raises(UsageError, match="did you mean 'mouthSmile_L'"):
        face.expression_weights({"mouthSmileL": 1.0})
    with pytest.raises(UsageError, match="did you mean 'jawOpen'"):
        face.expression_weights({"JawOpne": 1.0})


def test_arrays_that_do_not_fit_are_refused(face):
    data = face.data
    broken = data.identity.copy()
    broken[0, 0, 0] = np.nan
    for change, message in (
        ({"expression": data.expression[:, :-1]}, "expression"),
        ({"identity": broken}, "not finite"),
        ({"triangles": data.triangles + 1}, "does not have"),
        ({"landmarks68": data.landmarks68[:5]}, "landmarks68"),
        ({"uv": data.uv[:10]}, "texture points"),
    ):
        with pytest.raises(WeightsError, match=message):
            dataclasses.replace(data, **change)
    bare = MorphableModel(dataclasses.replace(data, landmarks68=None))
    with pytest.raises(UsageError, match="without landmarks"):
        bare.landmarks(bare.vertices())
    with pytest.raises(UsageError, match="no albedo"):
        MorphableModel(dataclasses.replace(data, albedo_mean=None)).albedo()
    with pytest.raises(UsageError, match="decimated"):
        data.decimated(-1)
