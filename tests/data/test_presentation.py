"""Readers of presentation attack collections, sides without shared people, packed crops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from facewright.data.liveness import LivenessCrops, PackedCrops, changed, kind_of, side_of_client
from facewright.data.presentation import LIVE, FoundFrames, Presentation, find_frames, read_presentations
from facewright.errors import FacewrightError, UsageError

if TYPE_CHECKING:
    from types import SimpleNamespace

_REPLAY = (
    "train/real/client001_session01_webcam_authenticate_controlled_1.mov",
    "devel/attack/fixed/attack_highdef_client003_session01_highdef_photo_adverse.mov",
    "devel/attack/hand/attack_mobile_client003_session01_mobile_video_controlled.mov",
    "test/attack/hand/attack_print_client009_session01_highdef_photo_adverse.mov",
)
_LAYOUTS: dict[str, tuple[tuple[str, ...], list[tuple[str, str, str, str]]]] = {
    "replay-attack": (
        _REPLAY,
        [
            ("highdef photo", "client003", "highdef/fixed/adverse", "devel"),
            ("mobile video", "client003", "mobile/hand/controlled", "devel"),
            ("print", "client009", "print/hand/adverse", "test"),
            (LIVE, "client001", "webcam/live/controlled", "train"),
        ],
    ),
    "oulu-npu": (
        ("Train_files/1_2_07_1.avi", "Dev_files/6_3_21_3.avi", "Test_files/2_1_40_4.avi"),
        [
            (LIVE, "07", "phone 1/session 2", "train"),
            ("video 1", "40", "phone 2/session 1", "test"),
            ("print 2", "21", "phone 6/session 3", "devel"),
        ],
    ),
    "casia-fasd": (
        ("train_release/1/1.avi", "train_release/1/HR_3.avi", "test_release/1/8.avi"),
        [
            ("video", "test 1", "normal", "test"),
            (LIVE, "train 1", "low", "train"),
            ("cut", "train 1", "high", "train"),
        ],
    ),
    "msu-mfsd": (
        (
            "scene01/real/real_client002_android_SD_scene01.mp4",
            "scene01/attack/attack_client005_laptop_SD_ipad_video_scene01.mov",
        ),
        [("ipad video", "005", "laptop", "test"), (LIVE, "002", "android", "train")],
    ),
    "siw": (
        ("Train/live/003/003-1-1-2-1.mov", "Test/spoof/005/005-2-3-4-1.mov"),
        [(LIVE, "003", "sensor 1", "train"), ("replay 4", "005", "sensor 2", "test")],
    ),
}


@pytest.mark.parametrize("collection", _LAYOUTS)
def test_layouts(tmp_path: Path, collection: str) -> None:
    files, wanted = _LAYOUTS[collection]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "train_sub_list.txt").write_text("01\n02\n")
    (tmp_path / "test_sub_list.txt").write_text("05\n")
    found = read_presentations(collection, tmp_path)
    assert sorted((p.species, p.client, p.domain, p.split) for p in found) == sorted(wanted)
    assert [p.attack for p in found] == [p.species != LIVE for p in found]
    assert len({p.name for p in found}) == len(found)
    wrong = (tmp_path / files[0]).with_name("holiday.avi" if files[0].endswith("avi") else "holiday.mov")
    wrong.touch()
    with pytest.raises(FacewrightError, match="holiday"):
        read_presentations(collection, tmp_path)


def test_celeba_spoof(tmp_path: Path) -> None:
    labels = {"Data/train/12/spoof/1.jpg": [0] * 40 + [8, 2, 1], "Data/train/12/live/2.jpg": [0] * 43}
    table = tmp_path / "metas/intra_test/train_label.json"
    table.parent.mkdir(parents=True)
    table.write_text(json.dumps(labels))
    found = read_presentations("celeba-spoof", tmp_path)
    assert [(p.species, p.client, p.domain) for p in found] == [
        (LIVE, "12", "light 0/place 0"),
        ("screen pad", "12", "light 2/place 1"),
    ]
    table.write_text(json.dumps({"Data/train/12/spoof/1.jpg": [0, 1]}))
    with pytest.raises(FacewrightError, match="not CelebA-Spoof's"):
        read_presentations("celeba-spoof", tmp_path)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no reader for 'other'"):
        read_presentations("other", tmp_path)
    with pytest.raises(FacewrightError, match="nothing laid out as SiW"):
        read_presentations("siw", tmp_path)
    with pytest.raises(FacewrightError, match="is not a folder"):
        read_presentations("siw", tmp_path / "none")


def frames_of(root: Path, count: int = 8) -> list[Presentation]:
    folder = root / "devel__attack__hand__attack_print_client005_session01_highdef_photo_adverse"
    folder.mkdir(parents=True)
    for number in range(count):
        cv2.imwrite(str(folder / f"frame_{number:05d}.jpg"), np.full((120, 160, 3), 20 * number, np.uint8))
    return read_presentations("replay-attack", root)


def test_faces_are_found_in_even_frames(tmp_path: Path, fakes: SimpleNamespace) -> None:
    shown = frames_of(tmp_path)
    assert [(p.species, p.client, len(p.files)) for p in shown] == [("print", "client005", 8)]
    small, large = fakes.face_at((40, 60), 8.0), fakes.face_at((100, 60), 16.0)
    found = find_frames(shown, tmp_path, fakes.Detector(small, large), {True: 3, False: 6}, log=lambda line: None)
    assert [Path(name).stem for name in found.frames] == ["frame_00000", "frame_00004", "frame_00007"]
    np.testing.assert_allclose(found.boxes, np.stack([large.box] * 3))
    found.save(tmp_path / "found.npz")
    again = FoundFrames.load(tmp_path / "found.npz")
    from facewright.geometry.crop import CropSpec

    crops = again.crops(tmp_path, CropSpec.boxed(32, margin=0.1), [1])
    assert crops.shape == (1, 32, 32, 3)
    assert abs(int(crops.mean()) - 80) < 4
    (tmp_path / "found.npz").write_bytes(b"nothing")
    with pytest.raises(FacewrightError, match="make it again"):
        FoundFrames.load(tmp_path / "found.npz")
    with pytest.raises(FacewrightError, match="no face was found"):
        find_frames(shown, tmp_path, fakes.Detector(), log=lambda line: None)


def test_no_client_is_on_two_sides() -> None:
    clients = [f"client{i:03d}" for i in range(15)]
    shown = [Presentation(f"{c}", LIVE, c, "", "devel", ()) for c in clients]
    sides = [side_of_client(one, clients) for one in shown]
    assert sides == ["calibration"] * 5 + ["test"] * 10
    assert side_of_client(Presentation("x", LIVE, "client900", "", "train", ()), clients) == "train"


@pytest.mark.parametrize(
    ("species", "kind"),
    [(LIVE, 0), ("print", 1), ("cut", 1), ("mobile video", 2), ("highdef photo", 2), ("replay", 2), ("mask", 3)],
)
def test_kinds(species: str, kind: int) -> None:
    assert kind_of(species) == kind


def packed() -> PackedCrops:
    species = np.array([LIVE, LIVE, "print", "mask", LIVE, "print"])
    side = np.array(["train"] * 4 + ["calibration"] * 2)
    source = np.array(["replay-attack", "lfw", "replay-attack", "lfw", "replay-attack", "replay-attack"])
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * 40 + np.zeros((6, 16, 16, 3), np.uint8)
    return PackedCrops(images, species, species, source, side, species, side)


def test_batches_are_half_live_and_depend_on_the_index_alone(tmp_path: Path) -> None:
    packed().save(tmp_path / "crops.npz")
    data = LivenessCrops("train", 3, file=str(tmp_path / "crops.npz"))
    items = [data[i] for i in range(300)]
    live = np.mean([int(item["kind"]) == 0 for item in items])
    assert live == pytest.approx(0.5, abs=0.1)
    assert {int(item["kind"]) for item in items} == {0, 1, 3}
    assert np.array_equal(data[7]["image"], items[7]["image"])
    kept = LivenessCrops("val", file=str(tmp_path / "crops.npz"), real=1.0)
    assert {int(kept[i]["image"][0, 0, 0]) for i in range(20)} == {160, 200}  # as they are
    with pytest.raises(FacewrightError, match="make it again"):
        PackedCrops.load(tmp_path / "none.npz")


def test_changes_do_not_depend_on_what_is_shown() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    assert np.array_equal(changed(image, np.random.default_rng(1)), changed(image, np.random.default_rng(1)))
    assert changed(image, np.random.default_rng(2)).shape == image.shape
