"""What was measured of weights: written down, sealed, dropped with the weights, and shown by the card."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest

from facewright.errors import FacewrightError, UsageError
from facewright.tasks.measurement import MEASUREMENTS_FILE, asked_for, fill_card, filled, read_measurements, values_of
from facewright.weights import measure

if TYPE_CHECKING:
    from pathlib import Path

POINT = {"name": "compact", "sha256": "ab" * 32}
OPTIONS: dict[str, Any] = {"command": "python x.py", "data": "40 faces"}


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "card.json"
    path.write_text(json.dumps({"checkpoints": [POINT]}))
    monkeypatch.setattr(measure, "card_path", lambda slug: path)
    return path


def test_a_record_is_sealed_and_replaces_the_last_of_its_name(card: Path) -> None:
    measure.record("x", "b", {"gain": 1.0}, **OPTIONS)
    measure.record("x", "a", {"loss": 3.0}, **OPTIONS, people=False, listed=False)
    measure.record("x", "b", {"gain": 2.0}, **OPTIONS)
    records = read_measurements(card)
    assert [(r.name, r.values, r.listed) for r in records] == [("a", {"loss": 3.0}, False), ("b", {"gain": 2.0}, True)]
    assert all(r.seal == r.digest() for r in records)
    assert records[0].split == ""
    assert len(records[1].split) == 8
    assert dataclasses.replace(records[1], values={"gain": 5.09}).digest() != records[1].seal
    assert values_of(records, "ab" * 32) == {"loss": 3.0, "gain": 2.0}
    assert values_of(records, "ab" * 32, listed=True) == {"gain": 2.0}
    assert values_of(records, "cd" * 32) == {}


def test_records_of_other_weights_are_dropped(card: Path) -> None:
    measure.record("x", "a", {"loss": 3.0}, **OPTIONS)
    card.write_text(json.dumps({"checkpoints": [POINT | {"sha256": "cd" * 32}]}))
    measure.record("x", "b", {"gain": 1.0}, **OPTIONS)
    assert [r.name for r in read_measurements(card)] == ["b"]
    with pytest.raises(UsageError, match="measured with other weights"):
        measure.record("x", "b", {"gain": 1.0}, **OPTIONS, sha256="ab" * 32)
    with pytest.raises(UsageError, match="no weights named 'small'"):
        measure.record("x", "b", {"gain": 1.0}, **OPTIONS, checkpoint="small")


def test_damaged_records_are_named(card: Path) -> None:
    assert read_measurements(card) == ()
    card.with_name(MEASUREMENTS_FILE).write_text("[{}]")
    with pytest.raises(FacewrightError, match="holds no measurements"):
        read_measurements(card)


def test_sentences_are_filled_with_what_was_measured() -> None:
    text = "Gains {noise, sigma 10:+.1f} dB, accepts {tar_0.001:.0f} %, and {nothing}."
    assert asked_for(text) == ["noise, sigma 10", "tar_0.001", "nothing"]
    assert (
        filled(text, {"noise, sigma 10": 7.73, "tar_0.001": 66.4}) == "Gains +7.7 dB, accepts 66 %, and (not measured)."
    )


def test_a_card_shows_the_numbers_of_its_own_weights(card: Path) -> None:
    measure.record("x", "b", {"gain": 1.5}, **OPTIONS)
    texts = dict.fromkeys(("summary", "faithful", "bias"), "{gain}") | {"limits": ["+{gain:.2f}"]}
    data = texts | {"checkpoints": [POINT]}
    shown = fill_card(data, read_measurements(card))
    assert (shown["summary"], shown["limits"]) == ("1.5", ["+1.50"])
    assert shown["checkpoints"][0]["metrics"] == {"gain": 1.5}
    other = fill_card(texts | {"checkpoints": [POINT | {"sha256": "cd" * 32}]}, read_measurements(card))
    assert other["checkpoints"][0]["metrics"] == {}
    assert other["summary"] == "(not measured)"
