"""Editing the faces of a picture: find, choose, align, edit, blend, mark. One way for photos and frames of videos.

What is done to a face is a `FaceEdit`: a task that turns crops into crops. Restoring is one (`pipelines.restore`);
colouring, inpainting or ageing fit the same place. The editor knows which faces are meant, where they lie, which pixels
of them may change and how a change is put back; it does not know what the change is for. Photos go through
`Editor.edit` and `Editor.place`; `pipelines.video` calls the same steps frame by frame and adds what time needs.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import UsageError
from ..geometry.paste import FacePatch, face_patch
from ..io.provenance import watermark_for
from ..systems.base import batches
from .choosing import doubt
from .grain import with_grain
from .masking import restoring_masks
from .order import reading_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ..face import Face, FaceCrop
    from ..geometry.crop import CropSpec
    from ..io.provenance import Watermark
    from ..tasks.analyse import Parser
    from ..tasks.detect import Detector
    from ..tasks.edit import EditOptions

    Image = NDArray[np.uint8]
    Mask = NDArray[np.float32]

BATCH = 8
MIN_EYE_DISTANCE = 5.0
MAX_YAW = 75.0


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """A face of a picture, number `index` of it, and its crop."""

    index: int
    face: Face
    crop: FaceCrop

    @property
    def inside(self) -> Face:
        """The face as it lies in the crop."""
        return self.face.moved(self.crop.matrix)


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a face is to be edited, why or why not, and what the edit found out about it (a record of its own)."""

    wanted: bool
    reason: str
    record: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What became of a face after the edit's own checks.

    `output` (S, S, 3) is the crop to put back; None where the face is better left alone, for `reason`. `record` is the
    edit's own.
    """

    output: Image | None
    reason: str = ""
    record: Any = None

    @property
    def shown(self) -> bool:
        return self.output is not None


class FaceEdit(Protocol):
    """What a task does to crops of faces; `verb` says it in a word."""

    verb: str

    def crop_for(self, face: Face, current: CropSpec | None = None) -> CropSpec:
        """How a face is to be cut out; `current` is how it was in the frame before."""
        ...

    def decide(self, image: Image, cuts: Sequence[Cut]) -> list[Decision]:
        """Whether faces of an (H, W, 3) uint8 RGB picture need the edit."""
        ...

    def edit(self, cuts: Sequence[Cut], decisions: Sequence[Decision]) -> Image:
        """Edited crops (N, S, S, 3) uint8 RGB of crops of one size."""
        ...

    def check(self, cuts: Sequence[Cut], decisions: Sequence[Decision], outputs: Image) -> list[Outcome]:
        """What of these outputs is to be shown."""
        ...

    def report(self, decision: Decision, outcome: Outcome | None) -> dict[str, Any]:
        """What is known of a face of a video, as plain numbers and words."""
        ...

    def temper(self, cut: Cut, output: Image, outcome: Outcome) -> Image:
        """Another output of a face of a video as `check` has decided about an earlier one, whose outcome is given."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class EditedFace:
    """A face of a photo on its way through the editor: decided, then edited or not, then placed."""

    cut: Cut
    decision: Decision
    outcome: Outcome | None = None
    patch: FacePatch | None = None
    change: float = 0.0

    @property
    def edited(self) -> bool:
        return self.outcome is not None and self.outcome.output is not None

    @property
    def reason(self) -> str:
        """Why it was edited or left alone."""
        left_alone = self.outcome is not None and self.outcome.output is None
        return self.outcome.reason if left_alone and self.outcome is not None else self.decision.reason


class Clock:
    """Seconds spent on named stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


class Editor:
    """Detector and, to tell face from what lies before it, a parser; without one the oval of a face is edited whole."""

    def __init__(self, detector: Detector, parser: Parser | None = None) -> None:
        self.detector, self.parser = detector, parser

    def find(self, image: Image) -> list[Face]:
        """The faces of an (H, W, 3) uint8 RGB photo in reading order, doubtful ones included."""
        return reading_order(self.detector.detect(image))

    def edit(
        self, image: Image, faces: Sequence[Face], edit: FaceEdit, options: EditOptions, clock: Clock | None = None
    ) -> list[EditedFace]:
        """Decide about the faces of a photo and edit those that need it; `place` puts them back."""
        clock = clock or Clock()
        picked = selected(faces, options)
        with clock("align"):
            cuts = [Cut(i, face, edit.crop_for(face).cut(image, face)) for i, face in enumerate(faces)]
        with clock(edit.verb):
            decisions = [d for group in batches(cuts, BATCH) for d in edit.decide(image, group)]
            decisions = [weighed(c.face, why, d, options) for c, why, d in zip(cuts, picked, decisions)]
            decisions = largest_only(faces, decisions, options.max_faces)
            done = [EditedFace(cut, decision) for cut, decision in zip(cuts, decisions)]
            for group in batches([face for face in done if face.decision.wanted], BATCH):
                chosen = [face.cut for face in group], [face.decision for face in group]
                outcomes = edit.check(*chosen, edit.edit(*chosen))
                for face, outcome in zip(group, outcomes):
                    done[face.cut.index] = replace(face, outcome=outcome)
        return done

    def place(self, faces: Sequence[EditedFace], base: Image, options: EditOptions) -> list[EditedFace]:
        """The faces with what they change in a picture of the result's size, (H, W, 3) uint8 RGB."""
        placed = list(faces)
        for group in batches([face for face in faces if face.edited], BATCH):
            outputs = [marked(_output(face)) if options.watermark else _output(face) for face in group]
            masks = self.masks([face.cut for face in group], outputs, options)
            for face, shown, mask in zip(group, outputs, masks):
                patch = patch_of(face.cut, shown, mask, base, options)
                outcome = Outcome(shown, record=None if face.outcome is None else face.outcome.record)
                if patch is None:
                    outcome = Outcome(None, "outside the picture", outcome.record)
                change = 0.0 if patch is None else _mean_change(patch)
                if patch is not None and options.grain == "match":
                    patch = with_grain(patch, base)
                placed[face.cut.index] = replace(face, outcome=outcome, patch=patch, change=change)
        return placed

    def masks(self, cuts: Sequence[Cut], outputs: Sequence[Image], options: EditOptions) -> list[Mask]:
        """Which pixels of edited crops are shown; a parser tells more from the output than from a damaged input."""
        parser = None if options.whole else self.parser
        return restoring_masks(outputs, [cut.inside for cut in cuts], parser, hair=options.hair)


def weighed(face: Face, not_selected: str, decision: Decision, options: EditOptions) -> Decision:
    """The edit's decision under the user's choice and what speaks against any edit: first, do no harm."""
    if not_selected:
        return replace(decision, wanted=False, reason=not_selected)
    if options.force:
        return replace(decision, wanted=True, reason="forced")
    if why := unfit(face, options):
        return replace(decision, wanted=False, reason=why)
    return decision


def unfit(face: Face, options: EditOptions) -> str:
    """Why a face cannot be edited without harm, in words: doubtful, too small, turned away; empty where it can."""
    if why := doubt(face, options.min_score):
        return why
    if face.eye_distance < MIN_EYE_DISTANCE:
        return f"too small, {face.eye_distance:.1f} px between the eyes"
    if face.pose is not None and abs(face.pose.yaw) > MAX_YAW:
        return f"too turned, yaw {face.pose.yaw:.0f} degrees"
    return ""


def selected(faces: Sequence[Face], options: EditOptions) -> list[str]:
    """For every face "" if the user's selection includes it, else why not; raises UsageError on unknown indices."""
    for index in (*(options.faces or ()), *options.skip):
        if not 0 <= index < len(faces):
            raise UsageError(f"there is no face {index}: {len(faces)} were found, numbered from 0 in reading order")
    return ["" if is_selected(index, face, options) else "not selected" for index, face in enumerate(faces)]


def is_selected(index: int, face: Face, options: EditOptions) -> bool:
    """Whether the user's choice includes face number `index`, here or by its place."""
    if index in options.skip:
        return False
    selective = options.faces is not None or bool(options.boxes) or bool(options.points)
    return not selective or index in (options.faces or ()) or _touched(face, options)


def _touched(face: Face, options: EditOptions) -> bool:
    x0, y0, x1, y1 = face.box
    by_point = any(x0 <= x <= x1 and y0 <= y <= y1 for x, y in options.points)
    by_box = any(a <= face.centre[0] <= c and b <= face.centre[1] <= d for a, b, c, d in options.boxes)
    return by_point or by_box


def largest_only(faces: Sequence[Face], decisions: Sequence[Decision], count: int | None) -> list[Decision]:
    """At most `count` faces stay wanted, the largest ones."""
    if count is None:
        return list(decisions)
    wanted = [number for number, decision in enumerate(decisions) if decision.wanted]
    surplus = sorted(wanted, key=lambda number: -faces[number].eye_distance)[count:]
    reason = f"beyond the {count} largest"
    return [replace(d, wanted=False, reason=reason) if n in surplus else d for n, d in enumerate(decisions)]


def marked(crop: Image, mark: Watermark | None = None) -> Image:
    """A crop with the invisible mark: one of its own, or one that was made for a crop like it."""
    mark = mark or watermark_for(crop.astype(np.float32))
    return np.asarray(np.rint(mark.on(crop.astype(np.float32))), np.uint8)


def patch_of(cut: Cut, output: Image, mask: Mask, base: Image, options: EditOptions) -> FacePatch | None:
    """What an edited crop changes in a picture of the result's size; None where it does not touch it."""
    return face_patch(cut.crop, output, mask, (base.shape[0], base.shape[1]), options.upscale)


def _output(face: EditedFace) -> Image:
    assert face.outcome is not None
    assert face.outcome.output is not None
    return face.outcome.output


def _mean_change(patch: FacePatch) -> float:
    weight = float(patch.mask.sum())
    return float((np.abs(patch.change).mean(2) * patch.mask).sum()) / max(weight, 1e-6)
