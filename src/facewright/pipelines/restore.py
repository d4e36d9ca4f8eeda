"""Restore the faces of a photo: detect, align, restore, paste back; nothing outside the faces changes.

The result is a value: the picture, what was done to every face and why, and the patches themselves, so that strength
can be changed afterwards without running a network again.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..deprecation import renamed_attribute
from ..errors import UsageError
from ..geometry.paste import FacePatch, face_patch
from ..io.atomic import atomic_output
from ..io.encode import format_of
from ..io.image import Photo, read
from ..io.provenance import Provenance, embed_watermark, xmp_packet
from ..systems.base import batches
from ..systems.quality.retained import retained_after, retained_fraction
from ..systems.quality.sharpness import MOST_SIDE, SHARP, native_side, sharpness
from ..tasks.quality import DegradationEstimator
from ..tasks.restore import RestoreOptions, Restorer
from .background import redrawn
from .colour_match import restore_crops
from .grain import with_grain
from .masking import restoring_masks
from .old_photo import Repair, likely_marks, mended_print, plausible_damage, with_tones, without_features
from .order import reading_order
from .second_opinion import NO_FACE, believable
from .two_stage import TwoStageRestorer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ..face import DegradationEstimate, Face, FaceCrop
    from ..metrics.calibration import ScoreCalibration
    from ..systems.recognise.recogniser import Recogniser
    from ..tasks.analyse import Parser
    from ..tasks.declare import NetworkChoice, Networks, Task
    from ..tasks.detect import Detector
    from ..tasks.enlarge import Enlarger
    from ..tasks.restore import DamageFinder
    from .likeness import Likeness

MIN_EYE_DISTANCE = 5.0
MAX_YAW = 75.0
GOOD_SSIM = 0.89  # restoring adds nothing to speak of from here on, see reproductions/quality
INVENTED_BELOW = 0.6  # of the face left: a restorer has to fill in the rest
DOUBTFUL = 0.5
FINE_SIZE = 512  # px: side of the crops of restorers that draw fine detail
SMALL_EYES = 20.0  # px: below, a restoration can go wrong although much of the face seems to be left
WORSE_BY, SURE_ODDS = 1.0, 3.0  # log odds of being a face: a fall that counts, and from where it does not
WORSE = "restoring it makes it look less like a face"
LISTED = 6  # entries of a list in the summary; the report has all
BATCH = 8


@dataclass(frozen=True, slots=True, eq=False)
class FaceResult:
    """What happened to one face.

    `reason` says in words why it was restored or left alone. `before` estimates the damage of the crop; `after`, that
    of the restored crop at full strength, is blind to what was invented: `quality_after` judges by both.
    `identity` is the similarity of input and output to a recogniser, `same_person` the probability of one person that
    it stands for, both where such a network was given. `change` is the mean absolute change inside the face in grey
    levels; `warnings` name what a viewer should know. `sharpness` is the probability that most of the detail a face of
    its size can have is there (`systems.quality.sharpness`); None where the restorer draws no such detail.
    """

    index: int
    face: Face
    restored: bool
    reason: str
    before: DegradationEstimate
    after: DegradationEstimate | None = None
    identity: float | None = None
    same_person: float | None = None
    change: float = 0.0
    warnings: tuple[str, ...] = ()
    sharpness: float | None = None
    crop: FaceCrop | None = field(default=None, repr=False)
    output: NDArray[np.uint8] | None = field(default=None, repr=False)
    patch: FacePatch | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words, ready for JSON."""
        return {
            "index": self.index,
            **self.face.to_dict(),
            "restored": self.restored,
            "reason": self.reason,
            "quality_before": quality(self.before),
            "quality_after": None if self.after is None else quality_after(self.before, self.after),
            "degradation": {k: round(v, 3) for k, v in asdict(self.before).items()},
            "identity": None if self.identity is None else round(self.identity, 4),
            "same_person": None if self.same_person is None else round(self.same_person, 4),
            "change": round(self.change, 3),
            "sharpness": None if self.sharpness is None else round(self.sharpness, 3),
            "warnings": list(self.warnings),
        }


def quality(estimate: DegradationEstimate) -> float:
    """A 0–100 quality: how much of the face the estimated damage has left, in percent."""
    return round(100 * retained_fraction(estimate), 1)


def quality_after(before: DegradationEstimate, after: DegradationEstimate) -> float:
    """A 0–100 quality of a restored face: how much of the true face is in it, in percent; what is invented is not."""
    return round(100 * retained_after(before, after), 1)


@dataclass(frozen=True, eq=False)
class RestoreResult:
    """A restored photo. `image` is made from `base` (the original, enlarged) and the faces' patches at `strength`.

    `background` is the slug of the network that drew `base` outside the faces, "" where none did. `mended` is the whole
    photo after the repairs of an old photo, of the size of `base`; `repairs` says which, and `damage` (H, W) where the
    original was damaged.
    """

    original: Photo
    base: Photo
    faces: tuple[FaceResult, ...]
    options: RestoreOptions
    seconds: Mapping[str, float]
    models: tuple[str, ...]
    checkpoint: str | None = None
    background: str = ""
    mended: Photo | None = None
    repairs: tuple[str, ...] = ()
    damage: NDArray[np.bool_] | None = None

    @cached_property
    def image(self) -> Photo:
        """The restored photo; pixels outside the restored faces have the original's bits (at `upscale` 1)."""
        photo = self.base
        if self.options.strength == 0:
            return photo
        if self.mended is not None:
            photo = _blended(photo, self.mended, self.options.strength)
        rgb = photo.rgb() if any(f.patch is not None for f in self.faces) else None
        for result in sorted(self.faces, key=lambda f: f.face.eye_distance):
            if result.patch is not None and rgb is not None:
                photo = _apply(photo, rgb, result.patch, self.options.strength)
        return photo

    def with_strength(self, strength: float) -> RestoreResult:
        """The same restoration blended differently; no network runs."""
        return replace(self, options=replace(self.options, strength=strength))

    @property
    def restored_count(self) -> int:
        return sum(f.restored for f in self.faces)

    @property
    def summary(self) -> str:
        """One line for people; what the detector or the second opinion doubts is not counted as a face."""
        doubtful = [f for f in self.faces if not f.restored and self._is_doubtful(f.face)]
        faces = [f for f in self.faces if f not in doubtful]
        line = f"{self.restored_count} of {len(faces)} face{'s' * (len(faces) != 1)} restored"
        if not faces:
            state = "unchanged" if self.base is self.original else "only enlarged"
            line = "no face found" if self.repairs else f"no face found; the picture is {state}"
        if self.background:
            line += f"; the rest drawn by {self.background}"
        if self.repairs:
            line += f"; {', '.join(self.repairs)}"
        if turned := turns_in_words([f.face for f in faces]):
            line += f"; {turned}"
        if skipped := [f"{f.index} ({f.reason})" for f in faces if not f.restored]:
            line += f"; left alone: {_listed(skipped)}"
        if doubtful:
            line += f"; probably no face: {_listed([f'{f.index} ({_doubt(f.face, self.options)})' for f in doubtful])}"
        return line

    def _is_doubtful(self, face: Face) -> bool:
        return face.score < self.options.min_score or not believable(face)

    def change_map(self) -> NDArray[np.float32]:
        """(H, W) mean absolute change per pixel in grey levels of 255."""
        before, after = self.base.rgb().astype(np.float32), self.image.rgb().astype(np.float32)
        return np.asarray(np.abs(after - before).mean(2), np.float32)

    @property
    def changed(self) -> bool:
        """Whether any pixel differs from the (enlarged) original."""
        mended = self.restored_count > 0 or bool(self.repairs)
        return bool(self.background) or (mended and self.options.strength > 0)

    def notes(self, target: str | Path | None = None, *, keep_gps: bool = True) -> tuple[str, ...]:
        """What reading had to change, and what a file at `target` cannot hold; nothing where it is a mere copy."""
        if target is None:
            return self.original.notes
        if self._is_copied(Path(target), keep_gps=keep_gps):
            return ()
        return (*self.original.notes, *self.image.not_kept(target, keep_gps=keep_gps))

    def report(self, target: str | Path | None = None, *, keep_gps: bool = True) -> dict[str, Any]:
        """Everything but the pixels, ready for JSON; with what the file at `target` cannot hold among the notes."""
        return {
            "source": Path(self.original.source).name,
            "size": [self.original.width, self.original.height],
            "output_size": [self.base.width, self.base.height],
            "notes": list(self.notes(target, keep_gps=keep_gps)),
            "summary": self.summary,
            "options": asdict(self.options),
            "models": list(self.models),
            "repairs": list(self.repairs),
            "faces": [f.to_dict() for f in self.faces],
            "seconds": {k: round(v, 4) for k, v in self.seconds.items()},
        }

    def provenance(self) -> Provenance:
        """What was done, for the picture's XMP metadata."""
        from .. import __version__

        options = self.options
        return Provenance(
            version=__version__,
            models=self.models,
            checkpoint=self.checkpoint,
            faces=tuple(tuple(float(v) for v in f.face.box) for f in self.faces if f.restored),  # type: ignore[misc]
            parameters={
                k: getattr(options, k)
                for k in ("upscale", "fidelity", "strength", "seed", "watermark", "hair", "whole", "relight")
            },
        )

    def save(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        quality: int = 95,
        provenance: bool = True,
        keep_gps: bool = True,
    ) -> Path:
        """Write the restored photo with its metadata; `provenance` records in XMP what was done to which face.

        When nothing was changed and the format stays, the file is copied byte by byte.
        """
        if self._is_copied(Path(path), keep_gps=keep_gps):
            with atomic_output(path, overwrite=overwrite) as temporary:
                shutil.copyfile(self.original.source, temporary)
            return Path(path)
        xmp = self.packet() if provenance else None
        return self.image.save(path, overwrite=overwrite, quality=quality, xmp=xmp, keep_gps=keep_gps)

    def packet(self) -> bytes | None:
        """The photo's XMP with the record of what was done to it, if anything was."""
        return xmp_packet(self.provenance(), self.original.xmp) if self.changed else self.original.xmp

    def _is_copied(self, target: Path, *, keep_gps: bool) -> bool:
        """Whether the file of the original, byte by byte, is the result."""
        original = self.original
        untouched = not self.changed and self.base is original and original.whole
        return untouched and keep_gps and Path(original.source).is_file() and format_of(target) == original.format

    def compare(self) -> Photo:
        """A labelled before/after sheet: the whole photo, then every restored face."""
        from .sheets import compare_sheet

        return read(compare_sheet(self))


def _doubt(face: Face, options: RestoreOptions) -> str:
    """What speaks against a face, in numbers."""
    if face.score < options.min_score or face.certainty is None:
        return f"score {face.score:.2f}"
    return f"certainty {face.certainty:.2f}"


def _listed(items: Sequence[str]) -> str:
    """The first entries of a list, and how many more there are."""
    shown = ", ".join(items[:LISTED])
    return shown if len(items) <= LISTED else f"{shown} and {len(items) - LISTED} more"


def turns_in_words(faces: Sequence[Face]) -> str:
    """How the faces of a photo are turned, as "3 faces upside down"; empty where all are upright."""
    names = {90: "turned 90 degrees clockwise", 180: "upside down", 270: "turned 90 degrees counter-clockwise"}
    counts = {turn: sum(face.turn == turn for face in faces) for turn in names}
    return ", ".join(f"{count} face{'s' * (count != 1)} {names[turn]}" for turn, count in counts.items() if count)


def _apply(photo: Photo, base_rgb: NDArray[np.uint8], patch: FacePatch, strength: float) -> Photo:
    x0, y0, x1, y1 = patch.box
    wanted = np.clip(base_rgb[y0:y1, x0:x1] + patch.change, 0, 255)
    return photo.patched(patch.box, wanted, patch.mask * strength)


def _blended(photo: Photo, other: Photo, strength: float) -> Photo:
    """A photo with so much of another of its size."""
    whole = np.full((photo.height, photo.width), strength, np.float32)
    return photo.patched((0, 0, photo.width, photo.height), other.rgb().astype(np.float32), whole)


class RestorePipeline:
    """Detector and restorer, loaded once and used on many photos; with a recogniser it reports identity, too.

    `assessor` estimates the damage for restorers that cannot (UsageError where neither can). `parser` tells face from
    what lies before it, on crops like the restorer's; without one the oval of a face is restored with all that is in
    it. `enlarger` draws what is not a face; without one its pixels stay, or are enlarged by Lanczos. `damage_finder`
    says where a print is damaged.
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
    ) -> None:
        if assessor is None:
            if not isinstance(restorer, DegradationEstimator):
                raise UsageError(f"{type(restorer).__name__} does not estimate damage; give the pipeline an assessor")
            assessor = restorer
        self.detector, self.restorer, self.assessor = detector, restorer, assessor
        self.enlarger, self.damage_finder = enlarger, damage_finder
        self.recogniser, self.calibration, self.parser = recogniser, calibration, parser

    @property
    def models(self) -> tuple[str, ...]:
        """Slugs of the networks in use."""
        used = [self.detector, self.restorer, *([] if self.enlarger is None else [self.enlarger])]
        return tuple(str(getattr(m, "slug", type(m).__name__)) for m in used)

    film_restorer = renamed_attribute("video_restorer")

    @property
    def video_restorer(self) -> Restorer:
        """What restores the frames of videos: of two stages the first, which is fast enough for every frame."""
        restorer: Restorer = getattr(self.restorer, "structure", self.restorer)
        return restorer

    @property
    def checkpoint(self) -> str | None:
        """SHA-256 of the restorer's weights file; None for fresh weights."""
        return getattr(self.restorer, "weights_sha256", None)

    def __call__(self, photo: Photo, options: RestoreOptions | None = None) -> RestoreResult:
        """Restore one photo."""
        options = options or RestoreOptions()
        clock = _Clock()
        rgb, repair = photo.rgb(), None
        if options.old_photo:
            with clock("mend"):
                repair = self._mend(rgb, options)
                rgb = repair.image
        with clock("detect"):
            faces = reading_order(self.detector.detect(rgb))
        if repair is not None and options.tones:
            repair = with_tones(repair, faces)
            rgb = repair.image
        with clock("align"):
            crops = [self.restorer.preprocess.crop.cut(rgb, f) for f in faces]
        with clock("restore"):
            results = self._restore_faces(faces, crops, self._sharpness(rgb, faces, crops, options.upscale), options)
        with clock("paste"):
            base = photo if options.upscale == 1 else _enlarged(photo, options.upscale)
            mended = None
            if repair is not None and repair.steps:
                mended = photo.patched((0, 0, photo.width, photo.height), rgb.astype(np.float32), _ones(rgb))
                mended = mended if options.upscale == 1 else _enlarged(mended, options.upscale)
            results = self._with_patches(results, (mended or base).rgb(), options)
            if self.enlarger is not None:
                patches = [r.patch for r in results if r.patch is not None]
                base = redrawn(photo, base, options.upscale, self.enlarger, patches)
            background = "" if self.enlarger is None else self.models[-1]
            result = RestoreResult(
                photo,
                base,
                tuple(results),
                options,
                clock.seconds,
                self.models,
                self.checkpoint,
                background,
                mended,
                () if repair is None else repair.steps,
                None if repair is None else repair.damage,
            )
            _ = result.image
        return result

    def _mend(self, rgb: NDArray[np.uint8], options: RestoreOptions) -> Repair:
        """The whole photo with its damage filled, where that is wanted."""
        if not options.scratches:
            return Repair(rgb, ())
        if options.damage_mask is not None:
            mask = read(options.damage_mask).rgb()[..., 0] > 127
        elif self.damage_finder is None:
            raise UsageError("this pipeline has no network that finds damage; give a damage mask")
        else:
            mask = likely_marks(rgb, plausible_damage(self.damage_finder.find(rgb)))
            if mask.any():
                mask = without_features(mask, [f for f in self.detector.detect(rgb) if f.score >= options.min_score])
        return mended_print(rgb, mask)

    def _sharpness(
        self, rgb: NDArray[np.uint8], faces: Sequence[Face], crops: Sequence[FaceCrop], upscale: int
    ) -> list[float | None]:
        """How sharp every face is for its size in the result; None where the restorer draws no fine detail."""
        spec = self.restorer.preprocess.crop
        if spec.kind != "template" or spec.size < FINE_SIZE:
            return [None] * len(faces)
        found: list[float | None] = []
        for face, crop in zip(faces, crops):
            side = native_side(crop.scale, spec.size)
            if upscale > 1 and side < MOST_SIDE:
                found.append(0.0)  # an enlarged face lacks the detail of its new size
            else:
                found.append(sharpness(dataclasses.replace(spec, size=side).cut(rgb, face).image))
        return found

    def _with_patches(
        self, results: Sequence[FaceResult], rgb: NDArray[np.uint8], options: RestoreOptions
    ) -> list[FaceResult]:
        """The results with what their faces change in the photo (H, W, 3)."""
        done = list(results)
        parser = None if options.whole else self.parser
        for group in batches([r for r in results if r.restored and r.crop is not None], BATCH):
            faces = [r.face.moved(r.crop.matrix) for r in group]
            # a parser tells more from the restored face than from the damaged one
            masks = restoring_masks([r.output for r in group], faces, parser, hair=options.hair)
            for result, mask in zip(group, masks):
                placed = _with_patch(result, mask, (rgb.shape[0], rgb.shape[1]), options.upscale)
                if placed.patch is not None and options.grain == "match":
                    placed = replace(placed, patch=with_grain(placed.patch, rgb))
                done[result.index] = placed
        return done

    def assess(self, crops: NDArray[np.uint8]) -> list[DegradationEstimate]:
        """The estimated damage of (N, S, S, 3) uint8 RGB crops of any size."""
        side = self.assessor.preprocess.size
        if crops.shape[1] != side:
            crops = np.stack([cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA) for crop in crops])
        return self.assessor.assess(crops)

    def _restore_faces(
        self,
        faces: Sequence[Face],
        crops: Sequence[FaceCrop],
        sharp: Sequence[float | None],
        options: RestoreOptions,
    ) -> list[FaceResult]:
        chosen = choose(faces, options)
        verdicts: list[FaceResult] = []
        for group in batches(list(range(len(faces))), BATCH):
            estimates = self.assess(np.stack([crops[i].image for i in group]))
            for i, before in zip(group, estimates):
                wanted, reason = verdict(faces[i], before, chosen[i], options, sharp[i])
                verdicts.append(FaceResult(i, faces[i], wanted, reason, before, sharpness=sharp[i], crop=crops[i]))
        verdicts = _largest(verdicts, options.max_faces)
        todo = [v.index for v in verdicts if v.restored]
        for group in batches(todo, BATCH):
            for i, done in zip(group, self._restore_group([verdicts[i] for i in group], options)):
                verdicts[i] = done
        return verdicts

    def _restore_group(self, group: Sequence[FaceResult], options: RestoreOptions) -> list[FaceResult]:
        inputs = np.stack([g.crop.image for g in group if g.crop is not None])
        estimates = [g.before for g in group]
        dials = {"relight": options.relight, "seed": options.seed, "estimates": estimates}
        outputs = restore_crops(self.restorer, inputs, options.fidelity, **dials)  # type: ignore[arg-type]
        shares = [1.0] * len(group) if options.force else self._plausible_shares(group, outputs)
        outputs = np.stack([_mixed(before, after, share) for before, after, share in zip(inputs, outputs, shares)])
        after = self.assess(outputs)
        identities = self._identities(group, outputs)
        done = []
        for result, restored, estimate, identity, share in zip(group, outputs, after, identities, shares):
            if share == 0:
                done.append(replace(result, restored=False, reason=WORSE))
                continue
            shown = restored
            if options.watermark:
                shown = np.rint(embed_watermark(restored.astype(np.float32))).clip(0, 255).astype(np.uint8)
            probability = self._probability(identity)
            warnings = warnings_for(result.before, probability)
            if share < 1:
                warnings = (*warnings, "restored at half strength: at full strength it looked less like a face")
            values = {"identity": identity, "same_person": probability, "output": shown, "warnings": warnings}
            done.append(replace(result, after=estimate, **values))
        return done

    def _plausible_shares(self, group: Sequence[FaceResult], outputs: NDArray[np.uint8]) -> list[float]:
        """How much of each restoration to take: 1, or where it looks less like a face than before ½ or nothing.

        Only faces of which little is left are asked about: the others cannot go so wrong.
        """
        likeness = getattr(getattr(self.detector, "opinion", None), "likeness", None)
        if likeness is None:
            return [1.0] * len(group)
        return [self._plausible_share(likeness, result, after) for result, after in zip(group, outputs)]

    def _plausible_share(self, likeness: Likeness, result: FaceResult, after: NDArray[np.uint8]) -> float:
        crop, face = result.crop, result.face
        assert crop is not None
        if retained_fraction(result.before) >= INVENTED_BELOW and face.eye_distance >= SMALL_EYES:
            return 1.0
        before = likeness.of_crop(crop, face)
        for share in (1.0, 0.5):
            shown = dataclasses.replace(crop, image=_mixed(crop.image, after, share))
            if likeness.of_crop(shown, face) >= min(before - WORSE_BY, SURE_ODDS):
                return share
        return 0.0

    def _identities(self, group: Sequence[FaceResult], outputs: NDArray[np.uint8]) -> list[float | None]:
        """Cosine of every face's input and output, as the recogniser sees them."""
        if self.recogniser is None:
            return [None] * len(group)
        wanted = self.recogniser.preprocess.crop
        before, after = [], []
        for result, output in zip(group, outputs):
            assert result.crop is not None
            face = result.face.moved(result.crop.matrix)
            before.append(wanted.cut(result.crop.image, face).image)
            after.append(wanted.cut(output, face).image)
        vectors = self.recogniser.embed(np.stack(before + after))
        return [float(v) for v in (vectors[: len(before)] * vectors[len(before) :]).sum(1)]

    def _probability(self, identity: float | None) -> float | None:
        if identity is None or self.calibration is None:
            return None
        return float(self.calibration.probability(identity))


def _mixed(before: NDArray[np.uint8], after: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """`share` of `after` over `before`."""
    if share == 1:
        return after
    return np.asarray(cv2.addWeighted(after, share, before, 1 - share, 0), np.uint8)


def _ones(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.ones(rgb.shape[:2], np.float32)


def _enlarged(photo: Photo, factor: int) -> Photo:
    try:
        return photo.resized(factor)
    except (MemoryError, cv2.error) as error:
        size = f"{photo.width} x {photo.height}"
        raise UsageError(f"{photo.source}: cannot enlarge {size} pixels {factor} times; lower --upscale") from error


def _largest(verdicts: list[FaceResult], count: int | None) -> list[FaceResult]:
    """At most `count` faces stay marked for restoring, the largest ones."""
    if count is None:
        return verdicts
    by_size = sorted((v for v in verdicts if v.restored), key=lambda v: -v.face.eye_distance)
    surplus = {v.index for v in by_size[count:]}
    reason = f"beyond the {count} largest"
    return [replace(v, restored=False, reason=reason) if v.index in surplus else v for v in verdicts]


def _with_patch(result: FaceResult, mask: NDArray[np.float32], shape: tuple[int, int], upscale: int) -> FaceResult:
    assert result.crop is not None
    assert result.output is not None
    patch = face_patch(result.crop, result.output, mask, shape, upscale)
    if patch is None:
        return replace(result, restored=False, reason="outside the picture")
    weight = float(patch.mask.sum())
    change = float((np.abs(patch.change).mean(2) * patch.mask).sum()) / max(weight, 1e-6)
    return replace(result, patch=patch, change=change)


def verdict(
    face: Face,
    estimate: DegradationEstimate,
    chosen: str,
    options: RestoreOptions,
    sharp: float | None = None,
) -> tuple[bool, str]:
    """Whether to restore a face, and why (do no harm: what is good, too small or too turned stays as it is).

    `sharp` is the probability that the face is as sharp as its size allows; None where that does not count.
    """
    if chosen != "":
        return False, chosen
    if options.force:
        return True, "forced"
    if face.score < options.min_score:
        return False, f"low confidence, score {face.score:.2f}"
    if not believable(face):
        return False, f"{NO_FACE}, certainty {face.certainty:.2f}"
    if face.eye_distance < MIN_EYE_DISTANCE:
        return False, f"too small, {face.eye_distance:.1f} px between the eyes"
    if face.pose is not None and abs(face.pose.yaw) > MAX_YAW:
        return False, f"too turned, yaw {face.pose.yaw:.0f} degrees"
    if estimate.ssim >= GOOD_SSIM:
        if sharp is not None and sharp < SHARP:
            return True, f"soft, sharpness {100 * sharp:.0f} of 100"
        return False, f"already good, quality {quality(estimate):.0f}"
    return True, f"quality {quality(estimate):.0f}"


def warnings_for(estimate: DegradationEstimate, same_person: float | None = None) -> tuple[str, ...]:
    """What a viewer should know about a restored face."""
    found = []
    if retained_fraction(estimate) < INVENTED_BELOW:
        found.append("so little of the face was left that parts of it are invented, not recovered")
    if same_person is not None and same_person < DOUBTFUL:
        found.append("a recogniser no longer takes the restored face for the person of the input")
    return tuple(found)


def choose(faces: Sequence[Face], options: RestoreOptions) -> list[str]:
    """For every face "" if the user's selection includes it, else why not; raises UsageError on unknown indices."""
    for index in (*(options.faces or ()), *options.skip):
        if not 0 <= index < len(faces):
            raise UsageError(f"there is no face {index}: {len(faces)} were found, numbered from 0 in reading order")
    selective = options.faces is not None or bool(options.boxes) or bool(options.points)
    reasons = []
    for index, face in enumerate(faces):
        picked = index in (options.faces or ()) or _touched(face, options)
        reasons.append("not selected" if index in options.skip or (selective and not picked) else "")
    return reasons


def _touched(face: Face, options: RestoreOptions) -> bool:
    x0, y0, x1, y1 = face.box
    by_point = any(x0 <= x <= x1 and y0 <= y <= y1 for x, y in options.points)
    by_box = any(a <= face.centre[0] <= c and b <= face.centre[1] <= d for a, b, c, d in options.boxes)
    return by_point or by_box


def load(session: Networks, task: Task, choice: NetworkChoice) -> RestorePipeline:
    """The restore pipeline of a choice of networks."""
    from .identity import calibration_of

    restorer = session.chosen(task, choice)
    if restorer.slug == "facedetail":
        restorer = TwoStageRestorer(session.network("frgp", None, choice.device, choice.dtype), restorer)
    recogniser = session.recogniser(choice)
    assessor = None if hasattr(restorer, "assess") else session.network("frgp", None, choice.device)
    calibration = calibration_of(recogniser)
    return RestorePipeline(
        session.detector(choice),
        restorer,
        recogniser,
        calibration,
        assessor,
        session.parser(choice),
        session.background(choice),
        session.network("printscan", None, choice.device),
    )


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
