"""Milliseconds and memory to render one face: `python benchmarks/render.py [--ict PATH]`.

Each picture is whole: vertices from coefficients, pose, normals, projection, rasterisation, interpolation, spherical
harmonics light and antialiased silhouettes. The last column compares the rasteriser alone with a loop over triangles
that tests the pixels of each bounding box with numpy. With one thread CPU time is measured, with two the clock.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from facewright.render import (
    Camera,
    MorphableData,
    MorphableModel,
    Projected,
    antialias,
    coarse_face,
    load_ict,
    place,
    rasterise,
    rotation_from_pose,
    sh_irradiance,
    sh_of_light,
)

if TYPE_CHECKING:
    from collections.abc import Callable

POSE = torch.tensor([[20.0, 5.0, 0.0]])


class Scene:
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
        screen = self.camera.project(self.vertices())
        return rasterise(screen, self.model.topology, self.size, self.size, cull=True).triangle_map()

    def looped(self) -> np.ndarray:
        return triangle_loop(self.camera.project(self.vertices()), self.model.triangles.numpy(), self.size)


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


def milliseconds(work: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    """The median over `repeats` runs; the first of several only warm up."""
    times = []
    for _ in range(repeats + 2 * (repeats > 1)):
        start = clock()
        work()
        times.append(clock() - start)
    return float(np.median(times[-repeats:])) * 1e3


def peak_mebibytes(work: Callable[[], object]) -> float:
    """Largest sum of tensors alive at once, as PyTorch's allocator reports it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    return float(alive.max()) / 2**20


def models(ict: str | None) -> dict[str, MorphableData]:
    found = {"coarse": coarse_face()}
    if ict:
        full = load_ict(ict)
        found |= {"ICT-FaceKit": full} | {f"ICT-FaceKit, level {k}": full.decimated(k) for k in (1, 2)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ict", help="folder or .npz file of ICT-FaceKit")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--single", action="store_true", help="one thread only: on a busy machine two mean nothing")
    arguments = parser.parse_args()
    print("| model | triangles | px | ms, 1 thread | ms, 2 threads | peak MiB | rasteriser ms | loop ÷ rasteriser |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    with torch.inference_mode():
        for name, data in models(arguments.ict).items():
            for size in arguments.sizes:
                scene = Scene(data, size)
                torch.set_num_threads(2)
                two = (
                    "–"
                    if arguments.single
                    else f"{milliseconds(scene.picture, arguments.repeats, time.perf_counter):.1f}"
                )
                torch.set_num_threads(1)
                one, raster, loop = (
                    milliseconds(work, repeats, time.thread_time)
                    for work, repeats in (
                        (scene.picture, arguments.repeats),
                        (scene.rasterised, arguments.repeats),
                        (scene.looped, 1),
                    )
                )
                memory = peak_mebibytes(scene.picture)
                cells = (name, f"{len(data.triangles):,}", size, f"{one:.1f}", two, f"{memory:.0f}")
                print("| " + " | ".join(map(str, (*cells, f"{raster:.1f}", f"{loop / raster:.0f}"))) + " |")


if __name__ == "__main__":
    main()
