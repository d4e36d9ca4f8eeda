"""Two builds of facewright on the same videos: speed, memory, and whether the faces are as good and as steady.

    python -m benchmarks.video_builds --against ../other/src [--frames 150] [--write]

Three synthetic 1280×720 clips are restored by `python -m facewright restore` of this build and of the one at the given
source folder, in turn. Each has one face, of which the truth is known: small and soft, large and soft, and one that
moves with a noisy camera. Frames per second are the command's own (without loading), processor time and peak memory
those of its process; the processor time tells builds apart on a busy machine, too. Quality is the PSNR of the aligned
face against the truth, flicker the mean difference of neighbouring frames of it with the motion taken out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np

from facewright.geometry.crop import CropSpec
from facewright.pipelines.tracking import warped_difference
from reproductions import common

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

WIDTH, HEIGHT, SIZE = 1280, 720, 128
# of scikit-image's astronaut, 512 px: eyes, nose, corners of the mouth
POINTS = np.array([(205.0, 100.5), (246.0, 103.5), (224.0, 126.0), (200.5, 137.5), (246.0, 140.5)])


@dataclass(frozen=True)
class Clip:
    """A portrait enlarged by `zoom`, blurred by σ in pixels, with noise of σ in grey levels; `sway` in pixels."""

    name: str
    zoom: float
    blur: float
    noise: float
    sway: float


CLIPS = (
    Clip("small, soft", 0.8, 1.2, 1.5, 300),
    Clip("large, soft", 2.0, 5.0, 1.5, 120),
    Clip("moving, noisy", 1.2, 1.5, 6.0, 260),
)


def scenes(clip: Clip, frames: int) -> Iterator[tuple[Picture, Picture, NDArray[np.float64]]]:
    """Truth, what the camera gives of it, and where the five points are, frame by frame."""
    from skimage.data import astronaut

    portrait = np.asarray(astronaut(), np.uint8)
    ground = cv2.GaussianBlur(cv2.resize(portrait[300:], (WIDTH, HEIGHT)), (0, 0), 15)
    rng = np.random.default_rng(0)
    for index in range(frames):
        turn = np.radians(4 * np.sin(index / 31))
        scale = clip.zoom * (1 + 0.04 * np.sin(index / 23))
        linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        middle = (WIDTH / 2 + clip.sway * np.sin(index / 40), HEIGHT / 2 + 0.2 * clip.sway * np.cos(index / 27))
        matrix = np.column_stack([linear, np.array(middle) - linear @ (225.0, 122.0)])
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        truth = cv2.warpAffine(portrait, matrix, (WIDTH, HEIGHT), dst=ground.copy(), flags=how,
                               borderMode=cv2.BORDER_TRANSPARENT)  # fmt: skip
        seen = cv2.GaussianBlur(truth, (0, 0), clip.blur) + rng.normal(0, clip.noise, truth.shape)
        yield np.asarray(truth, np.uint8), np.rint(seen).clip(0, 255).astype(np.uint8), POINTS @ linear.T + matrix[:, 2]


def write(clip: Clip, path: Path, frames: int) -> None:
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=25, options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for _, seen, _ in scenes(clip, frames):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(seen, format="rgb24")))
        out.mux(stream.encode(None))


def restored(source: Path, target: Path, build: Path, threads: int) -> dict[str, float]:
    """Run the command of a build: its frames per second, processor time a frame in ms, peak memory in MiB."""
    report = target.with_suffix(".json")
    command = [sys.executable, __file__, "--run", str(source), str(target), str(report)]
    environment = os.environ | {"PYTHONPATH": str(build), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run(source: str, target: str, report: str) -> None:
    """In a process of its own: the command, and what it cost. Loading is left out by a short video before."""
    from facewright import cli

    def command(*arguments: str) -> None:
        sys.argv = ["facewright", "restore", *arguments, "--overwrite"]
        try:
            cli.main()
        except SystemExit as end:
            if end.code:
                raise

    short = source.replace(".mp4", "-short.mp4")
    command(short, "-o", target)
    before = resource.getrusage(resource.RUSAGE_SELF)
    command(source, "-o", target, "--report", report)
    after = resource.getrusage(resource.RUSAGE_SELF)
    data = json.loads(Path(report).read_text(encoding="utf-8"))
    video, spent = data["video"], after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = after.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
    edited = sum(person["restored"] for person in data["people"]) / video["frames"]
    cost = {"fps": video["fps"], "cpu": 1000 * spent / video["frames"], "peak": peak, "edited": edited}
    print(json.dumps(cost))


def pictures(path: Path) -> Iterator[Picture]:
    with av.open(str(path)) as video:
        for frame in video.decode(video=0):
            yield frame.to_ndarray(format="rgb24")  # type: ignore[misc]


def quality(clip: Clip, path: Path, frames: int) -> tuple[float, float]:
    """PSNR in dB of the aligned face against the truth, and its flicker in grey levels."""
    spec = CropSpec.aligned(SIZE)
    errors, flickers, before = [], [], None
    for (truth, _, points), shown in zip(scenes(clip, frames), pictures(path)):
        matrix = spec.align(points)
        crops = [cv2.warpAffine(p, matrix, (SIZE, SIZE), flags=cv2.INTER_AREA).astype(float) for p in (truth, shown)]
        inner = np.s_[30:110, 30:98]
        errors.append(float(((crops[0][inner] - crops[1][inner]) ** 2).mean()))
        if before is not None:
            flickers.append(warped_difference(before[0], shown, before[1], points))
        before = shown, points
    return 10 * np.log10(255**2 / np.mean(errors)), float(np.mean(flickers))


def main() -> int:
    parser = common.options(__doc__, quick="", arms=False, threads=2)
    parser.add_argument("--against", type=Path, help="source folder (src) of the other build")
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--clips", nargs="+", default=[clip.name for clip in CLIPS])
    parser.add_argument("--keep", type=Path, help="keep the videos in this folder")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(*options.run)
        return 0
    builds = {"this": Path(__file__).resolve().parents[1] / "src"}
    if options.against:
        builds = {"other": options.against.resolve(), **builds}
    lines = [
        "| clip | build | frames/s | processor ms/frame | peak MiB | frames restored | PSNR dB | flicker |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for clip in (clip for clip in CLIPS if clip.name in options.clips):
            name = clip.name.replace(", ", "-")
            source = folder / f"{name}.mp4"
            write(clip, source, options.frames)
            write(clip, folder / f"{name}-short.mp4", 13)
            db, flicker = quality(clip, source, options.frames)
            rows = [f"| {clip.name} | – (input) | | | | | {db:.2f} | {flicker:.3f} |"]
            for build, place in builds.items():
                target = folder / f"{name}-{build}.mp4"
                cost = restored(source, target, place, options.threads)
                db, flicker = quality(clip, target, options.frames)
                rows.append(
                    f"| {clip.name} | {build} | {cost['fps']:.1f} | {cost['cpu']:.0f} | {cost['peak']:.0f} | "
                    f"{100 * cost['edited']:.0f} % | {db:.2f} | {flicker:.3f} |"
                )
            print("\n".join(rows), flush=True)
            lines += rows
    start = ["# Videos: this build and another", "", "Made by `python -m benchmarks.video_builds`; see there.", ""]
    common.finish(
        options, "video-builds", [*start, *lines], people=False, given=f"--against OTHER/src --frames {options.frames}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
