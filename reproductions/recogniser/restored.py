"""Does restoring bring a face nearer to another photo of the same person?

    python -m reproductions.recogniser.restored --write

Photos of LFW's validation people are reduced until the eyes are a few pixels apart; the similarity of the small and of
the restored face to *another*, clean photo of the same person is measured with the embedded recogniser, which saw
degraded but never restored pictures. Needs the labelled face collections (FACEWRIGHT_DATA).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from facewright.data.detection import five_points
from facewright.data.identity import SIZE, IdentityCrops, open_identities
from facewright.data.pairs import verification_pairs
from facewright.geometry.resample import crop_face
from facewright.geometry.similarity import transform_points
from facewright.loading import create
from facewright.metrics.uncertainty import bootstrap
from facewright.systems.base import batches

from .. import common

if TYPE_CHECKING:
    from numpy.typing import NDArray

EYES = (6, 8, 10, 12, 16, 20, 28)


def small_photo(crops: IdentityCrops, entry: int, eyes: float) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The reduced photo, as JPEG leaves it, and its five points."""
    photo = crops.collection.read(int(crops.rows[entry]))
    points = five_points(np.asarray(crops.collection.labels["landmarks68"][crops.rows[entry]], np.float64))
    side = max(1, round(photo.shape[0] * eyes / float(np.hypot(*(points[1] - points[0])))))
    small = cv2.resize(photo, (side, side), interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    decoded = np.ascontiguousarray(np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR))[..., ::-1], np.uint8)
    return decoded, (points + 0.5) * (side / photo.shape[0]) - 0.5


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False)
    parser.add_argument("--pairs", type=int, default=200)
    options = parser.parse_args()
    common.begin(options)
    start = time.perf_counter()
    recogniser: Any = create("distilledface", pretrained=True)
    restorer: Any = create("frgp", pretrained=True)
    crops = open_identities("lfw", "val")
    pairs = verification_pairs(crops.subjects)
    genuine = np.flatnonzero(pairs.same)[: options.pairs]
    anchors = recogniser.embed(crops.aligned(pairs.first[genuine]))
    clean = recogniser.embed(crops.aligned(pairs.second[genuine]))
    top = float((anchors * clean).sum(1).mean())
    rows = []
    for eyes in EYES:
        photos = [small_photo(crops, int(entry), eyes) for entry in pairs.second[genuine]]
        faces = [crop_face(photo, points, restorer.preprocess.size) for photo, points in photos]
        restored = np.concatenate([restorer.restore(np.stack([f.image for f in part])) for part in batches(faces, 8)])
        moved = [transform_points(face.matrix, points) for face, (_, points) in zip(faces, photos)]
        before = [crop_face(p, points, SIZE, "arcface").image for p, points in photos]
        after = [crop_face(image, points, SIZE, "arcface").image for image, points in zip(restored, moved)]
        was, now = ((recogniser.embed(np.stack(c)) * anchors).sum(1) for c in (before, after))
        lost = 100 * (now < was).mean()
        rows.append(
            f"| {eyes} px | {was.mean():.3f} | {now.mean():.3f} | "
            f"{bootstrap(now - was).text(3, sign=True)} | {lost:.0f} % |"
        )
        print(rows[-1], flush=True)
    minutes = (time.perf_counter() - start) / 60
    lines = [
        "# Identity before and after restoring",
        "",
        f"Made by `python -m reproductions.recogniser.restored --pairs {options.pairs}` in {minutes:.0f} minutes.",
        "Similarity (cosine) of a small and of the restored face to another, clean photo of the same person, by",
        f"the embedded recogniser; between two clean photos it is {top:.3f}. People none of the networks ever saw.",
        "",
        "| between the eyes | small | restored | change, 95 % interval | less alike than before |",
        "|" + " --- |" * 5,
        *rows,
    ]
    common.finish(options, "identity", lines, ["frgp", "distilledface"], given=f"--pairs {options.pairs}")


if __name__ == "__main__":
    main()
