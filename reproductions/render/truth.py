"""How exact the truth of rendered faces is, and how fast they are made. See README.md."""

from __future__ import annotations

import argparse
import time

import cv2
import numpy as np
import torch

from facewright.render.jobs import load_model
from facewright.render.renderer import Rendered, Renderer
from facewright.render.scene import Scene, SceneSampler


def landmark_error(picture: Rendered, scene: Scene, indices: np.ndarray, unit: float) -> float:
    """Largest distance in pixels of the 68 landmarks from their vertices, projected here again in double precision."""
    camera = scene.camera
    points = picture.vertices[indices].astype(np.float64) / unit
    xy = camera.centre + camera.focal * points[:, :2] * [1, -1] / (camera.distance - points[:, 2:])
    return float(np.abs(xy - picture.landmarks68.xy).max())


def hidden_by_depth(picture: Rendered, indices: np.ndarray) -> tuple[int, int]:
    """Landmarks inside the picture, and those whose visibility the map of depth contradicts by more than 5 mm.

    The map is coarser than the test of the landmarks: the farthest and nearest of 3×3 pixels are compared.
    """
    height, width = picture.depth.shape
    xy = np.rint(picture.landmarks68.xy).astype(int)
    inside = ((xy >= 1) & (xy < [width - 1, height - 1])).all(1)
    own = picture.camera.distance * 0.01 - picture.vertices[indices, 2]
    wrong = 0
    for (x, y), depth, visible in zip(xy[inside], own[inside], picture.landmarks68.visible[inside]):
        around = picture.depth[y - 1 : y + 2, x - 1 : x + 2]
        wrong += bool(visible and around.max() < depth - 0.005) or bool(not visible and around.min() > depth)
    return int(inside.sum()), wrong


def measure(model: str, sizes: list[int], count: int) -> None:
    data = load_model(model)
    assert data.landmarks68 is not None
    for size in sizes:
        sampler, renderer = SceneSampler(data, seed=1, size=size), Renderer(data)
        renderer.render(sampler.scene(count))
        begin = time.process_time()
        scenes = [sampler.scene(i) for i in range(count)]
        pictures = [renderer.render(scene) for scene in scenes]
        seconds = (time.process_time() - begin) / count
        frames = [scenes[0]] * 5
        begin = time.process_time()
        for scene in frames:
            renderer.render(scene)
        frame = (time.process_time() - begin) / len(frames)
        error = max(landmark_error(p, s, data.landmarks68, data.unit) for p, s in zip(pictures, scenes))
        edges = sum(int(((p.labels > 0) != np.isfinite(p.depth)).sum()) for p in pictures)
        points, wrong = np.sum([hidden_by_depth(p, data.landmarks68) for p in pictures], axis=0)
        again = all(
            np.array_equal(Renderer(data).render(Scene.from_json(s.to_json())).rgb, p.rgb)
            for s, p in zip(scenes[:3], pictures[:3])
        )
        print(
            f"{data.name:7}{size:5} px  {1 / seconds:5.2f} pictures/s  {1 / frame:5.2f} frames/s of one person  "
            f"landmarks {error:.4f} px  mask≠depth {edges} px  visibility {wrong} of {points}  again {again}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="coarse")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--count", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    measure(arguments.model, arguments.sizes, arguments.count)


if __name__ == "__main__":
    main()
