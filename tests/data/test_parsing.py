"""Readers of parsing data in their published folders, and rendered pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from facewright.data import parsing
from facewright.data.parsing import ANYTHING, CelebAMaskHQ, EasyPortraitFolder, IBugMask, LaPa, RenderedParsing
from facewright.errors import FacewrightError, ImageReadError
from facewright.geometry.templates import template_points
from facewright.systems.parse.segface.network import PUBLISHED_ORDER
from facewright.systems.parse.taxonomy import CELEBAMASK_19

if TYPE_CHECKING:
    from pathlib import Path


def picture(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def photo(value: int, size: tuple[int, int] = (16, 12)) -> np.ndarray:
    return np.full((*size, 3), value, np.uint8)


@pytest.fixture
def celeba(tmp_path: Path) -> Path:
    """Pictures 0 and 2001 of 32 px with masks of 16 px; hair lies over skin, and a lip over both."""
    for number, value in ((0, 10), (2001, 200)):
        picture(tmp_path / f"CelebA-HQ-img/{number}.jpg", photo(value, (32, 32)))
        masks = {part: np.zeros((16, 16), np.uint8) for part in ("skin", "hair", "l_lip")}
        masks["skin"][4:] = 255
        masks["hair"][:8] = 255
        masks["l_lip"][6:7] = 255
        for part, mask in masks.items():
            colour = np.repeat(mask[..., None], 3, 2) if part == "skin" else mask
            picture(tmp_path / f"CelebAMask-HQ-mask-anno/{number // 2000}/{number:05d}_{part}.png", colour)
    (tmp_path / "CelebA-HQ-to-CelebA-mapping.txt").write_text(
        "idx orig_idx orig_file\n0 119612 119613.jpg\n2001 5 000006.jpg\n"
    )
    (tmp_path / "list_eval_partition.txt").write_text("000006.jpg 2\n119613.jpg 0\n999999.jpg 0\n")
    return tmp_path


def test_parts_are_painted_in_the_published_order(celeba: Path) -> None:
    data = CelebAMaskHQ(celeba)
    assert len(data) == 2
    item = data[1]
    assert (item.name, item.image.shape, item.labels.shape) == ("2001", (16, 16, 3), (16, 16))
    assert np.abs(item.image.astype(int) - 200).max() <= 2
    names = [CELEBAMASK_19[k] for k in item.labels[:, 0]]
    assert names == ["hair"] * 8 + ["skin"] * 8  # hair comes after lips
    other = CelebAMaskHQ(celeba, order=("skin", "hair", "l_lip"))[0].labels[:, 0]
    assert CELEBAMASK_19[other[6]] == "l_lip"
    assert set(PUBLISHED_ORDER["celebamask"]) == set(CELEBAMASK_19)


def test_splits_are_those_of_celeba(celeba: Path) -> None:
    assert [CelebAMaskHQ(celeba, s).numbers for s in ("train", "val", "test")] == [[0], [], [2001]]
    (celeba / "list_eval_partition.txt").unlink()
    with pytest.raises(FacewrightError, match="list_eval_partition"):
        CelebAMaskHQ(celeba, "train")
    for mask in (celeba / "CelebAMask-HQ-mask-anno/0").iterdir():
        mask.unlink()
    with pytest.raises(ImageReadError, match="no part of picture 0"):
        CelebAMaskHQ(celeba)[0]


def test_lapa_layout_and_points(tmp_path: Path) -> None:
    labels = np.arange(11, dtype=np.uint8).repeat(12)[:132].reshape(11, 12)
    picture(tmp_path / "val/images/b_0.jpg", photo(50, (11, 12)))
    picture(tmp_path / "val/labels/b_0.png", labels)
    points = np.arange(212, dtype=float).reshape(106, 2)
    (tmp_path / "val/landmarks").mkdir()
    lines = "\n".join(f"{x} {y}" for x, y in points)
    (tmp_path / "val/landmarks/b_0.txt").write_text(f"106\n{lines}\n")
    data = LaPa(tmp_path, "val")
    assert len(data) == 1
    assert np.array_equal(data[0].labels, labels)
    expected = [(points[74] + points[104]) / 2, (points[83] + points[105]) / 2, points[54], points[84], points[90]]
    np.testing.assert_allclose(data.points5(0), expected)
    (tmp_path / "val/landmarks/b_0.txt").write_text("106\n1 2\n")
    with pytest.raises(ImageReadError, match="106 landmarks"):
        data.points5(0)
    with pytest.raises(FacewrightError, match="not a folder"):
        LaPa(tmp_path, "train")


def test_ibugmask_and_easyportrait_layouts(tmp_path: Path) -> None:
    labels = np.zeros((16, 12), np.uint8)
    labels[:, 3:] = 8
    labels[0] = 255
    picture(tmp_path / "test/a.jpg", photo(1))
    picture(tmp_path / "test/a.png", labels)
    picture(tmp_path / "images/val/u1.jpg", photo(2))
    palette = Image.fromarray(labels).convert("P")
    palette.putdata(labels.ravel().tolist())
    (tmp_path / "annotations/val").mkdir(parents=True)
    palette.save(tmp_path / "annotations/val/u1.png")
    for data in (IBugMask(tmp_path, "test"), EasyPortraitFolder(tmp_path, "val")):
        assert len(data) == 1
        assert np.array_equal(data[0].labels, labels)
    picture(tmp_path / "annotations/val/u1.png", np.full((16, 12), 9, np.uint8))
    with pytest.raises(ImageReadError, match="above 8"):
        EasyPortraitFolder(tmp_path, "val")[0]
    picture(tmp_path / "annotations/val/u1.png", labels[1:])
    with pytest.raises(ImageReadError, match="not a pair"):
        EasyPortraitFolder(tmp_path, "val")[0]
    (tmp_path / "annotations/val/u1.png").write_bytes(b"no picture")
    with pytest.raises(ImageReadError, match="label map"):
        EasyPortraitFolder(tmp_path, "val")[0]


# --- rendered faces


@pytest.fixture(scope="module")
def rendered() -> RenderedParsing:
    return RenderedParsing("val", 3, size=64, presets={"clean": 1.0}, jitter=0.0, flip=False)


def index_of(name: str) -> int:
    return CELEBAMASK_19.index(name)


def test_items_depend_on_seed_and_index_alone(rendered: RenderedParsing) -> None:
    again = RenderedParsing("val", 3, size=64, presets={"clean": 1.0}, jitter=0.0, flip=False)
    first, second = rendered[0], again[0]
    assert first["image"].shape == (64, 64, 3)
    assert first["labels"].shape == (64, 64)
    assert first["image"].dtype == first["labels"].dtype == torch.uint8
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(rendered[1]["image"], first["image"])
    other = RenderedParsing("train", 3, size=64, presets={"clean": 1.0}, jitter=0.0, flip=False)[0]
    assert not torch.equal(other["image"], first["image"])


def test_labels_lie_on_the_template_with_the_subjects_sides(rendered: RenderedParsing) -> None:
    """The eyes of the template are at the eyes' labels, and l_eye is the one on the picture's right."""
    expected = dict(zip(("r_eye", "l_eye", "nose"), template_points("ffhq", 64)))
    offsets: dict[str, list[np.ndarray]] = {name: [] for name in expected}
    for index in range(6):
        labels = rendered[index]["labels"].numpy()
        assert labels[labels != 255].max() < 19
        for name, point in expected.items():
            y, x = np.nonzero(labels == index_of(name))
            if len(x):
                offsets[name].append(np.array([x.mean(), y.mean()]) - point)
    for name, found in offsets.items():
        assert len(found) >= 3, name
        assert np.abs(np.median(found, 0)).max() < 6, name


def test_rendered_precision_does_not_follow_the_trainers(rendered: RenderedParsing) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = rendered[0]
    assert torch.equal(mixed["image"], rendered[0]["image"])


def test_mirroring_swaps_sides_and_twice_is_nothing() -> None:
    labels = np.full((4, 6), 255, np.uint8)
    labels[:, 0], labels[:, 5] = index_of("l_eye"), index_of("l_lip")
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    mirrored_image, mirrored_labels = parsing.mirror_pair(image, labels)
    assert (mirrored_labels[:, 5] == index_of("r_eye")).all()
    assert (mirrored_labels[:, 0] == index_of("l_lip")).all()
    assert (mirrored_labels[:, 1:5] == 255).all()
    back_image, back_labels = parsing.mirror_pair(mirrored_image, mirrored_labels)
    assert np.array_equal(back_image, image)
    assert np.array_equal(back_labels, labels)


def test_crop_beyond_the_picture_is_ignored() -> None:
    image, labels = photo(99, (64, 64)), np.full((64, 64), 7, np.uint8)
    points = template_points("ffhq", 64) + np.array([-20, 0])  # the crop reaches 20 pixels over the left border
    crop, cut = parsing.aligned_pair(image, labels, points, 64)
    assert crop.shape == (64, 64, 3)
    assert (cut[:, :19] == 255).all()
    assert (cut[:, 21:] == 7).all()


def test_degradations_are_mixed_and_flips_drawn() -> None:
    worn = RenderedParsing("val", 3, size=64, presets={"severe": 1.0}, jitter=0.0, flip=False)
    clean = RenderedParsing("val", 3, size=64, presets={"clean": 1.0}, jitter=0.0, flip=False)
    a, b = worn[0], clean[0]
    assert torch.equal(a["labels"], b["labels"])
    assert (a["image"].float() - b["image"].float()).abs().mean() > 2


# --- photos whose landmarks say a part of what is where


def frontal(size: int = 256) -> np.ndarray:
    """68 landmarks of the coarse face, upright and 96 pixels wide in the middle of a crop."""
    from facewright.render.coarse import coarse_face

    data = coarse_face()
    assert data.landmarks68 is not None
    points = np.asarray(data.mean, float)[data.landmarks68][:, :2] * (1, -1)
    points -= (points.max(0) + points.min(0)) / 2
    return points * 96 / np.ptp(points[:, 0]) + size / 2


def shown(evidence: parsing.Evidence, x: float, y: float) -> set[str]:
    bits = int(evidence.allowed[round(y), round(x)])
    return {name for number, name in enumerate(CELEBAMASK_19) if bits >> number & 1}


def expected(evidence: parsing.Evidence, x: float, y: float) -> str:
    number = int(evidence.expected[round(y), round(x)])
    return "" if number == 255 else CELEBAMASK_19[number]


def test_landmarks_tell_what_pixels_can_show() -> None:
    points = frontal()
    evidence = parsing.classes_by_landmarks(points, 256)
    right, left = points[36:42].mean(0), points[42:48].mean(0)
    assert shown(evidence, *right) == {"r_eye", "eye_g"}  # the picture's left is the subject's right
    assert shown(evidence, *left) == {"l_eye", "eye_g"}
    assert (expected(evidence, *right), expected(evidence, *left)) == ("r_eye", "l_eye")
    assert shown(evidence, *points[19]) >= {"r_brow", "hat", "hair"}
    assert expected(evidence, *points[19]) == "r_brow"
    assert shown(evidence, *((points[30] + points[33]) / 2)) == {"nose"}
    assert shown(evidence, *((points[3] + points[31]) / 2)) == {"skin", "hair"}
    assert expected(evidence, *((points[3] + points[31]) / 2)) == "skin"
    far = shown(evidence, 128, 3)
    assert {"background", "hair", "cloth", "neck"} <= far
    assert not far & {"nose", "l_eye", "mouth"}
    assert expected(evidence, 128, 3) == ""
    unit = float(np.hypot(*(left - right)))
    brows = points[17:27].mean(0)
    assert shown(evidence, *(brows - (0, 0.8 * unit))) == {"skin", "hair", "hat"}
    assert expected(evidence, *(points[8] + (0, 0.3 * unit))) == "neck"
    assert expected(evidence, *(brows + np.array([1.8 * unit, 0]))) == "background"
    assert shown(evidence, *points[8]) == set(CELEBAMASK_19)  # at the chin's edge anything can be


def test_closed_eyes_say_nothing() -> None:
    points = frontal()
    points[36:42, 1] = points[36:42, 1].mean()
    assert "skin" in shown(parsing.classes_by_landmarks(points, 256), *points[36:42].mean(0))


def test_mirrored_landmarks_swap_the_sides() -> None:
    points = frontal()
    other = (points * (-1, 1) + (255, 0))[parsing.MIRROR_68]  # type: ignore[attr-defined]
    evidence, mirrored = (parsing.classes_by_landmarks(p, 256) for p in (points, other))
    assert expected(mirrored, *other[36:42].mean(0)) == "r_eye"
    same = (mirrored.allowed[:, ::-1] == ANYTHING) == (evidence.allowed == ANYTHING)
    assert same.mean() > 0.99
