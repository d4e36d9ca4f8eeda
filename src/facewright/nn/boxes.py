"""Boxes: overlap, suppression, anchors, and the coding of boxes and points relative to anchors.

Boxes are (x0, y0, x1, y1); anchors are (centre x, centre y, width, height); all in pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

CENTRE_VARIANCE = 0.1
SIZE_VARIANCE = 0.2


def area(boxes: Tensor) -> Tensor:
    """Areas (...) of (..., 4) boxes; zero for inverted ones."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Areas shared by (..., N, 4) and (..., M, 4) boxes, as (..., N, M)."""
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    return (high - low).clamp(min=0).prod(-1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of (..., N, 4) and (..., M, 4) boxes, as (..., N, M) in [0, 1]."""
    shared = intersection(a, b)
    union = area(a)[..., :, None] + area(b)[..., None, :] - shared
    return shared / union.clamp(min=1e-9)


def to_corners(anchors: Tensor) -> Tensor:
    """(centre x, centre y, width, height) to (x0, y0, x1, y1)."""
    half = anchors[..., 2:] / 2
    return torch.cat((anchors[..., :2] - half, anchors[..., :2] + half), dim=-1)


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Greedy non-maximum suppression: indices kept, best score first.

    A box is dropped when it overlaps a better kept one by IoU > `threshold`.
    """
    order = scores.argsort(descending=True, stable=True)
    return order[_survivors(iou(boxes[order], boxes[order]) > threshold)]


def containment_nms(boxes: Tensor, scores: Tensor, share: float = 0.7, ratio: float = 0.5) -> Tensor:
    """Drop boxes that are a part of a better one: indices kept, best score first.

    A part lies in the better box with at least `share` of its area and has at most `ratio` of its area, or the other
    way round: an eye is never a second face, nor is the pair of faces that surrounds one. IoU misses both cases.
    """
    order = scores.argsort(descending=True, stable=True)
    ranked = boxes[order]
    areas = area(ranked)
    smaller = torch.minimum(areas[:, None], areas[None, :]).clamp(min=1e-9)
    larger = torch.maximum(areas[:, None], areas[None, :])
    inside = intersection(ranked, ranked) / smaller >= share
    return order[_survivors(inside & (smaller <= ratio * larger))]


def _survivors(conflict: Tensor) -> Tensor:
    """Greedy choice from the first to the last: indices without conflict with an earlier choice."""
    table = conflict.cpu().numpy()
    alive = torch.ones(len(table), dtype=torch.bool).numpy()
    for i in range(len(table)):
        if alive[i]:
            alive[i + 1 :] &= ~table[i, i + 1 :]
    return torch.from_numpy(alive).nonzero().flatten().to(conflict.device)


def make_anchors(
    height: int,
    width: int,
    strides: Sequence[int],
    sizes: Sequence[Sequence[int]],
    device: torch.device | str | None = None,
) -> Tensor:
    """Square anchors of an image of `height` × `width`, as (A, 4).

    Level by level, row by row, column by column, then by size; a level has ceil(side / stride) cells a side with
    centres at (index + 0.5) · stride.
    """
    levels = []
    for stride, level_sizes in zip(strides, sizes, strict=True):
        rows = torch.arange(-(-height // stride), device=device, dtype=torch.float32)
        columns = torch.arange(-(-width // stride), device=device, dtype=torch.float32)
        y, x = torch.meshgrid((rows + 0.5) * stride, (columns + 0.5) * stride, indexing="ij")
        centres = torch.stack((x, y), -1)[:, :, None].expand(-1, -1, len(level_sizes), -1)
        sides = torch.tensor(level_sizes, device=device, dtype=torch.float32)[:, None].expand(*centres.shape[:3], 2)
        levels.append(torch.cat((centres, sides), -1).flatten(0, 2))
    return torch.cat(levels)


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """(..., 4) boxes as offsets from their (..., 4) anchors, scaled by the SSD variances."""
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3)
    shift = (centre - anchors[..., :2]) / (CENTRE_VARIANCE * anchors[..., 2:])
    return torch.cat((shift, (size / anchors[..., 2:]).log() / SIZE_VARIANCE), -1)


def decode_boxes(code: Tensor, anchors: Tensor) -> Tensor:
    """Inverse of `encode_boxes`."""
    centre = anchors[..., :2] + code[..., :2] * CENTRE_VARIANCE * anchors[..., 2:]
    size = anchors[..., 2:] * (code[..., 2:] * SIZE_VARIANCE).exp()
    return to_corners(torch.cat((centre, size), -1))


def encode_points(points: Tensor, anchors: Tensor) -> Tensor:
    """(..., K, 2) points as (..., K, 2) offsets from their (..., 4) anchors."""
    return (points - anchors[..., None, :2]) / (CENTRE_VARIANCE * anchors[..., None, 2:])


def decode_points(code: Tensor, anchors: Tensor) -> Tensor:
    """Inverse of `encode_points`."""
    return anchors[..., None, :2] + code * CENTRE_VARIANCE * anchors[..., None, 2:]
