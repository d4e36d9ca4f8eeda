"""What goes wrong, as an HTTP answer: one JSON form for all (RFC 9457), with a word that programs can go by."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field

from ..errors import (
    FacewrightError,
    ImageReadError,
    ImageTooLargeError,
    LicenceError,
    MissingDependencyError,
    OutputError,
    UsageError,
    VideoError,
    WeightsError,
)

MEDIA_TYPE = "application/problem+json"


class ProblemDocument(BaseModel):
    """Why a request or a job failed."""

    type: str = Field("about:blank", description="Always about:blank; `code` says which.")
    title: str = Field(description="The status in words.")
    status: int = Field(description="The HTTP status.")
    code: str = Field(description="A word that stays the same.")
    detail: str = Field(description="What went wrong and what to do, in a sentence.")
    job: str | None = Field(None, description="The job that failed.")


class Problem(Exception):
    """A request or job that is refused; `headers` go with the answer."""

    def __init__(self, status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.headers = status, code, detail, headers or {}

    def document(self, job: str | None = None) -> dict[str, Any]:
        """As JSON."""
        title = HTTPStatus(self.status).phrase
        return ProblemDocument(
            type="about:blank", title=title, status=self.status, code=self.code, detail=self.detail, job=job
        ).model_dump(exclude_none=True)

    def to_dict(self) -> dict[str, Any]:
        """What a job's record keeps."""
        return {"status": self.status, "code": self.code, "detail": self.detail}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Problem:
        """The inverse of `to_dict`."""
        return cls(int(data["status"]), str(data["code"]), str(data["detail"]))


_KINDS: tuple[tuple[type[BaseException], int, str], ...] = (
    (ImageTooLargeError, 413, "too_many_pixels"),
    (MissingDependencyError, 415, "unsupported"),
    (ImageReadError, 422, "unreadable"),
    (VideoError, 422, "unreadable"),
    (LicenceError, 403, "licence"),
    (WeightsError, 503, "no_weights"),
    (OutputError, 507, "cannot_write"),
    (UsageError, 422, "invalid"),
    (FacewrightError, 422, "failed"),
)


def problem_of(error: BaseException) -> Problem:
    """The problem that an exception is; of unexpected ones nothing is told."""
    if isinstance(error, Problem):
        return error
    for kind, status, code in _KINDS:
        if isinstance(error, kind):
            return Problem(status, code, "; ".join([str(error), *getattr(error, "__notes__", ())]))
    if isinstance(error, MemoryError):
        return Problem(413, "too_large", "there is not enough memory for this; make the picture smaller")
    return Problem(500, "internal", "an unexpected error; the server's log says where")


def not_found() -> Problem:
    """The same for what never was, what is gone, and what is another's."""
    return Problem(404, "not_found", "there is nothing here; it may have expired")
