"""Other photos of the person: read, their faces chosen, compared with the damaged face.

A reference counts only where the recogniser takes its person for that of the damaged face (`Gate`): a photo of somebody
else changes nothing. Photos of several people are possible; references that show one person are taken together.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from ..errors import FacewrightError, UsageError
from ..geometry.resample import recut, resampled
from ..io.image import read
from ..systems.quality.retained import retained_fraction
from .choosing import doubt, rivals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from ..face import Face
    from ..geometry.crop import CropSpec
    from ..metrics.calibration import ScoreCalibration
    from ..systems.recognise.recogniser import Recogniser
    from ..systems.restore.frgp.network import FRGP
    from ..tasks.card import Preprocess
    from ..tasks.declare import Networks
    from ..tasks.detect import Detector
    from ..tasks.restore import ReferenceRestorer

    Image = NDArray[np.uint8]
    Vector = NDArray[np.float32]

MOST = 5
"""References that are used at once, the best of those that count: as many as ReF-LDM saw in training."""
MOST_READ = 64
MIN_EYE_DISTANCE, MAX_YAW, MIN_RETAINED = 20.0, 50.0, 0.4
"""What a face must have to say how a person looks: pixels between the eyes, degrees of yaw, share left undamaged."""
_AMPLE_EYES = 120.0  # px between the eyes in a restorer's crop of 512: more detail than that is of no use
_GATE_FILE = "references.json"
_KEPT_SETS = 4


# --- the references


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceFace:
    """A face of a reference: the file's name, the restorer's `crop` (S, S, 3) of it, its identity `vector` (D,), and
    how much it is `worth`, 0 to 1."""

    name: str
    crop: Image
    vector: Vector
    worth: float


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceSet:
    """The references that can be used, by person, the best first; why the others cannot, by name, and other notes."""

    people: tuple[tuple[ReferenceFace, ...], ...]
    unusable: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def faces(self) -> tuple[ReferenceFace, ...]:
        return tuple(face for person in self.people for face in person)


@dataclass(frozen=True, slots=True)
class Gate:
    """How likely a damaged face and a reference show one person, as log-likelihood ratio (natural logarithm).

    A logistic model of the cosine of the blindly restored face and the reference, and of how much the damage has left
    (`systems.quality.retained`): between ruins and clean photos even one person's embeddings are not alike. `least` is
    the ratio from which a reference counts.
    """

    bias: float
    similarity: float
    retained: float
    product: float
    least: float

    def llr(self, similarity: float, retained: float) -> float:
        slope = self.similarity + self.product * retained
        return self.bias + slope * similarity + self.retained * retained

    @classmethod
    @lru_cache(maxsize=1)
    def shipped(cls) -> Self:
        """The one that was fitted to the embedded networks; see `reproductions/references`."""
        return cls(**json.loads(files(__package__).joinpath(_GATE_FILE).read_text(encoding="utf-8")))


class Choice(NamedTuple):
    """The references of one damaged face: those that count, and why the others do not, by name."""

    used: tuple[ReferenceFace, ...]
    refused: dict[str, str]


def choose(references: ReferenceSet, vector: Vector, retained: float, gate: Gate, crowd: int = 1) -> Choice:
    """Which references are of the person of a damaged face, whose embedding is `vector` (D,).

    Of several people among the references the likeliest counts. `crowd` is the number of faces that could be meant: in
    a group, the face must be so many times likelier the person's.
    """
    best, found = gate.least + float(np.log(crowd)), -1
    for number, person in enumerate(references.people):
        likely = gate.llr(float(vector @ mean_vector(person)), retained)
        if likely >= best:
            best, found = likely, number
    used = references.people[found][:MOST] if found >= 0 else ()
    refused = {
        face.name: f"the best {MOST} are used" if number == found else "it does not look like this person"
        for number, person in enumerate(references.people)
        for face in (person[MOST:] if number == found else person)
    }
    return Choice(used, refused)


def mean_vector(faces: Sequence[ReferenceFace]) -> Vector:
    """Mean identity (D,) of references, of length 1."""
    mean = np.sum([face.vector for face in faces], 0)
    return np.asarray(mean / np.linalg.norm(mean), np.float32)


# --- what came of them


@dataclass(frozen=True, slots=True)
class ReferenceUse:
    """What references did for one face.

    Names of those `used`, why others were `refused`, by name, and the likeness (cosine of a recogniser) of the face to
    the used ones when it is restored without any, `before`, and with them, `after`.
    """

    used: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    before: float | None = None
    after: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        rounded = {k: None if v is None else round(v, 3) for k, v in (("before", self.before), ("after", self.after))}
        return {"used": list(self.used), "refused": dict(self.refused), **rounded}

    @property
    def line(self) -> str:
        """One line for people."""
        if not self.used:
            return f"no reference was used ({_reasons(self.refused)})"
        count = len(self.used) + len(self.refused)
        said = f"{len(self.used)} of {count} reference{'s' * (count != 1)} used"
        if self.before is not None and self.after is not None:
            said += f", likeness to them {self.before:.2f} → {self.after:.2f}"
        return said + (f"; not used: {_reasons(self.refused)}" if self.refused else "")


def _reasons(refused: Mapping[str, str]) -> str:
    by_reason: dict[str, list[str]] = {}
    for name, why in refused.items():
        by_reason.setdefault(why, []).append(name)
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in by_reason.items())


# --- the networks


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceNetworks:
    """Who judges references: the blind restorer, the recogniser that compares what it gives with them, its calibration,
    and the gate that was fitted to both."""

    blind: FRGP
    recogniser: Recogniser
    calibration: ScoreCalibration | None
    gate: Gate

    def vector(self, crop: Image) -> Vector:
        """Identity (D,) of an (S, S, 3) uint8 RGB crop on the `ffhq` template."""
        spec = self.recogniser.preprocess.crop
        found: Vector = self.recogniser.embed(recut([crop], spec.template, spec.size))[0]
        return found

    def blind_vector(self, crop: Image) -> Vector:
        """Identity of a damaged crop, as it looks when it is restored without references."""
        small = resampled(crop, self.blind.preprocess.size)
        return self.vector(self.blind.restore(small[None])[0])


def reference_networks(session: Networks, device: str) -> ReferenceNetworks:
    """The embedded networks that judge references, whatever else is chosen: the gate was fitted to them."""
    from .identity import calibration_of

    recogniser = session.network("distilledface", None, device)
    return ReferenceNetworks(
        session.network("frgp", None, device), recogniser, calibration_of(recogniser), Gate.shipped()
    )


class ReferenceDesk:
    """Reads references and keeps what was made of the last few sets; safe to share between threads.

    `crop` is that of the restorer the references are for. `networks` makes the networks when the first reference comes.
    """

    def __init__(self, detector: Detector, crop: CropSpec, networks: Callable[[], ReferenceNetworks]) -> None:
        self.detector, self.crop, self._make = detector, crop, networks
        self._networks: ReferenceNetworks | None = None
        self._sets: dict[tuple[Any, ...], ReferenceSet] = {}
        self._lock = threading.Lock()

    @property
    def networks(self) -> ReferenceNetworks:
        if self._networks is None:
            self._networks = self._make()
        return self._networks

    def gather(self, paths: Sequence[str]) -> ReferenceSet:
        """The faces of photos and of folders of photos. Raises UsageError when none of them can be used, saying why."""
        photos = [photo for path in paths for photo in _photos_of(Path(path))]
        if len(photos) > MOST_READ:
            raise UsageError(f"{len(photos)} references are more than {MOST_READ}; choose the best of them")
        key = tuple((str(path), stat.st_size, stat.st_mtime_ns) for path in photos for stat in (path.stat(),))
        with self._lock:
            if key not in self._sets:
                while len(self._sets) >= _KEPT_SETS:
                    del self._sets[next(iter(self._sets))]
                self._sets[key] = self._gather(photos)
            return self._sets[key]

    def _gather(self, photos: Sequence[Path]) -> ReferenceSet:
        unusable: dict[str, str] = {}
        candidates: dict[str, list[ReferenceFace]] = {}
        for path, name in zip(photos, short_names(photos)):
            try:
                candidates[name] = self._faces(read(path).rgb(), name)
            except FacewrightError as error:
                unusable[name] = str(error).removeprefix(f"{path}: ")
        if not candidates:
            reasons = "; ".join(f"{name}: {why}" for name, why in unusable.items())
            raise UsageError(f"none of the references can be used ({reasons})")
        chosen, notes = _one_of_each(candidates)
        return ReferenceSet(self._by_person(chosen), unusable, notes)

    def _faces(self, rgb: Image, name: str) -> list[ReferenceFace]:
        """The faces that a reference may mean, largest first; UsageError says why there is none."""
        sure = [face for face in self.detector.detect(rgb) if not doubt(face)]
        if not sure:
            raise UsageError("no face was found")
        meant = sorted(rivals(sure), key=lambda face: -face.eye_distance)
        faults = [_fault(face) for face in meant]
        usable = [face for face, fault in zip(meant, faults) if not fault]
        if not usable:
            raise UsageError(faults[0])
        networks = self.networks
        small = np.stack([networks.blind.preprocess.crop.cut(rgb, face).image for face in usable])
        left = [retained_fraction(estimate) for estimate in networks.blind.assess(small)]
        if max(left) < MIN_RETAINED:
            raise UsageError(f"its face is too damaged, quality {100 * max(left):.0f}")
        return [
            ReferenceFace(name, crop, networks.vector(crop), _worth(face, share))
            for face, share in zip(usable, left)
            if share >= MIN_RETAINED
            for crop in (self.crop.cut(rgb, face).image,)
        ]

    def _by_person(self, faces: Sequence[ReferenceFace]) -> tuple[tuple[ReferenceFace, ...], ...]:
        """References grouped by likeness, the largest group first: who is linked to one of a group belongs to it."""
        calibration = self.networks.calibration
        groups: list[list[ReferenceFace]] = []
        for face in sorted(faces, key=lambda each: -each.worth):
            alike = [
                group
                for group in groups
                if calibration is None or any(calibration.llr(float(face.vector @ o.vector)) > 0 for o in group)
            ]
            merged = [face, *(other for group in alike for other in group)]
            groups = [group for group in groups if all(group is not other for other in alike)] + [merged]
        groups.sort(key=len, reverse=True)
        return tuple(tuple(sorted(group, key=lambda each: -each.worth)) for group in groups)


def _photos_of(path: Path) -> list[Path]:
    """A photo, or the photos of a folder; UsageError for what is not there."""
    if path.is_dir():
        from ..runtime.folder import survey_photos

        return [photo for photo, _ in survey_photos(path).files]
    if not path.exists():
        raise UsageError(f"reference {path} does not exist")
    return [path]


def short_names(photos: Sequence[Path]) -> list[str]:
    """File names, with their folder where two are called alike."""
    names = [photo.name for photo in photos]
    return [name if names.count(name) == 1 else f"{photo.parent.name}/{name}" for photo, name in zip(photos, names)]


def _fault(face: Face) -> str:
    """Why a face says too little about how its person looks; empty where it says enough."""
    if face.eye_distance < MIN_EYE_DISTANCE:
        return f"its face is too small, {face.eye_distance:.0f} px between the eyes"
    if face.pose is not None and abs(face.pose.yaw) > MAX_YAW:
        return f"its face is turned too far, yaw {face.pose.yaw:.0f} degrees"
    return ""


def _worth(face: Face, retained: float) -> float:
    yaw = 0.0 if face.pose is None else face.pose.yaw
    return float(retained * min(face.eye_distance / _AMPLE_EYES, 1.0) * np.cos(np.radians(yaw)))


def _one_of_each(candidates: Mapping[str, list[ReferenceFace]]) -> tuple[list[ReferenceFace], tuple[str, ...]]:
    """One face of each photo: of several, the one most like the photos of a single face, else the largest."""
    single = [faces[0] for faces in candidates.values() if len(faces) == 1]
    chosen, notes = [], []
    for name, faces in candidates.items():
        if len(faces) == 1:
            chosen.append(faces[0])
        elif single:
            mean = mean_vector(single)
            chosen.append(max(faces, key=lambda face: float(face.vector @ mean)))
            notes.append(f"reference {name} shows {len(faces)} faces; the one most like the other references was taken")
        else:
            chosen.append(faces[0])
            notes.append(f"reference {name} shows {len(faces)} faces; the largest was taken")
    return chosen, tuple(notes)


class ReferencedRestorer:
    """A restorer with the references of one person: a `Restorer` of her faces."""

    def __init__(self, restorer: ReferenceRestorer, used: Sequence[ReferenceFace]) -> None:
        self.restorer, self.references = restorer, np.stack([face.crop for face in used])

    @property
    def preprocess(self) -> Preprocess:
        return self.restorer.preprocess

    def restore(self, crops: Image, *, fidelity: float = 1.0, seed: int | None = None) -> Image:
        """(N, S, S, 3) uint8 RGB crops of the person to restored crops. UsageError for a fidelity other than 1."""
        if fidelity != 1:
            raise UsageError("with references there is no fidelity to choose; omit it")
        return self.restorer.restore_by(crops, [self.references] * len(crops), seed=seed)
