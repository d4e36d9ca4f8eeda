"""Content credentials: signed by us, checked by the library's own reader."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from facewright.errors import OutputError, UsageError
from facewright.io.credentials import SigningKey, read_credentials, sign
from facewright.io.image import read
from facewright.io.provenance import Provenance, read_provenance

pytest.importorskip("c2pa", reason="the extra c2pa is not installed")

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import SimpleNamespace

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
RECORD = Provenance(version="1.2", models=("mos", "frgp"), parameters={"upscale": 2})


def certificate(name: str, key: Any, issuer: Any = None, *, end: datetime.datetime = NOW + 30 * DAY) -> Any:
    """A certificate for a key; by `issuer`, a pair of certificate and key, or by itself."""
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests")]
    )
    by, by_key = issuer or (None, key)
    is_root = issuer is None
    made = (
        x509.CertificateBuilder(subject if is_root else by.subject, subject, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 2 * DAY)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(is_root, None), True)
        .add_extension(x509.KeyUsage(not is_root, False, False, False, False, is_root, is_root, False, False), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by_key.public_key()), False)
    )
    if not is_root:
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
    algorithm = None if isinstance(by_key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return made.sign(by_key, algorithm)


@pytest.fixture(scope="module")
def root() -> Any:
    key = ec.generate_private_key(ec.SECP256R1())
    return certificate("Root", key), key


@pytest.fixture
def files(tmp_path: Path, root: Any) -> Callable[..., tuple[Path, Path]]:
    """Write a chain and a key as files; `key` is the signer's."""

    def write(key: Any = None, **values: Any) -> tuple[Path, Path]:
        key = key or ec.generate_private_key(ec.SECP256R1())
        chain = certificate("Anna's darkroom", key, root, **values), root[0]
        (tmp_path / "chain.pem").write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in chain))
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / "key.pem").write_bytes(secret)
        (tmp_path / "root.pem").write_bytes(root[0].public_bytes(Encoding.PEM))
        return tmp_path / "chain.pem", tmp_path / "key.pem"

    return write


@pytest.fixture
def photo(tmp_path: Path, fakes: SimpleNamespace) -> Path:
    return read(fakes.textured(200, 240)).save(tmp_path / "anna.jpg", quality=90)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_a_signed_picture_says_what_was_done_and_to_what(
    files: Callable[..., tuple[Path, Path]], photo: Path, tmp_path: Path, suffix: str, fakes: SimpleNamespace
) -> None:
    made = read(fakes.textured(200, 240, seed=1)).save(tmp_path / f"made{suffix}")
    pixels = read(made).pixels
    sign(made, SigningKey.load(*files()), RECORD, photo)
    found = read_credentials(made)
    assert found is not None
    assert found.valid
    assert not found.trusted
    assert found.signer == "Anna's darkroom"
    assert found.tool == "facewright 1.2"
    assert found.actions == ("c2pa.opened", "c2pa.edited", "c2pa.resized")
    assert found.ingredients == ("anna.jpg",)
    assert set(found.problems) == {"signingCredential.untrusted"}
    assert np.array_equal(read(made).pixels, pixels)
    trusted = read_credentials(made, tmp_path / "root.pem")
    assert trusted is not None
    assert trusted.trusted
    assert trusted.problems == ()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".facewright")) == []


def test_a_changed_picture_no_longer_agrees(
    files: Callable[..., tuple[Path, Path]], photo: Path, tmp_path: Path, fakes: SimpleNamespace
) -> None:
    made = read(fakes.textured(200, 240, seed=1)).save(tmp_path / "made.jpg")
    sign(made, SigningKey.load(*files()), RECORD, photo)
    content = bytearray(made.read_bytes())
    content[-200] ^= 1
    made.write_bytes(content)
    found = read_credentials(made)
    assert found is not None
    assert not found.valid
    assert "assertion.dataHash.mismatch" in found.problems


def test_credentials_of_the_original_stay_in_the_chain(
    files: Callable[..., tuple[Path, Path]], photo: Path, tmp_path: Path
) -> None:
    key = SigningKey.load(*files())
    sign(photo, key, RECORD, None)
    created = read_credentials(photo)
    assert created is not None
    assert created.actions == ("c2pa.created",)
    second = tmp_path / "second.jpg"
    read(photo).save(second)
    sign(second, key, RECORD, photo, title="second.jpg")
    found = read_credentials(second)
    assert found is not None
    assert found.valid
    assert found.ingredients == ("anna.jpg",)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate,
        lambda: rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-384", "Ed25519", "RSA"],
)
def test_every_kind_of_key_that_is_allowed_signs(
    files: Callable[..., tuple[Path, Path]], photo: Path, make: Callable[[], Any]
) -> None:
    sign(photo, SigningKey.load(*files(make())), RECORD, None)
    found = read_credentials(photo)
    assert found is not None
    assert found.valid


def test_what_cannot_sign_is_refused(files: Callable[..., tuple[Path, Path]], photo: Path, tmp_path: Path) -> None:
    chain, key = files()
    other = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "other.pem").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(UsageError, match="not the key of the certificate"):
        SigningKey.load(chain, tmp_path / "other.pem")
    with pytest.raises(UsageError, match="cannot read"):
        SigningKey.load(chain, tmp_path / "nothing.pem")
    with pytest.raises(UsageError, match="as PEM"):
        SigningKey.load(photo, key)
    with pytest.raises(UsageError, match="does not allow"):
        SigningKey.load(*files(ec.generate_private_key(ec.SECP256K1())))
    before = photo.read_bytes()
    with pytest.raises(UsageError, match="cannot be signed"):
        sign(tmp_path / "a.bmp", SigningKey.load(*files()), RECORD, photo)
    with pytest.raises(OutputError, match="cannot sign"):
        sign(photo, SigningKey.load(*files(end=NOW - DAY)), RECORD, None)
    assert photo.read_bytes() == before


def test_pictures_without_credentials_have_none(photo: Path, tmp_path: Path, fakes: SimpleNamespace) -> None:
    assert read_credentials(photo) is None
    bitmap = read(fakes.textured(20, 20)).save(tmp_path / "a.bmp")
    assert read_credentials(bitmap) is None


def test_the_command_signs(
    run: Callable[..., tuple[int, str, str]],
    use_pipeline: Callable[[Any], None],
    fakes: SimpleNamespace,
    files: Callable[..., tuple[Path, Path]],
    photo: Path,
    tmp_path: Path,
) -> None:
    use_pipeline(fakes.pipeline(fakes.face_at((120, 100), 40)))
    code, _, err = run("restore", photo, "-o", tmp_path / "out.jpg", "--sign", *files())
    assert code == 0, err
    found = read_credentials(tmp_path / "out.jpg")
    assert found is not None
    assert found.valid
    assert found.ingredients == ("anna.jpg",)
    record = read_provenance(tmp_path / "out.jpg")
    assert record is not None  # for those who read XMP
    code, _, err = run("restore", photo, "-o", tmp_path / "out.bmp", "--sign", *files())
    assert (code, "cannot be signed" in err) == (2, True)
    assert not (tmp_path / "out.bmp").exists()


def test_an_unaltered_photo_is_copied_as_it_is(
    run: Callable[..., tuple[int, str, str]],
    use_pipeline: Callable[[Any], None],
    fakes: SimpleNamespace,
    files: Callable[..., tuple[Path, Path]],
    photo: Path,
    tmp_path: Path,
) -> None:
    use_pipeline(fakes.pipeline())
    code, _, err = run("restore", photo, "-o", tmp_path / "out.jpg", "--sign", *files())
    assert code == 0, err
    assert (tmp_path / "out.jpg").read_bytes() == photo.read_bytes()
