"""The JSON records tasks give, as types: what `--json`, reports and schemas are made of."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict


class PoseRecord(TypedDict):
    """Head rotation in degrees; see `facewright.face.Pose`."""

    yaw: float
    pitch: float
    roll: float


class FaceRecord(TypedDict):
    """One face, in photo pixels: `box` is x0, y0, x1, y1; `turn` and `certainty` as in `facewright.face.Face`."""

    box: list[float]
    score: float
    points5: list[list[float]]
    eye_distance: float
    turn: Literal[0, 90, 180, 270]
    certainty: float | None
    pose: PoseRecord | None


class QualityNumbers(TypedDict):
    """Quality 0–100, and what is wrong, worst first."""

    quality: float
    reasons: list[str]


class QualityRecord(FaceRecord):
    """A face and how good its picture is."""

    quality: QualityNumbers | None


class EmbeddingRecord(QualityRecord):
    """A face and its identity embedding; comparable only within one model and weights.

    `fault` says why the face is no evidence of identity; empty where it is.
    """

    model: str
    weights_sha256: str | None
    fault: str
    embedding: list[float]


class ComparedRecord(QualityRecord):
    """A compared face; `fault` as in `EmbeddingRecord`."""

    model: str
    weights_sha256: str | None
    fault: str


class LivenessRecord(FaceRecord):
    """A face, and whether somebody is there; see `facewright.pipelines.liveness.JudgedFace`.

    `vote` is 0 to 1, a probability where `calibrated`; `seconds` are those a face of a video was seen in.
    """

    decision: Literal["live", "attack", "cannot tell"]
    reason: str
    vote: float
    calibrated: bool
    kind: str
    evidence: str
    seconds: list[float] | None


class VerificationRecord(TypedDict):
    """Whether two photos show one person; see `facewright.pipelines.identity.Verification`."""

    decision: Literal["same", "different", "cannot tell"]
    reason: str
    similarity: float | None
    llr: float | None
    probability: float | None
    threshold: float | None
    far: float | None
    note: str
    faces: list[ComparedRecord]
    liveness: LivenessRecord | None


class ForensicsRecord(FaceRecord):
    """A face, and the signs of forgery in it; see `facewright.pipelines.forensics.ForensicFace`."""

    decision: Literal["morphed", "manipulated", "generated", "no sign found", "cannot tell"]
    reason: str
    probability: float | None
    kinds: dict[str, float] | None
    region: list[int] | None
    mark: bool
    tried_on: list[str]
    seconds: float | None
    frames: int


class MaskRecord(TypedDict):
    """Where a face's mask lies, and how many pixels every class has."""

    box: list[int]
    pixels: dict[str, int]


class AgeNumbers(TypedDict):
    """Years; four ages of five lie from `low` to `high`, which are None where the weights were never calibrated."""

    years: float
    low: float | None
    high: float | None


class ActionUnitNumbers(TypedDict):
    """Intensity 0…5, and probability 0…1 that the unit is there."""

    intensity: float
    probability: float


class WithheldRecord(FaceRecord):
    """A face, and what keeps its picture from being judged, worst first; then nothing is said of it."""

    withheld: list[str]


class AgeRecord(WithheldRecord):
    """A face and how old it looks."""

    age: AgeNumbers | None


class AttributesRecord(WithheldRecord):
    """A face and its attributes: the probability that each is true, or a score where `calibrated` is false."""

    attributes: dict[str, float] | None
    calibrated: bool


class ActionUnitsRecord(WithheldRecord):
    """A face and its action units by name; scores where `calibrated` is false."""

    action_units: dict[str, ActionUnitNumbers] | None
    calibrated: bool


class ExpressionRecord(WithheldRecord):
    """A face, the likeliest expression, and the probability of each; scores where `calibrated` is false."""

    expression: str | None
    expressions: dict[str, float] | None
    calibrated: bool


class AnalysisRecord(FaceRecord):
    """A face with 68 landmarks, the parts of it, and what else was asked for.

    Of age, attributes, action units and expressions only those that were asked for are there; None where `withheld`
    says why nothing can be said.
    """

    index: int
    pose_from: Literal["detector", "landmarks", "network"]
    points68: list[list[float]]
    confidence: list[float]
    mask: MaskRecord | None
    withheld: NotRequired[list[str]]
    age: NotRequired[AgeNumbers | None]
    attributes: NotRequired[dict[str, float] | None]
    action_units: NotRequired[dict[str, ActionUnitNumbers] | None]
    expression: NotRequired[str | None]
    expressions: NotRequired[dict[str, float] | None]


class ReferencesRecord(TypedDict):
    """What other photos of the person did for a face: names of those used, why others were not, and the likeness of the
    face to them when restored without and with them."""

    used: list[str]
    refused: dict[str, str]
    before: float | None
    after: float | None


class RestoredFaceRecord(FaceRecord):
    """What was done to one face."""

    index: int
    restored: bool
    reason: str
    quality_before: float
    quality_after: float | None
    degradation: dict[str, float]
    identity: float | None
    same_person: float | None
    change: float
    sharpness: float | None
    treatment: Literal["full", "smoothed", "half", "denoised", "none"]
    references: ReferencesRecord | None
    warnings: list[str]


class RestoreRecord(TypedDict):
    """What was done to one photo."""

    source: str
    size: list[int]
    output_size: list[int]
    notes: list[str]
    summary: str
    options: dict[str, Any]
    models: list[str]
    repairs: list[str]
    faces: list[RestoredFaceRecord]
    seconds: dict[str, float]


class PortraitRecord(TypedDict):
    """What was done to one portrait."""

    source: str
    size: list[int]
    summary: str
    options: dict[str, Any]
    models: list[str]
    faces: list[FaceRecord]


class ColouriseRecord(TypedDict):
    """What was done to one photo without colours."""

    source: str
    size: list[int]
    notes: list[str]
    summary: str
    options: dict[str, Any]
    models: list[str]


class HoleRecord(TypedDict):
    """A hole in a photo: number of its pixels, their share, and the box around them, ends exclusive."""

    pixels: int
    share: float
    box: list[int]


class FilledFaceRecord(FaceRecord):
    """A face of a photo with a hole: `share` of the face's crop that was filled, and the names of the references used.

    `drawn` says whether the network drew a part of it, or all was filled from around; `mark` whether the invisible
    watermark can be found in what was drawn: a small hole has no room for it.
    """

    index: int
    filled: bool
    share: float
    drawn: bool
    mark: bool
    references: list[str]


class InpaintRecord(TypedDict):
    """What was filled in one photo: pixels of the hole, its share of the photo, the box around it."""

    source: str
    size: list[int]
    notes: list[str]
    summary: str
    options: dict[str, Any]
    models: list[str]
    hole: HoleRecord
    faces: list[FilledFaceRecord]


class SampleRecord(TypedDict):
    """Made pictures."""

    model: str
    seed: int
    files: list[str]


class RateRecord(TypedDict):
    """How many of how many, and the range in which the true share lies by 95 %."""

    count: int
    total: int
    share: float
    interval: list[float]


class InversionRecord(TypedDict):
    """How often faces made from templates are accepted for the person, by whom, in one setting."""

    setting: str
    database: str
    loss: str
    target: str
    defence: str
    same_photo: dict[str, RateRecord]
    other_photo: dict[str, RateRecord]


class WatermarkRecord(TypedDict):
    """How often probes match another photo of the person, in the four conditions, and what the alarm notices."""

    epsilon: float
    clean: RateRecord
    changed: RateRecord
    marked: RateRecord
    both: RateRecord
    bits: float
    psnr: float
    alarm_false: RateRecord
    alarm_caught: RateRecord
    undetected: RateRecord


class AuditRecord(TypedDict):
    """What two attacks do to a recogniser."""

    recogniser: str
    weights_sha256: str | None
    people: int
    attacker_photos: int
    left_out: dict[str, str]
    thresholds: dict[str, dict[str, float]]
    genuine: dict[str, RateRecord]
    inversion: list[InversionRecord]
    watermark: WatermarkRecord | None
    risk: dict[str, str]
    words: list[str]
    options: dict[str, Any]
