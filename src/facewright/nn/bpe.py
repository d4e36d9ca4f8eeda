"""The tokeniser of CLIP: words to numbers by byte pairs (Sennrich, Haddow, Birch, ACL 2016).

The merges are a published file (`merges.txt`, or `bpe_simple_vocab_16e6.txt` unpacked) that does not come with this
package. A text is put into lower case, split into words, single digits and other signs; each is spelt in bytes, and
pairs are merged, the earliest of the list first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from ..errors import UsageError

MERGES = 48_894
"""Merges that CLIP's vocabulary of 49,408 is made of: 2 · 256 bytes, the merges, the two ends of a text."""
_END = "</w>"
_WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+|_+")


def _byte_letters() -> dict[int, str]:
    """A printable letter for every byte: itself where it has one, else one from behind all of them."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(256 + number) for number, byte in enumerate(hidden)}


_LETTERS = _byte_letters()


@dataclass(frozen=True)
class BytePairs:
    """A vocabulary by its merges, in order."""

    merges: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, text: str) -> BytePairs:
        """From the text of a file of merges, one a line, the first line a heading; UsageError for any other text."""
        lines = text.splitlines()[1 : MERGES + 1]
        pairs = [tuple(line.split()) for line in lines if line.strip()]
        if not pairs or any(len(pair) != 2 for pair in pairs):
            raise UsageError("this is no file of byte pairs: it should have two parts a line")
        return cls(tuple(pairs))  # type: ignore[arg-type]

    @property
    def size(self) -> int:
        """Number of tokens; the last two begin and end a text."""
        return 2 * len(_LETTERS) + len(self.merges) + 2

    @cached_property
    def ranks(self) -> dict[tuple[str, str], int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}

    @cached_property
    def numbers(self) -> dict[str, int]:
        letters = sorted(_LETTERS.items(), key=lambda item: (ord(item[1]) >= 256, item[0]))
        first = [letter for _, letter in letters]
        tokens = [*first, *(letter + _END for letter in first), *("".join(pair) for pair in self.merges)]
        return {token: number for number, token in enumerate(tokens)}

    def encode(self, text: str) -> list[int]:
        """The numbers of a text, without those of its ends."""
        found: list[int] = []
        for word in _WORD.findall(" ".join(text.split()).lower()):
            letters = [_LETTERS[byte] for byte in word.encode()]
            found += [self.numbers[part] for part in self._merged((*letters[:-1], letters[-1] + _END))]
        return found

    def _merged(self, parts: tuple[str, ...]) -> tuple[str, ...]:
        while len(parts) > 1:
            pairs = list(zip(parts, parts[1:]))
            best = min(pairs, key=lambda pair: self.ranks.get(pair, len(self.merges)))
            if best not in self.ranks:
                break
            joined: list[str] = []
            for part in parts:
                if joined and (joined[-1], part) == best:
                    joined[-1] += part
                else:
                    joined.append(part)
            parts = tuple(joined)
        return parts
