"""The server as a process: the command, signals, and kills at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys, time
sys.path.insert(0, {root!r})
import tests.conftest as suite
from types import SimpleNamespace
from tests.serve.conftest import FakeSource
from facewright.serve.server import serve
from facewright.serve.settings import ServeOptions

fakes = SimpleNamespace(Detector=suite.FakeDetector, Restorer=suite.FakeRestorer, face_at=suite.face_at)
source = FakeSource(fakes, fakes.face_at((120, 100), 40))
quick = source.restorer.restore
source.restorer.__class__.restore = lambda self, crops, **k: (time.sleep({pause}), quick(crops, **k))[1]
options = ServeOptions(port=0, state={state!r}, device="cpu", workers=2, grace={grace})
serve(options, source=source, warm=(), on_listening=lambda address: print(address, flush=True))
"""


class Process:
    """A server in a process of its own."""

    def __init__(self, state: Path, *, pause: float = 0.0, grace: float = 5.0) -> None:
        script = textwrap.dedent(SCRIPT).format(root=str(ROOT), state=str(state), pause=pause, grace=grace)
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip().rstrip("/")
        assert self.address.startswith("http://"), self.process.communicate()[1]

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.address + path, timeout=60) as answer:
            content: bytes = answer.read()
        return content

    def send(self, photo: bytes) -> dict[str, Any]:
        """A new job, as soon as the server listens."""
        body = (
            b'--x\r\nContent-Disposition: form-data; name="source"; filename="a.png"\r\n\r\n' + photo + b"\r\n--x--\r\n"
        )
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        request = urllib.request.Request(f"{self.address}/v1/restore", body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            job: dict[str, Any] = json.load(answer)
        return job

    def end(self, number: int) -> tuple[int, str]:
        """Exit code and log after a signal."""
        self.process.send_signal(number)
        log = self.process.communicate(timeout=60)[1]
        return self.process.returncode, log


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start servers; what still runs at the end is killed."""
    started: list[Process] = []

    def make(**values: Any) -> Process:
        started.append(Process(tmp_path / "state", **values))
        return started[-1]

    yield make
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate()


def test_a_stopped_server_ends_its_jobs_and_exits_with_0(
    start: Callable[..., Process], photo_bytes: Callable[..., bytes], tmp_path: Path
) -> None:
    server = start(pause=0.5)
    job = server.send(photo_bytes())
    time.sleep(0.3)
    code, log = server.end(signal.SIGTERM)
    assert code == 0, log
    assert "Traceback" not in log
    record = json.loads((tmp_path / "state" / "jobs" / job["id"] / "job.json").read_text())
    assert record["state"] in ("done", "queued")
    assert str(tmp_path) not in log
    assert job["id"] not in log


def kill_and_check(start: Callable[..., Process], photo: bytes, kills: int, state: Path) -> None:
    """Kill a server at random moments while it works; what it acknowledged is there at the end, whole."""
    draw = random.Random(5)
    acknowledged: list[str] = []
    for _ in range(kills):
        server = start(pause=0.05)
        end = time.monotonic() + draw.uniform(0.1, 1.5)
        while time.monotonic() < end:
            try:
                acknowledged.append(server.send(photo)["id"])
            except OSError:  # full, for the moment
                time.sleep(0.05)
        code, log = server.end(signal.SIGKILL)
        assert code == -signal.SIGKILL
        assert "Traceback" not in log
    assert acknowledged
    server = start()
    pictures = set()
    for identity in acknowledged:
        job = json.loads(server.get(f"/v1/jobs/{identity}?wait=60"))
        assert job["state"] == "done", job["problem"]
        pictures.add(server.get(job["links"]["picture"]))
    assert len(pictures) == 1
    server.end(signal.SIGTERM)
    left = [path.name for path in state.rglob("*") if path.name.startswith(".facewright-")]
    assert left == []


@pytest.mark.slow  # what a kill leaves half-written is swept at a start, which a busy machine can delay
def test_after_kills_nothing_acknowledged_is_lost(
    start: Callable[..., Process], photo_bytes: Callable[..., bytes], tmp_path: Path
) -> None:
    kill_and_check(start, photo_bytes(), 2, tmp_path / "state")


@pytest.mark.slow
def test_after_twenty_kills_nothing_acknowledged_is_lost(
    start: Callable[..., Process], photo_bytes: Callable[..., bytes], tmp_path: Path
) -> None:
    kill_and_check(start, photo_bytes(), 20, tmp_path / "state")


# --- the command


def test_the_command_has_the_options_of_the_declaration(run: Callable[..., tuple[int, str, str]]) -> None:
    from facewright.serve.settings import ServeOptions
    from facewright.tasks.declare import option_fields

    code, out, _ = run("serve", "--help")
    assert code == 0
    for field in option_fields(ServeOptions):
        assert f"--{field.name.replace('_', '-')}"[:20] in out


def test_the_command_passes_its_options_on(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from facewright.serve import server

    given: list[Any] = []
    monkeypatch.setattr(server, "serve", lambda options, on_listening: given.append(options))
    code, _, err = run("serve", "--port", "0", "--allow-host", "a.example, b.example", "--max-mb", "2.5")
    assert code == 0, err
    assert (given[0].port, given[0].allow_host, given[0].photo_bytes) == (0, ("a.example", "b.example"), 2_500_000)
    code, _, err = run("serve", "--port", "70000")
    assert (code, "outside 0…65535" in err) == (2, True)


def test_the_command_makes_tokens(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    from facewright.serve.tokens import Tokens

    code, out, _ = run("serve", "--tokens", tmp_path / "tokens", "--new-token", "phone")
    assert code == 0
    assert Tokens.load(tmp_path / "tokens").owner(out.strip()) == "phone"
    code, _, err = run("serve", "--new-token", "phone")
    assert (code, "--tokens FILE" in err) == (2, True)


def test_without_its_libraries_the_command_says_what_to_install(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from facewright.cli import serve

    monkeypatch.setattr(serve, "NEEDED", ("no_such_library",))
    code, _, err = run("serve")
    assert (code, 'pip install "facewright[web]"' in err) == (2, True)


def test_a_taken_port_is_one_line(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = run("serve", "--port", taken.getsockname()[1], "--state", tmp_path / "state")
    assert code == 2
    assert "try another --port" in err
    assert len(err.strip().splitlines()) == 1
