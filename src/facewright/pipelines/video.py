"""Editing the faces of a video: the steps of `pipelines.edit` frame by frame, and what time adds to them.

`VideoEditor` is a stage for `facewright.io.video.process_video`. It follows faces from frame to frame, decides about a
person and not about a frame, runs the edit's networks in some frames only and carries their detail over to the others,
and lets nothing pop up or flicker. Frames may come in runs of any length: the result is the same, only the crops of a
run share calls of the networks.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..errors import UsageError
from ..geometry.crop import template_face
from ..geometry.paste import paste_patch
from ..io.provenance import watermark_for
from . import grain
from .edit import Cut, Decision, Outcome, is_selected, largest_only, marked, patch_of, weighed
from .order import reading_order
from .second_opinion import LEAST_CERTAINTY, NO_FACE, log_odds
from .tracking import FaceTracker, TrackedFace, TrackerOptions, face_motion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from ..face import Face
    from ..geometry.crop import CropSpec
    from ..geometry.paste import FacePatch
    from ..io.provenance import Watermark
    from ..io.video import Frame
    from ..tasks.edit import EditOptions
    from .edit import Editor, FaceEdit
    from .finding import Opinion

    Image = NDArray[np.uint8]
    Floats = NDArray[np.float32]
    Matrix = NDArray[np.float64]

_LOOK = 4  # how many times smaller than the crop the picture is in which change of the input is looked for
_FLOW_SIZE = 256  # px: side of the crop in which its motion is measured
_FIRST_LOOKS, _LOOK_AGAIN = 3, 24  # frames in which is asked again what was decided about a face
_CHECK_AGAIN = 48  # frames in which what the edit made of a face is judged again
_MASK_FRAMES, _MASK_STEP = 24, 0.25  # a mask is made anew after so many frames, and taken over by such steps
_MASK_NEAR = 0.005
_LEAST_GRAIN = 2.0  # grey levels; fainter grain an encoder takes out of a picture that moves
_MEMORY_FRAMES = 16  # memory is returned once in so many frames; more often costs speed, less often lets it pile up


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """How the work on a video is spread over its frames.

    The detector looks at every `detect_every`-th frame, at every scene's first, and where a face is new or hard to
    follow; in between, faces are followed in the picture. The edit's networks run in every `edit_every`-th frame and
    where a face changes faster than its detail can be carried over. `steadiness` in [0, 1) is how much of the detail is
    carried over from the frame before (0: nothing, and the networks run in every frame). `crops_per_call` bounds their
    batch.
    """

    detect_every: int = 16
    edit_every: int = 8
    steadiness: float = 0.85
    crops_per_call: int = 16
    tracker: TrackerOptions = field(default_factory=TrackerOptions)

    def __post_init__(self) -> None:
        if not 0 <= self.steadiness < 1:
            raise UsageError(f"steadiness must be at least 0 and below 1, not {self.steadiness}")
        for name in ("detect_every", "edit_every", "crops_per_call"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class PersonReport:
    """What happened to one tracked face: number `id` in the order of appearance, frame indices of its first and last
    sighting, and its frames counted.

    `skipped` maps a reason to the number of frames in which it kept the face from being edited. `details` is what the
    edit says of the face, of the last frame in which it looked closely.
    """

    id: int
    first: int
    last: int
    frames: int
    restored: int
    skipped: dict[str, int]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """What one frame shows of a face: the crop; the same in grey for its motion, and small and smoothed (S/4, S/4, 3).

    `motion` is the (2, 3) matrix from the crop before to this one, None where it cannot be told; `key` says that the
    face is to be edited anew.
    """

    crop: Image
    grey: NDArray[np.uint8]
    look: Floats
    motion: Matrix | None
    key: bool


class DetailMemory:
    """Steadies the edited detail of one face over time, and knows when there is need for new.

    An edit answers slightly different inputs with slightly different detail, and the alignment of a face jitters by a
    fraction of a pixel, which a sharper face shows as flicker. Detail is the edited crop minus the low-passed input
    crop. What the last edit gave is moved along by what the input crops say about the motion between them, and what is
    shown follows it recursively. Where the input itself changed (a blink, a word, a hand), seen at a finer scale than
    that of the low-pass, both yield, so that nothing is smeared; where much has changed, `watch` asks for an edit.
    Light and colour of the input pass at once.

    `watch` looks at the crops of all frames in order, `steady` makes the pictures, in order, too.
    """

    def __init__(self, steadiness: float, edit_every: int = 1, tolerance: float = 10.0) -> None:
        self.steadiness, self.edit_every, self.tolerance = steadiness, edit_every, tolerance
        self._seen: Sight | None = None
        self._at_key: Floats | None = None
        self._age = 0
        self._shown: _Detail | None = None

    def __call__(self, crop: Image, edited: Image) -> Image:
        """(S, S, 3) uint8 input and edited crop of a frame to the steadied edited crop."""
        return self.steady(self.watch(crop), edited)

    def watch(self, crop: Image) -> Sight:
        """What an (S, S, 3) uint8 crop of the next frame shows; its `key` asks for an edit."""
        small = cv2.resize(crop, None, fx=1 / _LOOK, fy=1 / _LOOK, interpolation=cv2.INTER_AREA)
        look = np.asarray(cv2.GaussianBlur(small.astype(np.float32), (0, 0), 1), np.float32)
        grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
        if len(grey) > _FLOW_SIZE:
            grey = cv2.resize(grey, (_FLOW_SIZE, _FLOW_SIZE), interpolation=cv2.INTER_AREA)
        before, fits = self._seen, self._seen is not None and self._seen.crop.shape == crop.shape
        motion = _motion(before.grey, np.asarray(grey, np.uint8), len(crop)) if before is not None and fits else None
        self._age += 1
        key = not fits or self.steadiness == 0 or self._age >= self.edit_every or self._has_changed(look, motion)
        self._seen = Sight(crop, np.asarray(grey, np.uint8), look, motion, key)
        if key:
            self._at_key, self._age = look, 0
        return self._seen

    def _has_changed(self, look: Floats, motion: Matrix | None) -> bool:
        """Whether the face shows much that it did not show when it was last edited; moves what it showed along."""
        assert self._at_key is not None
        if motion is not None:
            self._at_key = _warped(self._at_key, _in_look(motion))
        change = np.abs(look - self._at_key).mean(-1)
        share = float((change[_inner(len(change))] > self.tolerance).mean())
        return share > _CHANGED_SHARE

    def steady(self, sight: Sight, edited: Image | None) -> Image:
        """The picture of a frame that `watch` saw: with `edited` (S, S, 3) where it is a key, else None."""
        if self.steadiness == 0:
            assert edited is not None
            return edited
        size = sight.crop.shape[1::-1]
        base = cv2.resize(cv2.GaussianBlur(sight.look, (0, 0), max(0.5, len(sight.look) / 20)), size)
        fresh = np.asarray(cv2.subtract(sight.crop if edited is None else edited, base, dtype=cv2.CV_32F), np.float32)
        before = None if self._shown is None or self._shown.detail.shape != fresh.shape else self._shown
        if before is None:
            detail, target = fresh, fresh
        else:
            moved = before.moved(sight.motion)
            change = np.abs(sight.look - moved.look).mean(-1) / self.tolerance
            # between edits there is no other detail than the input's: it comes in where little else is left to do
            target = fresh if edited is not None else _blended(fresh, moved.target, np.exp(-(change**4)))
            detail = _blended(target, moved.detail, self.steadiness * np.exp(-(change**2)))
        self._shown = _Detail(sight.look, detail, target)
        return np.asarray(cv2.add(base, detail, dtype=cv2.CV_8U), np.uint8)


_CHANGED_SHARE = 0.02  # of a face, from which on it is edited anew


@dataclass(frozen=True, slots=True, eq=False)
class _Detail:
    """The frame before: its small smoothed crop (S/4, S/4, 3), the detail that was shown, (S, S, 3), and the one that
    the last edit gave, moved to that frame."""

    look: Floats
    detail: Floats
    target: Floats

    def moved(self, motion: Matrix | None) -> _Detail:
        """Registered to the next crop; as it is when no motion can be told."""
        if motion is None:
            return self
        detail = _warped(self.detail, motion)
        target = detail if self.target is self.detail else _warped(self.target, motion)
        return _Detail(_warped(self.look, _in_look(motion)), detail, target)


def _blended(new: Floats, old: Floats, share: Floats) -> Floats:
    """`share` (S/4, S/4) of the old detail in the new."""
    weight = cv2.cvtColor(cv2.resize(share, new.shape[1::-1]), cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.add(new, cv2.multiply(weight, cv2.subtract(old, new))), np.float32)


def _inner(side: int) -> tuple[slice, slice]:
    """The part of a crop in which its face lies."""
    return slice(round(0.3 * side), round(0.85 * side)), slice(round(0.25 * side), round(0.75 * side))


def _motion(before: NDArray[np.uint8], after: NDArray[np.uint8], size: int) -> Matrix | None:
    """The (2, 3) similarity between two grey crops, in pixels of crops of `size`; None if it cannot be told."""
    motion = face_motion(before, after, template_face(len(before)))
    return None if motion is None else _scaled(motion, size / len(before))


def _scaled(motion: Matrix, factor: float) -> Matrix:
    """The same motion in a picture `factor` times as large (pixel centres at whole numbers)."""
    scaled = motion.copy()
    corner = np.full(2, (1 / factor - 1) / 2)  # where the larger picture's first pixel lies in the smaller one
    scaled[:, 2] = (motion[:, :2] @ corner + motion[:, 2] + 0.5) * factor - 0.5
    return scaled


def _in_look(motion: Matrix) -> Matrix:
    return _scaled(motion, 1 / _LOOK)


def _warped(image: Floats, matrix: Matrix) -> Floats:
    size = (image.shape[1], image.shape[0])
    # linear interpolation, frame after frame, would blur
    moved = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.float32)


class _Person:
    """What is remembered of one tracked face while it is in the picture.

    What depends on the frames alone (`memory.watch`, `decision`, `gain`) is kept apart from what depends on the
    networks' output (`outcome`, `mask`, …), because the frames of a run are all looked at before the networks run.
    """

    def __init__(self, number: int, index: int, options: VideoOptions) -> None:
        self.number, self.first, self.last, self.options = number, index, index, options
        self.memory = DetailMemory(options.steadiness, options.edit_every)
        self.crop: CropSpec | None = None
        self.chosen = False
        self.decision: Decision | None = None
        self.favour = 0.0  # in [0, 1]: how much the decisions of late speak for an edit
        self.gain: float | None = None
        self.looks, self.odds = 0, 0.0
        self.checked = -_CHECK_AGAIN  # index of the last frame in which the outcome was judged
        self.watched = -1  # index of the last frame in which the face was to be changed
        self.frames, self.edited = 0, 0
        self.skipped: Counter[str] = Counter()

        self.outcome: Outcome | None = None
        self.shown_outcome: Outcome | None = None
        self.shown_gain: float | None = None
        self.mark: Watermark | None = None
        self.mask: Floats | None = None
        self.mask_goal: Floats | None = None
        self.mask_index, self.mask_size = 0, 0
        self.grain: grain.Grain | None = None

    def is_due(self) -> bool:
        """Whether what was decided is to be asked again: at first on every frame, then now and then."""
        return self.frames < _FIRST_LOOKS or self.frames % _LOOK_AGAIN == 0

    def hear(self, certainty: float) -> None:
        """Take in one look's probability of being a face."""
        self.looks, self.odds = self.looks + 1, self.odds + float(log_odds(np.clip(certainty, 1e-6, 1 - 1e-6)))

    @property
    def believed(self) -> bool:
        """Whether the looks so far, their mean log odds, speak for a face."""
        return bool(self.odds / max(1, self.looks) >= log_odds(LEAST_CERTAINTY))

    def consider(self, decision: Decision) -> None:
        """Take in what was decided on one frame; alone against those before, it changes nothing."""
        before = self.decision
        self.favour = float(decision.wanted) if before is None else (self.favour + decision.wanted) / 2
        if before is not None and before.wanted != decision.wanted and abs(self.favour - before.wanted) <= 0.5:
            decision = replace(decision, wanted=before.wanted, reason=before.reason)
        self.decision = decision

    def watch(self, crop: Image, index: int) -> Sight:
        """The memory's `watch`; it starts anew where frames in between were not to be changed."""
        if self.watched != index - 1:
            self.memory = DetailMemory(self.options.steadiness, self.options.edit_every)
        self.watched = index
        return self.memory.watch(crop)

    def blend_mask(self, goal: Floats | None) -> Floats:
        """The mask of this frame: moved a step towards the last one that was made, `goal` where that is now."""
        if goal is not None:
            self.mask_goal = goal
        assert self.mask_goal is not None
        if self.mask is None or self.mask.shape != self.mask_goal.shape:
            self.mask = self.mask_goal
        elif self.mask is not self.mask_goal:
            step = _MASK_STEP * (self.mask_goal - self.mask)
            self.mask = self.mask_goal if float(np.abs(step).max()) < _MASK_NEAR else self.mask + step
        return self.mask

    def count(self, strength: float, reason: str) -> None:
        """Note what became of the face in a frame; numbers in a reason differ from frame to frame."""
        if strength > 0:
            self.edited += 1
        else:
            self.skipped[reason.partition(",")[0] or "fading in"] += 1

    def report(self, edit: FaceEdit) -> PersonReport:
        details = {} if self.decision is None else edit.report(self.decision, self.shown_outcome)
        return PersonReport(self.number, self.first, self.last, self.frames, self.edited, dict(self.skipped), details)


def _faded(gain: float | None, wanted: bool, frames: int) -> float:
    """A gain moved towards 1 or 0 in steps of one in so many frames; the first wish counts in full."""
    goal = float(wanted)
    return goal if gain is None else float(np.clip(goal, gain - 1 / frames, gain + 1 / frames))


def _batch_size(waiting: int, most: int) -> int:
    """The largest power of two within both: oneDNN keeps compiled kernels for every batch size it has seen."""
    return 1 << (min(waiting, most).bit_length() - 1)


def _memory_returner() -> Callable[[], None]:
    """A call that hands freed memory back to the system, where the C library can (glibc).

    A long video needs it: buffers of pictures are allocated and freed millions of times between long-lived blocks such
    as oneDNN's compiled kernels, which lie among the networks' large temporaries, so the heap cannot shrink from its
    end, and the holes are too scattered to be used again.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return lambda: None
    return lambda: trim(0)


@dataclass(slots=True, eq=False)
class _Work:
    """A face of a frame: what was decided, and, where it is to be changed, its crop and what the networks made of it.

    `edited` and `mask` are there where `sight` is a key and a new mask is due.
    """

    person: _Person
    index: int
    decision: Decision
    strength: float
    counts: bool
    cut: Cut | None = None
    sight: Sight | None = None
    checks: bool = False
    edited: Image | None = None
    outcome: Outcome | None = None
    mask: Floats | None = None

    @property
    def is_key(self) -> bool:
        return self.sight is not None and self.sight.key


class VideoEditor:
    """A `FrameStage` that edits faces.

    `edit` says what is done to them, `options` which are meant and how they are put back. `opinion`, when given, is
    asked a few times whether a tracked face is one; what it doubts is left alone. A detector with a `begin_scene` is
    told where a scene begins, one with a `follow` helps to follow faces between its looks.
    """

    def __init__(
        self,
        editor: Editor,
        edit: FaceEdit,
        options: EditOptions,
        pace: VideoOptions | None = None,
        opinion: Opinion | None = None,
    ) -> None:
        self.editor, self.edit, self.options, self.opinion = editor, edit, options, opinion
        self.pace = pace or VideoOptions()
        self._tracker = FaceTracker(self.pace.tracker)
        self._people: dict[int, _Person] = {}
        self._leaving: list[_Person] = []
        self._gone: list[PersonReport] = []
        self._appeared = 0
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
        present = [*self._leaving, *self._people.values()]
        reports = [*self._gone, *(person.report(self.edit) for person in present)]
        return tuple(sorted((report for report in reports if report.frames), key=lambda report: report.id))

    def __call__(self, frames: list[Frame]) -> list[Image]:
        """Consecutive frames to edited ones, each side `upscale` times as long."""
        plans = [self._plan(frame) for frame in frames]
        self._run_networks([work for plan in plans for work in plan])
        pictures = [self._compose(frame, plan) for frame, plan in zip(frames, plans, strict=True)]
        self._take_leave()
        self._frames_held += len(frames)
        if self._frames_held >= _MEMORY_FRAMES:
            self._return_memory()
            self._frames_held = 0
        return pictures

    # --- which faces, and how strongly

    def _plan(self, frame: Frame) -> list[_Work]:
        tracked = self._follow(frame)
        self._dismiss({t.id for t in tracked})
        self._greet(tracked, frame.index)
        people = [self._people[t.id] for t in tracked]
        decided = [self._decided(frame, *each) for each in zip(people, tracked)]
        decisions = self._largest(tracked, [decision for decision, _ in decided])
        plan = []
        for person, t, decision, (_, cut) in zip(people, tracked, decisions, decided):
            person.gain = _faded(person.gain, decision.wanted, self.pace.tracker.fade)
            strength = self.options.strength * t.alpha * person.gain
            work = _Work(person, frame.index, decision, strength, counts=not frame.settling)
            if strength > 0:
                work.cut = cut or self._cut(frame.pixels, person, t.face)
                work.sight = person.watch(work.cut.crop.image, frame.index)
                work.checks = work.sight.key and frame.index - person.checked >= _CHECK_AGAIN
                person.checked = frame.index if work.checks else person.checked
            if work.counts:
                person.frames, person.last = person.frames + 1, frame.index
            plan.append(work)
        return plan

    def _follow(self, frame: Frame) -> list[TrackedFace]:
        starts_scene = self._tracker.starts_scene(frame.pixels)
        due = self._detected is None or frame.index - self._detected >= self.pace.detect_every
        detections = None
        if starts_scene:
            self._begin_scene()
        if starts_scene or due or self._tracker.unsettled:
            detections = self.editor.detector.detect(frame.pixels)
            self._detected = frame.index
        look = getattr(self.editor.detector, "follow", None)
        return self._tracker.update(frame.pixels, detections, frame.time, look)

    def _begin_scene(self) -> None:
        begin: Callable[[], None] | None = getattr(self.editor.detector, "begin_scene", None)
        if begin is not None:
            begin()

    def _greet(self, tracked: list[TrackedFace], index: int) -> None:
        """Number the people who were not there before, those of one frame in reading order."""
        new = {id(t.face): t.id for t in tracked if t.id not in self._people}
        for face in reading_order([t.face for t in tracked if id(t.face) in new]):
            self._people[new[id(face)]] = _Person(self._appeared, index, self.pace)
            self._appeared += 1

    def _decided(self, frame: Frame, person: _Person, tracked: TrackedFace) -> tuple[Decision, Cut | None]:
        """What is to become of a person, and why, asked of the edit only now and then; and the crop, if it was cut."""
        face, options = tracked.face, self.options
        person.chosen = person.chosen or is_selected(person.number, face, options)
        if not person.chosen:
            return Decision(False, "not selected"), None
        cut, opinion = None, None if options.force else self.opinion
        if person.decision is None or person.is_due():
            cut = self._cut(frame.pixels, person, face)
            if opinion is not None:
                person.hear(opinion.of_crop(cut.crop, face))
            (decision,) = self.edit.decide(frame.pixels, [cut])
            person.consider(decision)
        assert person.decision is not None
        decision = weighed(face, "", person.decision, options)
        if opinion is not None and not person.believed:
            decision = replace(decision, wanted=False, reason=NO_FACE)
        return decision, cut

    def _largest(self, tracked: list[TrackedFace], decisions: list[Decision]) -> list[Decision]:
        return largest_only([t.face for t in tracked], decisions, self.options.max_faces)

    def _cut(self, image: Image, person: _Person, face: Face) -> Cut:
        person.crop = self.edit.crop_for(face, person.crop)
        return Cut(person.number, face, person.crop.cut(image, face))

    # --- the networks, on the crops of several frames

    def _run_networks(self, works: list[_Work]) -> None:
        keys = [work for work in works if work.is_key]
        for group in self._batches(keys):
            for work, output in zip(group, self.edit.edit(_cuts(group), [work.decision for work in group])):
                work.edited = output
        for work in keys:
            self._check(work)
        due = [work for work in keys if self._needs_mask(work)]
        for group in self._batches(due):
            masks = self.editor.masks(_cuts(group), [_edited(work) for work in group], self.options)
            for work, mask in zip(group, masks):
                work.mask = mask

    def _batches(self, works: list[_Work]) -> Iterator[list[_Work]]:
        """Groups of works whose crops have one size."""
        for size in dict.fromkeys(cut.crop.size for cut in _cuts(works)):
            waiting = [work for work, cut in zip(works, _cuts(works)) if cut.crop.size == size]
            while waiting:
                count = _batch_size(len(waiting), self.pace.crops_per_call)
                yield waiting[:count]
                waiting = waiting[count:]

    def _check(self, work: _Work) -> None:
        """Let the edit judge an output now and then; others are treated as the last one that it judged."""
        person, cut, output = work.person, work.cut, _edited(work)
        assert cut is not None
        if work.checks:
            (person.outcome,) = self.edit.check([cut], [work.decision], output[None])
        assert person.outcome is not None
        work.outcome = person.outcome
        # while a face that turned out badly fades out, its crop as it is
        work.edited = self.edit.temper(cut, output, work.outcome) if work.outcome.shown else cut.crop.image

    def _needs_mask(self, work: _Work) -> bool:
        person, size = work.person, _edited(work).shape[0]
        if person.mask_size == size and work.index - person.mask_index < _MASK_FRAMES:
            return False
        person.mask_index, person.mask_size = work.index, size
        return True

    # --- the pictures

    def _compose(self, frame: Frame, plan: list[_Work]) -> Image:
        scale, out = self.options.upscale, frame.pixels
        if scale > 1:
            out = np.asarray(cv2.resize(out, None, fx=scale, fy=scale, interpolation=cv2.INTER_LANCZOS4), np.uint8)
        for work in plan:
            person, strength, reason = work.person, work.strength, work.decision.reason
            if strength > 0:
                outcome = person.shown_outcome = work.outcome or person.shown_outcome
                assert outcome is not None
                person.shown_gain = _faded(person.shown_gain, outcome.shown, self.pace.tracker.fade)
                strength *= person.shown_gain
                reason = reason if outcome.shown else outcome.reason
                patch = self._patch(work, out)
                if patch is not None and strength > 0:
                    out = paste_patch(out, patch, strength)
            if work.counts:
                person.count(strength, reason)
        return out

    def _patch(self, work: _Work, base: Image) -> FacePatch | None:
        person, options, cut = work.person, self.options, work.cut
        assert cut is not None
        assert work.sight is not None
        shown = person.memory.steady(work.sight, work.edited)
        if options.watermark:
            if work.edited is not None:
                psnr = None if person.mark is None else person.mark.psnr
                person.mark = watermark_for(shown.astype(np.float32), psnr=psnr)
            shown = marked(shown, person.mark)
        patch = patch_of(cut, shown, person.blend_mask(work.mask), base, options)
        if patch is None or options.grain == "none":
            return patch
        if person.grain is None or work.edited is not None:
            missing = grain.missing_grain(patch, base)
            person.grain = missing if max(missing.luma, missing.chroma) >= _LEAST_GRAIN else grain.NONE
        return grain.grained(patch, person.grain, work.index)

    def _dismiss(self, present: set[int]) -> None:
        for identity in self._people.keys() - present:
            self._leaving.append(self._people.pop(identity))

    def _take_leave(self) -> None:
        """Keep of people who are gone, and whose last frames are made, nothing but the report."""
        self._gone += [person.report(self.edit) for person in self._leaving]
        self._leaving.clear()


def _cuts(works: Sequence[_Work]) -> list[Cut]:
    return [work.cut for work in works if work.cut is not None]


def _edited(work: _Work) -> Image:
    assert work.edited is not None
    return work.edited
