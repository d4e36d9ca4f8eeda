"""Is every number of a card and of a page of results backed by the record of its measurement?

    python tools/audit/records.py

It also asks that claims are not decided between restorers that do harm. Prints what is wrong and exits with 1, or
nothing and exits with 0. Needs no data.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from facewright.evaluation.pages import RECORDS_FILE, numbers_digest, read_records
from facewright.tasks.card import card_path, cards
from facewright.tasks.measurement import NOT_MEASURED, asked_for, read_measurements, values_of

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
SENTENCES = ("summary", "faithful", "bias")
EARLIER = "earlier weights"
GIVEN = r"input|damaged picture"
"""Names of the row of what was not restored."""
_DECIDED = re.compile(r"\*\*(?:reproduced|partly|not reproduced)\*\*")
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_MEASURED = re.compile(r"(?<![\w.])[+−]\d+(?:\.\d+)?|\d+(?:\.\d+)? ?(?:%|dB\b|percent\b)|\b\d+\.\d+\b")
NOT_MEASUREMENTS = re.compile(
    r"arXiv \d+\.\d+|threshold of 0\.5|ask for 0\.7|\d+(?:\.\d+)? M\b|margin 0\.2|scale 32"
    r"|acceptance of 0\.001|truncation 0\.7|meant to hold 80 %"
)
"""What looks like a measured number in a sentence but is an address, a setting, or the size of a network."""


def problems() -> list[str]:
    """Everything wrong, one sentence each."""
    return [*problems_of_cards(), *problems_of_pages(RESULTS), *problems_of_claims(RESULTS)]


def problems_of_cards() -> Iterator[str]:
    for slug, card in cards().items():
        path = card_path(slug)
        raw, records = json.loads(path.read_text(encoding="utf-8")), read_measurements(path)
        known = {point.name: point.sha256 for point in card.checkpoints}
        for record in records:
            if record.seal != record.digest():
                yield f"{slug}: {record.name!r} was changed by hand; measure again with: {record.command}"
            if known.get(record.checkpoint) != record.sha256:
                yield f"{slug}: {record.name!r} is of other weights; measure again with: {record.command}"
        for point in card.checkpoints:
            if point.file and not values_of(records, point.sha256):
                yield f"{slug}: its weights {point.name!r} were never measured"
        for point in raw["checkpoints"]:
            if "metrics" in point:
                yield f"{slug}: numbers are typed into the card; they belong into a record (weights.measure)"
        values = values_of(records, card.checkpoints[0].sha256) if card.checkpoints else {}
        if card.checkpoints:
            yield from problems_of_sentences(slug, [*(raw[key] for key in SENTENCES), *raw["limits"]], values)


def problems_of_sentences(slug: str, sentences: list[str], values: dict[str, float]) -> Iterator[str]:
    """What a card with weights of its own says; the others speak of what was published."""
    for sentence in sentences:
        for name in asked_for(sentence):
            if name not in values:
                yield f"{slug}: nobody measured {name!r}, which a sentence asks for ({NOT_MEASURED})"
        typed = _MEASURED.findall(NOT_MEASUREMENTS.sub("", _PLACEHOLDER.sub("", sentence)))
        if typed:
            yield f"{slug}: {', '.join(typed)} in {sentence[:60]!r}… is typed; ask for it by {{name}}"


def problems_of_pages(folder: Path) -> Iterator[str]:
    records = read_records(folder)
    for path in sorted(folder.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        record = records.pop(path.name, None)
        if record is None:
            yield f"{path.name}: no command wrote it (evaluation.pages.write_page)"
            continue
        if record.numbers != numbers_digest(text):
            yield f"{path.name}: its numbers are not those that were measured; again: {record.command}"
        for slug, sha256 in record.weights.items():
            if sha256 not in {point.sha256 for point in cards()[slug].checkpoints} and EARLIER not in text:
                yield f"{path.name}: measured with {EARLIER} of {slug}, and does not say so; again: {record.command}"
    for name in records:
        yield f"{RECORDS_FILE} speaks of {name}, which is gone"


def problems_of_claims(folder: Path) -> Iterator[str]:
    """Tables of arms that restore without the input's row, and claims decided between networks that do harm."""
    for path in sorted(folder.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        for head, rows in tables(text):
            columns = [k for k, name in enumerate(head) if name.startswith("PSNR, dB")]
            if not columns or head[0] != "arm":
                continue
            values = {row[0]: float(row[columns[0]].split()[0]) for row in rows}
            given = [value for name, value in values.items() if re.match(GIVEN, name)]
            if not given:
                yield f"{path.name}: no row says what the input of the restorers has"
            elif max(v for n, v in values.items() if not re.match(GIVEN, n)) < given[0] and _DECIDED.search(text):
                yield f"{path.name}: every network is worse than its input, so that its claims are inconclusive"


def tables(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Head and rows of every Markdown table."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines())
        yield head, rows


def main() -> int:
    found = problems()
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
