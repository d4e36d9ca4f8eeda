"""Simulated presentation attacks: one camera for all, instruments by their physics, the same seed the same picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from facewright.degrade import presentation as sim
from facewright.errors import UsageError

POINTS = np.array([[85.0, 100.0], [155.0, 100.0], [120.0, 140.0], [92.0, 175.0], [148.0, 175.0]])


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[0:240, 100:340])


@pytest.fixture(scope="module")
def kit() -> sim.Kit:
    return sim.Kit.draw(0, 3)


@pytest.mark.parametrize("species", sim.SPECIES)
def test_every_species_comes_out_of_a_camera(photo: np.ndarray, kit: sim.Kit, species: sim.Species) -> None:
    shown = sim.present(photo, POINTS, species, kit, 80, 1)
    assert shown.image.shape == (80, 80, 3)
    assert shown.image.dtype == np.uint8
    assert np.array_equal(shown.image, sim.present(photo, POINTS, species, kit, 80, 1).image)
    assert not np.array_equal(shown.image, sim.present(photo, POINTS, species, kit, 80, 2).image)
    assert (shown.instrument == -1) == (species == "live")
    assert bool(shown.seen) == (species != "live")


def test_brightness_does_not_tell_attacks(photo: np.ndarray, kit: sim.Kit) -> None:
    means = {
        species: np.mean([sim.present(photo, POINTS, species, kit, 40, seed).image.mean() for seed in range(24)])
        for species in ("live", "print", "replay")
    }
    assert max(means.values()) - min(means.values()) < 20


def test_linear_light_there_and_back() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    back = np.rint(sim.to_srgb(sim.to_linear(grey)) * 255).astype(np.uint8)
    assert np.array_equal(back, grey)
    assert float(sim.to_linear(np.array([[128]], np.uint8))[0, 0]) == pytest.approx(0.2159, abs=1e-3)


def test_a_perfect_camera_keeps_a_grey_card() -> None:
    camera = sim.Camera(0.4, 0.0, 0.0, (1.0, 1.0), 0.0, 98, 1)
    grey = np.full((120, 120, 3), 0.2159, np.float32)
    taken = camera.capture(grey, 40, np.random.default_rng(0))
    assert np.abs(taken.astype(int) - 128).max() <= 1


def test_noise_of_the_sensor_grows_with_light() -> None:
    noisy = sim.Camera(0.4, 3e-3, 1e-6, (1.0, 1.0), 0.0, 98, 1)
    light = np.concatenate([np.full((80, 160, 3), 0.02), np.full((80, 160, 3), 0.5)]).astype(np.float32)
    taken = sim.to_linear(noisy.capture(light, 160, np.random.default_rng(0)))
    assert taken[90:150, 10:150].std() > 2 * taken[10:70, 10:150].std()


def test_prints_have_neither_black_nor_white_nor_full_colour() -> None:
    printer = sim.Printer(0.001, 0.2, (0.9, 0.88, 0.85), 0.04, 0.0, 0.0, 0.8)
    card = np.zeros((64, 64, 3), np.float32)
    card[:, 32:] = 1.0
    sheet = printer.show(card, np.random.default_rng(0))
    assert float(sheet[:, :30].min()) >= 0.04
    np.testing.assert_allclose(sheet[10, 50], 0.04 + 0.96 * np.array([0.9, 0.88, 0.85]), rtol=1e-3)
    red = np.zeros((64, 64, 3), np.float32)
    red[..., 0] = 0.5
    shown = printer.show(red, np.random.default_rng(0)).mean((0, 1))
    assert shown[0] > shown[1] > 0  # still red, but less so than the scene
    assert shown[0] / shown[1] < 20


def test_dots_are_drawn_only_where_they_can_be_resolved() -> None:
    grey = np.full((128, 128, 3), 0.3, np.float32)
    fine = sim.Printer(0.005, 0.15, (0.9, 0.9, 0.9), 0.03, 0.0, 0.0, 0.9)
    coarse = replace(fine, pitch=0.06)
    flat, dotted = (printer.show(grey, np.random.default_rng(0)) for printer in (fine, coarse))
    assert float(flat.std((0, 1)).max()) < 1e-4
    assert float(dotted.std((0, 1)).min()) > 0.03
    assert abs(float(flat.mean() - dotted.mean())) < 0.1


def test_stripes_of_a_screen_average_to_white() -> None:
    screen = sim.Screen(0.05, 0.002, 1.0, (1.0, 1.0), 0.0, 0.0, 0.05)
    white = np.full((120, 120, 3), 0.5, np.float32)
    lit = screen.show(white, np.random.default_rng(0))
    np.testing.assert_allclose(lit.mean((0, 1)), 0.502, atol=0.01)
    assert float(lit.std()) > 0.1
    unresolved = replace(screen, pitch=0.004).show(white, np.random.default_rng(0))
    assert float(unresolved.std((0, 1)).max()) < 1e-4


def test_kits_share_no_instance() -> None:
    first, second = sim.Kit.draw(0, 8), sim.Kit.draw(1, 8)
    assert first == sim.Kit.draw(0, 8)
    for name in ("cameras", "printers", "screens", "materials"):
        assert not set(getattr(first, name)) & set(getattr(second, name))


def test_refusals(photo: np.ndarray, kit: sim.Kit) -> None:
    with pytest.raises(UsageError, match="no attack is called 'hologram'"):
        sim.present(photo, POINTS, "hologram", kit, 80, 0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="square photos"):
        sim.present(photo[:100], POINTS, "print", kit, 40, 0)
