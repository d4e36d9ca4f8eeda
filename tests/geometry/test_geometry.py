"""Templates, similarity fits, crops and pasting: exact geometry, and nothing changes outside the mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from facewright.errors import UsageError
from facewright.geometry.crop import align_matrix
from facewright.geometry.paste import face_mask, face_patch, paste_patch
from facewright.geometry.resample import crop_by_matrix, crop_face, recut
from facewright.geometry.similarity import fit_similarity, fit_similarity_robust, invert, scale_source, transform_points
from facewright.geometry.templates import TEMPLATES, template_points

if TYPE_CHECKING:
    from types import SimpleNamespace

FFHQ_512 = np.array(
    [
        (192.98138, 239.94708),
        (318.90277, 240.1936),
        (256.63416, 314.01935),
        (201.26117, 371.41043),
        (313.08905, 371.15118),
    ]
)


def similarity(scale: float, degrees: float, shift: tuple[float, float]) -> np.ndarray:
    c, s = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


# --- templates and fits


def test_template_values_are_the_published_ones() -> None:
    assert np.allclose(template_points("ffhq", 512), FFHQ_512)
    assert np.allclose(template_points("arcface", 112)[[0, 4]], [(38.2946, 51.6963), (70.7299, 92.2041)])
    assert np.allclose(template_points("ffhq", 256), FFHQ_512 / 2)


def test_unknown_template_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="arcface, ffhq"):
        template_points("celeba")


@pytest.mark.parametrize("fit", [fit_similarity, fit_similarity_robust])
@pytest.mark.parametrize(("scale", "degrees"), [(1.0, 0.0), (0.2, 31.0), (7.0, -170.0)])
def test_similarity_is_recovered_exactly(fit: Any, scale: float, degrees: float) -> None:
    wanted = similarity(scale, degrees, (12.5, -40.0))
    source = transform_points(invert(wanted), FFHQ_512)
    assert np.allclose(fit(source, FFHQ_512), wanted, atol=1e-8)


def test_fit_is_least_squares() -> None:
    """No small change of the four parameters makes the residual smaller."""
    rng = np.random.default_rng(0)
    source = FFHQ_512 + rng.normal(0, 6, (5, 2))
    matrix = fit_similarity(source, FFHQ_512)

    def residual(a: float, b: float, tx: float, ty: float) -> float:
        moved = transform_points(np.array([[a, -b, tx], [b, a, ty]]), source)
        return float(((moved - FFHQ_512) ** 2).sum())

    best = (matrix[0, 0], matrix[1, 0], matrix[0, 2], matrix[1, 2])
    for index, step in enumerate((1e-3, 1e-3, 0.1, 0.1)):
        for sign in (-1, 1):
            other = list(best)
            other[index] += sign * step
            assert residual(*other) > residual(*best)


def test_fit_never_mirrors() -> None:
    mirrored = FFHQ_512 * (-1, 1)
    matrix = fit_similarity(mirrored, FFHQ_512)
    assert np.linalg.det(matrix[:, :2]) > 0


def test_coinciding_points_are_refused() -> None:
    with pytest.raises(ValueError, match="coincide"):
        fit_similarity(np.full((5, 2), 7.0), FFHQ_512)


@pytest.mark.parametrize("wrong", range(5))
def test_robust_fit_drops_one_wrong_point(wrong: int) -> None:
    wanted = similarity(2.0, 10, (30, 20))
    source = transform_points(invert(wanted), FFHQ_512)
    source += np.random.default_rng(wrong).normal(0, 0.3, source.shape)
    source[wrong] += (-18.0, 12.0)  # a third of the eye distance away
    robust_error = np.abs(transform_points(fit_similarity_robust(source, FFHQ_512), source) - FFHQ_512)
    kept = np.arange(5) != wrong
    assert robust_error[kept].max() < 3
    plain_error = np.abs(transform_points(fit_similarity(source, FFHQ_512), source) - FFHQ_512)
    assert plain_error[kept].max() > 6


def test_robust_fit_leaves_honest_noise_alone() -> None:
    """Noise of 2 % of the eye distance: always the plain least-squares fit of all five points."""
    rng = np.random.default_rng(1)
    for _ in range(500):
        source = FFHQ_512 + rng.normal(0, 0.02 * 126, (5, 2))
        assert np.array_equal(fit_similarity_robust(source, FFHQ_512), fit_similarity(source, FFHQ_512))


def test_invert_and_transform_are_inverse() -> None:
    matrix = similarity(0.7, 25, (3, -8))
    assert np.allclose(transform_points(invert(matrix), transform_points(matrix, FFHQ_512)), FFHQ_512)


@pytest.mark.parametrize("factor", [1, 2, 4, 0.5])
def test_scale_source_follows_pixel_centres(factor: float, fakes: SimpleNamespace) -> None:
    """A point of the photo and the same point of the resized photo land on the same crop pixel."""
    face = fakes.face_at((100, 80), 33, angle=12)
    matrix = align_matrix(face.points5, 128)
    moved = transform_points(scale_source(matrix, factor), face.scaled(factor).points5)
    assert np.allclose(moved, transform_points(matrix, face.points5), atol=1e-4)


@pytest.mark.parametrize("factor", [2, 4])
def test_enlarged_photo_gives_the_same_crop(factor: int, fakes: SimpleNamespace) -> None:
    """A wrong pixel-centre convention would shift the crop by half a pixel and more."""
    smooth = cv2.GaussianBlur(fakes.textured(160, 200), (0, 0), 2)
    large = cv2.resize(smooth, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    matrix = align_matrix(fakes.face_at((100, 80), 30).points5, 64)
    a = crop_by_matrix(smooth, matrix, 64).image.astype(int)
    b = crop_by_matrix(large, scale_source(matrix, factor), 64).image.astype(int)
    shifted = crop_by_matrix(large, matrix @ np.array([[1 / factor, 0, 0], [0, 1 / factor, 0], [0, 0, 1]]), 64)
    assert np.abs(a - b).mean() < 0.5
    assert np.abs(a - shifted.image.astype(int)).mean() > 1.5 * np.abs(a - b).mean()


# --- crops


@pytest.mark.parametrize(("scale", "degrees"), [(1.0, 0), (1.3, 20), (4.0, -35)])
def test_enlarging_crop_is_plain_warp(scale: float, degrees: float, fakes: SimpleNamespace) -> None:
    image = fakes.textured(120, 150)
    matrix = similarity(scale, degrees, (0, 0))
    matrix[:, 2] = 32 - matrix[:, :2] @ (75, 60)
    flags = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_LINEAR
    expected = cv2.warpAffine(image, matrix, (64, 64), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    got = crop_by_matrix(image, matrix, 64).image
    assert np.abs(got.astype(int) - expected).max() <= 1
    assert np.mean(got != expected) < 0.01


@pytest.mark.parametrize("shrink", [1.7, 2.5, 6.0, 10.3])
def test_shrinking_crop_does_not_alias(shrink: float, fakes: SimpleNamespace) -> None:
    """Stripes too fine for the crop become grey; sampling alone would turn them into coarse false stripes."""
    side = round(80 * shrink)
    x = np.arange(side)
    stripes = np.repeat((127.5 + 110 * np.cos(np.pi * x / 1.1))[None, :, None], side, 0).repeat(3, 2)
    image = stripes.round().astype(np.uint8)
    matrix = similarity(1 / shrink, 0, (-8, -8))
    plain = cv2.warpAffine(image, matrix, (64, 64), flags=cv2.INTER_LINEAR)
    assert plain.std() > 20
    assert crop_by_matrix(image, matrix, 64).image.std() < 0.4 * plain.std()


@pytest.mark.parametrize("shrink", [1.5, 3.0, 7.3])
def test_shrinking_crop_stays_registered(shrink: float, fakes: SimpleNamespace) -> None:
    """A smooth picture has its centre of mass where the matrix says."""
    side = round(100 * shrink)
    ys, xs = np.mgrid[0:side, 0:side]
    centre = np.array([0.53 * side, 0.46 * side])
    blob = 250 * np.exp(-((xs - centre[0]) ** 2 + (ys - centre[1]) ** 2) / (2 * (8 * shrink) ** 2))
    image = np.repeat(np.rint(blob)[..., None], 3, 2).astype(np.uint8)
    matrix = similarity(1 / shrink, 5, (-2, -10))
    crop = crop_by_matrix(image, matrix, 90).image[..., 0].astype(float)
    ys, xs = np.mgrid[0:90, 0:90]
    found = np.array([(crop * xs).sum(), (crop * ys).sum()]) / crop.sum()
    assert np.allclose(found, transform_points(matrix, centre), atol=0.1)


def test_crop_puts_the_points_on_the_template(fakes: SimpleNamespace) -> None:
    face = fakes.face_at((90, 70), 25, angle=-20)
    crop = crop_face(fakes.textured(150, 180), face.points5, 128)
    assert np.allclose(transform_points(crop.matrix, face.points5), TEMPLATES["ffhq"] * 128, atol=1e-3)


def test_a_recut_crop_is_the_crop_of_the_other_template(fakes: SimpleNamespace) -> None:
    """Of a smooth picture, so that resampling twice shows little."""
    ys, xs = np.mgrid[:300, :300]
    photo = np.dstack([128 + 90 * np.sin(xs / 40), 128 + 90 * np.cos(ys / 50), (xs + ys) / 3]).astype(np.uint8)
    face = fakes.face_at((150, 150), 60, angle=20)
    ffhq = crop_face(photo, face.points5, 256)
    direct = crop_face(photo, face.points5, 112, "arcface").image
    again = recut([ffhq.image, ffhq.image], "arcface", 112)
    assert again.shape == (2, 112, 112, 3)
    assert np.abs(again[1].astype(int) - direct).max() <= 4


def test_face_cut_by_the_border_is_marked_invalid_and_mirrored(fakes: SimpleNamespace) -> None:
    image = fakes.textured(100, 100)
    matrix = similarity(1, 0, (20, 0))  # the crop begins 20 px left of the photo
    crop = crop_by_matrix(image, matrix, 64)
    assert not crop.valid[:, :20].any()
    assert crop.valid[:, 20:].all()
    assert np.array_equal(crop.image[:, 20:], image[:64, :44])
    assert np.array_equal(crop.image[:, 19], crop.image[:, 21])


def test_crop_of_a_tiny_photo_works() -> None:
    crop = crop_by_matrix(np.full((1, 1, 3), 99, np.uint8), similarity(3, 10, (5, 5)), 32)
    assert (crop.image == 99).all()


# --- masks and patches


def test_mask_covers_the_points_and_leaves_the_corners() -> None:
    mask = face_mask(FFHQ_512 / 4, 128)
    assert mask.min() == 0
    assert mask.max() == 1
    for x, y in np.rint(FFHQ_512 / 4).astype(int):
        assert mask[y, x] > 0.99
    assert (mask[[0, 0, -1, -1], [0, -1, 0, -1]] == 0).all()


@pytest.mark.parametrize("longer", [1.0, 1.3])
def test_mask_ends_inside_the_crop(longer: float) -> None:
    """Also for a long face (an open mouth): a mask cut off by the crop would leave a seam in the photo."""
    points = FFHQ_512 * (1, longer)
    mask = face_mask(points, 512)
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    assert border.max() == 0
    assert max(np.abs(np.diff(mask, axis=a)).max() for a in (0, 1)) < 0.06


def test_mask_turns_with_the_face() -> None:
    turned = transform_points(np.array([[0.0, -1, 511], [1, 0, 0]]), FFHQ_512)
    assert np.abs(face_mask(turned, 512) - np.rot90(face_mask(FFHQ_512, 512), -1)).max() < 1e-5


def test_mask_of_coinciding_points_is_empty() -> None:
    assert face_mask(np.full((5, 2), 30.0), 64).max() == 0


def round_trip(image: np.ndarray, face: Any, size: int, scale: int, restore: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """The enlarged photo before and after pasting what `restore` made of the crop, and the patch."""
    crop = crop_face(image, face.points5, size)
    mask = face_mask(transform_points(crop.matrix, face.points5), size)
    base = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LANCZOS4) if scale > 1 else image
    patch = face_patch(crop, restore(crop.image), mask, base.shape[:2], scale)
    assert patch is not None
    return base, paste_patch(base, patch), patch  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize(("centre", "eyes"), [((150, 120), 15), ((150, 120), 90), ((5, 110), 60), ((299, 1), 40)])
def test_identity_changes_not_one_bit(
    scale: int, centre: tuple[float, float], eyes: float, fakes: SimpleNamespace
) -> None:
    before, after, _ = round_trip(
        fakes.textured(220, 300), fakes.face_at(centre, eyes, angle=17), 128, scale, np.ndarray.copy
    )
    assert np.array_equal(before, after)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize(("centre", "eyes"), [((150, 120), 30), ((5, 110), 60)])
def test_nothing_changes_outside_the_mask(
    scale: int, centre: tuple[float, float], eyes: float, fakes: SimpleNamespace
) -> None:
    image = fakes.textured(220, 300)
    before, after, patch = round_trip(image, fakes.face_at(centre, eyes, angle=-9), 128, scale, lambda x: 255 - x)
    x0, y0, x1, y1 = patch.box
    touched = np.zeros(before.shape[:2], bool)
    touched[y0:y1, x0:x1] = patch.mask > 0
    assert np.array_equal(before[~touched], after[~touched])
    assert (before != after).any(2)[touched].mean() > 0.7


@pytest.mark.parametrize(("scale", "size", "eyes"), [(1, 128, 32), (1, 128, 80), (2, 128, 16), (4, 256, 12)])
def test_constant_change_arrives_unchanged(scale: int, size: int, eyes: float, fakes: SimpleNamespace) -> None:
    """A restorer that lightens by 20 lightens the middle of the face by 20, at any scale, to within rounding."""
    image = fakes.textured(220, 300) // 2 + 40
    before, after, patch = round_trip(image, fakes.face_at((150, 110), eyes), size, scale, lambda x: x + 20)
    x0, y0, x1, y1 = patch.box
    inside = patch.mask > 0.999
    change = after[y0:y1, x0:x1].astype(int) - before[y0:y1, x0:x1]
    assert inside.sum() > 100
    assert np.abs(change[inside] - 20).max() <= 1


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_change_arrives_in_its_place(scale: int, fakes: SimpleNamespace) -> None:
    """A mark painted on the nose of the crop appears on the nose of the photo."""
    face = fakes.face_at((150, 110), 30, angle=14)
    size = 256
    crop = crop_face(fakes.textured(220, 300), face.points5, size)
    nose = transform_points(crop.matrix, face.points5[2])
    ys, xs = np.mgrid[0:size, 0:size]
    mark = 60 * np.exp(-((xs - nose[0]) ** 2 + (ys - nose[1]) ** 2) / (2 * 10**2))
    restored = np.clip(crop.image + mark[..., None], 0, 255).astype(np.uint8)
    patch = face_patch(crop, restored, np.ones((size, size), np.float32), (220 * scale, 300 * scale), scale)
    assert patch is not None
    weight = np.abs(patch.change).mean(2)
    weight[weight < 2] = 0
    ys, xs = np.mgrid[0 : weight.shape[0], 0 : weight.shape[1]]
    found = np.array([(weight * xs).sum(), (weight * ys).sum()]) / weight.sum() + patch.box[:2]
    assert np.allclose(found, face.scaled(scale).points5[2], atol=0.15 * scale)


def test_detail_finer_than_the_crop_survives(fakes: SimpleNamespace) -> None:
    """Only the difference travels back: a face larger than the crop keeps its pores."""
    rng = np.random.default_rng(2)
    image = np.clip(128 + rng.normal(0, 20, (500, 500, 1)) + np.zeros(3), 0, 255).astype(np.uint8)
    before, after, patch = round_trip(image, fakes.face_at((250, 250), 130), 64, 1, lambda x: x + 15)
    x0, y0, x1, y1 = patch.box
    inside = patch.mask > 0.999
    a, b = (v[y0:y1, x0:x1][inside].astype(float) for v in (before, after))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99


def test_strength_scales_the_change(fakes: SimpleNamespace) -> None:
    image = fakes.textured(200, 200)
    _, full, patch = round_trip(image, fakes.face_at((100, 100), 30), 96, 1, lambda x: 255 - x)
    half = paste_patch(image, patch, 0.5)
    middle = (image.astype(float) + full) / 2
    assert np.abs(half - middle).max() <= 1.01
    assert np.array_equal(paste_patch(image, patch, 0.0), image)


def test_face_outside_the_photo_makes_no_patch(fakes: SimpleNamespace) -> None:
    face = fakes.face_at((-200, -300), 30)
    crop = crop_face(fakes.textured(100, 100), face.points5, 64)
    mask = face_mask(transform_points(crop.matrix, face.points5), 64)
    assert face_patch(crop, 255 - crop.image, mask, (100, 100)) is None


def test_nearly_all_of_a_cut_face_is_restored_up_to_the_border(fakes: SimpleNamespace) -> None:
    image = fakes.textured(200, 200) // 2 + 40
    before, after, _ = round_trip(image, fakes.face_at((0, 100), 40), 128, 1, lambda x: x + 20)
    assert (after.astype(int) - before)[95:105, 0].min() >= 8
    assert (after.astype(int) - before)[95:105, 2].min() >= 19
