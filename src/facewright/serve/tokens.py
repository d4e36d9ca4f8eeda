"""Who may use the server: random tokens, of which only hashes are kept."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path
from typing import Self

from ..errors import UsageError
from ..io.atomic import atomic_output

VARIABLE = "FACEWRIGHT_TOKEN"
"""Environment variable with one more token, for containers."""
LEAST = 24
"""Characters below which a token could be guessed."""
_LINE = re.compile(r"([\w.-]{1,64})\s+sha256:([0-9a-f]{64})")


class Tokens:
    """Hashes of tokens by the name of their owner. Tokens are 256 random bits, so that one round of hashing is enough
    to keep them from whoever reads the file."""

    def __init__(self, hashes: dict[str, bytes]) -> None:
        self._hashes = hashes

    def __len__(self) -> int:
        return len(self._hashes)

    def owner(self, token: str) -> str | None:
        """Whose token it is, None for nobody's; every hash is compared, in constant time."""
        given = _hash(token)
        found = None
        for name, known in self._hashes.items():
            if hmac.compare_digest(given, known):
                found = name
        return found

    @classmethod
    def load(cls, path: str | Path | None, environment: str | None = None) -> Self:
        """Of a file of lines "NAME sha256:HASH", and of the environment; UsageError for anything else."""
        hashes = {}
        if path is not None:
            try:
                text = Path(path).read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise UsageError(f"cannot read the tokens in {path}; make one with --new-token NAME") from error
            for number, line in enumerate(text.splitlines(), start=1):
                if not line.strip() or line.startswith("#"):
                    continue
                match = _LINE.fullmatch(line.strip())
                if match is None:
                    raise UsageError(f"{path}, line {number}: not of the form NAME sha256:HASH")
                hashes[match[1]] = bytes.fromhex(match[2])
            if not hashes:
                raise UsageError(f"{path} holds no token; make one with --new-token NAME")
        if environment:
            if len(environment) < LEAST:
                raise UsageError(f"{VARIABLE} is shorter than {LEAST} characters; take a longer, random one")
            hashes["environment"] = _hash(environment)
        return cls(hashes)


def make_token(path: str | Path, name: str) -> str:
    """A new token; its hash is added to the file under a name, for the owner's eyes only. UsageError for bad names."""
    if not re.fullmatch(r"[\w.-]{1,64}", name):
        raise UsageError(f"{name!r} is not a name for a token; use letters, digits, dots and hyphens")
    place = Path(path)
    before = place.read_text(encoding="utf-8") if place.exists() else ""
    if any(line.split()[:1] == [name] for line in before.splitlines()):
        raise UsageError(f"{path} holds a token named {name} already; remove its line first")
    token = secrets.token_urlsafe(32)
    with atomic_output(place, overwrite=True) as temporary:
        os.chmod(temporary, 0o600)
        temporary.write_text(f"{before}{name} sha256:{_hash(token).hex()}\n", encoding="utf-8")
    return token


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
