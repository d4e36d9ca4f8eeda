"""Restoring the faces of a video: detect, follow, align, restore, steady over time, paste.

`VideoRestorer` is a stage for `facewright.io.video.process_video`. Frames may come in runs of any length: the result
is the same, only the crops of a run share calls of the network.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..errors import UsageError
from ..face import Face
from ..geometry.paste import face_mask, face_patch, paste_patch
from ..geometry.similarity import transform_points
from ..geometry.templates import template_points
from ..io.provenance import embed_watermark, watermark_strength
from .colour_match import restore_crops
from .second_opinion import LEAST_CERTAINTY, NO_FACE, log_odds
from .tracking import FaceTracker, TrackedFace, TrackerOptions, face_motion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from ..face import FaceCrop
    from ..io.video import Frame
    from ..tasks.detect import Detector
    from ..tasks.restore import Restorer
    from .finding import Opinion

_LOOK = 4  # how many times smaller than the crop the picture is in which change of the input is looked for
_FIRST_LOOKS, _LOOK_AGAIN = 3, 12  # frames in which a second opinion is asked of a tracked face
_MEMORY_FRAMES = 8  # memory is returned once in so many frames; more often costs speed, less often lets it pile up


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """What to do with the faces of a video.

    `strength` in [0, 1] blends the restoration in, `fidelity` is handed to the restorer. Faces with eyes closer than
    `min_eye_distance` pixels or turned by more than `max_yaw` degrees are left alone, and of many only the `max_faces`
    largest are restored. The detector looks at every `detect_every`-th frame and at every scene's first; in between,
    faces are followed in the picture. `steadiness` in [0, 1) is how much of the restored detail is carried over from
    the frame before (0: nothing). `watermark` marks restored faces invisibly. `relight` takes the restorer's light and
    colours instead of the video's. `seed` draws the restorer's noise anew, the same for every frame.
    `crops_per_call` bounds the network's batch.
    """

    upscale: int = 1
    strength: float = 1.0
    fidelity: float = 1.0
    max_faces: int | None = None
    min_eye_distance: float = 6.0
    max_yaw: float = 70.0
    detect_every: int = 1
    steadiness: float = 0.85
    watermark: bool = True
    relight: bool = False
    seed: int | None = None
    crops_per_call: int = 16
    tracker: TrackerOptions = field(default_factory=TrackerOptions)

    def __post_init__(self) -> None:
        if self.upscale not in (1, 2, 4):
            raise UsageError(f"upscale must be 1, 2 or 4, not {self.upscale}")
        if not 0 <= self.strength <= 1:
            raise UsageError(f"strength must be between 0 and 1, not {self.strength}")
        if not 0 <= self.steadiness < 1:
            raise UsageError(f"steadiness must be at least 0 and below 1, not {self.steadiness}")
        for name in ("detect_every", "crops_per_call"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class PersonReport:
    """What happened to one tracked face: frame indices of its first and last sighting, and its frames counted.

    `skipped` maps a reason to the number of frames in which it kept the face from being restored.
    """

    id: int
    first: int
    last: int
    frames: int
    restored: int
    skipped: dict[str, int]


class DetailMemory:
    """Steadies the restored detail of one face over time.

    A restorer answers slightly different inputs with slightly different detail, and the alignment of a face jitters by
    a fraction of a pixel, which a sharper face shows as flicker. Detail, the restored crop minus the low-passed input
    crop, is blended recursively with that of the frame before, moved by what the two input crops say about the motion
    between them. Where the input itself changed (a blink, a word, a hand), seen at a finer scale than that of the
    low-pass, the memory yields to the new detail, so that nothing is smeared. Light and colour of the input pass at
    once.
    """

    def __init__(self, steadiness: float, tolerance: float = 10.0) -> None:
        self.steadiness, self.tolerance = steadiness, tolerance
        self._last: _Remembered | None = None

    def __call__(self, crop: NDArray[np.uint8], restored: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(S, S, 3) uint8 input and restored crop to the steadied restored crop."""
        if self.steadiness == 0:
            return restored
        size = (len(crop), len(crop))
        small = cv2.resize(crop, None, fx=1 / _LOOK, fy=1 / _LOOK, interpolation=cv2.INTER_AREA)
        look = np.asarray(cv2.GaussianBlur(small.astype(np.float32), (0, 0), 1), np.float32)
        base = cv2.resize(cv2.GaussianBlur(look, (0, 0), max(0.5, len(look) / 20)), size)
        detail = np.asarray(restored - base, np.float32)
        grey = np.asarray(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), np.uint8)
        if self._last is not None:
            last = self._last.moved_to(grey)
            change = np.abs(look - last.look).mean(-1)
            keep = self.steadiness * np.exp(-((change / self.tolerance) ** 2))
            weight = cv2.cvtColor(cv2.resize(keep, size), cv2.COLOR_GRAY2RGB)
            detail += cv2.multiply(weight, last.detail - detail)
        self._last = _Remembered(grey, look, detail)
        return np.asarray(np.clip(base + detail + 0.5, 0, 255).astype(np.uint8))


@dataclass(frozen=True, slots=True, eq=False)
class _Remembered:
    """The frame before: the input crop in grey (S, S), the same small and smoothed, (S/4, S/4, 3), and its steadied
    detail, (S, S, 3)."""

    grey: NDArray[np.uint8]
    look: NDArray[np.float32]
    detail: NDArray[np.float32]

    def moved_to(self, grey: NDArray[np.uint8]) -> _Remembered:
        """Registered to the next input crop in grey; as it is when no motion can be told."""
        size = len(grey)
        box = np.array([0.2, 0.25, 0.8, 0.9], np.float32) * size  # brows to chin of the template
        motion = face_motion(self.grey, grey, Face(box, 1.0, template_points("ffhq", size).astype(np.float32)))
        if motion is None:
            return self
        shrunk = motion.copy()
        shrunk[:, 2] = (motion @ (_LOOK / 2 - 0.5, _LOOK / 2 - 0.5, 1) + 0.5) / _LOOK - 0.5
        return _Remembered(grey, _warped(self.look, shrunk), _warped(self.detail, motion))


def _warped(image: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    size = (image.shape[1], image.shape[0])
    # linear interpolation, frame after frame, would blur
    moved = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.float32)


class _Person:
    """What is remembered of one tracked face while it is in the picture."""

    def __init__(self, identity: int, index: int, steadiness: float) -> None:
        self.id, self.first, self.last = identity, index, index
        self.memory = DetailMemory(steadiness)
        self.gain: float | None = None
        self.psnr: float | None = None
        self.frames, self.restored = 0, 0
        self.looks, self.odds = 0, 0.0
        self.skipped: Counter[str] = Counter()

    def marked(self, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The crop with the invisible mark, whose strength the first one decides."""
        values = crop.astype(np.float32)
        if self.psnr is None:
            self.psnr = watermark_strength(values)
        return np.rint(embed_watermark(values, psnr=self.psnr)).clip(0, 255).astype(np.uint8)

    def is_due(self) -> bool:
        """Whether a second opinion is to be asked: at first on every frame, then now and then."""
        return self.looks < _FIRST_LOOKS or self.frames % _LOOK_AGAIN == 0

    def hear(self, certainty: float) -> None:
        """Take in one look's probability of being a face."""
        self.looks, self.odds = self.looks + 1, self.odds + float(log_odds(np.clip(certainty, 1e-6, 1 - 1e-6)))

    @property
    def believed(self) -> bool:
        """Whether the looks so far, their mean log odds, speak for a face."""
        return bool(self.odds / max(1, self.looks) >= log_odds(LEAST_CERTAINTY))

    def decide(self, reason: str | None, fade: int) -> float:
        """Move the gain towards "restore" or, for a reason, "leave alone"; the first decision counts in full."""
        wanted = 1.0 if reason is None else 0.0
        if self.gain is None:
            self.gain = wanted
        self.gain = float(np.clip(wanted, self.gain - 1 / fade, self.gain + 1 / fade))
        return self.gain

    def count(self, index: int, strength: float, reason: str | None) -> None:
        self.frames, self.last = self.frames + 1, index
        if strength > 0:
            self.restored += 1
        else:
            self.skipped[reason or "fading in"] += 1

    def report(self) -> PersonReport:
        return PersonReport(self.id, self.first, self.last, self.frames, self.restored, dict(self.skipped))


def _batch_size(waiting: int, most: int) -> int:
    """The largest power of two within both: oneDNN keeps compiled kernels for every batch size it has seen."""
    return 1 << (min(waiting, most).bit_length() - 1)


def _memory_returner() -> Callable[[], None]:
    """A call that hands free pages of the C heap back to the system; it does nothing where glibc is not in use.

    What oneDNN keeps for each new shape lies among the networks' large temporaries, so the heap cannot shrink from its
    end, and the holes are too scattered to be used again.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return lambda: None
    return lambda: trim(0)


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    person: _Person
    face: Face
    crop: FaceCrop
    strength: float


class VideoRestorer:
    """A `FrameStage` that restores faces.

    `judge`, when given, looks at a (S, S, 3) uint8 crop and its face and returns why it should be left alone, or None.
    `opinion`, when given, is asked a few times whether a tracked face is one; what it doubts is left alone. A detector
    with a `begin_scene` is told where a scene begins.
    """

    def __init__(
        self,
        restorer: Restorer,
        detector: Detector,
        options: VideoOptions | None = None,
        judge: Callable[[NDArray[np.uint8], Face], str | None] | None = None,
        opinion: Opinion | None = None,
    ) -> None:
        self.restorer, self.detector, self.opinion = restorer, detector, opinion
        self.options = options or VideoOptions()
        self.judge = judge or (lambda crop, face: None)
        self._tracker = FaceTracker(self.options.tracker)
        self._people: dict[int, _Person] = {}
        self._gone: list[PersonReport] = []
        self._detected: int | None = None
        self._return_memory = _memory_returner()
        self._frames_held = 0

    def reset(self, index: int) -> None:
        """Forget the faces in the picture; what was counted stays in `report`."""
        self._tracker.reset()
        self._begin_scene()
        self._detected = None
        self._dismiss(set())

    def report(self) -> tuple[PersonReport, ...]:
        """One entry per person seen so far, in order of appearance."""
        people = [*self._gone, *(person.report() for person in self._people.values())]
        return tuple(sorted((p for p in people if p.frames), key=lambda p: p.id))

    def __call__(self, frames: list[Frame]) -> list[NDArray[np.uint8]]:
        """Consecutive frames to restored ones, each side `upscale` times as long."""
        plans = [self._plan(frame) for frame in frames]
        restored = iter(self._restore([work.crop.image for plan in plans for work in plan]))
        pictures = [self._compose(frame.pixels, plan, restored) for frame, plan in zip(frames, plans, strict=True)]
        self._frames_held += len(frames)
        if self._frames_held >= _MEMORY_FRAMES:
            self._return_memory()
            self._frames_held = 0
        return pictures

    def _plan(self, frame: Frame) -> list[_Work]:
        """Which faces of a frame are to be restored, and how strongly."""
        tracked = self._follow(frame)
        self._dismiss({t.id for t in tracked})
        chosen = self._largest(tracked)
        plan = []
        for t in tracked:
            person = self._people.setdefault(t.id, _Person(t.id, frame.index, self.options.steadiness))
            reason = self._unfit(t.face) or (None if t.id in chosen else "more faces than asked for")
            crop = None
            if reason is None:
                crop = self._crop(frame.pixels, t.face)
                reason = self._doubt(person, crop, t.face) or self.judge(crop.image, t.face)
            strength = self.options.strength * t.alpha * person.decide(reason, self.options.tracker.fade)
            if strength > 0:
                plan.append(_Work(person, t.face, crop or self._crop(frame.pixels, t.face), strength))
            if not frame.settling:
                person.count(frame.index, strength, reason)
        return plan

    def _follow(self, frame: Frame) -> list[TrackedFace]:
        starts_scene = self._tracker.starts_scene(frame.pixels)
        due = self._detected is None or frame.index - self._detected >= self.options.detect_every
        detections = None
        if starts_scene:
            self._begin_scene()
        if starts_scene or due:
            detections = self.detector.detect(frame.pixels)
            self._detected = frame.index
        return self._tracker.update(frame.pixels, detections, frame.time)

    def _begin_scene(self) -> None:
        begin: Callable[[], None] | None = getattr(self.detector, "begin_scene", None)
        if begin is not None:
            begin()

    def _doubt(self, person: _Person, crop: FaceCrop, face: Face) -> str | None:
        """Why a tracked face is taken for something else; None where it is believed."""
        if self.opinion is None:
            return None
        if person.is_due():
            person.hear(self.opinion.of_crop(crop, face))
        return None if person.believed else NO_FACE

    def _largest(self, tracked: list[TrackedFace]) -> set[int]:
        by_size = sorted(tracked, key=lambda t: t.face.eye_distance, reverse=True)
        return {t.id for t in by_size[: self.options.max_faces]}

    def _unfit(self, face: Face) -> str | None:
        if face.eye_distance < self.options.min_eye_distance:
            return "too small"
        if face.pose is not None and abs(face.pose.yaw) > self.options.max_yaw:
            return "turned away"
        return None

    def _crop(self, image: NDArray[np.uint8], face: Face) -> FaceCrop:
        return self.restorer.preprocess.crop.cut(image, face)

    def _restore(self, crops: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        restored: list[NDArray[np.uint8]] = []
        while len(restored) < len(crops):
            size = _batch_size(len(crops) - len(restored), self.options.crops_per_call)
            run = np.stack(crops[len(restored) : len(restored) + size])
            options = self.options
            done = restore_crops(self.restorer, run, options.fidelity, relight=options.relight, seed=options.seed)
            restored.extend(done)
        return restored

    def _compose(
        self, pixels: NDArray[np.uint8], plan: list[_Work], restored: Iterator[NDArray[np.uint8]]
    ) -> NDArray[np.uint8]:
        scale = self.options.upscale
        out = pixels
        if scale > 1:
            out = np.asarray(cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_LANCZOS4), np.uint8)
        for work in plan:
            steady = work.person.memory(work.crop.image, next(restored))
            if self.options.watermark:
                steady = work.person.marked(steady)
            mask = face_mask(transform_points(work.crop.matrix, work.face.points5), work.crop.size)
            height, width = out.shape[:2]
            patch = face_patch(work.crop, steady, mask, (height, width), scale)
            if patch is not None:
                out = paste_patch(out, patch, work.strength)
        return out

    def _dismiss(self, present: set[int]) -> None:
        for identity in self._people.keys() - present:
            self._gone.append(self._people.pop(identity).report())
