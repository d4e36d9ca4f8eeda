"""Pictures turned by quarters, and faces found in them brought back.

A `turn` is how far the content of a picture is turned from upright, clockwise as seen, in degrees: 0, 90, 180 or 270.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..face import Face

TURNS = (0, 90, 180, 270)


def upright(image: NDArray[Any], turn: int) -> NDArray[Any]:
    """An (H, W, ...) picture whose content is turned by `turn`, turned back; the same array for 0."""
    if turn not in TURNS:
        raise UsageError(f"a picture can be turned by 0, 90, 180 or 270 degrees, not by {turn}")
    return image if turn == 0 else np.ascontiguousarray(np.rot90(image, turn // 90))


def turned_by(image: NDArray[Any], turn: int) -> NDArray[Any]:
    """The reverse of `upright`: an upright (H, W, ...) picture or mask, turned clockwise by `turn`."""
    return upright(image, (360 - turn) % 360)


def upright_face(face: Face, shape: tuple[int, ...]) -> Face:
    """A face of a picture of `shape` (height, width, ...) as it lies in `upright(picture, face.turn)`."""
    return turned_face(face, (360 - face.turn) % 360, (shape[0], shape[1]))


def turned_points(points: NDArray[np.floating], turn: int, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Points (..., 2) of an upright view of `shape` (height, width) where they lie in the picture turned by `turn`."""
    x, y = np.moveaxis(np.asarray(points, np.float32), -1, 0)
    last_row, last_column = shape[0] - 1, shape[1] - 1
    placed = {
        0: (x, y),
        90: (last_row - y, x),
        180: (last_column - x, last_row - y),
        270: (y, last_column - x),
    }[turn]
    return np.stack(placed, -1)


def turned_face(face: Face, turn: int, shape: tuple[int, int]) -> Face:
    """A face of an upright view of `shape` (height, width) as it lies in the picture turned by `turn`.

    The points keep their order: the first is the eye that is on the left when the face is seen upright.
    """
    if turn == 0:
        return face
    corners = turned_points(face.box.reshape(2, 2), turn, shape)
    pose = face.pose
    if pose is not None:
        pose = replace(pose, roll=(pose.roll + turn + 180) % 360 - 180)
    return replace(
        face,
        box=np.concatenate([corners.min(0), corners.max(0)]).astype(np.float32),
        points5=turned_points(face.points5, turn, shape),
        pose=pose,
        turn=(face.turn + turn) % 360,
    )
