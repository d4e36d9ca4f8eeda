"""Speed and memory of the large restorers at full size with random weights, as a Markdown table.

    python -m benchmarks.restorers --threads 2 --only gfpgan codeformer --write
    python -m benchmarks.restorers --only codeformer --preset compact

Three forms of each network read weights from a folder and restore one aligned crop, then four: plain eager float32,
channels first, without thinking of speed; `restore` of the build at an earlier commit (`--before`); `restore`. Every
form runs in a process of its own, so that each peak of memory is its own and loading counts. One process works at a
time, and they take turns, so that a busy machine slows all alike. `--write` writes docs/results/restorer-speed.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from reproductions import common

if TYPE_CHECKING:
    from collections.abc import Callable

Form = Literal["plain", "before", "shipped"]

NETWORKS = ("restoreformer++", "codeformer", "gfpgan", "dfdnet")
ROOT = Path(__file__).parents[1]
FACES = 4


# --- in the processes of a form, of which one has the earlier build: only what both know is imported


def make(slug: str, preset: str, folder: Path) -> None:
    """Save the restorer with random weights, at the full size unless a preset is named."""
    import torch

    from facewright.systems.base import system_class

    torch.manual_seed(0)
    cls = system_class(slug)
    model = cls(getattr(cls.Config, preset)() if preset else None).eval()
    for name, values in model.named_buffers():
        if name.startswith("dictionary."):
            values.normal_()
    model.save_pretrained(folder)


def crops_of(size: int, count: int) -> np.ndarray:
    """Smooth random pictures (count, S, S, 3) with some noise."""
    import torch

    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(40, 215, (count, 3, 9, 9)))
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").permute(0, 2, 3, 1).numpy()
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def plain(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """The network as one would call it without thinking of speed: float32, channels first, all crops at once."""
    import torch

    network = model.to(memory_format=torch.contiguous_format)

    @torch.no_grad()
    def run(crops: np.ndarray) -> np.ndarray:
        out = network(network.normalise(crops).contiguous())
        pixels: np.ndarray = out.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
        return pixels

    return run


def loaded(slug: str, form: Form, folder: Path) -> Any:
    """The network as its build loads it for `facewright restore`."""
    import torch

    from facewright.systems.base import system_class

    if form == "shipped":
        from facewright.runtime.session import Session

        return Session().network(slug, folder)
    model = system_class(slug).from_pretrained(folder)
    return model.to(memory_format=torch.channels_last) if form == "before" else model  # type: ignore[call-overload]


def serve(slug: str, form: Form, threads: int, folder: Path, picture: Path) -> None:
    """The work of one process: for every line of input, so many crops, answered by seconds and the peak of memory."""
    import torch

    torch.set_num_threads(threads)
    model: Any = loaded(slug, form, folder)
    call = plain(model) if form == "plain" else model.restore
    crops = crops_of(model.preprocess.size, FACES)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    print(json.dumps({"size": model.preprocess.size, "millions": millions}), flush=True)
    for line in sys.stdin:
        count = int(line)
        wall, processor = time.perf_counter(), time.process_time()
        found = call(crops[:count])
        answer = {
            "wall": (time.perf_counter() - wall) / count,
            "processor": (time.process_time() - processor) / count,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        np.save(picture, found[:1])
        print(json.dumps(answer), flush=True)


# --- the process that compares


class Build:
    """A source tree and how to run this file with it."""

    def __init__(self, source: Path, options: argparse.Namespace) -> None:
        self.environment = os.environ | {"PYTHONPATH": str(source)}
        self.options = options

    def command(self, *arguments: str) -> list[str]:
        fixed = ["--threads", str(self.options.threads), "--preset", self.options.preset]
        return [sys.executable, "-m", "benchmarks.restorers", *fixed, *arguments]

    def make(self, slug: str, folder: Path) -> None:
        subprocess.run(self.command("--only", slug, "--make", str(folder)), env=self.environment, check=True)


def earlier(commit: str, folder: Path) -> Path:
    """The sources of a commit, laid out in a folder."""
    packed = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed, check=True)
    return folder / "src"


class Worker:
    """A process that runs one form of a network when asked."""

    def __init__(self, build: Build, slug: str, form: Form, weights: Path, folder: Path) -> None:
        self.picture = folder / f"{form}.npy"
        arguments = ["--serve", form, "--only", slug, "--weights", str(weights), "--picture", str(self.picture)]
        command = build.command(*arguments)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=build.environment
        )
        self.about = self._answer()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of {self.picture.stem} ended early")
        answer: dict[str, float] = json.loads(line)
        return answer

    def turn(self, count: int) -> dict[str, float]:
        """One call with so many crops."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@dataclass(frozen=True, slots=True)
class Measured:
    """One form: medians of seconds a crop, one at a time and of several, and peak MB after either."""

    processor: float
    wall: float
    together: float
    peak_mb: float
    peak_mb_together: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """All forms of a network; `agreement` (dB) of forms with the plain one, of those that have the same weights."""

    slug: str
    size: int
    millions: float
    forms: dict[Form, Measured]
    ratio: float
    agreement: dict[Form, float]

    def rows(self) -> list[str]:
        titles = {"plain": "plain float32, channels first, eager", "before": "`restore` before", "shipped": "`restore`"}
        first = f"{self.slug}, {self.millions:.1f} M, {self.size} px"
        return [f"| {first * (form == 'plain')} | {titles[form]} | {self._numbers(form)} |" for form in self.forms]

    def _numbers(self, form: Form) -> str:
        own, old = self.forms[form], self.forms["before"]
        shipped = form == "shipped"
        cells = [
            f"{own.processor:.2f}",
            f"{own.wall:.2f}",
            f"{own.together:.2f}",
            f"{self.ratio:.2f}" if shipped else "1.00" if form == "plain" else "",
            f"{own.peak_mb:.0f}" + (f" ({own.peak_mb / old.peak_mb:.2f})" if shipped else ""),
            f"{own.peak_mb_together:.0f}"
            + (f" ({own.peak_mb_together / old.peak_mb_together:.2f})" if shipped else ""),
            f"{self.agreement[form]:.1f} dB" if form in self.agreement else "",
        ]
        return " | ".join(cells)


def compare(slug: str, builds: dict[Form, Build], options: argparse.Namespace) -> Comparison:
    """All forms of one network, by turns; then several crops, which decides their last peak."""
    from facewright.metrics import psnr

    forms: tuple[Form, ...] = get_args(Form)
    alike: list[Form]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = {form: folder / f"weights-{form}" for form in forms}  # two that map one file would share its memory
        for form in ("before", "shipped"):
            builds[form].make(slug, weights[form])
        shutil.copytree(weights["shipped"], weights["plain"])
        workers = {form: Worker(builds[form], slug, form, weights[form], folder) for form in forms}
        turns = [{form: worker.turn(1) for form, worker in workers.items()} for _ in range(options.repeats + 1)]
        pictures = {form: np.load(worker.picture)[0] for form, worker in workers.items()}
        alike = [form for form in forms[1:] if same_tensors(weights[form], weights["plain"])]
        several = {form: worker.turn(FACES) for form, worker in workers.items()}
        for worker in workers.values():
            worker.close()
    kept = turns[1:]  # the first makes forms and compiles kernels

    def measured(form: Form) -> Measured:
        return Measured(
            statistics.median(turn[form]["processor"] for turn in kept),
            statistics.median(turn[form]["wall"] for turn in kept),
            several[form]["processor"],
            turns[-1][form]["peak_mb"],
            several[form]["peak_mb"],
        )

    about = workers["shipped"].about
    return Comparison(
        slug,
        int(about["size"]),
        about["millions"],
        {form: measured(form) for form in forms},
        statistics.median(turn["plain"]["processor"] / turn["shipped"]["processor"] for turn in kept),
        {form: psnr(pictures["plain"], pictures[form], data_range=255) for form in alike},
    )


def same_tensors(first: Path, second: Path) -> bool:
    """Whether two folders hold the same numbers; builds may begin with other ones."""
    import torch
    from safetensors import safe_open

    name = "model.safetensors"
    with safe_open(first / name, "pt") as one, safe_open(second / name, "pt") as other:
        keys = sorted(one.keys())
        return keys == sorted(other.keys()) and all(torch.equal(one.get_tensor(k), other.get_tensor(k)) for k in keys)


def page(found: list[Comparison], options: argparse.Namespace) -> str:
    """The results page."""
    import torch

    lines = [
        "# Speed and memory of the large restorers",
        "",
        f"Made by `python -m benchmarks.restorers {_given(options)} --write`, "
        f"torch {torch.__version__}, {platform.machine()}. Random weights, read from a file. Every form in a process "
        f"of its own, median of {options.repeats} turns after a first one; *before* is the build at commit "
        f"{options.before}. Seconds are for one crop; the factor is that of the processor time, which other work on "
        "the machine disturbs least. Peak memory is that of the process, loading, weights and libraries included, in "
        "brackets as a share of *before*. Agreement is with the plain form under the same weights.",
        "",
        f"| network | form | s processor | s wall clock | s processor, {FACES} crops | times faster | peak MB | "
        f"peak MB, {FACES} crops | agreement |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *[row for comparison in found for row in comparison.rows()],
        "",
    ]
    return "\n".join(lines)


def _given(options: argparse.Namespace) -> str:
    only = f" --only {' '.join(options.only)}" if tuple(options.only) != NETWORKS else ""
    return f"--threads {options.threads} --repeats {options.repeats}{only}"


def main() -> None:
    parser = common.options(__doc__, quick="", arms=False)
    parser.add_argument("--only", nargs="+", default=NETWORKS, help="restorers to compare, instead of all")
    parser.add_argument("--preset", default="", help="a preset of the configuration instead of the full size")
    parser.add_argument("--before", default="006e743", help="commit of the build to compare with")
    parser.add_argument("--repeats", type=int, default=2)
    for hidden in ("--make", "--weights", "--picture"):
        parser.add_argument(hidden, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", choices=get_args(Form), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        return make(options.only[0], options.preset, options.make)
    if options.serve:
        return serve(options.only[0], options.serve, options.threads, options.weights, options.picture)
    if not options.threads:
        from facewright.processors import processors

        options.threads = processors()
    with tempfile.TemporaryDirectory() as sources:
        now = Build(ROOT / "src", options)
        builds: dict[Form, Build] = {
            "plain": now,
            "before": Build(earlier(options.before, Path(sources)), options),
            "shipped": now,
        }
        text = page([compare(slug, builds, options) for slug in options.only], options)
    common.finish(options, "restorer-speed", text, people=False, given=_given(options))


if __name__ == "__main__":
    main()
