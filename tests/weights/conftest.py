"""A file server on this machine that does everything wrong that servers and networks do wrong."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PAGE = b"<!DOCTYPE html><html><title>Sign in to the network</title></html>"


@dataclass
class Server:
    """`files`: path to content. `plan`: what to do for the requests of a path, one after the other, then "fine".

    `log`: (path, Range header, Authorization header, status) of every request.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    plan: dict[str, list[str]] = field(default_factory=dict)
    log: list[tuple[str, str, str, int]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    address: str = ""
    etag: str = '"one"'
    stall: threading.Event = field(default_factory=threading.Event)

    def act(self, path: str) -> str:
        """The next step of the plan; one that ends with "!" is for all further requests."""
        self.counts[path] += 1
        steps = self.plan.get(path, [])
        return "fine" if not steps else steps[0] if steps[0].endswith("!") else steps.pop(0)

    def ranges(self) -> list[str]:
        return [entry[1] for entry in self.log]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    @property
    def play(self) -> Server:
        return self.server.play

    def log_message(self, *arguments: object) -> None:
        pass

    def answer(self, status: int, body: bytes, *, send: bytes | None = None, **headers: str) -> None:
        """`send`: what really goes out, if not the body whose length is announced."""
        asked = self.headers.get("Range", ""), self.headers.get("Authorization", "")
        self.play.log.append((self.path, *asked, status))
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body)), "ETag": self.play.etag} | headers).items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body if send is None else send)
        if send is not None and len(send) < len(body):
            self.close_connection = True

    def do_GET(self) -> None:
        content = self.play.files.get(self.path)
        act = self.play.act(self.path).removesuffix("!")
        if act == "fine" and content is None:
            return self.answer(404, b"none")
        actions: dict[str, Callable[[bytes], None]] = {
            "fine": self.fine,
            "cut": self.cut,
            "no ranges": lambda c: self.answer(200, c),
            "cut, no ranges": lambda c: self.answer(200, c, send=c[: len(c) * 6 // 10]),
            "no length": self.no_length,
            "longer": lambda c: self.answer(200, c + b"tail"),
            "endless": lambda c: self.answer(200, c, send=c + c, Content_Length="", Connection="close"),
            "short": lambda c: self.answer(200, c[:-7]),
            "other bytes": lambda c: self.answer(200, bytes(len(c))),
            "page": lambda c: self.answer(200, PAGE, Content_Type="text/html"),
            "pointer": lambda c: self.answer(200, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
            "empty": lambda c: self.answer(200, b""),
            "stall": self.stall,
            "drop": lambda c: self.connection.shutdown(socket.SHUT_RDWR),
            "redirect": lambda c: self.answer(302, b"", Location=f"{self.path}-moved"),
            "loop": lambda c: self.answer(302, b"", Location=self.path),
            "elsewhere": lambda c: self.answer(302, b"", Location="ftp://127.0.0.1/file"),
            "wrong range": lambda c: self.answer(206, c[5:], Content_Range=f"bytes 5-{len(c) - 1}/{len(c)}"),
            "busy": lambda c: self.answer(429, b"", Retry_After="0"),
            "gzip": lambda c: self.answer(200, c, Content_Encoding="gzip"),
            "chunks": self.chunks,
        }
        if act.isdigit():
            return self.answer(int(act), b"no")
        actions[act](content or b"")

    def part(self, content: bytes) -> tuple[int, bytes, dict[str, str]]:
        asked = self.headers.get("Range", "")
        fresh = self.headers.get("If-Range", self.play.etag) == self.play.etag
        if not asked or not fresh:
            return 200, content, {}
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start = len(content) - int(last) if not first else int(first)
        stop = len(content) if not first or not last else int(last) + 1
        if start >= len(content):
            return 416, b"", {"Content_Range": f"bytes */{len(content)}"}
        body = content[start:stop]
        return 206, body, {"Content_Range": f"bytes {start}-{start + len(body) - 1}/{len(content)}"}

    def fine(self, content: bytes) -> None:
        status, body, headers = self.part(content)
        self.answer(status, body, **headers)  # type: ignore[arg-type]

    def cut(self, content: bytes) -> None:
        status, body, headers = self.part(content)
        self.answer(status, body, send=body[: len(body) * 6 // 10], **headers)

    def no_length(self, content: bytes) -> None:
        self.answer(200, content, Content_Length="", Connection="close")
        self.close_connection = True

    def stall(self, content: bytes) -> None:
        self.answer(200, content, send=content[: len(content) // 3])
        self.wfile.flush()
        self.play.stall.wait(5)

    def chunks(self, content: bytes) -> None:
        self.answer(200, b"", Content_Length="", Transfer_Encoding="chunked")
        for i in range(0, len(content), 1000):
            piece = content[i : i + 1000]
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")


@pytest.fixture
def served() -> Iterator[Server]:
    """The server, on a free port of this machine."""
    play = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.play = play  # type: ignore[attr-defined]
    play.address = f"http://127.0.0.1:{http.server_port}"
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield play
    play.stall.set()
    http.shutdown()
    http.server_close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no settings of the machine the tests run on."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "HF_ENDPOINT",
                 "HF_HUB_OFFLINE", "FACEWRIGHT_OFFLINE", "FACEWRIGHT_MIRROR", "HF_TOKEN"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FACEWRIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    return tmp_path / "home"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting times of thousandths of a second."""
    from facewright.weights import download

    monkeypatch.setattr(download, "PATIENCE", download.Patience(attempts=4, wait=0.002, connect=2.0, read=0.3))
