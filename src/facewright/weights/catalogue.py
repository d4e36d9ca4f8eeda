"""Published files by name: fetched, checked, converted once, and found again without a network.

The table itself is in the cards (`PublishedFile`). Below `cache_dir()` lie

- `files/SHA256/NAME`: published files as they came, or as they were imported;
- `converted/SLUG/SHA256/`: networks made from them, as `from_pretrained` reads them, with `source.json`;
- `trusted.json`: digests of files without a pinned one, as they were when first fetched;
- `accepted.json`: licences the user has accepted.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from ..errors import LicenceError, UsageError, WeightsError
from ..io.atomic import atomic_output
from ..tasks.card import cards, get_card
from .store import cache_dir, sha256
from .terms import check_licence, check_trust, current, read_record, write_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ..tasks.card import Card, PublishedFile

FORMAT = "1"
"""Of converted folders; another one converts published files anew."""


def find_file(card: Card, name: str) -> PublishedFile | None:
    """The published file of a card with that name, or with that file name where only one has it."""
    by_name = [file for file in card.published if file.name == name]
    by_file = [file for file in card.published if file.file == name]
    if len(by_file) > 1 and not by_name:
        raise UsageError(f"{card.slug} has several files {name}; say which: {', '.join(f.name for f in by_file)}")
    return next(iter(by_name or by_file), None)


def default_file(card: Card) -> PublishedFile | None:
    """The published file that stands for a system without weights of its own: the first that can be fetched."""
    return next((file for file in card.published if file.fetchable), next(iter(card.published), None))


def select(names: list[str], *, task: str | None = None, everything: bool = False) -> list[tuple[Card, PublishedFile]]:
    """The files `facewright download` means: `SLUG` for the default one, `SLUG/NAME`, all of a task, or all there are.

    Raises UsageError for unknown names and for systems without published files.
    """
    if everything:
        return [(card, file) for card in cards().values() for file in card.published if file.fetchable]
    chosen = [_selected(name) for name in names]
    if task is not None:
        of_task = [card for card in cards().values() if task in card.tasks]
        if not of_task:
            raise UsageError(
                f"no task {task!r}; there are: {', '.join(sorted({t for c in cards().values() for t in c.tasks}))}"
            )
        found = [(card, default_file(card)) for card in of_task]
        chosen += [(card, file) for card, file in found if file is not None and file.fetchable]
    if not chosen:
        raise UsageError("nothing to download: name a system, or add --task or --all")
    return list({(card.slug, file.name): (card, file) for card, file in chosen}.values())


def _selected(name: str) -> tuple[Card, PublishedFile]:
    slug, _, which = name.partition("/")
    card = get_card(slug)
    file = find_file(card, which) if which else default_file(card)
    if file is None:
        known = ", ".join(f.name for f in card.published)
        raise UsageError(
            f"{card.slug} has no published file {which!r}; choose from {known}"
            if known
            else f"there are no published weights of {card.slug}"
        )
    return card, file


def trusted_record() -> Path:
    """The digests of files that were trusted when they were first fetched."""
    return cache_dir() / "trusted.json"


def known_digest(card: Card, file: PublishedFile) -> str:
    """The SHA-256 a file must have: the pinned one, or that of its first download; "" when there is neither."""
    return file.sha256 or str(read_record(trusted_record()).get(f"{card.slug}/{file.name}", ""))


def local_file(card: Card, file: PublishedFile) -> Path | None:
    """The published file as it lies here, None when it does not."""
    digest = known_digest(card, file)
    path = file_path(digest, file.file)
    return path if digest and path.is_file() else None


def local_network(card: Card, file: PublishedFile) -> Path | None:
    """The folder with the network made from a published file, None when there is none yet."""
    digest = known_digest(card, file)
    folder = _converted_folder(card, digest, file.options)
    return folder if digest and folder.is_dir() else None


def obtain(card: Card, file: PublishedFile, *, commercial: bool = False, local_files_only: bool = False) -> Path:
    """The folder with the network of a published file; fetched, checked and converted if need be.

    Raises LicenceError when its licence was not accepted or forbids commercial use, WeightsError when it cannot be
    fetched, is another file than the published one, or would have to be trusted.
    """
    if commercial and not file.commercial:
        data = f", trained on {', '.join(file.training_data)}" if file.free else ""
        raise LicenceError(f"{file.file} of {card.slug} may not be used commercially ({file.licence}{data})")
    check_licence(card.slug, file, cache_dir() / "accepted.json")
    folder = local_network(card, file)
    if folder is None:
        source = local_file(card, file) or download(card, file, local_files_only=local_files_only)
        folder = convert(card, source, file.options)
        _trust(card, file, source)
    current().tell(_whose(card, file))
    return folder


def download(card: Card, file: PublishedFile, *, local_files_only: bool = False) -> Path:
    """Fetch a published file and check it; it is not converted. Errors as for `obtain`."""
    from .download import DownloadRequest, fetch_file

    check_licence(card.slug, file, cache_dir() / "accepted.json")
    if (here := local_file(card, file)) is not None:
        return here
    if not file.fetchable:
        raise WeightsError(
            f"{file.file} of {card.slug} cannot be downloaded automatically; get it from {file.page}, then: "
            f"facewright import {card.slug} {file.file}"
        )
    if local_files_only:
        raise WeightsError(f"{file.file} of {card.slug} is not downloaded yet; run: facewright download {card.slug}")
    digest = known_digest(card, file)
    if not digest:
        check_trust(file)
    current().tell(f"fetching {file.file} ({size_text(file)}) from {file.urls[0]}")
    progress = current().progress
    wanted = DownloadRequest(
        name=f"{file.file} of {card.slug}",
        addresses=file.urls,
        target=_incoming(card, file, digest),
        home=cache_dir(),
        sha256=digest,
        size=file.size_bytes,
        member=file.member,
        progress=lambda done, total: progress(file.file, done, total),
    )
    path = fetch_file(wanted)
    return path if digest else _keep(path, file.file)


def _incoming(card: Card, file: PublishedFile, digest: str) -> Path:
    """Where a download goes: under its digest, or under its name as long as that is not known."""
    if digest:
        return file_path(digest, file.file)
    return cache_dir() / "files" / "unconfirmed" / card.slug / file.name / file.file


def _keep(path: Path, name: str) -> Path:
    """Move a file to its place by digest."""
    place = file_path(sha256(path), name)
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, place)
    return place


def _trust(card: Card, file: PublishedFile, source: Path) -> None:
    """Pin what came, once it has proved to be that network."""
    if known_digest(card, file):
        return
    digest = source.parent.name
    write_record(trusted_record(), f"{card.slug}/{file.name}", digest)
    reported = file.reported_sha256
    agrees = (
        "" if not reported else ", as one source reports" if reported == digest else f", one source says {reported}"
    )
    current().tell(f"{file.file} is pinned to SHA-256 {digest}{agrees}")


def convert(card: Card, source: Path, options: dict[str, Any]) -> Path:
    """The folder with the network of a checkpoint file, made once; errors as for `import_checkpoint`."""
    from .published import import_checkpoint

    digest = source.parent.name if source.parent.parent == cache_dir() / "files" else sha256(source)
    folder = _converted_folder(card, digest, options)
    locks = cache_dir() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{card.slug}-{folder.name}.lock"):
        if folder.is_dir():
            return folder
        current().tell(f"converting {source.name} once")
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = folder.parent / f".unfinished-{secrets.token_hex(8)}"
        try:
            import_checkpoint(card.slug, source, unfinished, **options)
            os.replace(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def adopt(card: Card, path: Path) -> tuple[Path, PublishedFile | None]:
    """Take in a file somebody fetched by hand: its network's folder, and which published file it is.

    A file with a pinned digest is known by that; another is known by its name alone where nothing is pinned, and is
    then pinned. A file that bears the name of a pinned one but is another stays a file of the user's own.
    """
    digest = sha256(path)
    file = next((f for f in card.published if known_digest(card, f) == digest), None)
    if file is None:
        file = next((f for f in card.published if f.file == path.name and not known_digest(card, f)), None)
    if file is None:
        return convert(card, path, {}), None
    check_licence(card.slug, file, cache_dir() / "accepted.json")
    place = file_path(digest, file.file)
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_output(place, overwrite=True) as temporary:
            shutil.copyfile(path, temporary)
    folder = convert(card, place, file.options)
    _trust(card, file, place)
    return folder, file


def impostor(card: Card, path: Path) -> PublishedFile | None:
    """The published file whose name, but not whose pinned digest, a file has."""
    named = [file for file in card.published if file.file == path.name and known_digest(card, file)]
    digest = sha256(path) if named else ""
    return None if any(known_digest(card, f) == digest for f in named) else next(iter(named), None)


def published_files() -> Iterator[tuple[Card, PublishedFile]]:
    """Every row of the catalogue with its card."""
    for card in cards().values():
        for file in card.published:
            yield card, file


def size_text(file: PublishedFile) -> str:
    return f"{file.size_bytes / 1e6:,.1f} MB" if file.size_bytes else "size not known"


def state_text(card: Card, file: PublishedFile) -> str:
    """Where a file is: ready to use, fetched, or where it can be had."""
    if (folder := local_network(card, file)) is not None:
        return f"ready in {folder}"
    if (path := local_file(card, file)) is not None:
        return f"fetched as {path}"
    return f"not here; from {file.urls[0]}" if file.fetchable else f"not here; by hand from {file.page}"


def _whose(card: Card, file: PublishedFile) -> str:
    by = f" by {file.by}" if file.by else ""
    use = "commercial use allowed" if file.commercial else "no commercial use"
    return f"{card.name} {file.name}{by}: {file.licence}; {use}; trained on {', '.join(file.training_data)}"


def file_path(digest: str, name: str) -> Path:
    """Where a published file of that digest lies, or would."""
    return cache_dir() / "files" / digest / name


def _converted_folder(card: Card, digest: str, options: dict[str, Any]) -> Path:
    told = hashlib.sha256(repr((FORMAT, sorted(options.items()))).encode()).hexdigest()[:8]
    return cache_dir() / "converted" / card.slug / f"{digest[:32]}-{told}"
