"""What FaceDetail restores of faces of 512 px of people it has never seen, against the input and the 256 px restorer.

    python -m reproductions.facedetail.evaluate FACES.npz --write --pictures local/facedetail

FACES.npz is made by `facewright.data.highres`. Measured are the validation faces at half, a quarter and an eighth of
their size (blurred as shrinking wants it, with light noise and JPEG, and back by any filter) and under the training's
own mixture. Identity is judged by the embedded recogniser, which had no part in the training. The sheets show real
people, so they are written to a folder of your own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facewright import create
from facewright.data.highres import SIDE, PackedFaces, open_packed
from facewright.degrade import apply, sample, target
from facewright.geometry.resample import crop_face
from facewright.geometry.templates import template_points
from facewright.metrics import detail_ratio, gmsd, psnr
from facewright.pipelines.colour_match import restore_crops
from facewright.pipelines.two_stage import TwoStageRestorer
from facewright.weights.measure import record

from .. import common

if TYPE_CHECKING:
    from collections.abc import Callable

    from facewright.tasks.recognise import Embedder

Image = NDArray[np.uint8]
PRESETS = ("half", "quarter", "eighth", "soft", "clean")
BATCH = 4
SLIPPED = 0.02


@dataclass(frozen=True, slots=True)
class Row:
    """Per-face measures of one restorer; see `facewright.metrics`. identity: cosine with the true face."""

    detail: NDArray[np.float64]
    gmsd: NDArray[np.float64]
    psnr: NDArray[np.float64]
    identity: NDArray[np.float64]

    def line(self, name: str, given: Row) -> str:
        """A row of the table, beside the input's."""
        start = given.gmsd.mean()
        slipped = float(np.mean(self.identity < given.identity - SLIPPED))
        cells = [
            f"{self.detail.mean():.2f}",
            f"{self.gmsd.mean():.3f}" + (f" ({self.gmsd.mean() / start - 1:+.0%})" if start else ""),
            f"{self.psnr.mean():.2f} ({self.psnr.mean() - given.psnr.mean():+.2f})",
            f"{self.identity.mean():.3f} ({self.identity.mean() - given.identity.mean():+.3f})",
            f"{slipped:.0%}",
        ]
        return f"| {name} | {' | '.join(cells)} |"


def inside_of(small: Callable[[Image], Image]) -> Callable[[Image], Image]:
    """A 256 px restorer on 512 px crops, as the pipeline pastes it: its change, enlarged, onto the input."""

    def restore(crops: Image) -> Image:
        low = np.stack([cv2.resize(c, (256, 256), interpolation=cv2.INTER_AREA) for c in crops])
        change = small(low).astype(np.float32) - low
        enlarged = np.stack([cv2.resize(c, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR) for c in change])
        return np.clip(np.rint(crops + enlarged), 0, 255).astype(np.uint8)

    return restore


def both_stages(restorer: TwoStageRestorer, fidelity: float) -> Callable[[Image], Image]:
    """What the command does with crops that it restores: two networks, light and colours of the input."""
    return lambda crops: restore_crops(restorer, crops, fidelity, estimates=restorer.assess(crops))


def pairs(faces: PackedFaces, preset: str, count: int) -> list[tuple[Image, Image, NDArray[np.bool_]]]:
    """Damaged, true, and where the crop shows real pixels; the same at every call."""
    found = []
    for index in np.linspace(0, len(faces) - 1, count).round().astype(int):
        truth, mask = faces.face(int(index))
        record = sample(preset, int(index), SIDE)
        found.append((apply(truth, record), target(truth, record), mask))
    return found


def in_batches(restore: Callable[[Image], Image], images: list[Image]) -> list[Image]:
    """Run a restorer over images in batches."""
    runs = [restore(np.stack(images[i : i + BATCH])) for i in range(0, len(images), BATCH)]
    return [image for run in runs for image in run]


def identities(embedder: Embedder, images: list[Image]) -> NDArray[np.float32]:
    """(N, D) embeddings of crops on the `ffhq` template."""
    points = template_points("ffhq", SIDE)
    crops = [crop_face(image, points, 112, "arcface").image for image in images]
    return np.concatenate([embedder.embed(np.stack(crops[i : i + 16])) for i in range(0, len(crops), 16)])


def measure(outputs: list[Image], truths: list[tuple[Image, Image, NDArray[np.bool_]]], embedder: Embedder) -> Row:
    """All measures of a list of outputs."""
    true = identities(embedder, [t for _, t, _ in truths])
    return Row(
        np.array([detail_ratio(o, t, mask=m) for o, (_, t, m) in zip(outputs, truths)]),
        np.array([gmsd(o, t, data_range=255, mask=m) for o, (_, t, m) in zip(outputs, truths)]),
        np.array([min(60.0, psnr(o, t, data_range=255, mask=m)) for o, (_, t, m) in zip(outputs, truths)]),
        (identities(embedder, outputs) * true).sum(1).astype(np.float64),
    )


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False, pictures="the sheets")
    parser.add_argument("faces", type=Path, help="file made by facewright.data.highres")
    parser.add_argument("--count", type=int, default=80, help="faces per preset")
    parser.add_argument("--weights", help="weights other than the embedded ones")
    parser.add_argument("--fidelity", type=float, default=1.0)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS))
    parser.add_argument("--only", action="store_true", help="leave out the 256 px restorer")
    parser.add_argument("--numbers", type=Path, help="JSON file for the numbers")
    options = parser.parse_args()
    common.begin(options)
    faces = open_packed(options.faces, "val")
    model: Any = create("facedetail", pretrained=options.weights or True)
    restorers: dict[str, Callable[[Image], Image]] = {}
    if not options.only:
        frgp: Any = create("frgp", pretrained=True)
        restorers["256 px (FRGP)"] = inside_of(frgp.restore)
    restorers["FaceDetail"] = lambda crops: model.restore(crops, fidelity=options.fidelity)
    if not options.only:
        restorers["both, as by default"] = both_stages(TwoStageRestorer(frgp, model), options.fidelity)
    embedder: Any = create("distilledface", pretrained=True)
    lines, numbers = [], {}
    for preset in options.presets:
        truths = pairs(faces, preset, min(options.count, len(faces)))
        given = [low for low, _, _ in truths]
        outputs = {name: in_batches(restore, given) for name, restore in restorers.items()}
        rows = {"input": measure(given, truths, embedder)}
        rows |= {name: measure(images, truths, embedder) for name, images in outputs.items()}
        for name, row in rows.items():
            lines.append(row.line(f"{preset} | {name}", rows["input"]))
            print(lines[-1], flush=True)
            numbers[f"{preset}/{name}"] = {
                k: float(getattr(row, k).mean()) for k in ("detail", "gmsd", "psnr", "identity")
            }
        if options.pictures:
            write_sheet(options.pictures / f"{preset}.png", truths, list(outputs.values()))
    arguments = f"FACES.npz --count {options.count}"
    systems = ["facedetail", "frgp", "distilledface"]
    command = common.finish(options, "facedetail", page(lines, options.count), systems, given=arguments)
    if command and not options.weights:
        record_on_card(numbers, command, min(options.count, len(faces)))
    if options.numbers:
        options.numbers.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


def record_on_card(numbers: dict[str, dict[str, float]], command: str, count: int) -> None:
    """The numbers of the card, against the input."""
    values = {}
    for preset in sorted({key.partition("/")[0] for key in numbers}):
        ours, given = numbers[f"{preset}/FaceDetail"], numbers[f"{preset}/input"]
        values[f"PSNR gain at {preset}, dB"] = ours["psnr"] - given["psnr"]
        values[f"detail energy at {preset}"] = ours["detail"]
        if given["gmsd"]:
            values[f"GMSD change at {preset}, percent"] = 100 * (ours["gmsd"] / given["gmsd"] - 1)
    record("facedetail", "evaluate", values, command=command, data=f"{count} validation faces of CIPLAB and CelebA-HQ")


def page(lines: list[str], count: int) -> str:
    """The Markdown page of the results."""
    return f"""# FaceDetail on faces of 512 px

{count} validation faces (no person of them was trained on) per row, by `python -m reproductions.facedetail.evaluate`.
Detail: energy of the Laplacian against the truth's. GMSD: lower is better. Identity: cosine with the true face to the
embedded recogniser; slipped: share of the faces whose identity falls by more than {SLIPPED} below the input's. By
default what FaceDetail draws is taken further where a face has structure (`facewright.pipelines.emphasis`).

| damage | restorer | detail | GMSD | PSNR, dB | identity | slipped |
| --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(lines)}
"""


def write_sheet(path: Path, truths: list[tuple[Image, Image, NDArray[np.bool_]]], outputs: list[list[Image]]) -> None:
    """Six faces: damaged, every output, true."""
    path.parent.mkdir(parents=True, exist_ok=True)
    step = max(1, len(truths) // 6)
    chosen = range(0, len(truths), step)[:6]
    columns = [np.vstack([truths[i][0], *(images[i] for images in outputs), truths[i][1]]) for i in chosen]
    cv2.imwrite(str(path), np.hstack(columns)[..., ::-1])


if __name__ == "__main__":
    main()
