"""Do other photos of the person bring a restored face nearer to the true one, and does a stranger's change nothing?

    python -m reproductions.facereference.run --fit src/facewright/systems/reference/facereference/gate.json --write

Validation people of LFW with at least two photos. One or two photos of each are reduced until the eyes are 8, 12 or 20
pixels apart, or damaged by the `severe` preset; the others are references. The blind restoration is FRGP's, at 256 px.
Judges: `distilledface`, which the training saw; `vitfiqa`, which it did not, but which has the same teacher; and, where
`dlib` and `face_recognition_models` are installed, dlib's network, which has nothing in common with either. Cosines are
taken after the mean embedding of the faces is subtracted: those of dlib and of vitfiqa are alike for all faces.

The gate, which says whether a reference shows the person, is fitted on half of the people and measured on the other
half, and the other way round; what `--fit` writes is fitted on all. Needs the labelled face collections
(FACEWRIGHT_DATA).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.optimize import minimize

from facewright import create
from facewright.data.references import open_seen
from facewright.degrade import apply, sample
from facewright.geometry.crop import align_matrix
from facewright.geometry.resample import recut
from facewright.geometry.similarity import transform_points
from facewright.metrics import psnr
from facewright.metrics.uncertainty import bootstrap
from facewright.pipelines.references import Gate, ReferenceFace, ReferenceSet, choose, together
from facewright.systems.quality.retained import retained_fraction
from facewright.systems.reference.facereference.frozen import Reference, look

from .. import common
from ..frgp.identity import reduced

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from facewright.data.references import SeenFaces

    Image = NDArray[np.uint8]
    Floats = NDArray[np.float64]
    Judge = Callable[[Sequence[Image], Floats], Floats]

SIZE = 256
DAMAGES = ("8 px", "12 px", "20 px", "severe")
COUNTS = (1, 2, 4)
MOST_ACCEPTED = 0.05  # share of strangers' references that may count, at a damage drawn from DAMAGES
RIDGE = 1e-3
_BATCH = 8


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """The damaged faces: `photo` (T,) rows of the seen faces, `damage` (T,), what FRGP made of them, and what was left.

    `landmarks` (T, 68, 2) in the crop; `truth`, `masks`, `inputs` and `blind` (T, S, S, …).
    """

    photo: NDArray[np.int64]
    damage: NDArray[np.str_]
    landmarks: Floats
    truth: Image
    masks: NDArray[np.bool_]
    inputs: Image
    blind: Image
    coarse: NDArray[np.float16]
    fine: NDArray[np.float16]
    vectors: NDArray[np.float32]
    retained: Floats


def damaged(truth: Image, damage: str, rng: np.random.Generator) -> Image:
    """A face with one of DAMAGES."""
    if damage == "severe":
        return apply(truth, sample("severe", rng, SIZE, scaled=True))
    return reduced(truth, float(damage.partition(" ")[0]))


def prepared(seen: SeenFaces, most: int, path: Path) -> Targets:
    """The targets with all that FRGP sees in them, remembered in a file."""
    names = list(Targets.__slots__)
    if path.exists():
        with np.load(path) as found:
            return Targets(*(found[name] for name in names))
    frgp, recogniser = create("frgp", pretrained=True), create("distilledface", pretrained=True)
    chosen = np.flatnonzero(seen.target >= 0)
    if most:
        chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:most])
    rng = np.random.default_rng(0)
    rows: dict[str, list[Any]] = {name: [] for name in names}
    jobs = [(int(photo), damage) for damage in DAMAGES for photo in chosen]
    for start in range(0, len(jobs), _BATCH):
        part = jobs[start : start + _BATCH]
        pairs = [seen.crops.crop(int(seen.entries[photo])) for photo, _ in part]
        inputs = np.stack([damaged(truth, damage, rng) for (truth, _), (_, damage) in zip(pairs, part)])
        looked = look(frgp, inputs)
        values = {
            "photo": [photo for photo, _ in part],
            "damage": [damage for _, damage in part],
            "landmarks": [_landmarks(seen, photo) for photo, _ in part],
            "truth": [truth for truth, _ in pairs],
            "masks": [mask for _, mask in pairs],
            "inputs": inputs,
            "blind": looked.restored,
            "coarse": looked.coarse.half().numpy(),
            "fine": looked.fine.half().numpy(),
            "vectors": recogniser.embed(recut(looked.restored, "arcface", 112)),
            "retained": [retained_fraction(estimate) for estimate in frgp.assess(inputs)],
        }
        for name in names:
            rows[name].extend(values[name])
        if start % (20 * _BATCH) == 0:
            print(f"{start} of {len(jobs)} faces seen", flush=True)
    arrays = {name: np.array(rows[name]) for name in names}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return Targets(**arrays)


def _landmarks(seen: SeenFaces, photo: int) -> Floats:
    from facewright.data.detection import five_points

    row = int(seen.crops.rows[seen.entries[photo]])
    points = np.asarray(seen.crops.collection.labels["landmarks68"][row], np.float64)
    return np.asarray(transform_points(align_matrix(five_points(points), SIZE), points))


# --- the gate


def gate_pairs(targets: Targets, seen: SeenFaces) -> tuple[Floats, Floats, NDArray[np.bool_], NDArray[np.int64]]:
    """Similarity, what was left, whether it is one person, and the target's person, of all pairs of a damaged face and
    a photo that is not of the same file."""
    vectors = np.asarray(seen.arrays["identity"], np.float32)
    similarity = targets.vectors @ vectors.T
    person = seen.people[targets.photo]
    same = person[:, None] == seen.people[None]
    other = targets.photo[:, None] != np.arange(len(vectors))[None]
    left = np.broadcast_to(targets.retained[:, None], similarity.shape)
    of = np.broadcast_to(person[:, None], similarity.shape)
    return similarity[other].astype(float), left[other], same[other], of[other]


def fit_gate(similarity: Floats, left: Floats, same: NDArray[np.bool_]) -> Gate:
    """Logistic regression in which both kinds of pair weigh alike; `least` lets `MOST_ACCEPTED` of strangers pass."""
    x = np.stack([np.ones_like(similarity), similarity, left, similarity * left], 1)
    weights = np.where(same, 0.5 / same.sum(), 0.5 / (~same).sum())
    sign = np.where(same, 1.0, -1.0)

    def loss(w: Floats) -> tuple[float, Floats]:
        margin = sign * (x @ w)
        slope = -sign * weights / (1 + np.exp(margin))
        return float(weights @ np.logaddexp(0, -margin) + RIDGE * w @ w / 2), x.T @ slope + RIDGE * w

    found = minimize(loss, np.zeros(4), jac=True, method="L-BFGS-B").x
    return Gate(*map(float, found), least=float(np.quantile((x @ found)[~same], 1 - MOST_ACCEPTED)))


def gates_by_half(targets: Targets, seen: SeenFaces) -> tuple[Gate, Gate, Gate]:
    """The gate for people of even numbers (fitted on the odd ones), for odd ones, and the one of all."""
    similarity, left, same, person = gate_pairs(targets, seen)
    halves = [fit_gate(similarity[p], left[p], same[p]) for p in (person % 2 == 1, person % 2 == 0)]
    return halves[0], halves[1], fit_gate(similarity, left, same)


# --- restoring by references


def references_of(seen: SeenFaces, photo: int, rng: np.random.Generator, *, stranger: bool = False) -> list[int]:
    """Up to four other photos of the person of a photo, or of a stranger, in a drawn order."""
    person = seen.people[photo]
    if stranger:
        person = rng.choice(np.setdiff1d(seen.people, [person]))
    others = np.flatnonzero(seen.people == person)
    return [int(i) for i in rng.permutation(others[others != photo])[: max(COUNTS)]]


class Corrector:
    """Restores targets by references, through the gate of the other half of the people or without one."""

    def __init__(self, weights: str | None, seen: SeenFaces, targets: Targets, gates: tuple[Gate, Gate]) -> None:
        self.network: Any = create("facereference", pretrained=weights or True)
        self.seen, self.targets, self.gates = seen, targets, gates
        vectors = np.asarray(seen.arrays["identity"], np.float32)
        self.faces = [self._face(i, vectors[i]) for i in range(len(vectors))]

    def _face(self, index: int, vector: NDArray[np.float32]) -> ReferenceFace:
        coarse, fine = (
            torch.from_numpy(self.seen.arrays[name][index : index + 1].astype(np.float32))
            for name in ("taps_coarse", "taps_fine")
        )
        return ReferenceFace(str(index), Reference(coarse, fine), vector, 1.0)

    def __call__(self, number: int, references: Sequence[int], *, gated: bool = True) -> tuple[Image, int]:
        """A corrected face, and how many references counted."""
        targets = self.targets
        faces: tuple[ReferenceFace, ...] = tuple(self.faces[i] for i in references)
        if gated:
            gate = self.gates[int(self.seen.people[targets.photo[number]]) % 2]
            found = ReferenceSet((faces,))
            faces = choose(found, targets.vectors[number], float(targets.retained[number]), gate).used
        one = slice(number, number + 1)
        if not faces:
            return targets.blind[number], 0
        maps = (torch.from_numpy(each[one].astype(np.float32)) for each in (targets.coarse, targets.fine))
        return self.network.corrected(targets.blind[one], *maps, together(faces))[0], len(faces)


# --- judges


def judges() -> dict[str, Judge]:
    """Embeddings (N, D) of crops with their landmarks, by every judge that is here."""
    from ..frgp.identity import judges as ours

    found: dict[str, Judge] = {
        name: lambda faces, landmarks, judge=judge: np.asarray(judge(list(faces)), np.float64)  # type: ignore[misc]
        for name, judge in ours().items()
    }
    try:
        import dlib
        import face_recognition_models
    except ImportError:
        return found
    network = dlib.face_recognition_model_v1(face_recognition_models.face_recognition_model_location())

    def by_dlib(faces: Sequence[Image], landmarks: Floats) -> Floats:
        rows = []
        for face, points in zip(faces, landmarks):
            places = [dlib.point(round(float(x)), round(float(y))) for x, y in points]
            shape = dlib.full_object_detection(dlib.rectangle(0, 0, SIZE, SIZE), places)
            chip = dlib.get_face_chip(np.ascontiguousarray(face), shape, size=150, padding=0.25)
            rows.append(np.array(network.compute_face_descriptor(chip)))
        return np.stack(rows)

    return found | {"dlib": by_dlib}


def cosine(a: Floats, b: Floats, mean: Floats) -> Floats:
    a, b = a - mean, b - mean
    return np.asarray((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


# --- the page


def main() -> None:
    parser = common.options(__doc__, quick="thirty damaged faces", arms=False)
    parser.add_argument("--work", type=Path, default=Path("runs/reproductions"), help="folder of what was seen")
    parser.add_argument("--weights", help="weights other than the embedded ones")
    parser.add_argument("--fit", type=Path, help="write the gate to this file")
    options = parser.parse_args()
    common.begin(options)
    seen = open_seen("val")
    most = 8 if options.quick else 0
    targets = prepared(seen, most, options.work / f"facereference{'-quick' if most else ''}.npz")
    even, odd, every = gates_by_half(targets, seen)
    print(every)
    if options.fit:
        options.fit.write_text(json.dumps({k: round(v, 4) for k, v in asdict(every).items()}, indent=2) + "\n")
    corrector = Corrector(options.weights, seen, targets, (even, odd))
    arms, used, wanted = corrected(corrector)
    lines = [
        "# Restoring by other photos of the person",
        "",
        "Made by `python -m reproductions.facereference.run`: validation people of LFW with at least two photos,",
        "damaged faces restored blindly (FRGP, 256 px) and corrected by up to four references. Cosine to the true face,",
        "of embeddings less their mean; changes against the blind restoration, 95 % bootstrap intervals over people.",
        "`distilledface` was in the loss, `vitfiqa` has the same teacher, `dlib` is unrelated to both.",
        "",
        *gate_table(targets, seen, used),
        *identity_tables(targets, seen, arms, wanted),
        *psnr_table(targets, seen, arms),
    ]
    given = " ".join(["--quick"] * options.quick)
    common.finish(options, "references", lines, ["facereference", "frgp", "distilledface", "vitfiqa"], given=given)


ARMS = ("1", "2", "4", "all", "all, no gate", "stranger", "stranger, no gate")


def corrected(corrector: Corrector) -> tuple[dict[str, Image], dict[str, NDArray[np.int64]], dict[str, Any]]:
    """Every target in every arm; how many references counted; and how many there were."""
    targets = corrector.targets
    arms: dict[str, list[Image]] = {name: [] for name in ARMS}
    used: dict[str, list[int]] = {name: [] for name in ARMS}
    there = []
    for number, photo in enumerate(targets.photo):
        rng = np.random.default_rng((3, int(photo)))  # the same references at every damage
        own = references_of(corrector.seen, int(photo), rng)
        other = references_of(corrector.seen, int(photo), rng, stranger=True)
        there.append(len(own))
        for name in ARMS:
            chosen = own[: int(name)] if name.isdigit() else own if name.startswith("all") else other
            face, count = corrector(number, chosen, gated="no gate" not in name)
            arms[name].append(face)
            used[name].append(count)
    return (
        {k: np.stack(v) for k, v in arms.items()},
        {k: np.array(v) for k, v in used.items()},
        {"there": np.array(there)},
    )


def by_person(values: Floats, people: NDArray[np.int64]) -> Floats:
    """Means over the photos of each person."""
    return np.array([values[people == person].mean() for person in np.unique(people)])


def gate_table(targets: Targets, seen: SeenFaces, used: dict[str, NDArray[np.int64]]) -> list[str]:
    """How often references count."""
    rows = []
    for damage in DAMAGES:
        here = targets.damage == damage
        shares = [f"{100 * float((used[arm][here] > 0).mean()):.0f} %" for arm in ("1", "all", "stranger")]
        rows.append([damage, str(int(here.sum())), str(len(np.unique(seen.people[targets.photo[here]]))), *shares])
    header = ["damage", "faces", "people", "one reference counts", "any of all counts", "a stranger's count"]
    return ["## Whose references count", "", *common.table(header, rows), ""]


def identity_tables(targets: Targets, seen: SeenFaces, arms: dict[str, Image], wanted: dict[str, Any]) -> list[str]:
    people = seen.people[targets.photo]
    lines = []
    for name, judge in judges().items():
        truth = judge(targets.truth, targets.landmarks)
        mean = truth.mean(0)
        similar = {
            arm: cosine(judge(faces, targets.landmarks), truth, mean)
            for arm, faces in {"damaged": targets.inputs, "blind": targets.blind, **arms}.items()
        }
        rows = []
        for damage in DAMAGES:
            here = targets.damage == damage
            for arm in ARMS:
                # one, two and four are compared on the same people: those who have four
                kept = here & (wanted["there"] >= max(COUNTS)) if arm.isdigit() else here
                if not kept.any():
                    continue
                change = by_person((similar[arm] - similar["blind"])[kept], people[kept])
                cells = [f"{similar[k][kept].mean():.3f}" for k in ("damaged", "blind", arm)]
                rows.append([damage, arm, str(len(change)), *cells, bootstrap(change).text(3, sign=True)])
        header = ["damage", "references", "people", "damaged", "blind", "corrected", "change"]
        lines += [f"## Identity, judged by {name}", "", *common.table(header, rows), ""]
    return lines


def psnr_table(targets: Targets, seen: SeenFaces, arms: dict[str, Image]) -> list[str]:
    people = seen.people[targets.photo]

    def against(faces: Image) -> Floats:
        rows = zip(faces, targets.truth, targets.masks)
        return np.array([psnr(face, truth, data_range=255, mask=mask) for face, truth, mask in rows])

    blind = against(targets.blind)
    changes = {arm: against(arms[arm]) - blind for arm in ("all", "stranger")}
    rows = []
    for damage in DAMAGES:
        here = targets.damage == damage
        cells = [bootstrap(by_person(change[here], people[here])).text(2, sign=True) for change in changes.values()]
        rows.append([damage, f"{blind[here].mean():.2f}", *cells])
    return ["## PSNR (dB)", "", *common.table(["damage", "blind", "change by references", "by a stranger's"], rows), ""]


if __name__ == "__main__":
    main()
