"""Write `docs/evidence.md`: for every system what is proven of it, by what, and what is not known.

    python tools/make_evidence.py [--check] [--vectors FOLDER]

The cards, their measurements, the pages of results with their records, the tests and the headers of the embedded
weights are the only sources. `--vectors` is the folder of parity vectors; with it the command says which of them
neither a test nor the list of systems to come names.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from facewright.evaluation.pages import PageRecord, read_records
from facewright.tasks.card import Card, card_path, cards
from facewright.tasks.measurement import read_measurements
from facewright.weights.store import embedded_path, load_file

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "evidence.md"
RESULTS = ROOT / "docs" / "results"
TESTS = ROOT / "tests"
INTRODUCTION = """<!-- Written by tools/make_evidence.py; edit the card, the test or the measurement instead. -->

# Evidence

What is proven of every system, by what, and what is not known. *Parity*: our network, given the weights of the
published one, gives the same outputs; the vectors are those of [the models' pages](models/index.md). *Recipe*: whether
the embedded weights say by which recipe they were made. *Claims*: what came out when the paper's claims were tested at
this size; the pages say how. *Measured*: the records behind the numbers of the card, with the split of
[people](results.md#people) that was held out (*first*: the split before it, whose UTKFace half is too good). *Seen in
judging*: embedded networks that took part in measuring; one trained with the same teacher is no unrelated judge.
"""
TO_COME = {
    "CGOF (3-D controllable faces)": ("cgof-discriminator", "cgof-field", "cgof-mapping"),
    "DCFace (synthetic identities)": ("dcface-unet",),
    "IDiff-Face (synthetic identities)": ("idiffface-unet", "idiffface-vqf4"),
    "ReliableSwap (face swap)": (
        "reliableswap-faceshifter",
        "reliableswap-fixernet",
        "reliableswap-simswap",
        "simswap-generator",
    ),
    "S2TD-Face (sketch to 3-D)": ("s2td-detail", "s2td-recon"),
    "LipExpert (talking faces)": ("talklip", "talklip-disc", "wav2lip", "wav2lip-disc", "wav2lip-syncnet"),
}
"""Vectors that no system here uses yet, by the system that will."""
_VERDICT = re.compile(r"^- \*\*(.+?)\*\*: (.+?)(?: \(|$)", re.MULTILINE)
_PAGES_OF = {
    "distilledface": ("recogniser", "identity"),
    "frgp": ("frgp", "frgp-"),
    "facewarp": ("landmarks", "facewarp"),
}


_SHARED = {"liveness-papers": ("dlif", "hypoc", "iadg", "clipc8", "dle", "ifas")}
"""Pages on several systems, whose claims begin with the name of the one they are about."""


def page() -> str:
    """The whole page."""
    records = read_records(RESULTS)
    blocks = [
        INTRODUCTION,
        *(section(card, records) for card in sorted(cards().values(), key=lambda c: c.name.lower())),
    ]
    blocks.append("## Parity vectors of systems to come\n\n" + "\n".join(to_come()))
    return "\n".join(blocks) + "\n"


def section(card: Card, records: dict[str, PageRecord]) -> str:
    """What is known of one system."""
    data = dict.fromkeys(source for point in card.checkpoints for source in point.training_data)
    rows = [
        ("parity", parity(card)),
        ("recipe", recipe(card)),
        ("claims", claims(card)),
        ("measured", measured(card)),
        ("seen in judging", judges(card, records)),
        ("trained on", ", ".join(data) or "no weights of its own"),
        ("not known", not_known(card)),
    ]
    lines = [f"## {card.name}", "", f"[`{card.slug}`](models/{card.slug}.md)", "", "| | |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {text.replace('|', '/')} |" for name, text in rows), ""])


def parity(card: Card) -> str:
    if not card.parity:
        reasons = (s for s in _sentences(card.faithful) if "public" in s or "vector" in s)
        return "none: " + next(reasons, "nothing to compare with")
    used = tested_vectors()
    return ", ".join(f"`{name}`" + ("" if name in used else " (no test)") for name in card.parity)


def tested_vectors() -> set[str]:
    """Every quoted word of the tests: the names of vectors are among them."""
    words = re.compile(r"[\"']([\w.-]+)[\"']")
    found = {word for path in TESTS.rglob("*.py") for word in words.findall(path.read_text(encoding="utf-8"))}
    return {word.removesuffix(".npz") for word in found}


def recipe(card: Card) -> str:
    """Whether the weights say how they were made."""
    found = []
    for point in card.checkpoints:
        if not point.file:
            continue
        made = load_file(embedded_path(point))[1].get("made_by")
        if made:
            said = f"recorded in the weights ({made['step']} steps, code {made['code'][-1]['version'][:12]})"
        elif point.recipe.endswith(".py"):
            said = f"fitted by `{point.recipe}`, which leaves no record in the weights"
        else:
            said = f"stated in `{point.recipe}`; the weights are older than the record, so that nobody can check it"
        found.append(said)
    return "; ".join(found) or "no weights of its own"


def claims(card: Card) -> str:
    """How many claims of the system's pages had which outcome."""
    found = []
    for path in pages_of(card):
        stated = _VERDICT.findall(path.read_text(encoding="utf-8"))
        own = path.stem not in _SHARED
        outcomes = [outcome for outcome, claim in stated if own or claim.startswith(f"{card.name}: ")]
        if outcomes:
            counted = ", ".join(f"{outcomes.count(o)} {o}" for o in dict.fromkeys(outcomes))
            found.append(f"[{path.stem}](results/{path.name}): {counted}")
    if found:
        return "; ".join(found)
    return f"see `{card.reproduction}`" if card.reproduction else "none tested"


def pages_of(card: Card) -> list[Path]:
    """The pages of results that are about a system, by their names."""
    shared = tuple(name for name, slugs in _SHARED.items() if card.slug in slugs)
    starts = _PAGES_OF.get(card.slug, (card.slug, f"{card.slug}-")) + shared
    return [
        path
        for path in sorted(RESULTS.glob("*.md"))
        if path.stem in starts or any(s.endswith("-") and path.stem.startswith(s) for s in starts)
    ]


def measured(card: Card) -> str:
    records = read_measurements(card_path(card.slug))
    said = [f"`{r.command}` on {r.data}" + (f", split {r.split}" if r.split else "") for r in records]
    return "; ".join(dict.fromkeys(said)) or ("never" if card.checkpoints else "no weights of its own")


def judges(card: Card, records: dict[str, PageRecord]) -> str:
    """The other embedded networks of the records of the system's pages."""
    found = {slug for path in pages_of(card) if path.name in records for slug in records[path.name].weights}
    return ", ".join(f"`{slug}`" for slug in sorted(found - {card.slug})) or "none of this project's"


def not_known(card: Card) -> str:
    """What the card says was not measured, compared or tried."""
    sentences = [s for text in (card.bias, card.faithful, *card.limits) for s in _sentences(text)]
    doubts = [s for s in sentences if re.search(r"\bnot (?:measured|public|known|tried|tested)|No reproduction", s)]
    if card.checkpoints and "first" in {r.split for r in read_measurements(card_path(card.slug))}:
        doubts.append("Its numbers were not measured by the present split.")
    return " ".join(dict.fromkeys(doubts)) or "nothing is on record"


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=\.) +", text)


def to_come() -> list[str]:
    return [f"- {system}: {', '.join(f'`{name}`' for name in names)}" for system, names in TO_COME.items()]


def forgotten(vectors: Iterable[str]) -> list[str]:
    """Vectors that neither a test nor a system to come names."""
    known = tested_vectors() | {name for names in TO_COME.values() for name in names}
    return sorted(set(vectors) - known)


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the page of evidence.")
    parser.add_argument("--check", action="store_true", help="change nothing, exit with 1 if the page is out of date")
    parser.add_argument("--vectors", type=Path, help="folder of the parity vectors")
    options = parser.parse_args()
    for name in forgotten(path.stem for path in options.vectors.glob("*.npz")) if options.vectors else []:
        print(f"no test uses the vector {name}, and no system to come is named for it", file=sys.stderr)
        return 1
    if not options.check:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
        print("docs/evidence.md is out of date; run: python tools/make_evidence.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
