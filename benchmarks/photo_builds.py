"""Two builds of facewright on the same photos: time from process start, time warm, and memory.

    python -m benchmarks.photo_builds --against ../other/src [--repeats 5] [--write]

A 2-megapixel photo with four soft faces and a portrait of 512 px are restored by this build and by the one at the given
source folder, in turn. Wall time is what a user waits; processor time tells builds apart on a busy machine, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facewright.io.image import save_rgb
from facewright.pipelines.demo import astronaut
from reproductions import common

from .restore import group_photo

HERE = Path(__file__).resolve().parents[1] / "src"
SCRIPT = """
import json, resource, sys, time
source, target, repeats, wall, busy = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), 0.0
import facewright as fw
seconds = []
for number in range(repeats + 1):
    result = fw.restore(source, force=True)
    result.save(target, overwrite=True)
    now, used = time.time(), time.process_time()
    seconds.append((now - wall, used - busy))
    wall, busy = now, used
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "peak": peak, "faces": result.restored_count}))
"""


def soft(picture: np.ndarray, by: float) -> np.ndarray:
    """A picture made smaller and enlarged again."""
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (round(width / by), round(height / by)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def run(source: Path, photo: Path, target: Path, repeats: int) -> dict[str, Any]:
    """What `SCRIPT` prints under the build at a source folder; its first call counts from the start of the process."""
    environment = os.environ | {"PYTHONPATH": str(source)}
    command = [sys.executable, "-c", SCRIPT, str(photo), str(target), str(repeats), str(time.time())]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(photo: Path, other: Path, folder: Path, repeats: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of each build over rounds in which they take turns."""
    rows: dict[str, list[dict[str, Any]]] = {"this": [], "the other": []}
    for number in range(rounds):
        for name, source in (("this", HERE), ("the other", other)):
            rows[name].append(run(source, photo, folder / f"{number}.png", repeats))
    found = {}
    for name, runs in rows.items():
        warm = np.concatenate([np.array(r["seconds"][1:]) for r in runs])
        first = np.array([r["seconds"][0] for r in runs])
        found[name] = {
            "warm, s": float(np.median(warm[:, 0])),
            "warm, processor s": float(np.median(warm[:, 1])),
            "from process start, s": float(np.median(first[:, 0])),
            "from process start, processor s": float(np.median(first[:, 1])),
            "peak memory, MB": float(np.median([r["peak"] for r in runs])),
            "faces restored": float(runs[0]["faces"]),
        }
    return found


def main() -> int:
    parser = common.options(__doc__, quick="", arms=False)
    parser.add_argument("--against", type=Path, required=True, help="source folder of the other build")
    parser.add_argument("--repeats", type=int, default=5, help="warm calls per process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each build")
    options = parser.parse_args()
    common.begin(options)
    lines = ["# Photos: this build and another", "", "Made by `python -m benchmarks.photo_builds`; see there.", ""]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, picture in (("2 megapixels, four soft faces", group_photo()), ("portrait, 512 px", astronaut())):
            path = folder / "photo.jpg"
            save_rgb(soft(picture, 2.5), path, overwrite=True)
            found = compare(path, options.against.resolve(), folder, options.repeats, options.rounds)
            rows = [
                [key, *(f"{found[build][key]:.4g}" for build in found), f"{value / found['the other'][key]:.2f}"]
                for key, value in found["this"].items()
            ]
            lines += [f"**{title}**", "", *common.table(["", *found, "ratio"], rows), ""]
    common.finish(options, "photo-builds", lines, ["frgp", "facedetail"], people=False, given="--against OTHER/src")
    return 0


if __name__ == "__main__":
    sys.exit(main())
