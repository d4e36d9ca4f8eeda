"""Home-made forgeries: what they change, what they leave alone, and that real and forged pictures are stored alike."""

from __future__ import annotations

import numpy as np
import pytest

from facewright.degrade.forge import (
    Forgery,
    Storage,
    blend,
    change_map,
    look_alikes,
    morph,
    region_mask,
    resynthesise,
    self_blended,
    splice,
    stored,
    swap,
    transfer_colour,
    warp,
)
from facewright.degrade.forge.morph import control_points
from facewright.degrade.forge.regions import feathered, with_forehead
from facewright.degrade.forge.resynthesis import enlarge, redrawn
from facewright.errors import UsageError

SIDE = 128


def points(dx: float = 0.0, dy: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """68 landmarks of a plain face in a picture of 128 px."""
    angle = np.linspace(np.pi, 0, 17)
    contour = np.column_stack([64 + 40 * np.cos(angle), 58 + 50 * np.sin(angle)])
    brows = [(34 + 5 * i, 44 - (2 - abs(i - 2))) for i in range(5)] + [
        (74 + 5 * i, 44 - (2 - abs(i - 2))) for i in range(5)
    ]
    nose = [(64, 52 + 6 * i) for i in range(4)] + [(56 + 4 * i, 76) for i in range(5)]
    ring = [(-7, 0), (-3, -3), (3, -3), (7, 0), (3, 3), (-3, 3)]
    eyes = [(44 + x, 54 + y) for x, y in ring] + [(84 + x, 54 + y) for x, y in ring]
    around = np.linspace(0, 2 * np.pi, 13)[:12] + np.pi
    mouth = np.column_stack([64 + 14 * np.cos(around), 90 + 6 * np.sin(around)])
    inner = np.column_stack([64 + 9 * np.cos(around[:8] * 1.5), 90 + 3 * np.sin(around[:8] * 1.5)])
    all_points = np.concatenate([contour, brows, nose, eyes, mouth, inner])
    return np.asarray((all_points - 64) * scale + 64 + [dx, dy], np.float64)


@pytest.fixture
def pictures() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    base = rng.integers(60, 120, (SIDE, SIDE, 3)).astype(np.uint8)
    return base, np.asarray(255 - base, np.uint8)


def test_regions_cover_their_landmarks_and_stay_apart() -> None:
    p = points()
    shape = (SIDE, SIDE)
    left, right, mouth = (region_mask(p, name, shape) for name in ("left eye", "right eye", "mouth"))
    for mask, part in ((left, p[36:42]), (right, p[42:48]), (mouth, p[48:60])):
        xy = part.round().astype(int)
        assert mask[xy[:, 1], xy[:, 0]].all()
    assert not (left * right).any()
    assert not (left * mouth).any()
    assert left[54, 44] == 1
    assert left[54, 84] == 0
    assert region_mask(p, "face", shape).sum() > 2 * region_mask(p, "inner face", shape).sum() * 0.9
    with pytest.raises(UsageError, match="unknown region"):
        region_mask(p, "ear", shape)  # type: ignore[arg-type]


def test_the_forehead_lies_above_the_brows() -> None:
    p = points()
    added = with_forehead(p)[68:]
    assert added.shape == (8, 2)
    assert (added[:, 1] < p[17:27, 1].min()).all()


def test_feather_stays_inside_and_reaches_one() -> None:
    mask = np.zeros((40, 40), np.float32)
    mask[5:35, 5:35] = 1
    soft = feathered(mask, 6.0)
    assert (soft[mask == 0] == 0).all()
    assert soft[20, 20] == 1
    assert 0 < soft[5, 20] < soft[8, 20] < 1


def test_colours_of_the_target_are_taken_over(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    dark, light = pictures
    mask = np.ones((SIDE, SIDE), np.float32)
    moved = transfer_colour(light, dark, mask)
    assert abs(float(moved.mean()) - float(dark.mean())) < 3 < float(light.mean()) - float(dark.mean())
    assert transfer_colour(light, dark, 0 * mask) is light


@pytest.mark.parametrize("finish", ["feather", "poisson"])
def test_a_blend_changes_only_what_its_mask_says(finish: str, pictures: tuple[np.ndarray, np.ndarray]) -> None:
    dark, light = pictures
    mask = region_mask(points(), "mouth", (SIDE, SIDE))
    image, used = blend(dark, light, mask, finish)  # type: ignore[arg-type]
    assert (image[used == 0] == dark[used == 0]).all()
    assert np.abs(image.astype(int) - dark)[used > 0.9].mean() > 5
    assert used.max() <= 1
    assert (used[mask == 0] == 0).all()


def test_a_poisson_blend_of_nothing_is_the_target(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    image, used = blend(pictures[0], pictures[1], np.zeros((SIDE, SIDE), np.float32), "poisson")
    assert (image == pictures[0]).all()
    assert not used.any()


def test_warp_moves_landmarks_where_they_are_wanted() -> None:
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    picture[50:58, 40:48] = 255  # the eye on the left
    source, target = control_points(points(), (SIDE, SIDE)), control_points(points(dx=6, dy=4), (SIDE, SIDE))
    assert (warp(picture, source, source) == picture).mean() > 0.999
    moved = warp(picture, source, target)
    ys, xs = np.nonzero(moved[..., 0] > 127)
    assert abs(xs.mean() - 49.5) < 1.5
    assert abs(ys.mean() - 57.5) < 1.5


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75])
def test_a_whole_morph_of_flat_pictures_is_their_mixture(alpha: float) -> None:
    first, second = np.full((SIDE, SIDE, 3), 40, np.uint8), np.full((SIDE, SIDE, 3), 200, np.uint8)
    made = morph(first, points(), second, points(dx=5, scale=1.05), alpha=alpha, parents=("a", "b"))
    assert np.abs(made.image.astype(float) - (40 + 160 * alpha)).max() <= 1
    assert made.mask.min() == 1
    assert made.parents == ("a", "b")
    assert made.tool == "morph-whole"


@pytest.mark.parametrize("finish", ["hull-feather", "hull-poisson", "hull-colour"])
def test_a_pasted_morph_keeps_the_first_head_and_mixes_the_faces(
    finish: str, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    dark, light = pictures
    made = morph(dark, points(), light, points(), finish=finish)  # type: ignore[arg-type]
    assert (made.image[made.mask == 0] == dark[made.mask == 0]).all()
    assert made.mask[60:90, 50:80].min() > 0.9
    assert not made.mask[:8].any()
    assert made.image[60:90, 50:80].astype(int).std() < dark[60:90, 50:80].astype(int).std()


def test_a_morph_of_a_face_with_itself_is_the_face(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    made = morph(pictures[0], points(), pictures[0], points())
    assert np.abs(made.image.astype(int) - pictures[0]).max() <= 1


def test_what_a_morph_refuses(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    dark, light = pictures
    for wrong in (
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"finish": "painted"},
    ):
        with pytest.raises(UsageError):
            morph(dark, points(), light, points(), **wrong)
    with pytest.raises(UsageError, match="one size"):
        morph(dark, points(), light[:100], points())
    with pytest.raises(UsageError, match="68 landmarks"):
        morph(dark, points()[:5], light, points())
    with pytest.raises(UsageError, match="uint8"):
        morph(dark.astype(np.float32), points(), light, points())


def test_a_splice_puts_the_donors_part_where_the_targets_was(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    dark, light = pictures
    made = splice(dark, points(), light, points(dx=10, dy=-4), ["left eye"], colour=False)
    changed = np.abs(made.image.astype(int) - dark).max(2) > 0
    assert changed[54, 44]
    assert not changed[:, 64:].any()
    assert (made.image[made.mask == 0] == dark[made.mask == 0]).all()
    assert made.tool == "splice-feather"
    with pytest.raises(UsageError, match="at least one"):
        splice(dark, points(), light, points(), [])


def test_a_swap_is_the_donors_face_in_the_targets_head(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    dark, light = pictures
    made = swap(dark, points(), light, points(scale=0.95))
    assert (made.image[made.mask == 0] == dark[made.mask == 0]).all()
    assert abs(float(made.image.mean()) - float(dark.mean())) < 5  # in the target's colours


def test_look_alikes_are_other_people_most_alike_first() -> None:
    angles = np.radians([0, 5, 60, 70, 80, 170])
    embeddings = np.column_stack([np.cos(angles), np.sin(angles)])
    assert look_alikes(embeddings, 0, np.arange(6), 2).tolist() == [2, 3]  # row 1 is the same person


def test_self_blended_images_differ_only_under_their_mask(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    for seed in range(12):
        made = self_blended(pictures[0], points(), np.random.default_rng(seed))
        assert made.mask.min() >= 0
        assert made.mask.max() <= 1
        assert made.image.shape == pictures[0].shape
    again = self_blended(pictures[0], points(), np.random.default_rng(11))
    assert (again.image == made.image).all()


@pytest.mark.parametrize("how", ["transposed", "nearest", "shuffle", "bilinear"])
def test_up_samplers_keep_a_flat_picture_but_for_their_grid(how: str) -> None:
    flat = np.full((16, 16, 3), 100.0, np.float32)
    big = enlarge(flat, how, np.random.default_rng(0))  # type: ignore[arg-type]
    assert big.shape == (32, 32, 3)
    assert abs(float(big.mean()) - 100) < 8
    inner = big[4:-4, 4:-4]
    assert (inner[::2, ::2] == inner[0, 0]).all()  # the trace repeats every second pixel
    plain = float(np.abs(inner - inner.mean()).max())
    assert plain > 0.5 if how in ("transposed", "shuffle") else plain < 1e-3


def test_resynthesis_and_its_map(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    rng = np.random.default_rng(3)
    made = resynthesise(pictures[0], points(), ["mouth"], "nearest", rng)
    truth = change_map(pictures[0], made.image)
    assert (truth[made.mask == 0] == 0).all()
    assert truth.max() > 0
    shifted = pictures[0].copy()
    shifted[0, 0] += 1  # one level is what compression does
    assert not change_map(pictures[0], shifted).any()
    with pytest.raises(UsageError, match="multiples"):
        redrawn(pictures[0][:127], "nearest", rng)


def test_storage_knows_nothing_of_the_label() -> None:
    """The same storage of the same picture gives the same bytes; as defaults it gives the picture."""
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert (stored(picture, Storage()) == picture).all()
    how = Storage.drawn(np.random.default_rng(4))
    assert how == Storage.drawn(np.random.default_rng(4))
    assert (stored(picture, how) == stored(picture.copy(), how)).all()
    worn = stored(picture, Storage(reduction=2.0, quality=60))
    assert worn.shape == picture.shape
    assert worn.std() < picture.std()


def test_a_record_holds_what_it_was_made_of() -> None:
    made = Forgery(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32), "edited")
    assert made.parents == ()
