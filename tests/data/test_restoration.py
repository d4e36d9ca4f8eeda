"""Pairs for restorers: reproducible, registered, honest about what the photo does not show."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity

from facewright.data.detection import LANDMARK_OFFSET
from facewright.data.faces import open_faces
from facewright.data.restoration import (
    Curriculum,
    RestorationPairs,
    aligned_truth,
    damaged,
    degradation_target,
    luma_ssim,
    open_crops,
    super_resolution,
)
from facewright.data.split import is_validation
from facewright.degrade import Blur, Chain, Degradation, Noise
from facewright.degrade.record import STEPS
from facewright.errors import UsageError
from facewright.geometry.templates import template_points

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

TRAIN = [s for s in (f"person {i}" for i in range(40)) if not is_validation(s)]
SIZE = 64


def labelled68(points5: np.ndarray) -> np.ndarray:
    """68 landmarks with the collections' common offset, of a face with these five points."""
    points = points5 + LANDMARK_OFFSET * np.hypot(*(points5[1] - points5[0]))
    landmarks = np.zeros((68, 2))
    landmarks[36:42], landmarks[42:48], landmarks[[30, 48, 54]] = points[0], points[1], points[2:]
    return landmarks


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, fakes: SimpleNamespace) -> Path:
    """Eight pictures; the first is blurred, the second grey, the third has a black corner, eyes are marked by dots.

    The last is turned by 60°.
    """
    folder = tmp_path_factory.mktemp("data")
    face = fakes.face_at((60, 60), 24, angle=10)
    labels: dict[str, list[Any]] = {k: [] for k in ("filename", "subject", "landmarks68", "sharpness", "greyscale")}
    with tarfile.open(folder / "lfw.tar", "w") as tar:
        for i in range(8):
            picture = fakes.textured(120, 120, seed=i)
            if i == 2:
                picture[:50, :50] = 0
            for x, y in np.rint(face.points5[:2]).astype(int):
                picture[y - 2 : y + 3, x - 2 : x + 3] = 255
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "JPEG", quality=97, subsampling=0)
            info = tarfile.TarInfo(f"lfw/{i}.jpg")
            info.size = len(buffer.getvalue())
            tar.addfile(info, io.BytesIO(buffer.getvalue()))
            row = (f"{i}.jpg", TRAIN[i], labelled68(face.points5), 10.0 if i == 0 else 500.0, i == 1)
            for key, value in zip(labels, row):
                labels[key].append(value)
    arrays: dict[str, Any] = {k: np.array(v) for k, v in labels.items()}
    arrays["pose_yaw_pitch_roll_deg"] = np.zeros((8, 3), np.float32)
    arrays["pose_yaw_pitch_roll_deg"][7, 0] = -60
    np.savez(folder / "lfw_labels.npz", detected=np.ones(8, bool), **arrays)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACEWRIGHT_HOME", str(tmp_path))
    return tmp_path / "data"


def pairs(root: Path, **options: Any) -> RestorationPairs:
    known: dict[str, Any] = {"size": SIZE, "collections": {"lfw": 1.0}, "root": root}
    return RestorationPairs(**(known | options))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(v, b[k]) for k, v in a.items())


def test_only_sharp_colour_pictures_are_truths(root: Path, cache: Path) -> None:
    crops = open_crops("lfw", "train", SIZE, root)
    assert list(crops.rows) == [2, 3, 4, 5, 6, 7]
    written = {p.name: p.stat().st_mtime_ns for p in cache.iterdir()}
    again = open_crops("lfw", "train", SIZE, root)
    assert {p.name: p.stat().st_mtime_ns for p in cache.iterdir()} == written
    for index in range(6):
        assert all(np.array_equal(a, b) for a, b in zip(crops.crop(index), again.crop(index)))
        image, mask = aligned_truth(crops.collection, int(crops.rows[index]), SIZE)
        assert np.array_equal(crops.crop(index)[0], image)
        assert np.array_equal(crops.crop(index)[1], mask)


def test_truth_is_aligned_to_the_template(root: Path) -> None:
    image, _ = aligned_truth(open_faces("lfw", root=root), 4, 256)
    for x, y in np.rint(template_points("ffhq", 256)[:2]).astype(int):
        assert image[y - 2 : y + 3, x - 2 : x + 3].min() > 230


def test_mask_leaves_out_what_the_photo_does_not_show(root: Path) -> None:
    faces = open_faces("lfw", root=root)
    image, cornered = aligned_truth(faces, 2, SIZE)
    _, whole = aligned_truth(faces, 4, SIZE)
    assert cornered.sum() < whole.sum() < SIZE * SIZE
    assert image[cornered].max(1).min() > 6
    assert whole[SIZE // 2, SIZE // 2]


def test_a_dark_spot_inside_the_photo_is_no_missing_part(root: Path) -> None:
    from facewright.data.restoration import _real_pixels

    picture = np.full((20, 20, 3), 90, np.uint8)
    picture[:4, :4] = 0
    picture[10:14, 10:14] = 0
    shown = _real_pixels(picture)
    assert shown[:4, :4].max() == 0
    assert shown[10:14, 10:14].min() == 255


def test_a_pair_is_a_function_of_seed_and_index(root: Path) -> None:
    a, b, other = pairs(root, seed=1), pairs(root, seed=1), pairs(root, seed=2)
    first = [a[i] for i in range(6)]
    assert all(same(first[i], b[i]) for i in reversed(range(6)))
    assert not any(same(x, y) for x, y in zip(first, first[1:]))
    assert not any(same(first[i], other[i]) for i in range(6))


def test_shapes_and_types(root: Path) -> None:
    data = pairs(root, length=12)
    item = data[3]
    assert len(data) == 12
    for key in ("lq", "hq"):
        assert (item[key].shape, item[key].dtype) == ((SIZE, SIZE, 3), torch.uint8)
    assert (item["mask"].shape, item["mask"].dtype) == ((1, SIZE, SIZE), torch.bool)
    assert (item["degradation"].shape, item["degradation"].dtype) == ((6,), torch.float32)
    assert torch.isfinite(item["degradation"]).all()


def test_clean_preset_is_the_identity_and_says_so(root: Path) -> None:
    item = pairs(root, presets={"clean": 1.0}, jitter=0.0, flip=False)[0]
    assert torch.equal(item["lq"], item["hq"])
    assert item["degradation"].tolist() == pytest.approx([0, 0, 0, 0, 1, 1], abs=1e-4)


def test_presets_are_drawn_by_their_shares(root: Path) -> None:
    data = pairs(root, presets={"clean": 1.0, "severe": 3.0}, jitter=0.0)
    clean = np.mean([torch.equal(item["lq"], item["hq"]) for item in (data[i] for i in range(80))])
    assert 0.1 < clean < 0.42


def test_flips_and_jitter_move_picture_and_mask_together(root: Path) -> None:
    plain = {row: open_crops("lfw", "train", SIZE, root).crop(row) for row in range(6)}
    flipped = 0
    for i in range(12):
        item = pairs(root, presets={"clean": 1.0}, jitter=0.0)[i]
        image, mask = item["hq"].numpy(), item["mask"][0].numpy()
        straight = any(np.array_equal(image, a) and np.array_equal(mask, b) for a, b in plain.values())
        mirrored = any(
            np.array_equal(image[:, ::-1], a) and np.array_equal(mask[:, ::-1], b) for a, b in plain.values()
        )
        assert straight or mirrored
        flipped += mirrored
    assert 1 <= flipped <= 11
    moved = [pairs(root, presets={"clean": 1.0}, jitter=1.0, flip=False)[i] for i in range(4)]
    assert not any(np.array_equal(m["hq"].numpy(), a) for m in moved for a, _ in plain.values())
    assert all(m["hq"].numpy()[m["mask"][0].numpy()].max(1).min() > 0 for m in moved)


def test_degradation_target_is_in_the_stated_units() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(40, 200, (32, 32, 3)).astype(np.uint8)
    mask = np.zeros((32, 32), bool)
    mask[:, 8:] = True
    degraded = truth.copy()
    degraded[:, 8:] += 10
    degraded[:, :8] = 0  # does not count
    blur = Blur("aniso", 21, 2.0, 8.0, 0.3)
    chain = Chain(STEPS, blur=blur, factor=4.0, noise=Noise(5.0, 1), jpeg=70)
    values = degradation_target(Degradation("x", (32, 32), chain), degraded, truth, mask)
    assert values[:5] == pytest.approx([np.log1p(4.0), 2.0, 0.2, 0.6, 20 * np.log10(25.5) / 50], rel=1e-5)
    nothing = degradation_target(Degradation("x", (32, 32), Chain(STEPS, factor=0.8)), truth, truth, mask)
    assert nothing == pytest.approx([0, 0, 0, 0, 1, 1], abs=1e-5)


def test_estimate_and_target_speak_of_the_same_units() -> None:
    from facewright.systems.restore.frgp.network import decode_estimate

    truth = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    degraded = cv2.GaussianBlur(truth, (0, 0), 1)
    chain = Chain(STEPS, blur=Blur("iso", 21, 3.0, 3.0, 0.0), factor=2.5, noise=Noise(12.0, 1), jpeg=64)
    target = degradation_target(Degradation("x", (32, 32), chain), degraded, truth, np.ones((32, 32), bool))  # type: ignore[arg-type]
    (estimate,) = decode_estimate(torch.from_numpy(target)[None])
    assert (estimate.blur_sigma, estimate.downscale) == pytest.approx((3.0, 2.5), rel=1e-5)
    assert (estimate.noise_sigma, estimate.jpeg_quality) == pytest.approx((12.0, 64.0), rel=1e-5)
    error = ((degraded.astype(float) - truth) ** 2).mean()
    assert estimate.psnr == pytest.approx(10 * np.log10(255**2 / error), rel=1e-4)


def test_ssim_is_the_known_one(astronaut: np.ndarray) -> None:
    a = astronaut[100:228, 150:278]
    b = cv2.GaussianBlur(a, (0, 0), 2)
    everywhere = np.ones(a.shape[:2], bool)
    grey = [cv2.cvtColor(v, cv2.COLOR_RGB2GRAY) for v in (a, b)]
    expected = structural_similarity(*grey, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    assert luma_ssim(a, b, everywhere) == pytest.approx(expected, abs=0.01)  # type: ignore[arg-type]
    assert luma_ssim(a, a, everywhere) == pytest.approx(1, abs=1e-5)
    assert luma_ssim(a, b, np.zeros_like(everywhere)) == 1.0  # type: ignore[arg-type]


# Self-supervision and poses


def test_curriculum_grows_from_nothing_to_all() -> None:
    plan = Curriculum(1000)
    severities = [plan.severity(i) for i in (0, 99, 100, 150, 200, 300, 999, 5000)]
    assert severities == pytest.approx([0, 0, 0, 0.25, 0.5, 1, 1, 1])
    for wrong in ({"samples": 0}, {"samples": 9, "clean": 0.4}, {"samples": 9, "clean": -0.1}):
        with pytest.raises(UsageError, match="curriculum"):
            Curriculum(**wrong)


def test_curriculum_shows_clean_pictures_first_and_the_plain_pairs_at_last(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, easy = pairs(root, presets={"severe": 1.0}), pairs(root, presets={"severe": 1.0}, curriculum={"samples": 40})
    for i in range(5):
        assert torch.equal(easy[i]["lq"], easy[i]["hq"])
        assert torch.equal(easy[i]["hq"], plain[i]["hq"])
    assert all(same(easy[i], plain[i]) for i in range(12, 20))
    assert not any(torch.equal(easy[i]["lq"], easy[i]["hq"]) for i in range(5, 12))
    assert not same(easy[6], plain[6])
    assert easy[6]["degradation"][4] > plain[6]["degradation"][4], "milder in between"
    with pytest.raises(UsageError, match="samples, clean and full, not"):
        pairs(root, curriculum={"steps": 3})
    monkeypatch.setattr("facewright.data.restoration.open_crops", lambda *_, **__: easy.caches["lfw"])
    judged = pairs(root, split="val", presets={"severe": 1.0}, curriculum={"samples": 40})
    assert same(judged[0], plain[0]), "validation is not eased"


def test_second_view_is_the_same_truth_damaged_another_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from facewright.degrade import PRESETS, Preset

    noisy = Preset("noisy", (0, 0), (1, 1), (10, 10), (100, 100), p_blur=0, p_down=0, p_jpeg=0)
    monkeypatch.setitem(PRESETS, "noisy", noisy)
    one, two = pairs(root, presets={"noisy": 1.0}), pairs(root, presets={"noisy": 1.0}, views=2)
    for i in range(4):
        item = two[i]
        assert same(one[i], item), "the first view is as without the second"
        first, second, truth = (item[k].float() for k in ("lq", "lq_second", "hq"))
        assert float((second - truth).square().mean()) == pytest.approx(100, rel=0.1)
        assert float((first - second).square().mean()) == pytest.approx(200, rel=0.1), "noise of its own"
    with pytest.raises(UsageError, match="1 or 2 views"):
        pairs(root, views=3)


def test_views_share_what_also_moves_the_target(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from facewright.degrade import PRESETS, Preset

    moving = Preset("moving", (0, 0), (1, 1), (0, 0), (100, 100), p_blur=0, p_down=0, p_noise=0, p_jpeg=0, p_shift=1.0)
    monkeypatch.setitem(PRESETS, "moving", moving)
    data = pairs(root, presets={"moving": 1.0}, views=2)
    for i in range(6):
        assert torch.equal(data[i]["lq_second"], data[i]["hq"])


def test_unpaired_pictures_are_the_bad_ones(root: Path) -> None:
    data = pairs(root, presets={"severe": 1.0}, unpaired=True, jitter=0.0, flip=False)
    bad = open_crops("lfw", "train", SIZE, root, sharp=False)
    assert list(bad.rows) == [0]
    item = data[1]
    assert np.array_equal(item["real"].numpy(), bad.crop(0)[0])
    assert np.array_equal(item["real_mask"][0].numpy(), bad.crop(0)[1])
    assert item["real_worse"].shape == item["real"].shape
    assert not torch.equal(item["real_worse"], item["real"])
    assert same(pairs(root, presets={"severe": 1.0}, jitter=0.0, flip=False)[1], item)


def test_turned_heads_are_drawn_more_often(root: Path) -> None:
    """Six truths, one of them turned: weights 6/5 five times and 4, not 6, once."""
    data = pairs(root, presets={"clean": 1.0}, jitter=0.0, flip=False, balance_pose=True)
    turned = torch.from_numpy(open_crops("lfw", "train", SIZE, root).crop(5)[0].copy())
    share = np.mean([torch.equal(data[i]["hq"], turned) for i in range(300)])
    assert share == pytest.approx(4 / (4 + 5 * 1.2), abs=0.08)


@pytest.mark.parametrize(("preset", "side"), [("sr-x4", 32), ("sr-x8", 16), ("sr-x16", 8)])
def test_super_resolution_is_torchs_antialiased_bicubic(astronaut: np.ndarray, preset: str, side: int) -> None:
    truth = np.ascontiguousarray(astronaut[80:208, 150:278])
    x = torch.from_numpy(truth).permute(2, 0, 1)[None].float()
    for size in (side, 128):
        x = torch.nn.functional.interpolate(x, (size, size), mode="bicubic", antialias=True, align_corners=False)
        x = x.round().clamp(0, 255)
    low = damaged(truth, super_resolution(preset, 128))
    difference = np.abs(low - x[0].permute(1, 2, 0).numpy())
    assert difference.mean() < 0.6, "Pillow rounds and clips after every direction"
    assert np.percentile(difference, 99) <= 2


def test_super_resolution_leaves_no_moire() -> None:
    board = ((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8)[..., None].repeat(3, 2)
    low = damaged(board, super_resolution("sr-x4", 64))
    assert np.abs(low[8:-8, 8:-8].astype(float) - 127.5).max() < 2


def test_super_resolution_is_a_preset_of_pairs(root: Path) -> None:
    data = pairs(root, presets={"sr-x8": 1.0}, jitter=0.0, flip=False, curriculum={"samples": 10})
    assert torch.equal(data[0]["lq"], data[0]["hq"])
    halfway, full = data[2], data[5]
    assert halfway["degradation"][1] == pytest.approx(np.log2(1 + 0.5 * 7))
    assert full["degradation"][:4].tolist() == pytest.approx([0, 3, 0, 0])
    assert np.array_equal(full["lq"].numpy(), damaged(full["hq"].numpy(), super_resolution("sr-x8", SIZE)))
