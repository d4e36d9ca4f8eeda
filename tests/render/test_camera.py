"""Projection in both conventions and the signs of head rotation."""

from __future__ import annotations

import pytest
import torch
from scipy.spatial.transform import Rotation

from facewright.errors import UsageError
from facewright.render import Camera, WeakPerspective, place, pose_of_rotation, rotation_from_deep3d, rotation_from_pose

NOSE, CROWN, EAR = torch.eye(3).flip(0).unsqueeze(1)  # towards the viewer, up, to the picture's right


def test_deep3d_camera_by_hand():
    screen = Camera.deep3d().project(torch.tensor([[[0.5, -0.3, 0.2], [0.0, 0.0, 0.0]]]))
    assert screen.depth[0].tolist() == pytest.approx([9.8, 10])
    assert screen.xy[0, 0].tolist() == pytest.approx([111.5 + 1015 * 0.5 / 9.8, 111.5 + 1015 * 0.3 / 9.8], abs=1e-4)
    assert screen.xy[0, 1].tolist() == [111.5, 111.5]


def test_deep3d_camera_scales_with_the_picture():
    points = torch.rand(1, 9, 3)
    small, large = (Camera.deep3d(size).project(points).xy for size in (224, 448))
    assert torch.allclose((small + 0.5) * 2 - 0.5, large, atol=1e-3)


def test_field_of_view_reaches_the_edges_of_the_picture():
    camera = Camera.from_fov((80, 60), 90, distance=5)
    edges = camera.project(torch.tensor([[[0.0, 5.0, 0.0], [0.0, -5.0, 0.0], [5 * 4 / 3, 0.0, 0.0]]])).xy[0]
    assert edges[0, 1].item() == pytest.approx(-0.5, abs=1e-4)
    assert edges[1, 1].item() == pytest.approx(59.5, abs=1e-4)
    assert edges[2, 0].item() == pytest.approx(79.5, abs=1e-4)
    assert camera.fov == pytest.approx(90)


def test_opengl_matrix_gives_the_same_pixels_and_depths():
    camera = Camera(96, 64, 70.0, (50.0, 30.0), 6.0, near=0.5)
    points = torch.rand(1, 20, 3, dtype=torch.float64) * 2 - 1
    relative = torch.cat([points[0] - torch.tensor([0, 0, 6.0]), torch.ones(20, 1)], 1).double()
    clip = relative @ camera.opengl_matrix(far=20).T
    device = clip[:, :3] / clip[:, 3:]
    x, y = (device[:, 0] + 1) * 48 - 0.5, (1 - device[:, 1]) * 32 - 0.5
    screen = camera.project(points)
    assert torch.allclose(torch.stack([x, y], -1), screen.xy[0])
    assert torch.allclose(clip[:, 3], screen.depth[0])
    ends = torch.tensor([[0, 0, -0.5, 1], [0, 0, -20.0, 1]]).double() @ camera.opengl_matrix(far=20).T
    assert (ends[:, 2] / ends[:, 3]).tolist() == pytest.approx([-1, 1])


def test_unproject_inverts_project():
    camera = Camera.from_fov(128, 30, distance=4)
    points = torch.rand(2, 7, 3, dtype=torch.float64)
    screen = camera.project(points)
    assert torch.allclose(camera.unproject(screen.xy, screen.depth), points)


def test_weak_perspective_is_the_limit_of_a_distant_camera():
    points = torch.rand(1, 10, 3, dtype=torch.float64)
    far = Camera(64, 64, 20.0 * 1e6, (31.5, 31.5), 1e6).project(points)
    near = WeakPerspective(64, 64, 20.0, (31.5, 31.5)).project(points)
    assert torch.allclose(far.xy, near.xy, atol=1e-3)
    assert torch.allclose(far.depth - 1e6, near.depth, atol=1e-6)
    assert not near.perspective


def test_signs_of_a_pose():
    def turned(axis: torch.Tensor, **angles: float) -> list[float]:
        pose = torch.tensor([[angles.get(k, 0.0) for k in ("yaw", "pitch", "roll")]])
        return place(axis[None], rotation_from_pose(pose))[0, 0].tolist()

    assert turned(NOSE, yaw=90.0) == pytest.approx([1, 0, 0], abs=1e-6)  # to the picture's right
    assert turned(NOSE, pitch=90.0) == pytest.approx([0, 1, 0], abs=1e-6)  # up
    assert turned(CROWN, roll=90.0) == pytest.approx([1, 0, 0], abs=1e-6)  # clockwise


def test_deep3d_rotation_equals_scipy():
    angles = torch.rand(20, 3, dtype=torch.float64) * 2 - 1
    expected = torch.from_numpy(Rotation.from_euler("xyz", angles.numpy()).as_matrix())
    assert torch.allclose(rotation_from_deep3d(angles), expected)


def test_pose_and_rotation_are_inverse():
    pose = (torch.rand(50, 3, dtype=torch.float64) * 2 - 1) * torch.tensor([85, 80, 170])
    assert torch.allclose(pose_of_rotation(rotation_from_pose(pose)), pose)


def test_place_turns_before_it_moves():
    rotation = rotation_from_pose(torch.tensor([[90.0, 0, 0], [0, 0, 0]]))
    moved = place(NOSE.expand(2, 1, 3), rotation, torch.tensor([[0.0, 2, 0], [0, 0, 3]]))
    assert torch.allclose(moved[:, 0], torch.tensor([[1.0, 2, 0], [0, 0, 4]]), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Camera(0, 10, 5.0, (0, 0), 1.0), "at least one pixel"),
        (lambda: Camera(10, 10, 0.0, (0, 0), 1.0), "positive"),
        (lambda: Camera(10, 10, float("nan"), (0, 0), 1.0), "finite"),
        (lambda: Camera.from_fov(10, 180, 1.0), "between 0 and 180"),
        (lambda: Camera.from_fov(10, 30, 1.0).opengl_matrix(1e-6), "behind the near"),
        (lambda: WeakPerspective(10, 10, -1.0, (0, 0)), "scale"),
        (lambda: rotation_from_deep3d(torch.zeros(2, 4)), r"\(2, 4\)"),
        (lambda: rotation_from_pose(torch.tensor([[0.0, float("inf"), 0.0]])), "finite"),
    ],
)
def test_cameras_that_see_nothing_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()
