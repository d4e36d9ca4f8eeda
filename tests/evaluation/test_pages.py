"""Pages of results: written with the record of what made them, and the shipped ones are those that were measured."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from facewright.data.split import split_id
from facewright.evaluation.pages import held_out, numbers_digest, read_records, write_page
from facewright.tasks.card import get_card

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def audit() -> Any:
    path = ROOT / "tools" / "audit" / "records.py"
    if not path.is_file():
        pytest.skip("the audit's commands are not part of this installation")
    spec = importlib.util.spec_from_file_location("audit_records", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_page_is_written_with_its_record(tmp_path: Path) -> None:
    write_page(tmp_path / "a.md", "# A\n\n1.5 dB\n", command="python a.py", systems=["frgp", "arcface"])
    write_page(tmp_path / "b.md", "# B\n", command="python b.py", people=False)
    records = read_records(tmp_path)
    assert list(records) == ["a.md", "b.md"]
    assert records["a.md"].weights == {"frgp": get_card("frgp").checkpoints[0].sha256}
    assert (records["a.md"].split, records["b.md"].split) == (split_id(), "")
    assert (tmp_path / "a.md").read_text().endswith(f"1.5 dB\n\n{held_out()}\n")
    assert (tmp_path / "b.md").read_text() == "# B\n"


def test_words_may_change_and_numbers_may_not() -> None:
    assert numbers_digest("gains 1.5 dB of 20") == numbers_digest("of 1.5 dB gained, 20 faces")
    assert numbers_digest("gains 1.5 dB") != numbers_digest("gains 5.09 dB")


def test_a_typed_number_is_noticed(audit: Any, tmp_path: Path) -> None:
    write_page(tmp_path / "a.md", "gains 1.5 dB\n", command="python a.py")
    (tmp_path / "b.md").write_text("nobody measured this\n")
    assert list(audit.problems_of_pages(tmp_path)) == ["b.md: no command wrote it (evaluation.pages.write_page)"]
    (tmp_path / "b.md").unlink()
    (tmp_path / "a.md").write_text("gains 5.09 dB\n")
    assert list(audit.problems_of_pages(tmp_path)) == [
        "a.md: its numbers are not those that were measured; again: python a.py"
    ]
    assert list(audit.problems_of_sentences("x", ["gains +5.09 dB"], {})) == [
        "x: +5.09 in 'gains +5.09 dB'… is typed; ask for it by {name}"
    ]
    assert not list(audit.problems_of_sentences("x", ["gains {gain} dB; arXiv 2205.14377; 8.1 M"], {"gain": 1.0}))
    assert "nobody measured 'gain'" in next(audit.problems_of_sentences("x", ["gains {gain}"], {}))


ARMS = "| arm | PSNR, dB |\n| --- | --- |\n{}| a | 21.0 [20, 22] |\n| b | 22.0 [21, 23] |\n\n- **{}**: b beats a\n"


@pytest.mark.parametrize(
    ("given", "verdict", "wrong"),
    [
        ("| input, not restored | 20.0 |\n", "reproduced", False),
        ("| input, not restored | 30.0 |\n", "reproduced", True),
        ("| damaged picture | 30.0 |\n", "not reproduced", True),
        ("| damaged picture | 30.0 |\n", "inconclusive", False),
        ("", "inconclusive", True),
    ],
)
def test_claims_between_restorers_that_do_harm_are_inconclusive(
    audit: Any, tmp_path: Path, given: str, verdict: str, *, wrong: bool
) -> None:
    (tmp_path / "a.md").write_text(ARMS.format(given, verdict))
    assert bool(list(audit.problems_of_claims(tmp_path))) == wrong


def test_every_number_that_ships_was_measured(audit: Any) -> None:
    assert audit.problems() == []
