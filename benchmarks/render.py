"""Speed and memory of the renderer: `python -m benchmarks.render [--model PATH] [--write]`.

Pictures of random scenes are whole: person, dress, light with shadows, camera effects and truth. Faces are bare:
vertices from coefficients, pose, normals, projection, rasterisation, interpolation, spherical harmonics light and
antialiased silhouettes. The last column compares the rasteriser alone with a loop over triangles that tests the pixels
of each bounding box with numpy. All times are processor time on one thread, so that other work on the machine counts
less; of several processes that run together the rates add up.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from facewright.render import (
    Camera,
    MorphableData,
    MorphableModel,
    Projected,
    Renderer,
    SceneSampler,
    antialias,
    place,
    rasterise,
    rotation_from_pose,
    sh_irradiance,
    sh_of_light,
)
from facewright.render.jobs import load_model
from reproductions import common

if TYPE_CHECKING:
    from collections.abc import Callable

POSE = torch.tensor([[20.0, 5.0, 0.0]])
SIZES = (128, 256)
LEVELS = (0, 1, 2)


def single_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def pictures(model: str, size: int, first: int, count: int) -> tuple[float, float]:
    """Pictures for a second of processor time, of a new person each, and the peak memory of the process in MiB."""
    data = load_model(model)
    sampler, renderer = SceneSampler(data, seed=1, size=size), Renderer(data)
    renderer.render(sampler.scene(first + count))
    begin = time.process_time()
    for index in range(first, first + count):
        renderer.render(sampler.scene(index))
    seconds = time.process_time() - begin
    return count / seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def together(model: str, size: int, processes: int, count: int) -> tuple[float, float]:
    """Pictures for a second and the largest memory of one process, of several that render at the same time."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=single_thread) as pool:
        jobs = [pool.submit(pictures, model, size, 100 * k, count) for k in range(processes)]
        rates, memory = zip(*(job.result() for job in jobs))
    return sum(rates), max(memory)


class Face:
    """One face in front of one camera."""

    def __init__(self, data: MorphableData, size: int) -> None:
        self.model, self.size = MorphableModel(data), size
        generator = torch.Generator().manual_seed(0)
        self.identity = torch.randn(1, len(data.identity), generator=generator)
        self.expression = torch.rand(1, len(data.expression_names), generator=generator) * 0.2
        self.rotation = rotation_from_pose(POSE)
        self.camera = Camera.from_fov(size, 20, distance=0.6 / data.unit)
        direction = F.normalize(torch.tensor([0.4, 0.5, 0.8]), dim=0)
        self.light = sh_of_light(direction, torch.full((3,), 2.5))
        self.screen = self.camera.project(self.vertices())

    def vertices(self) -> torch.Tensor:
        return place(self.model.vertices(self.identity, self.expression), self.rotation)

    def picture(self) -> torch.Tensor:
        vertices = self.vertices()
        screen = self.camera.project(vertices)
        seen = rasterise(screen, self.model.topology, self.size, self.size, cull=True)
        normals = F.normalize(seen.interpolate(self.model.normals(vertices)), dim=-1)
        colours = sh_irradiance(normals, self.light) * (0.5 / torch.pi)
        return antialias(seen.image(colours, 0.2), seen, screen)

    def rasterised(self) -> torch.Tensor:
        return rasterise(self.screen, self.model.topology, self.size, self.size, cull=True).triangle_map()

    def looped(self) -> np.ndarray:
        return triangle_loop(self.screen, self.model.triangles.numpy(), self.size)


def triangle_loop(screen: Projected, triangles: np.ndarray, size: int) -> np.ndarray:
    """(size, size) index of the nearest front-facing triangle, −1 where there is none, one triangle after the other."""
    xy, nearness = screen.xy[0].numpy(), 1 / screen.depth[0].numpy()
    nearest, seen = np.zeros((size, size), np.float32), np.full((size, size), -1)
    for number, corners in enumerate(triangles):
        (ax, ay), (bx, by), (cx, cy) = xy[corners]
        area = (cx - ax) * (by - ay) - (cy - ay) * (bx - ax)
        left, right = max(int(np.ceil(min(ax, bx, cx))), 0), min(int(np.floor(max(ax, bx, cx))), size - 1)
        top, bottom = max(int(np.ceil(min(ay, by, cy))), 0), min(int(np.floor(max(ay, by, cy))), size - 1)
        if area <= 0 or left > right or top > bottom:
            continue
        x, y = np.arange(left, right + 1)[None], np.arange(top, bottom + 1)[:, None]
        a = ((x - bx) * (cy - by) - (y - by) * (cx - bx)) / -area
        b = ((x - cx) * (ay - cy) - (y - cy) * (ax - cx)) / -area
        here = np.tensordot(np.stack([a, b, 1 - a - b], -1), nearness[corners], 1)
        block = np.s_[top : bottom + 1, left : right + 1]
        wins = (np.minimum(np.minimum(a, b), 1 - a - b) >= 0) & (here > nearest[block])
        nearest[block] = np.where(wins, here, nearest[block])
        seen[block] = np.where(wins, number, seen[block])
    return seen


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """The median over `repeats` runs; the first of several only warm up."""
    times = []
    for _ in range(repeats + 2 * (repeats > 1)):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return float(np.median(times[-repeats:])) * 1e3


def peak_mebibytes(work: Callable[[], object]) -> float:
    """Largest sum of tensors alive at once, as PyTorch's allocator reports it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    return float(alive.max()) / 2**20


def scene_rows(model: str, count: int) -> list[str]:
    rows = []
    for size in SIZES:
        (one, memory), (two, _) = (together(model, size, processes, count) for processes in (1, 2))
        rows.append(f"| {size} | {one:.2f} | {two:.2f} | {memory:.0f} |")
    return rows


@torch.inference_mode()
def face_rows(data: MorphableData, repeats: int) -> list[str]:
    rows, model = [], data
    for level in LEVELS:
        for size in SIZES:
            face = Face(model, size)
            whole, raster = (milliseconds(work, repeats) for work in (face.picture, face.rasterised))
            loop, memory = milliseconds(face.looped, 1), peak_mebibytes(face.picture)
            cells = (level, f"{len(model.triangles):,}", size, f"{whole:.1f}", f"{memory:.0f}", f"{raster:.1f}")
            rows.append("| " + " | ".join(map(str, (*cells, f"{loop / raster:.0f}"))) + " |")
        model = model.decimated(1)
    return rows


def page(model: str, count: int, repeats: int) -> str:
    scenes, data = scene_rows(model, count), load_model(model)
    lines = [
        "# Speed of the renderer",
        "",
        "```",
        "python -m benchmarks.render --model path/to/FaceXModel --write",
        "```",
        "",
        "Processor time on one thread for each process; other work ran on the machine at the same time.",
        "",
        f"## Pictures of random scenes ({data.name}, {count} of a new person each)",
        "",
        "| px | pictures/s, 1 process | pictures/s, 2 processes | peak MiB of a process |",
        "| ---: | ---: | ---: | ---: |",
        *scenes,
        "",
        "With two processes the rates of both are added; that holds where each has a core to itself.",
        "",
        "## One bare face by level of decimation",
        "",
        "| level | triangles | px | ms | peak MiB of tensors | rasteriser ms | loop over triangles ÷ rasteriser |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *face_rows(data, repeats),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False, threads=1)
    parser.add_argument("--model", default="coarse", help="folder or .npz file of ICT-FaceKit")
    parser.add_argument("--count", type=int, default=8, help="pictures for each process")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    common.begin(arguments)
    single_thread()
    common.finish(arguments, "render-speed", page(arguments.model, arguments.count, arguments.repeats), people=False)


if __name__ == "__main__":
    main()
