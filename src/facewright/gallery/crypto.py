"""Encryption at rest, and checksums where there is none.

Every stored value is sealed together with the place it belongs to, so that a value changed, or moved to another row,
is noticed when it is read. With a key the seal is AES-256-GCM (NIST SP 800-38D) under a key derived for this gallery
by HKDF-SHA256 (RFC 5869); without one it is a checksum, which finds accidents and no intention.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from typing import TYPE_CHECKING, Protocol

from ..errors import GalleryError, MissingDependencyError
from ..io.atomic import atomic_output

if TYPE_CHECKING:
    from pathlib import Path

KEY_BYTES = 32
NONCE_BYTES = 12
CHECKSUM_BYTES = 8
_KEY_LABEL = "facewright-gallery-key-1:"


class Sealer(Protocol):
    """Turns values into what is written, and back."""

    def seal(self, value: bytes, place: str) -> bytes:
        """What to write for a value at a place such as "person.name:7"."""
        ...

    def unseal(self, sealed: bytes, place: str) -> bytes:
        """The value again; ValueError when it was not sealed for that place, or has changed since."""
        ...

    def lookup(self, text: str) -> bytes:
        """A fixed-length stand-in by which equal texts can be found."""
        ...


class Checksums:
    """Values as they are, each with a checksum."""

    def seal(self, value: bytes, place: str) -> bytes:
        return value + self._checksum(value, place)

    def unseal(self, sealed: bytes, place: str) -> bytes:
        value, checksum = sealed[:-CHECKSUM_BYTES], sealed[-CHECKSUM_BYTES:]
        if checksum != self._checksum(value, place):
            raise ValueError(f"{place} has changed")
        return value

    def lookup(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    @staticmethod
    def _checksum(value: bytes, place: str) -> bytes:
        return hashlib.blake2b(value + place.encode(), digest_size=CHECKSUM_BYTES).digest()


class Encryption:
    """Values encrypted and authenticated; `gallery` is the random name that separates galleries sharing a key."""

    def __init__(self, key: bytes, gallery: str) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
            from cryptography.hazmat.primitives.hashes import SHA256
            from cryptography.hazmat.primitives.kdf.hkdf import HKDF
        except ImportError as error:
            raise MissingDependencyError(
                "encrypted galleries need the package cryptography: pip install 'facewright[gallery]'"
            ) from error
        derived = HKDF(SHA256(), 2 * KEY_BYTES, gallery.encode(), b"facewright gallery").derive(key)
        self._cipher = AESGCM(derived[:KEY_BYTES])
        self._lookup_key = derived[KEY_BYTES:]

    def seal(self, value: bytes, place: str) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, value, place.encode())

    def unseal(self, sealed: bytes, place: str) -> bytes:
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], place.encode())
        except InvalidTag:
            raise ValueError(f"{place} has changed, or the key is wrong") from None

    def lookup(self, text: str) -> bytes:
        return hmac.digest(self._lookup_key, text.encode(), "sha256")[:16]


def create_key(path: str | Path) -> None:
    """Write a new random key that only the owner can read. Raises OutputError; never replaces a file."""
    with atomic_output(path) as temporary:
        temporary.chmod(0o600)
        temporary.write_text(_KEY_LABEL + base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode() + "\n")


def read_key(path: str | Path) -> bytes:
    """The 32 bytes of a key file. Raises GalleryError when it is missing or not a key."""
    try:
        with open(path, encoding="ascii") as file:
            text = file.read(200).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise GalleryError(f"the key file {path} cannot be read: {reason}") from error
    try:
        key = base64.b64decode(text.removeprefix(_KEY_LABEL), validate=True)
    except binascii.Error:
        key = b""
    if not text.startswith(_KEY_LABEL) or len(key) != KEY_BYTES:
        raise GalleryError(f"{path} is not a gallery key; give the file written when the gallery was created")
    return key
