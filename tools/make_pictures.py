"""Make every picture of the README and the documentation from the public-domain portrait and the embedded weights.

python tools/make_pictures.py
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from facewright.degrade import PRESETS, degrade
from facewright.geometry.resample import crop_face
from facewright.io.image import read, save_rgb
from facewright.loading import load_analyser, load_parser, load_pipeline
from facewright.pipelines.analyse import draw_analysis
from facewright.pipelines.demo import aged_photo, astronaut, collage, small_photo
from facewright.pipelines.portrait import retouch
from facewright.pipelines.sheets import draw_faces, grid
from facewright.tasks.restore import RestoreOptions

if TYPE_CHECKING:
    from facewright.face import Face
    from facewright.pipelines.restore import RestorePipeline

IMAGES = Path(__file__).parents[1] / "docs" / "images"
Image = NDArray[np.uint8]


def portrait_crop(pipeline: RestorePipeline, size: int = 256) -> Image:
    """The portrait's face on the FFHQ template."""
    face: Face = max(pipeline.detector.detect(astronaut()), key=lambda f: f.score)
    return crop_face(astronaut(), face.points5, size).image


def readme(pipeline: RestorePipeline) -> None:
    """Small and aged photo, before and after, and their faces."""
    rows, labels = [], []
    for name, pixels, upscale in (("small web picture, x2", small_photo(), 2), ("aged print", aged_photo(), 1)):
        result = pipeline(read(pixels), RestoreOptions(upscale=upscale))  # type: ignore[arg-type]
        before, after = result.base.rgb(), result.image.rgb()
        face = max(result.faces, key=lambda f: f.face.score).face.scaled(upscale)
        close = [crop_face(p, face.points5, 300).image for p in (before, after)]
        whole = [_height(p, 300) for p in (before, after)]
        rows.append([*whole, *close])
        labels.append([f"{name}: before", "after", "the face before", "after"])
    save_rgb(grid(rows, labels), IMAGES / "readme.png", overwrite=True)


def _height(image: Image, height: int) -> Image:
    size = (round(image.shape[1] * height / image.shape[0]), height)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def presets() -> None:
    """One draw of every degradation preset."""
    face = astronaut()[20:276, 96:352]
    pictures = [degrade(face, name, 7, scaled=True)[0] for name in PRESETS]
    rows = [pictures[i : i + 5] for i in range(0, len(pictures), 5)]
    names = list(PRESETS)
    save_rgb(grid(rows, [names[i : i + 5] for i in range(0, len(names), 5)]), IMAGES / "presets.png", overwrite=True)


def severity(pipeline: RestorePipeline) -> None:
    """The face at falling size: input, output, truth; where recovering ends and inventing begins."""
    truth = portrait_crop(pipeline)
    inputs = []
    for side in (128, 64, 40, 26, 16):
        small = cv2.resize(truth, (side, side), interpolation=cv2.INTER_AREA)
        inputs.append(np.asarray(cv2.resize(small, (256, 256), interpolation=cv2.INTER_CUBIC), np.uint8))
    outputs = list(pipeline.restorer.restore(np.stack(inputs)))
    eyes = [f"{63 * side / 256:.0f} px between the eyes" for side in (128, 64, 40, 26, 16)]
    rows = [[*inputs, truth], [*outputs, pipeline.restorer.restore(truth[None])[0]]]
    save_rgb(grid(rows, [[*eyes, "the photo itself"], ["restored"] * 6]), IMAGES / "severity.png", overwrite=True)


def dials(pipeline: RestorePipeline) -> None:
    """What `strength` and `fidelity` do to one face."""
    truth = portrait_crop(pipeline)
    low = degrade(truth, "vqfr", 11, scaled=True)[0]
    values = (0.0, 0.25, 0.5, 0.75, 1.0)
    restored = pipeline.restorer.restore(low[None])[0].astype(np.float32)
    blended = [np.rint(low + s * (restored - low)).astype(np.uint8) for s in values]
    faithful = [pipeline.restorer.restore(low[None], fidelity=f)[0] for f in values]
    labels = [[f"strength {v:g}" for v in values], [f"fidelity {v:g}" for v in values]]
    save_rgb(grid([blended, faithful], labels), IMAGES / "dials.png", overwrite=True)


def detection(pipeline: RestorePipeline) -> None:
    """The collage with what the detector finds, and restored."""
    picture = collage()
    result = pipeline(read(picture))
    found = draw_faces(picture, [f.face for f in result.faces])
    rows = [[found, result.image.rgb()]]
    save_rgb(grid(rows, [["faces found", "restored"]]), IMAGES / "collage.png", overwrite=True)


def analysis() -> None:
    """What `analyse` sees in the portrait, and what `portrait` makes of it."""
    photo = read(astronaut())
    found = load_analyser()(photo)
    faces = [face.face for face in found]
    blurred = retouch(photo, faces, load_parser(), background="blur", blur=0.8)
    removed = retouch(photo, faces, load_parser(), background="remove").image
    assert removed.alpha is not None
    opacity = removed.alpha.reshape(*removed.alpha.shape[:2], 1) / 255
    cut = np.rint(removed.rgb() * opacity + 235 * (1 - opacity)).astype(np.uint8)
    rows = [[draw_analysis(photo.rgb(), found), blurred.image.rgb(), cut]]
    save_rgb(
        grid(rows, [["analyse --draw", "--background blur", "--background remove"]]),
        IMAGES / "analysis.png",
        overwrite=True,
    )


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline()
    readme(pipeline)
    presets()
    severity(pipeline)
    dials(pipeline)
    detection(pipeline)
    analysis()


if __name__ == "__main__":
    main()
