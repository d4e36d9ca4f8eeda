"""The JSON records tasks give, as types: what `--json`, reports and schemas are made of."""

from __future__ import annotations

from typing import Any, Literal

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


class MaskRecord(TypedDict):
    """Where a face's mask lies, and how many pixels every class has."""

    box: list[int]
    pixels: dict[str, int]


class AnalysisRecord(FaceRecord):
    """A face with 68 landmarks and the parts of it."""

    index: int
    pose_from: Literal["detector", "landmarks"]
    points68: list[list[float]]
    confidence: list[float]
    mask: MaskRecord | None


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


class SampleRecord(TypedDict):
    """Made pictures."""

    model: str
    seed: int
    files: list[str]
