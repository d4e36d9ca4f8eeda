"""Restore the faces of a photo: detect, align, restore, paste back; nothing outside the faces changes.

The way from face to face is the editor's (`pipelines.edit`). What restoring adds stands here: whether a face needs it,
the networks, and what their output is worth. The result is a value: the picture, what was done to every face and why,
and the patches themselves, so that strength can be changed afterwards without running a network again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..errors import UsageError
from ..io.image import Photo, read
from ..systems.quality.retained import retained_fraction
from ..systems.quality.sharpness import MOST_SIDE, SHARP, native_side, sharpness_at
from ..tasks.quality import DegradationEstimator
from ..tasks.restore import ReferenceRestorer, RestoreOptions, Restorer
from .background import redrawn
from .choosing import sure_faces
from .colour_match import restore_crops
from .edit import BATCH, MAX_YAW, MIN_EYE_DISTANCE, Clock, Cut, Decision, EditedFace, Editor, Outcome, selected
from .old_photo import Repair, found_damage, mended_print, with_tones
from .plausible import INVENTED_BELOW, SMALL_EYES, Plausibility, Treatment, treated
from .references import (
    ReferenceDesk,
    ReferencedRestorer,
    ReferenceUse,
    choose,
    mean_vector,
    reference_networks,
)
from .restore_result import FaceResult, RestoreResult, quality, quality_after, turns_in_words
from .two_stage import TwoStageRestorer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..face import DegradationEstimate, Face
    from ..geometry.crop import CropSpec
    from ..metrics.calibration import ScoreCalibration
    from ..systems.recognise.recogniser import Recogniser
    from ..tasks.analyse import Parser
    from ..tasks.declare import NetworkChoice, Networks, Task
    from ..tasks.detect import Detector
    from ..tasks.enlarge import Enlarger
    from ..tasks.restore import DamageFinder
    from .likeness import Likeness
    from .references import ReferenceSet

    Image = NDArray[np.uint8]

__all__ = [
    "BATCH",
    "GOOD_SSIM",
    "MAX_YAW",
    "MIN_EYE_DISTANCE",
    "FaceResult",
    "RestoreEdit",
    "RestoreOptions",
    "RestorePipeline",
    "RestoreResult",
    "load",
    "quality",
    "quality_after",
    "selected",
    "turns_in_words",
    "verdict",
    "warnings_for",
]

GOOD_SSIM = 0.89  # restoring adds nothing to speak of from here on, see reproductions/quality
DOUBTFUL = 0.5
FINE_SIZE = 512  # px: side of the crops of restorers that draw fine detail
WORSE = "restoring it makes it look less like a face"
FINE_ZOOM = 1.6  # how many times a face of a video may be enlarged to the crop of the network for fine detail
KEEP_ZOOM = 1.15  # how much beyond that (or below) a face must be before the other network takes over


@dataclass(frozen=True, slots=True)
class _Damage:
    """What is known of a face before it is restored."""

    estimate: DegradationEstimate
    sharpness: float | None


@dataclass(frozen=True, slots=True)
class _Worth:
    """What is known of a face after it was restored."""

    estimate: DegradationEstimate
    identity: float | None
    same_person: float | None
    warnings: tuple[str, ...]
    treatment: Treatment
    references: ReferenceUse | None = None


class RestorePipeline:
    """Detector and restorer, loaded once and used on many photos; with a recogniser it reports identity, too.

    `assessor` estimates the damage for restorers that cannot (UsageError where neither can). `parser` tells face from
    what lies before it, on crops like the restorer's; without one the oval of a face is restored with all that is in
    it. `enlarger` draws what is not a face; without one its pixels stay, or are enlarged by Lanczos. `damage_finder`
    says where a print is damaged. `references` reads other photos of the person (`RestoreOptions.references`).
    """

    def __init__(
        self,
        detector: Detector,
        restorer: Restorer,
        recogniser: Recogniser | None = None,
        calibration: ScoreCalibration | None = None,
        assessor: DegradationEstimator | None = None,
        parser: Parser | None = None,
        enlarger: Enlarger | None = None,
        damage_finder: DamageFinder | None = None,
        references: ReferenceDesk | None = None,
    ) -> None:
        if assessor is None:
            if not isinstance(restorer, DegradationEstimator):
                raise UsageError(f"{type(restorer).__name__} does not estimate damage; give the pipeline an assessor")
            assessor = restorer
        self.editor = Editor(detector, parser)
        self.restorer, self.assessor = restorer, assessor
        self.enlarger, self.damage_finder, self.references = enlarger, damage_finder, references
        self.recogniser, self.calibration = recogniser, calibration

    @property
    def detector(self) -> Detector:
        return self.editor.detector

    @property
    def parser(self) -> Parser | None:
        return self.editor.parser

    @property
    def models(self) -> tuple[str, ...]:
        """Slugs of the networks in use."""
        used = [self.detector, self.restorer, *([] if self.enlarger is None else [self.enlarger])]
        return tuple(str(getattr(m, "slug", type(m).__name__)) for m in used)

    @property
    def likeness(self) -> Likeness | None:
        """The networks that judge whether a restoration looks like a face; None where the detector has none."""
        found: Likeness | None = getattr(getattr(self.detector, "opinion", None), "likeness", None)
        return found

    @property
    def checkpoint(self) -> str | None:
        """SHA-256 of the restorer's weights file; None for fresh weights."""
        return getattr(self.restorer, "weights_sha256", None)

    def __call__(self, photo: Photo, options: RestoreOptions | None = None) -> RestoreResult:
        """Restore one photo."""
        options = options or RestoreOptions()
        clock = Clock()
        edit = RestoreEdit(self, options)
        rgb, repair = photo.rgb(), None
        if options.old_photo:
            with clock("mend"):
                repair = self._mend(rgb, options)
                rgb = repair.image
        with clock("detect"):
            faces = self.editor.find(rgb)
        if repair is not None and options.tones:
            repair = with_tones(repair, faces)
            rgb = repair.image
        edited = self.editor.edit(rgb, faces, edit, options, clock)
        with clock("paste"):
            base, mended = _enlarged(photo, options.upscale), None
            source = photo
            if repair is not None and repair.steps:
                source = photo.patched((0, 0, photo.width, photo.height), rgb.astype(np.float32), _ones(rgb))
                mended = _enlarged(source, options.upscale)
            # where all around is drawn anew, hair that stays as it was would be the one blurred thing
            placing = replace(options, hair=True) if self.enlarger is not None else options
            edited = self.editor.place(edited, (mended or base).rgb(), placing)
            if self.enlarger is not None:
                patches = [face.patch for face in edited if face.patch is not None]
                drawn = redrawn(source, mended or base, options.upscale, self.enlarger, patches)
                base, mended = (drawn, None) if mended is None else (base, drawn)
            background = "" if self.enlarger is None else self.models[-1]
            result = RestoreResult(
                photo,
                base,
                tuple(_face_result(face) for face in edited),
                options,
                clock.seconds,
                self.models,
                self.checkpoint,
                background,
                mended,
                () if repair is None else repair.steps,
                None if repair is None else repair.damage,
                () if edit.references is None else edit.references.notes,
            )
            _ = result.image
        return result

    def _mend(self, rgb: Image, options: RestoreOptions) -> Repair:
        """The whole photo with its damage filled, where that is wanted."""
        if not options.scratches:
            return Repair(rgb, ())
        if options.damage_mask is not None:
            mask = read(options.damage_mask).rgb()[..., 0] > 127
        elif self.damage_finder is None:
            raise UsageError("this pipeline has no network that finds damage; give a damage mask")
        else:
            mask = found_damage(
                rgb, self.damage_finder, lambda: sure_faces(self.detector.detect(rgb), options.min_score)
            )
        return mended_print(rgb, mask)

    def assess(self, crops: Image) -> list[DegradationEstimate]:
        """The estimated damage of (N, S, S, 3) uint8 RGB crops of any size."""
        side = self.assessor.preprocess.size
        if crops.shape[1] != side:
            crops = np.stack([cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA) for crop in crops])
        return self.assessor.assess(crops)


class RestoreEdit:
    """Restoring as an edit of faces (`pipelines.edit.FaceEdit`): the gate, the networks, what their output is worth.

    With `by_size`, as in videos, faces too small to show the finest detail go through the first of two stages alone,
    which takes a fraction of the time. References are read at once; UsageError where none of them can be used.
    """

    verb = "restore"

    def __init__(self, pipeline: RestorePipeline, options: RestoreOptions, *, by_size: bool = False) -> None:
        self.pipeline, self.options = pipeline, options
        self._first: Restorer | None = getattr(pipeline.restorer, "structure", None) if by_size else None
        self.references: ReferenceSet | None = None
        self._uses: dict[int, ReferenceUse] = {}
        if options.references:
            self._desk = _desk_for(pipeline)
            self.references = self._desk.gather(options.references)

    # --- which crop

    def crop_for(self, face: Face, current: CropSpec | None = None) -> CropSpec:
        """That of the restorer; of two stages, with `by_size`, that of the first for a small face."""
        whole = self.pipeline.restorer.preprocess.crop
        if self._first is None:
            return whole
        matrix = whole.matrix(face)
        zoom = float(np.hypot(matrix[0, 0], matrix[1, 0])) / self.options.upscale
        limit = FINE_ZOOM
        if current is not None:  # a face whose size wavers about the limit keeps its network
            limit = FINE_ZOOM * KEEP_ZOOM if current == whole else FINE_ZOOM / KEEP_ZOOM
        return whole if zoom <= limit else self._first.preprocess.crop

    def _restorer(self, size: int) -> Restorer:
        whole = self.pipeline.restorer
        return whole if self._first is None or size == whole.preprocess.size else self._first

    # --- whether

    def decide(self, image: Image, cuts: Sequence[Cut]) -> list[Decision]:
        """Do no harm: a face that is good stays as it is."""
        estimates = self.pipeline.assess(np.stack([cut.crop.image for cut in cuts]))
        decisions = []
        for cut, estimate in zip(cuts, estimates):
            sharp = self._sharpness(image, cut)
            decisions.append(Decision(*verdict(estimate, sharp), _Damage(estimate, sharp)))
        return decisions

    def _sharpness(self, image: Image, cut: Cut) -> float | None:
        """How sharp a face is for its size in the result; None where the restorer draws no fine detail."""
        spec = self.pipeline.restorer.preprocess.crop
        if spec.kind != "template" or spec.size < FINE_SIZE or cut.crop.size != spec.size:
            return None
        side = native_side(cut.crop.scale, spec.size)
        if self.options.upscale > 1 and side < MOST_SIDE:
            return 0.0  # an enlarged face lacks the detail of its new size
        return sharpness_at(image, cut.face, spec, side)

    # --- the networks

    def edit(self, cuts: Sequence[Cut], decisions: Sequence[Decision]) -> Image:
        """Restored crops, in the light and tone of their inputs."""
        options = self.options
        if self.references is not None:
            parts = [self._by_references(*one, self.references, len(cuts)) for one in zip(cuts, decisions)]
            return np.concatenate(parts)
        return restore_crops(
            self._restorer(cuts[0].crop.size),
            np.stack([cut.crop.image for cut in cuts]),
            options.fidelity,
            relight=options.relight,
            seed=options.seed,
            estimates=[decision.record.estimate for decision in decisions],
        )

    def _by_references(self, cut: Cut, decision: Decision, references: ReferenceSet, crowd: int) -> Image:
        """One restored crop, (1, S, S, 3), by the references of its person; without where they show somebody else."""
        options, networks = self.options, self._desk.networks
        vector = networks.blind_vector(cut.crop.image)
        left = retained_fraction(decision.record.estimate)
        used, refused = choose(references, vector, left, networks.gate, crowd)
        blind: Any = self._restorer(cut.crop.size)
        restorer = ReferencedRestorer(blind, used) if used else blind
        crops = cut.crop.image[None]
        restored = restore_crops(restorer, crops, options.fidelity, relight=options.relight, seed=options.seed)
        before = after = None
        if used:
            before, after = (float(v @ mean_vector(used)) for v in (vector, networks.vector(restored[0])))
        names = tuple(face.name for face in used)
        self._uses[cut.index] = ReferenceUse(names, {**references.unusable, **refused}, before, after)
        return restored

    # --- what the output is worth

    def check(self, cuts: Sequence[Cut], decisions: Sequence[Decision], outputs: Image) -> list[Outcome]:
        """As much of each as looks like a face (`pipelines.plausible`), with damage and likeness after it."""
        chosen = [self._treat(*one) for one in zip(cuts, decisions, outputs)]
        shown = np.stack([image for _, image in chosen])
        after = self.pipeline.assess(shown)
        identities = self._identities(cuts, shown)
        outcomes = []
        for cut, decision, (treatment, output), estimate, identity in zip(cuts, decisions, chosen, after, identities):
            use = self._uses.get(cut.index)
            if treatment is Treatment.NONE:
                outcomes.append(Outcome(None, WORSE))
                continue
            probability = self._probability(identity)
            warnings = warnings_for(decision.record.estimate, probability)
            if treatment.warning:
                warnings = (*warnings, treatment.warning)
            if use is not None and not use.used:
                warnings = (*warnings, use.line)
            worth = _Worth(estimate, identity, probability, warnings, treatment, use)
            outcomes.append(Outcome(output, record=worth))
        return outcomes

    def temper(self, cut: Cut, output: Image, outcome: Outcome) -> Image:
        """An output treated as an earlier one of the same face."""
        return treated(outcome.record.treatment, cut.crop.image, output, self._again)

    def _treat(self, cut: Cut, decision: Decision, output: Image) -> tuple[Treatment, Image]:
        """What is shown of a restoration. Only faces of which little is left are asked about: others go right."""
        likeness = self.pipeline.likeness
        left = retained_fraction(decision.record.estimate)
        safe = left >= INVENTED_BELOW and cut.face.eye_distance >= SMALL_EYES
        if likeness is None or self.options.force or safe:
            return Treatment.FULL, output
        return Plausibility(likeness).treat(cut.crop, cut.face, output, self._again, decision.record.estimate.ssim)

    def _again(self, crop: Image) -> Image:
        """Another crop of a face restored, with its damage estimated anew."""
        options, restorer = self.options, self._restorer(len(crop))
        restored = restore_crops(restorer, crop[None], options.fidelity, relight=options.relight, seed=options.seed)
        return np.asarray(restored[0], np.uint8)

    def report(self, decision: Decision, outcome: Outcome | None) -> dict[str, Any]:
        """Quality before and after, likeness and warnings, as in the report of a photo."""
        damage: _Damage = decision.record
        worth: _Worth | None = None if outcome is None else outcome.record
        numbers = {
            "quality_before": quality(damage.estimate),
            "quality_after": None if worth is None else quality_after(damage.estimate, worth.estimate),
            "identity": None if worth is None or worth.identity is None else round(worth.identity, 4),
            "same_person": None if worth is None or worth.same_person is None else round(worth.same_person, 4),
        }
        return {
            **numbers,
            "treatment": str(Treatment.NONE if worth is None else worth.treatment),
            "warnings": [] if worth is None else list(worth.warnings),
            "references": None if worth is None or worth.references is None else worth.references.to_dict(),
        }

    def _identities(self, cuts: Sequence[Cut], outputs: Image) -> list[float | None]:
        """Cosine of every face's input and output, as the recogniser sees them."""
        recogniser = self.pipeline.recogniser
        if recogniser is None:
            return [None] * len(cuts)
        crop = recogniser.preprocess.crop
        before = [crop.cut(cut.crop.image, cut.inside).image for cut in cuts]
        after = [crop.cut(output, cut.inside).image for cut, output in zip(cuts, outputs)]
        vectors = recogniser.embed(np.stack(before + after))
        return [float(v) for v in (vectors[: len(before)] * vectors[len(before) :]).sum(1)]

    def _probability(self, identity: float | None) -> float | None:
        calibration = self.pipeline.calibration
        return None if identity is None or calibration is None else float(calibration.probability(identity))


def _face_result(face: EditedFace) -> FaceResult:
    """What restoring says of a face that went through the editor."""
    damage: _Damage = face.decision.record
    outcome = face.outcome
    worth: _Worth | None = None if outcome is None else outcome.record
    return FaceResult(
        index=face.cut.index,
        face=face.cut.face,
        restored=face.edited,
        reason=face.reason,
        before=damage.estimate,
        after=None if worth is None else worth.estimate,
        identity=None if worth is None else worth.identity,
        same_person=None if worth is None else worth.same_person,
        change=face.change,
        warnings=() if worth is None else worth.warnings,
        sharpness=damage.sharpness,
        treatment=str(Treatment.NONE if worth is None or not face.edited else worth.treatment),
        references=None if worth is None else worth.references,
        crop=face.cut.crop,
        output=None if outcome is None else outcome.output,
        patch=face.patch,
    )


def _ones(rgb: Image) -> NDArray[np.float32]:
    return np.ones(rgb.shape[:2], np.float32)


def _enlarged(photo: Photo, factor: int) -> Photo:
    try:
        return photo.resized(factor)
    except (MemoryError, cv2.error) as error:
        size = f"{photo.width} x {photo.height}"
        raise UsageError(f"{photo.source}: cannot enlarge {size} pixels {factor} times; lower --upscale") from error


def verdict(estimate: DegradationEstimate, sharp: float | None = None) -> tuple[bool, str]:
    """Whether the damage of a face is worth restoring, and why.

    `sharp` is the probability that the face is as sharp as its size allows; None where that does not count.
    """
    if estimate.ssim < GOOD_SSIM:
        return True, f"quality {quality(estimate):.0f}"
    if sharp is not None and sharp < SHARP:
        return True, f"soft, sharpness {100 * sharp:.0f} of 100"
    return False, f"already good, quality {quality(estimate):.0f}"


def warnings_for(estimate: DegradationEstimate, same_person: float | None = None) -> tuple[str, ...]:
    """What a viewer should know about a restored face."""
    found = []
    if retained_fraction(estimate) < INVENTED_BELOW:
        found.append("so little of the face was left that parts of it are invented, not recovered")
    if same_person is not None and same_person < DOUBTFUL:
        found.append("a recogniser no longer takes the restored face for the person of the input")
    return tuple(found)


def _desk_for(pipeline: RestorePipeline) -> ReferenceDesk:
    """Who reads references for a pipeline; UsageError where its restorer takes none."""
    if pipeline.references is None or not isinstance(pipeline.restorer, ReferenceRestorer):
        slug = getattr(pipeline.restorer, "slug", type(pipeline.restorer).__name__)
        raise UsageError(f"{slug} restores without references; add --model refldm, which takes them")
    return pipeline.references


def load(session: Networks, task: Task, choice: NetworkChoice) -> RestorePipeline:
    """The restore pipeline of a choice of networks."""
    from .identity import calibration_of

    restorer = session.chosen(task, choice)
    if restorer.slug == "facedetail":
        restorer = TwoStageRestorer(session.network("frgp", None, choice.device, choice.dtype), restorer)
    recogniser = session.recogniser(choice)
    assessor = None if hasattr(restorer, "assess") else session.network("frgp", None, choice.device)
    calibration = calibration_of(recogniser)
    detector = session.detector(choice)
    return RestorePipeline(
        detector,
        restorer,
        recogniser,
        calibration,
        assessor,
        session.parser(choice),
        session.background(choice),
        session.of_task("damage", choice.damage_finder or "printscan", choice.device),
        ReferenceDesk(detector, restorer.preprocess.crop, lambda: reference_networks(session, choice.device)),
    )
