"""Who is it: embeddings of the faces of a photo, and whether two photos show the same person.

A comparison ends in `same`, `different` or `cannot tell`. The evidence is the recogniser's cosine as a log-likelihood
ratio, measured on people it never saw; pictures in which a face is too small or too turned to be evidence are said so.

What counts as a face, and which face is evidence, is decided here for all who ask: `embed`, `verify`, and enrolling
and searching in `facewright.gallery.photos`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

from ..errors import UsageError
from ..tasks.card import cards
from ..tasks.declare import NetworkChoice, Networks, tasks
from .choosing import doubt, largest_face, rivals, sure_faces
from .liveness import judged
from .order import reading_order
from .quality import face_line, load_rater, quality_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ..face import Face, FaceCrop, FaceQuality
    from ..io.image import Photo
    from ..metrics.calibration import ScoreCalibration
    from ..tasks.card import Preprocess
    from ..tasks.declare import Task
    from ..tasks.detect import Detector
    from ..tasks.liveness import LivenessEstimator
    from ..tasks.quality import QualityEstimator
    from ..tasks.recognise import EmbedOptions, VerifyOptions
    from .liveness import JudgedFace

CALIBRATION_FILE = "calibration.json"

Decision = Literal["same", "different", "cannot tell"]

DEFAULT_FAR = 1e-3
# Different only when the evidence for it is as strong as one to twenty.
DIFFERENT_LLR = -3.0
# Stricter than for restoring: here a false alarm makes a photo of one person a photo of several.
MIN_SCORE = 0.8
MIN_EYE_DISTANCE = 8.0
MAX_YAW = 60.0
# Such damage also makes a person unlike their own undamaged photo: unlikeness is then no evidence.
MIN_RETAINED = 0.4


class Recogniser(Protocol):
    """What is needed of a recogniser: an embedder that says which network and weights it is, and what it wants."""

    slug: str
    weights_sha256: str | None

    @property
    def preprocess(self) -> Preprocess: ...

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True, eq=False)
class FaceEmbedding:
    """One face of a photo as a recogniser sees it.

    `vector` (D,) has length 1 and is comparable only with vectors of the same `model` and weights (`sha256`).
    """

    face: Face
    vector: NDArray[np.float32] = field(repr=False)
    model: str
    sha256: str | None = None
    quality: FaceQuality | None = None

    @property
    def fault(self) -> str:
        """Why the face is no evidence of identity, in words; empty where it is."""
        return fault_of(self.face)

    def evidence(self, name: str) -> Evidence:
        """What the picture is worth in a comparison in which it is called `name`, such as "first"."""
        left = None if self.quality is None else self.quality.retained_fraction
        reasons = self.quality.reasons if self.quality else ()
        flaws = ", ".join(str(reason).replace("_", " ") for reason in reasons[:2])
        return Evidence(name, self.fault, "" if left is None else ruin_of(left), flaws)

    def similarity(self, other: FaceEmbedding) -> float:
        """Cosine to another embedding, −1 to 1; raises UsageError when another model or other weights made it."""
        if (self.model, self.sha256) != (other.model, other.sha256):
            raise UsageError(
                f"embeddings of {self.model} and {other.model}, or of different weights, cannot be compared"
            )
        return float(self.vector @ other.vector)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return {
            **self.face.to_dict(),
            "model": self.model,
            "weights_sha256": self.sha256,
            "quality": quality_dict(self.quality),
            "fault": self.fault,
            "embedding": [round(float(v), 6) for v in self.vector],
        }

    def line(self) -> str:
        """One line for people."""
        fault = f"; no evidence of identity: {self.fault}" if self.fault else ""
        return face_line(self.face, self.quality) + fault


class Evidence(NamedTuple):
    """What the picture of a face is worth as evidence of identity; the words are empty where nothing is wrong.

    fault: why it says nothing at all. ruin: why unlikeness says nothing. flaws: what may have lowered the similarity.
    """

    name: str
    fault: str = ""
    ruin: str = ""
    flaws: str = ""


class Judgement(NamedTuple):
    """What a similarity means; see `Verification` for the fields."""

    decision: Decision
    reason: str
    llr: float | None = None
    probability: float | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Verification:
    """The outcome of a comparison of two faces.

    similarity: cosine, −1 to 1. llr: natural log of how much likelier it is for one person than for two. probability:
    of one person, if both were equally likely before. threshold: similarity from which it is `same`, for the false
    acceptance rate `far`. These three are None for weights without a calibration. reason: why it was decided so, in
    words. note: what the decision does not cover. liveness: of the face of the second photo, where it was asked for.
    """

    decision: Decision
    reason: str
    similarity: float
    llr: float | None
    probability: float | None
    threshold: float | None
    far: float
    first: FaceEmbedding
    second: FaceEmbedding
    note: str = ""
    liveness: JudgedFace | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words, ready for JSON; without the embeddings."""
        values = {k: getattr(self, k) for k in ("similarity", "llr", "probability", "threshold", "far")}
        numbers = {k: None if v is None else round(v, 6) for k, v in values.items()}
        faces = [{k: v for k, v in face.to_dict().items() if k != "embedding"} for face in (self.first, self.second)]
        said = {"decision": self.decision, "reason": self.reason, **numbers, "note": self.note, "faces": faces}
        return said | {"liveness": None if self.liveness is None else self.liveness.to_dict()}

    def lines(self) -> list[str]:
        """The outcome for people, line by line."""
        said = [f"{self.decision}: {self.reason}"]
        if self.probability is not None:
            said.append(f"probability of one person {self.probability:.1%}, if both were equally likely before")
        if self.liveness is not None:
            said.append(f"liveness of the second face, {self.liveness.line()}")
        return [*said, f"note: {self.note}"] if self.note else said


def only_if_live(judgement: Judgement, judged: JudgedFace) -> Judgement:
    """A judgement about a face that has to be live: unless it is known to be, `same` cannot be told."""
    if judgement.decision != "same" or judged.decision == "live":
        return judgement
    why = judged.reason or judged.evidence or "it looks like an attack"
    return judgement._replace(
        decision="cannot tell", reason=f"the face is not known to be live ({why}); {judgement.reason}"
    )


class IdentityPipeline:
    """Detector, recogniser, its calibration and optionally a quality estimator, loaded once and used on many photos."""

    def __init__(
        self,
        detector: Detector,
        recogniser: Recogniser,
        calibration: ScoreCalibration | None = None,
        quality: QualityEstimator | None = None,
    ) -> None:
        self.detector, self.recogniser, self.calibration, self.quality = detector, recogniser, calibration, quality
        if calibration is not None and recogniser.weights_sha256 is not None:
            calibration.check(recogniser.weights_sha256)

    def embed(self, photo: Photo, *, force: bool = False) -> list[FaceEmbedding]:
        """The faces of a photo in reading order; with `force` doubtful finds where there is no sure face."""
        rgb = photo.rgb()
        return self._embed_faces(rgb, reading_order(self._faces(rgb, force=force)[0]))

    def embed_one(self, photo: Photo, *, largest: bool = False, force: bool = False) -> FaceEmbedding:
        """The face of a photo that shows one person; smaller faces in the background do not count.

        Raises UsageError when there is none, or when there are several and `largest` does not choose among them. With
        `force` a doubtful find is taken where there is no sure face.
        """
        rgb = photo.rgb()
        faces, doubtful = self._faces(rgb, force=force)
        return self._embed_faces(rgb, [only_face(faces, photo.source, largest=largest, doubtful=doubtful)])[0]

    def crop(self, photo: Photo, face: Face) -> FaceCrop:
        """The crop of a face that the recogniser sees."""
        return self.recogniser.preprocess.crop.cut(photo.rgb(), face)

    def _faces(self, rgb: NDArray[np.uint8], *, force: bool) -> tuple[list[Face], list[Face]]:
        """The faces that count, and the finds that do not."""
        finds = self.detector.detect(rgb)
        sure = sure_faces(finds, MIN_SCORE)
        doubtful = [face for face in finds if all(face is not other for other in sure)]
        return (doubtful, []) if force and not sure else (sure, doubtful)

    def _embed_faces(self, rgb: NDArray[np.uint8], faces: list[Face]) -> list[FaceEmbedding]:
        if not faces:
            return []
        crop = self.recogniser.preprocess.crop
        crops = np.stack([crop.cut(rgb, face).image for face in faces])
        vectors = self.recogniser.embed(crops)
        rated = [None] * len(faces) if self.quality is None else self.quality.rate(rgb, faces)
        slug, sha256 = self.recogniser.slug, self.recogniser.weights_sha256
        return [FaceEmbedding(f, v, slug, sha256, q) for f, v, q in zip(faces, vectors, rated)]

    def verify(
        self,
        first: Photo,
        second: Photo,
        *,
        far: float = DEFAULT_FAR,
        largest: bool = False,
        force: bool = False,
        liveness: LivenessEstimator | None = None,
    ) -> Verification:
        """Whether two photos show the same person.

        `far` is one of the calibrated false acceptance rates; `largest` takes the largest of several faces; `force`
        takes faces for evidence that are too small, too turned, doubtful or too damaged. With `liveness` the face of
        the second photo has to be live.
        """
        self.check_far(far)
        a, b = (self.embed_one(photo, largest=largest, force=force) for photo in (first, second))
        live = None if liveness is None else judged(second.rgb(), [b.face], [liveness])[0]
        return self.compare(a, b, far=far, force=force, live=live)

    def compare(
        self,
        first: FaceEmbedding,
        second: FaceEmbedding,
        *,
        far: float = DEFAULT_FAR,
        force: bool = False,
        live: JudgedFace | None = None,
    ) -> Verification:
        """As `verify`, of two faces already embedded; `live` is what was said of the second."""
        similarity = first.similarity(second)
        sides = (first.evidence("first"), second.evidence("second"))
        judgement = self.judge(similarity, sides, far=far, force=force)
        if live is not None:
            judgement = only_if_live(judgement, live)
        note = presentation_note() if judgement.decision == "same" and live is None else ""
        decision, reason, llr, probability, threshold = judgement
        return Verification(decision, reason, similarity, llr, probability, threshold, far, first, second, note, live)

    def check_far(self, far: float) -> None:
        """Raise UsageError for a false acceptance rate at which these weights are not calibrated."""
        if self.calibration is not None:
            self.calibration.point(far)

    def judge(
        self, similarity: float, sides: Sequence[Evidence], *, far: float = DEFAULT_FAR, force: bool = False
    ) -> Judgement:
        """What a similarity of two pictures means by the calibration of these weights."""
        if self.calibration is None:
            reason = (
                f"similarity {similarity:.2f} has no known meaning, because these weights of {self.recogniser.slug} "
                f"have no {CALIBRATION_FILE} beside them"
            )
            return Judgement("cannot tell", reason)
        llr = float(self.calibration.llr(similarity))
        threshold = self.calibration.point(far).threshold
        decision, reason = decide(similarity, llr, threshold, far, sides, force=force)
        return Judgement(decision, reason, llr, float(self.calibration.probability(similarity)), threshold)


def only_face(faces: list[Face], source: str, *, largest: bool = False, doubtful: Sequence[Face] = ()) -> Face:
    """The face that a photo is about: the only one of its size, or with `largest` the largest.

    Raises UsageError saying what was found otherwise; `doubtful` are finds that do not count as faces.
    """
    name = Path(source).name
    if not faces and doubtful:
        best = max(doubtful, key=lambda face: face.score)
        raise UsageError(f"{name}: no face was found that counts, the best is {fault_of(best)}; --force takes it")
    if not faces:
        raise UsageError(f"{name}: no face was found; give a photo in which one is clearly visible")
    meant = rivals(faces)
    if len(meant) > 1 and not largest:
        raise UsageError(f"{name}: {len(meant)} faces were found where one is expected; crop it or add --largest")
    chosen = largest_face(meant)
    assert chosen is not None
    return chosen


def decide(
    similarity: float, llr: float, threshold: float, far: float, sides: Sequence[Evidence], *, force: bool = False
) -> tuple[Decision, str]:
    """The decision about two faces and its reason in words.

    Faces too small or too turned are no evidence, however alike they look to the network. Ruined ones can still be
    alike, but not different. With `force` they are taken for evidence all the same, and the reason says so.
    """
    faults = [f"the {side.name} face is {side.fault}" for side in sides if side.fault]
    if faults and not force:
        return "cannot tell", faults[0]
    forced = f" (forced: {'; '.join(faults)})" if faults else ""
    if similarity >= threshold:
        likely = f"similarity {similarity:.2f} is at least {threshold:.2f}, the threshold of a FAR of {far:g}"
        return "same", likely + forced
    ruins = [f"the {side.name} picture is {side.ruin}" for side in sides if side.ruin]
    if ruins and not force:
        return "cannot tell", f"{ruins[0]}, to take similarity {similarity:.2f} for another person"
    if llr <= DIFFERENT_LLR:
        unlikely = f"similarity {similarity:.2f} is {np.exp(-llr):.0f} times likelier for two people than one"
        return "different", unlikely + forced
    poor = [f"the {side.name} picture is {side.flaws}" for side in sides if side.flaws]
    return "cannot tell", "; ".join([f"similarity {similarity:.2f} speaks for neither clearly" + forced, *poor])


def presentation_note() -> str:
    """What a match does not say: a picture of a picture shows the same person as well."""
    return "a photo of a photo, of a screen or of a mask would match as well: ask for liveness"


def fault_of(face: Face) -> str:
    """Why a face is no evidence of identity, in words; empty where it is: the one notion of a usable face."""
    if why := doubt(face, MIN_SCORE):
        return why
    if face.eye_distance < MIN_EYE_DISTANCE:
        return f"too small, {face.eye_distance:.1f} px between the eyes"
    if face.pose is not None and abs(face.pose.yaw) > MAX_YAW:
        return f"turned too far, yaw {face.pose.yaw:.0f} degrees"
    return ""


def ruin_of(retained_fraction: float) -> str:
    """Why a picture of which so much is left says nothing by unlikeness, in words; empty where it does."""
    return f"too damaged, quality {100 * retained_fraction:.0f}" if retained_fraction < MIN_RETAINED else ""


def load_embedding(
    session: Networks, task: Task, choice: NetworkChoice
) -> Callable[[Photo, EmbedOptions], list[FaceEmbedding]]:
    """Detector, recogniser and rater as a callable of photos."""
    pipeline = load_pipeline(session, task, choice)
    return lambda photo, options: pipeline.embed(photo, force=options.force)


def load_verification(
    session: Networks, task: Task, choice: NetworkChoice
) -> Callable[[Photo, Photo, VerifyOptions], Verification]:
    """Detector, recogniser, calibration and rater as a callable of pairs."""
    pipeline = load_pipeline(session, task, choice)

    def verify(first: Photo, second: Photo, options: VerifyOptions) -> Verification:
        estimator = None
        if options.liveness:
            estimator = session.of_task("liveness", tasks()["liveness"].default, choice.device)
        return pipeline.verify(
            first, second, far=options.far, largest=options.largest, force=options.force, liveness=estimator
        )

    return verify


def load_pipeline(session: Networks, task: Task, choice: NetworkChoice) -> IdentityPipeline:
    """The identity pipeline of a choice of networks."""
    recogniser = session.chosen(task, choice)
    rater = load_rater(session, tasks()["quality"], NetworkChoice(device=choice.device))
    return IdentityPipeline(session.detector(choice), recogniser, calibration_of(recogniser, choice.weights), rater)


def calibration_of(recogniser: Any, weights: str | None = None) -> ScoreCalibration | None:
    """The calibration beside weights in a folder, or the one that came with embedded weights; None without one."""
    from ..metrics.calibration import ScoreCalibration
    from ..weights.store import embedded_path

    sha256 = recogniser.weights_sha256
    embedded = [c for c in cards()[recogniser.slug].checkpoints if c.file and c.sha256 == sha256]
    places = [embedded_path(checkpoint).with_suffix(".calibration.json") for checkpoint in embedded]
    if weights is not None:
        place = Path(weights)
        places.append((place if place.is_dir() else place.parent) / CALIBRATION_FILE)
    for path in places:
        if path.is_file():
            return ScoreCalibration.from_json(path.read_text(encoding="utf-8"), source=str(path))
    return None
