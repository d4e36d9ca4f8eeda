"""The page of evidence is that of the cards, and no parity vector is forgotten."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from facewright.tasks.card import cards, get_card

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def evidence() -> Any:
    path = ROOT / "tools" / "make_evidence.py"
    if not path.is_file():
        pytest.skip("the tools are not part of this installation")
    spec = importlib.util.spec_from_file_location("make_evidence", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date_and_speaks_of_every_system(evidence: Any) -> None:
    text = evidence.page()
    assert evidence.PAGE.read_text(encoding="utf-8") == text, "run: python tools/make_evidence.py"
    assert all(f"[`{slug}`](models/{slug}.md)" in text for slug in cards())


def test_claims_are_counted_by_their_outcome(evidence: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "RESULTS", tmp_path)
    (tmp_path / "dfdnet.md").write_text(
        "- **reproduced**: a (1)\n- **not reproduced**: b (2)\n- **reproduced**: c (3)\n"
        "- **inconclusive**: d (4); every network is worse than its input\n"
    )
    assert evidence.claims(get_card("dfdnet")) == (
        "[dfdnet](results/dfdnet.md): 2 reproduced, 1 not reproduced, 1 inconclusive"
    )


def test_a_page_on_several_systems_counts_for_each_its_own_claims(
    evidence: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "RESULTS", tmp_path)
    (tmp_path / "liveness-papers.md").write_text(
        "- **reproduced**: DLIF: people are domains (1)\n- **partly**: I-FAS: captions help (2)\n"
        "- **inconclusive**: DLIF: and more (3)\n"
    )
    assert evidence.claims(get_card("dlif")) == (
        "[liveness-papers](results/liveness-papers.md): 1 reproduced, 1 inconclusive"
    )
    assert evidence.claims(get_card("ifas")) == "[liveness-papers](results/liveness-papers.md): 1 partly"
    assert evidence.claims(get_card("dle")) == "see `reproductions/liveness`"
    assert evidence.claims(get_card("livecheck")) == "see `reproductions/liveness`"


@pytest.mark.shared
def test_every_parity_vector_has_a_test_or_a_system_to_come(evidence: Any, shared_dir: Path) -> None:
    assert evidence.forgotten(path.stem for path in (shared_dir / "parity").glob("*.npz")) == []
    unknown = "nobody-" + "knows"
    assert evidence.forgotten([unknown]) == [unknown]
