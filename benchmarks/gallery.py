"""Speed of the gallery: enrolment, and search exactly and by the index, as a markdown table.

    python -m benchmarks.gallery --write
    python -m benchmarks.gallery --people 10000 --in-file 0     # search alone, nothing written
    python -m benchmarks.gallery --scale 1000000 --write        # a million people in memory and in LanceDB

People are random unit vectors, one picture each, which is the hardest distribution to index. A probe is the vector of
somebody enrolled, turned until its cosine with the original is that of a hard (0.4) or an ordinary (0.6) true match.
Recall is the share of probes for which the index names the same person as exact search. Searches are of one probe at
a time, in milliseconds of processor time, which other programs do not disturb; everything else is time of the clock.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from facewright.gallery import Gallery, RecogniserId, Sample
from facewright.gallery.index import Templates, turned
from reproductions import common

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

DIMENSION = 128
BATCH = 1000
PROBES = 200
HEADER = (
    "| people | exact p50 / p99 | index p50 / p99 | recall at 0.4 | recall at 0.6 | sketching s "
    "| enrolled/s in batches | one by one | open and search s | remove s |\n|" + "---:|" * 10
)
INTRODUCTION = [
    "# Speed of the gallery",
    "",
    "Made by `benchmarks/gallery.py`. Random unit vectors of 128 numbers, one picture of each person, which is",
    "the hardest distribution to index. Exact and index: milliseconds of processor time for one probe. Recall: share",
    "of probes, turned to a cosine of 0.4 or 0.6 with somebody enrolled, for which the index names the same person as",
    "exact search. The columns from *sketching* on are time of the clock; other programs ran beside it.",
    "",
]


def random_people(count: int) -> NDArray[np.float32]:
    values = np.random.default_rng(0).standard_normal((count, DIMENSION), dtype=np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def percentiles(
    search: Callable[[NDArray[np.float32]], object],
    probes: NDArray[np.float32],
    clock: Callable[[], float] = time.process_time,
) -> str:
    """Median and 99th percentile of the time of one search, in milliseconds."""
    times = []
    for probe in probes:
        start = clock()
        search(probe[None])
        times.append(1e3 * (clock() - start))
    return f"{np.percentile(times, 50):.2f} / {np.percentile(times, 99):.2f}"


def measure_search(vectors: NDArray[np.float32]) -> list[str]:
    """Exact times, index times, recall of hard and of ordinary matches, seconds to make the sketches."""
    templates = Templates(DIMENSION, index_from=1)
    start = time.perf_counter()
    templates.put(np.arange(len(vectors)), vectors)
    seconds = time.perf_counter() - start
    rng = np.random.default_rng(1)
    probes = turned(vectors[rng.choice(len(vectors), PROBES)], 0.6, rng)
    exact = percentiles(lambda probe: templates.search_exactly(probe, 5), probes)
    index = percentiles(lambda probe: templates.search(probe, 5), probes)
    recalls = [f"{templates.measure_recall(PROBES, cosine=cosine):.3f}" for cosine in (0.4, 0.6)]
    return [exact, index, *recalls, f"{seconds:.1f}"]


def measure_file(vectors: NDArray[np.float32], folder: Path) -> list[str]:
    """Enrolled per second in batches and one by one, seconds to open and search first, seconds to remove somebody."""
    recogniser = RecogniserId("benchmark", "0" * 64, DIMENSION)
    place = folder / f"{len(vectors)}.gallery"
    with Gallery.create(place, recogniser) as gallery:
        start = time.perf_counter()
        for first in range(0, len(vectors), BATCH):
            part = vectors[first : first + BATCH]
            gallery.enrol([Sample(f"person {first + i}", vector) for i, vector in enumerate(part)])
        in_batches = len(vectors) / (time.perf_counter() - start)
        start = time.perf_counter()
        for i in range(100):
            gallery.enrol([Sample(f"single {i}", vectors[i])])
        one_by_one = 100 / (time.perf_counter() - start)
    start = time.perf_counter()
    with Gallery.open(place, recogniser) as gallery:
        gallery.search(vectors[:1])
        opening = time.perf_counter() - start
        start = time.perf_counter()
        gallery.remove(["single 7"])
        removal = time.perf_counter() - start
    place.unlink()
    return [f"{in_batches:.0f}", f"{one_by_one:.0f}", f"{opening:.1f}", f"{removal:.1f}"]


SCALE_HEADER = (
    "| store | people | enrolled/s | build s | search p50 / p99 | by the clock | recall at 0.4 | recall at 0.6 "
    "| memory MB | disk MB | remove s |\n|---|" + "---:|" * 10
)
SCALE_INTRODUCTION = [
    "# Speed of large galleries",
    "",
    "Made by `python -m benchmarks.gallery --scale 1000000`. Each person has one picture; its vector of 128 numbers is",
    "random, and lies around the centre of a group of fifty people who resemble each other (cosine 0.25 on average).",
    "A probe is somebody's vector, turned to a cosine of 0.4 or 0.6 with it. Recall: the share of probes for which the",
    "index names the same person as exact search. Build: processor seconds of making the index. Search: milliseconds",
    "of processor time of one probe, and of the clock. Memory: by how much the process grew; of LanceDB, which",
    "searches on the disk, it was not measured. Enrolling and removing are time of the clock. LanceDB",
    "splits the cells of its index when somebody is removed, and searches all of them, which takes longer than this.",
    "",
]


def grouped_people(count: int, size: int = 50) -> NDArray[np.float32]:
    """People in groups who resemble each other."""
    rng = np.random.default_rng(0)
    centres = random_people(max(1, count // size))
    around = rng.standard_normal((count, DIMENSION), dtype=np.float32)
    around /= np.linalg.norm(around, axis=1, keepdims=True)
    mixed = 0.5 * centres[np.arange(count) % len(centres)] + 0.75**0.5 * around
    return np.asarray(mixed / np.linalg.norm(mixed, axis=1, keepdims=True), np.float32)


def memory() -> float:
    """Megabytes that this process holds."""
    import psutil

    return float(psutil.Process().memory_info().rss / 1e6)


def measure_scale(vectors: NDArray[np.float32], folder: Path) -> list[str]:
    """A row for the sketches in memory, and one for LanceDB."""
    rng = np.random.default_rng(1)
    rows = rng.choice(len(vectors), PROBES, replace=False)
    probes = {cosine: turned(vectors[rows], cosine, rng) for cosine in (0.4, 0.6)}
    before, start = memory(), time.process_time()
    templates = Templates(DIMENSION, index_from=1)
    templates.put(np.arange(len(vectors)), vectors)
    build = time.process_time() - start
    exact = {c: [hits[0][0] for hits in templates.search_exactly(p, 1)] for c, p in probes.items()}
    found = {c: [hits[0][0] for hits in templates.search(p, 1)] for c, p in probes.items()}
    search = partial(templates.search, k=1)
    times = [percentiles(search, probes[0.6]), percentiles(search, probes[0.6], time.perf_counter)]
    line = ["sketches in memory", str(len(vectors)), "", f"{build:.1f}", *times, *_recalls(found, exact)]
    lines = ["| " + " | ".join([*line, f"{memory() - before:.0f}", "", ""]) + " |"]
    del templates
    return [*lines, measure_lance(vectors, probes, exact, folder)]


def _recalls(found: dict[float, list[int]], exact: dict[float, list[int]]) -> list[str]:
    return [f"{np.mean([a == b for a, b in zip(found[c], exact[c], strict=True)]):.3f}" for c in (0.4, 0.6)]


def measure_lance(
    vectors: NDArray[np.float32],
    probes: dict[float, NDArray[np.float32]],
    exact: dict[float, list[int]],
    folder: Path,
) -> str:
    from facewright.gallery.lance import LanceStore

    recogniser = RecogniserId("benchmark", "0" * 64, DIMENSION)
    place, batch = folder / "people.lance", 50_000
    store = LanceStore.create(place, recogniser)
    store._index_from = len(vectors) + 1
    start = time.perf_counter()
    for first in range(0, len(vectors), batch):
        part = vectors[first : first + batch]
        store.enrol([Sample(f"person {first + i}", vector) for i, vector in enumerate(part)])
        print(f"  {first + len(part)} enrolled", flush=True)
    enrolled = len(vectors) / (time.perf_counter() - start)
    start = time.process_time()
    store._build_index()
    build = time.process_time() - start
    store = LanceStore(place)
    found = {c: [int(store.search(p[None], 1)[0][0].person[7:]) for p in ps] for c, ps in probes.items()}
    search = partial(store.search, k=1)
    times = [percentiles(search, probes[0.6]), percentiles(search, probes[0.6], time.perf_counter)]
    disk = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) / 1e6
    start = time.perf_counter()
    store.remove(["person 7"])
    removal = time.perf_counter() - start
    line = ["LanceDB", str(len(vectors)), f"{enrolled:.0f}", f"{build:.1f}", *times, *_recalls(found, exact)]
    return "| " + " | ".join([*line, "", f"{disk:.0f}", f"{removal:.0f}"]) + " |"


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False)
    parser.add_argument("--people", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--in-file", type=int, default=10_000, help="up to so many people are enrolled in a file, too")
    parser.add_argument("--scale", type=int, help="so many people in memory and in LanceDB instead")
    options = parser.parse_args()
    common.begin(options)
    if options.scale:
        with tempfile.TemporaryDirectory() as folder:
            lines = [SCALE_HEADER, *measure_scale(grouped_people(options.scale), Path(folder))]
        print("\n".join(lines))
        common.finish(options, "gallery-scale", [*SCALE_INTRODUCTION, *lines], people=False)
        return
    lines = [HEADER]
    print(HEADER)
    for count in options.people:
        vectors = random_people(count)
        with tempfile.TemporaryDirectory() as folder:
            written = measure_file(vectors, Path(folder)) if count <= options.in_file else [""] * 4
        lines.append("| " + " | ".join([str(count), *measure_search(vectors), *written]) + " |")
        print(lines[-1], flush=True)
    common.finish(options, "gallery-speed", [*INTRODUCTION, *lines], people=False)


if __name__ == "__main__":
    main()
