"""Figures: curves lie where their numbers say, on the right scales, and are written as PNG."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from scipy.special import ndtri

from facewright.errors import MissingDependencyError, OutputError, UsageError
from facewright.metrics import curves
from facewright.metrics.calibration import reliability
from facewright.metrics.curves import (
    BOTTOM,
    COLOURS,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Curve,
    det_figure,
    discard_figure,
    draw,
    reliability_figure,
    roc_figure,
    save_figure,
)
from facewright.metrics.discard import DiscardCurve
from facewright.metrics.verification import Roc, roc

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("matplotlib", reason="figures are drawn by matplotlib")

UNIT = Axis("share", 0, 1, {0: "0", 1: "1"})


def of_colour(figure: np.ndarray, index: int) -> np.ndarray:
    """(H, W) where a picture has about the colour of that curve."""
    return np.abs(figure.astype(int) - COLOURS[index]).sum(-1) < 60


def inside(figure: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of both axes of the pixels of that colour."""
    rows, columns = np.nonzero(of_colour(figure, index))
    return (columns - LEFT) / (WIDTH - LEFT - RIGHT), (HEIGHT - BOTTOM - rows) / (HEIGHT - TOP - BOTTOM)


def normal_roc(shift: float) -> Roc:
    quantiles = ndtri((np.arange(5000) + 0.5) / 5000)
    return roc(np.concatenate([quantiles + shift, quantiles]), np.repeat([True, False], 5000))


def test_a_straight_curve_is_drawn_where_it_lies() -> None:
    figure = draw({"half": Curve(np.array([0.0, 1.0]), np.array([0.5, 0.75]))}, UNIT, UNIT)
    assert figure.shape == (HEIGHT, WIDTH, 3)
    assert figure.dtype == np.uint8
    across, up = inside(figure, 0)
    line = up < 0.85  # the legend is above
    assert np.abs(up - (0.5 + 0.25 * across))[line].max() < 0.012
    assert (across[line].min(), across[line].max()) == (pytest.approx(0, abs=0.01), pytest.approx(1, abs=0.01))


def test_steps_hold_the_last_value() -> None:
    curve = Curve(np.array([0.0, 0.5, 1.0]), np.array([0.9, 0.6, 0.6]), steps=True)
    across, up = inside(draw({"steps": curve}, UNIT, UNIT), 0)
    assert np.abs(up[across < 0.48] - 0.9).max() < 0.012
    assert np.abs(up[(across > 0.52) & (up < 0.85)] - 0.6).max() < 0.012  # the legend is above


def test_nothing_is_drawn_beyond_the_frame() -> None:
    across, up = inside(draw({"far": Curve(np.array([-5.0, 5.0]), np.array([-5.0, 5.0]))}, UNIT, UNIT), 0)
    assert across.min() > -0.01
    assert across.max() < 1.01
    assert up.min() > -0.01
    assert up.max() < 1.01


def test_normal_scores_give_straight_det_lines() -> None:
    """Shift d: the deviates of FAR and FRR add up to −d."""
    figure = det_figure({"d = 3": normal_roc(3)}, lowest=1e-3)
    across, up = inside(figure, 0)
    low, high = ndtri(1e-3), ndtri(0.6)
    far, frr = (low + share * (high - low) for share in (across, up))
    on_line = np.abs(far + frr + 3) < 0.12
    assert on_line.sum() > 300
    legend = (across > 0.6) & (up > 0.6)
    assert np.all(on_line | legend)


def test_roc_axis_is_logarithmic() -> None:
    """TAR jumps from 0.2 to 0.8 at a FAR of 1 %: the middle of an axis from 10⁻⁴ to 1."""
    curve = Roc(np.array([3.0, 2.0, 1.0]), np.array([0, 0.01, 1.0]), np.array([0.2, 0.8, 0.8]))
    across, up = inside(roc_figure({"jump": curve}), 0)
    assert np.abs(up[(across > 0.52) & (up > 0.6) & (up < 0.9)] - 0.8).max() < 0.012
    assert np.median(across[(up > 0.4) & (up < 0.79)]) < 0.5


def test_discard_figure_fits_its_error_and_ends_where_asked() -> None:
    steps = DiscardCurve(np.array([0, 0.1, 0.2, 0.9]), np.array([0.04, 0.03, 0.01, 0.0]), "previous")
    across, up = inside(discard_figure({"quality": steps}, max_discard=0.4), 0)
    left = (across < 0.2) & (up > 0.9)
    assert np.median(up[left]) == pytest.approx(1 / 1.05, abs=0.01)
    last = (across > 0.6) & (across < 0.95) & (up < 0.4)
    assert np.median(up[last]) == pytest.approx(0.25 / 1.05, abs=0.01)


def test_reliability_has_dots_on_its_points() -> None:
    diagram = reliability([0.2, 0.2, 0.8, 0.8], [False, True, True, True], bins=2)
    found = of_colour(reliability_figure({"toy": diagram}), 0)
    for stated, observed in ((0.2, 0.5), (0.8, 1.0)):
        column = round(LEFT + stated * (WIDTH - LEFT - RIGHT))
        row = round(HEIGHT - BOTTOM - observed * (HEIGHT - TOP - BOTTOM))
        assert found[row + 1 : row + 3, column - 1 : column + 2].all()


def test_every_curve_has_its_colour_and_its_legend() -> None:
    lines = {f"curve {i}": Curve(np.array([0.0, 1.0]), np.full(2, 0.1 + 0.1 * i)) for i in range(8)}
    figure = draw(lines, UNIT, UNIT)
    for i in range(8):
        _, up = inside(figure, i)
        assert (np.abs(up - (0.1 + 0.1 * i)) < 0.01).sum() > 300
    longer = draw({f"{name} of a longer name": line for name, line in lines.items()}, UNIT, UNIT)
    assert not np.array_equal(longer, figure)
    with pytest.raises(UsageError, match="1 to 8 curves, not 9"):
        draw(lines | {"ninth": lines["curve 0"]}, UNIT, UNIT)
    with pytest.raises(UsageError, match="not 0"):
        roc_figure({})


def test_ticks_titles_and_labels_are_written() -> None:
    curve = {"one": Curve(np.array([0.0, 1.0]), np.array([0.0, 1.0]))}
    bare = Axis("", 0, 1, {})
    plain = draw(curve, bare, bare)
    margins = {
        "title": (np.s_[: TOP - 4], draw(curve, bare, bare, title="Title")),
        "x": (np.s_[HEIGHT - BOTTOM + 4 :], draw(curve, Axis("x", 0, 1, {0.5: "half"}), bare)),
        "y": (np.s_[:, : LEFT - 4], draw(curve, bare, Axis("y", 0, 1, {0.5: "half"}))),
    }
    for place, figure in margins.values():
        assert (plain[place] > 250).all()  # type: ignore[call-overload]
        assert (figure[place] < 120).any()  # type: ignore[call-overload]


def test_ticks_are_round_and_not_too_many() -> None:
    for high in (1.0, 0.3, 0.05, 0.0123, 0.42, 0.97):
        ticks = list(curves._shares("", high).ticks)
        assert 4 <= len(ticks) <= 11
        assert ticks[-1] <= high * (1 + 1e-6)
    assert list(curves._shares("", 1.0).ticks.values())[:3] == ["0 %", "10 %", "20 %"]


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'facewright\[plots\]'"):
        roc_figure({"a": normal_roc(1)})


def test_figures_are_written_as_png(tmp_path: Path) -> None:
    figure = det_figure({"a": normal_roc(2), "b": normal_roc(3)}, title="Two recognisers")
    target = save_figure(figure, tmp_path / "det.png")
    with Image.open(target) as written:
        assert written.format == "PNG"
        assert np.array_equal(np.asarray(written.convert("RGB")), figure)
    with pytest.raises(OutputError):
        save_figure(figure, target)
    with pytest.raises(UsageError, match=r"ends in \.png"):
        save_figure(figure, tmp_path / "det.jpg")
