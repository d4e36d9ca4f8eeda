"""Speed and memory of restoring photos, printed as Markdown tables; ratios are measured side by side in one run.

python -m benchmarks.restore --threads 2 [--write]
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from facewright.io.image import read, save_rgb
from facewright.loading import load_pipeline
from facewright.metrics import psnr
from facewright.pipelines.demo import astronaut
from facewright.processors import processors
from facewright.systems.restore.frgp.network import FRGP
from facewright.tasks.restore import RestoreOptions
from reproductions import common

if TYPE_CHECKING:
    from collections.abc import Callable

REPEATS = 9


def best(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median seconds of a call after one warm-up."""
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def group_photo() -> np.ndarray:
    """A 2-megapixel photo with four faces."""
    face = astronaut()
    row = np.hstack([face, face[:, ::-1], face])
    out = np.full((1224, 1632, 3), 96, np.uint8)
    out[40:552, 40:1576] = row
    out[640:1152, 500:1012] = face[:, ::-1]
    return out


def network_form(model: FRGP, faces: int) -> list[str]:
    """The shipped form of the network against the same weights in plain float32."""
    crops = np.stack([np.roll(astronaut()[:256, 96:352], 3 * i, 1) for i in range(faces)])
    plain = FRGP.from_pretrained()
    plain.precision = "fp32"
    plain.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    image = plain.normalise(crops).contiguous()

    def eager() -> object:
        with torch.no_grad():
            return plain(image)

    fast, slow = best(lambda: model.restore(crops)), best(eager)
    agreement = psnr(np.vstack([*model.restore(crops)]), np.vstack([*plain.restore(crops)]), data_range=255)
    return [
        f"| plain float32, NCHW, eager | {1000 * slow / faces:.1f} | 1.0 | – |",
        f"| as shipped | {1000 * fast / faces:.1f} | {slow / fast:.1f} | {agreement:.1f} dB |",
    ]


def batching(model: FRGP, faces: int = 8) -> str:
    """One batch against a loop."""
    crops = np.stack([astronaut()[:256, 96:352]] * faces)
    together = best(lambda: model.restore(crops))
    alone = best(lambda: [model.restore(c[None]) for c in crops])
    batch, loop = 1000 * together, 1000 * alone
    return f"{faces} faces in one batch {batch:.0f} ms, one by one {loop:.0f} ms: {loop / batch:.2f}×"


def stages(folder: Path) -> list[str]:
    """Milliseconds of every stage on the group photo, warm."""
    path = folder / "group.jpg"
    save_rgb(group_photo(), path, overwrite=True)
    pipeline: Any = load_pipeline()
    options = RestoreOptions(force=True)
    runs: dict[str, list[float]] = {}
    for _ in range(6):
        start = time.perf_counter()
        photo = read(path)
        photo.rgb()
        decoded = time.perf_counter() - start
        result = pipeline(photo, options)
        start = time.perf_counter()
        result.save(folder / "out.jpg", overwrite=True)
        times = {"decode": decoded, **result.seconds, "encode": time.perf_counter() - start}
        for stage, seconds in times.items():
            runs.setdefault(stage, []).append(seconds)
    rows = [f"| {stage} | {1000 * float(np.median(seconds[1:])):.0f} |" for stage, seconds in runs.items()]
    total = sum(float(np.median(seconds[1:])) for seconds in runs.values())
    return [*rows, f"| all, {len(result.faces)} faces found, {result.restored_count} restored | {1000 * total:.0f} |"]


def from_start(folder: Path) -> str:
    """Wall time and peak memory of the command from process start."""
    command = [sys.executable, "-c", "from facewright.cli import main; main()", "restore", str(folder / "group.jpg")]
    start = time.perf_counter()
    subprocess.run([*command, "-o", str(folder / "cli.jpg"), "--force", "--overwrite"], check=True, capture_output=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return f"the command from process start: {seconds:.1f} s, peak memory {peak:.0f} MB"


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False, threads=processors())
    options = parser.parse_args()
    common.begin(options)
    pipeline: Any = load_pipeline()
    lines = [
        "# Speed of photo restoration",
        "",
        f"Made by `python -m benchmarks.restore` with {options.threads} threads, torch {torch.__version__}.",
        "",
        "| form of the network, 4 faces | ms per face | times faster | agreement |",
        "| --- | --- | --- | --- |",
        *network_form(pipeline.restorer, 4),
        "",
        batching(pipeline.restorer) + ".",
        "",
        "| stage, 2-megapixel JPEG with 4 faces, warm | ms |",
        "| --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as folder:
        lines += stages(Path(folder))
        lines += ["", from_start(Path(folder)) + ".", ""]
    common.finish(options, "speed", lines, ["mos", "frgp"], people=False, given=f"--threads {options.threads}")


if __name__ == "__main__":
    main()
