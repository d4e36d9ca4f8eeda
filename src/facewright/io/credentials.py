"""Content credentials: a signed record of what was done to a picture and what it was made from (C2PA 2).

The record says the same as the XMP of `io.provenance`, but nobody can change it, or the picture, without breaking the
signature. The original is its ingredient, with a hash and with the credentials it had. Signing and checking are done by
c2pa-python, which is told to fetch nothing: no time stamp, no revocation list, no credentials kept elsewhere.
"""

from __future__ import annotations

import importlib.util
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..errors import MissingDependencyError, OutputError, UsageError
from .encode import format_of
from .kinds import kind_of
from .provenance import DIGITAL_SOURCE_TYPE

if TYPE_CHECKING:
    from .provenance import Provenance

MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "TIFF": "image/tiff",
    "WEBP": "image/webp",
    "HEIF": "image/heic",
    "AVIF": "image/avif",
    "GIF": "image/gif",
    "JXL": "image/jxl",
}
"""Formats that have a place for content credentials."""
_OFFLINE: dict[str, dict[str, Any]] = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A certificate chain and its private key, both PEM; `algorithm` as C2PA names it."""

    certificates: bytes
    private_key: bytes
    algorithm: str

    @classmethod
    def load(cls, certificates: str | Path, private_key: str | Path) -> Self:
        """Read the two files: the signer's certificate first, then those that vouch for it, without the root.

        Raises UsageError for files that cannot be read or do not belong together, MissingDependencyError without the
        extra c2pa.
        """
        _check_installed()
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            chain, key = Path(certificates).read_bytes(), Path(private_key).read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error
        try:
            certificate = x509.load_pem_x509_certificates(chain)[0]
            secret = load_pem_private_key(key, None)
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"{certificates} and {private_key} are no certificate and key without a password, both as PEM"
            ) from error
        if certificate.public_key() != secret.public_key():
            raise UsageError(f"{private_key} is not the key of the certificate in {certificates}")
        return cls(chain, key, _algorithm(secret))


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a picture's content credentials say.

    `valid`: signature and picture agree. `trusted`: the signer is on the list of trust that was given. `problems` are
    C2PA's codes of what is wrong. `signer` is the name in the certificate, `tool` what made the picture, `actions` what
    it did, by C2PA's names, `ingredients` the names of what it was made from.
    """

    valid: bool
    trusted: bool
    problems: tuple[str, ...]
    signer: str
    tool: str
    actions: tuple[str, ...]
    ingredients: tuple[str, ...]


def check_format(path: str | Path) -> None:
    """Raise UsageError for an output that cannot be signed."""
    name = format_of(path)
    if name not in MEDIA_TYPES:
        raise UsageError(f"{path} cannot be signed; write one of {', '.join(MEDIA_TYPES)}")


def sign(
    path: str | Path,
    key: SigningKey,
    provenance: Provenance,
    original: str | Path | None = None,
    *,
    title: str | None = None,
) -> None:
    """Sign a picture file in place; nothing half-written is left where that fails.

    Args:
        path: The file.
        key: Who signs.
        provenance: What was done.
        original: What it was made from, its ingredient; None for a picture that was made from none.
        title: Name of the picture in the record; that of the file without.

    Raises:
        UsageError: The format has no place for credentials.
        OutputError: It cannot be signed, for example because the certificate has expired.
    """
    _check_installed()
    import c2pa

    check_format(path)
    file, kind = Path(path), MEDIA_TYPES[format_of(path)]
    signed = file.with_name(f".facewright-{secrets.token_hex(8)}{file.suffix}")
    try:
        with c2pa.Context(c2pa.Settings.from_dict(_OFFLINE)) as context:
            builder = c2pa.Builder(_manifest(provenance, title or file.name, original), context=context)
            if original is not None:
                _add_ingredient(builder, Path(original))
            signer = c2pa.Signer.from_info(
                c2pa.C2paSignerInfo(key.algorithm.encode(), key.certificates, key.private_key, None)
            )
            with file.open("rb") as source, signed.open("w+b") as target:
                builder.sign(signer, kind, source, target)
        signed.replace(file)
    except c2pa.C2paError as error:
        raise OutputError(f"cannot sign {path}: {' '.join(str(error).split())[:200]}") from error
    finally:
        signed.unlink(missing_ok=True)


def read_credentials(path: str | Path, trusted: str | Path | None = None) -> Credentials | None:
    """The content credentials of a picture file, checked; None where there are none.

    `trusted` is a PEM file with the certificates of those whose signatures count. Raises MissingDependencyError without
    the extra c2pa.
    """
    _check_installed()
    import c2pa

    settings: dict[str, Any] = {**_OFFLINE}
    if trusted is not None:
        settings["trust"] = {"user_anchors": Path(trusted).read_text(encoding="utf-8")}
        settings["verify"] = {**_OFFLINE["verify"], "verify_trust": True}
    kind = _media_type(Path(path))
    if kind is None:
        return None
    with c2pa.Context(c2pa.Settings.from_dict(settings)) as context, Path(path).open("rb") as file:
        reader = c2pa.Reader.try_create(kind, file, context=context)
        if reader is None:
            return None
        state, document = str(reader.get_validation_state()), json.loads(reader.json())
    return _credentials(state, document)


def _credentials(state: str, document: dict[str, Any]) -> Credentials:
    manifest = document["manifests"][document["active_manifest"]]
    actions = [
        action["action"]
        for assertion in manifest.get("assertions", ())
        if assertion["label"].startswith("c2pa.actions")
        for action in assertion["data"]["actions"]
    ]
    tool = manifest.get("claim_generator_info", [{}])[0]
    return Credentials(
        valid=state in ("Valid", "Trusted"),
        trusted=state == "Trusted",
        problems=tuple(one["code"] for one in document.get("validation_status", ())),
        signer=manifest.get("signature_info", {}).get("common_name", ""),
        tool=f"{tool.get('name', '')} {tool.get('version', '')}".strip(),
        actions=tuple(actions),
        ingredients=tuple(one.get("title", "") for one in manifest.get("ingredients", ())),
    )


def _manifest(provenance: Provenance, title: str, original: str | Path | None) -> dict[str, Any]:
    agent = {"name": provenance.tool, "version": provenance.version}
    done: dict[str, Any] = {
        "softwareAgent": agent,
        "digitalSourceType": DIGITAL_SOURCE_TYPE,
        "parameters": {"com.facewright.provenance": json.loads(provenance.to_json())},
    }
    if original is None:
        made = DIGITAL_SOURCE_TYPE.replace("compositeWithTrained", "trained")
        actions = [{**done, "action": "c2pa.created", "digitalSourceType": made}]
    else:
        opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": ["original"]}}
        actions = [opened, {**done, "action": "c2pa.edited", "description": f"faces {provenance.action}"}]
        if int(provenance.parameters.get("upscale", 1)) > 1:
            actions.append({"action": "c2pa.resized", "softwareAgent": agent})
    return {
        "claim_generator_info": [agent],
        "title": title,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }


def _add_ingredient(builder: Any, original: Path) -> None:
    kind = _media_type(original) or "application/octet-stream"
    description = {"title": original.name, "relationship": "parentOf", "label": "original"}
    with original.open("rb") as file:
        builder.add_ingredient(description, kind, file)


def _media_type(path: Path) -> str | None:
    kind = kind_of(path)
    return None if kind is None else MEDIA_TYPES.get(kind.name)


def _algorithm(key: Any) -> str:
    """What C2PA calls the algorithm of a private key; UsageError for one it does not allow."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    match key:
        case ec.EllipticCurvePrivateKey() if key.curve.name in _CURVES:
            return _CURVES[key.curve.name]
        case ed25519.Ed25519PrivateKey():
            return "ed25519"
        case rsa.RSAPrivateKey():
            return "ps256"
    raise UsageError("the key is of a kind that C2PA does not allow; take P-256, P-384, P-521, Ed25519 or RSA")


def _check_installed() -> None:
    for module in ("c2pa", "cryptography"):
        if importlib.util.find_spec(module) is None:
            raise MissingDependencyError(f'{module} is needed to sign; pip install "facewright[c2pa]"')
