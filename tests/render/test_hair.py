"""Hair grows where it should, keeps off the face and head, and goes where it is combed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facewright.render import coarse_face
from facewright.render.accessories import CENTRE, hat_edge, head_of
from facewright.render.hair import BUN, STYLES, hairline, scalp_share, wear_hair

BROWN = (0.1, 0.05, 0.03)
GROWN = [name for name, style in STYLES.items() if style.strands]


@pytest.fixture(scope="module")
def head():
    return head_of(coarse_face())


def points_of(layers):
    return np.concatenate([layer.places[:, :3].numpy().astype(np.float64) for layer in layers])


def test_hairline_bounds_forehead_ears_and_nape():
    inside = np.array([[0, 13.5, 3], [0, 5, -8], [7.5, 7, 0], [0, 0, -7.5]], float)
    outside = np.array([[0, 9.5, 10], [0, 0, 12], [6, 0, 6], [0, -6, -6], [4, 3.5, 9]], float)
    assert (hairline(inside) > 0.5).all()
    assert (hairline(outside) < 0).all()
    forehead = np.array([[3.0, 11.3, 8.0]])
    assert hairline(forehead, 1.0) < hairline(forehead, 0.0) - 0.8


def test_scalp_is_painted_by_style():
    top, cheek = np.array([[0.0, 14.0, 0.0]]), np.array([[5.0, 0.0, 8.0]])
    assert scalp_share(top, "short", 0, 1) == pytest.approx(1)
    assert 0.5 < scalp_share(top, "buzz", 0, 1) < 0.9
    assert scalp_share(top, "bald", 0, 1) == 0
    assert scalp_share(cheek, "long", 0, 1) == 0


def test_bald_and_buzz_have_no_strands(head):
    assert wear_hair(head, "bald", BROWN) == []
    assert wear_hair(head, "buzz", BROWN) == []


@pytest.mark.parametrize("style", GROWN)
def test_strands_stay_off_the_head_and_the_face(head, style):
    layers = wear_hair(head, style, BROWN, seed=2)
    assert {layer.part for layer in layers} == {"hair"}
    ribbons = layers[-1].places[:, :3].numpy().astype(np.float64)
    offset = ribbons - CENTRE
    distance = np.linalg.norm(offset, axis=1)
    assert (distance - head.radius(offset / distance[:, None]) > -0.45).mean() > 0.95
    face = (ribbons[:, 2] > 7) & (np.abs(ribbons[:, 0]) < 4) & (ribbons[:, 1] < 7)
    assert face.mean() < 0.01


@pytest.mark.parametrize("style", ["curly", "afro"])
def test_a_mass_of_hair_ends_at_its_border(head, style):
    """What lies under the skin of the face would come through when lips or cheeks move."""
    mass = points_of(wear_hair(head, style, BROWN)[:1])
    assert hairline(mass).min() > -1.5
    layer = wear_hair(head, style, BROWN)[0]
    assert torch.equal(torch.unique(layer.triangles), torch.arange(len(layer.colour)))


def test_length_decides_how_far_hair_hangs(head):
    styles = ("short", "bob", "long")
    lowest = {name: np.quantile(points_of(wear_hair(head, name, BROWN))[:, 1], 0.02) for name in styles}
    assert lowest["long"] < lowest["bob"] - 3 < lowest["short"] - 6
    longer = np.quantile(points_of(wear_hair(head, "bob", BROWN, length=1.4))[:, 1], 0.02)
    assert longer < lowest["bob"] - 2


def test_a_bun_gathers_behind_and_an_afro_stands_off(head):
    bun = points_of(wear_hair(head, "bun", BROWN))
    assert (np.linalg.norm(bun - BUN, axis=1) < 4.5).mean() > 0.2
    afro = points_of(wear_hair(head, "afro", BROWN)[:1]) - CENTRE
    distance = np.linalg.norm(afro, axis=1)
    assert (distance - head.radius(afro / distance[:, None])).max() > 3


def test_a_fringe_comes_down_the_forehead(head):
    def on_forehead(fringe):
        points = points_of(wear_hair(head, "bob", BROWN, fringe=fringe, seed=1))
        return ((points[:, 2] > 7) & (np.abs(points[:, 0]) < 4) & (points[:, 1] < 9.5)).sum()

    assert on_forehead(True) > 200
    assert on_forehead(False) < 0.1 * on_forehead(True)


def test_a_hat_hides_what_is_below_it(head):
    bare, covered = (points_of(wear_hair(head, "long", BROWN, hat=hat)) for hat in ("none", "beanie"))
    offset = covered - CENTRE
    distance = np.linalg.norm(offset, axis=1)
    above = hat_edge("beanie", offset / distance[:, None]) > 0.1
    assert (distance - head.radius(offset / distance[:, None]))[above].max() < 0.9
    assert len(covered) <= len(bare)


def test_seed_and_colour(head):
    one, same, other = (wear_hair(head, "curly", BROWN, seed=seed) for seed in (1, 1, 2))
    for a, b in zip(one, same):
        assert torch.equal(a.places, b.places)
        assert torch.equal(a.colour, b.colour)
    assert not torch.equal(one[-1].places, other[-1].places)
    assert one[-1].colour.mean(0) == pytest.approx(np.array(BROWN), rel=0.25)
    spread = one[-1].colour[:, 0].std() / one[-1].colour[:, 0].mean()
    assert 0.08 < spread < 0.5
