"""How FaceFill fills holes in faces of people it has never seen, against filling from around.

    python -m reproductions.facefill.evaluate FACES.npz --write --pictures local/facefill

FACES.npz is made by `facewright.data.highres`. Every face gets one hole of every kind (`facewright.data.holes`), the
same for both. The whole pipeline of `facewright inpaint` runs, with the face where the crop's template has it. The
sheets show real people, so they are written to a folder of your own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pictures

from facewright import create
from facewright.data.highres import SIDE, open_packed
from facewright.data.holes import HOLES, draw_hole
from facewright.geometry.crop import template_face
from facewright.geometry.resample import recut, resampled
from facewright.io.image import read
from facewright.metrics.identity import cosine
from facewright.metrics.perceptual import ParserFeatures
from facewright.metrics.uncertainty import bootstrap
from facewright.pipelines.inpaint import InpaintPipeline
from facewright.pipelines.old_photo import filled_from_around
from facewright.tasks.inpaint import InpaintOptions
from facewright.weights.measure import record

from .. import common

if TYPE_CHECKING:
    from collections.abc import Sequence

    from facewright.face import Face

Image = NDArray[np.uint8]
Hole = NDArray[np.bool_]
NAMES = {
    "psnr": "PSNR in the hole, dB",
    "features": "parser distance",
    "identity": "identity",
    "landmarks": "landmarks, percent",
}


class Template:
    """Finds the face of an aligned crop where the template says."""

    def detect(self, image: Image) -> list[Face]:
        return [template_face(image.shape[0])]


@dataclass(frozen=True, slots=True)
class Judges:
    """Networks that compare a filled face with the true one."""

    recogniser: Any
    landmarker: Any
    features: ParserFeatures

    def scores(self, filled: Image, truth: Image, hole: Hole) -> dict[str, float]:
        """Of one face (512, 512, 3); landmarks in percent of the distance between the eyes."""
        error = float(np.square(filled.astype(np.float64) - truth)[hole].mean())
        spec = self.recogniser.preprocess.crop
        vectors = self.recogniser.embed(recut([filled, truth], spec.template, spec.size))
        small = np.stack([resampled(image, 256) for image in (filled, truth)])
        face = template_face(SIDE)
        points = [self.landmarker.locate(image, [face])[0].points for image in (filled, truth)]
        distance = float(np.linalg.norm(points[0] - points[1], axis=1).mean())
        return {
            "psnr": 10 * np.log10(255**2 / max(error, 1e-3)),
            "features": self.features(small[0], small[1]),
            "identity": float(cosine(vectors[0], vectors[1])),
            "landmarks": 100 * distance / face.eye_distance,
        }


def hole_of(kind: str, index: int) -> Hole:
    """The hole of a kind in face number `index`, (512, 512)."""
    return draw_hole(kind, np.random.default_rng((7, index, list(HOLES).index(kind))), SIDE)


def filled_by(pipeline: InpaintPipeline, image: Image, hole: Hole, folder: Path) -> Image:
    """The face as `facewright inpaint` fills it."""
    mask = folder / "mask.png"
    Pictures.fromarray(np.asarray(hole * 255, np.uint8)).save(mask)
    return pipeline(read(image), InpaintOptions(mask=str(mask), watermark=False)).image.rgb()


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False, pictures="the sheets")
    parser.add_argument("faces", type=Path, help="file made by facewright.data.highres")
    parser.add_argument("--count", type=int, default=40, help="faces per kind of hole")
    parser.add_argument("--weights", help="weights other than the embedded ones")
    options = parser.parse_args()
    common.begin(options)
    faces = open_packed(options.faces, "val")
    chosen = np.linspace(0, len(faces) - 1, min(options.count, len(faces))).astype(int)
    filler: Any = create("facefill", pretrained=options.weights or True)
    restorers: list[Any] = [create(slug, pretrained=True) for slug in ("frgp", "facedetail")]
    pipeline = InpaintPipeline(Template(), filler, restorers=restorers)
    segface: Any = create("segface", pretrained=True)
    judges = Judges(
        create("distilledface", pretrained=True), create("facewarp", pretrained=True), ParserFeatures(segface)
    )
    folder = options.pictures or Path("local")
    folder.mkdir(parents=True, exist_ok=True)
    lines, values = [], {}
    for kind in HOLES:
        rows: dict[str, list[dict[str, float]]] = {"from around": [], "FaceFill": []}
        shown = []
        for index in chosen:
            truth, _ = faces.face(int(index))
            hole = hole_of(kind, int(index))
            holed = np.where(hole[..., None], np.uint8(128), truth)
            outputs = {
                "from around": filled_from_around(holed, hole),
                "FaceFill": filled_by(pipeline, holed, hole, folder),
            }
            for name, image in outputs.items():
                rows[name].append(judges.scores(image, truth, hole))
            shown.append([holed, *outputs.values(), truth])
        for name, scores in rows.items():
            lines.append(line(kind, name, scores))
            print(lines[-1], flush=True)
        for key in NAMES:
            gain = [b[key] - a[key] for a, b in zip(rows["from around"], rows["FaceFill"])]
            values[f"{NAMES[key]} gain, {kind}"] = float(np.mean(gain))
        if options.pictures:
            write_sheet(options.pictures / f"{kind}.png", shown)
    systems = ["facefill", "frgp", "facedetail", "segface", "distilledface", "facewarp"]
    command = common.finish(
        options, "facefill", page(lines, len(chosen)), systems, given=f"FACES.npz --count {len(chosen)}"
    )
    if command and not options.weights:
        record(
            "facefill",
            "evaluate",
            values,
            command=command,
            data=f"{len(chosen)} validation faces of CIPLAB and CelebA-HQ",
        )


def line(kind: str, name: str, scores: Sequence[dict[str, float]]) -> str:
    """A row of the table: means with 95 % intervals over faces."""
    cells = []
    for key, digits in (("psnr", 1), ("features", 3), ("identity", 3), ("landmarks", 1)):
        found = bootstrap([score[key] for score in scores])
        cells.append(f"{found.mean:.{digits}f} ({found.low:.{digits}f}–{found.high:.{digits}f})")
    return f"| {kind} | {name} | " + " | ".join(cells) + " |"


def page(lines: Sequence[str], count: int) -> str:
    """The Markdown page of the results."""
    return f"""# Holes in faces

{count} validation faces (no person of them was trained on) with a hole of each kind, by
`python -m reproductions.facefill.evaluate`. From around: Telea's marching, with grain. FaceFill: `facewright inpaint`.
PSNR inside the hole; parser distance and landmarks (percent of the distance between the eyes): lower is better.
Identity: cosine with the true face to the embedded recogniser. Means with 95 % bootstrap intervals.

| hole | filled | {" | ".join(NAMES.values())} |
| --- | --- | --- | --- | --- | --- |
{chr(10).join(lines)}
"""


def write_sheet(path: Path, shown: Sequence[Sequence[Image]]) -> None:
    """Eight faces: with the hole, filled from around, by FaceFill, true."""
    step = max(1, len(shown) // 8)
    columns = [np.vstack(list(images)) for images in shown[::step][:8]]
    sheet = cv2.resize(np.hstack(columns), None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(path), np.ascontiguousarray(sheet[..., ::-1]))


if __name__ == "__main__":
    main()
