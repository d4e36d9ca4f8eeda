"""What was measured of weights, as the command that measured it wrote it down; read without importing torch.

`measurements.json` beside a card holds the records of its weights. A card's numbers, in its table and in its sentences,
come from there and from nowhere else: a record names the weights by their hash, so that other weights have no numbers
until somebody measures them, and is sealed, so that a number typed by hand is noticed.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from ..errors import FacewrightError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

MEASUREMENTS_FILE = "measurements.json"
NOT_MEASURED = "(not measured)"
_PLACEHOLDER = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of a measuring command.

    `checkpoint` and `sha256` name the weights, `name` the measurement among those of its system. `command` makes it
    again, `data` says on what and on how many people, `split` by which table of `facewright.data.split` they were held
    out ("" where there are no people). `values` are the numbers; those of records that are not `listed` are used in a
    card's sentences only. `seal` is the digest of all the rest.
    """

    checkpoint: str
    sha256: str
    name: str
    command: str
    data: str
    split: str
    values: dict[str, float]
    listed: bool = True
    seal: str = ""

    def digest(self) -> str:
        """What the seal has to be."""
        rest = {key: value for key, value in asdict(self).items() if key != "seal"}
        return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]

    def sealed(self) -> Self:
        """The same record with its seal."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "seal"}
        return type(self)(**values, seal=self.digest())


def read_measurements(card: Path) -> tuple[Measurement, ...]:
    """The records beside a card, in their order; none where there is no file."""
    path = card.with_name(MEASUREMENTS_FILE)
    if not path.is_file():
        return ()
    try:
        return tuple(Measurement(**record) for record in json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise FacewrightError(f"{path} holds no measurements ({error}); measure the weights again") from error


def write_measurements(card: Path, records: Iterable[Measurement]) -> None:
    """Write the records beside a card."""
    text = json.dumps([asdict(record) for record in records], indent=2, ensure_ascii=False)
    card.with_name(MEASUREMENTS_FILE).write_text(text + "\n", encoding="utf-8")


def values_of(records: Iterable[Measurement], sha256: str, *, listed: bool = False) -> dict[str, float]:
    """The numbers of the weights with that hash; with `listed` only those for a card's table."""
    found: dict[str, float] = {}
    for record in records:
        if sha256 and record.sha256 == sha256 and (record.listed or not listed):
            found |= record.values
    return found


def filled(text: str, values: Mapping[str, float]) -> str:
    """A card's sentence with `{name}` and `{name:format}` replaced by what was measured."""

    def number(match: re.Match[str]) -> str:
        name, form = match.groups()
        return format(values[name], form or "g") if name in values else NOT_MEASURED

    return _PLACEHOLDER.sub(number, text)


def asked_for(text: str) -> list[str]:
    """The names of the numbers a sentence wants."""
    return [match[1] for match in _PLACEHOLDER.finditer(text)]


def fill_card(data: Mapping[str, Any], records: tuple[Measurement, ...]) -> dict[str, Any]:
    """A card's JSON data with the numbers of its weights: tables per checkpoint, sentences by the first checkpoint."""
    card = dict(data)
    points = [dict(point) for point in card.get("checkpoints", [])]
    for point in points:
        point["metrics"] = values_of(records, point.get("sha256", ""), listed=True)
    card["checkpoints"] = points
    values = values_of(records, points[0].get("sha256", "")) if points else {}
    for key in ("summary", "faithful", "bias"):
        card[key] = filled(card[key], values)
    card["limits"] = [filled(limit, values) for limit in card["limits"]]
    return card
