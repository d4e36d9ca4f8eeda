"""On which terms published files are fetched: what the user agreed to, and where questions, notes and progress go.

Set once around a command (`with terms(...)`), read wherever weights are resolved, so that no call in between has to
pass it on. The default agrees to nothing, asks nobody and says nothing.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from ..errors import LicenceError, WeightsError
from ..io.atomic import atomic_output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ..tasks.card import PublishedFile


def _silent(*_: Any) -> None:
    """Default of notes and progress."""


@dataclass(frozen=True, slots=True)
class Terms:
    """accept_licence, trust_first_download: agreed beforehand. ask: puts a question to a person, None without one.

    tell: takes one line for the user. progress: takes name, bytes done and bytes in all (None while unknown).
    """

    accept_licence: bool = False
    trust_first_download: bool = False
    ask: Callable[[str], bool] | None = None
    tell: Callable[[str], None] = _silent
    progress: Callable[[str, int, int | None], None] = _silent


_NOTHING_AGREED = Terms()
_TERMS: ContextVar[Terms] = ContextVar("terms")


def current() -> Terms:
    """The terms in force."""
    return _TERMS.get(_NOTHING_AGREED)


@contextmanager
def terms(**changes: Any) -> Iterator[Terms]:
    """Change the terms in force for a block."""
    token = _TERMS.set(replace(current(), **changes))
    try:
        yield current()
    finally:
        _TERMS.reset(token)


def check_licence(slug: str, file: PublishedFile, record: Path) -> None:
    """Raise LicenceError unless the licence of a file is free or was accepted, now or before.

    `record` is the JSON file acceptances are kept in; a licence that changes has to be accepted anew.
    """
    if file.free:
        return
    key = hashlib.sha256(f"{slug}\n{file.licence}".encode()).hexdigest()[:16]
    if key in read_record(record):
        return
    shown = f"{file.file} of {slug}{f' by {file.by}' if file.by else ''} is under: {file.licence}"
    agreed = current().accept_licence or _asked(f"{shown}. Do you accept it?")
    if not agreed:
        raise LicenceError(f"{shown}; to accept it, add --accept-licence once (accept_licence=True)")
    write_record(record, key, {"slug": slug, "licence": file.licence})


def check_trust(file: PublishedFile) -> None:
    """Raise WeightsError unless a file without a pinned digest may be fetched on trust."""
    if current().trust_first_download or _asked(
        f"Nobody has published a confirmed SHA-256 of {file.file}. Fetch it and trust what comes?"
    ):
        return
    raise WeightsError(
        f"no SHA-256 of {file.file} is confirmed by two sources; to download it and pin its digest, add "
        "--trust-first-download (trust_first_download=True)"
    )


def _asked(question: str) -> bool:
    ask = current().ask
    return ask is not None and ask(question)


def read_record(path: Path) -> dict[str, Any]:
    """A JSON file of things remembered; empty when there is none, or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_record(path: Path, key: str, value: Any) -> None:
    """Add one entry to a JSON file of things remembered, whoever else is writing to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")), atomic_output(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(read_record(path) | {key: value}, indent=2) + "\n", encoding="utf-8")
