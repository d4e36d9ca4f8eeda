"""When is a face good: fit and judge the model behind "already good" (`facewright.systems.quality.sharpness`).

    python -m reproductions.gate.fit FACES.npz [--write] [--fit]

FACES.npz is what `python -m facewright.data.highres` packs. Sharp faces are reduced to sizes from 64 to 512 px,
damaged, and measured against their undamaged selves: a face has kept its detail when the share of its fine detail
(Laplacian energy that agrees with the truth) is above 0.6, and has lost it at 0.4 or less; between, either answer will
do. The model learns from training people and is judged on validation people.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression

from facewright.data.highres import open_packed
from facewright.systems.quality import sharpness
from facewright.systems.quality.sharpness import MOST_SIDE, SharpnessModel, expanded, signals

from .. import common

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from facewright.data.highres import PackedFaces

    Picture = NDArray[np.uint8]

KEPT, LOST = 0.6, 0.4
KINDS = ("clean", "blur", "shrunk", "noise", "jpeg", "grain", "blur and noise", "shrunk and jpeg")
FILTERS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4, cv2.INTER_AREA)


def damaged(image: Picture, kind: str, rng: Generator) -> Picture:
    """A copy of an (S, S, 3) picture with one kind of damage of random strength."""
    out: NDArray[Any] = image.astype(np.float32)
    if "blur" in kind:
        out = cv2.GaussianBlur(out, (0, 0), float(np.exp(rng.uniform(np.log(0.4), np.log(4)))))
    if "shrunk" in kind:
        side = max(8, round(len(image) / float(np.exp(rng.uniform(np.log(1.2), np.log(6))))))
        small = cv2.resize(out, (side, side), interpolation=cv2.INTER_AREA)
        out = cv2.resize(small, image.shape[1::-1], interpolation=int(rng.choice(FILTERS)))
    if "noise" in kind:
        out = out + rng.normal(0, rng.uniform(2, 20), out.shape)
    if "grain" in kind:
        noise = cv2.GaussianBlur(rng.standard_normal(out.shape[:2]), (0, 0), rng.uniform(0.4, 1.2))
        out = out + (noise / noise.std() * rng.uniform(2, 15))[..., None]
    pixels = np.rint(out).clip(0, 255).astype(np.uint8)
    if "jpeg" in kind:
        _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 92))])
        pixels = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return pixels


def retained_detail(picture: Picture, truth: Picture) -> float:
    """Which share of the energy of the truth's Laplacian is in a picture and agrees with the truth, 0 to 1."""
    maps = []
    for image in (picture, truth):
        luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        rows, columns = (slice(*(round(v * len(luma)) for v in (s.start, s.stop))) for s in sharpness.FACE)
        maps.append(cv2.Laplacian(luma, cv2.CV_32F)[rows, columns])
    there, true = maps
    agreement = float((there * true).sum())
    if agreement <= 0:
        return 0.0
    share = min(1.0, agreement / float((true**2).sum()))
    likeness = agreement**2 / float((there**2).sum() * (true**2).sum())
    return share * share * likeness if likeness < 1 else share * share


def samples(faces: PackedFaces, count: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64], list[tuple]]:
    """Signals (N, 8), kept shares (N,), and kind and side of each."""
    rng = np.random.default_rng(seed)
    rows, kept, what = [], [], []
    for number in range(count):
        image, _ = faces.face(int(rng.integers(len(faces))))
        side = MOST_SIDE if rng.random() < 0.3 else int(np.exp(rng.uniform(np.log(64), np.log(MOST_SIDE))))
        truth: Any = image if side == MOST_SIDE else cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        kind = KINDS[number % len(KINDS)]
        picture: Any = damaged(truth, kind, rng)
        rows.append(signals(picture))
        kept.append(retained_detail(picture, truth))
        what.append((kind, side))
    return np.array(rows), np.array(kept), what


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
    parser.add_argument("--fit", action="store_true", help="fit anew and write the model into the package")
    parser.add_argument("--train", type=int, default=6000)
    parser.add_argument("--judge", type=int, default=3000)
    options = parser.parse_args()
    common.begin(options)
    target = Path(sharpness.__file__).with_name(sharpness.WEIGHTS_FILE)
    if options.fit:
        rows, kept, _ = samples(open_packed(options.faces, "train"), options.train, seed=0)
        target.write_text(fit(rows, kept).to_json(), encoding="utf-8")
    model = SharpnessModel.from_json(target.read_text(encoding="utf-8"))
    page = report(model, *samples(open_packed(options.faces, "val"), options.judge, seed=1))
    head = "# When a face is already good\n\n" + (__doc__ or "").partition("\n\n")[2].rstrip() + "\n\n"
    common.finish(options, "gate", head + page, given="FACES.npz")


if __name__ == "__main__":
    main()
