"""Kills and malformed requests against a server; ends with an error where one of its promises is broken.

    python -m benchmarks.serve_faults                       # 20 kills, 5000 malformed requests
    python -m benchmarks.serve_faults --kills 3 --requests 500

Kills: a server is killed (SIGKILL) at a random moment while it works, and started again in the same folder, over and
over; at the end every job that was acknowledged is done, its picture is whole and the one that the command writes (or
the job is given up and says so, where ten kills met it at work), and nothing unfinished is left.

Malformed requests: forms, headers and paths that are wrong in random ways, files that are cut, changed or hostile, and,
where schemathesis is installed, requests made from the API's own description; none is answered with a status of 500 or
more but 503, and no traceback is in the log.
"""

from __future__ import annotations

import argparse
import io
import random
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.serve_load import expected_of
from benchmarks.serving import Server, as_json, form, photo, serving

if TYPE_CHECKING:
    from collections.abc import Callable

Request = tuple[str, str, bytes, dict[str, str]]


def kills(count: int, folder: Path) -> str:
    """Kill a server at random moments; a line of what was found."""
    draw, state, log = random.Random(5), folder / "state", folder / "log"
    content = photo(0.1, 0)
    (expected,) = expected_of([content], folder)
    acknowledged: list[str] = []
    for _ in range(count):
        server = Server(state, log)
        end = time.monotonic() + draw.uniform(0.2, 6.0)
        while time.monotonic() < end:
            body, headers = form({}, {"source": ("0.jpg", content)})
            status, _, answer = server.ask("POST", "/v1/restore", body, headers, timeout=20)
            if status == 202:
                acknowledged.append(as_json(answer)["id"])
            time.sleep(draw.uniform(0.3, 1.5))
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    given_up = 0
    with serving(state, log) as server:
        for identity in acknowledged:
            job = {}
            for _ in range(60):
                job = as_json(server.get(f"/v1/jobs/{identity}?wait=60")[1])
                if job["state"] in ("done", "failed"):
                    break
            if job["state"] == "failed" and job["problem"]["code"] == "gave_up":
                given_up += 1  # ten kills met it at work, which is told
                continue
            assert job["state"] == "done", job
            assert server.get(job["links"]["picture"])[1] == expected, "a picture differs"
    left = [path.name for path in state.rglob(".facewright-*")]
    assert not left, left
    assert "Traceback" not in log.read_text(errors="replace")
    return (
        f"{count} kills: {len(acknowledged)} jobs acknowledged, {len(acknowledged) - given_up} done and equal to the "
        f"command's, {given_up} given up and told so, nothing left over"
    )


# --- malformed requests


def bombs() -> list[bytes]:
    """Small files that announce or unpack to something enormous, and files that are something else."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", b"\0" * 5_000_000)
    header = (100_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    chunk = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    return [packed.getvalue(), png, b"GIF89a" + b"\xff" * 100, b"BM" + b"\xff" * 60, b"%PDF-1.7", b"\xff\xd8\xff", b""]


def malformed(draw: random.Random, content: bytes) -> Request:
    """One request that is wrong in a random way."""
    kinds: list[Callable[[random.Random, bytes], Request]] = [_file, _file, _file, _form, _fields, _path, _headers]
    return draw.choice(kinds)(draw, content)


def _file(draw: random.Random, content: bytes) -> Request:
    """A proper form with a file that is cut, changed or hostile."""
    data = bytearray(content)
    match draw.randrange(4):
        case 0:
            del data[draw.randrange(len(data)) :]
        case 1:
            for _ in range(draw.randrange(1, 200)):
                data[draw.randrange(len(data))] = draw.randrange(256)
        case 2:
            data = bytearray(draw.choice(bombs()))
        case _:
            data = bytearray(draw.randbytes(draw.randrange(2000)))
    name = draw.choice(["a.jpg", "../../etc/passwd", "a\0b.png", "ä" * 300, "", "con", ".", "a.tif"])
    verb = draw.choice(["restore", "detect", "analyse", "embed", "quality", "portrait", "verify"])
    body, headers = form({}, {draw.choice(["source", "first", "damage_mask"]): (name, bytes(data))})
    return "POST", f"/v1/{verb}", body, headers


def _form(draw: random.Random, content: bytes) -> Request:
    """A form whose own bytes are wrong."""
    body, headers = form({"strength": "0.5"}, {"source": ("a.jpg", content[:500])})
    data = bytearray(body)
    for _ in range(draw.randrange(1, 30)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    if draw.random() < 0.5:
        del data[draw.randrange(len(data)) :]
    if draw.random() < 0.3:
        headers["Content-Type"] = draw.choice(["multipart/form-data", "text/plain", "application/json", "a/b; x=\x7f"])
    return "POST", "/v1/restore", bytes(data), headers


def _fields(draw: random.Random, content: bytes) -> Request:
    """Fields with values that make no sense."""
    values = [
        "",
        "-1",
        "1e999",
        "NaN",
        "null",
        "[[",
        "[" * 500,
        "{}",
        "true",
        "9" * 400,
        "\ud7ff",
        "../..",
        "0,0,0",
        "'",
    ]
    names = [
        "strength",
        "faces",
        "boxes",
        "upscale",
        "model",
        "weights",
        "seed",
        "page",
        "format",
        "nosuch",
        "references",
    ]
    fields = {draw.choice(names): draw.choice(values) for _ in range(draw.randrange(1, 5))}
    body, headers = form(fields, {"source": ("a.jpg", content[:300])})
    return "POST", "/v1/restore", body, headers


def _path(draw: random.Random, content: bytes) -> Request:
    """Places that are not there, and ways that are not meant."""
    part = draw.choice(["..", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "x" * 3000, "%00", "%ff", "a" * 32, "..%5c..", "1"])
    place = draw.choice(["/v1/jobs/{}", "/v1/jobs/{}/picture", "/v1/uploads/{}", "/{}", "/v1/{}", "/v1/jobs/{}/events"])
    query = draw.choice(["", "?wait=-1", "?wait=NaN", "?strength=x", "?format=%00", "?" + "a=1&" * 500])
    return draw.choice(["GET", "POST", "PUT", "DELETE", "PATCH"]), place.format(part) + query, b"", {}


def _headers(draw: random.Random, content: bytes) -> Request:
    """Headers that lie."""
    body, headers = form({}, {"source": ("a.jpg", content[:200])})
    headers |= draw.choice(
        [
            {"Accept": "image/nosuch"},
            {"Accept": ",;q=" * 100},
            {"Content-Encoding": "gzip"},
            {"Authorization": "Bearer " + "x" * 5000},
            {"Host": "evil.example"},
            {"Origin": "http://evil.example"},
            {"Range": "bytes=5-1"},
            {"Content-Length": "99999999999"},
        ]
    )
    return "POST", "/v1/restore", body, headers


def requests(count: int, folder: Path) -> str:
    """Send malformed requests; a line of what was found."""
    draw, content = random.Random(7), photo(0.05, 0)
    statuses: Counter[int] = Counter()
    log = folder / "log"
    options = ("--patience", "3", "--max-mb", "8", "--max-megapixels", "1", "--keep", "5", "--queue", "256")
    with serving(folder / "state", log, *options) as server:
        for number in range(count):
            method, path, body, headers = malformed(draw, content)
            status, _, answer = server.ask(method, path, body, headers, timeout=60)
            statuses[status] += 1
            assert status < 500 or status == 503, (method, path[:100], status, answer[:300])
            if (number + 1) % 500 == 0:
                print(f"  {number + 1}: {dict(statuses)}", flush=True)
        described = _described(server) if find_spec("schemathesis") else "schemathesis is not installed"
        assert server.get("/healthz")[0] == 200
    assert "Traceback" not in log.read_text(errors="replace")
    told = ", ".join(f"{number} × {status or 'closed'}" for status, number in sorted(statuses.items()))
    return f"{count} malformed requests: {told}; no status of 500, no traceback; {described}"


def _described(server: Server) -> str:
    """Requests that schemathesis makes from the description; ends with an error where one is answered with 500."""
    address = f"http://127.0.0.1:{server.port}/v1/openapi.json"
    command = [sys.executable, "-m", "schemathesis.cli", "run", address, "--checks", "not_a_server_error"]
    done = subprocess.run(
        [*command, "--max-examples", "10", "--phases", "fuzzing", "--request-timeout", "30", "--no-color"],
        capture_output=True, text=True, check=False, timeout=3000,
    )  # fmt: skip
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    assert done.returncode == 0, "\n".join(lines[-60:])
    return (
        f"schemathesis: {next((line for line in reversed(lines) if 'passed' in line or 'generated' in line), 'passed')}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--requests", type=int, default=5000)
    options = parser.parse_args()
    for name, count, check in (("kills", options.kills, kills), ("requests", options.requests, requests)):
        if count:
            with tempfile.TemporaryDirectory(prefix=f"facewright-{name}-") as folder:
                print(check(count, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
