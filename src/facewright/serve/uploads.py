"""Files sent in pieces: each piece says where it begins, so that a broken upload goes on where it stopped."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..io.atomic import atomic_output
from ..io.kinds import HEAD, sniff
from .forms import SentFile, body, safe_name
from .problems import Problem, not_found

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request

    from .settings import ServeOptions
    from .store import Store

MOST = 64
"""Uploads at the same time."""


@dataclass(frozen=True, slots=True)
class Upload:
    """An announced file; how much of it is here is the size of its file."""

    id: str
    name: str
    size: int
    owner: str


class Uploads:
    """All uploads of a server, in folders of its store."""

    def __init__(self, store: Store, options: ServeOptions) -> None:
        self.store, self.options = store, options
        self._busy: set[str] = set()

    def begin(self, name: str, size: int, owner: str) -> Upload:
        """Announce a file. Problem 413 where it is too large, 429 where there are too many."""
        if size > max(self.options.video_bytes, self.options.photo_bytes):
            raise Problem(413, "too_large", f"more than the limit of {self.options.max_video_mb:g} million bytes")
        if sum(1 for _ in self.store.uploads.iterdir()) >= MOST or not self.store.has_room:
            raise Problem(429, "busy", "too many uploads are under way; try again later", {"Retry-After": "60"})
        upload = Upload(secrets.token_urlsafe(16), safe_name(name), size, owner)
        folder = self.store.uploads / upload.id
        folder.mkdir(mode=0o700)
        (folder / "data").touch(mode=0o600)
        with atomic_output(folder / "upload.json") as temporary:
            temporary.write_text(json.dumps(asdict(upload)), encoding="utf-8")
        return upload

    def get(self, identity: str, owner: str) -> Upload:
        """An upload by its id; Problem 404 for unknown ones and those of others."""
        if not identity.replace("-", "").replace("_", "").isalnum():
            raise not_found()
        try:
            text = (self.store.uploads / identity / "upload.json").read_text(encoding="utf-8")
            upload = Upload(**json.loads(text))
        except (OSError, ValueError, TypeError):
            raise not_found() from None
        if upload.owner != owner:
            raise not_found()
        return upload

    def offset(self, upload: Upload) -> int:
        """How much is here."""
        return self._data(upload).stat().st_size

    async def add(self, upload: Upload, offset: int, request: Request) -> int:
        """Write a piece that begins at `offset`; returns how much is here now. Problem 409 for another beginning."""
        here = self.offset(upload)
        if offset != here or upload.id in self._busy:
            raise Problem(409, "wrong_offset", f"{here} bytes are here; go on from there", {"Upload-Offset": str(here)})
        self._busy.add(upload.id)
        try:
            with self._data(upload).open("r+b") as file:
                file.seek(offset)
                async for chunk in body(request, upload.size - offset, self.options.patience):
                    file.write(chunk)
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
        finally:
            self._busy.discard(upload.id)
            here = self.offset(upload)
            self.store.note_size(upload.id, here)
        return here

    def take(self, identity: str, owner: str, folder: Path) -> SentFile:
        """Move a complete upload into a folder, as if it had been sent with the form."""
        upload = self.get(identity, owner)
        here = self.offset(upload)
        if here != upload.size or upload.id in self._busy:
            raise Problem(409, "incomplete", f"{here} of {upload.size} bytes of the upload are here; send the rest")
        data = self._data(upload)
        with data.open("rb") as file:
            kind = sniff(file.read(HEAD))
        if (kind is None or not kind.is_video) and upload.size > self.options.photo_bytes:
            raise Problem(413, "too_large", f"more than the limit of {self.options.max_mb:g} million bytes for a photo")
        folder.mkdir(parents=True, mode=0o700)
        target = folder / upload.name
        data.replace(target)
        self.remove(upload)
        return SentFile(upload.name, target, upload.size, kind)

    def remove(self, upload: Upload) -> None:
        """Delete what is here."""
        self.store.note_size(upload.id, None)
        shutil.rmtree(self.store.uploads / upload.id, ignore_errors=True)

    def sweep(self) -> None:
        """Delete uploads that nobody went on with."""
        now = time.time()
        for folder in self.store.uploads.iterdir():
            try:
                last = max(file.stat().st_mtime for file in (folder, *folder.iterdir()))
            except OSError:
                continue
            if folder.name not in self._busy and last + self.options.keep < now:
                self.store.note_size(folder.name, None)
                shutil.rmtree(folder, ignore_errors=True)

    def document(self, upload: Upload) -> dict[str, Any]:
        """As JSON."""
        return {"id": upload.id, "name": upload.name, "bytes": upload.size, "offset": self.offset(upload)}

    def _data(self, upload: Upload) -> Path:
        return self.store.uploads / upload.id / "data"
