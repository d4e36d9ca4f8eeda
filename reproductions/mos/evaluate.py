"""How well MOS finds faces it has never seen: `python -m reproductions.mos.evaluate [--weights FOLDER]`.

Prints recall and false alarms by face size on composed validation scenes, landmark and pose errors, the same on whole
validation photos of LFW at four sizes, recall by yaw on scenes with rendered heads, false alarms on faceless pictures,
and the time of one detection.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from skimage import data as pictures

from facewright.data.detection import (
    BOX,
    COLUMNS,
    FACE,
    LABEL,
    POINTS,
    POSE,
    FaceSource,
    LabelledFace,
    Scenes,
    Tally,
    labelled_face,
    load_backgrounds,
    tally,
)
from facewright.data.large_pose import LargePoseScenes
from facewright.systems.detect.mos.network import MOS

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE_EDGES = (10, 14, 20, 32, 64, 128, 250)
YAW_EDGES = (0, 30, 60, 75, 91)
CLEAR_EYES = 24.0


@dataclass(frozen=True)
class Report:
    """All tallies of one test set."""

    name: str
    tallies: list[Tally]

    def joined(self, field: str) -> NDArray[np.float64]:
        return np.concatenate([getattr(t, field) for t in self.tallies])

    def recall(self, low: float = 20, high: float = np.inf) -> float:
        sizes = self.joined("sizes")
        chosen = (sizes >= low) & (sizes < high)
        return float(self.joined("found")[chosen].mean()) if chosen.any() else float("nan")

    def recall_at(self, low: float, high: float) -> tuple[float, int]:
        """Recall of faces of 20 px and more at |yaw| in [low, high), and their number."""
        yaws = np.abs(self.joined("yaws"))
        chosen = (yaws >= low) & (yaws < high) & (self.joined("sizes") >= 20)
        return (float(self.joined("found")[chosen].mean()) if chosen.any() else float("nan")), int(chosen.sum())

    def false_alarms(self) -> float:
        return sum(t.false_alarms for t in self.tallies) / len(self.tallies)

    def point_error(self) -> NDArray[np.float64]:
        error = self.joined("point_error")
        return error[self.joined("eye_distance") >= CLEAR_EYES]

    def lines(self) -> list[str]:
        error, pose = self.point_error(), self.joined("pose_error")
        head = f"{self.name}: {len(self.tallies)} pictures, {len(self.joined('found'))} faces"
        rows = [
            head,
            f"  recall of faces >= 20 px        {self.recall():.3f}",
            f"  false alarms per picture        {self.false_alarms():.3f}",
            f"  pose error (yaw, pitch, roll)   {pose.mean():.2f} deg ({', '.join(f'{v:.2f}' for v in pose.mean(0))})",
        ]
        if len(error):
            rows.append(
                f"  point error, eyes >= {CLEAR_EYES:.0f} px     {100 * error.mean():.2f} % of the eye distance "
                f"(median {100 * np.median(error):.2f} %, {len(error)} faces)"
            )
        return rows


def evaluate_scenes(model: MOS, scenes: Scenes, count: int, threshold: float, name: str = "composed scenes") -> Report:
    """Composed validation scenes."""
    results = []
    for index in range(count):
        image, rows = scenes.scene(index)
        results.append(tally(model.detect(image, threshold=threshold, min_size=8), rows))
    return Report(name, results)


def label_row(face: LabelledFace, factor: float) -> NDArray[np.float32]:
    row = np.zeros(COLUMNS, np.float32)
    row[BOX] = (face.box + 0.5) * factor - 0.5
    row[POINTS] = ((face.points + 0.5) * factor - 0.5).ravel()
    row[POSE] = face.pose
    row[LABEL] = FACE
    return row


def evaluate_photos(model: MOS, source: FaceSource, count: int, factor: float, threshold: float) -> Report:
    """Whole validation photos of LFW, resized by `factor`."""
    rows = source.rows[0]
    results = []
    for row in rows[:: max(1, len(rows) // count)]:
        face = labelled_face(source.collections[0], int(row))
        image = cv2.resize(
            face.image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
        )
        found = model.detect(np.asarray(image, np.uint8), threshold=threshold, min_size=8)
        results.append(tally(found, label_row(face, factor)[None]))
    return Report(f"LFW photos x {factor:g}", results)


def evaluate_backgrounds(model: MOS, root: str | None, threshold: float) -> float:
    """False alarms per faceless validation picture."""
    found = [len(model.detect(image, threshold=threshold)) for image in load_backgrounds("val", root)]
    return float(np.mean(found))


def print_speed(model: MOS) -> None:
    """Time of `detect` on a 2-megapixel photo with four faces, and of a 12-megapixel one."""
    astronaut = pictures.astronaut()
    four = np.tile(astronaut, (2, 2, 1))
    for width, height in ((1632, 1224), (4000, 3000)):
        photo = np.asarray(cv2.resize(four, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        model.detect(photo)
        start = time.perf_counter()
        found = [len(model.detect(photo)) for _ in range(5)]
        print(f"  {width}x{height}: {(time.perf_counter() - start) / 5:.3f} s, {found[0]} faces found")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="folder, file or name of weights; the shipped ones when left out")
    parser.add_argument("--root", help="folder of the labelled collections (else FACEWRIGHT_DATA)")
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--threshold", type=float, default=0.5)
    args = parser.parse_args()
    model = MOS.from_pretrained(args.weights)
    scenes = Scenes("val", args.root, seed=7)
    composed = evaluate_scenes(model, scenes, args.scenes, args.threshold)
    print("\n".join(composed.lines()))
    print("  recall by size in px            ", end="")
    print("  ".join(f"{a}-{b}: {composed.recall(a, b):.3f}" for a, b in zip(SIZE_EDGES, SIZE_EDGES[1:])))
    for factor in (3.0, 1.0, 0.5, 0.25):
        report = evaluate_photos(model, scenes.source, args.photos, factor, args.threshold)
        print("\n".join(report.lines()))
    turned = LargePoseScenes("val", args.root, seed=8, rendered=1.0)
    report = evaluate_scenes(model, turned, args.scenes, args.threshold, "scenes whose pasted heads are rendered")
    print("\n".join(report.lines()))
    for low, high in zip(YAW_EDGES, YAW_EDGES[1:]):
        recall, count = report.recall_at(low, high)
        print(f"  recall at {low}-{high} deg of yaw    {recall:.3f} of {count}")
    alarms = evaluate_backgrounds(model, args.root, args.threshold)
    print(f"faceless pictures: {alarms:.3f} false alarms per picture")
    print(f"astronaut: {len(model.detect(pictures.astronaut(), threshold=args.threshold))} face found (1 is right)")
    print("time of detect:")
    print_speed(model)


if __name__ == "__main__":
    main()
