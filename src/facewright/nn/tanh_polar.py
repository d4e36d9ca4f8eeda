"""RoI tanh warps: the whole picture seen from a face, which fills the middle and shrinks everything around it.

Paper: Lin et al., "RoI Tanh-polar Transformer Network for Face Parsing in the Wild" (Image and Vision Computing 2021,
arXiv 2102.02717, section 3); the Cartesian form is from Lin et al., CVPR 2019. A distance r from the middle of the box
is kept as tanh(r), so that nothing of the picture is lost.

Polar views have the radius in columns and the angle in rows: column x is ρ = x / width, row y is θ = 2π y / height
from the picture's right, clockwise. The unit of length is an ellipse with the area of the box. With `keep_aspect` a
direction of the view is that of the picture, and only its unit differs; without it the ellipse becomes a circle.
Boxes (N, 4) are x0, y0, x1, y1 in pixels with centres at integers; sampling is bilinear, and 0 outside the picture.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError
from .sampling import exact, pixels, sample

_LEAST = 1e-9


class _Frame(NamedTuple):
    """Middle (N, 2) of the boxes, half sides (N, 2), and semi-axes (N, 2) of the ellipse of the same area."""

    middle: Tensor
    half: Tensor
    axes: Tensor


@exact
def _frame(boxes: Tensor) -> _Frame:
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise UsageError(f"boxes must be (N, 4), not {tuple(boxes.shape)}")
    size = boxes[:, 2:] - boxes[:, :2]
    return _Frame((boxes[:, :2] + boxes[:, 2:]) / 2, size / 2, size / math.sqrt(math.pi))


def polar_warp(
    images: Tensor,
    boxes: Tensor,
    height: int,
    width: int,
    *,
    keep_aspect: bool = True,
    angles: Tensor | None = None,
) -> Tensor:
    """The polar views (N, C, height, width) of pictures (N, C, H, W); `angles` (N,) radians turn the views.

    Raises UsageError for boxes of another shape.
    """
    return _sample(images, polar_grid(boxes, height, width, images.shape[2:], keep_aspect=keep_aspect, angles=angles))


def polar_grid(
    boxes: Tensor,
    height: int,
    width: int,
    picture: torch.Size,
    *,
    keep_aspect: bool = True,
    angles: Tensor | None = None,
) -> Tensor:
    """(N, height, width, 2) where in a picture of (H, W) the pixels of a polar view come from, for `sample`."""
    frame = _frame(boxes)
    offsets = _turned(_polar_offsets(frame, height, width, keep_aspect=keep_aspect), angles)
    return _normalised(frame.middle[:, None, None] + offsets, picture)


def polar_restore(
    views: Tensor,
    boxes: Tensor,
    height: int,
    width: int,
    *,
    keep_aspect: bool = True,
    angles: Tensor | None = None,
) -> Tensor:
    """The pictures (N, C, height, width) that polar views (N, C, h, w) show; the inverse of `polar_warp`.

    What the view does not reach is 0. Raises UsageError for boxes of another shape.
    """
    grid = polar_restore_grid(boxes, height, width, views.shape[2:], keep_aspect=keep_aspect, angles=angles)
    return _sample(_wrapped(views), grid)


def polar_restore_grid(
    boxes: Tensor,
    height: int,
    width: int,
    view: torch.Size,
    *,
    keep_aspect: bool = True,
    angles: Tensor | None = None,
) -> Tensor:
    """(N, height, width, 2) where in a polar view of (h, w), padded by `_wrapped`, a picture's pixels come from."""
    frame = _frame(boxes)
    offsets = _turned(_pixels(frame.middle, height, width) - frame.middle[:, None, None], angles, back=True)
    return _place_in_view(offsets, frame, view, keep_aspect=keep_aspect)


def cartesian_warp(images: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """The Cartesian tanh views (N, C, height, width) of pictures (N, C, H, W): each axis bent by itself."""
    frame = _frame(boxes)
    offsets = _unbent(frame.middle, height, width) * frame.half[:, None, None]
    return _sample(images, _normalised(frame.middle[:, None, None] + offsets, images.shape[2:]))


def cartesian_restore(views: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """The pictures (N, C, height, width) that Cartesian tanh views show; the inverse of `cartesian_warp`."""
    frame = _frame(boxes)
    offsets = _pixels(frame.middle, height, width) - frame.middle[:, None, None]
    return _sample(views, _bent(offsets, frame, views.shape[2:]))


def polar_to_cartesian(views: Tensor, boxes: Tensor, height: int, width: int, *, keep_aspect: bool = True) -> Tensor:
    """Polar views as Cartesian tanh views (N, C, height, width); of the boxes only the ratio of the sides matters."""
    frame = _frame(boxes)
    offsets = _unbent(frame.middle, height, width) * frame.half[:, None, None]
    return _sample(_wrapped(views), _place_in_view(offsets, frame, views.shape[2:], keep_aspect=keep_aspect))


def cartesian_to_polar(views: Tensor, boxes: Tensor, height: int, width: int, *, keep_aspect: bool = True) -> Tensor:
    """Cartesian tanh views as polar views (N, C, height, width); the inverse of `polar_to_cartesian`."""
    frame = _frame(boxes)
    offsets = _polar_offsets(frame, height, width, keep_aspect=keep_aspect)
    return _sample(views, _bent(offsets, frame, views.shape[2:]))


def circular_warp(images: Tensor, boxes: Tensor, height: int, width: int, *, keep_aspect: bool = True) -> Tensor:
    """The circular views (N, C, height, width): polar views laid out as a disc, with directions as in the picture."""
    frame = _frame(boxes)
    at = (_pixels(frame.middle, height, width) + 0.5) * 2 / frame.middle.new_tensor([width, height]) - 1
    radius = at.norm(dim=-1, keepdim=True)
    direction = at / radius.clamp(min=_LEAST)
    offsets = _arctanh(radius) * _unit(direction, frame, keep_aspect=keep_aspect)
    return _sample(images, _normalised(frame.middle[:, None, None] + offsets, images.shape[2:]))


def _polar_offsets(frame: _Frame, height: int, width: int, *, keep_aspect: bool) -> Tensor:
    """(N, height, width, 2) pixels from the middle of the box to what a polar view shows."""
    radius = _arctanh(torch.arange(width).to(frame.axes) / width)
    theta = torch.arange(height).to(frame.axes) * (2 * math.pi / height)
    direction = torch.stack([theta.cos(), theta.sin()], -1)[None, :, None]
    return radius[:, None] * _unit(direction, frame, keep_aspect=keep_aspect)


def _unit(direction: Tensor, frame: _Frame, *, keep_aspect: bool) -> Tensor:
    """The unit of length in a direction (..., 2), as a vector: the ellipse's edge there, or its axes."""
    axes = frame.axes[:, None, None]
    if not keep_aspect:
        return axes * direction
    shorter: Tensor = (direction / axes).norm(dim=-1, keepdim=True).clamp(min=_LEAST)  # the middle has no direction
    return direction / shorter


def _place_in_view(offsets: Tensor, frame: _Frame, view: torch.Size, *, keep_aspect: bool) -> Tensor:
    """Where in a padded polar view of (h, w) lies what is that many pixels from the middle, for `sample`."""
    height, width = view
    scaled = offsets / frame.axes[:, None, None]
    direction = offsets if keep_aspect else scaled
    radius = scaled.norm(dim=-1)
    theta = torch.atan2(direction[..., 1], direction[..., 0])
    x = (2 * width * radius.tanh() + 2) / width - 1
    y = ((theta / math.pi).remainder(2) * height + 2) / (height + 1) - 1
    return torch.stack([x, y], -1)


def _wrapped(views: Tensor) -> Tensor:
    """Polar views with one row more on both sides, where the angle goes on, and one column more before radius 0."""
    return F.pad(F.pad(views, (0, 0, 1, 1), mode="circular"), (1, 0, 0, 0), mode="replicate")


def _unbent(like: Tensor, height: int, width: int) -> Tensor:
    """(1, height, width, 2) half sides of the box from its middle to what a Cartesian view shows."""
    return _arctanh((_pixels(like, height, width) + 0.5) * 2 / like.new_tensor([width, height]) - 1)


def _bent(offsets: Tensor, frame: _Frame, view: torch.Size) -> Tensor:
    """Where in a Cartesian view of (h, w) lies what is that many pixels from the middle, for `sample`."""
    sides = offsets.new_tensor([view[1], view[0]])
    at = ((offsets / frame.half[:, None, None]).tanh() + 1) / 2 * sides - 0.5
    return _normalised(at, view)


@exact
def _turned(offsets: Tensor, angles: Tensor | None, *, back: bool = False) -> Tensor:
    if angles is None:
        return offsets
    cos, sin = angles.cos()[:, None, None], angles.sin()[:, None, None] * (-1 if back else 1)
    x, y = offsets.unbind(-1)
    return torch.stack([cos * x - sin * y, cos * y + sin * x], -1)


def _pixels(like: Tensor, height: int, width: int) -> Tensor:
    """(1, height, width, 2) x and y of every pixel."""
    return pixels(height, width, like)[None]


def _normalised(at: Tensor, picture: torch.Size) -> Tensor:
    """Pixels (x, y) of a picture of (H, W) in the units of `sample` with aligned corners."""
    return at / at.new_tensor([picture[1] - 1, picture[0] - 1]) * 2 - 1


def _sample(images: Tensor, grid: Tensor) -> Tensor:
    return sample(images, grid, align_corners=True)


def _arctanh(x: Tensor) -> Tensor:
    """The inverse hyperbolic tangent, large but finite at 1."""
    return ((1 + x) / (1 - x).clamp(min=_LEAST)).log() / 2
