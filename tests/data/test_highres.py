"""Packed faces of 512 px: what is left out, what comes back, and the pairs made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from skimage import data

from facewright.data import highres
from facewright.data.highres import HighresPairs, damage_target, detail_retained, face_part, open_packed, pack
from facewright.data.people import FoundFaces
from facewright.degrade import Chain, Degradation, Grain, Noise
from facewright.errors import FacewrightError, UsageError
from facewright.geometry.templates import template_points

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures of a public-domain face: one is soft, one too small."""
    root = tmp_path_factory.mktemp("sets")
    folder = root / "ciplab"
    folder.mkdir()
    face = cv2.resize(data.astronaut()[:256, 100:356], (512, 512), interpolation=cv2.INTER_CUBIC)
    face = np.clip(face + np.random.default_rng(0).normal(0, 6, face.shape), 0, 255).astype(np.uint8)
    versions = {
        "a.png": face, "b.png": face[:, ::-1], "c.png": cv2.GaussianBlur(face, (0, 0), 4), "v.png": 255 - face,
        "small.png": cv2.resize(face, (128, 128)),
    }  # fmt: skip
    for name, image in versions.items():
        cv2.imwrite(str(folder / name), np.ascontiguousarray(image[..., ::-1]))
    points = np.stack([template_points("ffhq", len(v)) for v in versions.values()]).astype(np.float32)
    found = FoundFaces(np.array(list(versions)), points, np.ones((5, 1), np.float32))
    found.save(root / "found" / "ciplab.npz")
    patch = pytest.MonkeyPatch()
    split = {"train": ["a.png", "b.png", "c.png", "small.png"], "val": ["v.png"]}
    patch.setattr(highres, "pictures_of", lambda _, side: split[side])
    patch.setattr(highres, "SOFTEST", 0.3)
    counts = pack(root, root / "found", ["ciplab"], root / "faces.npz", quality=95)
    patch.undo()
    assert counts == {"train": 2, "val": 1}
    return root / "faces.npz"


def test_soft_and_small_pictures_are_left_out_and_the_rest_returns(packed: Path) -> None:
    faces = open_packed(packed, "train")
    assert list(faces.names) == ["ciplab/a.png", "ciplab/b.png"]
    (first, mask), (second, _) = faces.face(0), faces.face(1)
    assert first.shape == (512, 512, 3)
    assert mask[8:-8, 8:-8].all()
    assert np.abs(first.astype(int) - second[:, ::-1]).mean() < 8
    assert list(faces.of_sets(["celebahq"])) == []
    assert list(faces.of_sets(["ciplab"])) == [0, 1]


def test_pairs_are_a_function_of_seed_and_index(packed: Path) -> None:
    first, second = (HighresPairs(packed, "train", 3, side=128) for _ in range(2))
    a, b, other = first[5], second[5], first[6]
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["lq"], other["lq"])
    assert a["lq"].shape == a["hq"].shape == (128, 128, 3)
    assert a["mask"].shape == (1, 128, 128)
    assert a["damage"].shape == (5,)
    assert all(0 <= int(v) <= 384 and int(v) % 32 == 0 for v in a["place"])


def test_place_says_where_the_part_is(packed: Path) -> None:
    pairs = HighresPairs(packed, "val", 0, side=64, vary=False, presets={"clean": 1.0})
    whole, _ = open_packed(packed, "val").face(0)
    for index in range(3):
        item = pairs[index]
        top, left = (int(v) for v in item["place"])
        assert np.array_equal(item["hq"].numpy(), whole[top : top + 64, left : left + 64])
        assert torch.equal(item["lq"], item["hq"])
        assert float(item["damage"][0]) == 1


def test_bad_options_are_refused(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="multiple of 32"):
        HighresPairs(packed, side=100)
    with pytest.raises(UsageError, match="no face of the sets scut"):
        HighresPairs(packed, shares={"scut": 1.0})
    (tmp_path / "x.npz").write_bytes(b"")
    with pytest.raises(FacewrightError, match=r"x\.npz"):
        HighresPairs(tmp_path / "x.npz")


def test_kept_detail_is_what_follows_the_truth() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(60, 190, (128, 128, 3), dtype=np.uint8)
    inside = face_part(128)
    assert inside.mean() == pytest.approx(0.56 * 0.6, abs=0.02)
    assert detail_retained(truth, truth, inside) == 1
    soft = cv2.GaussianBlur(truth, (0, 0), 1.0)
    noisy = np.clip(soft + rng.normal(0, 20, truth.shape), 0, 255).astype(np.uint8)
    kept = detail_retained(soft, truth, inside)  # type: ignore[arg-type]
    assert 0 < kept < 0.5
    assert detail_retained(noisy, truth, inside) == pytest.approx(kept, abs=0.03)
    assert detail_retained(np.full_like(truth, 128), truth, inside) == 0


def test_damage_of_a_known_record() -> None:
    truth = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    chain = Chain(("blur", "down", "noise", "jpeg", "up"), factor=4, noise=Noise(3, 0), grain=Grain(4, 1, 0))
    target = damage_target(Degradation("x", (64, 64), chain), truth, truth, np.ones((64, 64), bool))
    assert target.tolist() == pytest.approx([1, 1, 1, np.log1p(5) / 3, 0.5])


def test_keeping_decoded_faces_changes_nothing(packed: Path) -> None:
    plain, kept = HighresPairs(packed, side=64), HighresPairs(packed, side=64, keep_decoded=True)
    for index in (0, 1, 5, 0):
        assert all(torch.equal(plain[index][key], kept[index][key]) for key in plain[index])
    assert kept.decoded is not None
    assert 0 < len(kept.decoded) <= 2
