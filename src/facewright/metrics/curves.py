"""Figures of recognition results: DET, ROC, error versus discard, reliability, drawn by matplotlib and written as PNG.

Every figure function takes {legend: result} and returns an (H, W, 3) uint8 RGB picture; `save_figure` writes it. They
need matplotlib: `pip install 'facewright[plots]'`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.special import ndtr, ndtri

from ..errors import MissingDependencyError, UsageError
from ..io.image import save_rgb

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from .calibration import ReliabilityDiagram
    from .discard import DiscardCurve
    from .verification import Roc

    Floats = NDArray[np.float64]

WIDTH, HEIGHT = 760, 600
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 48, 64
COLOURS = (  # Okabe and Ito: distinct for colour-blind eyes too
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (230, 159, 0),
    (0, 0, 0),
    (148, 120, 60),
)
_DPI = 100
_NEARLY_ZERO = 1e-12  # where logarithms and normal deviates would be infinite

Scale = Literal["linear", "log", "deviate"]


@dataclass(frozen=True, slots=True)
class Axis:
    """Values between `low` and `high` along one side; `ticks` carry labels. `deviate` is the scale of DET curves."""

    label: str
    low: float
    high: float
    ticks: Mapping[float, str]
    scale: Scale = "linear"


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A line through (x, y), in steps that hold the last value or straight, with or without dots."""

    x: Floats
    y: Floats
    steps: bool = False
    dots: bool = False


def det_figure(rocs: Mapping[str, Roc], *, lowest: float = 1e-4, title: str = "") -> NDArray[np.uint8]:
    """DET curves on normal-deviate axes (Martin et al. 1997): normally distributed scores give straight lines."""
    rates = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.2, 0.4, 0.6)
    ticks = {rate: _percent(rate) for rate in rates if rate >= lowest}
    x, y = (Axis(label, lowest, 0.6, ticks, "deviate") for label in ("False accept rate", "False reject rate"))
    return draw({name: Curve(r.far, r.frr) for name, r in rocs.items()}, x, y, title=title)


def roc_figure(rocs: Mapping[str, Roc], *, lowest: float = 1e-4, title: str = "") -> NDArray[np.uint8]:
    """ROC curves, TAR over FAR on a logarithmic axis from `lowest` to 1."""
    decades = 10.0 ** np.arange(np.ceil(np.log10(lowest) - 1e-9), 1)
    x = Axis("False accept rate", lowest, 1, {rate: _percent(rate) for rate in decades.tolist()}, "log")
    return draw({name: Curve(r.far, r.tar) for name, r in rocs.items()}, x, _shares("True accept rate"), title=title)


def discard_figure(
    curves: Mapping[str, DiscardCurve], *, max_discard: float = 1.0, title: str = ""
) -> NDArray[np.uint8]:
    """Error-versus-discard curves up to `max_discard`; the height fits the largest error in that range."""
    top = max((float(c.fnmr[c.discard <= max_discard].max()) for c in curves.values()), default=0.0)
    x = _shares("Share of pairs discarded", max_discard)
    y = _shares("False non-match rate", 1.05 * top or 1.0)
    drawn = {name: _until(c, max_discard) for name, c in curves.items()}
    return draw(drawn, x, y, title=title)


def reliability_figure(diagrams: Mapping[str, ReliabilityDiagram], *, title: str = "") -> NDArray[np.uint8]:
    """Observed frequency over stated probability; the grey diagonal is perfect calibration."""
    curves = {f"{name} (ECE {_percent(d.ece)})": Curve(d.stated, d.observed, dots=True) for name, d in diagrams.items()}
    axes = _shares("Stated probability"), _shares("Observed frequency")
    return draw(curves, *axes, title=title, diagonal=True)


def save_figure(figure: NDArray[np.uint8], path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a figure; raises UsageError unless the name ends in .png, OutputError when it cannot be written."""
    if Path(path).suffix.lower() != ".png":
        raise UsageError(f"{path}: figures are written as PNG, so give a name that ends in .png")
    return save_rgb(figure, path, overwrite=overwrite)


def draw(
    curves: Mapping[str, Curve], x: Axis, y: Axis, *, title: str = "", diagonal: bool = False
) -> NDArray[np.uint8]:
    """Curves with grid, axes, title and legend."""
    if not 0 < len(curves) <= len(COLOURS):
        raise UsageError(f"a figure can show 1 to {len(COLOURS)} curves, not {len(curves)}")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("figures need matplotlib: pip install 'facewright[plots]'") from error
    figure = Figure((WIDTH / _DPI, HEIGHT / _DPI), _DPI)
    canvas = FigureCanvasAgg(figure)
    frame = (LEFT / WIDTH, BOTTOM / HEIGHT, (WIDTH - LEFT - RIGHT) / WIDTH, (HEIGHT - TOP - BOTTOM) / HEIGHT)
    axes = figure.add_axes(frame)
    _scale(axes, x, y)
    axes.grid(color="0.88")
    axes.set(title=title, axisbelow=True)
    if diagonal:
        axes.plot([0, 1], [0, 1], color="0.65")
    for (name, curve), colour in zip(curves.items(), COLOURS):
        style: dict[str, Any] = {"drawstyle": "steps-post" if curve.steps else "default"}
        style |= {"marker": "o" if curve.dots else "", "color": tuple(c / 255 for c in colour), "linewidth": 2}
        axes.plot(_visible(curve.x, x), _visible(curve.y, y), label=name, **style)
    axes.legend(loc="best", framealpha=1)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.array(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


def _scale(axes: Any, x: Axis, y: Axis) -> None:
    for axis, side in ((x, "x"), (y, "y")):
        functions = {"functions": (_deviates, ndtr)} if axis.scale == "deviate" else {}
        getattr(axes, f"set_{side}scale")("function" if functions else axis.scale, **functions)
        getattr(axes, f"set_{side}lim")(axis.low, axis.high)
        getattr(axes, f"set_{side}label")(axis.label)
        getattr(axes, f"set_{side}ticks")(list(axis.ticks), list(axis.ticks.values()))
        getattr(axes, f"set_{side}ticks")([], minor=True)


def _visible(values: Floats, axis: Axis) -> Floats:
    """Values as an axis can show them: zero has no logarithm."""
    return np.maximum(values, _NEARLY_ZERO) if axis.scale == "log" else values


def _deviates(values: Any) -> Floats:
    return np.asarray(ndtri(np.clip(values, _NEARLY_ZERO, 1 - _NEARLY_ZERO)))


def _until(curve: DiscardCurve, end: float) -> Curve:
    kept = curve.discard <= end
    steps = curve.interpolation == "previous"
    x, y = curve.discard[kept], curve.fnmr[kept]
    if steps:
        x, y = np.append(x, end), np.append(y, y[-1])
    return Curve(x, y, steps=steps)


def _shares(label: str, high: float = 1.0) -> Axis:
    """An axis from 0 to `high` in percent with four to ten round ticks."""
    unit = 10.0 ** np.floor(np.log10(high))
    step = unit * next(part for part in (0.1, 0.2, 0.25, 0.5, 1) if high / (part * unit) <= 10)
    return Axis(label, 0, high, {tick: _percent(tick) for tick in np.arange(0, high * (1 + 1e-9), step).tolist()})


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"
