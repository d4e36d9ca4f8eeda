"""What clients send: limits in bytes and time, malformed forms, names that try to leave, files in pieces."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facewright.serve import uploads
from facewright.serve.forms import safe_name

from .conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def multipart(*parts: bytes, boundary: str = "xyz") -> tuple[bytes, dict[str, str]]:
    body = b"".join(b"--" + boundary.encode() + b"\r\n" + part + b"\r\n" for part in parts)
    return body + b"--" + boundary.encode() + b"--\r\n", {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    return f'Content-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content


def leftovers(tmp_path: Path, folder: str = "state") -> list[Path]:
    return [path for path in (tmp_path / folder / "jobs").rglob("*") if path.is_file()]


# --- names


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("photo.jpg", "photo.jpg"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\windows\\system.ini", "system.ini"),
        ("/etc/shadow", "shadow"),
        ("..", "photo"),
        ("", "photo"),
        (None, "photo"),
        (".hidden.png", "hidden.png"),
        ("a\0b\nc.png", "a_b_c.png"),
        ("Großmutter 1952 (2).jpeg", "Großmutter 1952 (2).jpeg"),
        ("祖母.png", "祖母.png"),
        ("a" * 300 + ".png", "a" * 116 + ".png"),
        ("$(rm -rf ~);`x`.png", "_(rm -rf _)__x_.png"),
    ],
)
def test_names_are_made_harmless(sent: str | None, kept: str) -> None:
    assert safe_name(sent) == kept


@given(st.text(max_size=400))
def test_no_name_leaves_its_folder(sent: str) -> None:
    name = safe_name(sent)
    assert name not in ("", ".", "..")
    assert not set(name) & set("/\\\0\n\r")
    assert len(name.encode()) <= 140
    assert not name.startswith(".")


def test_a_name_that_climbs_stays_below_its_job(client: Any, photo_bytes: Callable[..., bytes], tmp_path: Path) -> None:
    body, headers = multipart(part("source", photo_bytes(), "../../../../outside.png"))
    job = client.post("/v1/detect?wait=20", content=body, headers=headers).json()
    assert job["result"]["source"] == "outside.png"
    assert list(tmp_path.rglob("outside.png")) == [
        tmp_path / "state" / "jobs" / job["id"] / "in" / "source" / "0" / "outside.png"
    ]
    for path in ("/v1/jobs/..%2f..%2fetc", "/v1/jobs/%2e%2e/picture", "/page/..%2f..%2fapp.py", "/page/../app.py"):
        assert client.get(path).status_code == 404


# --- malformed

FORM = "multipart/form-data; boundary=xyz"


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"", FORM, 400),
        (b"nothing of the kind", FORM, 400),
        (b"--xyz\r\nContent-Disposition: form-data; name=source\r\n\r\ncut", FORM, 400),
        (b"--xyz\r\nContent-Disposition: attachment\r\n\r\nx\r\n--xyz--", FORM, 400),
        (b"--xyz\r\nContent-Disposition: form-data; name=../\r\n\r\n\r\n--xyz--", FORM, 400),
        (b"--xyz--", "multipart/form-data", 415),
        (b"--xyz--", "multipart/form-data; boundary=" + "x" * 500, 400),
        (b"{}", "application/json", 415),
        (b"<x/>", "text/xml", 415),
        (b"no form", "application/x-www-form-urlencoded", 415),
        (b"\xff\xfe", "application/x-www-form-urlencoded", 415),
    ],
)  # fmt: skip
def test_malformed_forms_are_refused_and_leave_nothing(
    client: Any, content: bytes, content_type: str, status: int, tmp_path: Path
) -> None:
    answer = client.post("/v1/detect", content=content, headers={"Content-Type": content_type})
    assert answer.status_code == status, answer.text
    assert leftovers(tmp_path) == []


def test_a_compressed_form_is_not_unpacked(client: Any, photo_bytes: Callable[..., bytes]) -> None:
    body, headers = multipart(part("source", bytes(10_000_000), "zeros.png"))
    packed = zlib.compress(body)
    assert len(packed) < 20_000
    answer = client.post("/v1/detect", content=packed, headers={**headers, "Content-Encoding": "deflate"})
    assert answer.status_code == 400


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_comes_is_answered_in_order(client: Any, photo_bytes: Callable[..., bytes], data: Any) -> None:
    """A proper form with bytes changed, cut and added: no status 500, no traceback."""
    form, headers = multipart(part("source", photo_bytes(32, 24), "a.png"), part("min_score", b"0.5"))
    body = bytearray(form)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    content = bytes(body[:cut]) + data.draw(st.binary(max_size=20))
    verb = data.draw(st.sampled_from(["detect", "analyse", "restore", "verify"]))
    answer = client.post(f"/v1/{verb}?wait=20", content=content, headers=headers)
    assert answer.status_code in (200, 400, 413, 415, 422), answer.text


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["faces", "boxes", "points", "skip", "seed", "upscale", "grain", "page"]),
    text=st.text(max_size=40),
)
def test_whatever_stands_in_a_field_is_answered_in_order(
    client: Any, photo_bytes: Callable[..., bytes], name: str, text: str
) -> None:
    answer = client.post("/v1/restore", files={"source": ("a.png", photo_bytes(32, 24))}, data={name: text})
    assert answer.status_code in (202, 422, 429), answer.text


# --- bounds


def test_bytes_are_bounded_before_and_while_they_come(
    make_client: Callable[..., Any], photo_bytes: Callable[..., bytes], tmp_path: Path
) -> None:
    client = make_client(max_mb=0.01, max_video_mb=0.02)
    fits = client.post("/v1/detect", files={"source": ("a.jpg", photo_bytes(40, 30, "JPEG"))})
    assert fits.status_code == 202
    large = client.post("/v1/detect", files={"source": ("a.png", photo_bytes())})
    assert (large.status_code, large.json()["code"]) == (413, "too_large")
    tiny_most = client.post(
        "/v1/detect", content=bytes(500_000), headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert tiny_most.status_code == 413
    body, headers = multipart(part("source", photo_bytes(), "a.png"))

    def pieces() -> Any:  # without a length
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    assert client.post("/v1/detect", content=pieces(), headers=headers).status_code == 413
    many = [part("source", b"x", f"{n}.png") for n in range(8)]
    body, headers = multipart(*many)
    assert client.post("/v1/detect", content=body, headers=headers).status_code == 413
    body, headers = multipart(*[part("faces", b"1") for _ in range(80)])
    assert client.post("/v1/restore", content=body, headers=headers).status_code == 413
    body, headers = multipart(part("faces", b"1" * 20_000))
    assert client.post("/v1/restore", content=body, headers=headers).status_code == 413
    assert {path.name for path in leftovers(tmp_path)} <= {"a.jpg", "job.json"}


def test_a_picture_bomb_is_refused_by_its_header(client: Any) -> None:
    """A PNG of a hundred bytes that says it has 3.6 thousand million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    answer = client.post("/v1/detect?wait=20", files={"source": ("bomb.png", bomb)})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_many_pixels")


def test_slow_and_silent_clients_are_given_up(live_server: Callable[..., Any], tmp_path: Path) -> None:
    """Slow loris: headers that never end, a body that never comes, a connection that says nothing."""
    live = live_server(patience=0.5)

    def closed_within(seconds: float, *sent: bytes) -> bytes:
        with socket.create_connection((live.host, live.port), timeout=10) as connection:
            start, answer = time.monotonic(), b""
            for piece in sent:
                connection.sendall(piece)
            connection.settimeout(seconds)
            try:
                while chunk := connection.recv(4096):
                    answer += chunk
            except ConnectionResetError:
                pass
            assert time.monotonic() - start < seconds
            return answer

    assert closed_within(8) == b""
    assert closed_within(8, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ") == b""
    head = (
        b"POST /v1/detect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=xyz\r\n"
        b"Content-Length: 100000\r\n\r\n--xyz\r\n"
    )
    answer = closed_within(8, head)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"too_slow" in answer
    eventually(lambda: not any((tmp_path / "live" / "jobs").iterdir()))


def test_a_trickle_is_not_kept_alive_for_ever(live_server: Callable[..., Any]) -> None:
    live = live_server(patience=0.5)
    head = (
        b"POST /v1/detect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        b"Content-Length: 999\r\n\r\n--x\r\nContent-Disposition: form-data; name=source; filename=a\r\n\r\n"
    )
    with socket.create_connection((live.host, live.port), timeout=0.1) as connection:
        connection.sendall(head)
        end, answer = time.monotonic() + 10, b""
        while not answer:
            assert time.monotonic() < end
            connection.sendall(b"-")
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408")


# --- in pieces


def test_a_file_in_pieces_goes_on_where_it_stopped(
    client: Any, photo_bytes: Callable[..., bytes], tmp_path: Path
) -> None:
    photo = photo_bytes()
    begun = client.post("/v1/uploads", json={"name": "../big.png", "bytes": len(photo)})
    assert begun.status_code == 201
    assert begun.json() == {"id": begun.json()["id"], "name": "big.png", "bytes": len(photo), "offset": 0}
    place = begun.headers["location"]
    assert client.put(f"{place}?offset=0", content=photo[:1000]).json()["offset"] == 1000
    again = client.put(f"{place}?offset=0", content=photo[:1000])
    assert (again.status_code, again.headers["upload-offset"]) == (409, "1000")
    early = client.post("/v1/detect", data={"source": begun.json()["id"]})
    assert (early.status_code, early.json()["code"]) == (409, "incomplete")
    assert client.put(f"{place}?offset=1000", content=photo[1000:] + b"x").status_code == 413
    here = client.get(place).json()["offset"]
    assert client.put(f"{place}?offset={here}", content=photo[here:]).json()["offset"] == len(photo)
    job = client.post("/v1/detect?wait=20", data={"source": begun.json()["id"]}).json()
    assert job["result"]["source"] == "big.png"
    assert len(job["result"]["faces"]) == 1
    assert client.get(place).status_code == 404
    assert list((tmp_path / "state" / "uploads").iterdir()) == []


def test_uploads_are_bounded(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MOST", 3)
    assert client.post("/v1/uploads", json={"name": "a", "bytes": 5_000_000_000}).status_code == 413
    refused: list[Any] = [{"name": "a"}, {"name": "a", "bytes": 0}, {"name": "a", "bytes": -1}, {"bytes": 5}, [], "x"]
    for wrong in refused:
        assert client.post("/v1/uploads", json=wrong).status_code == 422
    assert client.post("/v1/uploads", content=b"[" * 20_000).status_code == 413
    first = client.post("/v1/uploads", json={"name": "a", "bytes": 5}).json()
    assert client.delete(f"/v1/uploads/{first['id']}").status_code == 204
    codes = [client.post("/v1/uploads", json={"name": "a", "bytes": 5}).status_code for _ in range(4)]
    assert codes == [201, 201, 201, 429]
    for identity in ("..", "%2e%2e", "x", "a/b", "..%2fjobs"):
        assert client.get(f"/v1/uploads/{identity}").status_code in (404, 405)


def test_uploads_that_nobody_goes_on_with_expire(make_client: Callable[..., Any], tmp_path: Path) -> None:
    client = make_client(keep=1)
    client.post("/v1/uploads", json={"name": "a", "bytes": 5})
    assert any((tmp_path / "state" / "uploads").iterdir())
    eventually(lambda: not any((tmp_path / "state" / "uploads").iterdir()))


def test_a_photo_in_pieces_keeps_to_the_limit_of_photos(
    make_client: Callable[..., Any], photo_bytes: Callable[..., bytes]
) -> None:
    client = make_client(max_mb=0.01, max_video_mb=10)
    photo = photo_bytes()
    upload = client.post("/v1/uploads", json={"name": "a.png", "bytes": len(photo)}).json()
    client.put(f"/v1/uploads/{upload['id']}?offset=0", content=photo)
    answer = client.post("/v1/detect", data={"source": upload["id"]})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
