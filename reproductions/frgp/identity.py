"""Does the embedded restorer bring a damaged face nearer to the true one? By two recognisers, against other weights.

    python -m reproductions.frgp.identity --write --before first/frgp-compact.safetensors

Validation faces, reduced until the eyes are 8, 12 or 20 pixels apart, and the default damage. `distilledface` is the
recogniser in the restorer's loss (an earlier state of it); `vitfiqa`, a transformer, was never in any loss of the
restorer. Both were distilled from the same teacher. Needs the labelled face collections (FACEWRIGHT_DATA).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from facewright import create
from facewright.geometry.resample import recut
from facewright.geometry.templates import template_points
from facewright.metrics.uncertainty import bootstrap
from facewright.systems.base import batches

from .. import common
from .evaluate import BATCH, in_batches, load

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Images = list["NDArray[np.uint8]"]
EYES = (8, 12, 20)


def recogniser_crops(faces: Images) -> NDArray[np.uint8]:
    """FFHQ crops cut to the ArcFace template."""
    return recut(faces, "arcface", 112)


def judges() -> dict[str, Callable[[Images], NDArray[np.float32]]]:
    """Unit embeddings of FFHQ crops by each recogniser."""
    distilled: Any = create("distilledface", pretrained=True)
    vit: Any = create("vitfiqa", pretrained=True)

    def by_vit(faces: Images) -> NDArray[np.float32]:
        parts = batches(list(recogniser_crops(faces)), BATCH)
        with torch.inference_mode():
            raw = np.concatenate([vit(vit.normalise(np.stack(part)))[0].float().numpy() for part in parts])
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)

    return {"distilledface": lambda faces: distilled.embed(recogniser_crops(faces)), "vitfiqa": by_vit}


def reduced(face: NDArray[np.uint8], eyes: float) -> NDArray[np.uint8]:
    """A crop as it comes from a photo in which the eyes are so many pixels apart, saved as JPEG."""
    size = face.shape[0]
    left, right = template_points("ffhq", size)[:2]
    side = max(1, round(size * eyes / float(np.hypot(*(right - left)))))
    small = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    decoded: Any = cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 90])[1], cv2.IMREAD_COLOR)
    return np.asarray(cv2.resize(decoded, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False)
    parser.add_argument("--faces", type=int, default=100, help="of each collection")
    parser.add_argument("--weights", help="weights other than the embedded ones")
    parser.add_argument("--before", help="earlier weights to compare with")
    options = parser.parse_args()
    common.begin(options)
    models: dict[str, Any] = {"restored": create("frgp", pretrained=options.weights or True)}
    if options.before:
        models["earlier weights"] = create("frgp", pretrained=options.before)
    pairs = [p for name in ("lfw", "utkface") for p in load("val", {"vqfr": 1.0}, options.faces, name)]
    truths = [p[1] for p in pairs]
    inputs = {f"{eyes} px": [reduced(truth, eyes) for truth in truths] for eyes in EYES}
    inputs["default damage"] = [p[0] for p in pairs]
    rows = []
    for name, judge in judges().items():
        wanted = judge(truths)
        for damage, given in inputs.items():
            before = (judge(given) * wanted).sum(1)
            for label, model in models.items():
                after = (judge(in_batches(model.restore, given)) * wanted).sum(1)
                lost = 100 * float((after < before).mean())
                rows.append(
                    f"| {name} | {damage} | {label} | {before.mean():.3f} | {after.mean():.3f} | "
                    f"{bootstrap(after - before).text(3, sign=True)} | {lost:.0f} % |"
                )
                print(rows[-1], flush=True)
    lines = [
        "# FRGP, embedded weights: identity to the true face",
        "",
        f"Made by `python -m reproductions.frgp.identity --faces {options.faces}`: cosine of the embeddings of the",
        "damaged or restored face and of the true face, validation people, 95 % bootstrap intervals over faces.",
        "`distilledface` was in the restorer's loss in an earlier state; `vitfiqa` never was. *Less alike*: the",
        "share of faces whose similarity fell. *Earlier weights*: the first embedded ones, trained without a",
        "recogniser.",
        "",
        "| judge | damage | weights | damaged | restored | change | less alike |",
        "|" + " --- |" * 7,
        *rows,
    ]
    systems = ["frgp", "distilledface", "vitfiqa"]
    common.finish(options, "frgp-identity", lines, systems, given=f"--faces {options.faces}")


if __name__ == "__main__":
    main()
