"""The folder `<target>.parts/`: finished segments of a video that is being made, and what is needed to go on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ...errors import OutputError, VideoError

if TYPE_CHECKING:
    from pathlib import Path

    from .records import Settings

_JOB_FORMAT = 2


@dataclass(frozen=True, slots=True)
class Part:
    """A finished segment: the frames' times in units of `time_base` (a fraction in writing), the length of the last
    one, and which frames were damaged."""

    first: int
    time_base: str
    pts: list[int]
    last_duration: int
    damaged: list[int]
    width: int
    height: int


class Job:
    """The folder `<target>.parts/`: a description of the job and the segments finished so far."""

    def __init__(self, target: Path, description: dict[str, Any], suffix: str) -> None:
        self.target, self.description, self.suffix = target, description, suffix
        self.folder = target.with_name(target.name + ".parts")
        self.parts: list[Part] = []

    @classmethod
    def start(
        cls, source: Path, target: Path, parameters: str, settings: Settings, *, resume: bool, restart: bool
    ) -> Job:
        """Open the job of a target, whose lock the caller holds. Finished segments of an interrupted run are gone on
        with (`resume`), deleted (`restart`), or else the reason why neither happens is raised."""
        description = {
            "format": _JOB_FORMAT,
            "source": _fingerprint(source),
            "parameters": parameters,
            "encoding": [
                settings.segment_frames,
                settings.crf,
                settings.preset,
                settings.suffix,
                settings.deinterlace,
            ],
        }
        job = cls(target, description, settings.suffix)
        if job.folder.exists():
            job._take_over(resume=resume, restart=restart)
        try:
            job.folder.mkdir(exist_ok=True)
            job.drop_unfinished()
            _write_atomically(job.folder / "job.json", json.dumps(description))
        except OSError as error:
            raise OutputError(f"{job.folder} cannot be written: {error.strerror}") from error
        return job

    def _take_over(self, *, resume: bool, restart: bool) -> None:
        found = self._read_description()
        if restart:
            self.remove()
            return
        self._collect()
        if not self.parts:
            self.remove()
        elif not resume:
            raise OutputError(
                f"{self.folder} holds {self.frames} finished frames of an interrupted run; continue with "
                "resume (--resume), or delete them with restart (--restart)"
            )
        else:
            self._check(found)

    @property
    def frames(self) -> int:
        return sum(len(part.pts) for part in self.parts)

    @property
    def time_base(self) -> Fraction:
        """The unit of all parts' times."""
        return Fraction(self.parts[0].time_base)

    @property
    def result(self) -> Path:
        return self.folder / f"result.partial{self.suffix}"

    @property
    def sample(self) -> Path:
        """Where a frame is encoded to try the output with."""
        return self.folder / "sample.partial"

    def segment(self, part: Part | int) -> Path:
        first = part if isinstance(part, int) else part.first
        return self.folder / f"{first:08d}.segment"

    def commit(self, written: Path, part: Part) -> None:
        """Make a segment count. Its description comes first, so that a segment never lacks one."""
        _write_atomically(self.segment(part).with_suffix(".json"), json.dumps(asdict(part)))
        sync(written)
        written.replace(self.segment(part))
        self.parts.append(part)

    def drop_unfinished(self) -> None:
        for file in self.folder.glob("*.partial*"):
            file.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the job's own files, and the folder when nothing else is in it."""
        with contextlib.suppress(OSError):
            self.drop_unfinished()
            for pattern in ("*.segment", "*.json"):
                for file in self.folder.glob(pattern):
                    file.unlink(missing_ok=True)
            self.folder.rmdir()

    def _read_description(self) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / "job.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                return self.description
            raise OutputError(f"{self.folder} is in the way and is not an unfinished job; move it elsewhere") from error
        return dict(found)

    def _check(self, found: dict[str, Any]) -> None:
        changed = [name for name, value in self.description.items() if found.get(name) != value]
        if changed:
            raise VideoError(
                f"cannot resume the job in {self.folder}: its {' and '.join(changed)} have changed since; "
                "use the former settings, or start over with restart (--restart)"
            )

    def _collect(self) -> None:
        """Finished segments from the start of the video up to the first gap."""
        while self.segment(self.frames).exists():
            try:
                text = self.segment(self.frames).with_suffix(".json").read_text(encoding="utf-8")
                self.parts.append(Part(**json.loads(text)))
            except (OSError, ValueError, TypeError):  # torn by a power cut, or of another version
                return


def _fingerprint(path: Path) -> dict[str, Any]:
    stat = path.stat()
    with path.open("rb") as stream:
        digest = hashlib.sha256(stream.read(1 << 20)).hexdigest()
    return {"size": stat.st_size, "modified": stat.st_mtime_ns, "head": digest}


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def sync(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())
