"""Other photos of the person: read, their faces chosen, compared with the damaged face, and what came of them.

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
import torch

from ..errors import FacewrightError, UsageError
from ..geometry.paste import face_mask
from ..geometry.resample import recut
from ..geometry.templates import template_points
from ..io.image import read
from ..systems.quality.retained import retained_fraction
from ..systems.reference.facereference.frozen import Reference, look, look_at_reference
from ..systems.reference.facereference.network import References
from .choosing import doubt, rivals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from ..face import DegradationEstimate, Face
    from ..metrics.calibration import ScoreCalibration
    from ..systems.recognise.recogniser import Recogniser
    from ..systems.reference.facereference.network import FaceReference
    from ..systems.restore.frgp.network import FRGP
    from ..tasks.card import Preprocess
    from ..tasks.detect import Detector

    Image = NDArray[np.uint8]
    Vector = NDArray[np.float32]

MOST = 4
"""References that are used at once, the best of those that count: as many as in training."""
MOST_READ = 64
MIN_EYE_DISTANCE, MAX_YAW, MIN_RETAINED = 20.0, 50.0, 0.4
"""What a face must have to say how a person looks: pixels between the eyes, degrees of yaw, share left undamaged."""
_NATIVE_EYES = 63.0  # px between the eyes in the restorer's crop: more detail than that is of no use
_GATE_FILE = "gate.json"
_KEPT_SETS = 4


# --- the references


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceFace:
    """A face of a reference: the file's name, what the restorer's encoder `saw` in it, the identity `vector` (D,), and
    how much it is `worth`, 0 to 1."""

    name: str
    saw: Reference
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


def together(faces: Sequence[ReferenceFace]) -> References:
    """References as the network takes them, of one damaged face."""
    return References(
        *(torch.cat(parts)[None] for parts in zip(*(face.saw for face in faces))),
        torch.from_numpy(np.stack([face.vector for face in faces]))[None],
        torch.ones(1, len(faces), dtype=torch.bool),
    )


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
        return (
            self.bias + self.similarity * similarity + self.retained * retained + self.product * similarity * retained
        )

    @classmethod
    @lru_cache(maxsize=1)
    def shipped(cls) -> Self:
        """The one that was fitted to the embedded networks; see `reproductions/facereference`."""
        text = files("facewright.systems.reference.facereference").joinpath(_GATE_FILE).read_text(encoding="utf-8")
        return cls(**json.loads(text))


class Choice(NamedTuple):
    """The references of one damaged face: those that count, and why the others do not, by name."""

    used: tuple[ReferenceFace, ...]
    refused: dict[str, str]


def choose(references: ReferenceSet, vector: Vector, retained: float, gate: Gate, crowd: int = 1) -> Choice:
    """Which references are of the person of a damaged face, whose embedding is `vector` (D,).

    Of several people among the references the likeliest counts. `crowd` is the number of faces that could be meant: in
    a group, the face must be so many times likelier the person's.
    """
    least = gate.least + float(np.log(crowd))
    found: tuple[ReferenceFace, ...] = ()
    best = least
    for person in references.people:
        mean = np.sum([face.vector for face in person], 0)
        likely = gate.llr(float(vector @ mean / np.linalg.norm(mean)), retained)
        if likely >= best:
            found, best = person[:MOST], likely
    refused = {}
    for face in references.faces:
        if all(face is not used for used in found):
            spare = any(face is other for person in references.people if person[:1] == found[:1] for other in person)
            refused[face.name] = f"the best {MOST} are used" if spare else "it does not look like this person"
    return Choice(found, refused)


# --- what came of them


@dataclass(frozen=True, slots=True)
class ReferenceUse:
    """What references did for one face: names of those `used`, why others were `refused`, by name, and the `share` of
    the change inside the face that came from them, 0 to 1."""

    used: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    share: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {"used": list(self.used), "refused": dict(self.refused), "share": round(self.share, 3)}

    @property
    def line(self) -> str:
        """One line for people."""
        if not self.used:
            return f"no reference was used ({_reasons(self.refused)})"
        count = len(self.used) + len(self.refused)
        said = f"{len(self.used)} of {count} references used, {100 * self.share:.0f} % of the change came from them"
        return said + (f"; not used: {_reasons(self.refused)}" if self.refused else "")


def _reasons(refused: Mapping[str, str]) -> str:
    if not refused:
        return "the face has no damage that they could mend"
    by_reason: dict[str, list[str]] = {}
    for name, why in refused.items():
        by_reason.setdefault(why, []).append(name)
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in by_reason.items())


# --- the networks


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceNetworks:
    """What restoring by references needs: the blind restorer, what corrects it, and who recognises the person."""

    frgp: FRGP
    corrector: FaceReference
    recogniser: Recogniser
    calibration: ScoreCalibration | None
    gate: Gate


class ReferenceDesk:
    """Reads references and keeps what was made of the last few sets; safe to share between threads.

    `networks` makes the networks when the first reference comes.
    """

    def __init__(self, detector: Detector, networks: Callable[[], ReferenceNetworks]) -> None:
        self.detector, self._make = detector, networks
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
        names = short_names(photos)
        unusable: dict[str, str] = {}
        candidates: dict[str, list[ReferenceFace]] = {}
        for path, name in zip(photos, names):
            try:
                rgb = read(path).rgb()
            except FacewrightError as error:
                unusable[name] = str(error)
                continue
            found, why = self._faces(rgb, name)
            if why:
                unusable[name] = why
            else:
                candidates[name] = found
        if not candidates:
            reasons = "; ".join(f"{name}: {why}" for name, why in unusable.items())
            raise UsageError(f"none of the references can be used ({reasons})")
        chosen, notes = _one_of_each(candidates)
        return ReferenceSet(self._by_person(chosen), unusable, notes)

    def _faces(self, rgb: Image, name: str) -> tuple[list[ReferenceFace], str]:
        """The faces that a reference may mean, largest first, or why there is none."""
        sure = [face for face in self.detector.detect(rgb) if not doubt(face)]
        if not sure:
            return [], "no face was found"
        meant = sorted(rivals(sure), key=lambda face: -face.eye_distance)
        faults = [_fault(face) for face in meant]
        usable = [face for face, fault in zip(meant, faults) if not fault]
        if not usable:
            return [], faults[0]
        networks = self.networks
        crop = networks.frgp.preprocess.crop
        crops = np.stack([crop.cut(rgb, face).image for face in usable])
        left = [retained_fraction(estimate) for estimate in networks.frgp.assess(crops)]
        kept = [i for i, share in enumerate(left) if share >= MIN_RETAINED]
        if not kept:
            return [], f"its face is too damaged, quality {100 * max(left):.0f}"
        seen = look_at_reference(networks.frgp, crops[kept])
        template = networks.recogniser.preprocess.crop
        vectors = networks.recogniser.embed(np.stack([template.cut(rgb, usable[i]).image for i in kept]))
        return [
            ReferenceFace(name, Reference(*(part[n : n + 1] for part in seen)), vectors[n], _worth(usable[i], left[i]))
            for n, i in enumerate(kept)
        ], ""

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
    return float(retained * min(face.eye_distance / _NATIVE_EYES, 1.0) * np.cos(np.radians(yaw)))


def _one_of_each(candidates: Mapping[str, list[ReferenceFace]]) -> tuple[list[ReferenceFace], tuple[str, ...]]:
    """One face of each photo: of several, the one most like the photos of a single face, else the largest."""
    single = [faces[0] for faces in candidates.values() if len(faces) == 1]
    chosen, notes = [], []
    for name, faces in candidates.items():
        if len(faces) == 1:
            chosen.append(faces[0])
            continue
        if single:
            mean = np.sum([face.vector for face in single], 0)
            chosen.append(max(faces, key=lambda face: float(face.vector @ mean)))
            notes.append(f"reference {name} shows {len(faces)} faces; the one most like the other references was taken")
        else:
            chosen.append(faces[0])
            notes.append(f"reference {name} shows {len(faces)} faces; the largest was taken")
    return chosen, tuple(notes)


class ReferencedRestorer:
    """The blind restorer with references: a `Restorer` of one call, which keeps in `uses` what they did, crop by crop.

    `retained` is the share of the face that is left before it is restored; `crowd` as in `choose`.
    """

    slug = "frgp+facereference"

    def __init__(self, networks: ReferenceNetworks, references: ReferenceSet, retained: float, crowd: int = 1) -> None:
        self.networks, self.references = networks, references
        self.retained, self.crowd = retained, crowd
        self.uses: list[ReferenceUse] = []

    @property
    def preprocess(self) -> Preprocess:
        return self.networks.frgp.preprocess

    def assess(self, crops: Image) -> list[DegradationEstimate]:
        return self.networks.frgp.assess(crops)

    def restore(self, crops: Image, *, fidelity: float = 1.0, seed: int | None = None) -> Image:
        """(N, S, S, 3) uint8 RGB crops to restored ones, corrected where references are of the same person."""
        networks = self.networks
        looked = look(networks.frgp, crops, fidelity=fidelity, seed=seed)
        side = networks.recogniser.preprocess.size
        vectors = networks.recogniser.embed(recut(looked.restored, networks.recogniser.preprocess.crop.template, side))
        outputs = looked.restored.copy()
        for i, vector in enumerate(vectors):
            choice = choose(self.references, vector, self.retained, networks.gate, self.crowd)
            if choice.used:
                one = slice(i, i + 1)
                maps = looked.coarse[one], looked.fine[one]
                outputs[i] = networks.corrector.corrected(looked.restored[one], *maps, together(choice.used))[0]
            refused = {**self.references.unusable, **choice.refused}
            share = _share(crops[i], looked.restored[i], outputs[i])
            self.uses.append(ReferenceUse(tuple(face.name for face in choice.used), refused, share))
        return outputs


def _share(before: Image, blind: Image, after: Image) -> float:
    """How much of the change inside a face on the `ffhq` template came after the blind restoration."""
    mask = face_mask(template_points("ffhq", len(before)), len(before))[..., None]
    apart = [float((np.abs(a.astype(np.float32) - b) * mask).sum()) for a, b in ((before, blind), (blind, after))]
    return apart[1] / max(sum(apart), 1e-6)
