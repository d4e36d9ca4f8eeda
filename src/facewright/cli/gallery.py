"""facewright gallery: enrol and search people by their photos."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import GalleryError, ImageReadError, UsageError
from ..gallery.crypto import create_key
from ..gallery.photos import Enrolment, PhotoSearch, enrol_photos, recogniser_id
from ..gallery.store import Gallery, is_address, is_lance
from ..io.kinds import survey
from ..pipelines.identity import DEFAULT_FAR
from ..progress import bar
from .weights import end_with, may_fetch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..pipelines.identity import IdentityPipeline
    from ..tasks.liveness import LivenessEstimator

app = typer.Typer(
    name="gallery",
    help="Enrol people from photos and find out who is in a photo.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_PLACE_HELP = "File, folder of LanceDB (NAME.lance), or postgresql:// address."
Place = Annotated[str, typer.Argument(metavar="GALLERY", help=_PLACE_HELP, show_default=False)]
KeyFile = Annotated[Path | None, typer.Option("--key", help="Key file of an encrypted gallery.")]
Model = Annotated[str, typer.Option(help="Recogniser; see 'facewright models'.")]
Weights = Annotated[str | None, typer.Option(help="Weights: file, folder, or name.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Also accept faces that are too small, turned too far, uncertain or too damaged."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_DEFAULT_MODEL = "distilledface"


def _estimator(device: str) -> LivenessEstimator:
    """The default network for liveness."""
    from ..runtime.session import default_session
    from ..tasks.declare import tasks

    estimator: LivenessEstimator = default_session().of_task("liveness", tasks()["liveness"].default, device)
    return estimator


def load_networks(model: str, weights: str | None, device: str) -> IdentityPipeline:
    """The networks and the calibration that turn photos into comparable vectors."""
    from ..loading import load_identity

    return load_identity(model, weights, device)


@app.command()
@may_fetch
def create(
    gallery: Place,
    key: Annotated[Path | None, typer.Option("--key", help="Encrypt with this key file; created if missing.")] = None,
    model: Model = _DEFAULT_MODEL,
    weights: Weights = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Create an empty gallery for one recogniser."""
    recogniser = recogniser_id(load_networks(model, weights, device).recogniser)
    if Path(gallery).exists():
        raise UsageError(f"{gallery} exists; choose another name")
    if key is not None and not key.exists() and not is_address(gallery) and not is_lance(gallery):
        create_key(key)
    Gallery.create(gallery, recogniser, key_file=key).close()
    note = "" if key is None else f"; keep {key} safe and apart, nobody can read the gallery without it"
    data = {"gallery": _label(gallery), "recogniser": asdict(recogniser), "encrypted": key is not None}
    _say(data, [f"{_label(gallery)}: made for {recogniser}{note}"], as_json=as_json)


@app.command()
@may_fetch
def enrol(
    gallery: Place,
    source: Annotated[
        Path, typer.Argument(help="Folder with one subfolder per person; with --person, a photo or a folder.")
    ],
    person: Annotated[str | None, typer.Option(help="Name of the person in the photos.")] = None,
    thumbnails: Annotated[bool, typer.Option("--thumbnails", help="Also store a thumbnail of each face.")] = False,
    largest: Annotated[bool, typer.Option("--largest", help="If there are several faces, take the largest.")] = False,
    force: Force = False,
    key: KeyFile = None,
    model: Model = _DEFAULT_MODEL,
    weights: Weights = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Add people; photos that are already enrolled are skipped, so you can run it again."""
    photos = find_photos(source, person)
    identity = load_networks(model, weights, device)
    done: list[Enrolment] = []
    recogniser = recogniser_id(identity.recogniser)
    with Gallery.open(gallery, recogniser, key_file=key) as opened, bar(source.name) as advance:
        for result in enrol_photos(opened, photos, identity, thumbnails=thumbnails, largest=largest, force=force):
            done.append(result)
            advance(len(done), len(photos))
    failed = [str(result.error) for result in done if result.status == "failed"]
    counts = {status: sum(r.status == status for r in done) for status in ("enrolled", "known", "failed")}
    data = {"gallery": _label(gallery), **counts, "photos": [{**asdict(r), "photo": str(r.photo)} for r in done]}
    line = (
        f"{_label(gallery)}: {counts['enrolled']} enrolled, {counts['known']} already there, {counts['failed']} failed"
    )
    _say(data, [line], as_json=as_json)
    end_with(failed, len(done))


@app.command()
@may_fetch
def search(
    gallery: Place,
    photos: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.", show_default=False)],
    top: Annotated[int, typer.Option(min=1, help="Number of matches per face.")] = 5,
    min_score: Annotated[float, typer.Option(help="Omit matches below this cosine similarity.")] = -1.0,
    far: Annotated[
        float, typer.Option(help="False accept rate of one comparison: 0.01, 0.001 or 0.0001.")
    ] = DEFAULT_FAR,
    force: Force = False,
    liveness: Annotated[
        bool, typer.Option("--liveness", help="Only live faces can be somebody: no prints, screens or masks.")
    ] = False,
    key: KeyFile = None,
    model: Model = _DEFAULT_MODEL,
    weights: Weights = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Find the people who resemble the faces in photos, and whether each is the same person."""
    files = [file for source in photos for file in _photos_below(source)]
    identity = load_networks(model, weights, device)
    found: list[dict[str, Any]] = []
    lines: list[str] = []
    errors: list[str] = []
    recogniser = recogniser_id(identity.recogniser)
    with Gallery.open(gallery, recogniser, key_file=key) as opened, bar("search") as advance:
        look = PhotoSearch(opened, identity, far=far, force=force, liveness=_estimator(device) if liveness else None)
        for index, file in enumerate(files):
            entry: dict[str, Any] = {"photo": str(file), "far": far, "faces": [], "error": None}
            try:
                sightings = look(file, top=top, min_score=min_score)
                entry["faces"] = [sighting.to_dict() for sighting in sightings]
                lines.append(f"{file}: {_count(len(sightings), 'face')}")
                lines += [f"  {number}: {sighting.line()}" for number, sighting in enumerate(sightings)]
            except (ImageReadError, UsageError) as error:
                entry["error"] = str(error)
                errors.append(str(error))
            found.append(entry)
            advance(index + 1, len(files))
    _say(found, lines, as_json=as_json)
    end_with(errors, len(found))


@app.command()
def remove(
    gallery: Place,
    people: Annotated[list[str], typer.Argument(help="Names.", show_default=False)],
    key: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Delete people and everything stored about them."""
    with Gallery.open(gallery, None, key_file=key) as opened:
        removed = opened.remove(people)
    line = f"{_label(gallery)}: {', '.join(people)} removed, {_count(removed, 'picture')}"
    _say({"gallery": _label(gallery), "removed": people, "pictures": removed}, [line], as_json=as_json)


@app.command("verify-integrity")
def verify_integrity(gallery: Place, key: KeyFile = None, as_json: AsJson = False) -> None:
    """Read and check everything in a gallery."""
    with Gallery.open(gallery, None, key_file=key) as opened:
        problems = opened.problems()
        people = [] if problems else opened.people()
        recall = None if problems else opened.index_recall()
        recogniser = opened.recogniser
    pictures = sum(person.samples for person in people)
    data = {
        "gallery": _label(gallery),
        "recogniser": asdict(recogniser),
        "sound": not problems,
        "problems": problems,
        "people": len(people),
        "pictures": pictures,
        "index_recall": recall,
    }
    if as_json:
        typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise GalleryError(f"{_label(gallery)} is damaged: {problems[0]}{more}")
    if not as_json:
        index = "" if recall is None else f"; the search index finds {recall:.1%} of what exact search finds"
        typer.echo(f"{_label(gallery)}: sound, {_count(len(people), 'person')}, {_count(pictures, 'picture')}{index}")


def find_photos(source: Path, person: str | None) -> list[tuple[str, Path]]:
    """(person, photo) pairs: all photos of `source` for one person, or those of its folders for each folder's name.

    Raises UsageError when there are none.
    """
    if person is not None:
        return [(person, photo) for photo in _photos_below(source)]
    if not source.is_dir():
        raise UsageError(f"{source} is not a folder of people; say whose photo it is with --person")
    folders = sorted(p for p in source.iterdir() if p.is_dir() and not p.name.startswith("."))
    pairs = [(folder.name, photo) for folder in folders for photo in _photos_in(folder)]
    if not pairs:
        raise UsageError(f"{source} holds no folders with photos; give one folder per person, or use --person")
    return pairs


def _photos_below(source: Path) -> list[Path]:
    if source.is_dir():
        photos = _photos_in(source)
        if not photos:
            raise UsageError(f"no photo in {source}")
        return photos
    if not source.exists():
        raise UsageError(f"{source} does not exist")
    return [source]


def _photos_in(folder: Path) -> list[Path]:
    return [path for path, _ in survey(folder, videos=False).files]


def _label(gallery: str) -> str:
    """The gallery as it may be shown: without the password of an address."""
    if not is_address(gallery):
        return gallery
    return re.sub(r"(?<=//)([^:/@]*):[^@/]*@", r"\1@", gallery)


def _count(number: int, what: str) -> str:
    plural = {"person": "people"}.get(what, f"{what}s")
    return f"{number} {what if number == 1 else plural}"


def _say(data: Any, lines: Sequence[str], *, as_json: bool) -> None:
    for line in [json.dumps(data, indent=2, ensure_ascii=False)] if as_json else lines:
        typer.echo(line)
