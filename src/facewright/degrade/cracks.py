"""What hands do to a print: folds, cracks, scratches, spots, torn edges; with the truth about where.

A mark destroys the picture below it, so that only its place is of use to who mends it. Stains and fading, which let
the picture through, are `facewright.degrade.ageing`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Rng = np.random.Generator

_SHIFT = 4  # OpenCV's fixed-point bits of a pixel
_COVERED = 0.35  # of a mark's opacity from which what is below counts as lost


def damage_print(image: Floats, rng: Rng) -> tuple[Floats, NDArray[np.bool_]]:
    """A damaged copy of an (H, W, 3) float RGB picture in [0, 1], and the (H, W) places where it is lost.

    One to four kinds of damage are drawn, of random number and size; the scale follows the picture's shorter side.
    """
    kinds = [_folds, _cracks, _scratches, _spots, _torn_edges, _peeled]
    chosen = rng.choice(len(kinds), int(rng.integers(1, 5)), replace=False)
    out, lost = image.copy(), np.zeros(image.shape[:2], bool)
    for kind in sorted(chosen):
        make: Callable[[tuple[int, int], Rng], tuple[Floats, float, float]] = kinds[kind]
        opacity, tone, texture = make((image.shape[0], image.shape[1]), rng)
        paper = tone + texture * cv2.GaussianBlur(rng.standard_normal(image.shape[:2]).astype(np.float32), (0, 0), 1.2)
        paper = np.clip(paper[..., None] * _paper_colour(rng), 0, 1)
        out = out + opacity[..., None] * (paper - out)
        lost |= opacity > _COVERED
    return out.astype(np.float32), lost


def _paper_colour(rng: Rng) -> Floats:
    """White, or the yellow of old paper."""
    yellow = rng.uniform(0, 0.15) if rng.random() < 0.5 else 0.0
    return np.array([1.0, 1 - 0.4 * yellow, 1 - yellow], np.float32)


def _tone(rng: Rng, *, dark: float = 0.2) -> float:
    return float(rng.uniform(0.02, 0.2) if rng.random() < dark else rng.uniform(0.75, 1.0))


def _line(mask: NDArray[np.uint8], points: NDArray[np.floating], thickness: int, value: int) -> None:
    fixed = np.round(np.asarray(points) * 2**_SHIFT).astype(np.int32)
    cv2.polylines(mask, [fixed], False, value, thickness, cv2.LINE_AA, _SHIFT)


def _as_opacity(mask: NDArray[np.uint8], blur: float) -> Floats:
    soft = cv2.GaussianBlur(mask, (0, 0), blur) if blur > 0.2 else mask
    return np.asarray(soft / np.float32(255), np.float32)


def _walk(rng: Rng, start: NDArray[np.floating], angle: float, step: float, count: int, bend: float) -> Floats:
    """A path that wanders: its direction changes by `bend` radians a step."""
    angles = angle + np.cumsum(rng.normal(0, bend, count))
    steps = step * np.stack([np.cos(angles), np.sin(angles)], 1)
    return np.asarray(np.vstack([start, start + np.cumsum(steps, 0)]), np.float32)


def _folds(shape: tuple[int, int], rng: Rng) -> tuple[Floats, float, float]:
    """Long creases from edge to edge, broken here and there."""
    mask, side = np.zeros(shape, np.uint8), min(shape)
    for _ in range(int(rng.integers(1, 4))):
        angle = rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.25)
        middle = rng.uniform(0.1, 0.9, 2) * shape[::-1]
        half = 1.5 * max(shape) * np.array([np.cos(angle), np.sin(angle)])
        path = np.linspace(middle - half, middle + half, 60) + rng.normal(0, 0.002 * side, (60, 2)).cumsum(0)
        start = 0
        while start < 58:
            stop = start + int(rng.integers(4, 30))
            if rng.random() < 0.8:
                _line(mask, path[start : stop + 1], _thickness(rng, side, 0.002, 0.01), int(rng.integers(150, 256)))
            start = stop
    return _as_opacity(mask, rng.uniform(0, 0.8)), _tone(rng, dark=0.1), 0.05


def _thickness(rng: Rng, side: int, low: float, high: float) -> int:
    return max(1, round(side * float(np.exp(rng.uniform(np.log(low), np.log(high))))))


def _cracks(shape: tuple[int, int], rng: Rng) -> tuple[Floats, float, float]:
    """Branching lines, as emulsion breaks."""
    mask, side = np.zeros(shape, np.uint8), min(shape)
    for _ in range(int(rng.integers(1, 7))):
        start = rng.uniform(0, 1, 2) * shape[::-1]
        if rng.random() < 0.6:  # most begin at an edge
            axis = int(rng.integers(2))
            start[axis] = rng.choice([0, shape[1 - axis]])
        branches = [(start, rng.uniform(0, 2 * np.pi), int(rng.integers(15, 60)), _thickness(rng, side, 0.002, 0.012))]
        while branches:
            origin, angle, count, thickness = branches.pop()
            path = _walk(rng, origin, angle, 0.012 * side, count, 0.35)
            _line(mask, path, thickness, int(rng.integers(180, 256)))
            if thickness > 1 and len(branches) < 6:
                at = int(rng.integers(len(path)))
                branches += [
                    (path[at], angle + rng.choice([-1, 1]) * rng.uniform(0.4, 1.2), count // 2, thickness // 2)
                ]
    return _as_opacity(mask, rng.uniform(0, 0.7)), _tone(rng, dark=0.15), 0.06


def _scratches(shape: tuple[int, int], rng: Rng) -> tuple[Floats, float, float]:
    """Thin, nearly straight lines, many in one direction."""
    mask, side = np.zeros(shape, np.uint8), min(shape)
    common = rng.uniform(0, np.pi)
    for _ in range(int(rng.integers(2, 25))):
        angle = common + rng.normal(0, 0.1) if rng.random() < 0.7 else rng.uniform(0, np.pi)
        count = int(rng.integers(4, 40))
        path = _walk(rng, rng.uniform(-0.1, 1.1, 2) * shape[::-1], angle, 0.02 * side, count, 0.03)
        _line(mask, path, _thickness(rng, side, 0.0015, 0.004), int(rng.integers(110, 256)))
    return _as_opacity(mask, rng.uniform(0, 0.5)), _tone(rng), 0.0


def _spots(shape: tuple[int, int], rng: Rng) -> tuple[Floats, float, float]:
    """Specks and blots with ragged edges."""
    mask, side = np.zeros(shape, np.uint8), min(shape)
    for _ in range(int(rng.integers(5, 60))):
        radius = side * float(np.exp(rng.uniform(np.log(0.002), np.log(0.02))))
        turns = np.linspace(0, 2 * np.pi, 13)[:-1]
        reach = radius * rng.uniform(0.5, 1.4, 12)
        points = rng.uniform(0, 1, 2) * shape[::-1] + reach[:, None] * np.stack([np.cos(turns), np.sin(turns)], 1)
        cv2.fillPoly(
            mask, [np.round(points * 2**_SHIFT).astype(np.int32)], int(rng.integers(150, 256)), cv2.LINE_AA, _SHIFT
        )
    return _as_opacity(mask, rng.uniform(0, 0.8)), _tone(rng, dark=0.4), 0.03


def _torn_edges(shape: tuple[int, int], rng: Rng) -> tuple[Floats, float, float]:
    """Corners and edges that are gone, down to the paper or to what lies below the print."""
    mask, side = np.zeros(shape, np.uint8), min(shape)
    height, width = shape
    for _ in range(int(rng.integers(1, 4))):
        corner = np.array([rng.choice([0, width]), rng.choice([0, height])], np.float64)
        inward = np.where(corner > 0, -1, 1)
        a, b = side * rng.uniform(0.04, 0.3, 2)
        ends = corner + np.diag(inward * (a, b))
        edge = np.linspace(ends[0], ends[1], 24) + rng.normal(0, 0.008 * side, (24, 2))
        cv2.fillPoly(mask, [np.round(np.vstack([corner, edge])).astype(np.int32)], 255, cv2.LINE_AA)
    return _as_opacity(mask, 0), _tone(rng, dark=0.3), 0.03


def _peeled(shape: tuple[int, int], rng: Rng) -> tuple[Floats, float, float]:
    """Patches where the picture has come off."""
    low = rng.standard_normal((max(3, shape[0] // 24), max(3, shape[1] // 24))).astype(np.float32)
    field = cv2.resize(low, shape[::-1], interpolation=cv2.INTER_CUBIC)
    field = field + 1.25 * cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), 1.5)
    level = np.quantile(field, 1 - rng.uniform(0.002, 0.03))
    mask = (field > level).astype(np.uint8) * 255
    return _as_opacity(mask, 0.6), _tone(rng, dark=0.1), 0.05
