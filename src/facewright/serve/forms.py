"""Reading what a client sends: bounded in bytes, fields and time, straight into a private folder.

Files never pass through a shared temporary folder, and a limit is checked before the byte that breaks it is written.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
import unicodedata
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ..io.kinds import HEAD, Kind, sniff
from .problems import Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from python_multipart.multipart import MultipartCallbacks
    from starlette.requests import Request

    from .settings import ServeOptions

MOST_FIELDS, MOST_FILES, MOST_TEXT = 64, 7, 16_384
OVERHEAD = 200_000
"""Bytes of a form beside its files."""
SLOWEST = 2_000
"""Bytes a second that a client must reach on average."""
_LONGEST_NAME = 120


@dataclass(frozen=True, slots=True)
class SentFile:
    """A file that came in: `name` is the sender's, made harmless; `kind` what its first bytes announce."""

    name: str
    path: Path
    size: int
    kind: Kind | None


@dataclass(slots=True)
class Form:
    """Texts and files by field; fields may repeat."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, list[SentFile]] = field(default_factory=dict)


def safe_name(name: str | None) -> str:
    """The last part of a name, fit for any file system: letters, digits, spaces and `._-()` stay."""
    last = re.split(r"[\\/]", unicodedata.normalize("NFC", name or ""))[-1]
    kept = "".join(c if c.isalnum() or c in " ._-()" else "_" for c in last).strip(" .")
    stem, dot, suffix = kept.rpartition(".")
    if not dot or len(suffix) > 10:
        stem, dot, suffix = kept, "", ""
    room = _LONGEST_NAME - len(dot + suffix)
    return f"{_cut(stem or 'photo', room)}{dot}{suffix}"


def _cut(text: str, most: int) -> str:
    """As much of a text as fits into so many bytes."""
    return text.encode()[:most].decode("utf-8", "ignore")


async def read_form(request: Request, folder: Path, options: ServeOptions) -> Form:
    """The multipart form of a request, its files below `folder`, flushed to the disk.

    Raises Problem: 400 malformed, 408 too slow, 413 too large, 415 no multipart form.
    """
    media_type, parameters = parse_options_header(request.headers.get("content-type"))
    if media_type in (b"", b"application/x-www-form-urlencoded"):
        return await _read_texts(request, options)
    boundary = parameters.get(b"boundary", b"")
    if media_type != b"multipart/form-data" or not boundary:
        raise Problem(415, "no_form", "send a multipart/form-data form, as curl -F and browsers do")
    most = MOST_FILES * max(options.photo_bytes, options.video_bytes) + OVERHEAD
    reader = _Reader(folder, options)
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        async for chunk in body(request, most, options.patience):
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise Problem(400, "malformed", "the form is malformed or cut off") from error
    finally:
        reader.close()
    if not reader.complete:
        raise Problem(400, "malformed", "the form is cut off")
    await asyncio.to_thread(_flush, [sent.path for group in reader.form.files.values() for sent in group])
    return reader.form


async def _read_texts(request: Request, options: ServeOptions) -> Form:
    """A form without files."""
    text = b"".join([chunk async for chunk in body(request, OVERHEAD, options.patience)])
    form = Form()
    try:
        pairs = parse_qsl(text.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS, strict_parsing=bool(text))
    except ValueError as error:
        raise Problem(415, "no_form", "send a multipart/form-data form, as curl -F and browsers do") from error
    for name, value in pairs:
        form.texts.setdefault(name, []).append(value)
    return form


async def body(request: Request, most: int, patience: float) -> AsyncIterator[bytes]:
    """The pieces of a request's body; Problem 413 past `most` bytes, 408 for a client that is silent or too slow."""
    check_length(request, most)
    stream = request.stream()
    start, received = time.monotonic(), 0
    while True:
        try:
            chunk = await asyncio.wait_for(anext(stream, None), patience)
        except TimeoutError:
            raise _too_slow() from None
        if chunk is None:
            return
        received += len(chunk)
        if received > most:
            raise _too_large(most)
        spent = time.monotonic() - start
        if spent > patience and received < SLOWEST * spent:
            raise _too_slow()
        if chunk:
            yield chunk


def check_length(request: Request, most: int) -> None:
    """Refuse before the first byte what announces itself as too large."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most:
        raise _too_large(most)


def _too_slow() -> Problem:
    return Problem(408, "too_slow", "the upload stalled; send it again, large files in pieces", {"Connection": "close"})


def _too_large(most: int) -> Problem:
    return Problem(413, "too_large", f"more than the limit of {most / 1e6:g} million bytes", {"Connection": "close"})


def _flush(paths: list[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@dataclass(slots=True)
class _Part:
    """The part that is being read."""

    header: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)
    disposition: str = ""
    name: str = ""
    text: bytearray = field(default_factory=bytearray)
    file: IO[bytes] | None = None
    sender_name: str = ""
    path: Path | None = None
    head: bytes = b""
    size: int = 0
    most: int = HEAD


class _Reader:
    """Takes the events of the parser."""

    def __init__(self, folder: Path, options: ServeOptions) -> None:
        self.folder, self.options = folder, options
        self.form = Form()
        self.complete = False
        self._part = _Part()
        self._fields = self._files = 0

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def close(self) -> None:
        """Close the file of a part that was cut off."""
        if self._part.file is not None:
            self._part.file.close()
            self._part.file = None

    def _begin(self) -> None:
        self._part = _Part()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._part.header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.value += data[start:end]

    def _header_end(self) -> None:
        part = self._part
        if part.header.lower() == b"content-disposition":
            part.disposition = part.value.decode("latin-1")
        part.header, part.value = bytearray(), bytearray()

    def _headers_finished(self) -> None:
        part = self._part
        kind, parameters = parse_options_header(part.disposition)
        part.name = _decoded(parameters.get(b"name", b""))
        if kind != b"form-data" or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,40}", part.name):
            raise Problem(400, "malformed", "a part of the form has no proper name")
        if b"filename" not in parameters:
            self._fields += 1
            if self._fields > MOST_FIELDS:
                raise Problem(413, "too_large", f"the form has more than {MOST_FIELDS} fields")
            return
        self._files += 1
        if self._files > MOST_FILES:
            raise Problem(413, "too_large", f"the form has more than {MOST_FILES} files; send one after the other")
        part.sender_name = safe_name(_decoded(parameters[b"filename"]))
        place = self.folder / part.name / str(len(self.form.files.get(part.name, ())))
        place.mkdir(parents=True, mode=0o700)
        part.path = place / part.sender_name
        part.file = open(part.path, "wb")  # noqa: SIM115  (closed at the end of the part)

    def _data(self, data: bytes, start: int, end: int) -> None:
        part, count = self._part, end - start
        part.size += count
        if part.file is None:
            if part.size > MOST_TEXT:
                raise Problem(413, "too_large", f"the field {part.name} is longer than {MOST_TEXT} characters")
            part.text += data[start:end]
            return
        if len(part.head) < HEAD:
            part.head += data[start:end][: HEAD - len(part.head)]
            if len(part.head) == HEAD:
                part.most = self._most(part.head)
        if part.size > part.most:
            raise _too_large(part.most)
        part.file.write(data[start:end])

    def _end(self) -> None:
        part = self._part
        if part.file is None or part.path is None:
            self.form.texts.setdefault(part.name, []).append(part.text.decode("utf-8", "replace"))
            return
        self.close()
        sent = SentFile(part.sender_name, part.path, part.size, sniff(part.head))
        if sent.size > self._most(part.head):
            raise _too_large(self._most(part.head))
        if sent.size or part.sender_name != "photo":  # browsers send a nameless empty file for an empty field
            self.form.files.setdefault(part.name, []).append(sent)

    def _finish(self) -> None:
        self.complete = True

    def _most(self, head: bytes) -> int:
        """The limit for a file that begins so."""
        kind = sniff(head)
        return self.options.video_bytes if kind is not None and kind.is_video else self.options.photo_bytes


def _decoded(value: bytes) -> str:
    """A parameter's text: UTF-8, as browsers and curl send it."""
    return value.decode("utf-8", "replace")
