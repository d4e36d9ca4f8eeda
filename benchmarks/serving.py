"""A server for benchmarks and fault scripts: the command itself as a process, and clients of it."""

from __future__ import annotations

import http.client
import io
import json
import os
import secrets
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


class Server:
    """`facewright serve` as a process; `log` is the file of what it says."""

    def __init__(self, state: Path, log: Path, *options: str) -> None:
        command = [sys.executable, "-m", "facewright", "serve", "--port", "0", "--state", str(state), "--device", "cpu"]
        self.log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [*command, *options], stdout=subprocess.PIPE, stderr=errors, text=True, env=dict(os.environ)
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if "http://" not in line:
            raise RuntimeError(f"the server did not start: {log.read_text()}")
        self.port = int(line.partition("http://127.0.0.1:")[2].split("/")[0].split()[0])

    def wait_until_ready(self, seconds: float = 300) -> None:
        """Until the networks are loaded."""
        end = time.monotonic() + seconds
        while self.get("/readyz")[0] != 200:
            if time.monotonic() > end:
                raise RuntimeError("the server did not get ready")
            time.sleep(0.5)

    def get(self, path: str, timeout: float = 120) -> tuple[int, bytes]:
        """Status and body."""
        status, _, body = self.ask("GET", path, timeout=timeout)
        return status, body

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, timeout: float = 120
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body; 0 where the connection broke."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body or None, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read()
        except (OSError, http.client.HTTPException):
            return 0, {}, b""
        finally:
            connection.close()

    def memory(self) -> float:
        """Megabytes the process holds."""
        import psutil

        return float(psutil.Process(self.process.pid).memory_info().rss / 1e6)

    def end(self) -> None:
        """Stop it, kindly."""
        self.process.terminate()
        self.process.wait(120)


@contextmanager
def serving(state: Path, log: Path, *options: str) -> Iterator[Server]:
    """A server for the length of the block."""
    server = Server(state, log, *options)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.end()


def form(fields: Mapping[str, Any], files: Mapping[str, tuple[str, bytes]]) -> tuple[bytes, dict[str, str]]:
    """A multipart form and its header."""
    boundary, parts = secrets.token_hex(8), []
    for name, value in fields.items():
        parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    for name, (file, content) in files.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n\r\n'
        parts.append(head.encode() + content + b"\r\n")
    body = b"".join([*parts, f"--{boundary}--\r\n".encode()])
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def photo(megapixels: float, seed: int) -> bytes:
    """A public-domain portrait as a JPEG of about so many pixels, a little different for every seed."""
    from skimage import data

    side = round((megapixels * 1e6) ** 0.5)
    rng = np.random.default_rng(seed)
    picture = Image.fromarray(data.astronaut()).resize((side, side), Image.Resampling.LANCZOS)
    noisy = np.asarray(picture, np.int16) + rng.integers(-6, 7, (side, side, 1), dtype=np.int16)
    file = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=88)
    return file.getvalue()


def as_json(body: bytes) -> Any:
    """A body as JSON; None where it is none."""
    try:
        return json.loads(body)
    except ValueError:
        return None
