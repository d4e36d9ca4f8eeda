"""Figures of recognition results: DET, ROC, error versus discard, reliability, drawn with Pillow and written as PNG.

Every figure function takes {legend: result} and returns an (H, W, 3) uint8 RGB picture; `save_figure` writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.special import ndtri

from ..errors import UsageError
from ..io.image import save_rgb

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import ArrayLike, NDArray

    from .calibration import ReliabilityDiagram
    from .discard import DiscardCurve
    from .verification import Roc

    Floats = NDArray[np.float64]

WIDTH, HEIGHT = 760, 600
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 48, 64
FINER = 2  # drawn this much larger and reduced, for smooth lines
NEARLY_ZERO = 1e-12  # where logarithms and normal deviates would be infinite
PAPER, INK, GRID = (255, 255, 255), (40, 40, 44), (222, 222, 226)
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


def _even(values: Floats) -> Floats:
    return values


def _decades(values: Floats) -> Floats:
    return np.asarray(np.log10(np.maximum(values, NEARLY_ZERO)))


def _deviates(values: Floats) -> Floats:
    return np.asarray(ndtri(np.clip(values, NEARLY_ZERO, 1 - NEARLY_ZERO)))


@dataclass(frozen=True, slots=True)
class Axis:
    """Values between `low` and `high` along one side; `scale` maps them to equal steps, `ticks` carry labels."""

    label: str
    low: float
    high: float
    ticks: Mapping[float, str]
    scale: Callable[[Floats], Floats] = _even

    def position(self, values: ArrayLike) -> Floats:
        """Values as shares of the axis, 0 at `low` and 1 at `high`."""
        low, high = self.scale(np.array([self.low, self.high]))
        return np.asarray((self.scale(np.asarray(values, np.float64)) - low) / (high - low))


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
    x, y = (Axis(label, lowest, 0.6, ticks, _deviates) for label in ("False accept rate", "False reject rate"))
    return draw({name: Curve(r.far, r.frr) for name, r in rocs.items()}, x, y, title=title)


def roc_figure(rocs: Mapping[str, Roc], *, lowest: float = 1e-4, title: str = "") -> NDArray[np.uint8]:
    """ROC curves, TAR over FAR on a logarithmic axis from `lowest` to 1."""
    decades = 10.0 ** np.arange(np.ceil(np.log10(lowest) - 1e-9), 1)
    x = Axis("False accept rate", lowest, 1, {rate: _percent(rate) for rate in decades.tolist()}, _decades)
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
    sheet = Image.new("RGB", (WIDTH * FINER, HEIGHT * FINER), PAPER)
    pen = ImageDraw.Draw(sheet)
    _draw_grid(pen, x, y)
    if diagonal:
        pen.line(_pixels([0, 1], [0, 1]), fill=(160, 160, 166), width=2 * FINER)
    _draw_curves(sheet, curves.values(), x, y)
    pen.rectangle(_pixels([0, 1], [1, 0]), outline=INK, width=FINER)
    pen.text((WIDTH * FINER / 2, TOP * FINER / 2), title, INK, _font(17), anchor="mm")
    pen.text(((LEFT + WIDTH - RIGHT) * FINER / 2, (HEIGHT - 18) * FINER), x.label, INK, _font(15), anchor="mm")
    _draw_upwards(sheet, y.label)
    _draw_legend(pen, list(curves), _emptiest_corner(curves.values(), x, y))
    return np.asarray(sheet.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS), np.uint8)


def _draw_grid(pen: ImageDraw.ImageDraw, x: Axis, y: Axis) -> None:
    for value, label in x.ticks.items():
        (place,) = x.position([value]).tolist()
        pen.line(_pixels([place, place], [0, 1]), fill=GRID, width=FINER)
        left, bottom = _pixels([place], [0])[0]
        pen.text((left, bottom + 8 * FINER), label, INK, _font(13), anchor="mt")
    for value, label in y.ticks.items():
        (place,) = y.position([value]).tolist()
        pen.line(_pixels([0, 1], [place, place]), fill=GRID, width=FINER)
        left, bottom = _pixels([0], [place])[0]
        pen.text((left - 8 * FINER, bottom), label, INK, _font(13), anchor="rm")


def _draw_curves(sheet: Image.Image, curves: Iterable[Curve], x: Axis, y: Axis) -> None:
    layer = sheet.copy()
    pen = ImageDraw.Draw(layer)
    for curve, colour in zip(curves, COLOURS):
        across, up = x.position(curve.x), y.position(curve.y)
        if curve.dots:
            for point in _pixels(across, up):
                pen.circle(point, 4 * FINER, fill=colour)
        if curve.steps:
            across, up = np.repeat(across, 2)[1:], np.repeat(up, 2)[:-1]
        pen.line(_pixels(across, up), fill=colour, width=2 * FINER, joint="curve")
    frame = (LEFT * FINER, TOP * FINER, (WIDTH - RIGHT) * FINER, (HEIGHT - BOTTOM) * FINER)
    sheet.paste(layer.crop(frame), frame)


def _draw_upwards(sheet: Image.Image, label: str) -> None:
    height = 24 * FINER
    strip = Image.new("RGB", ((HEIGHT - TOP - BOTTOM) * FINER, height), PAPER)
    ImageDraw.Draw(strip).text((strip.width / 2, height / 2), label, INK, _font(15), anchor="mm")
    sheet.paste(strip.transpose(Image.Transpose.ROTATE_90), (4 * FINER, TOP * FINER))


def _draw_legend(pen: ImageDraw.ImageDraw, names: list[str], corner: tuple[bool, bool]) -> None:
    font, line, swatch, margin = _font(13), 20 * FINER, 26 * FINER, 10 * FINER
    width = swatch + margin * 3 + max(pen.textlength(name, font) for name in names)
    height = line * len(names) + margin
    (left, bottom), (right, top) = _pixels([0, 1], [0, 1])
    x0 = right - margin - width if corner[0] else left + margin
    y0 = top + margin if corner[1] else bottom - margin - height
    pen.rectangle((x0, y0, x0 + width, y0 + height), fill=PAPER, outline=GRID, width=FINER)
    for row, (name, colour) in enumerate(zip(names, COLOURS)):
        middle = y0 + margin / 2 + line * (row + 0.5)
        pen.line((x0 + margin, middle, x0 + margin + swatch, middle), fill=colour, width=3 * FINER)
        pen.text((x0 + 2 * margin + swatch, middle), name, INK, font, anchor="lm")


def _emptiest_corner(curves: Iterable[Curve], x: Axis, y: Axis) -> tuple[bool, bool]:
    """(right?, top?) of the quarter with the least of the curves in it."""
    across = np.linspace(0, 1, 100)
    up = np.stack([np.interp(across, x.position(c.x), y.position(c.y)) for c in curves])
    corners = [(True, False), (False, False), (True, True), (False, True)]
    return min(corners, key=lambda c: int((((across > 0.5) == c[0]) & ((up > 0.5) == c[1])).sum()))


def _pixels(across: ArrayLike, up: ArrayLike) -> list[tuple[float, float]]:
    """Places on the enlarged sheet of points given as shares of both axes."""
    left = LEFT + np.asarray(across, np.float64) * (WIDTH - LEFT - RIGHT)
    top = HEIGHT - BOTTOM - np.asarray(up, np.float64) * (HEIGHT - TOP - BOTTOM)
    return [(float(a), float(b)) for a, b in zip(left * FINER, top * FINER)]


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


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size * FINER)
