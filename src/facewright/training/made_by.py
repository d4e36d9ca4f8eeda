"""What weights say of how they were made: recipe, code, data."""

from __future__ import annotations

import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.split import split_id
from ..io.sources import digests

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .trainer import Recipe


def training_record(recipe: Recipe, data: Iterable[Path], weights: Iterable[Path]) -> dict[str, Any]:
    """What is stored with weights of a recipe, as plain data; the steps made are added when they are saved.

    `recipe` exactly as it is run; `code`: from which step on which code ran, a commit, or the version outside a
    checkout; `data` and `weights` map what the training data and other networks (a start, a teacher, a loss) were read
    from to digests; `split`: the table of people (`data.split`).
    """
    return {
        "recipe": asdict(recipe),
        "code": [{"from_step": 0, "version": code_version()}],
        "data": digests(data),
        "weights": digests(weights),
        "split": split_id(),
    }


def resumed(record: dict[str, Any], earlier: list[dict[str, Any]], step: int) -> dict[str, Any]:
    """The record of a training that goes on at `step` and had run on `earlier` code so far."""
    now = record["code"][-1]["version"]
    changed = not earlier or earlier[-1]["version"] != now
    return record | {"code": [*earlier, {"from_step": step, "version": now}] if changed else earlier}


def code_version() -> str:
    """The commit of the checkout the package lies in, with "+" where files differ from it; else the version."""
    folder = Path(__file__).resolve().parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        from .. import __version__

        return __version__


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()
