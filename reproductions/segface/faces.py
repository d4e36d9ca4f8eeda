"""The embedded parser on people it has never seen: on photos and renders with masks, on other photos by landmarks.

    python -m reproductions.segface.faces --celebahq SETS --found FOUND --write

SETS holds the folder celebahq with photos and masks, FOUND is the `celebahq.npz` of `data.people embed`. Photos of LFW
and UTKFace have no masks; what the 68 landmarks outline stands in for them. How well an outline can agree with a mask
at all is measured on the rendered faces, where both are exact: that is the most a perfect parser can reach.
Needs the labelled face collections (FACEWRIGHT_DATA); 160 faces are rendered on first use.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from facewright.data.faces import data_root
from facewright.data.landmarks import eye_distance, five_of
from facewright.data.masked_photos import LEAST_PIXELS, MaskedPhotos, whole_pair
from facewright.data.parsing import aligned_pair, crop_landmarks, grown, line, outlined, parsing_renders
from facewright.data.restoration import open_crops
from facewright.degrade import apply, sample
from facewright.face import Face
from facewright.geometry.crop import align_matrix
from facewright.geometry.similarity import transform_points
from facewright.io.image import save_rgb
from facewright.loading import load_analyser, load_parser
from facewright.metrics.segmentation import SegmentationScores
from facewright.systems.parse.taxonomy import CELEBAMASK_19
from facewright.weights.measure import record

from .. import common

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

SIZE = 256
MOST_YAW = 60.0
REGIONS = {
    "eyes": ("l_eye", "r_eye"),
    "brows": ("l_brow", "r_brow"),
    "nose": ("nose",),
    "lips": ("u_lip", "l_lip", "mouth"),
}
NOSE = [27, 31, 32, 33, 34, 35]
BROW_WIDTH, NOSE_MARGIN = 0.08, 0.09  # eye distances, chosen where outlines agree best with masks of training renders


def outlines(points68: NDArray[np.floating]) -> dict[str, Mask]:
    """What the landmarks outline in a crop."""
    unit = eye_distance(points68)
    return {
        "eyes": outlined(points68[36:42], SIZE) | outlined(points68[42:48], SIZE),
        "brows": line(points68[17:22], SIZE, BROW_WIDTH * unit) | line(points68[22:27], SIZE, BROW_WIDTH * unit),
        "nose": grown(outlined(points68[NOSE], SIZE), NOSE_MARGIN * unit),
        "lips": outlined(points68[48:60], SIZE),
    }


def region(labels: NDArray[np.uint8], names: tuple[str, ...]) -> Mask:
    return np.isin(labels, [CELEBAMASK_19.index(name) for name in names])


class Overlaps:
    """Intersections and unions of regions over many pictures; what glasses hide does not count."""

    def __init__(self) -> None:
        self.sums = {name: np.zeros(2) for name in REGIONS}

    def add(self, labels: NDArray[np.uint8], outline: Mapping[str, Mask]) -> None:
        counted = labels != CELEBAMASK_19.index("eye_g")
        self.add_masks({name: region(labels, parts) for name, parts in REGIONS.items()}, outline, counted)

    def add_masks(self, found: Mapping[str, Mask], wanted: Mapping[str, Mask], counted: Mask) -> None:
        for name in REGIONS:
            a, b = found[name] & counted, wanted[name] & counted
            self.sums[name] += ((a & b).sum(), (a | b).sum())

    def row(self) -> list[float]:
        return [float(shared / whole) for shared, whole in self.sums.values()]


def on_masks(photos: MaskedPhotos, preset: str, *, whole: bool = False) -> SegmentationScores:
    """Scores on photos with masks, damaged after they were cut to the template (or taken as a `whole`)."""
    scores, parser, rng = SegmentationScores(CELEBAMASK_19), load_parser(), np.random.default_rng(3)
    for index in range(len(photos)):
        photo = photos[index]
        image, labels = (
            whole_pair(photo.image, photo.labels, SIZE)
            if whole
            else aligned_pair(photo.image, photo.labels, photos.points5[index], SIZE)
        )
        worn = apply(image, sample(preset, rng, SIZE, scaled=True))
        scores.add(labels, parser.parse(worn[None])[0])
    return scores


def masks_section(photos: MaskedPhotos) -> tuple[list[str], dict[str, float]]:
    """The page's part on photos with masks, and numbers for the card."""
    found = {preset: on_masks(photos, preset) for preset in ("clean", "gfpgan", "severe")}
    found["clean, whole photo"] = on_masks(photos, "clean", whole=True)
    shown = photos.pixel_counts() >= LEAST_PIXELS
    lines = [
        f"## Photos with masks: {len(photos)} of CelebA-HQ",
        "",
        "People that were not trained on. F1 of all their pixels together, at 256 px; `gfpgan` is the default damage.",
        "",
        f"| class | photos | {' | '.join(found)} |",
        f"|---|---:|{'---:|' * len(found)}",
    ]
    for number, name in enumerate(CELEBAMASK_19):
        values = " | ".join(f"{scores.f1[name]:.3f}" for scores in found.values())
        lines.append(f"| {name} | {int(shown[:, number].sum())} | {values} |")
    means = " | ".join(f"**{scores.mean_f1:.3f}**" for scores in found.values())
    lines += [f"| **mean without background** | | {means} |", ""]
    clean, worn = found["clean"], found["gfpgan"]
    metrics = {"celebahq_mean_f1_18_classes": clean.mean_f1, "celebahq_mean_f1_gfpgan": worn.mean_f1}
    metrics |= {f"celebahq_f1_{name}": clean.f1[name] for name in ("eye_g", "hat", "hair", "ear_r", "neck_l")}
    return lines, {name: round(value, 3) for name, value in metrics.items()}


def on_renders() -> tuple[SegmentationScores, Overlaps, Overlaps]:
    """Scores by exact masks, and how far outlines agree with the exact and with the predicted masks."""
    shards = parsing_renders("val", data_root())
    scores, exact, found = SegmentationScores(CELEBAMASK_19), Overlaps(), Overlaps()
    parser = load_parser()
    for index in range(len(shards)):
        truth = shards.truth(index)
        if abs(truth["pose"]["yaw"]) > MOST_YAW:
            continue
        five = np.asarray(truth["points5"]["xy"], np.float64)
        image, labels = aligned_pair(shards.picture(index), shards.mask(index), five, SIZE)
        guess = parser.parse(image[None])[0]
        scores.add(labels, guess)
        if abs(truth["pose"]["yaw"]) <= MOST_YAW / 2:
            points = transform_points(align_matrix(five, SIZE), np.asarray(truth["landmarks68"]["xy"], np.float64))
            exact.add(labels, outlines(points))
            found.add(guess, outlines(points))
    return scores, exact, found


def on_photos(name: str, count: int, preset: str) -> tuple[Overlaps, list[NDArray[np.uint8]]]:
    """How far outlines agree with the predicted masks on validation people, and pictures to look at."""
    cache = open_crops(name, "val", SIZE)  # type: ignore[arg-type]
    rng = np.random.default_rng(3)
    parser, overlaps, cells = load_parser(), Overlaps(), []
    for entry in rng.choice(len(cache.rows), count, replace=False):
        image, _ = cache.crop(int(entry))
        worn = apply(image, sample(preset, rng, SIZE, scaled=True))
        guess = parser.parse(worn[None])[0]
        overlaps.add(guess, outlines(crop_landmarks(cache.collection.labels["landmarks68"][cache.rows[entry]], SIZE)))
        cells.append(overlay(worn, guess))
    return overlaps, cells


def of_landmarker(name: str, count: int) -> Overlaps:
    """How far outlines of the embedded landmarker's points agree with those of the labels, on the same faces."""
    cache = open_crops(name, "val", SIZE)  # type: ignore[arg-type]
    landmarker, overlaps = load_analyser().landmarker, Overlaps()
    for entry in np.random.default_rng(3).choice(len(cache.rows), count, replace=False):
        image, _ = cache.crop(int(entry))
        points = crop_landmarks(cache.collection.labels["landmarks68"][cache.rows[entry]], SIZE)
        five = five_of(points).astype(np.float32)
        face = Face(np.array([*five.min(0), *five.max(0)], np.float32), 1.0, five)
        found = landmarker.locate(image, [face])[0].points
        overlaps.add_masks(outlines(found), outlines(points), np.ones((SIZE, SIZE), bool))
    return overlaps


def overlay(image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    hues = (np.arange(len(CELEBAMASK_19)) * 67 % 180).astype(np.uint8)
    colours = cv2.cvtColor(
        np.stack([hues, np.full_like(hues, 220), np.full_like(hues, 255)], 1)[None], cv2.COLOR_HSV2RGB
    )[0]
    mixed = (0.5 * image + 0.5 * np.asarray(colours)[labels]).astype(np.uint8)
    return np.vstack([image, np.where(labels[..., None] > 0, mixed, image)])


def milliseconds() -> float:
    parser = load_parser()
    crop = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)
    parser.parse(crop)
    times = []
    for _ in range(15):
        start = time.process_time()
        parser.parse(crop)
        times.append(time.process_time() - start)
    return 1000 * float(np.median(times))


def main() -> None:
    options = common.options(__doc__, quick="", arms=False, pictures="50 masks of real faces")
    options.add_argument("--photos", type=int, default=300)
    options.add_argument("--celebahq", type=Path, help="Folder that holds celebahq with its masks.")
    options.add_argument("--found", type=Path, help="The celebahq.npz of data.people embed.")
    chosen = options.parse_args()
    common.begin(chosen)
    scores, exact, found = on_renders()
    rows = [("exact masks of renders", exact.row()), ("parser on renders", found.row())]
    cells: list[NDArray[np.uint8]] = []
    for name, title in (("lfw", "LFW"), ("utkface", "UTKFace")):
        for preset in ("clean", "vqfr", "severe"):
            overlaps, pictures = on_photos(name, chosen.photos, preset)
            rows.append((f"parser on {title}, {preset}", overlaps.row()))
            if preset == "clean":
                rows.append((f"landmarker on {title}, clean", of_landmarker(name, chosen.photos).row()))
            cells += pictures[:25] if preset == "clean" else []
    if chosen.pictures:
        sheet = np.vstack([np.hstack(cells[i : i + 10]) for i in range(0, len(cells) // 10 * 10, 10)])
        chosen.pictures.mkdir(parents=True, exist_ok=True)
        save_rgb(sheet[::2, ::2], chosen.pictures / "masks.png", overwrite=True)
    masks: list[str] = []
    metrics = {"renders_mean_f1_19_classes": round(scores.mean_f1, 3)}
    if chosen.celebahq and chosen.found:
        masks, measured = masks_section(MaskedPhotos(chosen.celebahq, chosen.found, "val"))
        metrics |= measured
    text = report(rows, scores, masks)
    if command := common.finish(chosen, "parser", text, ["segface", "facewarp"]):
        data = f"{chosen.photos} photos each of LFW's and UTKFace's validation people, rendered faces"
        record("segface", "faces", metrics | card_numbers(rows, scores), command=command, data=data)


def card_numbers(rows: list[tuple[str, list[float]]], scores: SegmentationScores) -> dict[str, float]:
    """F1 by exact masks, and agreement with landmarks on photos, of the parser and of another set of landmarks."""
    f1 = {name: value for name, value in scores.f1.items() if name not in ("background", "ear_r", "neck_l")}
    found = {
        "renders_mean_f1_19_classes": scores.mean_f1,
        "renders_mean_f1_without_earring_necklace": float(np.nanmean(list(f1.values()))),
    }
    kinds = {"parser on {}, clean": "{}_iou_{}", "landmarker on {}, clean": "{}_landmarks_iou_{}"}
    for title, row in rows:
        for pattern, key in kinds.items():
            for name in ("LFW", "UTKFace"):
                if title == pattern.format(name):
                    found |= {key.format(name.lower(), part): value for part, value in zip(REGIONS, row)}
    return found


def report(rows: list[tuple[str, list[float]]], scores: SegmentationScores, masks: list[str]) -> str:
    lines = [
        "# SegFace, embedded weights: results on unseen people",
        "",
        "```",
        "python -m reproductions.segface.faces --celebahq SETS --found FOUND --write",
        "```",
        "",
        *masks,
        "## Photos without masks, and renders",
        "",
        "LFW and UTKFace have no masks; what the parser says is compared with what the 68 landmarks outline (IoU, all",
        "pixels of all pictures together). The first row is the agreement of exact masks with exact landmarks on",
        "rendered faces: the most that can be reached. Landmarks of photos are themselves good to some percent of",
        "the eye distance. `vqfr` and `severe` are degradation presets; LFW and UTKFace are validation people. The",
        "landmarker's rows compare outlines of two sets of landmarks of the same faces, and say how much of the",
        "disagreement is the landmarks'.",
        "",
        f"| | {' | '.join(REGIONS)} |",
        f"|---|{'---:|' * len(REGIONS)}",
        *(f"| {title} | {' | '.join(f'{v:.3f}' for v in row)} |" for title, row in rows),
        "",
        f"Rendered faces of other people, up to {MOST_YAW:.0f} degrees of yaw, by exact masks (F1):",
        "",
        "| class | F1 |",
        "|---|---:|",
        *(f"| {name} | {value:.3f} |" for name, value in scores.f1.items()),
        f"| **mean without background** | **{scores.mean_f1:.3f}** |",
        "",
        f"{milliseconds():.0f} ms of processor time for a face of {SIZE} px.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
