"""A busy computer and pictures of many sizes: the detector's time beside other processes, and its memory.

python -m benchmarks.busy [--before ../other/src] [--write]

The detector looks at one photo of 960×640 with all processors, alone and beside one and two neighbours that never rest:
a loop, and a loop and another torch process. All measurements are taken in one run, in turns, each in a process of its
own; times are medians. `--before` names the source folder of another build to compare with.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facewright.processors import processors
from reproductions import common

HERE = Path(__file__).resolve().parents[1] / "src"
SETTINGS = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")

DETECT = """
import json, sys, time
import facewright as fw
import numpy as np
from skimage import data
rounds = int(sys.argv[1])
model = fw.create("mos", pretrained=True)
photo = np.ascontiguousarray(np.tile(data.astronaut(), (2, 2, 1))[:640, :960])
for _ in range(3):
    model.detect(photo)
print("ready", flush=True)
sys.stdin.readline()
times = []
while len(times) < rounds and (sum(times) < 15 or len(times) < 3):
    start = time.perf_counter()
    model.detect(photo)
    times.append(time.perf_counter() - start)
print(json.dumps(times), flush=True)
"""
SIZES = """
import json, resource, sys, time
import facewright as fw
import numpy as np
from skimage import data
count, many = int(sys.argv[1]), sys.argv[2] == "many"
model = fw.create("mos", pretrained=True)
picture = np.tile(data.astronaut(), (2, 2, 1))
rng = np.random.default_rng(0)
sides = rng.permutation(500 * 500)[:count]
sizes = [(400 + int(s) // 500, 400 + int(s) % 500) if many else (650, 650) for s in sides]
start, area, held = time.process_time(), 0, 0
for height, width in sizes:
    model.detect(np.ascontiguousarray(picture[:height, :width]))
    area += height * width
    with open("/proc/self/statm") as file:
        held = max(held, int(file.read().split()[1]) * resource.getpagesize())
print(json.dumps([held / 1e6, (time.process_time() - start) / area * 1e9]))
"""
LOOP = "while True: pass"
TORCH = """
import torch
a, b = torch.rand(1024, 1024), torch.nn.Conv2d(32, 32, 3, padding=1)
x = torch.rand(1, 32, 160, 160)
with torch.inference_mode():
    while True:
        a @ a; b(x).relu()
"""
NEIGHBOURS = {"none": [], "a loop": [LOOP], "a loop and a torch process": [LOOP, TORCH]}


@dataclass(frozen=True)
class Build:
    name: str
    source: Path
    variables: dict[str, str]

    def start(self, code: str, *arguments: object) -> subprocess.Popen[str]:
        plain = {name: value for name, value in os.environ.items() if name not in SETTINGS}
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=plain | {"PYTHONPATH": str(self.source)} | self.variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


def milliseconds(build: Build, neighbours: list[str], rounds: int) -> list[float]:
    """Times of single calls; the neighbours start once the network is warm."""
    process = build.start(DETECT, rounds)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    plain = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    others = [subprocess.Popen([sys.executable, "-c", code], env=plain) for code in neighbours]
    try:
        process.stdin.write("\n")
        process.stdin.flush()
        times = [1e3 * seconds for seconds in json.loads(process.stdout.readline())]
        print(f"{build.name}, {len(neighbours)} neighbours: {np.median(times):.0f} ms", file=sys.stderr, flush=True)
        return times
    finally:
        for other in others:
            other.send_signal(signal.SIGKILL)
            other.wait()
        process.communicate()


def beside_neighbours(builds: list[Build], turns: int, rounds: int) -> list[str]:
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(turns):
        for name, codes in NEIGHBOURS.items():
            for build in builds:
                times.setdefault((build.name, name), []).extend(milliseconds(build, codes, rounds))
    lines = ["| build | neighbours | ms a call | worst | × idle |", "| --- | --- | --- | --- | --- |"]
    for (variant, name), values in times.items():
        middle, idle = np.median(values), np.median(times[variant, "none"])
        lines.append(f"| {variant} | {name} | {middle:.0f} | {max(values):.0f} | {middle / idle:.1f} |")
    return lines


def of_many_sizes(builds: list[Build], count: int) -> list[str]:
    lines = [f"| build | {count} photos of | peak MB | CPU ms per megapixel |", "| --- | --- | --- | --- |"]
    for build in builds:
        for sizes, text in (("one", "one size"), ("many", f"{count} sizes")):
            memory, time = json.loads(build.start(SIZES, count, sizes).communicate()[0])
            lines.append(f"| {build.name} | {text} | {memory:.0f} | {time:.0f} |")
    return lines


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False)
    parser.add_argument("--before", type=Path, help="source folder of a build to compare with")
    parser.add_argument("--spin", nargs="*", default=[], help="further values of GOMP_SPINCOUNT to try")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=15, help="calls per turn, fewer where they take over 15 s")
    parser.add_argument("--photos", type=int, default=500, help="photos of the memory table; 0 leaves it out")
    options = parser.parse_args()
    builds = [Build("this", HERE, {})]
    builds += [Build(f"this, spin {value}", HERE, {"GOMP_SPINCOUNT": value}) for value in options.spin]
    if options.before:
        builds.append(Build("before", options.before.resolve(), {}))
    text = ["# A busy computer, and pictures of many sizes", "", "Made by `python -m benchmarks.busy`.", ""]
    load = os.getloadavg()[0]
    text += [f"{processors()} processors; other work on the machine at the start: load {load:.1f}.", ""]
    text += beside_neighbours(builds, options.turns, options.rounds)
    if options.photos:
        compared = [build for build in builds if "spin" not in build.name]
        text += ["", *of_many_sizes(compared, options.photos)]
    common.finish(options, "busy", text, people=False)


if __name__ == "__main__":
    main()
