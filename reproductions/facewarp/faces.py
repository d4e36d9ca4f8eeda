"""The embedded landmarker on people it has never seen: photos of two collections, and rendered faces at any turn.

    python -m reproductions.facewarp.faces --write

Errors are shares of the distance of the outer eye corners (of 0.4 of the face's diagonal where that is more: turned
heads). Landmarks of the photos were placed by another network, those of the renders are exact. Crops are cut by five
points, once the labels' own and once five points as imprecise as a detector's.
Needs the labelled face collections (FACEWRIGHT_DATA); 160 faces are rendered on first use.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from facewright.data.landmarks import PointedFace, RealFaces, RenderedFaces, eye_distance, face_length, five_of
from facewright.face import Face
from facewright.loading import create
from facewright.metrics.uncertainty import bootstrap
from facewright.weights.measure import record

from .. import common

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from facewright.systems.landmarks.facewarp.network import FaceWarp

JITTER = 0.03


class Row(NamedTuple):
    title: str
    faces: int
    all68: NDArray[np.float64]
    inner: NDArray[np.float64]
    sure: NDArray[np.float64]
    near: NDArray[np.float64]


def measure(model: FaceWarp, title: str, faces: list[PointedFace], jitter: float = 0.0) -> Row:
    """Errors in percent per face, the mean confidence, and the share of points within a tenth of the eye distance."""
    rng = np.random.default_rng(0)
    everything, inner, sure, near = [], [], [], []
    for face in faces:
        five = five_of(face.points)
        five = five + rng.normal(0, jitter * np.hypot(*(five[1] - five[0])), (5, 2))
        box = np.array([*five.min(0), *five.max(0)], np.float32)
        located = model.locate(face.image, [Face(box, 1.0, five.astype(np.float32))])[0]
        distance = np.linalg.norm(located.points - face.points, axis=1)
        relative = 100 * distance / float(face_length(face.points))
        everything.append(relative.mean())
        inner.append(relative[17:].mean())
        sure.append(located.confidence.mean())
        near.append((distance < 0.1 * eye_distance(face.points)).mean())
    return Row(title, len(faces), *(np.array(v, np.float64) for v in (everything, inner, sure, near)))


def points98(model: FaceWarp, faces: RenderedFaces, most_yaw: float) -> NDArray[np.float64]:
    """Errors of the 98 points of WFLW in percent, per rendered face."""
    from facewright.geometry.similarity import invert, transform_points

    errors = []
    for index in range(len(faces)):
        face = faces.face(index)
        if abs(face.yaw) > most_yaw:
            continue
        five = five_of(face.points)
        box = np.array([*five.min(0), *five.max(0)], np.float32)
        crop = model.preprocess.crop.cut(face.image, Face(box, 1.0, five.astype(np.float32)))
        found = transform_points(invert(crop.matrix), model.landmarks98(crop.image[None])[0])
        truth = np.asarray(faces.truth(index)["landmarks98"]["xy"], np.float64)
        errors.append(100 * np.linalg.norm(found - truth, axis=1).mean() / float(face_length(face.points)))
    return np.array(errors)


def milliseconds(model: FaceWarp, count: int) -> float:
    crops = np.random.default_rng(0).integers(0, 256, (count, *[model.preprocess.size] * 2, 3), dtype=np.uint8)
    model.landmarks(crops)
    start = time.perf_counter()
    for _ in range(3):
        model.landmarks(crops)
    return (time.perf_counter() - start) / (3 * count) * 1000


def main() -> None:
    options = common.options(__doc__, quick="", arms=False)
    options.add_argument("--photos", type=int, default=300)
    chosen = options.parse_args()
    common.begin(chosen)
    model: FaceWarp = create("facewarp", pretrained=True)  # type: ignore[assignment]
    real, rng = RealFaces("val"), np.random.default_rng(5)
    rows = []
    for name, collection in zip(("LFW", "UTKFace"), real.collections):
        picked = rng.choice(collection.rows, min(chosen.photos, len(collection)), replace=False)
        faces = [real.face(collection, int(row)) for row in picked]
        rows += [
            measure(model, name, faces),
            measure(model, f"{name}, five points off by {JITTER:.0%} of the eye distance", faces, JITTER),
        ]
    renders = RenderedFaces("val")
    drawn = [renders.face(i) for i in range(len(renders))]
    for low, high in ((0, 30), (30, 60), (0, 60), (60, 90)):
        rows.append(measure(model, f"renders, yaw {low} to {high}°", [f for f in drawn if low <= abs(f.yaw) <= high]))
    wflw = points98(model, renders, 60.0)
    text = report(rows, wflw, milliseconds(model, 1), milliseconds(model, 16))
    if command := common.finish(chosen, "landmarks", text, ["facewarp"]):
        data = f"{chosen.photos} photos each of LFW's and UTKFace's validation people, rendered faces"
        record("facewarp", "faces", card_numbers(rows, wflw), command=command, data=data)


def card_numbers(rows: list[Row], wflw: NDArray[np.float64]) -> dict[str, float]:
    """What the card says of points cut by the labels' own five points."""
    names = {"LFW": "lfw", "UTKFace": "utkface", "renders, yaw 0 to 60°": "renders_to_60_degrees"}
    found = {f"{names[r.title]}_error_68_percent": float(r.all68.mean()) for r in rows if r.title in names}
    found |= {f"{names[r.title]}_error_inner_percent": float(r.inner.mean()) for r in rows if r.title in names}
    return found | {"renders_to_60_degrees_error_98_percent": float(wflw.mean())}


def report(rows: list[Row], wflw: NDArray[np.float64], single: float, batch: float) -> str:
    lines = [
        "# FaceWarp, embedded landmarker: results on unseen people",
        "",
        "```",
        "python -m reproductions.facewarp.faces --write",
        "```",
        "",
        "Mean error in percent of the distance of the outer eye corners (of 0.4 of the face's diagonal where that is",
        "more) with its 95 % interval over faces. Points of the photos were placed by another network: the contour is",
        "rough, and inner points carry some percent of error of their own, so a part of each error is the labels'.",
        "Renders are exact. *Sure* is the mean confidence, *near* the share of points it speaks of, those within a",
        "tenth of the eye distance.",
        "",
        "| faces | number | 68 points | inner 51 | sure | near |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {r.title} | {r.faces} | {bootstrap(r.all68).text()} | {bootstrap(r.inner).text()} "
            f"| {r.sure.mean():.2f} | {r.near.mean():.2f} |"
            for r in rows
        ),
        "",
        f"98 points of WFLW on renders to 60° of yaw: {bootstrap(wflw).text()} %.",
        "",
        f"Time with both mirror views: {single:.0f} ms for one face, {batch:.1f} ms a face in batches of 16.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
