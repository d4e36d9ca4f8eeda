"""Words as numbers, for small text networks that learn a few hundred of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from ...errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Words:
    """Whole words as tokens, for small text towers; a published CLIP needs its own tokeniser's numbers.

    Number 0 pads, 1 stands for words that are not known; the largest ends a text, as the text tower wants it.
    """

    def __init__(self, sentences: Sequence[str]) -> None:
        found = sorted({word for sentence in sentences for word in _words(sentence)})
        self.numbers = {word: 2 + place for place, word in enumerate(found)}

    @property
    def count(self) -> int:
        """How many different numbers there are."""
        return len(self.numbers) + 3

    def __call__(self, sentences: Sequence[str], length: int) -> Tensor:
        """(M, length) token numbers; UsageError for a sentence that is too long or empty."""
        rows = torch.zeros(len(sentences), length, dtype=torch.long)
        for row, sentence in enumerate(sentences):
            words = _words(sentence)
            if not 0 < len(words) < length:
                raise UsageError(f"a sentence has 1 to {length - 1} words, not {len(words)}: {sentence!r}")
            numbers = [self.numbers.get(word, 1) for word in words]
            rows[row, : len(numbers) + 1] = torch.tensor([*numbers, self.count - 1])
        return rows


def _words(sentence: str) -> list[str]:
    return re.findall(r"[a-z]+", sentence.lower())
