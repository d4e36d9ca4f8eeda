"""Readers of collections of forgeries and morphs, on made-up trees of empty files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from facewright.data.forensic_sets import (
    READERS,
    Exhibit,
    families,
    read_celeb_df,
    read_dfdc,
    read_exhibits,
    read_faceforensics,
    read_frll_morphs,
    read_smdd,
)
from facewright.errors import FacewrightError, UsageError

if TYPE_CHECKING:
    from pathlib import Path


def lay(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


def by_name(found: list[Exhibit]) -> dict[str, Exhibit]:
    assert len({one.name for one in found}) == len(found)
    return {one.name: one for one in found}


def test_faceforensics(tmp_path: Path) -> None:
    lay(
        tmp_path,
        "original_sequences/youtube/c23/videos/000.mp4",
        "original_sequences/youtube/c40/videos/000.mp4",
        "original_sequences/actors/c23/videos/01__exit_phone_room.mp4",
        "manipulated_sequences/Deepfakes/c23/videos/000_003.mp4",
        "manipulated_sequences/Deepfakes/masks/videos/000_003.mp4",
        "manipulated_sequences/NeuralTextures/c23/videos/003_000.mp4",
        "manipulated_sequences/DeepFakeDetection/c23/videos/01_02__exit_phone_room__YVGY8LOK.mp4",
    )
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "val.json").write_text('[["000", "003"]]')
    found = by_name(read_faceforensics(tmp_path))
    fake = found["Deepfakes/000_003"]
    assert (fake.kind, fake.tool, fake.parents, fake.split) == ("manipulated", "Deepfakes", ("000", "003"), "val")
    assert fake.mask == tmp_path / "manipulated_sequences/Deepfakes/masks/videos/000_003.mp4"
    assert found["NeuralTextures/003_000"].mask is None
    assert (found["youtube/000"].kind, found["youtube/000"].tool, found["youtube/000"].split) == ("real", "", "val")
    assert found["DeepFakeDetection/01_02__exit_phone_room__YVGY8LOK"].parents == ("actor 01", "actor 02")
    assert len(found) == 5
    assert [one.name for one in read_faceforensics(tmp_path, "c40")] == ["youtube/000"]
    with pytest.raises(UsageError, match="c23"):
        read_faceforensics(tmp_path, "c24")  # type: ignore[arg-type]
    lay(tmp_path, "manipulated_sequences/FaceSwap/c23/videos/other.mp4")
    with pytest.raises(FacewrightError, match="not named"):
        read_faceforensics(tmp_path)


@pytest.mark.parametrize("below", ["", "videos/"])
def test_celeb_df(tmp_path: Path, below: str) -> None:
    lay(
        tmp_path,
        f"Celeb-real/{below}id0_0000.mp4",
        f"Celeb-synthesis/{below}id0_id16_0000.mp4",
        f"YouTube-real/{below}00170.mp4",
    )
    assert {one.split for one in read_celeb_df(tmp_path)} == {""}
    (tmp_path / "List_of_testing_videos.txt").write_text("1 YouTube-real/00170.mp4\n")
    found = by_name(read_celeb_df(tmp_path))
    assert found["Celeb-synthesis/id0_id16_0000"].parents == ("id0", "id16")
    assert found["Celeb-synthesis/id0_id16_0000"].kind == "manipulated"
    assert found["Celeb-real/id0_0000"].split == "train"
    assert found["YouTube-real/00170"].split == "test"


def test_dfdc(tmp_path: Path) -> None:
    lay(tmp_path, "dfdc_train_part_0/aa.mp4", "dfdc_train_part_0/bb.mp4")
    table = tmp_path / "dfdc_train_part_0" / "metadata.json"
    entries = {
        "aa.mp4": {"label": "FAKE", "split": "train", "original": "bb.mp4"},
        "bb.mp4": {"label": "REAL", "split": "train"},
        "../../gone.mp4": {"label": "REAL", "split": "train"},
    }
    table.write_text(json.dumps(entries))
    fake, real = read_dfdc(tmp_path)
    assert (fake.kind, fake.parents, fake.split) == ("manipulated", ("bb",), "train")
    assert (real.kind, real.parents) == ("real", ("bb",))
    table.write_text('{"aa.mp4": {"label": "MAYBE"}}')
    with pytest.raises(FacewrightError, match="neither"):
        read_dfdc(tmp_path)
    table.write_text("[" * 100_000)
    with pytest.raises(FacewrightError, match="cannot be read"):
        read_dfdc(tmp_path)


def test_smdd(tmp_path: Path) -> None:
    lay(tmp_path, "o25k_bf_t/img1.png", "m15k_t/m1.png")
    found = by_name(read_smdd(tmp_path))
    assert [found[name].kind for name in ("m15k_t/m1", "o25k_bf_t/img1")] == ["morphed", "real"]
    table = tmp_path / "train.csv"
    table.write_text("image_path,label\no25k_bf_t/img1.png, bonafide\nm15k_t/m1.png, attack\n")
    listed = by_name(read_smdd(table))
    assert listed["m15k_t/m1.png"].kind == "morphed"
    assert listed["o25k_bf_t/img1.png"].file == tmp_path / "o25k_bf_t/img1.png"
    table.write_text("image_path,label\nx.png,fake\n")
    with pytest.raises(FacewrightError, match="line 2"):
        read_smdd(table)


@pytest.mark.parametrize("home", ["", "facelab_london/"])
def test_frll_morphs(tmp_path: Path, home: str) -> None:
    lay(
        tmp_path,
        f"{home}raw/001_03.jpg",
        f"{home}raw/001_01.jpg",
        f"{home}morph_opencv/001_03_002_03.jpg",
        f"{home}morph_amsl/001_002.jpg",
    )
    found = by_name(read_frll_morphs(tmp_path))
    assert set(found) == {"raw/001_03", "opencv/001_03_002_03", "amsl/001_002"}  # a profile is no bona fide portrait
    assert found["opencv/001_03_002_03"].parents == ("001", "002")
    assert found["amsl/001_002"].tool == "amsl"
    lay(tmp_path, f"{home}morph_webmorph/nobody.jpg")
    with pytest.raises(FacewrightError, match="two people"):
        read_frll_morphs(tmp_path)


def test_families_share_a_parent_also_by_way_of_others(tmp_path: Path) -> None:
    def one(*parents: str) -> Exhibit:
        return Exhibit("/".join(parents), "real", "", parents, "", tmp_path)

    numbers = families([one("a"), one("b", "c"), one("d"), one("c", "a"), one("d", "e")])
    assert numbers == [0, 0, 1, 0, 1]


@pytest.mark.parametrize("collection", READERS)
def test_an_empty_folder_is_another_layout(tmp_path: Path, collection: str) -> None:
    with pytest.raises(FacewrightError, match="nothing laid out"):
        read_exhibits(collection, tmp_path)
    with pytest.raises(FacewrightError, match="not a folder"):
        read_exhibits(collection, tmp_path / "nothing")


def test_unknown_collections_are_named() -> None:
    with pytest.raises(UsageError, match="frll-morphs"):
        read_exhibits("other", ".")
