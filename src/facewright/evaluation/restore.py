"""One protocol for every restorer: seeded damage, fixed faces and scoring networks, intervals, and a contact sheet.

Faces are crops on the `ffhq` template. Each is damaged at every severity by a draw that depends on (seed, severity,
name of the picture) alone, so that all restorers see the same pixels and more faces never change the old ones. The
ranges of the severities are published for 512 px and are scaled to the size of the crops. A restorer of another size
gets the damaged crop resampled, and its output is resampled back.

Against the truth: PSNR and SSIM (inside what the photo covers), LPIPS when its weights are there, the distance of the
five points a detector finds (percent of the distance between the eyes), the cosine of a recogniser's embeddings, and
the distance of a face parser's feature maps.
Without it: NIQE (on small crops from a handful of blocks: trust its mean only), and the Fréchet distance between the
embeddings of the restored and the true faces. Intervals are 95 % bootstrap intervals over faces. The Fréchet distance
has none: drawing with repeats biases it upwards.

Every score is a line of `scores.jsonl` as soon as it is known; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

import cv2
import numpy as np
from PIL import Image

from ..degrade import apply, get_preset, sample
from ..deprecation import renamed_arguments, renamed_names
from ..errors import ImageReadError, UsageError
from ..geometry.crop import CropSpec, template_face
from ..geometry.resample import resampled
from ..io.atomic import atomic_output
from ..metrics import cosine, frechet_from_features, landmark_distance, psnr, ssim
from ..metrics.niqe import niqe
from ..metrics.uncertainty import bootstrap
from ..pipelines.choosing import largest_face, sure_faces
from ..tasks.card import Preprocess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ..metrics.lpips import LPIPS
    from ..tasks.detect import Detector
    from ..tasks.recognise import Embedder
    from ..tasks.restore import Restorer

    Pixels = NDArray[np.uint8]
    Progress = Callable[[int, int | None], None]

logger = logging.getLogger(__name__)

SEVERITIES = ("mild", "vqfr", "severe", "far", "mixed")
"""Degradation presets; `vqfr` is the default damage of GFPGAN and VQFR without changes of colour."""
INPUT, CLASSICAL, TRUTH = "input", "classical", "truth"
UNDAMAGED = "none"
TEMPLATE = "ffhq"
JOURNAL, RESULTS, TABLES, SHEET = "scores.jsonl", "results.json", "results.md", "sheet.png"
PSNR_CEILING = 100.0
EMBEDDING_DIGITS = 5


# Faces


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationFace:
    """A true face: (S, S, 3) uint8 RGB on the `ffhq` template, and where it shows real pixels, (S, S) bool."""

    name: str
    image: Pixels
    valid: NDArray[np.bool_]


def validation_faces(count: int, size: int = 256, root: str | Path | None = None) -> list[EvaluationFace]:
    """`count` faces of the labelled collections' validation split, half of each collection, named by their row.

    Raises FacewrightError when the collections are not there.
    """
    from ..data.restoration import open_crops

    faces = []
    for name, share in (("lfw", count - count // 2), ("utkface", count // 2)):
        cache = open_crops(name, "val", size, root)  # type: ignore[arg-type]
        for index in np.unique(np.linspace(0, len(cache.rows) - 1, share).astype(int)):
            image, valid = cache.crop(int(index))
            faces.append(EvaluationFace(f"{name}/{cache.rows[index]}", np.array(image), valid))
    return faces


def photo_faces(folder: Path, detector: Detector, count: int | None = None, size: int = 512) -> list[EvaluationFace]:
    """The largest face of each photo below a folder, of at most `count` photos; photos without one are left out.

    Raises UsageError when no photo shows a face.
    """
    from ..io.image import read
    from ..runtime.folder import photos_in

    faces: list[EvaluationFace] = []
    for path in photos_in(folder):
        if len(faces) == count:
            break
        try:
            rgb = read(path).rgb()
        except ImageReadError as error:
            logger.info("skipped: %s", error)
            continue
        largest = largest_face(sure_faces(detector.detect(rgb)))
        if largest is not None:
            crop = CropSpec.aligned(size, TEMPLATE).cut(rgb, largest)
            faces.append(EvaluationFace(path.relative_to(folder).as_posix(), crop.image, crop.valid))
    if not faces:
        raise UsageError(f"no face was found in the photos of {folder}; give a folder of sharp portraits")
    return faces


def damaged(face: EvaluationFace, severity: str, seed: int) -> Pixels:
    """The face as the restorers get it; the same for the same (face, severity, seed)."""
    digest = hashlib.sha256(f"{seed}/{severity}/{face.name}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    return apply(face.image, sample(severity, rng, face.image.shape[0], scaled=True))


# Restorers


class AnyRestorer(Protocol):
    """What is asked of a restorer here."""

    @property
    def preprocess(self) -> Preprocess: ...

    def restore(self, crops: Pixels, *, fidelity: float = 1.0, seed: int | None = None) -> Pixels: ...


class Unrestored:
    """The damaged picture itself: the line every restorer has to beat."""

    preprocess = Preprocess(CropSpec.aligned(0, TEMPLATE))

    def restore(self, crops: Pixels, *, fidelity: float = 1.0, seed: int | None = None) -> Pixels:
        return crops


class Classical:
    """Non-local means, then an unsharp mask; the setting with the best PSNR at the default damage of training faces."""

    preprocess = Preprocess(CropSpec.aligned(0, TEMPLATE))
    strength, amount, sigma = 10.0, 1.0, 3.0

    def restore(self, crops: Pixels, *, fidelity: float = 1.0, seed: int | None = None) -> Pixels:
        return np.stack([self._sharpened(crop) for crop in crops])

    def _sharpened(self, crop: Pixels) -> Pixels:
        quiet = cv2.fastNlMeansDenoisingColored(crop, None, self.strength, self.strength, 5, 15).astype(np.float32)
        sharp = quiet + self.amount * (quiet - cv2.GaussianBlur(quiet, (0, 0), self.sigma))
        return np.asarray(np.rint(sharp).clip(0, 255), np.uint8)


def run_restorer(restorer: AnyRestorer | Restorer, crop: Pixels) -> Pixels:
    """An (S, S, 3) crop restored at the restorer's own size and brought back; UsageError for another template."""
    record = restorer.preprocess
    if record.crop.template != TEMPLATE:
        raise UsageError(f"a restorer for the template {record.crop.template!r} cannot be compared; needs {TEMPLATE!r}")
    side = crop.shape[0]
    restored = restorer.restore(resampled(crop, record.size or side)[None])[0]
    return resampled(restored, side)


# The networks that score

if not TYPE_CHECKING:
    __getattr__ = renamed_names(__name__, {"Judges": ":EvaluationModels"})


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationModels:
    """The networks that score: a detector, a recogniser, LPIPS if its weights are there, a parser's features. None may
    have been a guide of the restorers' training; `name` says which they are and is kept with the scores."""

    detector: Detector
    embedder: Embedder
    lpips: LPIPS | None = None
    features: Callable[[Pixels, Pixels], float] | None = None
    name: str = ""

    def points(self, image: Pixels) -> NDArray[np.float32] | None:
        """Five points of the face nearest to the middle of a crop, (5, 2) in pixels; None when none is found."""
        middle = (image.shape[0] - 1) / 2
        found = self.detector.detect(image)
        if not found:
            return None
        return min(found, key=lambda face: np.hypot(*(np.array(face.centre) - middle))).points5

    def embedding(self, image: Pixels) -> NDArray[np.float32]:
        """The unit embedding of a crop; cut by the template, so that no detection can spoil it."""
        record: Preprocess = self.embedder.preprocess  # type: ignore[attr-defined]
        crop = record.crop.cut(image, template_face(image.shape[0], TEMPLATE))
        return np.asarray(self.embedder.embed(crop.image[None])[0], np.float32)

    def perceptual(self, a: Pixels, b: Pixels) -> float | None:
        """LPIPS of two crops; None without its weights."""
        if self.lpips is None:
            return None
        import torch

        pair = (torch.from_numpy(p.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1 for p in (a, b))
        with torch.inference_mode():
            return float(self.lpips(*pair))


@dataclass(frozen=True, slots=True)
class Score:
    """One picture, damaged, restored and judged; None where a measure does not apply.

    psnr in dB (at most 100); landmarks: mean distance in percent of the distance between the eyes, None when the
    detector finds no face in the result; identity: cosine with the true face; features: distance of a parser's feature
    maps; weights: SHA-256 of the restorer's file.
    """

    restorer: str
    severity: str
    picture: str
    weights: str
    seconds: float
    psnr: float | None
    ssim: float | None
    lpips: float | None
    features: float | None
    landmarks: float | None
    identity: float | None
    niqe: float | None
    embedding: tuple[float, ...] = field(repr=False)

    @property
    def key(self) -> tuple[str, str, str]:
        return self.restorer, self.severity, self.picture

    def to_line(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        return cls(**{**data, "embedding": tuple(data["embedding"])})


MEASURES = {"psnr": 2, "ssim": 3, "lpips": 3, "features": 3, "landmarks": 2, "identity": 3, "niqe": 2}
"""Measures with an interval, and the digits they are shown with."""


def judge(
    output: Pixels,
    face: EvaluationFace,
    models: EvaluationModels,
    truth: TrueFace,
    names: tuple[str, str, str],
    seconds: float,
) -> Score:
    """The score of one restored crop; `names` are restorer, severity and weights."""
    embedding, points = models.embedding(output), models.points(output)
    apart = None
    if points is not None and truth.points is not None:
        eyes = float(np.hypot(*(truth.points[1] - truth.points[0])))
        apart = 100 * landmark_distance(points, truth.points) / eyes
    return Score(
        restorer=names[0],
        severity=names[1],
        picture=face.name,
        weights=names[2],
        seconds=round(seconds, 4),
        psnr=min(PSNR_CEILING, psnr(output, face.image, data_range=255, mask=face.valid)),
        ssim=ssim(output, face.image, data_range=255, mask=face.valid),
        lpips=models.perceptual(output, face.image),
        features=None if models.features is None else models.features(output, face.image),
        landmarks=apart,
        identity=float(cosine(embedding, truth.embedding)),
        niqe=_naturalness(output),
        embedding=_rounded(embedding),
    )


@dataclass(frozen=True, slots=True, eq=False)
class TrueFace:
    """What the evaluation models see in a true face."""

    embedding: NDArray[np.float32]
    points: NDArray[np.float32] | None


def _naturalness(image: Pixels) -> float | None:
    try:
        return niqe(image)
    except UsageError:
        return None  # too small, or without any texture


def _rounded(embedding: NDArray[np.float32]) -> tuple[float, ...]:
    return tuple(round(float(v), EMBEDDING_DIGITS) for v in embedding)


# The run


@dataclass(frozen=True, slots=True)
class Settings:
    """What two comparable runs share: source and size of the faces, the scoring networks, the damage and its seed."""

    source: str
    size: int
    models: str = ""
    severities: tuple[str, ...] = SEVERITIES
    seed: int = 0

    def __post_init__(self) -> None:
        for severity in self.severities:
            get_preset(severity)


class Journal:
    """The scores of a run in `scores.jsonl`: the settings in the first line, then a line per score.

    Reopened, it knows what is done; a last line that a crash has cut is dropped. Raises UsageError when the file
    belongs to other settings.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.scores = path, dict[tuple[str, str, str], Score]()
        header = json.dumps(asdict(settings), ensure_ascii=False)
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        complete = [line for line in lines if line.endswith("\n")]
        if complete and _settings(complete[0]) != _settings(header):
            raise UsageError(
                f"{path} was made with other settings; choose another folder or use the settings in its first line"
            )
        for line in complete[1:]:
            self._hold(Score.from_dict(json.loads(line)))
        path.parent.mkdir(parents=True, exist_ok=True)
        if len(complete) != len(lines) or not complete:
            with atomic_output(path, overwrite=True) as temporary:
                temporary.write_text("".join(complete) or header + "\n", encoding="utf-8")

    def add(self, score: Score) -> None:
        """Keep a score, on the disk before the call returns."""
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(score.to_line() + "\n")
        self._hold(score)

    def check_weights(self, restorer: str, weights: str) -> None:
        """Raise UsageError if earlier scores of that restorer are of other weights."""
        if any(s.weights != weights for s in self.scores.values() if s.restorer == restorer):
            raise UsageError(f"{self.path} holds scores of {restorer} with other weights; choose another folder")

    def _hold(self, score: Score) -> None:
        self.scores[score.key] = score


def _settings(line: str) -> dict[str, Any]:
    """The first line of a journal; those of 0.1.0 call the models judges."""
    found: dict[str, Any] = json.loads(line)
    return {{"judges": "models"}.get(key, key): value for key, value in found.items()}


@renamed_arguments(judges="models")
def evaluate(
    faces: Sequence[EvaluationFace],
    restorers: Mapping[str, Callable[[], AnyRestorer | Restorer]],
    models: EvaluationModels,
    settings: Settings,
    folder: Path,
    *,
    sheet_faces: int = 4,
    on_progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Score every restorer on every face at every severity, and write the results into a folder.

    `restorers` maps a name to a function that loads it, called only if some of its scores are missing. The rows
    "input" and "classical" are added. Written are `scores.jsonl`, `results.json` (what is returned), `results.md` and
    `sheet.png` with the first `sheet_faces` faces; the sheet shows the people of the photos.
    """
    journal = Journal(folder / JOURNAL, settings)
    rows: dict[str, Callable[[], AnyRestorer | Restorer]] = {INPUT: Unrestored, CLASSICAL: Classical, **restorers}
    total = len(faces) * (1 + len(rows) * len(settings.severities))
    truths = _truths(faces, models, journal)
    shown = {face.name: index for index, face in enumerate(faces[:sheet_faces])}
    on_progress(_done(journal, faces, rows, settings), total)
    for name, load in rows.items():
        todo = [(s, f) for s in settings.severities for f in faces if (name, s, f.name) not in journal.scores]
        if not todo:
            continue
        restorer = load()
        weights = str(getattr(restorer, "weights_sha256", None) or "")
        journal.check_weights(name, weights)
        for severity, face in todo:
            low = damaged(face, severity, settings.seed)
            start = time.perf_counter()
            output = run_restorer(restorer, low)
            seconds = time.perf_counter() - start
            if face.name in shown:
                _save(output, _shown_path(folder, severity, name, shown[face.name]))
            journal.add(judge(output, face, models, truths[face.name], (name, severity, weights), seconds))
            on_progress(_done(journal, faces, rows, settings), total)
    wanted = {face.name for face in faces}
    results = summarise([s for s in journal.scores.values() if s.picture in wanted], settings, list(rows))
    _write(folder / RESULTS, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    _write(folder / TABLES, markdown(results))
    if shown:
        _save(contact_sheet(folder, faces[:sheet_faces], list(rows), journal, settings), folder / SHEET)
    return results


def _truths(faces: Sequence[EvaluationFace], models: EvaluationModels, journal: Journal) -> dict[str, TrueFace]:
    found = {}
    for face in faces:
        found[face.name] = TrueFace(models.embedding(face.image), models.points(face.image))
        if (TRUTH, UNDAMAGED, face.name) not in journal.scores:
            embedding = _rounded(found[face.name].embedding)
            blank = dict.fromkeys(MEASURES) | {"niqe": _naturalness(face.image)}
            journal.add(Score(TRUTH, UNDAMAGED, face.name, "", 0.0, **blank, embedding=embedding))
    return found


def _done(journal: Journal, faces: Sequence[EvaluationFace], rows: Iterable[str], settings: Settings) -> int:
    wanted = [(TRUTH, UNDAMAGED), *((row, severity) for row in rows for severity in settings.severities)]
    return sum((row, severity, face.name) in journal.scores for row, severity in wanted for face in faces)


def _write(path: Path, text: str) -> None:
    with atomic_output(path, overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _save(pixels: Pixels, path: Path) -> None:
    with atomic_output(path, overwrite=True, parents=True) as temporary:
        Image.fromarray(pixels).save(temporary)


# Results


def summarise(scores: Sequence[Score], settings: Settings, rows: Sequence[str]) -> dict[str, Any]:
    """Plain data: the settings, and per severity and row every measure.

    A measure is {mean, low, high, count}; `gain` holds the same of the paired difference to the input. `frechet` and
    `seconds` (median) are numbers, `found` is the share of results in which the detector still finds the face.
    """
    by_key = {score.key: score for score in scores}
    truth = {s.picture: s for s in scores if s.restorer == TRUTH}
    table: dict[str, Any] = {}
    for severity in settings.severities:
        table[severity] = {}
        for row in rows:
            own = [s for s in scores if (s.restorer, s.severity) == (row, severity)]
            if own:
                given = [by_key.get((INPUT, severity, s.picture)) for s in own]
                table[severity][row] = _row(own, given, truth)
    undamaged = bootstrap(values) if (values := _present(list(truth.values()), "niqe")) else None
    return {
        "settings": asdict(settings) | {"severities": list(settings.severities)},
        "faces": len(truth),
        "niqe_of_truth": undamaged and asdict(undamaged),
        "results": table,
    }


def _row(own: list[Score], given: list[Score | None], truth: Mapping[str, Score]) -> dict[str, Any]:
    measured: dict[str, Any] = {"gain": {}}
    for name in MEASURES:
        if values := _present(own, name):
            measured[name] = asdict(bootstrap(values))
        pairs = [(getattr(a, name), getattr(b, name)) for a, b in zip(own, given) if b is not None]
        if gains := [a - b for a, b in pairs if a is not None and b is not None]:
            measured["gain"][name] = asdict(bootstrap(gains))
    measured["found"] = sum(s.landmarks is not None for s in own) / len(own)
    measured["seconds"] = float(np.median([s.seconds for s in own]))
    measured["frechet"] = None
    if len(own) > 1:
        real = [truth[s.picture].embedding for s in own]
        measured["frechet"] = frechet_from_features([s.embedding for s in own], real)
    return measured


def _present(scores: Sequence[Score], name: str) -> list[float]:
    return [value for value in (getattr(s, name) for s in scores) if value is not None]


_HEADINGS = {
    "psnr": "PSNR, dB ↑",
    "ssim": "SSIM ↑",
    "lpips": "LPIPS ↓",
    "features": "features ↓",
    "landmarks": "points, % of eyes ↓",
    "identity": "identity ↑",
    "niqe": "NIQE ↓",
}


def markdown(results: Mapping[str, Any]) -> str:
    """The tables of `summarise` as a Markdown page."""
    settings, natural = results["settings"], results["niqe_of_truth"]
    lines = [
        "# Restoration",
        "",
        f"{results['faces']} faces of {settings['source']}, {settings['size']} px, seed {settings['seed']}; "
        f"scored by: {settings['models'] or 'not named'}. Means with 95 % bootstrap intervals over faces.",
        "",
        "*points*: distance of the detector's five points; *found*: share of results in which it still finds a face;",
        "*Fréchet*: between the recogniser's embeddings of restored and true faces, comparable within this page only.",
    ]
    if natural:
        lines.append(f"NIQE of the true faces: {_shown(natural, MEASURES['niqe'])}.")
    for severity, rows in results["results"].items():
        shown = [m for m in MEASURES if any(m in row for row in rows.values())]
        heads = ["restorer", *(_HEADINGS[m] for m in shown), "found", "Fréchet ↓", "s per face"]
        lines += ["", f"## {severity}", "", f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
        for name, row in rows.items():
            cells = [_shown(row.get(m), MEASURES[m]) for m in shown]
            frechet = "–" if row["frechet"] is None else f"{row['frechet']:.4f}"
            cells += [f"{100 * row['found']:.0f} %", frechet, f"{row['seconds']:.3f}"]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _shown(estimate: Mapping[str, float] | None, digits: int) -> str:
    if estimate is None:
        return "–"
    mean, low, high = (f"{estimate[key]:.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _shown_path(folder: Path, severity: str, row: str, index: int) -> Path:
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in row)
    return folder / "crops" / severity / safe / f"{index}.png"


def contact_sheet(
    folder: Path, faces: Sequence[EvaluationFace], rows: Sequence[str], journal: Journal, settings: Settings
) -> Pixels:
    """A sheet with a line per severity and face: input, every restorer, truth, with their PSNR below."""
    from ..pipelines.sheets import grid

    pictures, labels = [], []
    for severity in settings.severities:
        for index, face in enumerate(faces):
            line, names = [], []
            for row in rows:
                path = _shown_path(folder, severity, row, index)
                score = journal.scores.get((row, severity, face.name))
                if path.exists() and score is not None and score.psnr is not None:
                    line.append(np.asarray(Image.open(path).convert("RGB"), np.uint8))
                    names.append(f"{row} {score.psnr:.1f} dB")
            pictures.append([*line, face.image])
            labels.append([*names, f"truth ({severity})"])
    return grid(pictures, labels)
