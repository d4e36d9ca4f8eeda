"""Whose photos count as references: the gate between a damaged face and a clean photo, fitted and measured.

    python -m reproductions.references.run --fit src/facewright/pipelines/references.json --write

Validation people of LFW. Photos of them are reduced until the eyes are 8, 12 or 20 pixels apart, or damaged by the
`severe` preset, restored blindly by FRGP (256 px), and compared with clean photos of the same person and of others by
the embedded recogniser. The gate is a logistic model of the cosine and of how much the damage has left; it is fitted
on half of the people and measured on the other half, and the other way round. What `--fit` writes is fitted on all.
Needs the labelled face collections (FACEWRIGHT_DATA). Minutes of one core; what was seen is kept in `--work`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize

from facewright import create
from facewright.data.restoration import open_crops
from facewright.degrade import apply, sample
from facewright.geometry.resample import recut
from facewright.metrics.uncertainty import bootstrap
from facewright.pipelines.references import Gate
from facewright.systems.base import batches
from facewright.systems.quality.retained import retained_fraction

from .. import common
from ..frgp.identity import reduced

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from facewright.data.restoration import CropCache

    Image = NDArray[np.uint8]
    Floats = NDArray[np.float64]

SIZE = 256
DAMAGES = ("8 px", "12 px", "20 px", "severe")
PHOTOS = 4  # of a person at most
MOST_ACCEPTED = 0.05  # share of strangers that may count
RIDGE = 1e-3
_BATCH = 8


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Clean photos: their `person` (P,) and embedding `clean` (P, D); and damaged ones, for each damage and the first
    photo of each person: its row `photo` (T,), the `damage` (T,), the embedding `blind` (T, D) when restored without
    references, and how much was left, `retained` (T,)."""

    person: NDArray[np.int64]
    clean: NDArray[np.float32]
    photo: NDArray[np.int64]
    damage: NDArray[np.str_]
    blind: NDArray[np.float32]
    retained: Floats


def chosen(crops: CropCache) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Photos of people with at least two, at most `PHOTOS` of each, and the number of their person."""
    rng = np.random.default_rng(0)
    subjects = np.asarray(crops.collection.labels["subject"])[crops.rows].astype(str)
    names, counts = np.unique(subjects, return_counts=True)
    own = [rng.permutation(np.flatnonzero(subjects == name))[:PHOTOS] for name in names[counts >= 2]]
    return np.concatenate(own), np.repeat(np.arange(len(own)), [len(part) for part in own])


def damaged(truth: Image, damage: str, rng: np.random.Generator) -> Image:
    """A face with one of DAMAGES."""
    if damage == "severe":
        return apply(truth, sample("severe", rng, SIZE, scaled=True))
    return reduced(truth, float(damage.partition(" ")[0]))


def looked(path: Path, most: int) -> Seen:
    """What the embedded networks see, remembered in a file; of `most` people, 0 for all."""
    if path.exists():
        with np.load(path) as found:
            return Seen(*(found[name] for name in Seen.__slots__))
    frgp: Any = create("frgp", pretrained=True)
    recogniser: Any = create("distilledface", pretrained=True)

    def vectors(faces: Image) -> NDArray[np.float32]:
        found: NDArray[np.float32] = recogniser.embed(recut(faces, "arcface", 112))
        return found

    crops = open_crops("lfw", "val", SIZE)
    entries, person = chosen(crops)
    if most:
        entries, person = entries[person < most], person[person < most]
    first = np.unique(person, return_index=True)[1]
    clean = np.concatenate(
        [vectors(np.stack([crops.crop(int(i))[0] for i in part])) for part in batches(list(entries), _BATCH)]
    )
    rng = np.random.default_rng(0)
    photo: list[int] = []
    damage: list[str] = []
    blind, retained = [], []
    for name in DAMAGES:
        for part in batches(list(first), _BATCH):
            bad = np.stack([damaged(crops.crop(int(entries[i]))[0], name, rng) for i in part])
            restored, estimates = frgp.restore_with_estimate(bad)
            blind.append(vectors(restored))
            retained += [retained_fraction(estimate) for estimate in estimates]
            photo += [int(i) for i in part]
            damage += [name] * len(part)
        print(f"{name}: {len(first)} faces seen", flush=True)
    seen = Seen(person, clean, np.array(photo), np.array(damage), np.concatenate(blind), np.array(retained))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: getattr(seen, name) for name in Seen.__slots__})
    return seen


@dataclass(frozen=True, slots=True, eq=False)
class Comparisons:
    """Pairs of a damaged face and a clean photo of another file: the cosine, what was left, whether they are of one
    person, the person of the damaged face, and the damage; all (N,)."""

    similarity: Floats
    retained: Floats
    same: NDArray[np.bool_]
    person: NDArray[np.int64]
    damage: NDArray[np.str_]

    def only(self, kept: NDArray[np.bool_]) -> Comparisons:
        return Comparisons(*(getattr(self, name)[kept] for name in self.__slots__))


def comparisons(seen: Seen) -> Comparisons:
    similarity = seen.blind @ seen.clean.T
    person = seen.person[seen.photo]
    other = seen.photo[:, None] != np.arange(len(seen.clean))[None]
    values = seen.retained, person, seen.damage
    left, of, damage = (np.broadcast_to(value[:, None], similarity.shape)[other] for value in values)
    same = (person[:, None] == seen.person[None])[other]
    return Comparisons(similarity[other].astype(float), left, same, of, damage)


def fit_gate(pairs: Comparisons) -> Gate:
    """Logistic regression in which both kinds of pair weigh alike; `least` lets `MOST_ACCEPTED` of strangers pass."""
    s, left = pairs.similarity, pairs.retained
    x = np.stack([np.ones_like(s), s, left, s * left], 1)
    weights = np.where(pairs.same, 0.5 / pairs.same.sum(), 0.5 / (~pairs.same).sum())
    sign = np.where(pairs.same, 1.0, -1.0)

    def loss(w: Floats) -> tuple[float, Floats]:
        margin = sign * (x @ w)
        slope = -sign * weights / (1 + np.exp(margin))
        return float(weights @ np.logaddexp(0, -margin) + RIDGE * w @ w / 2), x.T @ slope + RIDGE * w

    found = minimize(loss, np.zeros(4), jac=True, method="L-BFGS-B").x
    bias, similarity, retained, product = map(float, found)
    least = float(np.quantile((x @ found)[~pairs.same], 1 - MOST_ACCEPTED))
    return Gate(bias, similarity, retained, product, least)


def accepted(pairs: Comparisons, gate: Gate) -> NDArray[np.bool_]:
    """Which pairs count as one person."""
    slope = gate.similarity + gate.product * pairs.retained
    return np.asarray(gate.bias + slope * pairs.similarity + gate.retained * pairs.retained >= gate.least)


def by_person(values: NDArray[np.bool_], people: NDArray[np.int64]) -> Floats:
    """Shares for each person."""
    return np.array([values[people == person].mean() for person in np.unique(people)])


def main() -> None:
    parser = common.options(__doc__, quick="ten people", arms=False)
    parser.add_argument("--work", type=Path, default=Path("runs/reproductions"), help="folder of what was seen")
    parser.add_argument("--fit", type=Path, help="write the gate to this file")
    options = parser.parse_args()
    common.begin(options)
    most = 10 if options.quick else 0
    seen = looked(options.work / f"references{'-quick' if most else ''}.npz", most)
    pairs = comparisons(seen)
    every = fit_gate(pairs)
    if options.fit:
        options.fit.write_text(json.dumps({k: round(v, 4) for k, v in asdict(every).items()}, indent=2) + "\n")
    odd = pairs.person % 2 == 1
    halves = [(pairs.only(~part), fit_gate(pairs.only(part))) for part in (odd, ~odd)]
    rows = []
    for damage in DAMAGES:
        shares: dict[bool, list[Floats]] = {True: [], False: []}
        likeness: dict[bool, list[Floats]] = {True: [], False: []}
        for judged, gate in halves:
            here = judged.only(judged.damage == damage)
            for same in (True, False):
                kind = here.only(here.same == same)
                shares[same].append(by_person(accepted(kind, gate), kind.person))
                likeness[same].append(kind.similarity)
        left = seen.retained[seen.damage == damage].mean()
        cells = [f"{np.concatenate(likeness[same]).mean():.2f}" for same in (True, False)]
        rates = [bootstrap(100 * np.concatenate(shares[same])).text(0) for same in (True, False)]
        rows.append([damage, f"{100 * left:.0f}", *cells, *rates])
    people = len(np.unique(seen.person))
    lines = [
        "# Whose photos count as references",
        "",
        f"Made by `python -m reproductions.references.run`: {people} validation people of LFW with at least two",
        "photos. A photo of each is damaged and restored blindly (FRGP, 256 px); the embedded recogniser compares it",
        "with clean photos of the same person and of all others. *Left*: estimated quality after the damage. *Counts*:",
        "the share in percent that passes the gate, which is set to let "
        f"{100 * MOST_ACCEPTED:.0f} % of strangers pass; fitted",
        "on one half of the people, measured on the other; 95 % bootstrap intervals over people.",
        "",
        *common.table(["damage", "left", "cosine, same", "cosine, strangers", "same counts", "stranger counts"], rows),
        "",
        "The shipped gate, fitted on all of them, adds up",
        f"{every.bias:.2f} + ({every.similarity:.2f} + {every.product:.2f} · left) · cosine "
        f"{every.retained:+.2f} · left",
        f"(*left* from 0 to 1) and lets pass what is at least {every.least:.2f}.",
    ]
    given = "--quick" if options.quick else ""
    common.finish(options, "references", lines, ["frgp", "distilledface"], given=given)


if __name__ == "__main__":
    main()
