"""Speed and memory of the large restorers at full size with random weights, as a Markdown table.

    python -m benchmarks.restorers [--threads 2] [--repeats 3] [--record]
    python -m benchmarks.restorers --only codeformer --preset compact

Compares `restore` with the same network as plain eager float32, channels first, on one aligned crop. Every form runs in
a process of its own, so that each peak of memory is its own; the two processes of a network work by turns, so that a
busy machine slows both. `--record` writes docs/results/restorer-speed.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from facewright.metrics import psnr
from facewright.processors import processors
from facewright.systems.base import system_class
from facewright.tasks.restore import Restorer

if TYPE_CHECKING:
    from collections.abc import Callable

    from facewright.systems.base import System

Form = Literal["plain", "shipped"]

NETWORKS = ("restoreformer++", "gfpgan")
PAGE = Path("docs/results/restorer-speed.md")


def build(slug: str, preset: str) -> Any:
    """The restorer with fresh weights, at the full size unless a preset is named."""
    torch.manual_seed(0)
    cls: Any = system_class(slug)
    model = cls(cls.preset(preset) if preset else None).eval()
    if not isinstance(model, Restorer):
        raise SystemExit(f"{slug} is not a restorer")
    return model


def crop_of(size: int) -> np.ndarray:
    """A smooth random picture (1, S, S, 3) with some noise."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(40, 215, (1, 3, 9, 9)))
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")[0].permute(1, 2, 0).numpy()
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)[None]


def plain(model: System) -> Callable[[np.ndarray], np.ndarray]:
    """The network as one would call it without thinking of speed: float32, channels first."""
    network: Any = model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    @torch.no_grad()
    def run(crops: np.ndarray) -> np.ndarray:
        out = network(network.normalise(crops).contiguous())
        pixels: np.ndarray = out.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
        return pixels

    return run


def serve(slug: str, preset: str, form: Form, threads: int, picture: Path) -> None:
    """The work of one process: a call for every line of input, answered by its seconds and the peak of memory."""
    torch.set_num_threads(threads)
    model: Any = build(slug, preset)
    call = plain(model) if form == "plain" else model.restore
    crops = crop_of(model.preprocess.size)
    np.save(picture, call(crops))
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    print(json.dumps({"size": model.preprocess.size, "millions": millions}), flush=True)
    for _ in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        call(crops)
        answer = {
            "wall": time.perf_counter() - wall,
            "processor": time.process_time() - processor,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        print(json.dumps(answer), flush=True)


class Worker:
    """A process that runs one form of a network when asked."""

    def __init__(self, slug: str, form: Form, folder: Path, options: argparse.Namespace) -> None:
        self.picture = folder / f"{form}.npy"
        command = [sys.executable, __file__, "--serve", form, "--only", slug, "--picture", str(self.picture)]
        command += ["--threads", str(options.threads), "--preset", options.preset]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self._answer()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of {self.picture.stem} ended early")
        answer: dict[str, float] = json.loads(line)
        return answer

    def turn(self) -> dict[str, float]:
        """One call."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Medians over the turns: seconds of processor time and wall clock, peak MB, and the agreement of the results."""

    slug: str
    size: int
    millions: float
    processor: dict[Form, float]
    wall: dict[Form, float]
    peak_mb: dict[Form, float]
    ratio: float
    agreement: float

    def rows(self) -> list[str]:
        title = f"{self.slug}, {self.millions:.1f} M, {self.size} px"
        return [
            f"| {title} | plain float32, channels first, eager | {self._numbers('plain')} | 1.00 | – |",
            f"| | `restore` | {self._numbers('shipped')} | {self.ratio:.2f} | {self.agreement:.1f} dB |",
        ]

    def _numbers(self, form: Form) -> str:
        return f"{self.processor[form]:.2f} | {self.wall[form]:.2f} | {self.peak_mb[form]:.0f}"


def compare(slug: str, options: argparse.Namespace) -> Comparison:
    """Both forms of one network, by turns."""
    forms: tuple[Form, ...] = get_args(Form)
    with tempfile.TemporaryDirectory() as folder:
        workers = {form: Worker(slug, form, Path(folder), options) for form in forms}
        turns = [{form: worker.turn() for form, worker in workers.items()} for _ in range(options.repeats)]
        pictures = [np.load(worker.picture)[0] for worker in workers.values()]
        for worker in workers.values():
            worker.close()

    def medians(what: str) -> dict[Form, float]:
        return {form: statistics.median(turn[form][what] for turn in turns) for form in forms}

    about = workers["plain"].about
    return Comparison(
        slug,
        int(about["size"]),
        about["millions"],
        medians("processor"),
        medians("wall"),
        {form: turns[-1][form]["peak_mb"] for form in forms},
        statistics.median(turn["plain"]["processor"] / turn["shipped"]["processor"] for turn in turns),
        psnr(pictures[0], pictures[1], data_range=255),
    )


def page(found: list[Comparison], options: argparse.Namespace) -> str:
    """The results page."""
    lines = [
        "# Speed of the large restorers",
        "",
        f"Made by `python -m benchmarks.restorers --threads {options.threads} --record`, torch {torch.__version__}, "
        f"{platform.machine()}. One crop, random weights. Every form in a process of its own, median of "
        f"{options.repeats} turns; the factor is that of the processor time, which other work on the machine disturbs "
        "least. Peak memory is that of the process, weights and libraries included.",
        "",
        "| network | form | s processor | s wall clock | peak MB | times faster | agreement |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *[row for comparison in found for row in comparison.rows()],
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="one restorer instead of the two of the table")
    parser.add_argument("--preset", default="", help="a preset of the configuration instead of the full size")
    parser.add_argument("--threads", type=int, default=processors())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--record", action="store_true", help=f"write {PAGE}")
    parser.add_argument("--serve", choices=get_args(Form), help=argparse.SUPPRESS)
    parser.add_argument("--picture", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.only, options.preset, options.serve, options.threads, options.picture)
        return
    text = page([compare(slug, options) for slug in ([options.only] if options.only else NETWORKS)], options)
    print(text)
    if options.record:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
