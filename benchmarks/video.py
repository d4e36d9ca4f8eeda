"""Speed and memory of the video pipeline: frames per second and peak memory must not depend on the video's length.

    python -m benchmarks.video                    # decode, pass through, encode
    python -m benchmarks.video --stage restore    # with the embedded detector and restorer

Each length runs in processes of its own, whose peak resident memory the kernel reports, on a synthetic 720p video with
a moving portrait. Segments are short, so that the short video has several, too: replacing an encoder costs memory once.
The best rate and the highest peak of up to four runs count, with more runs for shorter videos. Exits with 1 when the
peak of the longest video is more than 5 % above that of the shortest.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HEIGHT = 1280, 720
SEGMENT_FRAMES = 24


def write_video(path: Path, frames: int) -> None:
    """A portrait drifting over a blurred, noisy ground, at 25 frames per second."""
    import av
    import cv2
    from skimage.data import astronaut

    rng = np.random.default_rng(0)
    portrait = cv2.resize(astronaut(), (400, 400), interpolation=cv2.INTER_AREA)
    ground = cv2.GaussianBlur(cv2.resize(astronaut(), (WIDTH, HEIGHT)), (0, 0), 15)
    grounds = [np.clip(ground + rng.normal(0, 3, ground.shape), 0, 255).astype(np.uint8) for _ in range(8)]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "20", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(frames):
            image = grounds[i % 8].copy()
            x = round((WIDTH - 400) * (0.5 + 0.45 * np.sin(i / 40)))
            y = round((HEIGHT - 400) * (0.5 + 0.45 * np.cos(i / 55)))
            image[y : y + 400, x : x + 400] = portrait
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode(None))


def make_stage(name: str) -> tuple[Any, int]:
    from facewright.io.video import PerFrame

    if name == "passthrough":
        return PerFrame(lambda pixels: pixels), 1
    from facewright.loading import load_pipeline
    from facewright.pipelines.restore import RestoreEdit
    from facewright.pipelines.video import VideoEditor
    from facewright.tasks.restore import RestoreOptions

    pipeline, options = load_pipeline("frgp", device="cpu"), RestoreOptions()
    return VideoEditor(pipeline.editor, RestoreEdit(pipeline, options, by_size=True), options), 4


def measure(source: Path, target: Path, stage_name: str, preset: str) -> dict[str, float]:
    from facewright.io.video import process_video

    stage, batch_size = make_stage(stage_name)
    report = process_video(source, target, stage, batch_size=batch_size, preset=preset, segment_frames=SEGMENT_FRAMES)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
    return {"frames": report.frames, "fps": report.fps, "peak_mib": peak}


def run_alone(folder: Path, frames: int, stage: str, preset: str, repeats: int) -> dict[str, float]:
    source = folder / f"{frames}.mp4"
    write_video_alone = [sys.executable, __file__, "--write", str(source), "--lengths", str(frames)]
    subprocess.run(write_video_alone, check=True)
    command = [sys.executable, __file__, "--measure", str(source), "--stage", stage, "--preset", preset]
    outputs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(repeats)]
    results = [json.loads(output) for output in outputs]
    return {name: max(result[name] for result in results) for name in results[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=("passthrough", "restore"), default="passthrough")
    parser.add_argument("--lengths", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--preset", default="veryfast", help="x264 preset of the output")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write_video(options.write, options.lengths[0])
        return 0
    if options.measure:
        target = options.measure.with_name("out.mp4")
        print(json.dumps(measure(options.measure, target, options.stage, options.preset)))
        target.unlink()
        return 0
    with tempfile.TemporaryDirectory() as folder:
        # how full the queues get is chance, and a short video has fewer chances of a high peak: let it try again
        tries = {n: min(4, max(options.lengths) // n) for n in options.lengths}
        results = [run_alone(Path(folder), n, options.stage, options.preset, tries[n]) for n in options.lengths]
    print(f"| stage | frames of {WIDTH}x{HEIGHT} | frames/s | peak memory (MiB) |\n|---|---:|---:|---:|")
    for r in results:
        print(f"| {options.stage} | {r['frames']:.0f} | {r['fps']:.1f} | {r['peak_mib']:.0f} |")
    growth = results[-1]["peak_mib"] / results[0]["peak_mib"] - 1
    print(f"\nmemory growth from {options.lengths[0]} to {options.lengths[-1]} frames: {growth:+.1%}")
    return int(growth > 0.05)


if __name__ == "__main__":
    sys.exit(main())
