"""CLIP's tokeniser: byte pairs are merged in the order of the list, and every text has numbers."""

from __future__ import annotations

import pytest

from facewright.errors import UsageError
from facewright.nn.bpe import BytePairs

TEXT = "#version\nc a\nca t</w>\nt h\nth e</w>\n"


def test_pairs_are_merged_in_order() -> None:
    pairs = BytePairs.read(TEXT)
    assert pairs.size == 512 + 4 + 2
    assert pairs.encode("Cat  THE") == [513, 515]
    assert pairs.encode("ca") == [pairs.numbers["c"], pairs.numbers["a</w>"]]  # "c a" joins no last letter
    assert pairs.encode("") == []


def test_the_bytes_come_first_in_their_published_order() -> None:
    numbers = BytePairs.read(TEXT).numbers
    assert (numbers["!"], numbers["a"], numbers["~"]) == (0, 64, 93)
    assert numbers["a</w>"] == 320  # as in CLIP's own vocabulary
    assert len(numbers) == len(set(numbers.values())) == 516


def test_anything_can_be_spelt() -> None:
    pairs = BytePairs.read(TEXT)
    assert pairs.encode("12") == [pairs.numbers["1</w>"], pairs.numbers["2</w>"]]
    for text in ("é", "日本", "a_b", "it's", "🙂!"):
        assert all(0 <= number < 516 for number in pairs.encode(text))


def test_other_files_are_refused() -> None:
    with pytest.raises(UsageError, match="no file of byte pairs"):
        BytePairs.read("#\none two three\n")
    with pytest.raises(UsageError, match="no file of byte pairs"):
        BytePairs.read("")
