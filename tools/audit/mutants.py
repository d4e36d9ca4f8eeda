"""Plant the bugs of `bugs.py` one at a time and see whether a test of the room notices.

    python tools/audit/mutants.py [--only WORDS | --rest] [--write tools/audit/mutants.json]

A bug is planted in a temporary copy of the package, never in the checkout. It is killed when its tests fail with it
and pass without. What became of each is added to the file named, so that a run can be made in pieces; `--rest` takes
those that are not in it, or were not killed. Needs what the tests need; takes some five seconds of one core a bug.
Exits with 1 where fewer than 95 % of all bugs are killed, or where what a bug replaces is gone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from bugs import BUGS, Bug  # type: ignore[import-not-found]  # beside this script

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "facewright"
LEAST = 0.95
LARGE = (".safetensors", ".npz", ".gz")
PRELOADED = ("numpy", "cv2", "torch", "scipy", "skimage.data", "pytest", "hypothesis", "pydantic", "yaml", "accelerate")
"""What all tests load besides the package: once for all children."""
KILLED, SURVIVED, STALE, BROKEN = "killed", "survived", "stale", "fails without it"


def copy_of_package(folder: Path) -> Path:
    """A copy of the package in `folder`; large files are links."""

    def copy(source: str, target: str) -> object:
        if source.endswith(LARGE):
            os.symlink(source, target)
        else:
            shutil.copyfile(source, target)
        return target

    return Path(shutil.copytree(PACKAGE, folder / "facewright", copy_function=copy))


@contextmanager
def planted(bug: Bug, package: Path) -> Iterator[None]:
    """The copy of the package with the bug inside the block, without it afterwards."""
    path = package / bug.file
    sound = path.read_text(encoding="utf-8")
    path.write_text(sound.replace(bug.before, bug.after), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(sound, encoding="utf-8")


def is_stale(bug: Bug) -> bool:
    """Whether what the bug replaces is not there, or more than once."""
    path = PACKAGE / bug.file
    return not path.is_file() or path.read_text(encoding="utf-8").count(bug.before) != 1


def run_tests(package: Path, tests: tuple[str, ...], only: str) -> int:
    """pytest's exit code of tests on the copy; −1 where it does not end as it should."""
    queue: multiprocessing.SimpleQueue[int] = multiprocessing.SimpleQueue()
    worker = multiprocessing.get_context("fork").Process(target=_pytest, args=(package.parent, tests, only, queue))
    worker.start()
    worker.join()
    return queue.get() if worker.exitcode == 0 else -1


def _pytest(path: Path, tests: tuple[str, ...], only: str, queue: multiprocessing.SimpleQueue[int]) -> None:
    """In a child that has not imported the package yet."""
    import pytest

    sys.path.insert(0, str(path))
    os.environ["PYTHONPATH"] = str(path)
    os.chdir(ROOT)
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    arguments = ["-q", "-x", "-p", "no:cacheprovider", *(f"tests/{file}" for file in tests)]
    queue.put(int(pytest.main([*arguments, "-k", only] if only else arguments)))


def outcome(bug: Bug, package: Path) -> str:
    """What became of a bug."""
    if is_stale(bug):
        return STALE
    with planted(bug, package):
        code = run_tests(package, bug.tests, bug.only)
    if code == 0:
        return SURVIVED
    return KILLED if code == 1 and passes_without(package, bug.tests, bug.only) else BROKEN


@cache
def passes_without(package: Path, tests: tuple[str, ...], only: str) -> bool:
    """Whether the tests pass on the sound package."""
    return run_tests(package, tests, only) == 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Plant bugs and see whether tests notice.")
    parser.add_argument("--only", default="", help="those whose name or file holds these words")
    parser.add_argument("--rest", action="store_true", help="those not yet in the file, or not killed")
    parser.add_argument("--write", type=Path, default=ROOT / "tools" / "audit" / "mutants.json", help="the file")
    options = parser.parse_args()
    before = json.loads(options.write.read_text(encoding="utf-8")) if options.write.is_file() else {}
    found = {bug.name: before[bug.name] for bug in BUGS if bug.name in before}
    chosen = [bug for bug in BUGS if options.only in f"{bug.name} {bug.file}"]
    if options.rest:
        chosen = [bug for bug in chosen if found.get(bug.name) != KILLED]
    for module in PRELOADED:
        __import__(module)
    with tempfile.TemporaryDirectory() as folder:
        package = copy_of_package(Path(folder))
        for bug in chosen:
            found[bug.name] = outcome(bug, package)
            print(f"{found[bug.name]:>10}  {bug.name} ({bug.file})", flush=True)
            ordered = {each.name: found[each.name] for each in BUGS if each.name in found}
            options.write.write_text(json.dumps(ordered, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    killed = sum(value == KILLED for value in found.values())
    print(f"{killed} of {len(BUGS)} killed, {len(BUGS) - len(found)} not tried yet")
    return 0 if killed >= LEAST * len(BUGS) and STALE not in found.values() else 1


if __name__ == "__main__":
    sys.exit(main())
