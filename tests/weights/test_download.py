"""Downloads against a server that does everything wrong: the right file arrives, or none; and nothing is lost."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from facewright.errors import OutputError, WeightsError
from facewright.weights import download
from facewright.weights.download import DownloadRequest, fetch_file

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = np.random.default_rng(0).bytes(2_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()

pytestmark = pytest.mark.usefixtures("home", "impatient")


def wanted(served: Any, home: Path, *paths: str, **values: Any) -> DownloadRequest:
    known: dict[str, Any] = {"sha256": DIGEST, "size": len(CONTENT)} | values
    addresses = [served.address + path for path in paths or ("/a.pth",)]
    return DownloadRequest("a.pth of toy", addresses, home / "files" / "a.pth", home, **known)


def offer(served: Any, plan: dict[str, list[str]] | list[str] | None = None, content: bytes = CONTENT) -> None:
    plan = plan if isinstance(plan, dict) else {"/a.pth": plan or []}
    served.files |= dict.fromkeys(("/a.pth", "/a.pth-moved", "/b.pth"), content)
    served.plan |= {path: list(steps) for path, steps in plan.items()}


def nothing_wrong_is_there(home: Path) -> None:
    """No file under its name but the right one; what was wrong lies where nothing reads."""
    for path in (home / "files").rglob("*"):
        assert path.is_dir() or path.read_bytes() == CONTENT, path


# --- faults that patience or another address mends

MENDED: dict[str, dict[str, list[str]] | list[str]] = {
    "not there, but at the second address": {"/a.pth": ["404!"]},
    "is not public, but at the second address": {"/a.pth": ["403!"]},
    "server error twice": ["503", "503"],
    "too many requests": ["busy", "busy"],
    "cut off at 60 percent": ["cut"],
    "cut off again and again": ["cut", "cut", "cut", "cut", "cut", "cut"],
    "cut off, ranges ignored": ["cut, no ranges", "cut, no ranges", "no ranges"],
    "stops in the middle": ["stall"],
    "hangs up": ["drop", "drop"],
    "moved": ["redirect"],
    "no length announced": ["no length"],
    "in chunks": ["chunks"],
    "different range than requested": {"/a.pth": ["cut", "wrong range"]},
    "a web page for one address": {"/a.pth": ["page!"]},
    "a pointer for one address": {"/a.pth": ["pointer!"]},
    "redirects endlessly for one address": {"/a.pth": ["loop!"]},
    "broken for good at one address": {"/a.pth": ["500!"]},
    "another length at one address": {"/a.pth": ["longer!"]},
}


@pytest.mark.parametrize("fault", MENDED)
def test_mended_fault(fault: str, served: Any, home: Path) -> None:
    offer(served, MENDED[fault])
    path = fetch_file(wanted(served, home, "/a.pth", "/b.pth"))
    assert path.read_bytes() == CONTENT
    assert not any((home / "partial").iterdir())
    assert not (home / "set-aside").exists()


def test_only_the_rest_is_fetched_after_a_break(served: Any, home: Path) -> None:
    offer(served, ["cut"])
    fetch_file(wanted(served, home))
    assert [kept_after_break(asked) for asked in served.ranges()] == [False, True]


def kept_after_break(asked: str) -> bool:
    """Whether a request goes on where 60 % had been sent, but for the last piece."""
    start = int(asked.removeprefix("bytes=").removesuffix("-") or 0)
    return 0 <= len(CONTENT) * 6 // 10 - start < download._CHUNK


# --- faults that end in one line

ENDED = {
    "not there": (["404!"], "HTTP 404: the file does not exist"),
    "gone": (["410!"], "HTTP 410"),
    "broken": (["500!"], "HTTP 500, 4 times"),
    "busy": (["busy!"], "HTTP 429, 4 times"),
    "captive portal": (["page!"], "sends a web page instead of the file; does the network require a sign-in"),
    "captive portal that says so": (["511!"], "requires a sign-in"),
    "git pointer": (["pointer!"], r"file there has \d+ bytes instead of|Git LFS pointer"),
    "shorter file": (["short!"], "has 1,999,993 bytes instead of 2,000,000"),
    "longer file": (["longer!"], "has 2,000,004 bytes instead of 2,000,000"),
    "endless file": (["endless!"], "sends more than the 2,000,000 bytes"),
    "empty file": (["empty!"], "has 0 bytes instead of"),
    "redirect loop": (["loop!"], "redirects endlessly"),
    "redirect to another protocol": (["elsewhere!"], "is not HTTP"),
    "never an answer": (["stall!"], "of 2,000,000 bytes|timed out|broke off"),
    "always hanging up": (["drop!"], "broke off or was refused, 4 times"),
    "not really compressed": (["gzip!"], "broke off|no connection"),
}


@pytest.mark.parametrize("fault", ENDED)
def test_fault_that_ends_and_is_over_later(fault: str, served: Any, home: Path) -> None:
    plan, said = ENDED[fault]
    if fault == "captive portal":
        offer(served, plan)
        asked = wanted(served, home, size=0)
    else:
        offer(served, plan)
        asked = wanted(served, home)
    with pytest.raises(WeightsError, match=said) as failure:
        fetch_file(asked)
    assert "\n" not in str(failure.value)
    assert "a.pth of toy" in str(failure.value)
    assert served.address + "/a.pth" in str(failure.value)
    nothing_wrong_is_there(home)
    served.plan.clear()
    assert fetch_file(wanted(served, home)).read_bytes() == CONTENT


def test_every_address_is_named_with_its_fault(served: Any, home: Path) -> None:
    offer(served, {"/a.pth": ["404!"], "/b.pth": ["503!"]})
    with pytest.raises(WeightsError, match=r"HTTP 404.*; 127\.0\.0\.1:\d+: HTTP 503, 4 times"):
        fetch_file(wanted(served, home, "/a.pth", "/b.pth"))


def test_nobody_answers(home: Path, served: Any) -> None:
    with pytest.raises(WeightsError, match="broke off or was refused, 4 times"):
        fetch_file(DownloadRequest("a", ["http://127.0.0.1:9/a.pth"], home / "files" / "a", home))


def test_wrong_bytes_are_set_aside_and_never_used(served: Any, home: Path) -> None:
    offer(served, {"/a.pth": ["other bytes!"]})
    other = hashlib.sha256(bytes(len(CONTENT))).hexdigest()
    with pytest.raises(WeightsError, match=f"SHA-256 {other} instead of {DIGEST}") as failure:
        fetch_file(wanted(served, home, "/a.pth", "/b.pth"))
    assert served.counts["/b.pth"] == 0  # another file under the same name is no fault of the network
    aside = next((home / "set-aside").iterdir())
    assert str(aside) in str(failure.value)
    assert not any((home / "files").iterdir())
    assert not any((home / "partial").iterdir())
    served.plan.clear()
    assert fetch_file(wanted(served, home)).read_bytes() == CONTENT


@pytest.mark.parametrize("have", [1_000_000, len(CONTENT), len(CONTENT) + 50])
def test_part_of_another_file_is_found_out(have: int, served: Any, home: Path) -> None:
    """A part whose bytes are wrong: the digest says so once it is continued, and all is fetched anew."""
    offer(served)
    asked = wanted(served, home)
    asked.part.parent.mkdir(parents=True)
    asked.part.write_bytes(bytes(have))
    asked.note.write_text(json.dumps({"url": f"{served.address}/a.pth", "validator": '"one"'}))
    assert fetch_file(asked).read_bytes() == CONTENT


def test_changed_file_without_a_digest_is_fetched_anew(served: Any, home: Path) -> None:
    """Nothing but the validator can tell that a part belongs to what is there now."""
    offer(served, ["cut", "404!"])
    with pytest.raises(WeightsError):
        fetch_file(wanted(served, home, sha256="", size=0))
    assert next((home / "partial").glob("*.part")).stat().st_size > len(CONTENT) // 2
    served.plan.clear()
    served.etag = '"two"'
    offer(served, content=CONTENT[::-1])
    assert fetch_file(wanted(served, home, sha256="", size=0)).read_bytes() == CONTENT[::-1]


def test_part_without_a_validator_is_not_continued_without_a_digest(served: Any, home: Path) -> None:
    served.etag = ""
    offer(served, ["cut"])
    assert fetch_file(wanted(served, home, sha256="", size=0)).read_bytes() == CONTENT
    assert served.ranges() == ["", ""]


def test_part_of_one_address_is_continued_from_another(served: Any, home: Path) -> None:
    offer(served, {"/a.pth": ["cut", "404!"]})
    assert fetch_file(wanted(served, home, "/a.pth", "/b.pth")).read_bytes() == CONTENT
    assert served.log[-1][0] == "/b.pth"
    assert kept_after_break(served.log[-1][1])


def test_slow_but_steady_is_no_fault(served: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(served)
    append = download._write

    def slowly(stream: Any, piece: bytes, asked: DownloadRequest) -> None:
        time.sleep(0.05)
        append(stream, piece, asked)

    monkeypatch.setattr(download, "_write", slowly)
    assert fetch_file(wanted(served, home)).read_bytes() == CONTENT
    assert len(served.log) == 1


# --- the machine


def test_full_disk_is_seen_before_anything_is_fetched(served: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(served)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1_000_000))
    with pytest.raises(OutputError, match=r"needs 2 MB more, but .* has 1 MB left; free some space or set FACEWRIGHT"):
        fetch_file(wanted(served, home))
    assert not any((home / "partial").glob("*.part"))


def test_disk_that_fills_up_keeps_the_part(served: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(served)
    opened = download._open

    class Full:
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.stream.close()

        def write(self, piece: bytes) -> None:
            if self.stream.tell() > 1_000_000:
                raise OSError(28, "No space left on device")
            self.stream.write(piece)

    monkeypatch.setattr(download, "_open", lambda path, append: Full(opened(path, append=append)))
    with pytest.raises(OutputError, match="No space left on device; free some space and run it again"):
        fetch_file(wanted(served, home))
    monkeypatch.undo()
    monkeypatch.setattr(download, "PATIENCE", download.Patience(wait=0.002))
    assert fetch_file(wanted(served, home)).read_bytes() == CONTENT
    assert served.ranges()[-1].startswith("bytes=1")


FETCH = """
    import sys
    from pathlib import Path
    from facewright.weights import download
    address, home, digest, size = sys.argv[1:]
    download.PATIENCE = download.Patience(read=30)
    wanted = download.DownloadRequest("a", [address], Path(home) / "files" / "a.pth", Path(home), sha256=digest,
                                      size=int(size), progress=lambda done, total: print(done, flush=True))
    download.fetch_file(wanted)
"""


def process(served: Any, home: Path) -> subprocess.Popen[str]:
    arguments = [served.address + "/a.pth", str(home), DIGEST, str(len(CONTENT))]
    code = [sys.executable, "-c", textwrap.dedent(FETCH), *arguments]
    return subprocess.Popen(code, stdout=subprocess.PIPE, text=True, env=dict(os.environ))


def test_killed_and_started_again_goes_on(served: Any, home: Path) -> None:
    offer(served, ["stall"])
    running = process(served, home)
    assert running.stdout is not None
    while int(running.stdout.readline()) < 65_536:
        pass
    running.send_signal(signal.SIGKILL)
    running.wait()
    running.stdout.close()
    part = next((home / "partial").glob("*.part")).stat().st_size
    assert 0 < part < len(CONTENT)
    assert fetch_file(wanted(served, home)).read_bytes() == CONTENT
    assert served.ranges()[-1] == f"bytes={part}-"


def test_two_processes_fetch_once(served: Any, home: Path) -> None:
    offer(served)
    both = [process(served, home) for _ in range(2)]
    for one in both:
        assert one.stdout is not None
        one.stdout.read()
        assert one.wait() == 0
        one.stdout.close()
    assert len(served.log) == 1
    nothing_wrong_is_there(home)


def test_threads_fetch_once(served: Any, home: Path) -> None:
    offer(served)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch_file(wanted(served, home)), range(4)))
    assert len(set(paths)) == 1
    assert len(served.log) == 1


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "FACEWRIGHT_OFFLINE"])
def test_offline_mode_asks_nobody(variable: str, served: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(served)
    monkeypatch.setenv(variable, "1")
    with pytest.raises(WeightsError, match=f"{variable} forbids downloading"):
        fetch_file(wanted(served, home))
    assert served.log == []


def test_home_that_cannot_be_written(served: Any, home: Path) -> None:
    offer(served)
    home.parent.mkdir(exist_ok=True)
    home.write_text("a file, no folder")
    with pytest.raises(OutputError, match="FACEWRIGHT_HOME"):
        fetch_file(wanted(served, home))


# --- where it asks


def test_mirror_is_asked_first(served: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served.files["/ours/example.org/x/a.pth"] = CONTENT
    monkeypatch.setenv("FACEWRIGHT_MIRROR", served.address + "/ours/")
    asked = DownloadRequest("a", ["https://example.org/x/a.pth"], home / "files" / "a.pth", home, sha256=DIGEST)
    assert fetch_file(asked).read_bytes() == CONTENT
    assert [entry[0] for entry in served.log] == ["/ours/example.org/x/a.pth"]


def test_proxy_of_the_environment_is_used(served: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served.files["http://example.org/a.pth"] = CONTENT
    monkeypatch.setenv("HTTP_PROXY", served.address)
    asked = DownloadRequest("a", ["http://example.org/a.pth"], home / "files" / "a.pth", home, sha256=DIGEST)
    assert fetch_file(asked).read_bytes() == CONTENT
    monkeypatch.setenv("HTTPS_PROXY", served.address)
    refused = DownloadRequest("b", ["https://example.org/b.pth"], home / "files" / "b.pth", home)
    with pytest.raises(WeightsError, match="the proxy refuses"):
        fetch_file(refused)


def test_hub_address_follows_the_endpoint_and_sends_the_token(
    served: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.files["/someone/toy/resolve/abc/folder/a.pth"] = CONTENT
    monkeypatch.setenv("HF_ENDPOINT", served.address)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    asked = DownloadRequest("a", ["hf://someone/toy@abc/folder/a.pth"], home / "files" / "a.pth", home, sha256=DIGEST)
    assert fetch_file(asked).read_bytes() == CONTENT
    assert served.log[0][2] == "Bearer hf_secret"


def test_token_stays_with_the_hub(served: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    offer(served)
    fetch_file(wanted(served, home))
    assert served.log[0][2] == ""


def test_protected_address_never_leads_to_an_unprotected_one() -> None:
    class Answer:
        status_code, url = 200, "http://example.org/a"

    with pytest.raises(download._Elsewhere, match="unprotected"):
        download._check_status(Answer(), "https://example.org/a")  # type: ignore[arg-type]


# --- members of archives


def archive(how: int, *, extra: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", how) as target:
        target.writestr("readme.txt", extra or b"hello")
        target.writestr("models/a.onnx", CONTENT[:500_000] + bytes(500_000))
    return stream.getvalue()


MEMBER = CONTENT[:500_000] + bytes(500_000)
MEMBER_DIGEST = hashlib.sha256(MEMBER).hexdigest()


def member(served: Any, home: Path, **values: Any) -> DownloadRequest:
    known: dict[str, Any] = {"sha256": MEMBER_DIGEST, "size": len(MEMBER), "member": "models/a.onnx"} | values
    return DownloadRequest("a.onnx", [served.address + "/pack.zip"], home / "files" / "a.onnx", home, **known)


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("plan", [[], ["fine", "cut"], ["fine", "fine", "fine", "cut", "cut"]])
def test_member_alone_is_fetched(how: int, plan: list[str], served: Any, home: Path) -> None:
    served.files["/pack.zip"] = archive(how, extra=CONTENT)
    served.plan["/pack.zip"] = list(plan)
    assert fetch_file(member(served, home)).read_bytes() == MEMBER
    asked = [[int(n) for n in r.removeprefix("bytes=").split("-")] for r in served.ranges()]
    assert sum(stop - start + 1 for start, stop in asked if stop - start > 70_000) < 2 * len(MEMBER)
    assert not any((home / "partial").iterdir())


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_member_of_an_archive_without_ranges(how: int, served: Any, home: Path) -> None:
    served.files["/pack.zip"] = archive(how)
    served.plan["/pack.zip"] = ["no ranges!"]
    assert fetch_file(member(served, home)).read_bytes() == MEMBER


def test_member_that_is_another(served: Any, home: Path) -> None:
    served.files["/pack.zip"] = archive(zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match=f"SHA-256 {MEMBER_DIGEST} instead of {'0' * 64}"):
        fetch_file(member(served, home, sha256="0" * 64))
    assert not (home / "files" / "a.onnx").exists()


@pytest.mark.parametrize("content", [b"", b"no archive", CONTENT])
def test_archive_that_is_none(content: bytes, served: Any, home: Path) -> None:
    served.files["/pack.zip"] = content
    with pytest.raises(WeightsError, match=r"there is no models/a\.onnx in what it sends"):
        fetch_file(member(served, home))


def test_progress_is_told(served: Any, home: Path) -> None:
    told: list[tuple[int, int | None]] = []
    lock = threading.Lock()

    def note(done: int, total: int | None) -> None:
        with lock:
            told.append((done, total))

    offer(served, ["cut"])
    fetch_file(wanted(served, home, progress=note))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
