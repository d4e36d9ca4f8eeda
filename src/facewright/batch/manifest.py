"""What is done: a chunk of photos is done as a whole or not at all, whoever dies when.

A worker puts the results of a chunk into a folder of their own and then writes the chunk's journal, in one step: that
is the moment it is done. Only then do the files take their names. Who comes upon a journal whose files have not all
taken their names, after a kill, finishes that; who comes upon files without a journal does the chunk again. So nothing
is lost, nothing is there twice, and at most the chunks in work are computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import LockedError, OutputError, UsageError
from ..io.atomic import atomic_output, publish, remove_abandoned
from ..io.lock import locked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MOST_ATTEMPTS = 3
"""How often a photo is begun that every time ends its worker."""
_DIGEST = np.dtype("S16")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one photo.

    Args:
        key: See `items.Item`.
        error: None, or the line that says why it failed.
        there: Its output had been there before, and was kept.
        report: What the task says of what it did; for edited photos.
        files: The files made, relative to the output folder.
    """

    key: str
    error: str | None = None
    there: bool = False
    report: dict[str, Any] | None = None
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """The notes of a run in `folder`, and the outputs below `root`; all processes of a run see both.

    `overwrite` allows outputs to replace files that are no part of the run.
    """

    folder: Path
    root: Path
    overwrite: bool = False

    @property
    def index(self) -> Path:
        """Where the chunks that are to be done are listed."""
        return self.folder / "index"

    # --- a run

    @contextmanager
    def opened(self, description: dict[str, Any]) -> Iterator[None]:
        """Hold the run for the length of the block, finish what an earlier one left, and note what kind of run it is.

        Raises LockedError where another run is at work, UsageError where an earlier one did something else.
        """
        for name in ("done", "staged", "attempts"):
            _create(self.folder / name)
        with locked(self.folder / "run.json"):
            self._check(description)
            remove_abandoned(self.folder / "done")
            for staged in sorted((self.folder / "staged").iterdir()):
                self.finish(staged.name)
            try:
                yield
                shutil.rmtree(self.folder / "attempts", ignore_errors=True)
            finally:
                shutil.rmtree(self.index, ignore_errors=True)
                if not any((self.folder / "done").iterdir()):
                    shutil.rmtree(self.folder, ignore_errors=True)

    def _check(self, description: dict[str, Any]) -> None:
        place, said = self.folder / "run.json", json.dumps(description, indent=1, sort_keys=True, default=str)
        if not place.exists():
            with atomic_output(place) as temporary:
                temporary.write_text(said, encoding="utf-8")
            return
        before = json.loads(place.read_text(encoding="utf-8"))
        now = json.loads(said)
        changed = sorted(name for name in now if now[name] != before.get(name))
        if changed:
            raise UsageError(
                f"{self.root} was begun with another {' and '.join(changed)}; "
                "go on with the same, or choose another output"
            )

    def done(self) -> Iterator[Outcome]:
        """The outcomes of all chunks that are done, one at a time."""
        for journal in self._journals():
            yield from _read(journal)

    def forget_failed(self) -> None:
        """Take out of the journals what failed, so that it is done again."""
        for journal in self._journals():
            outcomes = list(_read(journal))
            kept = [outcome for outcome in outcomes if outcome.error is None]
            if not kept:
                journal.unlink()
            elif len(kept) < len(outcomes):
                self._write(journal.stem, kept)

    def _journals(self) -> list[Path]:
        return sorted((self.folder / "done").glob("*.jsonl"))

    # --- a chunk

    @contextmanager
    def chunk(self, identity: str) -> Iterator[Path]:
        """A chunk is this process's alone for the length of the block; gives the empty folder for its files."""
        staged = self.folder / "staged" / identity
        with _patiently(self.folder / "done" / f"{identity}.jsonl"):
            if not self.is_done(identity):
                shutil.rmtree(staged, ignore_errors=True)
                _create(staged)
            yield staged

    def is_done(self, identity: str) -> bool:
        return (self.folder / "done" / f"{identity}.jsonl").exists()

    def commit(self, identity: str, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Make a chunk done; its files in the staging folder take their names. The outcomes as they then are."""
        self._write(identity, outcomes)
        return self.finish(identity)

    def finish(self, identity: str) -> list[Outcome]:
        """Give the files of a chunk that is done their names, as far as they have none yet; else remove them."""
        staged = self.folder / "staged" / identity
        if not self.is_done(identity):
            shutil.rmtree(staged, ignore_errors=True)
            return []
        outcomes = list(_read(self.folder / "done" / f"{identity}.jsonl"))
        if staged.exists():
            refused = {o.key: error for o in outcomes if (error := self._publish(staged, o.files)) is not None}
            if refused:
                outcomes = [Outcome(o.key, refused[o.key]) if o.key in refused else o for o in outcomes]
                self._write(identity, outcomes)
            self.end(outcome.key for outcome in outcomes)
            shutil.rmtree(staged, ignore_errors=True)
        return outcomes

    def _publish(self, staged: Path, files: Iterable[str]) -> str | None:
        for name in files:
            file, target = staged / staged_name(name), self.root / name
            if not file.exists() or (target.exists() and target.samefile(file)):  # it had its name before a kill
                continue
            try:
                _create(target.parent)
                publish(file, target, overwrite=self.overwrite or is_empty(target))
            except OutputError as error:
                return str(error)
            except OSError as error:
                return f"cannot write {target}: {error.strerror or error}"
        return None

    def _write(self, identity: str, outcomes: Sequence[Outcome]) -> None:
        with atomic_output(self.folder / "done" / f"{identity}.jsonl", overwrite=True) as temporary:
            lines = (json.dumps(asdict(outcome), ensure_ascii=True) for outcome in outcomes)
            temporary.write_text("\n".join(lines) + "\n", encoding="ascii")

    # --- photos that end their worker

    def begin(self, key: str) -> bool:
        """Note that work on a photo begins; False where that has ended too many workers."""
        note = self._note(key)
        if note.exists() and note.stat().st_size >= MOST_ATTEMPTS:
            return False
        with note.open("ab") as file:
            file.write(b".")
        return True

    def end(self, keys: Iterable[str]) -> None:
        """Forget the attempts at photos."""
        for key in keys:
            self._note(key).unlink(missing_ok=True)

    def _note(self, key: str) -> Path:
        return self.folder / "attempts" / hashlib.sha256(key.encode()).hexdigest()[:32]


class Keys:
    """A set of keys that takes 16 bytes for each: hexadecimal digits of 64 bits, of which NumPy strips none."""

    def __init__(self, digests: Any) -> None:
        self._digests = np.unique(np.asarray(digests, _DIGEST))

    @classmethod
    def of(cls, keys: Iterable[str]) -> Keys:
        return cls(np.fromiter((_digest(key) for key in keys), _DIGEST))

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, key: str) -> bool:
        digest = np.asarray(_digest(key), _DIGEST)
        place = int(np.searchsorted(self._digests, digest))
        return place < len(self._digests) and bool(self._digests[place] == digest)


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=8).hexdigest().encode()


def chunk_identity(keys: Iterable[str]) -> str:
    """The name of a chunk of these photos."""
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:32]


def staged_name(file: str) -> str:
    """The name of an output in the staging folder, which is flat."""
    return hashlib.sha256(file.encode()).hexdigest()[:24] + Path(file).suffix


def is_empty(target: Path) -> bool:
    """Whether a file has no bytes: where there are no hard links, a kill leaves a name reserved so."""
    return target.is_file() and target.stat().st_size == 0


def _read(journal: Path) -> Iterator[Outcome]:
    with journal.open(encoding="ascii") as file:
        for line in file:
            values = json.loads(line)
            yield Outcome(**{**values, "files": tuple(values["files"])})


def _create(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder {folder}: {error.strerror}") from error


@contextmanager
def _patiently(target: Path) -> Iterator[None]:
    """The lock of a target, however long it takes."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(target))
                break
            except LockedError:
                time.sleep(0.2)
        yield
