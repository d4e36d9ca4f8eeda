"""One file with the weights that a machine without a network needs."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import WeightsError
from ..io.atomic import atomic_output
from ..tasks.card import cards
from .catalogue import download, file_path, known_digest, trusted_record
from .store import cache_dir, fetch
from .terms import write_record

if TYPE_CHECKING:
    from ..tasks.card import Card, PublishedFile

INDEX = "bundle.json"
_DIGEST = re.compile(r"[0-9a-f]{64}")


def make_bundle(chosen: list[tuple[Card, PublishedFile]], target: str | Path, *, overwrite: bool = False) -> Path:
    """Write published files, and the checkpoints of this project that lie on a hub, into one file.

    What is not here is fetched first; errors as for `facewright.weights.catalogue.download`.
    """
    with (
        atomic_output(target, overwrite=overwrite) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
        index: list[dict[str, Any]] = []
        for card, file in chosen:
            path = download(card, file)
            digest = known_digest(card, file) or path.parent.name
            archive.write(path, digest)
            index.append({"system": card.slug, "name": file.name, "file": file.file, "sha256": digest})
        for checkpoint in (point for card in cards().values() for point in card.checkpoints if not point.file):
            archive.write(fetch(checkpoint), checkpoint.sha256)
            index.append({"name": checkpoint.name, "sha256": checkpoint.sha256})
        archive.writestr(INDEX, json.dumps(index, indent=2))
    return Path(target)


def install_bundle(path: str | Path) -> int:
    """Unpack a bundle into the cache, checking every digest; returns how many files it held.

    Raises WeightsError when it is no bundle, or damaged; what was unpacked by then is right and stays.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            index = json.loads(archive.read(INDEX))
            for entry in index:
                _install(archive, entry)
    except (zipfile.BadZipFile, KeyError, OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{path} is not a facewright bundle ({error})") from error
    return len(index)


def _install(archive: zipfile.ZipFile, entry: dict[str, Any]) -> None:
    digest = str(entry["sha256"])
    if not _DIGEST.fullmatch(digest):
        raise WeightsError(f"bundle entry {digest!r} is not a SHA-256")
    name = PurePosixPath(str(entry.get("file", ""))).name
    place = file_path(digest, name) if name else cache_dir() / "bundle" / digest
    place.parent.mkdir(parents=True, exist_ok=True)
    with atomic_output(place, overwrite=True) as temporary:
        with archive.open(digest) as source, open(temporary, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        with open(temporary, "rb") as written:
            found = hashlib.file_digest(written, "sha256").hexdigest()
        if found != digest:
            raise WeightsError(f"bundle entry {digest[:12]}… is damaged")
    if name:
        _remember(str(entry.get("system", "")), str(entry.get("name", "")), digest)


def _remember(slug: str, name: str, digest: str) -> None:
    """Pin a file without a digest of its own in the card to what the bundle's maker had pinned."""
    card = cards().get(slug)
    file = next((f for f in card.published if f.name == name), None) if card else None
    if card and file and not known_digest(card, file):
        write_record(trusted_record(), f"{slug}/{name}", digest)
