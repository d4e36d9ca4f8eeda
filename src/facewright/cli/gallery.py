"""facewright gallery: enrol and search people by their photos."""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from PIL import Image

from ..errors import GalleryError, ImageReadError, UsageError
from ..gallery.crypto import create_key
from ..gallery.records import RecogniserId, Sample
from ..gallery.store import Gallery, is_address
from ..io.decode import read_file
from ..io.image import read
from ..io.kinds import survey
from ..pipelines.second_opinion import believable
from ..progress import bar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ..face import Face, FaceCrop
    from ..pipelines.identity import Recogniser
    from ..tasks.detect import Detector

THUMBNAIL_QUALITY = 85
LEAST_QUALITY = 1e-3  # so that no picture is without weight
CROWDED = 0.5  # a face of this share of the largest one's size could be meant, too

app = typer.Typer(
    name="gallery",
    help="Enrol people from photos and find out who is in a photo.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Place = Annotated[str, typer.Argument(metavar="GALLERY", help="File, or postgresql:// address.", show_default=False)]
KeyFile = Annotated[Path | None, typer.Option("--key", help="Key file of an encrypted gallery.")]
Model = Annotated[str, typer.Option(help="Recogniser; see 'facewright models'.")]
Weights = Annotated[str | None, typer.Option(help="Weights: file, folder, or name.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_DEFAULT_MODEL = "sface"


@dataclass(frozen=True, slots=True)
class Networks:
    """The detector and recogniser that turn photos into vectors."""

    detector: Detector
    recogniser: Recogniser

    def identify(self) -> RecogniserId:
        """Which recogniser this is. Raises UsageError for one with untrained weights."""
        if self.recogniser.weights_sha256 is None:
            raise UsageError("the recogniser has no trained weights; give them with --weights")
        side = self.recogniser.preprocess.size
        (vector,) = self.recogniser.embed(np.full((1, side, side, 3), 128, np.uint8))
        return RecogniserId(self.recogniser.slug, self.recogniser.weights_sha256, len(vector))

    def crop(self, photo: NDArray[np.uint8], face: Face) -> FaceCrop:
        """The crop of a face that the recogniser wants."""
        return self.recogniser.preprocess.crop.cut(photo, face)


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What became of one photo: `status` is "enrolled", "known", or "failed" with the reason in `error`."""

    photo: Path
    person: str
    status: str
    quality: float | None = None
    error: str | None = None


def load_networks(model: str, weights: str | None, device: str) -> Networks:
    """The face detector and the recogniser of that name, ready to use."""
    from ..loading import load_detector, load_recogniser

    recogniser, _ = load_recogniser(model, weights, device)
    return Networks(load_detector(device), recogniser)


@app.command()
def create(
    gallery: Place,
    key: Annotated[Path | None, typer.Option("--key", help="Encrypt with this key file; created if missing.")] = None,
    model: Model = _DEFAULT_MODEL,
    weights: Weights = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Create an empty gallery for one recogniser."""
    recogniser = load_networks(model, weights, device).identify()
    if Path(gallery).exists():
        raise UsageError(f"{gallery} exists; choose another name")
    if key is not None and not key.exists() and not is_address(gallery):
        create_key(key)
    Gallery.create(gallery, recogniser, key_file=key).close()
    note = "" if key is None else f"; keep {key} safe and apart, nobody can read the gallery without it"
    data = {"gallery": _label(gallery), "recogniser": asdict(recogniser), "encrypted": key is not None}
    _say(data, [f"{_label(gallery)}: made for {recogniser}{note}"], as_json=as_json)


@app.command()
def enrol(
    gallery: Place,
    source: Annotated[
        Path, typer.Argument(help="Folder with one subfolder per person; with --person, a photo or a folder.")
    ],
    person: Annotated[str | None, typer.Option(help="Name of the person in the photos.")] = None,
    thumbnails: Annotated[bool, typer.Option("--thumbnails", help="Also store a thumbnail of each face.")] = False,
    largest: Annotated[bool, typer.Option("--largest", help="If there are several faces, take the largest.")] = False,
    key: KeyFile = None,
    model: Model = _DEFAULT_MODEL,
    weights: Weights = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Add people; photos that are already enrolled are skipped, so you can run it again."""
    photos = find_photos(source, person)
    networks = load_networks(model, weights, device)
    done: list[Enrolment] = []
    with Gallery.open(gallery, networks.identify(), key_file=key) as opened, bar(source.name) as advance:
        for result in enrol_photos(opened, photos, networks, thumbnails=thumbnails, largest=largest):
            done.append(result)
            advance(len(done), len(photos))
    failed = [result for result in done if result.status == "failed"]
    counts = {status: sum(r.status == status for r in done) for status in ("enrolled", "known", "failed")}
    data = {"gallery": _label(gallery), **counts, "photos": [{**asdict(r), "photo": str(r.photo)} for r in done]}
    for result in failed:
        typer.echo(f"failed: {result.error}", err=True)
    line = (
        f"{_label(gallery)}: {counts['enrolled']} enrolled, {counts['known']} already there, {counts['failed']} failed"
    )
    _say(data, [line], as_json=as_json)
    if failed:
        raise typer.Exit(2 if len(failed) == len(done) else 1)


@app.command()
def search(
    gallery: Place,
    photos: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.", show_default=False)],
    top: Annotated[int, typer.Option(min=1, help="Number of matches per face.")] = 5,
    min_score: Annotated[float, typer.Option(help="Omit matches below this cosine similarity.")] = -1.0,
    key: KeyFile = None,
    model: Model = _DEFAULT_MODEL,
    weights: Weights = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Find the people who resemble the faces in photos; the score is the cosine similarity."""
    files = [file for source in photos for file in _photos_below(source)]
    networks = load_networks(model, weights, device)
    found: list[dict[str, Any]] = []
    with Gallery.open(gallery, networks.identify(), key_file=key) as opened, bar("search") as advance:
        for index, file in enumerate(files):
            found.append(_search_photo(opened, file, networks, top, min_score))
            advance(index + 1, len(files))
    failed = [entry for entry in found if entry["error"]]
    for entry in failed:
        typer.echo(f"failed: {entry['error']}", err=True)
    _say(found, [line for entry in found if not entry["error"] for line in _match_lines(entry)], as_json=as_json)
    if failed:
        raise typer.Exit(2 if len(failed) == len(found) else 1)


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


def enrol_photos(
    gallery: Gallery,
    photos: Sequence[tuple[str, Path]],
    networks: Networks,
    *,
    thumbnails: bool = False,
    largest: bool = False,
) -> Iterator[Enrolment]:
    """Enrol (person, photo) pairs one after the other; yields what became of each once it is on the disk."""
    for person, photo in photos:
        try:
            key = hashlib.sha256(read_file(photo)).hexdigest()
            if gallery.contains(person, key):
                yield Enrolment(photo, person, "known")
                continue
            sample = describe_photo(photo, person, key, networks, thumbnail=thumbnails, largest=largest)
            gallery.enrol([sample])
            yield Enrolment(photo, person, "enrolled", round(sample.quality, 4))
        except (ImageReadError, UsageError) as error:
            yield Enrolment(photo, person, "failed", error=str(error))


def describe_photo(
    photo: Path, person: str, key: str, networks: Networks, *, thumbnail: bool = False, largest: bool = False
) -> Sample:
    """The sample of a photo of one person.

    Its quality is the detector's score times the share of the crop's resolution that the photo holds. Raises
    UsageError when there is no face, or, unless `largest`, another one of half its size or more.
    """
    pixels = read(photo).rgb()
    found = filter(believable, networks.detector.detect(pixels))
    faces = sorted(found, key=lambda face: face.eye_distance, reverse=True)
    if not faces:
        raise UsageError(f"{photo}: no face found")
    if not largest and len(faces) > 1 and faces[1].eye_distance > CROWDED * faces[0].eye_distance:
        raise UsageError(f"{photo}: several faces, so it is not clear which one is {person}; crop it, or use --largest")
    crop = networks.crop(pixels, faces[0])
    (vector,) = networks.recogniser.embed(crop.image[None])
    return Sample(
        person=person,
        vector=vector,
        quality=max(LEAST_QUALITY, faces[0].score * min(1.0, 1 / crop.scale)),
        key=key,
        metadata={"file": photo.name, "face": faces[0].to_dict()},
        thumbnail=_jpeg(crop.image) if thumbnail else None,
    )


def _search_photo(gallery: Gallery, photo: Path, networks: Networks, top: int, min_score: float) -> dict[str, Any]:
    try:
        pixels = read(photo).rgb()
        faces = [face for face in networks.detector.detect(pixels) if believable(face)]
        crops = [networks.crop(pixels, face).image for face in faces]
        ranked = gallery.search(networks.recogniser.embed(np.stack(crops)), top) if crops else []
    except (ImageReadError, UsageError) as error:
        return {"photo": str(photo), "faces": [], "error": str(error)}
    entries = [
        {**face.to_dict(), "matches": [asdict(match) for match in matches if match.score >= min_score]}
        for face, matches in zip(faces, ranked, strict=True)
    ]
    return {"photo": str(photo), "faces": entries, "error": None}


def _match_lines(entry: dict[str, Any]) -> list[str]:
    lines = [f"{entry['photo']}: {_count(len(entry['faces']), 'face')}"]
    for index, face in enumerate(entry["faces"]):
        names = ", ".join(f"{match['person']} {match['score']:.3f}" for match in face["matches"]) or "nobody"
        box = ",".join(str(round(value)) for value in face["box"])
        lines.append(f"  {index}: box {box}: {names}")
    return lines


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


def _jpeg(crop: NDArray[np.uint8]) -> bytes:
    target = io.BytesIO()
    Image.fromarray(crop).save(target, "JPEG", quality=THUMBNAIL_QUALITY)
    return target.getvalue()


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
