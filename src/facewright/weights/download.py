"""Files over HTTP that arrive whole and right, or not at all.

A download goes into a part file and takes its name only when its length and SHA-256 are right. What breaks is taken up
where it broke, in this process or the next; what the network does wrong is tried again, then at the next address; what
has another digest is moved to `set-aside` and never used. Two processes that want the same file fetch it once.

Proxies are those of the environment (HTTPS_PROXY, NO_PROXY). `hf://` addresses follow HF_ENDPOINT and use the token of
`hf auth login`. FACEWRIGHT_MIRROR is the address of a mirror of one's own that is asked first; it holds every file
under the host and path of its published address.
"""

from __future__ import annotations

import io
import json
import logging
import os
import random
import shutil
import time
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from ..deprecation import renamed_names
from ..errors import OutputError, WeightsError
from .store import sha256 as digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from requests import Response, Session

logger = logging.getLogger(__name__)

_CHUNK = 1 << 16
_HEAD = 256
_MARGIN = 64 << 20  # bytes that stay free on the disk
_NOT_THERE = {401, 403, 404, 410, 451}
_PORTAL = 511
_POINTER = b"version https://git-lfs"
_ZIP_HEADER = 30


@dataclass(frozen=True, slots=True)
class Patience:
    """attempts: at one address without getting further. wait: seconds before the second, doubled from then on.

    connect, read: seconds until an address that does not answer, or stops in the middle, is given up for now.
    """

    attempts: int = 5
    wait: float = 1.0
    longest_wait: float = 60.0
    connect: float = 15.0
    read: float = 60.0


PATIENCE = Patience()

if not TYPE_CHECKING:
    __getattr__ = renamed_names(__name__, {"Wanted": ":DownloadRequest"})


@dataclass(slots=True)
class DownloadRequest:
    """A file to fetch.

    name: for messages. addresses: in order. target: where it goes. sha256: "" when not known. size: 0 when not known.
    member: path inside the zip archive that lies at the addresses. progress: takes bytes done and in all.
    """

    name: str
    addresses: Sequence[str]
    target: Path
    home: Path
    sha256: str = ""
    size: int = 0
    member: str = ""
    progress: Callable[[int, int | None], None] = lambda done, total: None
    resumed: bool = field(default=False, init=False)

    @property
    def key(self) -> str:
        import hashlib

        return self.sha256 or hashlib.sha256(f"{self.addresses[0]}#{self.member}".encode()).hexdigest()

    @property
    def part(self) -> Path:
        return self.home / "partial" / f"{self.key}.part"

    @property
    def whole(self) -> Path:
        """The complete file before it gets its name: the part, or what was in it."""
        return self.part.with_suffix(".plain") if self.member else self.part

    def forget(self) -> None:
        """Remove what has been fetched."""
        for path in (self.part, self.whole, self.note):
            path.unlink(missing_ok=True)

    @property
    def note(self) -> Path:
        """What is known of the part: the address it came from, and what tells whether that still has the same file."""
        return self.part.with_suffix(".json")


class _Again(Exception):
    """A fault that may be over in a moment."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _Elsewhere(Exception):
    """A fault of an address that waiting does not mend."""


class _NoRanges(Exception):
    """A server that sends the whole file whatever is asked."""


@dataclass(frozen=True, slots=True)
class _Span:
    """The bytes of an address that are needed: `start` up to `stop`, None for the end; `inflate` them afterwards."""

    start: int = 0
    stop: int | None = None
    inflate: bool = False


def fetch_file(request: DownloadRequest) -> Path:
    """Fetch a file, or wait until another process has; returns `request.target`.

    Raises WeightsError when no address has it, when its SHA-256 is another, or in offline mode, OutputError when the
    disk is full. What has been fetched by then is kept for the next call, unless it was wrong.
    """
    for folder in (request.part.parent, request.target.parent, request.home / "locks"):
        _make(folder)
    with FileLock(request.home / "locks" / f"{request.key}.lock"):
        if request.target.exists():
            return request.target
        _check_online(request)
        logger.info("downloading %s to %s", request.name, request.target)
        _fetch_part(request)
        if request.sha256:
            _check_digest(request)
        os.replace(request.whole, request.target)
        request.forget()
    return request.target


def _check_online(request: DownloadRequest) -> None:
    for variable in ("HF_HUB_OFFLINE", "FACEWRIGHT_OFFLINE"):
        if os.environ.get(variable, "").lower() in ("1", "true", "yes", "on"):
            raise WeightsError(
                f"{request.name} is not downloaded yet and {variable} forbids downloading; on an online machine, "
                "make a bundle with 'facewright bundle' and install it here"
            )


def _check_digest(request: DownloadRequest) -> None:
    found = digest_of(request.whole)
    if found != request.sha256 and request.resumed:  # a part of an older file may have been continued
        logger.info("%s: the resumed file is not the published one; starting over", request.name)
        request.forget()
        request.resumed = False
        _fetch_part(request)
        found = digest_of(request.whole)
    if found != request.sha256:
        aside = request.home / "set-aside" / f"{found[:16]}-{request.target.name}"
        aside.parent.mkdir(exist_ok=True)
        os.replace(request.whole, aside)
        request.forget()
        raise WeightsError(
            f"{request.name} has SHA-256 {found} instead of {request.sha256}: it is not the published file; it was "
            f"moved to {aside} and will not be used"
        )


def _fetch_part(request: DownloadRequest) -> None:
    """Complete the part from the first address that can."""
    faults: list[str] = []
    for address in _with_mirror(request.addresses):
        try:
            _fetch_from(request, *address)
        except _Elsewhere as fault:
            reason = f"{urlsplit(address[0]).netloc}: {fault}"
            logger.info("%s: %s; trying the next address", request.name, reason)
            if reason not in faults:
                faults.append(reason)
        else:
            return
    raise WeightsError(
        f"cannot fetch {request.name} ({'; '.join(faults)}); try again later, or download it by hand from "
        f"{_with_mirror(request.addresses)[-1][0]} and run 'facewright import' on the file"
    )


def _with_mirror(addresses: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """Addresses as URLs with the headers they need, the user's own mirror first."""
    resolved = [_resolved(address) for address in addresses]
    mirror = os.environ.get("FACEWRIGHT_MIRROR", "").rstrip("/")
    if not mirror:
        return resolved
    parts = [urlsplit(address) for address in dict.fromkeys(_published(a) for a in addresses)]
    return [(f"{mirror}/{part.netloc}{part.path}", {}) for part in parts] + resolved


def _published(address: str) -> str:
    """An address without the user's own endpoint."""
    return _resolved(address, "https://huggingface.co")[0]


def _resolved(address: str, endpoint: str | None = None) -> tuple[str, dict[str, str]]:
    if not address.startswith("hf://"):
        return address, {}
    from huggingface_hub import get_token, hf_hub_url

    owner, name, path = address.removeprefix("hf://").split("/", 2)
    name, _, revision = name.partition("@")
    endpoint = endpoint or os.environ.get("HF_ENDPOINT") or None
    url = hf_hub_url(f"{owner}/{name}", unquote(path), revision=revision or None, endpoint=endpoint)
    token = get_token()
    return url, {"Authorization": f"Bearer {token}"} if token else {}


def _fetch_from(request: DownloadRequest, url: str, headers: dict[str, str]) -> None:
    """Complete the part from one address, patiently; raises _Elsewhere when that does not help."""
    import requests

    failures = 0
    with requests.Session() as session:
        session.headers.update({"User-Agent": "facewright", "Accept-Encoding": "identity", **headers})
        session.max_redirects = 10
        while True:
            before = _size(request.part)
            try:
                return _attempt(request, session, url)
            except _Again as fault:
                gained = _size(request.part) - before
                failures = 1 if gained >= max(1 << 20, request.size // 20) else failures + 1
                if failures >= PATIENCE.attempts:
                    raise _Elsewhere(f"{fault}, {failures} times") from fault
                pause = _pause(failures, fault.wait)
                logger.info("%s: %s; trying again in %.1f s", request.name, fault, pause)
                time.sleep(pause)


def _pause(failures: int, asked: float | None) -> float:
    """Seconds to wait: what the server asked for, or twice as long each time, a little different for everybody."""
    if asked is not None:
        return min(asked, PATIENCE.longest_wait)
    doubled = PATIENCE.wait * 2.0 ** (failures - 1)
    return min(doubled, PATIENCE.longest_wait) * random.uniform(0.8, 1.2)


def _attempt(request: DownloadRequest, session: Session, url: str) -> None:
    if not request.member:
        return _stream(request, session, url, _Span())
    try:
        span = _locate_member(session, url, request.member)
        _stream(request, session, url, span)
    except _NoRanges:
        logger.debug("%s: the server sends no ranges; fetching the whole archive", request.name)
        _stream(request, session, url, _Span(), archive=True)
        return _extract(request)
    return _inflate(request) if span.inflate else _copy(request)


@contextmanager
def _network_faults() -> Iterator[None]:
    """What requests raises, told apart by whether waiting helps."""
    import requests

    try:
        yield
    except requests.exceptions.ProxyError as error:
        raise _Elsewhere("the proxy refuses the connection; see HTTPS_PROXY and NO_PROXY") from error
    except requests.exceptions.SSLError as error:
        raise _Elsewhere("its certificate is not trusted") from error
    except requests.exceptions.TooManyRedirects as error:
        raise _Elsewhere("it redirects endlessly") from error
    except (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL) as error:
        raise _Elsewhere("its address, or the one it redirects to, is not HTTP") from error
    except requests.exceptions.Timeout as error:
        raise _Again("it timed out") from error
    except requests.exceptions.RequestException as error:
        raise _Again("the connection broke off or was refused") from error


def _stream(request: DownloadRequest, session: Session, url: str, span: _Span, *, archive: bool = False) -> None:
    """Append to the part what is still missing of the span."""
    have = _reusable(request, url)
    headers = {}
    if have or span.start or span.stop is not None:
        last = "" if span.stop is None else str(span.stop - 1)
        headers["Range"] = f"bytes={span.start + have}-{last}"
        if have and (validator := _note(request).get("validator")):
            headers["If-Range"] = validator
    if have and span.stop is not None and have == span.stop - span.start:
        return
    timeout = (PATIENCE.connect, PATIENCE.read)
    with _network_faults(), session.get(url, headers=headers, stream=True, timeout=timeout) as response:
        _check_status(response, url)
        if response.status_code == 416:
            return _after_end(request, response, have)
        if response.status_code == 206 and _range_start(response) != span.start + have:
            request.forget()
            raise _Elsewhere("it sends a different range than requested")
        if response.status_code == 200:
            if span.stop is not None:
                raise _NoRanges
            have = 0
        total = _total(response, span, have)
        if request.size and total is not None and not (request.member or archive) and total != request.size:
            raise _Elsewhere(f"the file there has {total:,} bytes instead of {request.size:,}")
        _check_space(request, (total or request.size) - have)
        if have:
            logger.info("%s: resuming after %d bytes", request.name, have)
        request.resumed |= have > 0
        _write_note(request, url, response)
        _append(request, response, have, total)


def _append(request: DownloadRequest, response: Response, have: int, total: int | None) -> None:
    done = have
    limit = total or (request.size if not request.member else 0)
    with _open(request.part, append=have > 0) as stream:
        for piece in response.iter_content(_CHUNK):
            if done == 0:
                _check_start(piece)
            _write(stream, piece, request)
            done += len(piece)
            if limit and done > limit:
                break
            request.progress(done, total)
        stream.flush()
        os.fsync(stream.fileno())
    if limit and done > limit:
        request.part.unlink()
        raise _Elsewhere(f"it sends more than the {limit:,} bytes of the file")
    if limit and done < limit:
        raise _Again(f"the connection broke off after {done:,} of {limit:,} bytes")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create {folder}: {error.strerror}; set FACEWRIGHT_HOME to another folder") from error


def _open(path: Path, *, append: bool) -> Any:
    try:
        return open(path, "ab" if append else "wb")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; set FACEWRIGHT_HOME to another folder") from error


def _write(stream: Any, piece: bytes, request: DownloadRequest) -> None:
    try:
        stream.write(piece)
    except OSError as error:
        raise OutputError(
            f"cannot write {request.part}: {error.strerror}; free some space and run it again; the "
            "downloaded part is kept"
        ) from error


def _check_status(response: Response, url: str) -> None:
    """Raise for answers that are not the file; a redirect from https to http is not followed to its end."""
    status = response.status_code
    if urlsplit(url).scheme == "https" and urlsplit(response.url).scheme != "https":
        raise _Elsewhere("it redirects to an unprotected address")
    if status in (200, 206, 416):
        return
    if status == _PORTAL:
        raise _Elsewhere("the network requires a sign-in: open any web page")
    if status in (401, 403) and "huggingface" in response.url:
        raise _Elsewhere(f"HTTP {status}: accept the conditions on its page and sign in with 'hf auth login'")
    if status in _NOT_THERE:
        raise _Elsewhere(f"HTTP {status}: the file does not exist or is not public")
    if status == 429 or status >= 500 or status == 408:
        raise _Again(f"HTTP {status}", _retry_after(response))
    raise _Elsewhere(f"HTTP {status}")


def _retry_after(response: Response) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None


def _check_start(piece: bytes) -> None:
    """Raise when what comes is a web page or a pointer of git, not a file."""
    start = piece[:_HEAD].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise _Elsewhere("it sends a web page instead of the file; does the network require a sign-in?")
    if start.startswith(_POINTER):
        raise _Elsewhere("it sends a Git LFS pointer instead of the file")


def _after_end(request: DownloadRequest, response: Response, have: int) -> None:
    """416: the part is complete already, or it is no part of the file that is there now."""
    total = response.headers.get("Content-Range", "").rpartition("/")[2]
    if total.isdigit() and int(total) == have and have == (request.size or have):
        request.resumed = True
        return
    request.part.unlink(missing_ok=True)
    raise _Again("the file there has changed", 0.0)


def _range_start(response: Response) -> int | None:
    start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(start) if start.isdigit() else None


def _total(response: Response, span: _Span, have: int) -> int | None:
    """Bytes of the request span in all, None when the server does not say."""
    if span.stop is not None:
        return span.stop - span.start
    if response.status_code == 206:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        return int(total) if total.isdigit() else None
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _reusable(request: DownloadRequest, url: str) -> int:
    """Bytes of the part that can be continued from an address.

    A file with a known digest may be continued from any; one without only from the same address, as long as that can
    say whether it still has the same file.
    """
    note = _note(request)
    same = note.get("url") == url and bool(note.get("validator"))
    return _size(request.part) if same or (request.sha256 and note and not request.member) else 0


def _note(request: DownloadRequest) -> dict[str, str]:
    try:
        note = json.loads(request.note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _write_note(request: DownloadRequest, url: str, response: Response) -> None:
    etag = response.headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
    known = _note(request)
    if known.get("url") != url and request.sha256 and request.resumed:
        validator = ""  # of two addresses: only the digest can tell
    request.note.write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_space(request: DownloadRequest, missing: int) -> None:
    free = shutil.disk_usage(request.part.parent).free
    if missing + _MARGIN > free:
        raise OutputError(
            f"{request.name} needs {missing / 1e6:,.0f} MB more, but {request.home} has {free / 1e6:,.0f} MB left; "
            "free some space or set FACEWRIGHT_HOME to another folder"
        )


# --- members of zip archives


class _Remote(io.RawIOBase):
    """A file at an address, read in ranges."""

    def __init__(self, session: Session, url: str) -> None:
        self.session, self.url, self.place = session, url, 0
        self.length = self._ask(0, 1)[1]

    def _ask(self, start: int, count: int) -> tuple[bytes, int]:
        headers = {"Range": f"bytes={start}-{start + count - 1}"}
        timeout = (PATIENCE.connect, PATIENCE.read)
        with _network_faults(), self.session.get(self.url, headers=headers, stream=True, timeout=timeout) as response:
            _check_status(response, self.url)
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
            if response.status_code != 206 or not total.isdigit():
                raise _NoRanges
            return response.content, int(total)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.length}[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self.length - self.place)
        if count <= 0:
            return 0
        data, _ = self._ask(self.place, count)
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)


def _locate_member(session: Session, url: str, member: str) -> _Span:
    """Where the compressed bytes of a member lie in the archive at an address."""
    with io.BufferedReader(_Remote(session, url), 1 << 16) as remote:
        try:
            with zipfile.ZipFile(remote) as archive:
                entry = archive.getinfo(member)
            remote.seek(entry.header_offset)
            head = remote.read(_ZIP_HEADER)
        except (zipfile.BadZipFile, KeyError) as error:
            raise _Elsewhere(f"there is no {member} in what it sends") from error
    names = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    start = entry.header_offset + _ZIP_HEADER + names
    return _Span(start, start + entry.compress_size, entry.compress_type == zipfile.ZIP_DEFLATED)


def _inflate(request: DownloadRequest) -> None:
    """The member from the part, its raw deflated bytes."""
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        with open(request.part, "rb") as source, _open(request.whole, append=False) as target:
            while piece := source.read(_CHUNK):
                _write(target, machine.decompress(piece), request)
            _write(target, machine.flush(), request)
    except zlib.error as error:
        request.forget()
        raise _Elsewhere(f"{request.member} in it is damaged") from error


def _copy(request: DownloadRequest) -> None:
    """The member from the part, where it was stored as it is."""
    os.replace(request.part, request.whole)


def _extract(request: DownloadRequest) -> None:
    """The member from the part, the whole archive."""
    try:
        with (
            zipfile.ZipFile(request.part) as archive,
            archive.open(request.member) as source,
            _open(request.whole, append=False) as target,
        ):
            while piece := source.read(_CHUNK):
                _write(target, piece, request)
    except (zipfile.BadZipFile, KeyError, zlib.error) as error:
        request.forget()
        raise _Elsewhere(f"there is no {request.member} in what it sends") from error
