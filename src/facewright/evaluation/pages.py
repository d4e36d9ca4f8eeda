"""Pages of results, and the record of what made them.

`records.json` beside the pages says of each which command wrote it, with which weights and which split of people, and
the digest of its numbers. Its sentences may be edited; a number that no command wrote is noticed
(`tools/audit/records.py`).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.split import split_id
from ..tasks.card import get_card

if TYPE_CHECKING:
    from collections.abc import Sequence

RECORDS_FILE = "records.json"
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True, slots=True)
class PageRecord:
    """`numbers` is `numbers_digest` of the page, `weights` maps slugs to the hashes of what was measured, `split` is
    `data.split.split_id` ("" where no people were held out)."""

    command: str
    numbers: str
    weights: dict[str, str]
    split: str


def numbers_digest(text: str) -> str:
    """A digest of the numbers of a page in their order; its words may change."""
    return hashlib.sha256(" ".join(_NUMBER.findall(text)).encode()).hexdigest()[:16]


def read_records(folder: Path) -> dict[str, PageRecord]:
    """What is known of the pages of a folder, by their names."""
    path = folder / RECORDS_FILE
    if not path.is_file():
        return {}
    return {name: PageRecord(**record) for name, record in json.loads(path.read_text(encoding="utf-8")).items()}


def write_records(folder: Path, records: dict[str, PageRecord]) -> None:
    """Write what is known of the pages of a folder."""
    data = {name: asdict(record) for name, record in sorted(records.items())}
    (folder / RECORDS_FILE).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def held_out() -> str:
    """The line that names the split of people."""
    return f"Validation people are those of the split `{split_id()}` (see [People](../results.md#people))."


def write_page(path: str | Path, text: str, *, command: str, systems: Sequence[str] = (), people: bool = True) -> None:
    """Write a page and its record; `systems` are those whose embedded weights were measured or measured with.

    Where `people` were held out, a last line says by which split.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if people:
        text = f"{text.rstrip()}\n\n{held_out()}\n"
    target.write_text(text, encoding="utf-8")
    weights = {slug: point.sha256 for slug in systems if (point := get_card(slug).default_checkpoint)}
    record = PageRecord(command, numbers_digest(text), weights, split_id() if people else "")
    write_records(target.parent, read_records(target.parent) | {target.name: record})
