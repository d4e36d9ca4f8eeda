"""What every reproduction does around its experiment: options, finished arms on disk, tables, verdicts, the page."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from facewright.evaluation.pages import write_page

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


_RENAMED = {"batch": "batch_size", "prior_batch": "prior_batch_size"}
"""Settings whose names have changed since arms were stored under them."""


class Arms:
    """The arms of a comparison: each is run once, logged, and remembered, so that a stopped run goes on where it was.

    Results are kept as JSON beside the settings they were made with; other settings start afresh.
    """

    def __init__(self, path: Path, settings: Any, total: int) -> None:
        self.path, self.total = path, total
        self.settings = json.loads(json.dumps(asdict(settings)))
        self.done: dict[str, dict[str, Any]] = {}
        if path.exists():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if {_RENAMED.get(name, name): value for name, value in stored["settings"].items()} == self.settings:
                self.done = stored["arms"]
        self.began, self.at_start = time.monotonic(), len(self.done)
        if self.done:
            print(f"{len(self.done)} of {total} arms were finished before, see {path}", flush=True)

    def run(self, name: str, work: Callable[..., dict[str, Any]], *inputs: Any) -> dict[str, Any]:
        """The results of an arm: those remembered, or else what `work` makes of `inputs`."""
        if name not in self.done:
            began = time.monotonic()
            print(f"[{len(self.done) + 1}/{self.total}] {name}", flush=True)
            result = work(*inputs) | {"seconds": round(time.monotonic() - began, 1)}
            self.done[name] = result
            self.path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"settings": self.settings, "arms": self.done}, indent=1)
            self.path.write_text(text + "\n", encoding="utf-8")
            self._log(result)
        return self.done[name]

    def _log(self, result: dict[str, Any]) -> None:
        spent = time.monotonic() - self.began
        each = spent / (len(self.done) - self.at_start)
        left = each * (self.total - len(self.done))
        numbers = ", ".join(f"{k} {v:.4g}" for k, v in result.items() if isinstance(v, float))
        estimate = f"estimated total {each * self.total / 60:.1f} min, {left / 60:.1f} min left"
        print(f"    {numbers}\n    {estimate}", flush=True)


def options(description: str | None) -> argparse.ArgumentParser:
    """The options every reproduction has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="minutes instead of half an hour; says nothing about the claim"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/reproductions"), help="folder of finished arms")
    parser.add_argument("--write", type=Path, help="file of the table (default: the docs; nothing with --quick)")
    parser.add_argument("--threads", type=int, default=0, help="processor threads; 0 leaves torch's choice")
    return parser


def begin(args: argparse.Namespace) -> None:
    """Threads and seeds."""
    cv2.setNumThreads(1)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)


def finish(args: argparse.Namespace, slug: str, lines: list[str], systems: Sequence[str] = ()) -> None:
    """Print a report and write it where it belongs; `systems` are those whose embedded weights were measured with."""
    text = "\n".join(lines) + "\n"
    print("\n" + text)
    target = args.write or (None if args.quick else Path("docs/results") / f"{slug}.md")
    if target is not None:
        command = f"python -m {getattr(sys.modules['__main__'].__spec__, 'name', f'reproductions.{slug}.run')}"
        write_page(target, text, command=command, systems=systems)


def arms_file(args: argparse.Namespace, slug: str) -> Path:
    return Path(args.work) / f"{slug}{'-quick' if args.quick else ''}.json"


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]


def mean_std(values: list[float], scale: float = 100.0, digits: int = 1) -> str:
    """Mean and standard deviation of runs, in percent."""
    array = scale * np.asarray(values)
    spread = f" ± {array.std(ddof=1):.{digits}f}" if len(array) > 1 else ""
    return f"{array.mean():.{digits}f}{spread}"


def verdict(name: str, holds: bool, numbers: str, *, harmful: bool = False) -> str:
    """One line of a claim's outcome.

    `harmful`: the networks compared leave pictures farther from the truth than they got them, so that which of them is
    better says nothing of the claim.
    """
    if harmful:
        return f"- **inconclusive**, every network is worse than its input: {name} ({numbers})"
    return f"- {'**holds**' if holds else '**does not hold**'}: {name} ({numbers})"
