"""Speed and memory of `facewright batch`, as a markdown page.

    python -m benchmarks.batch --write
    python -m benchmarks.batch --photos 0 --many 5000      # memory alone

Speed: photos restored by one process without Ray, and by two workers of Ray, one after the other in one run, on
copies of a public-domain portrait. Memory: small made pictures in tar files through a task that needs no network, into
parquet; the memory of the program that was started, from its first results to its last.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from facewright.batch.run import Machines, run
from facewright.errors import UsageError
from facewright.tasks.declare import Checked, NetworkChoice, Shape, Task, get_task
from facewright.tasks.records import FaceRecord
from reproductions import common

if TYPE_CHECKING:
    from collections.abc import Callable

PER_TAR = 10_000
LEAST_PHOTOS = 24


@dataclass(frozen=True, slots=True)
class Brightness:
    """The mean of all pixels."""

    mean: float

    def to_dict(self) -> dict[str, float]:
        return {"mean": round(self.mean, 3)}


@dataclass(frozen=True, slots=True)
class NoOptions(Checked):
    """There are none."""


def load(session: Any, task: Task, choice: NetworkChoice) -> Callable[[Any, Any], list[Brightness]]:
    """A task that costs next to nothing."""
    return lambda photo, options: [Brightness(float(photo.rgb().mean()))]


BRIGHTNESS = Task(
    name="brightness",
    verb="brightness",
    summary="Say how bright a photo is.",
    shape=Shape.RECORDS,
    options=NoOptions,
    load="benchmarks.batch:load",
    result="benchmarks.batch:Brightness",
    record=FaceRecord,
    systems=None,
    public=False,
)


def portraits(folder: Path, count: int) -> None:
    """Copies of a portrait, each a little different."""
    from skimage import data

    rng, picture = np.random.default_rng(0), data.astronaut()
    folder.mkdir()
    for number in range(count):
        noisy = np.clip(picture + rng.normal(0, 12, picture.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:04d}.jpg", quality=85)


def tars(folder: Path, count: int) -> None:
    """Small made pictures in tar files."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for first in range(0, count, PER_TAR):
        with tarfile.open(folder / f"{first:08d}.tar", "w") as archive:
            for number in range(first, min(first + PER_TAR, count)):
                file = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(file, "JPEG")
                info = tarfile.TarInfo(f"{number:08d}.jpg")
                info.size = file.tell()
                file.seek(0)
                archive.addfile(info, file)


def speed(folder: Path, workers: int, out: Path) -> tuple[float, float]:
    """Photos a second from the first result of every worker on, and seconds for everything."""
    task = get_task("restore")
    seen: list[float] = []
    start = time.perf_counter()
    run(
        task,
        str(folder),
        str(out),
        task.options(),
        NetworkChoice(device="cpu"),
        machines=Machines(workers, photos=1, store_mb=200),
        on_outcome=lambda outcome, total: seen.append(time.perf_counter()),
    )
    warm = 4 * max(1, workers)
    return (len(seen) - warm) / (seen[-1] - seen[warm - 1]), time.perf_counter() - start


def growth(folder: Path, out: Path) -> tuple[list[float], float]:
    """Megabytes of this process at every tenth of the photos, and photos a second."""
    import psutil

    process, held, count = psutil.Process(), [], 0

    def look(outcome: Any, total: int) -> None:
        nonlocal count
        count += 1
        if count % max(1, total // 10) == 0:
            held.append(process.memory_info().rss / 1e6)

    from benchmarks import batch as module  # workers find its classes there, and not in __main__

    start = time.perf_counter()
    places, machines = (str(folder), str(out)), Machines(2, photos=250, store_mb=200)
    options, choice = module.NoOptions(), NetworkChoice()
    summary = run(module.BRIGHTNESS, *places, options, choice, machines=machines, on_outcome=look)
    assert summary.done == summary.total
    return held, summary.total / (time.perf_counter() - start)


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False)
    parser.add_argument("--photos", type=int, default=40, help="photos restored")
    parser.add_argument("--many", type=int, default=100_000, help="small pictures whose brightness is measured")
    options = parser.parse_args()
    if 0 < options.photos < LEAST_PHOTOS:
        raise UsageError(f"{options.photos} photos say nothing of speed; give {LEAST_PHOTOS} or more, or 0")
    common.begin(options)
    lines = [
        "# Speed and memory of batch runs",
        "",
        "Made by `python -m benchmarks.batch`; on two processors, one thread a process. Other programs ran beside it:",
        f"the load average was {os.getloadavg()[0]:.1f} at the start.",
        "",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        if options.photos:
            portraits(place / "portraits", options.photos)
            one, one_seconds = speed(place / "portraits", 0, place / "one")
            load_between = os.getloadavg()[0]
            two, two_seconds = speed(place / "portraits", 2, place / "two")
            same = all(p.read_bytes() == (place / "two" / p.name).read_bytes() for p in (place / "one").glob("*.jpg"))
            lines += [
                f"Restoring {options.photos} portraits of 512 × 512 pixels (`facedetail`); the outputs were "
                f"{'equal, byte by byte' if same else 'NOT EQUAL'}. Load average between the two: {load_between:.1f}.",
                "",
                "| | photos/s | seconds for everything |\n|---|---:|---:|",
                f"| one process, without Ray | {one:.3f} | {one_seconds:.0f} |",
                f"| two workers of Ray | {two:.3f} | {two_seconds:.0f} |",
                f"| ratio | {two / one:.2f} | {one_seconds / two_seconds:.2f} |",
                "",
            ]
            print("\n".join(lines), flush=True)
        if options.many:
            tars(place / "tars", options.many)
            held, rate = growth(place / "tars", place / "rows.parquet")
            lines += [
                f"{options.many} pictures of 24 × 24 pixels in tar files, their brightness into parquet, two workers: "
                f"{rate:.0f} a second.",
                "Megabytes of the program that was started, at every tenth of the pictures: "
                + ", ".join(f"{value:.0f}" for value in held)
                + f". From the first to the last it grew by {held[-1] - held[0]:.0f} MB.",
                "",
            ]
            print("\n".join(lines[-2:]), flush=True)
    common.finish(options, "batch-speed", lines, systems=("facedetail",) if options.photos else (), people=False)


if __name__ == "__main__":
    main()
