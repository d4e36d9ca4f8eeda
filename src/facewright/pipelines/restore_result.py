"""What became of a photo and of its faces: a value that can be saved, reported, compared and blended again."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..io.atomic import atomic_output
from ..io.encode import format_of
from ..io.image import Photo, read
from ..io.provenance import Provenance, xmp_packet
from ..systems.quality.retained import retained_after, retained_fraction
from .choosing import doubt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ..face import DegradationEstimate, Face, FaceCrop
    from ..geometry.paste import FacePatch
    from ..tasks.restore import RestoreOptions
    from .references import ReferenceUse

RECORDED = ("upscale", "fidelity", "strength", "seed", "watermark", "hair", "whole", "relight")
"""Options that the metadata of a result name."""
LISTED = 6  # entries of a list in the summary; the report has all


@dataclass(frozen=True, slots=True, eq=False)
class FaceResult:
    """What happened to one face.

    `reason` says in words why it was restored or left alone. `before` estimates the damage of the crop; `after`, that
    of the restored crop at full strength, is blind to what was invented: `quality_after` judges by both.
    `identity` is the similarity of input and output to a recogniser, `same_person` the probability of one person that
    it stands for, both where such a network was given. `change` is the mean absolute change inside the face in grey
    levels; `warnings` name what a viewer should know. `sharpness` is the probability that most of the detail a face of
    its size can have is there (`systems.quality.sharpness`); None where the restorer draws no such detail. `treatment`
    says how much of the restoration is shown: "full", "smoothed", "half", "denoised" or "none" (`pipelines.plausible`).
    `references` is what other photos of the person did (`pipelines.references`); None where none were given.
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
    treatment: str = "none"
    references: ReferenceUse | None = None
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
            "treatment": self.treatment,
            "references": None if self.references is None else self.references.to_dict(),
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
    original was damaged. `reference_notes` say what had to be decided about references.
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
    reference_notes: tuple[str, ...] = ()

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
        lines = [(f.index, f.references.line) for f in faces if f.references is not None and f.references.used]
        line += "".join(f"; face {index}: {said}" for index, said in lines)
        if turned := turns_in_words([f.face for f in faces]):
            line += f"; {turned}"
        if skipped := [f"{f.index} ({f.reason})" for f in faces if not f.restored]:
            line += f"; left alone: {_listed(skipped)}"
        if doubtful:
            line += f"; probably no face: {_listed([f'{f.index} ({_doubt(f.face, self.options)})' for f in doubtful])}"
        return line

    def _is_doubtful(self, face: Face) -> bool:
        return bool(doubt(face, self.options.min_score))

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
            return (*self.original.notes, *self.reference_notes)
        if self._is_copied(Path(target), keep_gps=keep_gps):
            return self.reference_notes
        return (*self.original.notes, *self.reference_notes, *self.image.not_kept(target, keep_gps=keep_gps))

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
            parameters={name: getattr(options, name) for name in RECORDED},
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

    def damage_mask(self) -> Photo:
        """Where the original was damaged, white on black, of its size: what `damage_mask` of the options takes."""
        shape = (self.original.height, self.original.width)
        mask = np.zeros(shape, np.bool_) if self.damage is None else self.damage
        return read(np.asarray(mask * 255, np.uint8))

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
