"""Liveness: votes, probabilities, kinds and places, videos, and when nothing can be said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from facewright.errors import UsageError, VideoError
from facewright.geometry.crop import CropSpec
from facewright.io.image import read
from facewright.pipelines.liveness import JudgedFace, blockiness, draw_liveness, judged, load, sampled_frames, watch
from facewright.tasks.card import Preprocess
from facewright.tasks.declare import NetworkChoice, get_task
from facewright.tasks.liveness import LivenessEvidence, LivenessOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import SimpleNamespace

    from facewright.face import Face


class Oracle:
    """Votes as it is told."""

    def __init__(self, vote: float, margin: float = 0.85, size: int = 80) -> None:
        self.vote = vote
        self.preprocess = Preprocess(CropSpec.framed(size, margin=margin))

    def live(self, photo: np.ndarray, faces: Sequence[Face]) -> np.ndarray:
        return np.full(len(faces), self.vote)


@pytest.fixture
def rgb() -> np.ndarray:
    return np.zeros((400, 500, 3), np.uint8)


@pytest.mark.parametrize(
    ("votes", "least", "decision"),
    [
        ((0.9, 0.8), 0.5, "live"),
        ((0.1, 0.3), 0.5, "attack"),
        ((0.9, 0.2), 0.5, "live"),  # the mean counts
        ((0.9, 0.8), 0.95, "attack"),
        ((0.9, 0.14), 0.5, "cannot tell"),
    ],
)
def test_the_mean_vote_decides(
    rgb: np.ndarray, fakes: SimpleNamespace, votes: tuple[float, ...], least: float, decision: str
) -> None:
    face = fakes.face_at((250, 200), 30.0)
    found = judged(rgb, [face], [Oracle(v) for v in votes], least)
    assert [one.decision for one in found] == [decision]
    assert found[0].vote == pytest.approx(np.mean(votes))
    assert (found[0].reason == "the votes are split") == (decision == "cannot tell")


def test_a_face_whose_surroundings_are_cut_off_cannot_be_told(rgb: np.ndarray, fakes: SimpleNamespace) -> None:
    face = replace(fakes.face_at((250, 200), 30.0), box=np.array([20, 20, 480, 390], np.float32))
    found = judged(rgb, [face], [Oracle(0.9, margin=1.5)])[0]
    assert (found.decision, found.reason) == ("cannot tell", "too little of what is around the face is in the photo")


def test_a_face_smaller_than_the_crop_cannot_be_told(rgb: np.ndarray, fakes: SimpleNamespace) -> None:
    face = fakes.face_at((250, 200), 8.0)  # 22 px high, 2.7 times of which are 60
    found = judged(rgb, [face], [Oracle(0.9)])[0]
    assert (found.decision, found.reason) == ("cannot tell", "the face is too small")
    assert found.to_dict()["vote"] == 0.9
    assert "cannot tell (the face is too small)" in found.line()


class Networks:
    """Hands out oracles and notes what was asked for."""

    def __init__(self, detector: Any) -> None:
        self._detector, self.asked = detector, []  # type: ignore[var-annotated]

    def network(self, slug: str, weights: str | None = None, device: str = "auto") -> Oracle:
        self.asked.append((slug, weights))
        return Oracle(0.9 if weights == "v2" else 0.7)

    def detector(self, choice: NetworkChoice) -> Any:
        return self._detector


def test_both_published_networks_vote_unless_one_is_named(rgb: np.ndarray, fakes: SimpleNamespace) -> None:
    faces = [fakes.face_at((350, 200), 30.0), fakes.face_at((150, 200), 30.0), fakes.face_at((250, 90), 30.0)]
    doubted = replace(faces[2], certainty=0.0)
    networks = Networks(fakes.Detector(*faces[:2], doubted))
    task = get_task("liveness")
    choice = NetworkChoice("minifasnet")
    found = load(networks, task, choice)(read(rgb), LivenessOptions())  # type: ignore[arg-type]
    assert networks.asked == [("minifasnet", "v2"), ("minifasnet", "v1se")]
    assert [one.vote for one in found] == pytest.approx([0.8, 0.8])
    assert found[0].face.box[0] < found[1].face.box[0]  # in reading order, without what is no face
    load(networks, task, NetworkChoice("minifasnet", weights="v1se"))  # type: ignore[arg-type]
    assert networks.asked[2:] == [("minifasnet", "v1se")]


class Examiner(Oracle):
    """Finds a screen in the lower half of every face, and says how likely the face is live as it is told, in turn."""

    def __init__(self, *live: float) -> None:
        super().__init__(live[0])
        self.preprocess = Preprocess(CropSpec.aligned(80, "arcface", zoom=0.85))
        self.turns = list(live)

    def examine(self, photo: np.ndarray, faces: Sequence[Face]) -> list[LivenessEvidence]:
        where = np.zeros((10, 10), np.float32)
        where[5:] = 0.9
        found = []
        for face in faces:
            live = self.turns[0] if len(self.turns) == 1 else self.turns.pop(0)
            matrix = self.preprocess.crop.matrix(face)
            found.append(LivenessEvidence(live, {"print": 0.2, "replay": 0.7, "mask": 0.1}, where, matrix, 80))
        return found


@pytest.fixture
def textured(fakes: SimpleNamespace) -> np.ndarray:
    return np.asarray(fakes.textured(400, 500))


@pytest.mark.parametrize(
    ("live", "decision", "kind"), [(0.97, "live", ""), (0.02, "attack", "replay"), (0.45, "cannot tell", "")]
)
def test_an_examiner_gives_kind_and_place(
    textured: np.ndarray, fakes: SimpleNamespace, live: float, decision: str, kind: str
) -> None:
    found = judged(textured, [fakes.face_at((250, 200), 40.0)], [Examiner(live)])[0]
    assert (found.decision, found.kind, found.calibrated) == (decision, kind, True)
    if decision == "attack":
        assert found.evidence == "looks like a screen in 50% of the face, most clearly in its lower part"
    assert found.to_dict()["vote"] == live
    drawn = draw_liveness(textured, [found])
    assert drawn.shape == textured.shape
    below, above = (np.s_[y - 3 : y + 3, 247:253, 0] for y in (225, 165))
    reddened = [drawn[part].astype(float).mean() - textured[part].mean() for part in (below, above)]
    assert reddened[0] > reddened[1] + 10  # red where it looks like a screen, and not elsewhere
    assert not np.shares_memory(drawn, textured)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rgb: rgb // 12, "the face is too dark"),
        (lambda rgb: np.full_like(rgb, 250), "the face is washed out"),
        (lambda rgb: cv2.GaussianBlur(rgb, (0, 0), 12) // 2 + np.arange(500, dtype=np.uint8)[:, None] // 4, "detail"),
    ],
    ids=["dark", "washed out", "soft"],
)
def test_unclear_faces_cannot_be_told(
    textured: np.ndarray, fakes: SimpleNamespace, change: Callable[[np.ndarray], np.ndarray], reason: str
) -> None:
    found = judged(change(textured), [fakes.face_at((250, 200), 40.0)], [Examiner(0.99)])[0]
    assert found.decision == "cannot tell"
    assert reason in found.reason


def test_strong_compression_cannot_be_told(astronaut: np.ndarray, fakes: SimpleNamespace) -> None:
    face = fakes.face_at((225, 110), 55.0)
    reasons = {}
    for quality in (8, 95):
        _, data = cv2.imencode(".jpg", astronaut[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        photo = np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1], np.uint8)
        reasons[quality] = judged(photo, [face], [Examiner(0.99)])[0].reason
    assert reasons == {8: "the photo is compressed too strongly", 95: ""}
    assert blockiness(np.zeros((40, 40, 3), np.uint8), np.array([0, 0, 9, 9])) == 1.0


def test_small_and_cut_off_faces_cannot_be_told(textured: np.ndarray, fakes: SimpleNamespace) -> None:
    small, outside = fakes.face_at((250, 200), 12.0), fakes.face_at((-10, 200), 40.0)
    found = judged(textured, [small, outside], [Examiner(0.99)])
    assert [one.reason for one in found] == ["the face is too small", "too much of the face is outside the photo"]


class Film(Networks):
    """One estimator for all frames."""

    def __init__(self, detector: Any, *live: float) -> None:
        super().__init__(detector)
        self.examiner = Examiner(*live)

    def network(self, slug: str, weights: str | None = None, device: str = "auto") -> Examiner:
        return self.examiner


@pytest.mark.parametrize(
    ("live", "decision", "said"),
    [
        ((0.9, 0.95, 0.9, 0.1, 0.92, 0.9), "live", "83% of 6 clear frames agree"),
        ((0.1, 0.05, 0.1, 0.02, 0.2, 0.1), "attack", "looks like a screen; 100% of 6 clear frames agree"),
        ((0.9, 0.1, 0.9, 0.1, 0.9, 0.05), "cannot tell", "the frames disagree"),
    ],
)
def test_a_person_of_a_video_is_judged_by_most_frames(
    textured: np.ndarray,
    fakes: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    live: tuple[float, ...],
    decision: str,
    said: str,
) -> None:
    frames = [(0.5 * i, textured) for i in range(len(live))]
    monkeypatch.setattr("facewright.pipelines.liveness.sampled_frames", lambda path: iter(frames))
    networks = Film(fakes.Detector(fakes.face_at((250, 200), 40.0)), *live)
    people = watch(networks, get_task("liveness"), NetworkChoice(), Path("film.mp4"), LivenessOptions())  # type: ignore[arg-type]
    assert [one.decision for one in people] == [decision]
    assert people[0].seconds == (0.0, 2.5)
    assert said in people[0].line()


def test_two_frames_are_too_few(textured: np.ndarray, fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facewright.pipelines.liveness.sampled_frames", lambda path: iter([(0.0, textured)] * 2))
    networks = Film(fakes.Detector(fakes.face_at((250, 200), 40.0)), 0.99)
    people = watch(networks, get_task("liveness"), NetworkChoice(), Path("film.mp4"), LivenessOptions())  # type: ignore[arg-type]
    assert (people[0].decision, people[0].reason) == ("cannot tell", "the face is clear in 2 of 2 frames")


def test_frames_of_a_real_file(tmp_path: Path) -> None:
    import av

    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(30):
            pixels = np.full((48, 64, 3), 8 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    frames = list(sampled_frames(path))
    assert [round(time, 2) for time, _ in frames] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    assert [abs(int(rgb.mean()) - 40 * i) < 8 for i, (_, rgb) in enumerate(frames)] == [True] * 6
    path.write_bytes(b"no film")
    with pytest.raises(VideoError):
        list(sampled_frames(path))


def test_a_threshold_outside_is_refused() -> None:
    with pytest.raises(UsageError, match=r"least_vote 1\.5 is outside 0…1"):
        LivenessOptions(least_vote=1.5)


def test_the_command_and_the_function_take_videos(
    run: Callable[..., tuple[int, str, str]],
    fakes: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import facewright as fw

    film = tmp_path / "door.mp4"
    film.write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(32))
    person = JudgedFace(fakes.face_at((250, 200), 40.0), "attack", "", 0.1, True, "replay", "a screen", (0.0, 2.0))
    monkeypatch.setattr("facewright.pipelines.liveness.watch", lambda *arguments: [person])
    code, out, _ = run("liveness", film)
    assert code == 0
    assert "door.mp4: 1 face" in out
    assert "(0.0–2.0 s): attack (a screen), probability of live 10.0%" in out
    _, out, _ = run("liveness", film, "--json")
    assert json.loads(out)[0]["faces"][0]["seconds"] == [0.0, 2.0]
    code, _, err = run("liveness", film, "--draw", tmp_path / "seen.png")
    assert code == 2
    assert "--draw and --page work for a photo" in err
    assert fw.liveness(film) == [person]
