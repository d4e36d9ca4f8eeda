"""The editor of videos with a stand-in detector and edit: what it changes, how steadily, and what it reports."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from skimage import data

from facewright.errors import UsageError
from facewright.face import Face, Pose
from facewright.geometry.crop import CropSpec
from facewright.io.video import Frame, process_video
from facewright.pipelines.edit import Cut, Decision, Editor, Outcome
from facewright.pipelines.tracking import TrackerOptions, warped_difference
from facewright.pipelines.video import DetailMemory, VideoEditor, VideoOptions
from facewright.tasks.edit import EditOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SHAPE = np.array([(-0.5, -0.4), (0.5, -0.4), (0, 0.1), (-0.4, 0.6), (0.4, 0.6)])


def scene(x: float, y: float, eye_distance: float = 22.0, size: tuple[int, int] = (120, 160)) -> NDArray[np.uint8]:
    """An orange face with dark eyes and mouth on a blue ground, drawn with subpixel position."""
    big = np.full((size[0] * 4, size[1] * 4, 3), (70, 90, 140), np.uint8)
    for radius, offset, colour in [
        (1.3, (0.0, 0.1), (220, 150, 60)),
        (0.18, (-0.5, -0.4), (90, 50, 20)),
        (0.18, (0.5, -0.4), (90, 50, 20)),
        (0.22, (0.0, 0.6), (150, 60, 30)),
    ]:
        centre = np.round(((np.array(offset) * eye_distance + (x, y)) * 4 + 1.5) * 16).astype(int)
        cv2.circle(big, tuple(int(v) for v in centre), round(radius * eye_distance * 64), colour, -1, cv2.LINE_AA, 4)
    return cv2.resize(big, size[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def face_at(x: float, y: float, eye_distance: float = 22.0) -> Face:
    points = SHAPE * eye_distance + (x, y)
    half = np.array([1.3, 1.4]) * eye_distance
    box = np.array([x - half[0], y - half[1], x + half[0], y + half[1]])
    return Face(box.astype(np.float32), 0.9, points.astype(np.float32))


class BlobDetector:
    """Finds orange blobs, with a little jitter in the points."""

    def __init__(self, jitter: float = 0.0) -> None:
        self.jitter, self.calls = jitter, 0
        self.rng = np.random.default_rng(0)

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        self.calls += 1
        warm = (image[..., 0].astype(int) - image[..., 2] > 60).astype(np.uint8)
        count, _, stats, _ = cv2.connectedComponentsWithStats(warm)
        faces = []
        for x, y, width, height, area in stats[1:count]:
            if area > 60:
                eye_distance = width / 2.6
                face = face_at(x + width / 2 - 0.5, y + height / 2 - 0.5 - 0.1 * eye_distance, eye_distance)
                noise = self.rng.normal(0, self.jitter, (5, 2))
                faces.append(replace(face, points5=(face.points5 + noise).astype(np.float32)))
        return faces


class Fake:
    """An edit of faces out of a function of (N, 64, 64, 3) crops; `verdict` says of a face why it is left alone."""

    verb = "paint"

    def __init__(
        self, function: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], verdict: Callable[[], str] = str
    ) -> None:
        self.function, self.verdict = function, verdict
        self.batches: list[int] = []
        self.checked = 0

    def crop_for(self, face: Face, current: CropSpec | None = None) -> CropSpec:
        return CropSpec.aligned(64)

    def decide(self, image: NDArray[np.uint8], cuts: Sequence[Cut]) -> list[Decision]:
        return [Decision(not why, why or "wanted") for why in (self.verdict() for _ in cuts)]

    def edit(self, cuts: Sequence[Cut], decisions: Sequence[Decision]) -> NDArray[np.uint8]:
        self.batches.append(len(cuts))
        return self.function(np.stack([cut.crop.image for cut in cuts]))

    def check(self, cuts: Sequence[Cut], decisions: Sequence[Decision], outputs: NDArray[np.uint8]) -> list[Outcome]:
        self.checked += len(cuts)
        return [Outcome(output, record="fine") for output in outputs]

    def temper(self, cut: Cut, output: NDArray[np.uint8], outcome: Outcome) -> NDArray[np.uint8]:
        return output

    def report(self, decision: Decision, outcome: Outcome | None) -> dict[str, Any]:
        return {"said": None if outcome is None else outcome.record}


EVERY_FRAME: dict[str, Any] = {"edit_every": 1, "detect_every": 1}


def stage(
    fake: Fake | Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
    detector: Any,
    options: EditOptions | None = None,
    **pace: Any,
) -> VideoEditor:
    """The stage with an edit and a detector, without marks and grain, which tests of their own look at."""
    edit = fake if isinstance(fake, Fake) else Fake(fake)
    options = options or EditOptions(watermark=False, grain="none")
    return VideoEditor(Editor(detector), edit, options, VideoOptions(**pace))


def redder(crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.clip(crops + np.array([30, 0, 0], np.int16), 0, 255).astype(np.uint8)


def video(count: int, path: Callable[[int], tuple[float, float]], noise: float = 0.0) -> list[Frame]:
    rng = np.random.default_rng(7)
    frames = []
    for i in range(count):
        clean = scene(*path(i))
        noisy = np.clip(clean + rng.normal(0, noise, clean.shape), 0, 255).astype(np.uint8) if noise else clean
        noisy.setflags(write=False)
        frames.append(Frame(i, i / 25, noisy))
    return frames


def resting(_: int) -> tuple[float, float]:
    return 80.0, 60.0


def walking(i: int) -> tuple[float, float]:
    return 50.0 + 1.5 * i, 60.0 + 8 * np.sin(i / 5)


def flicker(frames: list[NDArray[np.uint8]], path: Callable[[int], tuple[float, float]]) -> float:
    points = [face_at(*path(i)).points5 for i in range(len(frames))]
    pairs = zip(frames, frames[1:], points, points[1:], strict=False)
    return float(np.mean([warped_difference(a, b, p, q, size=96) for a, b, p, q in pairs]))


def test_only_the_face_changes_and_by_what_the_restorer_says() -> None:
    frames = video(4, resting)
    out = stage(redder, BlobDetector())(frames)
    change = out[0].astype(int) - frames[0].pixels
    np.testing.assert_allclose(change[55:65, 75:85].mean((0, 1)), (30, 0, 0), atol=1.5)
    far = np.hypot(*(np.indices((120, 160)) - np.array([62, 80])[:, None, None])) > 50
    assert not change[far].any()


def test_strength_scales_the_change_and_zero_leaves_the_frame_alone() -> None:
    frames = video(2, resting)
    half = stage(redder, BlobDetector(), EditOptions(strength=0.5, watermark=False, grain="none"))
    out = half(frames)[1]
    assert (out.astype(int) - frames[1].pixels)[60, 80, 0] == pytest.approx(15, abs=2)
    fake = Fake(redder)
    none = stage(fake, BlobDetector(), EditOptions(strength=0.0))
    assert none(frames)[1] is frames[1].pixels
    assert fake.batches == []


def test_upscale_enlarges_frame_and_face() -> None:
    frames = video(2, resting)
    out = stage(redder, BlobDetector(), EditOptions(upscale=2, watermark=False, grain="none"))(frames)[1]
    plain = cv2.resize(frames[1].pixels, None, fx=2, fy=2, interpolation=cv2.INTER_LANCZOS4)
    change = out.astype(int) - plain
    assert out.shape == (240, 320, 3)
    np.testing.assert_allclose(change[110:130, 150:170].mean((0, 1)), (30, 0, 0), atol=1.5)
    assert not change[:, :50].any()


@pytest.mark.parametrize("pace", [EVERY_FRAME, {"detect_every": 3, "edit_every": 4}, {}])
def test_the_length_of_the_runs_does_not_matter(pace: dict[str, Any]) -> None:
    frames = video(20, walking, noise=4)
    whole, pieces = (stage(redder, BlobDetector(0.3), EditOptions(), **pace) for _ in range(2))
    at_once = whole(frames)
    one_by_one = [picture for start in range(0, 20, 3) for picture in pieces(frames[start : start + 3])]
    for a, b in zip(at_once, one_by_one, strict=True):
        np.testing.assert_array_equal(a, b)
    assert whole.report() == pieces.report()


def test_crops_of_several_frames_share_a_call() -> None:
    fake, detector = Fake(redder), BlobDetector()
    stage(fake, detector, crops_per_call=8, detect_every=5, edit_every=1)(video(20, resting))
    assert fake.batches == [8, 8, 4]
    assert detector.calls == 4


def test_batches_come_in_few_sizes() -> None:
    fake = Fake(redder)
    stage(fake, BlobDetector(), crops_per_call=12, **EVERY_FRAME)(video(27, resting))
    assert fake.batches == [8, 8, 8, 2, 1]


def test_networks_run_where_something_changes_and_else_now_and_then() -> None:
    """A face at rest is edited in every eighth frame; when its colour leaps, at once."""
    fake = Fake(redder)
    frames = video(18, resting)
    assert len(stage(fake, BlobDetector())(frames)) == 18
    assert sum(fake.batches) == 3
    changed = frames[9].pixels.copy()
    changed[50:75, 70:95] = 255 - changed[50:75, 70:95]
    fake = Fake(redder)
    out = stage(fake, BlobDetector())([*frames[:9], *(replace(f, pixels=changed) for f in frames[9:])])
    assert sum(fake.batches) == 4  # frames 0, 8, 9 and 17
    np.testing.assert_allclose((out[9].astype(int) - changed)[60:66, 78:86].mean((0, 1)), (30, 0, 0), atol=6)


def test_between_edits_the_change_goes_with_the_face() -> None:
    frames = video(18, walking)
    fake = Fake(redder)
    out = stage(fake, BlobDetector())(frames)
    assert sum(fake.batches) <= 6
    for i, (before, after) in enumerate(zip(frames, out, strict=True)):
        x, y = (round(float(v)) for v in walking(i))
        change = (after.astype(int) - before.pixels)[y - 4 : y + 4, x - 4 : x + 4].mean((0, 1))
        np.testing.assert_allclose(change, (30, 0, 0), atol=3)


def test_a_detector_that_follows_is_seldom_asked_to_detect() -> None:
    class Following(BlobDetector):
        looks = 0

        def follow(self, image: NDArray[np.uint8], faces: list[Face]) -> list[Face]:
            self.looks += 1
            seen = BlobDetector.detect(self, image)
            self.calls -= 1
            return [min(seen, key=lambda f: np.hypot(*(f.points5 - face.points5).mean(0))) for face in faces]

    frames, detector = video(20, walking), Following()
    stage(redder, detector)(frames)
    assert (detector.calls, detector.looks) == (2, 18)  # frames 0 and 16

    class Blind(Following):
        def follow(self, image: NDArray[np.uint8], faces: list[Face]) -> list[Face]:
            return [replace(face, score=0.0) for face in faces]

    detector = Blind()
    stage(redder, detector)(frames)
    assert detector.calls >= 10  # whoever is lost is looked for


def test_nothing_kept_grows_with_the_video() -> None:
    frames = video(20, resting, noise=4)
    restorer = stage(redder, BlobDetector(0.3))

    def play(start: int) -> None:
        for i in range(0, 20, 4):
            restorer([replace(f, index=start + f.index, time=(start + f.index) / 25) for f in frames[i : i + 4]])

    play(0)
    tracemalloc.start()
    play(20)
    early, _ = tracemalloc.get_traced_memory()
    for start in (40, 60, 80):
        play(start)
    late, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert late - early < frames[0].pixels.nbytes  # not one picture in 60 frames, let alone one in each


def test_free_memory_is_returned_every_few_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    returned: list[int] = []
    monkeypatch.setattr("facewright.pipelines.video._memory_returner", lambda: lambda: returned.append(seen))  # type: ignore[has-type]
    restorer = stage(redder, BlobDetector())
    seen = 0
    for run in (6, 6, 6, 10, 16, 3):
        seen += run
        restorer(video(run, resting))
    assert returned == [18, 44]


@pytest.mark.parametrize("edit_every", [1, 6])
def test_flicker_of_an_unstable_restorer_stays_below_the_input(edit_every: int) -> None:
    frames = video(30, walking, noise=6)
    rng = np.random.default_rng(1)

    def unstable(crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A perfect denoiser, were it not for new coarse-grained detail in every frame."""
        smooth = np.stack([cv2.GaussianBlur(c, (0, 0), 2) for c in crops])
        grain = np.stack([cv2.GaussianBlur(rng.normal(0, 30, c.shape), (0, 0), 1) for c in crops])
        return np.clip(smooth + grain, 0, 255).astype(np.uint8)

    before = flicker([f.pixels for f in frames], walking)
    steady = flicker(stage(unstable, BlobDetector(0.4), edit_every=edit_every, detect_every=1)(frames), walking)
    rng = np.random.default_rng(1)
    raw = stage(unstable, BlobDetector(0.4), steadiness=0, detect_every=1)(frames)
    assert steady <= before
    assert steady < 0.8 * flicker(raw, walking)


def test_memory_averages_detail_but_yields_where_the_input_changes() -> None:
    rng = np.random.default_rng(0)
    crop = np.full((64, 64, 3), 128, np.uint8)
    memory = DetailMemory(steadiness=0.8)
    outputs = [memory(crop, np.clip(128 + rng.normal(0, 10, crop.shape), 0, 255).astype(np.uint8)) for _ in range(40)]
    # a recursive mean with weight a leaves sqrt((1 - a) / (1 + a)) of white noise
    assert np.std([o.astype(float) for o in outputs[20:]]) == pytest.approx(10 / 3, rel=0.1)

    blink = crop.copy()
    blink[20:30] = 40
    after = memory(blink, blink)
    assert np.abs(after[22:28].astype(int) - 40).max() <= 1
    lighter = DetailMemory(0.8)
    lighter(crop, crop)
    np.testing.assert_array_equal(lighter(crop + np.uint8(4), crop + np.uint8(4)), crop + np.uint8(4))


def psnr(images: list[NDArray[np.uint8]], truth: list[NDArray[np.uint8]]) -> float:
    squares = [(a.astype(float) - b) ** 2 for a, b in zip(images, truth, strict=True)]
    return float(10 * np.log10(255**2 / np.mean(squares)))


def wobbling_crops(count: int) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """A blurred and a sharp (128, 128, 3) picture that both wobble by about a pixel, as alignment does."""
    rng = np.random.default_rng(2)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (128, 128, 3)).astype(np.uint8), (0, 0), 2)
    sharp = cv2.normalize(texture, None, 20, 235, cv2.NORM_MINMAX)
    matrices = [np.array([[1, 0, dx], [0, 1, dy]]) for dx, dy in rng.normal(0, 1, (count, 2))]
    shifted = [
        cv2.warpAffine(sharp, m, (128, 128), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT) for m in matrices
    ]
    return [cv2.GaussianBlur(x, (0, 0), 1.5) for x in shifted], shifted  # type: ignore[misc, return-value]


def error(images: list[NDArray[np.uint8]], truth: list[NDArray[np.uint8]]) -> float:
    inner = (slice(16, 112), slice(16, 112))
    return float(
        np.mean([np.abs(a[inner].astype(float) - b[inner]).mean() for a, b in zip(images, truth, strict=True)])
    )


def test_memory_follows_a_wobbling_crop() -> None:
    crops, sharp = wobbling_crops(20)
    rng = np.random.default_rng(3)
    noisy = [np.clip(x + rng.normal(0, 8, x.shape), 0, 255).astype(np.uint8) for x in sharp]
    memory = DetailMemory(0.85)
    steady = [memory(c, n) for c, n in zip(crops, noisy, strict=True)]
    # averaging alone leaves 0.28 of the noise; averaging without following would leave as much blur as there was noise
    assert error(steady[8:], sharp[8:]) < 0.4 * error(noisy[8:], sharp[8:])


def test_without_steadiness_the_restored_crop_passes() -> None:
    crops, sharp = wobbling_crops(3)
    memory = DetailMemory(0)
    for crop, restored in zip(crops, sharp, strict=True):
        np.testing.assert_array_equal(memory(crop, restored), restored)


def test_sharpened_portrait_flickers_no_more_than_the_blurred_one() -> None:
    rng = np.random.default_rng(4)
    portrait = cv2.resize(data.astronaut()[:240, 80:400], (160, 120), interpolation=cv2.INTER_AREA)
    eyes_nose_mouth = np.array([(58.5, 45), (78.5, 45), (67, 55), (60, 65.5), (76, 65.5)])
    clean, frames, faces = [], [], []
    for i in range(24):
        motion = np.array([[1, 0, 12 * np.sin(i / 6)], [0, 1, 5 * np.cos(i / 4)]])
        moved = cv2.warpAffine(portrait, motion, (160, 120), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        blurred = cv2.GaussianBlur(moved, (0, 0), 1.2) + rng.normal(0, 1.5, moved.shape)
        points = (eyes_nose_mouth + motion[:, 2]).astype(np.float32)
        box = np.array([*points.min(0) - 12, *points.max(0) + 12], np.float32)
        clean.append(moved)
        frames.append(Frame(i, i / 25, np.clip(blurred, 0, 255).astype(np.uint8)))
        faces.append(Face(box, 0.9, points))

    class Jittery:
        def __init__(self) -> None:
            self.shown = iter(faces)

        def detect(self, image: NDArray[np.uint8]) -> list[Face]:
            face = next(self.shown)
            return [replace(face, points5=face.points5 + rng.normal(0, 0.4, (5, 2)).astype(np.float32))]

    def sharpen(crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
        soft = np.stack([cv2.GaussianBlur(c, (0, 0), 3) for c in crops]).astype(float)
        return np.clip(soft + 1.4 * (crops - soft), 0, 255).astype(np.uint8)

    def difference(images: list[NDArray[np.uint8]]) -> float:
        pairs = zip(images, images[1:], faces, faces[1:], strict=False)
        return float(np.mean([warped_difference(a, b, p.points5, q.points5, size=96) for a, b, p, q in pairs]))

    before = difference([f.pixels for f in frames])
    blurred = psnr([f.pixels for f in frames], clean)  # type: ignore[arg-type, assignment]
    for every in (1, 6):
        out = stage(sharpen, Jittery(), detect_every=1, edit_every=every)(frames)
        assert difference(out) <= before
        assert psnr(out, clean) > blurred  # type: ignore[arg-type]


def test_small_turned_and_surplus_faces_are_left_alone_and_counted() -> None:
    frames = video(5, resting)
    profile = replace(face_at(80, 60), pose=Pose(85, 0, 0))
    small, big, other = face_at(20, 20, 4), face_at(80, 60, 22), face_at(130, 90, 15)

    class Fixed:
        def __init__(self, *faces: Face) -> None:
            self.faces = list(faces)

        def detect(self, image: NDArray[np.uint8]) -> list[Face]:
            return self.faces

    restorer = stage(redder, Fixed(profile, small))
    for frame, out in zip(frames, restorer(frames), strict=True):
        np.testing.assert_array_equal(out, frame.pixels)
    assert [p.skipped for p in restorer.report()] == [{"too small": 5}, {"too turned": 5}]

    chosen = stage(redder, Fixed(other, big), EditOptions(max_faces=1))
    chosen(frames)
    assert [(p.restored, p.skipped) for p in chosen.report()] == [(5, {}), (0, {"beyond the 1 largest": 5})]

    judged = stage(Fake(redder, lambda: "already good, quality 97"), Fixed(big))
    assert judged(frames)[0] is frames[0].pixels
    assert judged.report()[0].skipped == {"already good": 5}


def test_people_are_chosen_by_number_and_place() -> None:
    """Numbered as they appear, those of one frame in reading order; a place counts from when somebody was there."""
    left, right = face_at(40, 60, 15), face_at(120, 60, 15)

    class Entering:
        def __init__(self) -> None:
            self.calls = 0

        def detect(self, image: NDArray[np.uint8]) -> list[Face]:
            self.calls += 1
            return [right] if self.calls <= 3 else [right, left]

    frames = [Frame(i, i / 25, scene(40, 60, 15) // 2 + scene(120, 60, 15) // 2) for i in range(12)]
    for choice, wanted in (
        ({"faces": (0,)}, [True, False]),
        ({"faces": (1,)}, [False, True]),
        ({"skip": (0,)}, [False, True]),
        ({"points": ((40.0, 60.0),)}, [False, True]),
        ({"boxes": ((100.0, 40.0, 140.0, 80.0),)}, [True, False]),
        ({}, [True, True]),
    ):
        editor = stage(redder, Entering(), EditOptions(**choice), detect_every=1)
        editor(frames)
        report = editor.report()
        assert [p.id for p in report] == [0, 1]
        assert [p.restored > 0 for p in report] == wanted, choice
        assert [p.skipped.get("not selected", 0) > 0 for p in report] == [not w for w in wanted]


def test_who_was_picked_stays_picked_when_walking_on() -> None:
    frames = video(12, walking)
    x, y = walking(0)
    editor = stage(redder, BlobDetector(), EditOptions(points=((x, y + 20),)))
    editor(frames)
    assert editor.report()[0].restored == 12


def test_a_change_of_mind_takes_two_looks_and_fades() -> None:
    """Looks are at frames 0, 1, 2, 24, 48 and so on; one doubt, at frame 24, changes nothing."""
    frames = video(80, resting)
    pace = TrackerOptions(fade=4)

    def change(*verdicts: str) -> tuple[list[int], int]:
        said = iter(verdicts)
        editor = stage(Fake(redder, lambda: next(said)), BlobDetector(), tracker=pace)
        red = [int(out[60, 80, 0]) - int(f.pixels[60, 80, 0]) for out, f in zip(editor(frames), frames, strict=True)]
        return red, editor.report()[0].restored

    assert change("", "", "", "good", "", "")[0] == pytest.approx([30] * 80, abs=2)
    red, restored = change("", "", "", "good", "good", "good")
    assert red[:48] == pytest.approx([30] * 48, abs=2)
    assert red[48:52] == pytest.approx([22.5, 15, 7.5, 0], abs=2)
    assert not any(red[52:])
    assert restored == 51


def test_what_turns_out_badly_is_left_alone_and_says_why() -> None:
    class Fastidious(Fake):
        def check(self, cuts: Any, decisions: Any, outputs: Any) -> list[Outcome]:
            return [Outcome(None, "it came out badly") for _ in cuts]

    frames = video(8, resting)
    editor = stage(Fastidious(redder), BlobDetector())
    for frame, out in zip(frames, editor(frames), strict=True):
        np.testing.assert_array_equal(out, frame.pixels)
    (person,) = editor.report()
    assert (person.restored, person.skipped, person.details) == (0, {"it came out badly": 8}, {"said": None})


def test_marks_masks_and_grain_are_those_of_photos(fakes: Any) -> None:
    """The parser's mask, hair and all, and the grain of the surroundings reach frames as they reach photos."""
    frames = video(3, resting, noise=6)

    class LeftHalf:
        """Skin on the left of every crop, hair on the right."""

        classes = ("background", "skin", "hair")
        preprocess = fakes.Restorer(64).preprocess

        def probabilities(self, crops: NDArray[np.uint8], *, faces: Any = None) -> NDArray[np.float32]:
            found = np.zeros((len(crops), 3, *crops.shape[1:3]), np.float32)
            found[:, 1, :, :32] = found[:, 2, :, 32:] = 1
            return found

    def change(**options: Any) -> NDArray[np.float64]:
        known: dict[str, Any] = {"watermark": False, "grain": "none"}
        chosen = EditOptions(**(known | options))
        editor = VideoEditor(Editor(BlobDetector(), LeftHalf()), Fake(redder), chosen)  # type: ignore[arg-type]
        return editor(frames)[1].astype(float) - frames[1].pixels

    plain, hairy, whole = change(), change(hair=True), change(whole=True)
    left, right = np.s_[58:62, 68:72], np.s_[58:62, 90:94]
    assert plain[left].mean() > 5
    assert np.abs(plain[right]).max() == 0
    for other in (hairy, whole):
        assert other[right].mean() > 5
    assert np.abs(change(watermark=True) - plain).max() > 0

    smooth = Fake(lambda crops: np.stack([cv2.GaussianBlur(c, (0, 0), 3) for c in crops]))
    spread = []
    for wish in ("none", "match"):
        editor = VideoEditor(Editor(BlobDetector()), smooth, EditOptions(watermark=False, grain=wish))
        out = editor(frames)[1].astype(np.float32)
        spread.append(float((out - cv2.GaussianBlur(out, (0, 0), 2))[56:66, 74:86].std()))
    assert spread[1] > 1.15 * spread[0]


def test_settling_frames_are_not_counted_and_reset_keeps_the_report() -> None:
    frames = video(6, resting)
    restorer = stage(redder, BlobDetector())
    restorer([replace(f, settling=f.index < 2) for f in frames])
    restorer.reset(0)
    restorer(frames[:3])
    assert [(p.first, p.last, p.frames) for p in restorer.report()] == [(0, 5, 4), (0, 2, 3)]


@pytest.mark.parametrize("options", [{"steadiness": 1.0}, {"detect_every": 0}, {"edit_every": 0}])
def test_senseless_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        VideoOptions(**options)


def test_a_whole_video_from_file_to_file(tmp_path: Path) -> None:
    import av

    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    frames = video(30, walking, noise=3)
    with av.open(str(source), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "8"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame.pixels, format="rgb24")))
        out.mux(stream.encode(None))
    restorer = stage(redder, BlobDetector(), EditOptions(upscale=2, watermark=False))
    report = process_video(source, target, restorer, batch_size=4, segment_frames=12, preset="ultrafast", crf=8)
    assert (report.frames, report.width, report.height) == (30, 320, 240)
    (person,) = restorer.report()
    assert (person.frames, person.restored) == (30, 30)
    with av.open(str(target)) as a, av.open(str(source)) as b:
        for i, (after, before) in enumerate(zip(a.decode(video=0), b.decode(video=0), strict=True)):
            x, y = walking(i)
            spot = after.to_ndarray(format="rgb24")[round(2 * y), round(2 * x)].astype(int)
            assert spot[0] - before.to_ndarray(format="rgb24")[round(y), round(x)][0] == pytest.approx(30, abs=15)
