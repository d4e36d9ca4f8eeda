"""CPU milliseconds to degrade one crop, per preset, on one core: `python -m benchmarks.degrade [--size 256]`."""

from __future__ import annotations

import argparse
import time

import cv2
import numpy as np
from skimage import data

from facewright.degrade import PRESETS, apply, sample


def milliseconds(crop: np.ndarray, preset: str, draws: int, *, scaled: bool) -> np.ndarray:
    """CPU time of each of `draws` different degradations, drawing included."""
    times = np.empty(draws)
    for seed in range(draws):
        start = time.thread_time()
        apply(crop, sample(preset, seed, crop.shape[:2], scaled=scaled))
        times[seed] = time.thread_time() - start
    return times * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--draws", type=int, default=300)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    # Once a process has freed a large array, glibc keeps such memory instead of faulting in new pages for every
    # temporary picture: the state of any process that loads photos.
    np.ones(2**21)
    crop = cv2.resize(data.astronaut()[:300, 80:380], (arguments.size, arguments.size), interpolation=cv2.INTER_AREA)
    print(f"{arguments.size} px crop, one core, {arguments.draws} draws: CPU ms per crop, mean (95th percentile)")
    print(f"{'preset':24}{'raw ranges':>18}{'scaled to crop':>18}")
    for preset in PRESETS:
        milliseconds(crop, preset, 5, scaled=False)
        cells = [milliseconds(crop, preset, arguments.draws, scaled=scaled) for scaled in (False, True)]
        print(f"{preset:24}" + "".join(f"{t.mean():10.2f} ({np.percentile(t, 95):.1f})" for t in cells))


if __name__ == "__main__":
    main()
