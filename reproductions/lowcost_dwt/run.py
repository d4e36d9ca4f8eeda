"""What skin colour and wavelets are worth: detection, recognition by level, and whom the colour rule fails.

    python -m reproductions.lowcost_dwt.run [--quick] [--write]

Needs the labelled face collections (FACEWRIGHT_DATA), PyWavelets, and a few minutes on one processor core.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from facewright.data.detection import five_points
from facewright.data.faces import FaceCollection, open_faces
from facewright.data.split import shipped_split
from facewright.geometry.resample import crop_face
from facewright.loading import load_recogniser
from facewright.metrics.detection import box_iou
from facewright.metrics.identification import rank_rate
from facewright.systems.detect.lowcost_dwt.network import SkinDetector, SkinFace, WaveletFeatures, frontal_crop

from .. import common

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.random import Generator
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Floats = NDArray[np.float64]

LEVELS = (1, 2, 3, 4, 5)
OTSU = "a* split by Otsu"
DETECTORS = {
    OTSU: SkinDetector(),
    "the same, robust": SkinDetector(robust=True),
    "fixed L*a*b* limits": SkinDetector("box"),
}
ETHNICITIES = ("White", "Black", "Asian", "Indian", "other")
DIM = 0.6


@dataclass(frozen=True)
class Settings:
    """People with `least` pictures or more: one reference and up to `queries` queries each; UTKFace `each` group."""

    people: int | None = None
    least: int = 5
    queries: int = 2
    each: int = 200

    @classmethod
    def quick(cls) -> Settings:
        return cls(people=20, queries=2, each=20)


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """N photos as a camera delivers them, the labelled box (N, 4) and five points (N, 5, 2) of each, and who it is."""

    images: list[Image]
    boxes: Floats
    points: Floats
    people: NDArray[np.str_]

    @classmethod
    def of(cls, collection: FaceCollection, rows: NDArray[np.int64], camera: Callable[[Image], Image]) -> Pictures:
        labels = collection.labels
        x, y, width, height = np.asarray(labels["box_xywh"][rows], np.float64).T
        points = np.stack([five_points(np.asarray(labels["landmarks68"][row], np.float64)) for row in rows])
        images = [camera(collection.read(int(row))) for row in rows]
        return cls(images, np.stack([x, y, x + width, y + height], 1), points, labels["subject"][rows].astype(str))


def webcam(image: Image, rng: Generator) -> Image:
    """What a cheap camera makes of a photo: low resolution, another exposure, noise, strong compression."""
    height, width = image.shape[:2]
    factor = rng.uniform(2, 4)
    small = cv2.resize(image, (round(width / factor), round(height / factor)), interpolation=cv2.INTER_AREA)
    x: NDArray[Any] = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    x = x * rng.uniform(0.6, 1.4) + rng.normal(0, rng.uniform(5, 15), x.shape)
    quality = int(rng.integers(30, 61))
    _, data = cv2.imencode(".jpg", np.clip(x, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def choose(collection: FaceCollection, s: Settings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the references and of the queries."""
    names = collection.labels["subject"][collection.rows]
    subjects, counts = np.unique(names, return_counts=True)
    references, queries = [], []
    for subject in subjects[counts >= s.least][: s.people]:
        rows = collection.rows[names == subject]
        references.append(rows[0])
        queries.extend(rows[1 : 1 + s.queries])
    return np.array(references), np.array(queries)


# --- recognition


def labelled_crops(pictures: Pictures) -> Image:
    return np.stack([frontal_crop(image, box) for image, box in zip(pictures.images, pictures.boxes)])


def found_crops(pictures: Pictures, faces: list[SkinFace | None], *, background: bool) -> Image:
    """What the colour found, its background perhaps black; black all over where nothing was found."""
    crops = [
        np.zeros((128, 128), np.uint8)
        if face is None
        else frontal_crop(image, face.box, None if background else face.mask)
        for image, face in zip(pictures.images, faces)
    ]
    return np.stack(crops)


def best_faces(pictures: Pictures) -> list[SkinFace | None]:
    return [next(iter(DETECTORS[OTSU].detect(image)), None) for image in pictures.images]


def embeddings(pictures: Pictures) -> NDArray[np.float32]:
    recogniser: Any = load_recogniser("distilledface", device="cpu")[0]
    crops = [crop_face(image, points, 112, "arcface").image for image, points in zip(pictures.images, pictures.points)]
    return recogniser.embed(np.stack(crops))


def are_unseen(names: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Which people of LFW are of the validation split."""
    return shipped_split().sides("lfw", names.tolist(), names.tolist()) == "val"


def rank1(
    query: NDArray[np.floating], reference: NDArray[np.floating], sets: tuple[Pictures, Pictures], *, unseen: bool
) -> float:
    """Share of the queries whose nearest reference is of the same person; `unseen` people only, or all."""
    who, known = (p.people for p in sets)
    asked, kept = (are_unseen(names) if unseen else np.ones(len(names), bool) for names in (who, known))
    q, r = query[asked].astype(np.float64), reference[kept].astype(np.float64)
    away = (q**2).sum(1)[:, None] + (r**2).sum(1)[None] - 2 * q @ r.T
    return rank_rate(-away, who[asked], known[kept])


def recognition(references: Pictures, cameras: dict[str, Pictures]) -> list[list[str]]:
    """Rows of the table: features, how many values, rank-1 in percent for every camera, on all and on unseen people."""
    haar = [(f"Haar, level {n}", WaveletFeatures(n)) for n in LEVELS]
    haar += [(f"Haar, level {n}, normalised", WaveletFeatures(n, normalised=True)) for n in LEVELS]
    db4 = [(f"db4, level {n}, normalised", WaveletFeatures(n, "db4", normalised=True)) for n in LEVELS[:-1]]
    pixels = [("all coefficients (= pixels)", WaveletFeatures(bands="all"))]
    seen = {id(p): best_faces(p) for p in (references, *cameras.values())}
    variants: tuple[tuple[str, Callable[[Pictures], Any], list[Any]], ...] = (
        ("labelled box", labelled_crops, [*pixels, *haar, *db4]),
        ("found by skin, no background", lambda p: found_crops(p, seen[id(p)], background=False), haar),
        ("found by skin, with background", lambda p: found_crops(p, seen[id(p)], background=True), haar[-3:-2]),
    )
    rows = []
    for face, crop, kinds in variants:
        known = crop(references)
        asked = {name: crop(pictures) for name, pictures in cameras.items()}
        for name, features in kinds:
            reference = features.extract(known)
            cells = [
                percent(rank1(features.extract(asked[camera]), reference, (cameras[camera], references), unseen=unseen))
                for unseen in (False, True)
                for camera in cameras
            ]
            rows.append([face, name, str(reference.shape[1]), *cells])
    reference = embeddings(references)
    vectors = {name: embeddings(pictures) for name, pictures in cameras.items()}
    cells = [
        percent(rank1(vectors[c], reference, (cameras[c], references), unseen=unseen))
        for unseen in (False, True)
        for c in cameras
    ]
    rows.append(["aligned by landmarks", "embedded recogniser", str(reference.shape[1]), *cells])
    return rows


# --- detection


def overlap_of_best(detector: SkinDetector, image: Image, box: Floats) -> float:
    """IoU of the most confident face with a labelled box clipped to the picture; −1 where nothing is found."""
    height, width = image.shape[:2]
    truth = np.clip(box, 0, [width, height, width, height])
    faces = detector.detect(image)
    return float(box_iou(faces[0].box[None], truth[None])[0, 0]) if faces else -1.0


def detection(cameras: dict[str, Pictures]) -> list[list[str]]:
    rows = []
    for name, detector in DETECTORS.items():
        cells = []
        for pictures in cameras.values():
            overlaps = np.array([overlap_of_best(detector, i, b) for i, b in zip(pictures.images, pictures.boxes)])
            cells += [percent(np.mean(overlaps >= 0.5)), percent(np.mean(overlaps < 0))]
        rows.append([name, *cells])
    return rows


def by_ethnicity(s: Settings) -> list[list[str]]:
    """Failure rate (nothing found or IoU below 0.5) and share of the inner face taken for skin, per group and light."""
    collection = open_faces("utkface")
    groups = np.asarray(collection.labels["ethnicity"])[collection.rows]
    rows = []
    for number, name in enumerate(ETHNICITIES):
        chosen = np.random.default_rng(0).permutation(collection.rows[groups == number])[: s.each]
        pictures = Pictures.of(collection, chosen, lambda image: image)
        marks = np.asarray(collection.labels["landmarks68"][chosen], np.float64)
        cells = []
        for detector in (SkinDetector(), SkinDetector("box")):
            for gain in (1.0, DIM):
                failed, covered = [], []
                for image, box, points in zip(pictures.images, pictures.boxes, marks):
                    lit = (image * gain).astype(np.uint8)
                    failed.append(overlap_of_best(detector, lit, box) < 0.5)
                    covered.append(detector.skin(lit)[inner_face(points, image.shape)].mean())
                cells.append(f"{percent(np.mean(failed))} ({percent(np.nanmean(covered))})")
        rows.append([name, str(len(chosen)), *cells])
    return rows


def inner_face(landmarks: Floats, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """(H, W) inside jaw and brows."""
    outline = np.concatenate([landmarks[:17], landmarks[26:16:-1]])
    mask = np.zeros(shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.rint(outline).astype(np.int32)], 1)
    return mask > 0


def frames_per_second(picture: Image, runs: int = 20) -> float:
    """Detection, crop and features of a 640×480 frame, by processor time."""
    frame = np.asarray(cv2.resize(picture, (640, 480), interpolation=cv2.INTER_LINEAR), np.uint8)
    detector, features = SkinDetector(), WaveletFeatures()
    began = time.process_time()
    for _ in range(runs):
        faces = detector.detect(frame)
        box = faces[0].box if faces else np.array([0.0, 0, 100, 100])
        features.extract(frontal_crop(frame, box))
    return runs / (time.process_time() - began)


# --- report


def percent(share: float | np.floating[Any]) -> str:
    return f"{100 * float(share):.1f}"


def level_rates(rows: list[list[str]], suffix: str, column: int) -> dict[int, float]:
    return {n: float(r[column]) for n in LEVELS for r in rows if r[:2] == ["labelled box", f"Haar, level {n}{suffix}"]}


def verdicts(rows: list[list[str]], speed: float) -> list[str]:
    pixels = float(rows[0][4])
    webcam_rates = level_rates(rows, "", 4)
    best = max(webcam_rates, key=lambda n: webcam_rates[n])
    return [
        common.verdict(
            "the best level recognises webcam pictures as well as all pixels do",
            webcam_rates[best] >= pixels,
            f"level {best}: {webcam_rates[best]:.1f} %, pixels {pixels:.1f} %",
        ),
        common.verdict(
            "level 3 is within 2 points of level 1 with a sixteenth of the values",
            webcam_rates[3] >= webcam_rates[1] - 2,
            f"{webcam_rates[3]:.1f} % and {webcam_rates[1]:.1f} %",
        ),
        common.verdict("30 frames of 640×480 a second on one core", speed > 30, f"{speed:.0f}"),
    ]


def main() -> None:
    args = common.options(__doc__).parse_args()
    common.begin(args)
    s = Settings.quick() if args.quick else Settings()
    began = time.monotonic()
    collection = open_faces("lfw")
    reference_rows, query_rows = choose(collection, s)
    rng = np.random.default_rng(0)
    references = Pictures.of(collection, reference_rows, lambda image: image)
    cameras = {
        "clean": Pictures.of(collection, query_rows, lambda image: image),
        "webcam": Pictures.of(collection, query_rows, lambda image: webcam(image, rng)),
    }
    print(f"{len(reference_rows)} people, {len(query_rows)} queries", flush=True)
    recognised = recognition(references, cameras)
    print(f"recognition done after {time.monotonic() - began:.0f} s", flush=True)
    found = detection(cameras)
    print(f"detection done after {time.monotonic() - began:.0f} s", flush=True)
    groups = by_ethnicity(s)
    speed = frames_per_second(references.images[0])
    unseen = are_unseen(references.people).sum()
    lines = [
        "# Skin colour and wavelets",
        "",
        "Made by `python -m reproductions.lowcost_dwt.run --write`.",
        f"{len(reference_rows)} people of LFW with {s.least} pictures or more: one is registered,",
        f"{s.queries} are asked for. *Webcam*: the queries at a quarter to half of their resolution,",
        "exposure × 0.6 to 1.4, noise of 5 to 15 grey levels, JPEG quality 30 to 60.",
        "",
        "## Recognition by wavelet level",
        "",
        "Rank-1 in percent, among all people and among those no network here was trained on "
        f"({unseen}, a smaller and easier gallery).",
        "A Haar approximation is the picture averaged over blocks: a small picture, in other words.",
        "",
        *common.table(
            ["face", "features", "values", "clean", "webcam", "clean, unseen people", "webcam, unseen people"],
            recognised,
        ),
        "",
        "## Detection by colour",
        "",
        "In percent: the most confident face overlaps the labelled one by half or more (hit), or there is none (none).",
        "",
        *common.table(["rule", "clean: hit", "none", "webcam: hit", "none"], found),
        "",
        "## Whom the colour rule fails",
        "",
        "UTKFace, in percent: pictures where nothing was found or the overlap is below half, and in brackets how much",
        f"of the inner face was taken for skin. *Dim* is {DIM:g} of the light. The crops are tight, so that absolute",
        "rates are those of a face that fills the picture; compare groups.",
        "",
        *common.table(["", "pictures", "Otsu", "Otsu, dim", "fixed limits", "fixed limits, dim"], groups),
        "",
        "## Claims",
        "",
        *verdicts(recognised, speed),
    ]
    common.finish(args, "lowcost_dwt", lines, ["distilledface"])


if __name__ == "__main__":
    main()
