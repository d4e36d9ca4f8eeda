"""The leak-free view of presentation attacks: what is hidden, who shares a batch, and what sentences say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from facewright.data import inner_faces
from facewright.data.inner_faces import FrameSequences, InnerFaceBatches
from facewright.data.liveness import PackedCrops
from facewright.data.presentation import frames_at
from facewright.errors import UsageError
from facewright.face import Face
from facewright.geometry.templates import template_points
from facewright.systems.liveness.clipc8.network import CLIPC8Config
from facewright.systems.liveness.ifas.network import IFASConfig

PEOPLE, LIGHTS = 6, ("controlled", "adverse")
ATTACKS = {"print": "print", "mobile": "mobile photo", "highdef": "highdef video"}


def packed(side: int = 16) -> PackedCrops:
    """Two frames of a live video and of three attacks of six people in two lights; pixels are row numbers."""
    rows = [
        (person, light, medium, frame)
        for person in range(PEOPLE)
        for light in LIGHTS
        for medium in ("webcam", *ATTACKS)
        for frame in range(2)
    ]
    images = np.repeat(np.arange(len(rows), dtype=np.uint8), side * side * 3).reshape(-1, side, side, 3)
    return PackedCrops(
        images,
        np.array([ATTACKS.get(medium, "live") for _, _, medium, _ in rows]),
        np.array([f"client{person}" for person, *_ in rows]),
        np.array(["replay-attack"] * len(rows)),
        np.array([f"{medium}/{'live' if medium == 'webcam' else 'hand'}/{light}" for _, light, medium, _ in rows]),
        np.array([f"{person} {light} {medium}" for person, light, medium, _ in rows]),
        np.array(["train" if person < 4 else "calibration" if person < 5 else "test" for person, *_ in rows]),
    )


@pytest.fixture
def file(tmp_path: Path) -> str:
    packed().save(tmp_path / "crops.npz")
    return str(tmp_path / "crops.npz")


def photo_and_face(size: int = 160) -> tuple[np.ndarray, Face]:
    points = template_points("arcface", size) * 0.6 + 30
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8), Face(
        np.array([20, 20, 140, 140], np.float32), 1.0, points.astype(np.float32)
    )


def test_nothing_of_the_surroundings_is_left() -> None:
    photo, face = photo_and_face()
    crop = inner_faces.face_only(inner_faces.SPEC.cut(photo, face).image[None])[0]
    inside = inner_faces.oval()
    assert (crop[~inside] == inner_faces.GREY).all()
    assert 0.4 < inside.mean() < 0.6
    assert (inner_faces.surroundings_only(crop[None]) == inner_faces.GREY).all()
    other = photo.copy()
    eyes = face.points5[:2].mean(0)
    far = np.hypot(*np.moveaxis(np.mgrid[:160, :160][::-1].transpose(1, 2, 0) - eyes, -1, 0)) > 70
    other[far] = 255 - other[far]  # another room
    again = inner_faces.face_only(inner_faces.SPEC.cut(other, face).image[None])[0]
    assert (again == crop).all()


def test_the_eyes_and_the_mouth_are_inside() -> None:
    photo, face = photo_and_face()
    matrix = inner_faces.SPEC.matrix(face)
    at = face.points5 @ matrix[:, :2].T + matrix[:, 2]
    assert np.linalg.norm(at[1] - at[0]) == pytest.approx(25.5, abs=0.2)
    x, y = at.round().astype(int).T
    assert inner_faces.oval()[y, x].all()
    masked = inner_faces.face_only_photo(photo, face)
    px, py = face.points5.round().astype(int).T
    assert (masked[py, px] == photo[py, px]).all()
    assert (masked[:10] == inner_faces.GREY).all()
    cut = inner_faces.SPEC.cut(masked, face).image
    assert (cut[0, 0] == inner_faces.GREY).all()  # systems with crops of their own see the same oval
    assert (np.abs(cut[30:34, 30:34].astype(int) - inner_faces.SPEC.cut(photo, face).image[30:34, 30:34]) <= 1).all()


def test_only_live_faces_have_depth() -> None:
    depth = inner_faces.depth_of_face(8)
    assert depth.max() > 0.95
    assert depth[0, 0] == 0
    assert depth[4, 4] > depth[4, 6]


def test_a_batch_is_live_then_attacks_of_the_same_people(file: str) -> None:
    data = InnerFaceBatches("train", 3, file=file, batch=12, pictures=2)
    for number in range(4):
        items = [data[number * 12 + i] for i in range(12)]
        assert [int(item["live"]) for item in items] == [1] * 6 + [0] * 6
        assert [int(item["attack"]) for item in items] == [0] * 6 + [1] * 6
        groups = [int(item["identity"]) for item in items]
        assert groups[:6] == groups[6:]
        assert len(set(groups)) == 3
        assert all(groups[i] == groups[i + 1] for i in range(0, 12, 2))
        rows = [int(item["row"]) for item in items]
        people = data.crops.person[rows]
        assert (people[:6] == people[6:]).all()
        assert (data.crops.live[rows] == [True] * 6 + [False] * 6).all()
        assert all((item["depth"].max() > 0) == bool(item["live"]) for item in items)
    again = InnerFaceBatches("train", 3, file=file, batch=12, pictures=2)
    assert all(torch.equal(again[17][name], data[17][name]) for name in data[17])
    assert set(data.crops.person.tolist()) == {f"client{i}" for i in range(4)}
    assert set(InnerFaceBatches("val", file=file, batch=4, pictures=2).crops.person.tolist()) == {"client4"}


def test_kinds_of_lighting_share_a_batch_evenly(file: str) -> None:
    data = InnerFaceBatches(file=file, batch=12, group="lighting")
    items = [data[i] for i in range(12)]
    assert [int(item["identity"]) for item in items[:6]] == [int(item["identity"]) for item in items[6:]]
    assert sorted(int(item["identity"]) for item in items[:6]) == [0, 0, 0, 1, 1, 1]
    rows = [int(item["row"]) for item in items]
    lights = [inner_faces.lighting_of(domain) for domain in data.crops.domain[rows]]
    assert lights[:6] == lights[6:]


def test_live_people_alone(file: str) -> None:
    data = InnerFaceBatches(file=file, batch=8, pictures=2, live_only=True)
    assert all(int(data[i]["live"]) == 1 for i in range(24))
    assert len({int(data[i]["identity"]) for i in range(8)}) == 4


def test_batches_that_do_not_fit_are_refused(file: str) -> None:
    with pytest.raises(UsageError, match="batches of 12 with 4 pictures of each cannot be made of 4 groups"):
        InnerFaceBatches(file=file, batch=12, pictures=4)
    with pytest.raises(UsageError, match="batches of 20 with 2 pictures of each cannot be made of 4 groups"):
        InnerFaceBatches(file=file, batch=20, pictures=2)


def test_sentences_fit_the_compact_networks(file: str) -> None:
    assert inner_faces.category_words().count <= CLIPC8Config.compact().words
    words, compact = inner_faces.answer_words(), IFASConfig.compact()
    answer, length = inner_faces.answer_of("print/hand/adverse", words)
    assert int(answer.max()) < compact.words
    assert int(answer[0]) == compact.no
    assert (answer[length:] == 0).all()
    assert (answer[1:length] > max(compact.yes, compact.no, *compact.question)).all()
    live, _ = inner_faces.answer_of("webcam/live/controlled", words)
    assert int(live[0]) == compact.yes
    prompt = compact.queries + compact.layers + len(compact.question)
    assert prompt + len(answer) <= compact.length
    for medium in ("print", "mobile", "highdef"):  # the longest of all
        assert inner_faces.answer_of(f"{medium}/hand/controlled", words)[1] <= len(answer)
    item = InnerFaceBatches(file=file, batch=12, pictures=2, text="answers")[8]
    assert int(item["answer"][0]) == compact.no
    told = InnerFaceBatches(file=file, batch=12, pictures=2, text="categories")
    kinds = {int(told[i]["category"]) for i in range(36)}
    assert kinds == {0, 1, 2}
    assert all(int(told[i]["category"]) == 0 for i in range(6))
    assert told[0]["caption"].shape == (CLIPC8Config.compact().length,)


def test_captions_name_what_is_shown() -> None:
    assert inner_faces.caption_of("highdef/fixed/adverse") == (
        "a face on the large screen of a tablet on a stand in daylight"
    )
    assert inner_faces.caption_of("webcam/live/controlled").startswith("a living face")


def test_sequences_keep_frames_in_order_and_people_apart(tmp_path: Path) -> None:
    crops = packed()
    features = np.stack([np.arange(len(crops)), np.ones(len(crops))], 1).astype(np.float32)
    short = crops.where(np.arange(len(crops)) != 1)  # the first video has lost a frame
    inner_faces.pack_sequences(tmp_path / "s.npz", short, np.delete(features, 1, 0))
    learners = FrameSequences(file=str(tmp_path / "s.npz"), held_back=1)
    last = FrameSequences(file=str(tmp_path / "s.npz"), held_back=1, stage="meta")
    per_person = len(LIGHTS) * (1 + len(ATTACKS))
    assert len(learners.features) == 3 * per_person - 1
    assert len(last.features) == per_person
    assert (learners.features[:, 1, 0] - learners.features[:, 0, 0] == 1).all()
    assert not set(learners.features[:, 0, 0].tolist()) & set(last.features[:, 0, 0].tolist())
    assert {int(learners[i]["live"]) for i in range(12)} == {0, 1}
    assert learners[0]["features"].shape == (2, 2)
    with pytest.raises(UsageError, match="no live people or no attacks for learners"):
        FrameSequences(file=str(tmp_path / "s.npz"), held_back=4)


def test_frames_of_the_same_times_whatever_the_length() -> None:
    long, short = ([Path(f"frame_{round(i * step):05d}.jpg") for i in range(20)] for step in (19.7, 12.6))
    times = (0, 63, 126, 176, 239)
    for files in (long, short):
        found = [round(i * (19.7 if files is long else 12.6)) for i in frames_at(files, times)]
        assert np.abs(np.array(found) - times).max() <= 10
    assert frames_at(short, (0, 1, 2)) == [0]
    with pytest.raises(UsageError, match="numbers in their names"):
        frames_at([Path("a.jpg")], times)


def test_packing_masks_every_crop(monkeypatch: pytest.MonkeyPatch) -> None:
    white = replace(packed(64), images=np.full((len(packed()), 64, 64, 3), 255, np.uint8))
    monkeypatch.setattr(inner_faces, "pack_replay_attack", lambda root, found, spec: white)
    images = inner_faces.pack_inner_faces("", None).images
    assert (images[:, ~inner_faces.oval()] == inner_faces.GREY).all()
    assert (images[:, inner_faces.oval()] == 255).all()
