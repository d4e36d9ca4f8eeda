"""Speed and memory of one restorer at full size with random weights, printed as a Markdown table.

    python benchmarks/restorers.py restoreformer [--preset v1] [--threads 1] [--repeats 3] [--write FILE]

Compares `restore` with the same network as plain eager float32 in the same process, run by turns so that a busy machine
slows both.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import resource
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from facewright.metrics import psnr
from facewright.systems.base import Restorer, system_class

if TYPE_CHECKING:
    from collections.abc import Callable

    from facewright.systems.base import System


def build(slug: str, preset: str) -> System:
    """The restorer with fresh weights, at the full size unless a preset is named."""
    torch.manual_seed(0)
    cls = system_class(slug)
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


def plain_form(model: System) -> Callable[[np.ndarray], np.ndarray]:
    """The same weights in float32, channels first, as one would call them without thinking of speed."""
    plain: Any = copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    @torch.no_grad()
    def run(crops: np.ndarray) -> np.ndarray:
        out = plain(plain.normalise(crops).contiguous())
        return out.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()

    return run


def seconds(call: Callable[[], object]) -> float:
    """Processor seconds of one call: other work on the machine does not count."""
    began = time.process_time()
    call()
    return time.process_time() - began


def compare(model: Any, repeats: int) -> list[str]:
    """Rows of the table."""
    crops = crop_of(model.preprocess.size)
    plain = plain_form(model)
    reference = plain(crops)
    plain_peak = peak_mb()
    restored = model.restore(crops)
    agreement = psnr(reference[0], restored[0], data_range=255)
    turns = [(seconds(lambda: plain(crops)), seconds(lambda: model.restore(crops))) for _ in range(repeats)]
    slow, fast = (statistics.median(times) for times in zip(*turns))
    ratio = statistics.median(a / b for a, b in turns)
    return [
        f"| plain float32, channels first, eager | {1000 * slow:.0f} | 1.00 | {plain_peak:.0f} | – |",
        f"| `restore` | {1000 * fast:.0f} | {ratio:.2f} | {peak_mb():.0f} | {agreement:.1f} dB |",
    ]


def peak_mb() -> float:
    """The most memory the process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slug")
    parser.add_argument("--preset", default="", help="a preset of the configuration instead of the full size")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = build(options.slug, options.preset)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    lines = [
        f"# Speed of {options.slug}{f' ({options.preset})' if options.preset else ''}",
        "",
        f"One crop of {model.preprocess.size} px, {millions:.1f} M parameters with random weights, {options.threads} "
        f"threads, torch {torch.__version__}, {platform.machine()}. Processor time, median of {options.repeats} turns; "
        "peak memory of the process up to that form.",
        "",
        "| form | ms of processor time | times faster | peak MB | agreement |",
        "| --- | --- | --- | --- | --- |",
        *compare(model, options.repeats),
        "",
    ]
    print("\n".join(lines))
    if options.write:
        options.write.parent.mkdir(parents=True, exist_ok=True)
        options.write.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
