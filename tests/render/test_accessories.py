"""Meshes worn by a head: they follow it, stay off it, and face outwards."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from facewright.errors import UsageError
from facewright.render import MorphableModel, coarse_face, load_ict, place, rotation_from_pose, vertex_normals
from facewright.render import accessories as worn
from facewright.render.accessories import CENTRE, ball, below_collar, direction, head_of, joined, sheet, spread, tube

COLOUR = (0.2, 0.4, 0.6)


@pytest.fixture(scope="module")
def coarse():
    data = coarse_face()
    return SimpleNamespace(data=data, model=MorphableModel(data), head=head_of(data))


def everything(head):
    layers = [*worn.cloth(head, COLOUR), *worn.necklace(head, COLOUR)]
    for style in worn.HATS[1:]:
        layers += worn.hat(head, style, COLOUR)
    for style in worn.GLASSES[1:]:
        layers += worn.glasses(head, style, COLOUR, 0.5)
    for style in ("stud", "hoop"):
        layers += worn.earrings(head, style, COLOUR)
    for style in worn.OCCLUDERS[1:]:
        layers += worn.occluder(head, style, 0.5, 0.5, COLOUR, COLOUR)
    return layers


def signed_volume(points, triangles):
    a, b, c = points[triangles].swapaxes(0, 1)
    return float((a * np.cross(b, c)).sum() / 6)


def test_layers_have_known_parts_and_sound_arrays(coarse):
    parts = set()
    for layer in everything(coarse.head):
        parts.add(layer.part)
        count = len(layer.colour)
        assert layer.places.shape == (count, 4)
        assert 0 <= layer.triangles.min() <= layer.triangles.max() < count
        assert 0 <= layer.colour.min() <= layer.colour.max() <= 1
        assert torch.isfinite(layer.vertices_of(coarse.model.vertices())).all()
    assert parts == {"cloth", "neck_l", "hat", "eye_g", "ear_r", "occluder"}


def test_layers_move_with_the_head(coarse):
    still = coarse.model.vertices()
    rotation = rotation_from_pose(torch.tensor([[35.0, -10.0, 20.0]]))
    shift = torch.tensor([[1.0, -2.0, 3.0]])
    for layer in everything(coarse.head):
        moved = layer.vertices_of(place(still, rotation, shift))
        torch.testing.assert_close(moved, place(layer.vertices_of(still), rotation, shift), atol=5e-3, rtol=1e-4)


def test_layers_of_a_batch_are_those_of_each_face_and_have_gradients(coarse):
    layer = worn.glasses(coarse.head, "round", COLOUR, 0.0)[0]
    identity = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    together = layer.vertices_of(coarse.model.vertices(identity))
    for k in range(3):
        alone = layer.vertices_of(coarse.model.vertices(identity[k : k + 1]))
        torch.testing.assert_close(together[k : k + 1], alone, atol=1e-4, rtol=1e-4)
    together.square().sum().backward()
    assert identity.grad.abs().sum() > 0


def test_expressions_leave_glasses_and_hats_alone(coarse):
    smile = coarse.model.vertices(expression=coarse.model.expression_weights({"jawOpen": 1.0, "eyeBlink_L": 1.0}))
    for layer in (*worn.glasses(coarse.head, "square", COLOUR, 0.0), *worn.hat(coarse.head, "cap", COLOUR)):
        moved = (layer.vertices_of(smile) - layer.vertices_of(coarse.model.vertices())).norm(dim=-1)
        assert moved.max() < 0.35


def test_layers_follow_units_and_origin():
    data = coarse_face()
    moved = data.rescaled(0.1, centre=np.array([1.0, 2.0, 3.0], np.float32))
    for mine, theirs in zip(everything(head_of(data)), everything(head_of(moved))):
        a = mine.vertices_of(torch.from_numpy(data.mean)[None])
        b = theirs.vertices_of(torch.from_numpy(moved.mean)[None])
        torch.testing.assert_close((a - torch.tensor([1.0, 2.0, 3.0])) / 10, b, atol=0.04, rtol=1e-3)


def test_hats_and_clear_glasses_stay_outside_the_skin(coarse):
    still = coarse.model.vertices()
    for style in worn.HATS[1:]:
        layer = worn.hat(coarse.head, style, COLOUR)[0]
        offset = layer.places[: 16 * 64, :3].numpy() - CENTRE
        distance = np.linalg.norm(offset, axis=1)
        assert (distance - coarse.head.radius(offset / distance[:, None]) > 0.2).mean() > 0.97
    eyes = still[0, coarse.data.landmarks68[36:48]].mean(0)
    lens = worn.glasses(coarse.head, "round", COLOUR, 0.0)[1].vertices_of(still)[0]
    assert lens[:, 2].min() > eyes[2]
    assert abs(lens[:, 1].mean() - eyes[1]) < 1


def test_tint_makes_lenses_opaque(coarse):
    clear, sun = (worn.glasses(coarse.head, "aviator", COLOUR, tint)[1] for tint in (0.0, 1.0))
    assert clear.alpha < 0.1
    assert 0.85 < sun.alpha < 1


def test_skull_radius_is_that_of_the_mesh(coarse):
    chosen = coarse.head.outer[~coarse.head.ears[coarse.head.outer]]
    offset = coarse.head.points[chosen] - CENTRE
    distance = np.linalg.norm(offset, axis=1)
    upper = offset[:, 1] > 0
    error = coarse.head.radius(offset / distance[:, None]) - distance
    assert np.abs(error[upper]).mean() < 0.25


def test_points_inside_are_moved_out_and_others_stay(coarse):
    points = np.array([[0.0, 5.0, 2.0], [0.0, 30.0, 0.0]])
    moved = coarse.head.outside(points, 0.5)
    towards = (moved[0] - CENTRE) / np.linalg.norm(moved[0] - CENTRE)
    assert np.linalg.norm(moved[0] - CENTRE) == pytest.approx(float(coarse.head.radius(towards)) + 0.5)
    np.testing.assert_allclose(moved[1], points[1])


def test_balls_and_tubes_face_outwards_with_the_right_volume():
    mesh = ball((1.0, 2.0, 3.0), (1.0, 2.0, 3.0), 60, 80)
    assert signed_volume(mesh.points, mesh.triangles) == pytest.approx(4 / 3 * np.pi * 6, rel=0.01)
    turn = np.linspace(0, 2 * np.pi, 101)[:-1]
    ring = np.stack([5 * np.cos(turn), 5 * np.sin(turn), 0 * turn], -1)
    torus = tube(ring, 0.5, closed=True, sides=40)
    assert signed_volume(torus.points, torus.triangles) == pytest.approx(2 * np.pi**2 * 5 * 0.25, rel=0.02)


def test_sheet_faces_where_rows_rise_and_columns_run_right():
    y, x = np.meshgrid([0.0, 1.0], [0.0, 1.0, 2.0], indexing="ij")
    flat = sheet(np.stack([x, y, 0 * x], -1))
    normals = vertex_normals(torch.from_numpy(flat.points)[None], torch.from_numpy(flat.triangles))
    torch.testing.assert_close(normals[0], torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64).expand(6, 3))


def test_joined_keeps_every_triangle():
    one, two = ball((0, 0, 0), 1.0), ball((5, 0, 0), 2.0)
    both = joined([one, two])
    volume = signed_volume(one.points, one.triangles) + signed_volume(two.points, two.triangles)
    assert signed_volume(both.points, both.triangles) == pytest.approx(volume)


def test_spread_takes_corners_first():
    points = np.array([[0.0, 0, 0], [0.1, 0, 0], [10, 0, 0], [0, 10, 0], [0.1, 0.1, 0]])
    assert set(spread(points, 3)) in ({0, 2, 3}, {2, 3, 4}, {1, 2, 3})
    assert len(set(spread(points, 9))) == 5


def test_collars_close_upwards():
    chest = np.array([[0.0, -13.0, 8.0]])
    assert below_collar(chest, 0.0) < 0 < below_collar(chest, 1.0)
    assert direction(np.array(0.0), np.array(np.pi / 2)) == pytest.approx([1, 0, 0], abs=1e-9)


def test_a_model_without_landmarks_is_refused(coarse):
    from dataclasses import replace

    with pytest.raises(UsageError, match="landmarks"):
        head_of(replace(coarse.data, landmarks68=None))


@pytest.mark.shared
def test_ears_of_the_scanned_head_are_found(shared_dir):
    head = head_of(load_ict(shared_dir / "data" / "ict_facekit.npz"))
    ears = head.points[head.ears]
    assert np.ptp(ears[:, 1]) == pytest.approx(6.2, abs=0.8)  # an ear is about 6 cm high
    assert (ears[:, 0] > 0).mean() == pytest.approx(0.5, abs=0.02)
    assert head.ears[head.outer].mean() < 0.3
    assert np.abs(ears[:, 0]).max() == pytest.approx(np.abs(head.points[:, 0][head.points[:, 1] > -5]).max())
    rest = head.points[head.outer[~head.ears[head.outer]]]
    assert np.abs(rest[rest[:, 1] > -2, 0]).max() < 8.3  # without ears the head is this wide
    for style in ("stud", "hoop"):
        for layer, side in zip(worn.earrings(head, style, COLOUR), (-1, 1)):
            assert (layer.places[:, 0] * side).mean() == pytest.approx(7.5, abs=1.2)


def test_rounded_surfaces_are_lit_like_a_ball(coarse):
    head = coarse.head
    mesh = ball(CENTRE + np.array([0, 9.0, 0]), 2.0)
    face = torch.from_numpy(coarse.data.mean)[None]
    for rounding, expected in ((0.0, 0.0), (1.0, 1.0)):
        layer = head.wear("hair", mesh, (0.1, 0.1, 0.1), rounding=rounding)
        vertices = layer.vertices_of(face)
        own = vertex_normals(vertices, layer.triangles)
        lit = layer.shading_normals(face, vertices, own)
        middle = (torch.from_numpy((CENTRE - head.shift) / head.scale)).float()
        outwards = torch.nn.functional.normalize(vertices - middle, dim=-1)
        assert (lit.norm(dim=-1) - 1).abs().max() < 1e-5
        if expected:
            assert (lit * outwards).sum(-1).min() > 0.999
        else:
            assert (lit * own).sum(-1).abs().min() > 0.999
            assert (lit * outwards).sum(-1).min() > -1e-5
