"""When is a face good: fit and judge the model behind "already good" (`facewright.systems.quality.sharpness`).

    python -m reproductions.gate.fit FACES.npz ROOT FOUND [--write] [--fit]

FACES.npz is what `python -m facewright.data.highres` packs of the photos in ROOT and the faces in FOUND. The photos of
its sharp faces are taken as they are or reduced to faces of 64 px and more, damaged, stored as PNG or as JPEG of good
quality as photos are, and measured against their undamaged selves: a face has kept its detail when the share of its
fine detail (Laplacian energy that agrees with the truth) is above 0.6, and has lost it at 0.4 or less; between, either
answer will do. The model learns from training people and is judged on validation people.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression

from facewright.data.highres import open_packed
from facewright.data.people import FoundFaces, read_rgb
from facewright.degrade.printing import add_grain, screen
from facewright.degrade.record import Grain, Halftone
from facewright.face import Face
from facewright.geometry.crop import CropSpec
from facewright.systems.quality import sharpness
from facewright.systems.quality.sharpness import MOST_SIDE, SharpnessModel, expanded, native_part, signals

from .. import common

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from facewright.data.split import Split

    Picture = NDArray[np.uint8]

KEPT, LOST = 0.6, 0.4
KINDS = (
    "clean",
    "blur",
    "shrunk",
    "noise",
    "jpeg",
    "fine jpeg",
    "grain",
    "screen",
    "blur and noise",
    "blur and grain",
    "sharpened blur",
    "shrunk and jpeg",
    "shrunk, grain and jpeg",
    "shrunk, noise and jpeg",
)
PER_PHOTO = 4
STORED_AS_JPEG = 0.6  # of the photos whose damage is something else
FILTERS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4, cv2.INTER_AREA)


def damaged(image: Picture, kind: str, rng: Generator) -> Picture:
    """A copy of an (H, W, 3) picture with one kind of damage of random strength."""
    out: NDArray[Any] = image.astype(np.float32)
    if "blur" in kind:
        out = cv2.GaussianBlur(out, (0, 0), float(np.exp(rng.uniform(np.log(0.4), np.log(4)))))
    if "shrunk" in kind:
        by = float(np.exp(rng.uniform(np.log(1.2), np.log(6))))
        small = reduced(out, by)
        out = cv2.resize(small, image.shape[1::-1], interpolation=int(rng.choice(FILTERS)))
    if "screen" in kind:
        dots = Halftone(rng.uniform(2.5, 6), rng.uniform(0, np.pi / 2), rng.uniform(0.2, 0.9), bool(rng.random() < 0.5))
        out = 255 * screen((out / 255).astype(np.float32), dots)
    if "sharpened" in kind:
        out += rng.uniform(0.3, 1.5) * (out - cv2.GaussianBlur(out, (0, 0), rng.uniform(0.8, 2)))
    if "noise" in kind:
        out = out + rng.normal(0, rng.uniform(2, 20), out.shape)
    if "grain" in kind:
        grain = Grain(rng.uniform(2, 18), rng.uniform(0.4, 1.6), int(rng.integers(1 << 31)))
        out = 255 * add_grain((out / 255).clip(0, 1).astype(np.float32), grain)
    pixels = np.rint(out).clip(0, 255).astype(np.uint8)
    if "jpeg" in kind:
        pixels = compressed(pixels, int(rng.integers(85, 99) if "fine" in kind else rng.integers(15, 92)))
    elif rng.random() < STORED_AS_JPEG:
        pixels = compressed(pixels, int(rng.integers(88, 99)))
    return pixels


def compressed(picture: Picture, quality: int) -> Picture:
    """What is left of a picture in a JPEG file."""
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    stored: Any = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(stored[..., ::-1], np.uint8)


def reduced(picture: NDArray[Any], by: float) -> NDArray[Any]:
    """A picture whose sides are shorter by a factor, 1 or more."""
    height, width = (max(8, round(side / by)) for side in picture.shape[:2])
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA))


def retained_detail(picture: Picture, truth: Picture) -> float:
    """Which share of the energy of the truth's Laplacian is in a picture and agrees with the truth, 0 to 1."""
    maps = []
    for image in (picture, truth):
        luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        maps.append(face_of(cv2.Laplacian(luma, cv2.CV_32F)))
    there, true = maps
    agreement = float((there * true).sum())
    if agreement <= 0:
        return 0.0
    share = min(1.0, agreement / float((true**2).sum()))
    likeness = agreement**2 / float((there**2).sum() * (true**2).sum())
    return share * share * likeness if likeness < 1 else share * share


def face_of(picture: NDArray[Any]) -> NDArray[Any]:
    """The part of a crop that shows the face."""
    rows, columns = (slice(*(round(v * len(picture)) for v in (s.start, s.stop))) for s in sharpness.FACE)
    return picture[rows, columns]


def photos_of(faces: Path, root: Path, found: Path, split: Split) -> list[tuple[Path, NDArray[np.float32]]]:
    """The photos of the packed faces of one split, with five points (5, 2) each."""
    known: dict[str, dict[str, NDArray[np.float32]]] = {}
    photos = []
    for name in open_packed(faces, split).names:
        folder, _, file = str(name).partition("/")
        if folder not in known:
            of_set = FoundFaces.load(found / f"{folder}.npz")
            known[folder] = dict(zip(map(str, of_set.names), of_set.points5))
        photos.append((root / folder / file, known[folder][file]))
    return photos


def samples(
    photos: list[tuple[Path, NDArray[np.float32]]], count: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[tuple[str, int]]]:
    """Signals (N, 13), kept shares (N,), and kind and side of each."""
    rng = np.random.default_rng(seed)
    rows, kept, what = [], [], []
    for number in range(count):
        if number % PER_PHOTO == 0:
            path, points = photos[int(rng.integers(len(photos)))]
            photo = read_rgb(path)
            most = MOST_SIDE / CropSpec.aligned(MOST_SIDE).cut(photo, face_at(points)).scale
        side = most if rng.random() < 0.3 else float(np.exp(rng.uniform(np.log(64), np.log(most))))
        truth = reduced(photo, most / side) if side < most else photo
        face = face_at(points * (np.array(truth.shape[1::-1]) / photo.shape[1::-1]).astype(np.float32))
        kind = KINDS[number // PER_PHOTO % len(KINDS)]
        picture = damaged(truth, kind, rng)
        spec = CropSpec.aligned(min(round(side), MOST_SIDE))
        there, true = spec.cut(picture, face), spec.cut(truth, face)
        rows.append(signals(there.image, native_part(picture, there.matrix, spec.size)))
        kept.append(retained_detail(there.image, true.image))
        what.append((kind, spec.size))
    return np.array(rows), np.array(kept), what


def face_at(points: NDArray[np.float32]) -> Face:
    """A face of five points; its box does not matter to an aligned crop."""
    return Face(np.concatenate([points.min(0), points.max(0)]), 1.0, points)


def fit(rows: NDArray[np.float64], kept: NDArray[np.float64]) -> SharpnessModel:
    """The logistic model of what clearly kept or lost its detail."""
    clear = (kept <= LOST) | (kept >= KEPT)
    wide = expanded(rows[clear])
    mean, spread = wide.mean(0), wide.std(0) + 1e-9
    model = LogisticRegression(C=1.0, max_iter=4000, class_weight="balanced")
    model.fit((wide - mean) / spread, kept[clear] >= KEPT)
    return SharpnessModel(mean, spread, model.coef_[0], float(model.intercept_[0]))


def report(model: SharpnessModel, rows: NDArray[np.float64], kept: NDArray[np.float64], what: list[tuple]) -> str:
    """Error rates by kind and size, and a reliability table, as Markdown."""
    said = model(rows)
    lost, good = kept <= LOST, kept >= KEPT
    lines = [
        "| damage | lost their detail: called good | kept it: called damaged |",
        "| --- | ---: | ---: |",
    ]

    def row(name: str, chosen: NDArray[np.bool_]) -> str:
        wrong, missed = said[chosen & lost] >= sharpness.SHARP, said[chosen & good] < sharpness.SHARP
        shares = [f"{100 * e.mean():.1f} % of {len(e)}" if len(e) else "–" for e in (wrong, missed)]
        return f"| {name} | {shares[0]} | {shares[1]} |"

    kinds, sides = np.array([k for k, _ in what]), np.array([s for _, s in what])
    lines += [row(kind, kinds == kind) for kind in KINDS]
    for low, high in ((64, 128), (128, 256), (256, 511), (511, 513)):
        lines.append(row(f"sides {low} to {min(high, 512)} px", (sides >= low) & (sides < high)))
    lines.append(row("**all**", np.ones(len(said), bool)))
    lines += ["", "| said probability | cases | kept their detail |", "| --- | ---: | ---: |"]
    clear = lost | good
    for least in np.arange(0, 1, 0.1):
        chosen = clear & (said >= least) & (said < least + 0.1 + 1e-9)
        if chosen.any():
            lines.append(f"| {least:.1f}–{least + 0.1:.1f} | {chosen.sum()} | {100 * good[chosen].mean():.0f} % |")
    return "\n".join(lines)


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False)
    parser.add_argument("faces", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("found", type=Path)
    parser.add_argument("--fit", action="store_true", help="fit anew and write the model into the package")
    parser.add_argument("--train", type=int, default=6000)
    parser.add_argument("--judge", type=int, default=3000)
    options = parser.parse_args()
    common.begin(options)
    of = partial(photos_of, options.faces, options.root, options.found)
    target = Path(sharpness.__file__).with_name(sharpness.WEIGHTS_FILE)
    if options.fit:
        rows, kept, _ = samples(of("train"), options.train, seed=0)
        target.write_text(fit(rows, kept).to_json(), encoding="utf-8")
    model = SharpnessModel.from_json(target.read_text(encoding="utf-8"))
    page = report(model, *samples(of("val"), options.judge, seed=1))
    head = "# When a face is already good\n\n" + (__doc__ or "").partition("\n\n")[2].rstrip() + "\n\n"
    common.finish(options, "gate", head + page, given="FACES.npz ROOT FOUND")


if __name__ == "__main__":
    main()
