"""How good the embedded restorer is on people it has never seen: numbers, intervals, and a sheet to look at.

    python -m reproductions.frgp.evaluate --faces 300 --write --pictures local/frgp

Needs the labelled face collections (FACEWRIGHT_DATA). Faces: the validation split (no person of it was trained on).
The sheet shows real people, so it is written to a folder of your own and never into the documentation.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facewright import create
from facewright.data.restoration import RestorationPairs
from facewright.degrade import PRESETS, MotionRange, Preset, apply, sample
from facewright.metrics import psnr, ssim
from facewright.metrics.uncertainty import bootstrap
from facewright.pipelines.sheets import grid
from facewright.weights.measure import record

from .. import common

if TYPE_CHECKING:
    from collections.abc import Callable

    from facewright.data.split import Split

Image = NDArray[np.uint8]
SETTINGS = {
    "default (vqfr)": {"vqfr": 1.0},
    "default, scaled to 256 px": {"vqfr@scaled": 1.0},
    "small faces": {"small": 1.0},
    "severe": {"severe": 1.0},
    "mild": {"mild": 1.0},
    "small faces, any filter (far)": {"far": 1.0},
    "any of the damages (mixed)": {"mixed": 1.0},
}
BATCH = 16
Pairs = list[tuple[Image, Image, NDArray[np.bool_]]]


def only(name: str, **damage: Any) -> Preset:
    """A preset that does one thing."""
    return replace(PRESETS["clean"], name=name, **damage)


ALONE = (
    only("noise, sigma 10", noise=(10, 10), p_noise=1),
    only("noise, sigma 25", noise=(25, 25), p_noise=1),
    only("blur, sigma 2 px", sigma=(2, 2), p_blur=1, p_iso=1),
    only("blur, sigma 5 px", sigma=(5, 5), p_blur=1, p_iso=1),
    only("motion blur, 15 px", motion=MotionRange(1, (15, 15)), p_blur=1),
    only("JPEG, quality 30", jpeg=(30, 30), p_jpeg=1),
    only("JPEG, quality 10", jpeg=(10, 10), p_jpeg=1),
    only("a quarter of the size", down=(4, 4), p_down=1, shrink_by=("area",), enlarge_by=("cubic",)),
    only("an eighth of the size", down=(8, 8), p_down=1, shrink_by=("area",), enlarge_by=("cubic",)),
)


@dataclass(frozen=True, slots=True)
class Scores:
    """Per-face PSNR (dB) and SSIM of one method."""

    psnr: NDArray[np.float64]
    ssim: NDArray[np.float64]


def classical(image: Image, strength: float, amount: float, sigma: float) -> Image:
    """Non-local means, then an unsharp mask."""
    out: Any = image
    if strength > 0:
        out = cv2.fastNlMeansDenoisingColored(image, None, strength, strength, 5, 15)
    soft = cv2.GaussianBlur(out, (0, 0), sigma).astype(np.float32)
    return np.clip(out + amount * (out.astype(np.float32) - soft) + 0.5, 0, 255).astype(np.uint8)


def tune_classical(pairs: Pairs) -> tuple[float, float, float]:
    """The setting of `classical` with the best mean PSNR on training faces."""
    best, setting = -np.inf, (0.0, 0.0, 1.0)
    for strength in (0.0, 3.0, 6.0, 10.0):
        for amount, sigma in ((0.0, 1.0), (0.3, 1.0), (0.3, 3.0), (0.6, 2.0), (1.0, 3.0)):
            score = np.mean(
                [psnr(classical(a, strength, amount, sigma), b, data_range=255, mask=m) for a, b, m in pairs]
            )
            if score > best:
                best, setting = float(score), (strength, amount, sigma)
    return setting


def load(split: Split, presets: dict[str, float], count: int, collection: Any) -> Pairs:
    """`count` pairs of one collection: degraded, true, validity mask."""
    data = RestorationPairs(split, 77, collections={collection: 1.0}, presets=presets, jitter=0.0, flip=False)
    items = (data[i] for i in range(count))
    return [(i["lq"].numpy(), i["hq"].numpy(), i["mask"][0].numpy()) for i in items]


def really_damaged(pairs: Pairs) -> Pairs:
    """Without the pairs that a mild draw left as they were; their PSNR is infinite."""
    return [pair for pair in pairs if (pair[0] != pair[1]).any()]


def damaged_by(preset: Preset, pairs: Pairs) -> Pairs:
    """The same true faces with another damage; the same at every call."""
    rng = np.random.default_rng(7)
    return [(apply(truth, sample(preset, rng, truth.shape[0])), truth, mask) for _, truth, mask in pairs]


def score(outputs: list[Image], pairs: Pairs) -> Scores:
    """Masked PSNR and SSIM of outputs against the true faces."""
    return Scores(
        np.array([psnr(o, truth, data_range=255, mask=mask) for o, (_, truth, mask) in zip(outputs, pairs)]),
        np.array([ssim(o, truth, data_range=255, mask=mask) for o, (_, truth, mask) in zip(outputs, pairs)]),
    )


def in_batches(restore: Callable[[Image], Image], images: list[Image]) -> list[Image]:
    """Run a restorer over images in batches."""
    runs = [restore(np.stack(images[i : i + BATCH])) for i in range(0, len(images), BATCH)]
    return [image for run in runs for image in run]


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False, pictures="the sheet of 20 faces")
    parser.add_argument("--faces", type=int, default=300, help="validation faces per collection and setting")
    parser.add_argument("--weights", help="weights other than the embedded ones")
    parser.add_argument("--numbers", type=Path, help="JSON file for the numbers")
    options = parser.parse_args()
    common.begin(options)
    start = time.perf_counter()
    model: Any = create("frgp", pretrained=options.weights or True)
    setting = tune_classical(load("train", SETTINGS["default (vqfr)"], 40, "lfw"))
    rows, numbers = [], {}
    for name, presets in SETTINGS.items():
        for collection in ("lfw", "utkface"):
            pairs = really_damaged(load("val", presets, options.faces, collection))
            low = [p[0] for p in pairs]
            given = score(low, pairs)
            ours = score(in_batches(model.restore, low), pairs)
            plain = score([classical(x, *setting) for x in low[:100]], pairs[:100])
            worse = float(np.mean(ours.psnr < given.psnr - 0.1))
            rows.append(
                f"| {name} | {collection} | {given.psnr.mean():.2f} / {given.ssim.mean():.3f} | "
                f"{bootstrap(ours.psnr - given.psnr).text(2, sign=True)} | "
                f"{bootstrap(ours.ssim - given.ssim).text(3, sign=True)} | "
                f"{(plain.psnr - given.psnr[:100]).mean():+.2f} / {(plain.ssim - given.ssim[:100]).mean():+.3f} | "
                f"{100 * worse:.1f} % |"
            )
            print(rows[-1], flush=True)
            key = f"{name}/{collection}"
            numbers[f"{key}/psnr_gain"] = float((ours.psnr - given.psnr).mean())
            numbers[f"{key}/ssim_gain"] = float((ours.ssim - given.ssim).mean())
            numbers[f"{key}/worse"] = worse
    clean, half = {}, max(1, options.faces // 2)
    unharmed: Pairs = []
    for collection in ("lfw", "utkface"):
        pairs = load("val", {"clean": 1.0}, options.faces, collection)
        unharmed += pairs[:half]
        clean[collection] = score(in_batches(model.restore, [p[1] for p in pairs]), pairs).psnr
        numbers[f"clean/{collection}/psnr"] = float(clean[collection].mean())
        print(f"clean {collection}: {clean[collection].mean():.2f} dB")
    alone = []
    for preset in ALONE:
        pairs = damaged_by(preset, unharmed)
        given, ours = (
            score([p[0] for p in pairs], pairs),
            score(in_batches(model.restore, [p[0] for p in pairs]), pairs),
        )
        alone.append(
            f"| {preset.name} | {given.psnr.mean():.2f} / {given.ssim.mean():.3f} | "
            f"{bootstrap(ours.psnr - given.psnr).text(2, sign=True)} | "
            f"{bootstrap(ours.ssim - given.ssim).text(3, sign=True)} | "
            f"{100 * float(np.mean(ours.psnr < given.psnr - 0.1)):.1f} % |"
        )
        print(alone[-1], flush=True)
        numbers[f"{preset.name}/psnr_gain"] = float((ours.psnr - given.psnr).mean())
    seconds = time.perf_counter() - start
    text = page(rows, alone, clean, setting, options.faces, seconds)
    command = common.finish(options, "frgp", text, ["frgp"], given=f"--faces {options.faces}")
    if command and not options.weights:
        record_on_card(numbers, command, options.faces)
    if options.numbers:
        options.numbers.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        write_sheet(model, options.pictures)


def record_on_card(numbers: dict[str, float], command: str, faces: int) -> None:
    """The numbers of the card: gains over both collections together, and those of single damages for its sentences."""
    data = f"{faces} validation faces each of LFW and UTKFace, 256 px"

    def both(key: str) -> float:
        return (numbers[key.format("lfw")] + numbers[key.format("utkface")]) / 2

    listed = {"PSNR of clean input, forced, dB": both("clean/{}/psnr")}
    for name in SETTINGS:
        listed[f"PSNR gain, {name}, dB"] = both(f"{name}/{{}}/psnr_gain")
        listed[f"SSIM gain, {name}"] = both(f"{name}/{{}}/ssim_gain")
    record("frgp", "evaluate", listed, command=command, data=data)
    single = {preset.name: numbers[f"{preset.name}/psnr_gain"] for preset in ALONE}
    record("frgp", "single damages", single, command=command, data=data, listed=False)


def page(
    rows: list[str],
    alone: list[str],
    clean: dict[str, NDArray[np.float64]],
    setting: tuple[float, float, float],
    faces: int,
    seconds: float,
) -> str:
    """The Markdown page of the results."""
    head = "| degradation | faces | input PSNR / SSIM | PSNR gain | SSIM gain | classical gain | share made worse |"
    lines = [
        "# FRGP, embedded weights: results on unseen people",
        "",
        f"Made by `python -m reproductions.frgp.evaluate --faces {faces}` in {seconds / 60:.0f} minutes.",
        "Faces of the validation split (nobody in it was trained on), 256-pixel FFHQ crops, PSNR in RGB and SSIM",
        "inside the part of the crop that the photo covers. Gains are over the degraded input, with 95 % bootstrap",
        "intervals over faces. *Classical* is non-local means and an unsharp mask, tuned on training faces "
        f"(h {setting[0]:g}, amount {setting[1]:g}, sigma {setting[2]:g}), on the first 100 faces; PSNR / SSIM.",
        "*Share made worse*: faces whose PSNR fell by more than 0.1 dB.",
        "",
        head,
        "|" + " --- |" * 7,
        *rows,
        "",
        "Clean input against itself, forced through the network: "
        + ", ".join(
            f"{name} {values.mean():.1f} dB (worst tenth {np.percentile(values, 10):.1f} dB)"
            for name, values in clean.items()
        )
        + ".",
        "",
        "## One damage alone",
        "",
        f"{max(1, faces // 2)} faces of each collection.",
        "",
        "| damage | input PSNR / SSIM | PSNR gain | SSIM gain | share made worse |",
        "|" + " --- |" * 5,
        *alone,
        "",
        "Identity is measured in [its own page](frgp-identity.md).",
        "",
    ]
    return "\n".join(lines)


def write_sheet(model: object, folder: Path) -> None:
    """20 faces, 10 of each collection: input, output, truth, at the default degradation."""
    for collection in ("lfw", "utkface"):
        pairs = load("val", SETTINGS["default (vqfr)"], 10, collection)
        outputs = in_batches(model.restore, [p[0] for p in pairs])  # type: ignore[attr-defined]
        rows, labels = [], []
        for kind, images in (("input", [p[0] for p in pairs]), ("output", outputs), ("truth", [p[1] for p in pairs])):
            rows.append(images)
            labels.append(
                [
                    f"{kind} {psnr(i, p[1], data_range=255, mask=p[2]):.1f} dB" if kind != "truth" else "truth"
                    for i, p in zip(images, pairs)
                ]
            )
        cv2.imwrite(str(folder / f"{collection}.png"), grid(rows, labels)[..., ::-1])


if __name__ == "__main__":
    main()
