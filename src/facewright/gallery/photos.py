"""Enrolling people by their photos and finding them on others, by the identity pipeline that also verifies.

What `verify` takes for no evidence of identity (a face too small, turned too far, doubtful; a ruined picture) is not
enrolled unless forced, and a search says of such a face "cannot tell", whichever side it is on.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import ImageReadError, UsageError
from ..face import Face
from ..io.decode import read_file
from ..io.image import read
from ..pipelines.identity import DEFAULT_FAR, Evidence, fault_of, only_if_live, ruin_of
from ..pipelines.liveness import judged
from .records import RecogniserId, Sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ..pipelines.identity import FaceEmbedding, IdentityPipeline, Judgement, Recogniser
    from ..pipelines.liveness import JudgedFace
    from ..tasks.liveness import LivenessEstimator
    from .store import Gallery

THUMBNAIL_QUALITY = 85
LEAST_QUALITY = 1e-3  # so that no picture is without weight


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What became of one photo: `status` is "enrolled", "known", or "failed" with the reason in `error`."""

    photo: Path
    person: str
    status: str
    quality: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A person who may be the one on a photo: the cosine of probe and template, and what it means."""

    person: str
    score: float
    judgement: Judgement

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words, ready for JSON."""
        decision, reason, llr, probability, threshold = self.judgement
        numbers = {"llr": llr, "probability": probability, "threshold": threshold}
        rounded = {name: None if value is None else round(value, 6) for name, value in numbers.items()}
        return {"person": self.person, "score": self.score, "decision": decision, "reason": reason, **rounded}

    def line(self) -> str:
        """A few words for people."""
        probability = self.judgement.probability
        said = f"{self.person} {self.score:.3f} {self.judgement.decision}"
        return said if probability is None or self.judgement.decision != "same" else f"{said} ({probability:.1%})"


@dataclass(frozen=True, slots=True, eq=False)
class Sighting:
    """A face of a photo and who it may be, the most alike first; `liveness` where it was asked for."""

    embedding: FaceEmbedding
    candidates: tuple[Candidate, ...]
    liveness: JudgedFace | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words, ready for JSON; without the embedding."""
        face = {key: value for key, value in self.embedding.to_dict().items() if key != "embedding"}
        said = {**face, "matches": [candidate.to_dict() for candidate in self.candidates]}
        return said if self.liveness is None else said | {"liveness": self.liveness.to_dict()}

    def line(self) -> str:
        """One line for people."""
        box = ",".join(str(round(float(value))) for value in self.embedding.face.box)
        fault = f" ({self.embedding.fault})" if self.embedding.fault else ""
        return f"box {box}{fault}: {', '.join(c.line() for c in self.candidates) or 'nobody'}"


def recogniser_id(recogniser: Recogniser) -> RecogniserId:
    """Which recogniser this is. Raises UsageError for one with untrained weights."""
    if recogniser.weights_sha256 is None:
        raise UsageError("the recogniser has no trained weights; give them with --weights")
    side = recogniser.preprocess.size
    (vector,) = recogniser.embed(np.full((1, side, side, 3), 128, np.uint8))
    return RecogniserId(recogniser.slug, recogniser.weights_sha256, len(vector))


def enrol_photos(
    gallery: Gallery,
    photos: Sequence[tuple[str, Path]],
    identity: IdentityPipeline,
    *,
    thumbnails: bool = False,
    largest: bool = False,
    force: bool = False,
) -> Iterator[Enrolment]:
    """Enrol (person, photo) pairs one after the other; yields what became of each once it is on the disk."""
    for person, photo in photos:
        try:
            key = hashlib.sha256(read_file(photo)).hexdigest()
            if gallery.contains(person, key):
                yield Enrolment(photo, person, "known")
                continue
            sample = describe_photo(photo, person, key, identity, thumbnail=thumbnails, largest=largest, force=force)
            gallery.enrol([sample])
            yield Enrolment(photo, person, "enrolled", round(sample.quality, 4))
        except (ImageReadError, UsageError) as error:
            yield Enrolment(photo, person, "failed", error=str(error))


def describe_photo(
    photo: Path,
    person: str,
    key: str,
    identity: IdentityPipeline,
    *,
    thumbnail: bool = False,
    largest: bool = False,
    force: bool = False,
) -> Sample:
    """The sample of a photo of one person.

    Its quality is the detector's score times the share of the crop's resolution that the photo holds. Raises
    UsageError where `identity.embed_one` does, and, unless `force`, for a picture that is no evidence of identity.
    """
    picture = read(photo)
    embedding = identity.embed_one(picture, largest=largest, force=force)
    evidence = embedding.evidence("")
    if (evidence.fault or evidence.ruin) and not force:
        fault = evidence.fault and f"the face is {evidence.fault}"
        raise UsageError(
            f"{photo}: {fault or f'the picture is {evidence.ruin}'}, which says too little of who it is; "
            "enrol another photo, or this one by --force"
        )
    crop = identity.crop(picture, embedding.face)
    rated = embedding.quality
    return Sample(
        person=person,
        vector=embedding.vector,
        quality=max(LEAST_QUALITY, embedding.face.score * min(1.0, 1 / crop.scale)),
        key=key,
        metadata={
            "file": photo.name,
            "face": embedding.face.to_dict(),
            "retained_fraction": None if rated is None else rated.retained_fraction,
        },
        thumbnail=_jpeg(crop.image) if thumbnail else None,
    )


class PhotoSearch:
    """Finds the people of a gallery on photos; what it has read of a person it remembers."""

    def __init__(
        self,
        gallery: Gallery,
        identity: IdentityPipeline,
        *,
        far: float = DEFAULT_FAR,
        force: bool = False,
        liveness: LivenessEstimator | None = None,
    ) -> None:
        """Raises UsageError for a `far` at which the recogniser is not calibrated; `force` as in `verify`.

        With `liveness` a face that is not known to be live is nobody for certain.
        """
        identity.check_far(far)
        self.gallery, self.identity, self.far, self.force, self.liveness = gallery, identity, far, force, liveness
        self._enrolled: dict[str, Evidence] = {}

    def __call__(self, photo: Path, *, top: int = 5, min_score: float = -1.0) -> list[Sighting]:
        """The faces of a photo in reading order with the `top` most alike people of cosine `min_score` or more."""
        picture = read(photo)
        found = self.identity.embed(picture, force=self.force)
        ranked = self.gallery.search(np.stack([face.vector for face in found]), top) if found else []
        said: list[JudgedFace | None] = [None] * len(found)
        if self.liveness is not None:
            said = list(judged(picture.rgb(), [face.face for face in found], [self.liveness]))
        return [
            Sighting(
                face,
                tuple(self._candidate(face, m.person, m.score, live) for m in matches if m.score >= min_score),
                live,
            )
            for face, matches, live in zip(found, ranked, said, strict=True)
        ]

    def _candidate(self, face: FaceEmbedding, person: str, score: float, live: JudgedFace | None) -> Candidate:
        if person not in self._enrolled:
            self._enrolled[person] = enrolled_evidence(self.gallery.samples(person))
        sides = (face.evidence("found"), self._enrolled[person])
        judgement = self.identity.judge(score, sides, far=self.far, force=self.force)
        return Candidate(person, score, judgement if live is None else only_if_live(judgement, live))


def enrolled_evidence(samples: Sequence[Sample]) -> Evidence:
    """What the pictures of a person are worth together: as much as the best of them.

    Samples that say nothing of their face, as programs may enrol, are taken for usable.
    """
    sides = [_sample_evidence(sample.metadata) for sample in samples]
    return min(sides, key=lambda side: (bool(side.fault), bool(side.ruin)), default=Evidence("enrolled"))


def _sample_evidence(metadata: Mapping[str, Any]) -> Evidence:
    try:
        fault, left = fault_of(Face.from_dict(metadata["face"])), metadata.get("retained_fraction")
        return Evidence("enrolled", fault, "" if left is None else ruin_of(float(left)))
    except (KeyError, TypeError, ValueError, AttributeError):
        return Evidence("enrolled")


def _jpeg(crop: NDArray[np.uint8]) -> bytes:
    target = io.BytesIO()
    Image.fromarray(crop).save(target, "JPEG", quality=THUMBNAIL_QUALITY)
    return target.getvalue()
