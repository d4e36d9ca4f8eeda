"""Who gets in, and what goes along with every answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from facewright.errors import UsageError
from facewright.serve import requests
from facewright.serve.server import serve
from facewright.serve.settings import ServeOptions
from facewright.serve.tokens import Tokens, make_token

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOKENS = {"anna": "a" * 43, "ben": "b" * 43}


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKENS[name]}"}


def test_tokens_are_asked_for_everything_but_the_page_and_health(make_client: Callable[..., Any]) -> None:
    client = make_client(tokens=TOKENS)
    for path in ("/v1/tasks", "/v1/jobs/x", "/v1/openapi.json", "/metrics"):
        refused = client.get(path)
        assert (refused.status_code, refused.json()["code"]) == (401, "no_token"), path
        assert refused.headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer wrong", "Basic " + TOKENS["anna"], TOKENS["anna"], "Bearer " + TOKENS["anna"][:-1]):
            assert client.get(path, headers={"Authorization": wrong}).status_code == 401
        assert client.get(path, headers=bearer("anna")).status_code in (200, 404)
    for path in ("/", "/healthz", "/readyz"):
        assert client.get(path).status_code == 200


def test_jobs_and_uploads_of_others_are_not_there(
    make_client: Callable[..., Any], photo_bytes: Callable[..., bytes]
) -> None:
    client = make_client(tokens=TOKENS)
    files = {"source": ("a.png", photo_bytes())}
    job = client.post("/v1/detect?wait=20", files=files, headers=bearer("anna")).json()
    upload = client.post("/v1/uploads", json={"name": "a.png", "bytes": 3}, headers=bearer("anna")).json()
    for path in (job["links"]["self"], f"/v1/uploads/{upload['id']}"):
        assert client.get(path, headers=bearer("anna")).status_code == 200
        assert client.get(path, headers=bearer("ben")).status_code == 404
        assert client.delete(path, headers=bearer("ben")).status_code == 404
    taken = client.post("/v1/detect", data={"source": upload["id"]}, headers=bearer("ben"))
    assert taken.status_code == 404


def test_pages_of_other_sites_get_nothing(client: Any, photo_bytes: Callable[..., bytes]) -> None:
    files = {"source": ("a.png", photo_bytes())}
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        refused = client.post("/v1/detect", files=files, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (403, "wrong_origin"), headers
    own = client.post(
        "/v1/detect", files=files, headers={"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}
    )
    assert own.status_code == 202
    assert "access-control-allow-origin" not in client.get("/v1/tasks", headers={"Origin": "https://a.example"}).headers


def test_a_name_that_points_here_is_no_name_of_ours(client: Any) -> None:
    """DNS rebinding: a page of evil.example whose address has become 127.0.0.1."""
    refused = client.get("/v1/tasks", headers={"Host": "evil.example"})
    assert (refused.status_code, refused.json()["code"]) == (421, "wrong_host")
    for host in ("localhost:8000", "127.0.0.1:9", "[::1]:8000"):
        assert client.get("/v1/tasks", headers={"Host": host}).status_code == 200


def test_other_sites_can_be_allowed(make_client: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "check_ready", lambda card, weights: None)  # no generator has weights of its own
    client = make_client(allow_origin=("https://photos.example",), allow_host=("faces.example",))
    assert client.get("/v1/tasks", headers={"Host": "faces.example"}).status_code == 200
    allowed = client.get("/v1/tasks", headers={"Origin": "https://photos.example"})
    assert allowed.headers["access-control-allow-origin"] == "https://photos.example"
    asked = {"Origin": "https://photos.example", "Access-Control-Request-Method": "POST"}
    assert client.options("/v1/restore", headers=asked).status_code == 200
    assert client.post("/v1/synthesise", headers={"Origin": "https://photos.example"}).status_code == 202
    assert client.post("/v1/synthesise", headers={"Origin": "https://others.example"}).status_code == 403


def test_every_answer_has_safe_headers(client: Any) -> None:
    for path in ("/", "/v1/tasks", "/v1/jobs/x", "/nothing"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert "server" not in headers
    assert client.get("/v1/tasks").headers["cache-control"] == "no-store"


def test_the_log_says_routes_and_times_only(
    make_client: Callable[..., Any], photo_bytes: Callable[..., bytes], caplog: Any
) -> None:
    caplog.set_level("INFO")
    client = make_client(tokens=TOKENS)
    files = {"source": ("aunt-mary.png", photo_bytes())}
    job = client.post("/v1/restore?wait=20&who=mary", files=files, headers=bearer("anna")).json()
    client.get(job["links"]["picture"], headers=bearer("anna"))
    client.get("/etc/../aunt-mary")
    text = "\n".join(record.getMessage() for record in caplog.records if record.name != "httpx2")
    assert "POST /v1/restore 200" in text
    assert "GET /v1/jobs/{job}/picture 200" in text
    for secret in ("mary", job["id"], TOKENS["anna"], "anna", "state"):
        assert secret not in text


# --- tokens and addresses


def test_a_token_is_shown_once_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    first, second = make_token(file, "anna"), make_token(file, "ben")
    assert first != second
    assert len(first) >= 43
    text = file.read_text(encoding="utf-8")
    assert first not in text
    assert file.stat().st_mode & 0o777 == 0o600
    tokens = Tokens.load(file)
    assert [tokens.owner(token) for token in (first, second, "x", "")] == ["anna", "ben", None, None]
    with pytest.raises(UsageError, match="already"):
        make_token(file, "anna")
    with pytest.raises(UsageError, match="not a name"):
        make_token(file, "a b")


def test_damaged_and_missing_token_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        Tokens.load(tmp_path / "nothing")
    (tmp_path / "plain").write_text("my-secret-token\n")
    with pytest.raises(UsageError, match="line 1"):
        Tokens.load(tmp_path / "plain")
    (tmp_path / "empty").write_text("# nobody\n")
    with pytest.raises(UsageError, match="no token"):
        Tokens.load(tmp_path / "empty")
    with pytest.raises(UsageError, match="shorter"):
        Tokens.load(None, "short")
    assert Tokens.load(None, "a-long-token-from-the-environment").owner("a-long-token-from-the-environment")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.20", "photos.example"])
def test_an_address_that_others_reach_needs_tokens(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FACEWRIGHT_TOKEN", raising=False)
    with pytest.raises(UsageError, match="can be reached by other machines"):
        serve(ServeOptions(host=host))


def test_local_addresses_need_none() -> None:
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        assert ServeOptions(host=host).is_local
    assert not ServeOptions(host="10.0.0.1").is_local
