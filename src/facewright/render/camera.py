"""Where the model stands and how it falls onto the picture.

Model space: x to the picture's right, y up, z towards the viewer. A camera sits at (0, 0, `distance`) and looks along
−z, as in OpenGL; depth is the distance from it along that axis. Pixels have their centres at integers, x right, y down.
Rotations act on columns: x' = R x + t. Angles of a pose follow `facewright.face.Pose`, in degrees; those of Deep3D
(Deng et al., Accurate 3D Face Reconstruction with Weakly-Supervised Learning, 2019, `sicxu/Deep3DFaceRecon_pytorch`)
are radians about x, y and z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ..errors import UsageError
from .rasteriser import Projected

DEEP3D_SIZE, DEEP3D_FOCAL, DEEP3D_DISTANCE, DEEP3D_NEAR = 224, 1015.0, 10.0, 5.0


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera: picture size, `focal` length and principal point `centre` (x, y) in pixels, its `distance` from
    the origin and the nearest depth it sees, both in model units. Raises UsageError where it could see nothing."""

    width: int
    height: int
    focal: float
    centre: tuple[float, float]
    distance: float
    near: float = 1e-3

    def __post_init__(self) -> None:
        _check_picture(self.width, self.height, (self.focal, *self.centre, self.distance, self.near))
        if self.focal <= 0 or self.near <= 0:
            raise UsageError(f"focal length and near depth must be positive, not {self.focal} and {self.near}")

    @classmethod
    def deep3d(cls, size: int = DEEP3D_SIZE) -> Self:
        """The camera of Deep3D and of what builds on it: focal length 1015 at 224 px, at z = 10 decimetres.

        The optical axis meets the middle of the picture, as in the published renderer. The published landmarks lie half
        a pixel to the right and above of that: their principal point is (112, 111) at 224 px.
        """
        middle = (size - 1) / 2
        scale = size / DEEP3D_SIZE
        return cls(size, size, DEEP3D_FOCAL * scale, (middle, middle), DEEP3D_DISTANCE, DEEP3D_NEAR)

    @classmethod
    def from_fov(cls, size: int | tuple[int, int], degrees: float, distance: float) -> Self:
        """A camera with a vertical field of view; `size` is one side or (width, height)."""
        width, height = (size, size) if isinstance(size, int) else size
        if not 0 < degrees < 180:
            raise UsageError(f"a field of view must be between 0 and 180 degrees, not {degrees}")
        focal = height / 2 / math.tan(math.radians(degrees) / 2)
        return cls(width, height, focal, ((width - 1) / 2, (height - 1) / 2), distance)

    @property
    def fov(self) -> float:
        """Vertical field of view in degrees."""
        return math.degrees(2 * math.atan(self.height / 2 / self.focal))

    def project(self, points: Tensor) -> Projected:
        """(N, V, 3) points in model space onto the picture. Depth is negative behind the camera."""
        depth = self.distance - points[..., 2]
        scale = self.focal / torch.where(depth.abs() < 1e-9, torch.full_like(depth, 1e-9), depth)
        x = self.centre[0] + points[..., 0] * scale
        y = self.centre[1] - points[..., 1] * scale
        return Projected(torch.stack([x, y], -1), depth)

    def unproject(self, xy: Tensor, depth: Tensor) -> Tensor:
        """Points (..., 3) in model space of pixels (..., 2) at depths (...)."""
        x = (xy[..., 0] - self.centre[0]) * depth / self.focal
        y = (self.centre[1] - xy[..., 1]) * depth / self.focal
        return torch.stack([x, y, self.distance - depth], -1)

    def opengl_matrix(self, far: float) -> Tensor:
        """(4, 4) OpenGL projection of points relative to the camera (z towards the viewer) to clip coordinates."""
        if far <= self.near:
            raise UsageError(f"the far plane ({far}) must lie behind the near plane ({self.near})")
        x, y = ((c + 0.5) * 2 / s - 1 for c, s in zip(self.centre, (self.width, self.height)))
        depth = self.near - far
        return torch.tensor(
            [
                [2 * self.focal / self.width, 0, -x, 0],
                [0, 2 * self.focal / self.height, y, 0],
                [0, 0, (far + self.near) / depth, 2 * far * self.near / depth],
                [0, 0, -1, 0],
            ],
            dtype=torch.float64,
        )

    def view(self, points: Tensor) -> Tensor:
        """Unit vectors (..., 3) from points in model space towards the camera."""
        eye = points.new_tensor([0.0, 0.0, self.distance])
        return torch.nn.functional.normalize(eye - points, dim=-1)


@dataclass(frozen=True, slots=True)
class WeakPerspective:
    """A camera without foreshortening: `scale` pixels for a model unit, the origin at `centre`; depth is −z."""

    width: int
    height: int
    scale: float
    centre: tuple[float, float]

    def __post_init__(self) -> None:
        _check_picture(self.width, self.height, (self.scale, *self.centre))
        if self.scale <= 0:
            raise UsageError(f"the scale of a weak-perspective camera must be positive, not {self.scale}")

    def project(self, points: Tensor) -> Projected:
        """(N, V, 3) points in model space onto the picture."""
        x = self.centre[0] + self.scale * points[..., 0]
        y = self.centre[1] - self.scale * points[..., 1]
        return Projected(torch.stack([x, y], -1), -points[..., 2], perspective=False)


def rotation_from_pose(pose: Tensor) -> Tensor:
    """(N, 3, 3) rotations of poses (N, 3): yaw, pitch, roll in degrees as in `Pose`; roll is applied last."""
    yaw, pitch, roll = torch.deg2rad(pose).unbind(-1)
    return rotation_from_deep3d(torch.stack([-pitch, yaw, -roll], -1))


def pose_of_rotation(rotation: Tensor) -> Tensor:
    """(N, 3) yaw, pitch, roll in degrees of rotations (N, 3, 3); yaw within ±90."""
    yaw = torch.asin((-rotation[:, 2, 0]).clamp(-1, 1))
    about_x = torch.atan2(rotation[:, 2, 1], rotation[:, 2, 2])
    about_z = torch.atan2(rotation[:, 1, 0], rotation[:, 0, 0])
    return torch.rad2deg(torch.stack([yaw, -about_x, -about_z], -1))


def rotation_from_deep3d(angles: Tensor) -> Tensor:
    """(N, 3, 3) rotations Rz Ry Rx of Deep3D's angles (N, 3): radians about x, y and z.

    The published code multiplies rows by the transpose of this matrix, which is the same.
    """
    if angles.shape[-1] != 3 or angles.ndim != 2:
        raise UsageError(f"three angles for each of N heads are needed, (N, 3), not {tuple(angles.shape)}")
    if not torch.isfinite(angles).all():
        raise UsageError("rotation angles must be finite")
    (sx, sy, sz), (cx, cy, cz) = torch.sin(angles).unbind(-1), torch.cos(angles).unbind(-1)
    entries = [
        *(cy * cz, sx * sy * cz - cx * sz, cx * sy * cz + sx * sz),
        *(cy * sz, sx * sy * sz + cx * cz, cx * sy * sz - sx * cz),
        *(-sy, sx * cy, cx * cy),
    ]
    return torch.stack(entries, -1).view(-1, 3, 3)


def place(points: Tensor, rotation: Tensor, translation: Tensor | None = None) -> Tensor:
    """(N, V, 3) points turned by (N, 3, 3) and moved by (N, 3); normals are turned the same way without moving."""
    turned = points @ rotation.transpose(1, 2)
    return turned if translation is None else turned + translation[:, None]


def _check_picture(width: int, height: int, numbers: tuple[float, ...]) -> None:
    if width < 1 or height < 1:
        raise UsageError(f"a camera needs a picture of at least one pixel, not {width}×{height}")
    if not all(math.isfinite(n) for n in numbers):
        raise UsageError("the parameters of a camera must be finite numbers")
