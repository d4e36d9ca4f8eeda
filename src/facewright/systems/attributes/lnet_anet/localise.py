"""From a response map to the windows of faces (section 3.1): scores of windows, a threshold, and peaks of density.

The paper takes its windows from EdgeBox; here they slide over the map, which is as good at this size. It divides a
window's response by its size. By the area every window inside a face would score alike and the smallest win; by the
side the window that just holds the response wins, and that is meant here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ....errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

LEAST_SIDE = 0.15
"""Share of the map's shorter side below which no window is tried: a tiny one on a peak would beat every face."""
SIZES = 12
_STEP = 0.1  # of a window's side between neighbouring windows


class Window(NamedTuple):
    """A square part of a map or picture in its pixels, right and lower edge exclusive, and its score."""

    x0: float
    y0: float
    x1: float
    y1: float
    score: float


def best_window(response: NDArray[np.floating], *, least: float = LEAST_SIDE) -> Window:
    """The square window of a response map (H, W) with the largest response for its side.

    Windows have sides from `least` of the map's shorter side to all of it.
    """
    height, width = response.shape
    sums = np.pad(np.asarray(response, np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    best = Window(0, 0, width, height, -np.inf)
    shorter = min(height, width)
    for side in np.unique(np.rint(np.geomspace(max(1, least * shorter), shorter, SIZES)).astype(int)):
        step = max(1, round(_STEP * side))
        ys, xs = np.arange(0, height - side + 1, step), np.arange(0, width - side + 1, step)
        totals = sums[ys + side][:, xs + side] - sums[ys][:, xs + side] - sums[ys + side][:, xs] + sums[ys][:, xs]
        row, column = np.unravel_index(int(totals.argmax()), totals.shape)
        score = float(totals[row, column]) / side
        if score > best.score:
            x, y = float(xs[column]), float(ys[row])
            best = Window(x, y, x + side, y + side, score)
    return best


def scaled(window: Window, x: float, y: float, left: float = 0.0, top: float = 0.0) -> Window:
    """A window of a map in the pixels of the picture it was made of: `x` and `y` pixels for each of the map's."""
    return Window(
        left + window.x0 * x, top + window.y0 * y, left + window.x1 * x, top + window.y1 * y, window.score
    )  # fmt: skip


def density_peaks(response: NDArray[np.floating], *, share: float = 0.5) -> list[tuple[int, int]]:
    """Rows and columns of the faces in a response map (H, W), the clearest first.

    A pixel i with density ρ (its response, of the largest) and distance σ to the nearest denser one (of the map's
    diagonal) is a face where d = √(ρ² + σ²) stands out; the densest pixel has the largest σ there is. Peaks whose ρ and
    σ are both small against the first one's are noise: those with less than `share` of its ρ, or nearer than a fifth of
    the diagonal to a denser one.
    """
    rho = np.asarray(response, np.float64)
    if rho.ndim != 2 or not np.isfinite(rho).all():
        raise UsageError(f"a response map is (H, W) of finite numbers, not {rho.shape}")
    if rho.max() <= 0:
        return []
    rho = rho / rho.max()
    ys, xs = (axis.ravel() for axis in np.mgrid[: rho.shape[0], : rho.shape[1]])
    flat = rho.ravel()
    order = np.argsort(-flat, kind="stable")
    diagonal = float(np.hypot(*rho.shape))
    sigma = np.ones(flat.size)
    for place, index in enumerate(order[1:], start=1):
        if flat[index] < share:
            break
        denser = order[:place]
        sigma[index] = np.hypot(ys[denser] - ys[index], xs[denser] - xs[index]).min() / diagonal
    peaks = [i for i in order if flat[i] >= share and sigma[i] >= _APART]
    peaks.sort(key=lambda i: -np.hypot(flat[i], sigma[i]))
    return [(int(ys[i]), int(xs[i])) for i in peaks]


_APART = 0.2


def fit_threshold(faces: ArrayLike, backgrounds: ArrayLike) -> float:
    """The score that best tells pictures with a face from those without: the fewest wrong, in the middle of the gap.

    The paper takes the boundary between the two modes of the scores of 2,000 pictures of each kind. Raises UsageError
    where one kind is missing.
    """
    with_face, without = np.sort(np.asarray(faces, np.float64)), np.sort(np.asarray(backgrounds, np.float64))
    if not len(with_face) or not len(without):
        raise UsageError("a threshold needs scores of pictures with and of pictures without faces")
    values = np.unique(np.concatenate([with_face, without]))
    missed = np.searchsorted(with_face, values) / len(with_face)
    found = 1 - np.searchsorted(without, values) / len(without)
    best = int(np.argmin(missed + found))
    return float((values[best] + values[max(best - 1, 0)]) / 2)
