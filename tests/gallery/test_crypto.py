from __future__ import annotations

import hashlib
import hmac
import stat
from typing import TYPE_CHECKING

import pytest

from facewright.errors import OutputError
from facewright.gallery import GalleryError, create_key
from facewright.gallery.crypto import Checksums, Encryption, Sealer, read_key

if TYPE_CHECKING:
    from pathlib import Path

KEY = bytes(range(32))


def sealer(kind: str) -> Sealer:
    if kind == "encryption":
        pytest.importorskip("cryptography", reason="encryption needs the package cryptography")
        return Encryption(KEY, "one")
    return Checksums()


@pytest.mark.parametrize("kind", ["encryption", "checksums"])
def test_a_value_comes_back_only_whole_and_in_its_place(kind: str) -> None:
    seal = sealer(kind)
    sealed = seal.seal(b"value", "person.name:1")
    assert seal.unseal(sealed, "person.name:1") == b"value"
    assert seal.unseal(seal.seal(b"", "a"), "a") == b""
    with pytest.raises(ValueError, match="has changed"):
        seal.unseal(sealed, "person.name:2")
    for position in range(len(sealed)):
        broken = bytearray(sealed)
        broken[position] ^= 1
        with pytest.raises(ValueError, match="has changed"):
            seal.unseal(bytes(broken), "person.name:1")
    for cut in (sealed[:-1], sealed + b"x"):
        with pytest.raises(ValueError, match="has changed"):
            seal.unseal(cut, "person.name:1")


def test_encryption_hides_and_never_repeats() -> None:
    pytest.importorskip("cryptography", reason="encryption needs the package cryptography")
    seal = Encryption(KEY, "one")
    first, second = seal.seal(b"v" * 100, "a"), seal.seal(b"v" * 100, "a")
    assert first != second
    assert b"vvv" not in first
    for other in (Encryption(KEY, "two"), Encryption(KEY[::-1], "one")):
        assert other.lookup("Ada") != seal.lookup("Ada")
        with pytest.raises(ValueError, match="has changed, or the key is wrong"):
            other.unseal(first, "a")
    assert Encryption(KEY, "one").lookup("Ada") == seal.lookup("Ada")


def test_keys_are_derived_as_rfc_5869_says() -> None:
    aead = pytest.importorskip("cryptography.hazmat.primitives.ciphers.aead", reason="needs the package cryptography")
    pseudorandom = hmac.digest(b"one", KEY, "sha256")
    first = hmac.digest(pseudorandom, b"facewright gallery\x01", hashlib.sha256)
    second = hmac.digest(pseudorandom, first + b"facewright gallery\x02", hashlib.sha256)
    seal = Encryption(KEY, "one")
    sealed = seal.seal(b"value", "place")
    assert aead.AESGCM(first).decrypt(sealed[:12], sealed[12:], b"place") == b"value"
    assert seal.lookup("Ada") == hmac.digest(second, b"Ada", "sha256")[:16]


def test_key_files(tmp_path: Path) -> None:
    first, second = tmp_path / "a.key", tmp_path / "b.key"
    create_key(first)
    create_key(second)
    assert len(read_key(first)) == 32
    assert read_key(first) == read_key(first) != read_key(second)
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    with pytest.raises(OutputError, match="exists"):
        create_key(first)


@pytest.mark.parametrize("text", ["", "secret", "facewright-gallery-key-1:AAAA", "facewright-gallery-key-1:?", "\xe9"])
def test_what_is_no_key_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(GalleryError, match=r"a\.key"):
        read_key(path)
    with pytest.raises(GalleryError, match="cannot be read"):
        read_key(tmp_path / "missing.key")
