"""What reproductions and benchmarks do around their work: options, finished arms, tables, verdicts, the page."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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


_THE_PAGE = Path("")  # what --write gives without a file


class Verdict(StrEnum):
    """What became of a claim: it held, in part, not, or the numbers are too uncertain to say."""

    REPRODUCED = "reproduced"
    PARTLY = "partly"
    NOT_REPRODUCED = "not reproduced"
    INCONCLUSIVE = "inconclusive"


def options(
    description: str | None,
    *,
    quick: str = "minutes instead of half an hour; says nothing about the claim",
    arms: bool = True,
    threads: int = 0,
    seed: int | None = None,
    pictures: str = "",
) -> argparse.ArgumentParser:
    """The options that reproductions and benchmarks share; each has those that mean something to it.

    Args:
        description: The docstring of the script.
        quick: What --quick does; "" leaves it out.
        arms: Whether finished arms are remembered in --work.
        threads: Default of --threads; 0 leaves torch's choice.
        seed: Default of --seed; None leaves it out.
        pictures: What --pictures puts into its folder; "" leaves it out.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if quick:
        parser.add_argument("--quick", action="store_true", help=quick)
    if arms:
        parser.add_argument("--work", type=Path, default=Path("runs/reproductions"), help="folder of finished arms")
    parser.add_argument(
        "--write",
        type=Path,
        nargs="?",
        const=_THE_PAGE,
        help="write the page: to this file, or without one into docs/results",
    )
    parser.add_argument("--threads", type=int, default=threads, help="processor threads; 0 leaves torch's choice")
    if seed is not None:
        parser.add_argument("--seed", type=int, default=seed, help="of all that is drawn")
    if pictures:
        parser.add_argument("--pictures", type=Path, help=f"folder of your own for {pictures}")
    return parser


def begin(args: argparse.Namespace) -> None:
    """Threads and seeds. Exits when a quick run is to replace a page."""
    import cv2
    import torch

    if getattr(args, "quick", False) and args.write == _THE_PAGE:
        raise SystemExit("--quick says nothing about the claim: run all of it to write the page, or name another file")
    cv2.setNumThreads(1)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(getattr(args, "seed", 0))


def finish(
    args: argparse.Namespace,
    page: str,
    lines: str | list[str],
    systems: Sequence[str] = (),
    *,
    people: bool = True,
    given: str = "",
) -> str:
    """Print a report, and write it with its record where --write says.

    Args:
        args: What `options` made.
        page: Name of the page in docs/results.
        lines: The report.
        systems: Those whose embedded weights were measured or measured with.
        people: Whether people held out from training were measured.
        given: What the command was given, for the record.

    Returns:
        The command of the record; "" where nothing was written.
    """
    text = lines if isinstance(lines, str) else "\n".join(lines)
    text = "\n".join([text.rstrip("\n"), *summary(text), ""])
    print("\n" + text)
    if args.write is None:
        return ""
    from facewright.evaluation.pages import write_page

    target = Path("docs/results") / f"{page}.md" if args.write == _THE_PAGE else args.write
    command = f"python -m {module()} {given}".rstrip()
    write_page(target, text, command=command, systems=systems, people=people)
    return command


def module() -> str:
    """The name of the module that runs."""
    return str(getattr(sys.modules["__main__"].__spec__, "name", Path(sys.argv[0]).stem))


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


def verdict(name: str, holds: bool | Verdict, numbers: str, *, harmful: bool = False) -> str:
    """One line of a claim's outcome.

    `harmful`: the networks compared leave pictures farther from the truth than they got them, so that which of them is
    better says nothing of the claim.
    """
    if harmful:
        return f"- **{Verdict.INCONCLUSIVE}**: {name} ({numbers}); every network is worse than its input"
    if not isinstance(holds, Verdict):
        holds = Verdict.REPRODUCED if holds else Verdict.NOT_REPRODUCED
    return f"- **{holds}**: {name} ({numbers})"


def summary(text: str) -> list[str]:
    """The outcome of a page's claims together, as lines to append; none where it has fewer than two."""
    found = [Verdict(word) for word in re.findall(rf"(?m)^- \*\*({'|'.join(Verdict)})\*\*: ", text)]
    if len(found) < 2:
        return []
    kinds = set(found)
    if len(kinds) == 1:
        outcome = found[0]
    elif Verdict.REPRODUCED in kinds or Verdict.PARTLY in kinds:
        outcome = Verdict.PARTLY
    else:  # nothing was seen to hold
        outcome = Verdict.NOT_REPRODUCED
    return ["", f"Outcome: **{outcome}**."]
