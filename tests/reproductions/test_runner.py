"""The runner of reproductions and benchmarks: the same options everywhere, verdicts in one vocabulary."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import argparse

ROOT = Path(__file__).parents[2]
if not (ROOT / "reproductions" / "common" / "runner.py").is_file():
    pytest.skip("reproductions are not part of this installation", allow_module_level=True)


@pytest.fixture(scope="module")
def runner() -> Any:
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module("reproductions.common.runner")
    finally:
        sys.path.remove(str(ROOT))


def test_verdicts_have_one_vocabulary(runner: Any) -> None:
    assert runner.verdict("a is above b", True, "+1.0") == "- **reproduced**: a is above b (+1.0)"
    assert runner.verdict("a is above b", False, "-1.0") == "- **not reproduced**: a is above b (-1.0)"
    assert runner.verdict("c", runner.Verdict.INCONCLUSIVE, "0") == "- **inconclusive**: c (0)"


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (("reproduced",), None),
        (("reproduced", "reproduced"), "reproduced"),
        (("reproduced", "not reproduced", "inconclusive"), "partly"),
        (("reproduced", "inconclusive"), "partly"),
        (("not reproduced", "inconclusive"), "not reproduced"),
        (("inconclusive", "inconclusive"), "inconclusive"),
        (("partly", "partly"), "partly"),
    ],
)
def test_claims_of_a_page_have_one_outcome(runner: Any, kinds: tuple[str, ...], said: str | None) -> None:
    page = "\n".join(runner.verdict("claim", runner.Verdict(kind), "1") for kind in kinds)
    assert runner.summary(page) == ([] if said is None else ["", f"Outcome: **{said}**."])


def test_pages_go_where_write_says(runner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parser = runner.options("What it does.")
    lines = ["# Title", runner.verdict("a", True, "1"), runner.verdict("b", False, "2")]
    for given, target in ([], None), (["--write", "mine.md"], "mine.md"), (["--write"], "docs/results/page.md"):
        before = set(tmp_path.rglob("*.md"))
        command = runner.finish(parser.parse_args(given), "page", lines, people=False, given="--faces 3")
        assert bool(command) == (target is not None)
        assert set(tmp_path.rglob("*.md")) - before == (set() if target is None else {tmp_path / target})
    assert (tmp_path / "mine.md").read_text().splitlines() == [
        *lines,
        "",
        "Outcome: **partly**.",
    ]


def test_a_quick_run_replaces_no_page(runner: Any, tmp_path: Path) -> None:
    parser = runner.options("What it does.")
    with pytest.raises(SystemExit, match="says nothing about the claim"):
        runner.begin(parser.parse_args(["--quick", "--write"]))
    runner.begin(parser.parse_args(["--quick", "--write", str(tmp_path / "mine.md"), "--threads", "1"]))


def test_a_script_has_only_the_options_that_mean_something_to_it(runner: Any) -> None:
    def names(parser: argparse.ArgumentParser) -> set[str]:
        return {action.option_strings[-1] for action in parser._actions}

    assert names(runner.options("")) == {"--help", "--quick", "--work", "--write", "--threads"}
    few = runner.options("", quick="", arms=False, seed=3, pictures="sheets")
    assert names(few) == {"--help", "--write", "--threads", "--seed", "--pictures"}
    assert few.parse_args([]).seed == 3


def test_a_stopped_comparison_goes_on_and_knows_old_names(runner: Any, tmp_path: Path) -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Settings:
        batch_size: int = 8

    file = tmp_path / "arms.json"
    file.write_text('{"settings": {"batch": 8}, "arms": {"one": {"score": 1.0}}}')
    arms = runner.Arms(file, Settings(), 2)
    assert arms.run("one", lambda: pytest.fail("it was finished before")) == {"score": 1.0}
    assert arms.run("two", lambda x: {"score": x}, 2.0)["score"] == 2.0
    assert set(runner.Arms(file, Settings(), 2).done) == {"one", "two"}
    assert runner.Arms(file, Settings(batch_size=4), 2).done == {}
