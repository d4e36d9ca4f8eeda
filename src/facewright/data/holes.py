"""Holes in aligned faces, for judging what fills them.

Holes are placed by the `ffhq` template: boxes over features, half of the face, glasses, free strokes, scratches and
blobs. A hole is a function of its kind and a random generator, so that every filler is asked the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..degrade.cracks import damage_print
from ..errors import UsageError
from ..geometry.templates import template_points

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Hole = NDArray[np.bool_]
    Rng = np.random.Generator


def draw_hole(kind: str, rng: Rng, side: int) -> Hole:
    """(side, side), true in the hole. Raises UsageError for an unknown kind."""
    if kind not in HOLES:
        raise UsageError(f"there is no hole {kind!r}; there are {', '.join(HOLES)}")
    mask = np.zeros((side, side), np.uint8)
    HOLES[kind](mask, rng)
    hole = mask > 0
    if not hole.any():
        hole[side // 2, side // 2] = True
    return hole


def _unit(side: int) -> float:
    left, right = template_points("ffhq", side)[:2]
    return float(right[0] - left[0])


def _box(mask: NDArray[np.uint8], rng: Rng, centre: NDArray[np.float64], size: tuple[float, float]) -> None:
    """A box of about `size` eye distances around a point, turned a little; sometimes an ellipse."""
    unit = _unit(len(mask))
    wide, high = (float(v * unit * rng.uniform(0.8, 1.3)) for v in size)
    x, y = (centre + rng.normal(0, 0.08 * unit, 2)).tolist()
    turned = ((x, y), (wide, high), float(rng.normal(0, 8)))
    if rng.random() < 0.3:
        cv2.ellipse(mask, turned, 1, -1)
    else:
        cv2.fillPoly(mask, [np.round(cv2.boxPoints(turned)).astype(np.int32)], 1)


def _eye(mask: NDArray[np.uint8], rng: Rng) -> None:
    points = template_points("ffhq", len(mask))
    _box(mask, rng, points[int(rng.integers(2))], (0.75, 0.5))


def _eyes(mask: NDArray[np.uint8], rng: Rng) -> None:
    _box(mask, rng, template_points("ffhq", len(mask))[:2].mean(0), (1.8, 0.55))


def _nose(mask: NDArray[np.uint8], rng: Rng) -> None:
    _box(mask, rng, template_points("ffhq", len(mask))[2] - (0, 0.1 * _unit(len(mask))), (0.6, 0.7))


def _mouth(mask: NDArray[np.uint8], rng: Rng) -> None:
    _box(mask, rng, template_points("ffhq", len(mask))[3:].mean(0), (1.1, 0.6))


def _lower(mask: NDArray[np.uint8], rng: Rng) -> None:
    """What a face mask covers."""
    points, unit = template_points("ffhq", len(mask)), _unit(len(mask))
    _box(mask, rng, points[3:].mean(0) + np.array([0, 0.1 * unit]), (1.9, 1.4))


def _half(mask: NDArray[np.uint8], rng: Rng) -> None:
    """The face on one side of a slanted line through its middle."""
    side, unit = len(mask), _unit(len(mask))
    middle = template_points("ffhq", side)[2] + (rng.normal(0, 0.12 * unit), 0)
    slant = float(rng.normal(0, 0.15))
    rows, columns = np.mgrid[:side, :side]
    across = columns - middle[0] + slant * (rows - middle[1])
    inside = np.zeros((side, side), np.uint8)
    reach = (float(2.4 * unit * rng.uniform(0.9, 1.15)), float(2.9 * unit * rng.uniform(0.9, 1.15)))
    cv2.ellipse(inside, ((float(middle[0]), float(middle[1] - 0.1 * unit)), reach, 0.0), 1, -1)
    mask[(inside > 0) & (across > 0 if rng.random() < 0.5 else across < 0)] = 1


def _glasses(mask: NDArray[np.uint8], rng: Rng) -> None:
    """Lenses, bridge and temples, grown to what has to be filled when glasses are taken off."""
    side, unit = len(mask), _unit(len(mask))
    left, right = template_points("ffhq", side)[:2] + rng.normal(0, 0.03 * unit, 2)
    wide, high = unit * rng.uniform(0.7, 0.95), unit * rng.uniform(0.45, 0.75)
    for centre in (left, right):
        x, y = (float(v) for v in centre)
        lens = ((x, y + 0.05 * unit), (float(wide), float(high)), 0.0)
        if rng.random() < 0.5:
            cv2.ellipse(mask, lens, 1, -1)
        else:
            cv2.fillPoly(mask, [np.round(cv2.boxPoints(lens)).astype(np.int32)], 1)
    thick = max(2, round(0.1 * unit))
    reach = np.array([0.95, 0.05]) * unit
    ends = (left - reach, right + reach * (1, -1))
    for start, end in ((left, right), (left, ends[0]), (right, ends[1])):
        cv2.line(mask, np.round(start).astype(int).tolist(), np.round(end).astype(int).tolist(), 1, thick)
    if rng.random() < 0.3:  # the frames alone
        inner = cv2.erode(mask, np.ones((2 * thick + 1, 2 * thick + 1), np.uint8))
        mask[inner > 0] = 0


def _anywhere(mask: NDArray[np.uint8], rng: Rng) -> None:
    side = len(mask)
    _box(mask, rng, rng.uniform(0.2, 0.8, 2) * side, tuple(rng.uniform(0.4, 1.5, 2)))


def _strokes(mask: NDArray[np.uint8], rng: Rng) -> None:
    """Free brush strokes (Yu et al., "Free-Form Image Inpainting with Gated Convolution", ICCV 2019)."""
    side = len(mask)
    for _ in range(int(rng.integers(1, 4))):
        point, angle = rng.uniform(0.15, 0.85, 2) * side, rng.uniform(0, 2 * np.pi)
        thick = int(rng.uniform(0.03, 0.1) * side)
        for _ in range(int(rng.integers(2, 7))):
            angle += rng.normal(0, 1.0)
            end = point + rng.uniform(0.05, 0.2) * side * np.array([np.cos(angle), np.sin(angle)])
            start, stop = (np.round(p).astype(int).tolist() for p in (point, end))
            cv2.line(mask, start, stop, 1, thick)
            cv2.circle(mask, stop, thick // 2, 1, -1)
            point = end


def _scratches(mask: NDArray[np.uint8], rng: Rng) -> None:
    """What hands do to a print."""
    lost = damage_print(np.zeros((*mask.shape, 3), np.float32), rng)[1]
    mask[cv2.dilate(lost.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0] = 1


HOLES: Mapping[str, Callable[[NDArray[np.uint8], np.random.Generator], None]] = {
    "eye": _eye,
    "eyes": _eyes,
    "nose": _nose,
    "mouth": _mouth,
    "lower": _lower,
    "half": _half,
    "glasses": _glasses,
    "box": _anywhere,
    "strokes": _strokes,
    "scratches": _scratches,
}
